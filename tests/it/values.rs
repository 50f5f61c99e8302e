//! What users of other clients try first: every kind of key, selector, value and timestamp.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use metrics_client::{
    IntoKey, IntoSelector, Key, Metrics, MetricsClient, Point, Reporter, Sample, Selector,
    codec::{KeyRef, Request},
    error::InvalidKey,
    unix_seconds,
};

use crate::peer::Peer;

/// A client and its scripted peer.
fn connected() -> (MetricsClient, Peer) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    (MetricsClient::from_io(near), Peer::on(far))
}

#[test]
fn key_argument_is_any_text_or_key() {
    fn key(key: impl IntoKey) -> Result<Key, InvalidKey> {
        key.into_key()
    }
    let valid = Key::new("palm.cpu").unwrap();
    for converted in [
        key("palm.cpu"),
        key("palm.cpu"),
        key(String::from("palm.cpu")),
        key(String::from("palm.cpu")),
        key(Cow::Borrowed("palm.cpu")),
        key(Cow::Borrowed("palm.cpu")),
        key(Box::<str>::from("palm.cpu")),
        key(Arc::<str>::from("palm.cpu")),
        key(&valid),
        key(valid.clone()),
        key(KeyRef::from(&valid)),
    ] {
        assert_eq!(converted, Ok(valid.clone()));
    }
    assert_eq!(key(("cpu", [("host", "palm")])).unwrap(), "cpu;host=palm");
    assert_eq!(key((String::from("cpu"), vec![("b", "2"), ("a", "1")])).unwrap(), "cpu;a=1;b=2");
    assert!(key("palm cpu").is_err());
    assert!(key(String::from("*")).is_err());
    assert!(key(("", [("", ""); 0])).is_err());
}

#[test]
fn selector_argument_is_any_key_or_star() {
    fn selector(selector: impl IntoSelector) -> Selector {
        selector.into_selector().unwrap()
    }
    let key = Key::new("palm.cpu").unwrap();
    let one = Selector::Key(key.clone());
    for converted in [
        selector("palm.cpu"),
        selector("palm.cpu"),
        selector(String::from("palm.cpu")),
        selector(Cow::Borrowed("palm.cpu")),
        selector(Box::<str>::from("palm.cpu")),
        selector(&key),
        selector(key),
        selector(&one),
        "palm.cpu".parse().unwrap(),
    ] {
        assert_eq!(converted, one);
    }
    for all in [selector("*"), selector(String::from("*")), selector(&Selector::All)] {
        assert_eq!(all, Selector::All);
    }
    assert_eq!(selector(("cpu", [("host", "palm")])).as_ref(), "cpu;host=palm");
    assert!("".into_selector().is_err());
}

#[test]
fn key_converts_to_and_from_strings() {
    let key = Key::new("palm.cpu").unwrap();
    assert_eq!("palm.cpu".parse(), Ok(key.clone()));
    assert_eq!(Key::try_from("palm.cpu"), Ok(key.clone()));
    assert_eq!(Key::try_from(String::from("palm.cpu")), Ok(key.clone()));
    assert_eq!(Key::try_from(Cow::Borrowed("palm.cpu")), Ok(key.clone()));
    assert_eq!(Key::try_from(Box::<str>::from("palm.cpu")), Ok(key.clone()));
    assert_eq!(Key::try_from(Arc::<str>::from("palm.cpu")), Ok(key.clone()));
    assert_eq!(String::from(&key), "palm.cpu");
    assert_eq!(String::from(key.clone()), "palm.cpu");
    assert_eq!(&*Arc::<str>::from(key.clone()), "palm.cpu");
    assert_eq!(key, "palm.cpu");
    assert_eq!(key, String::from("palm.cpu"));
    assert_eq!("palm.cpu", key);
    assert_eq!(String::from("palm.cpu"), key);
    assert!(Key::try_from(Arc::<str>::from("palm cpu")).is_err());
}

#[test]
fn values_are_integers_too() {
    assert_eq!(Point::new(5, 7).value, 5.0);
    assert_eq!(Point::new(5u8, 7), Point::new(5.0f32, 7));
    assert_eq!(Sample::new("a", u32::MAX, 7).unwrap().point.value, 4_294_967_295.0);
    assert_eq!(Request::put("a", 5, 7).unwrap().to_string(), "put a 5.0 7");
}

#[test]
fn samples_convert_from_tuples_and_text() {
    let sample = Sample::new("palm.cpu", 23.7, 1150864247).unwrap();
    assert_eq!(Sample::try_from(("palm.cpu", 23.7, 1150864247)), Ok(sample.clone()));
    assert_eq!(Sample::from((sample.key.clone(), sample.point)), sample);
    assert_eq!(<(Key, Point)>::from(sample.clone()), (sample.key.clone(), sample.point));
    assert_eq!(sample.to_string().parse(), Ok(sample));
    for text in ["", "palm.cpu", "palm.cpu 23.7", "palm.cpu x 1", "* 1 1", "a 1 1\n", "a 1 1 1"] {
        assert!(text.parse::<Sample>().is_err(), "{text:?}");
    }
    let rows = [("a", 1.0, 1), ("b", 2.0, 2)];
    let samples: Result<Vec<_>, _> = rows.into_iter().map(Sample::try_from).collect();
    assert_eq!(samples.unwrap().len(), 2);
}

#[test]
fn points_are_ordered_by_time() {
    assert!(Point::new(9.0, 1) < Point::new(1.0, 2));
    assert!(Point::new(1.0, 2) < Point::new(9.0, 2));
    assert_eq!(Point::new(f64::NAN, 1).partial_cmp(&Point::new(f64::NAN, 1)), None);
    assert_eq!(Point::from((0.5, 7)), Point::new(0.5, 7));
}

#[test]
fn metrics_are_read_like_a_map() {
    let samples = (0..10).map(|second| Sample::new("a", second as f64, second).unwrap());
    let metrics: Metrics = samples.chain([Sample::new("b", 0.5, 3).unwrap()]).collect();
    let key = Key::new("a").unwrap();
    assert_eq!(metrics["b"], [Point::new(0.5, 3)]);
    assert_eq!(metrics[&key].len(), 10);
    assert_eq!(metrics.get("c"), None);
    assert!(metrics.contains_key(&key) && !metrics.contains_key("c"));
    let seconds = |points: &[Point]| points.iter().map(|point| point.timestamp).collect::<Vec<_>>();
    assert_eq!(seconds(metrics.range(&key, 3..5)), [3, 4]);
    assert_eq!(seconds(metrics.range("a", 8..=9)), [8, 9]);
    assert_eq!(seconds(metrics.range("a", ..1)), [0]);
    assert_eq!(metrics.range("a", ..).len(), 10);
    assert_eq!(metrics.range("a", 10..), []);
    assert_eq!(metrics.range("c", ..), []);
    assert_eq!(metrics.values().map(<[Point]>::len).collect::<Vec<_>>(), [10, 1]);
    assert_eq!(metrics.clone().into_points("a").len(), 10);
    assert_eq!(metrics.clone().into_points("c"), []);
    let again: Metrics = metrics.clone().into_samples().collect();
    assert_eq!(again, metrics);
}

#[test]
fn labels_of_a_key_are_found_by_name() {
    let key = ("http.requests", [("route", "/a b"), ("method", "GET")]).into_key().unwrap();
    let labels = key.labels();
    assert_eq!(labels.name(), "http.requests");
    assert_eq!(labels.label("route"), Some("/a b"));
    assert_eq!(labels.label("host"), None);
    assert_eq!(labels.labels().collect::<Vec<_>>(), [("method", "GET"), ("route", "/a b")]);
}

#[tokio::test]
async fn put_and_get_take_every_kind_of_argument() {
    let (client, mut peer) = connected();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
    let key = Key::new("a").unwrap();
    let calls = async {
        client.put_at(&key, 1, unix_seconds(time)).await.unwrap();
        client.put_at(String::from("a"), 2u8, 7).await.unwrap();
        client.put_at(("a", [("b", "c")]), 0.5f32, 7).await.unwrap();
        client.get(&Selector::Key(key.clone())).await.unwrap();
        client.get(&key).await.unwrap();
        client.get(Cow::Borrowed("*")).await.unwrap();
    };
    let answers = async {
        for request in ["put a 1.0 7", "put a 2.0 7", "put a;b=c 0.5 7", "get a", "get a", "get *"]
        {
            peer.answer(&format!("{request}\n"), "ok\n\n").await;
        }
    };
    tokio::join!(calls, answers);
}

#[tokio::test]
async fn put_of_any_argument_can_be_spawned() {
    fn spawnable<T: Send>(future: T) -> T {
        future
    }
    let (client, _peer) = connected();
    let (text, key) = (String::from("a"), Key::new("a").unwrap());
    drop(spawnable(client.put(&text, 1)));
    drop(spawnable(client.put(text.as_str(), 1)));
    drop(spawnable(client.put(&key, 1)));
    drop(spawnable(client.put(key.clone(), 1)));
    drop(spawnable(client.put((text.clone(), [("b", "c")]), 1)));
    drop(spawnable(client.get(&text)));
    let owned = client;
    drop(spawnable(async move { owned.put(&key, 1).await }));
}

#[tokio::test]
async fn reporter_records_every_kind_of_argument() {
    let (client, _peer) = connected();
    let reporter = Reporter::new(client);
    let key = Key::new("a").unwrap();
    reporter.record("a", 1);
    reporter.record(&key, 2u8);
    reporter.record_at(("a", [("b", "c")]), 3, unix_seconds(SystemTime::now()));
    reporter.series(key).unwrap().record(4);
    reporter.record("a b", 5);
    let stats = reporter.stats();
    assert_eq!((stats.recorded, stats.dropped.invalid_key), (5, 1));
}
