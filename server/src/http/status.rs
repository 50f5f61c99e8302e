//! `/healthz`, `/readyz`, `/metrics` and `/api/v1/status`.

use std::{collections::HashMap, fmt::Write, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{App, error::ApiError};
use crate::store::Store;

/// A counter or gauge of the server: its Prometheus name with labels, what it is, and its value.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Figure {
    name: &'static str,
    /// As they are written: `{relay="a",reason="b"}`, or nothing.
    labels: String,
    help: &'static str,
    is_counter: bool,
    value: f64,
}

impl Figure {
    /// Creates a figure that only grows.
    #[must_use]
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, labels: String::new(), help, is_counter: true, value: value as f64 }
    }

    /// Creates a figure that grows and shrinks.
    #[must_use]
    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, labels: String::new(), help, is_counter: false, value }
    }

    /// Adds a label. Figures of one name differ in the values of their labels.
    #[must_use]
    pub fn label(mut self, label: &'static str, value: &str) -> Self {
        let separator = if self.labels.pop().is_some() { ',' } else { '{' };
        // Writing to memory does not fail.
        let _ = write!(self.labels, "{separator}{label}=\"");
        for c in value.chars() {
            match c {
                '\\' | '"' => self.labels.extend(['\\', c]),
                '\n' => self.labels.push_str("\\n"),
                c => self.labels.push(c),
            }
        }
        self.labels.push_str("\"}");
        self
    }
}

/// Answers as long as the process runs.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Answers 503 while writes fail, and while the server is stopping.
pub(super) async fn readyz<S: Store>(
    State(app): State<Arc<App<S>>>,
) -> Result<&'static str, ApiError> {
    if app.stopping.is_cancelled() {
        return Err(ApiError::unavailable("stopping"));
    }
    match app.store.failure() {
        Some(error) => Err(ApiError::unavailable(format!("writes fail: {error}"))),
        None => Ok("ok\n"),
    }
}

/// The figures of the server in Prometheus' text format.
pub(super) async fn metrics<S: Store>(State(app): State<Arc<App<S>>>) -> Response {
    let mut response = prometheus(figures(&app)).into_response();
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// Writes figures in Prometheus' text format, which wants those of one name next to each other.
fn prometheus(mut figures: Vec<Figure>) -> String {
    let mut order = HashMap::new();
    for figure in &figures {
        let next = order.len();
        order.entry(figure.name).or_insert(next);
    }
    figures.sort_by_key(|figure| order.get(figure.name).copied());
    let (mut text, mut last) = (String::new(), "");
    for Figure { name, labels, help, is_counter, value } in figures {
        if name != last {
            let kind = if is_counter { "counter" } else { "gauge" };
            // Writing to memory does not fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        let _ = writeln!(text, "{name}{labels} {value}");
        last = name;
    }
    text
}

/// The same as JSON, for people and the page.
pub(super) async fn status<S: Store>(State(app): State<Arc<App<S>>>) -> Response {
    let figures = figures(&app).into_iter();
    let figures =
        figures.map(|figure| (format!("{}{}", figure.name, figure.labels), figure.value.into()));
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": app.store.failure().is_none() && !app.stopping.is_cancelled(),
        "figures": figures.collect::<Map<String, Value>>(),
    });
    super::json(&status).into_response()
}

fn figures<S: Store>(app: &App<S>) -> Vec<Figure> {
    let http = &app.counters;
    let mut figures = vec![
        Figure::gauge(
            "metrics_uptime_seconds",
            "Time since the HTTP listener was started.",
            app.started.elapsed().as_secs_f64(),
        ),
        Figure::gauge(
            "metrics_http_connections",
            "Open HTTP connections.",
            http.accepted.get().saturating_sub(http.ended.get()) as f64,
        ),
        Figure::counter(
            "metrics_http_connections_rejected_total",
            "HTTP connections that were closed because of a limit.",
            http.rejected.get(),
        ),
        Figure::counter("metrics_http_requests_total", "HTTP requests.", http.requests.get()),
        Figure::gauge(
            "metrics_http_live_viewers",
            "Browsers that watch new points.",
            app.hub.viewers() as f64,
        ),
    ];
    figures.extend(app.figures.iter().flat_map(|figures| figures()));
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_one_name_are_next_to_each_other() {
        let of = |relay: &str| {
            [
                Figure::counter("a_total", "First.", 3).label("relay", relay).label("reason", "x"),
                Figure::gauge("b", "Second.", 0.5).label("relay", relay),
            ]
        };
        let text = prometheus([of("one"), of("t\"w\\o")].concat());
        assert_eq!(
            text,
            "# HELP a_total First.\n# TYPE a_total counter\n\
             a_total{relay=\"one\",reason=\"x\"} 3\na_total{relay=\"t\\\"w\\\\o\",reason=\"x\"} 3\n\
             # HELP b Second.\n# TYPE b gauge\nb{relay=\"one\"} 0.5\nb{relay=\"t\\\"w\\\\o\"} 0.5\n"
        );
    }
}
