//! `/healthz`, `/readyz`, `/metrics` and `/api/v1/status`.

use std::{fmt::Write, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{App, error::ApiError};
use crate::store::Store;

/// A counter or gauge of the server: its Prometheus name, what it is, and its value.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Figure {
    name: &'static str,
    help: &'static str,
    is_counter: bool,
    value: f64,
}

impl Figure {
    /// Creates a figure that only grows.
    #[must_use]
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, is_counter: true, value: value as f64 }
    }

    /// Creates a figure that grows and shrinks.
    #[must_use]
    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, is_counter: false, value }
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
    let mut text = String::new();
    for Figure { name, help, is_counter, value } in figures(&app) {
        let kind = if is_counter { "counter" } else { "gauge" };
        // Writing to memory does not fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
    let mut response = text.into_response();
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// The same as JSON, for people and the page.
pub(super) async fn status<S: Store>(State(app): State<Arc<App<S>>>) -> Response {
    let figures = figures(&app).into_iter().map(|figure| (figure.name.into(), figure.value.into()));
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
