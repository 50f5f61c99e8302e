//! `--http-limit NAME=N`: limits of HTTP by the names that its errors say.

use std::{str::FromStr, time::Duration};

use metrics_server::{graphite::RenderLimits, http::HttpLimits};

/// A limit that is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpLimit {
    set: SetLimit,
    to: usize,
}

#[derive(Clone, Copy, Debug)]
enum SetLimit {
    Http(fn(HttpLimits, usize) -> HttpLimits),
    Render(fn(RenderLimits, usize) -> RenderLimits),
}

use SetLimit::{Http, Render};

/// The names are those of the methods. Times are in seconds.
const LIMITS: [(&str, SetLimit); 22] = [
    ("max_connections", Http(HttpLimits::max_connections)),
    ("max_connections_per_address", Http(HttpLimits::max_connections_per_address)),
    ("header_timeout", Http(|limits, time| limits.header_timeout(seconds(time)))),
    ("body_timeout", Http(|limits, time| limits.body_timeout(seconds(time)))),
    ("write_timeout", Http(|limits, time| limits.write_timeout(seconds(time)))),
    ("store_timeout", Http(|limits, time| limits.store_timeout(seconds(time)))),
    ("max_body_bytes", Http(HttpLimits::max_body_bytes)),
    ("max_total_body_bytes", Http(HttpLimits::max_total_body_bytes)),
    ("max_keys", Http(HttpLimits::max_keys)),
    ("max_points", Http(HttpLimits::max_points)),
    ("max_reads", Http(HttpLimits::max_reads)),
    ("max_live_streams", Http(HttpLimits::max_live_streams)),
    ("max_live_keys", Http(HttpLimits::max_live_keys)),
    ("render_max_series", Render(RenderLimits::max_series)),
    ("render_max_points", Render(RenderLimits::max_points)),
    ("render_max_total_points", Render(RenderLimits::max_total_points)),
    ("render_max_concurrent", Render(RenderLimits::max_concurrent)),
    ("render_max_work", Render(RenderLimits::max_work)),
    ("render_max_target_bytes", Render(RenderLimits::max_target_bytes)),
    ("render_max_targets", Render(RenderLimits::max_targets)),
    ("render_max_depth", Render(RenderLimits::max_depth)),
    ("render_timeout", Render(|limits, time| limits.timeout(seconds(time)))),
];

fn seconds(count: usize) -> Duration {
    Duration::from_secs(count as u64)
}

impl FromStr for HttpLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) =
            text.split_once('=').ok_or("expected NAME=N, such as max_keys=20000")?;
        let to = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
        let known = LIMITS.iter().find(|(known, _)| *known == name);
        let &(_, set) = known.ok_or_else(|| {
            let names: Vec<_> = LIMITS.iter().map(|(name, _)| *name).collect();
            format!("unknown limit {name:?}: expected one of {}", names.join(", "))
        })?;
        Ok(Self { set, to })
    }
}

/// Returns the default limits with those that are set.
pub(crate) fn limits(set: &[HttpLimit]) -> (HttpLimits, RenderLimits) {
    let defaults = (HttpLimits::default(), RenderLimits::default());
    set.iter().fold(defaults, |(http, render), limit| match limit.set {
        Http(set) => (set(http, limit.to), render),
        Render(set) => (http, set(render, limit.to)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_by_name() {
        let set =
            ["max_keys=3", "render_timeout=7", "max_keys=4"].map(|text| text.parse().unwrap());
        let (http, render) = limits(&set);
        assert_eq!(http, HttpLimits::default().max_keys(4));
        assert_eq!(render, RenderLimits::default().timeout(Duration::from_secs(7)));
        for (text, reason) in [
            ("max_keys", "expected NAME=N"),
            ("max_keys=many", "\"many\" is not a number"),
            ("max_key=3", "unknown limit \"max_key\": expected one of max_connections, "),
        ] {
            let error = text.parse::<HttpLimit>().unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
