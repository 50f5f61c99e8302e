//! Answers that graphite-web 1.1.8 gave, replayed: `tests/data/graphite/graphite-web-1.1.8-answers.txt`.

use metrics_server::graphite::{
    autocomplete_tags, autocomplete_values, expand, find_completions, find_tree, index, list_tags,
};
use serde_json::Value;

use super::{answer, difference, store_of};

const ANSWERS: &str = include_str!("../../data/graphite/graphite-web-1.1.8-answers.txt");

/// A second at which no answer shows a point.
const NOW: i64 = 1_795_765_617;

/// The points of which some answers show averages. As recorded, each average begins a second before its timestamp.
fn points() -> Vec<(i64, f64)> {
    let averages = [23.05, 22.25, 24.25, 23.45, 22.65, 24.25];
    let seconds = (1_795_765_018..1_795_765_050).map(|second| {
        let index = usize::try_from((second - 1_795_765_019).max(0) / 5).unwrap();
        (second, averages[index.min(5)])
    });
    seconds.collect()
}

/// Returns the parameters of a recorded request: those of the address, and the data.
fn params(request: &str) -> Vec<(String, String)> {
    let mut params = Vec::new();
    let mut words = request.trim().trim_start_matches("-X POST ").splitn(2, ' ');
    let address = words.next().unwrap();
    let data = words.next().unwrap_or_default();
    let query = address.split_once('?').map_or("", |(_, query)| query);
    let data = data.split("-d ").flat_map(|part| part.split("--data-urlencode "));
    for pair in query.split('&').chain(data) {
        if let Some((name, value)) = pair.trim().split_once('=') {
            params.push((name.into(), value.into()));
        }
    }
    params
}

#[tokio::test]
async fn recorded_answers_are_given_again() {
    let keys = ["palm.a.cpu", "palm.a.mem", "palm.b.cpu", "palm.b.mem"];
    let store = store_of(keys.map(|key| (key, points()))).await;
    let mut replayed = 0;
    for recorded in ANSWERS.split("## ").skip(1) {
        let (request, rest) = recorded.split_once('\n').unwrap();
        let (body, status) = rest.trim_end().rsplit_once('\n').unwrap();
        let body = body.trim_end_matches('\n');
        let params = params(request);
        let param = |name: &str| {
            let found = params.iter().find(|(param, _)| param == name);
            found.map_or("", |(_, value)| value.as_str())
        };
        let json = |value: &dyn erased::Json| value.json();
        let path = request.split("18080").nth(1).unwrap();
        let path = path.split(['?', ' ']).next().unwrap();
        let got: Value = match path {
            "/render" => {
                let mut params: Vec<_> =
                    params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                if param("target").contains("nosuch(") {
                    let error = answer(&store, &params, NOW).await.unwrap_err();
                    assert!(status.starts_with("[400") && error.is_request());
                    assert_eq!(error.to_string(), "unknown function: nosuch");
                    replayed += 1;
                    continue;
                }
                if param("target") == "sumSeries(palm.*.cpu" {
                    // graphite-web takes what it can parse for the target, and finds nothing.
                    let error = answer(&store, &params, NOW).await.unwrap_err();
                    assert_eq!(error.to_string(), "invalid target at byte 20: expected `,` or `)`");
                    replayed += 1;
                    continue;
                }
                // The recording was made in the course of a minute.
                let first = body.split("], ").next().and_then(|text| text.split(", 17957").nth(1));
                let now = match (param("format"), param("from")) {
                    ("json", "-30s") | ("raw", _) | ("csv", _) => 1_795_765_616,
                    (_, "-10min") => 1_795_765_045 + 570,
                    _ => NOW,
                };
                assert!(first.is_some() || !body.contains("17957") || body.contains("|"), "{body}");
                if !params.iter().any(|(name, _)| *name == "format") {
                    params.push(("format", "json"));
                }
                let got = String::from_utf8(answer(&store, &params, now).await.unwrap()).unwrap();
                if param("format") != "json" || !param("jsonp").is_empty() {
                    assert_eq!(got.trim_end(), body.trim_end(), "{request}");
                    replayed += 1;
                    continue;
                }
                serde_json::from_str(&got).unwrap()
            }
            "/metrics/find" if param("format") == "completer" => {
                json(&find_completions(&store, param("query"), false).await.unwrap())
            }
            "/metrics/find" => json(&find_tree(&store, param("query"), false).await.unwrap()),
            "/metrics/expand" => {
                let by_pattern = param("groupByExpr") == "1";
                let leaves = param("leavesOnly") == "1";
                let patterns = [param("query").to_owned()];
                json(&expand(&store, &patterns, by_pattern, leaves).await.unwrap())
            }
            "/metrics/index.json" => json(&index(&store).await.unwrap()),
            "/tags" => json(&list_tags(&store).await.unwrap()),
            "/tags/autoComplete/tags" => {
                let prefix = param("tagPrefix");
                json(&autocomplete_tags(&store, &[], prefix, 10).await.unwrap())
            }
            "/tags/autoComplete/values" => {
                let exprs = ["name=cpu".to_owned()];
                json(&autocomplete_values(&store, &exprs, param("tag"), "", 10).await.unwrap())
            }
            // Answered by the HTTP API alone; `/functions` failed when it was recorded.
            "/version"
            | "/version/"
            | "/functions"
            | "/functions/constantLine"
            | "/events/get_data" => continue,
            path => panic!("unexpected path {path}"),
        };
        let expected: Value = serde_json::from_str(body).unwrap();
        if let Some(difference) = difference(&expected, &got, "") {
            panic!("{request}: recorded and new answer differ at {difference}");
        }
        replayed += 1;
    }
    assert_eq!(replayed, 21);
}

mod erased {
    //! Answers of different types as JSON.

    pub(super) trait Json {
        fn json(&self) -> serde_json::Value;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap()
        }
    }
}
