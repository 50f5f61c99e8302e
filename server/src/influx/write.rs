//! `/write`, `/api/v2/write`, and what clients ask before they write.

use std::{collections::HashSet, fmt::Write, mem, sync::Arc, time::SystemTime};

use axum::{
    Extension, Router,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use metrics_client::{
    Point,
    codec::{Escaped, KeyRef},
    unix_seconds,
};
use serde_json::json;
use tokio::time::timeout;

use super::line::{LineParser, OmittedFields, Precision, lines};
use crate::{
    http::{App, Figure, body, error::ApiError, params::Params, serve::PeerSource},
    stats::Counter,
    store::{PutBatch, Store},
};

/// What was written.
#[derive(Debug, Default)]
pub(super) struct WriteCounters {
    points: Counter,
    bad_lines: Counter,
    too_old: Counter,
    strings: Counter,
    rounded: Counter,
    merged: Counter,
}

impl WriteCounters {
    pub(super) fn figures(&self) -> Vec<Figure> {
        let Self { points, bad_lines, too_old, strings, rounded, merged } = self;
        let counter = |name, help, counter: &Counter| Figure::counter(name, help, counter.get());
        vec![
            counter(
                "metrics_influx_points_total",
                "Points that were written as line protocol.",
                points,
            ),
            counter(
                "metrics_influx_invalid_lines_total",
                "Lines of the line protocol that could not be read.",
                bad_lines,
            ),
            counter(
                "metrics_influx_rejected_points_total",
                "Points that the store refused, mostly as too old.",
                too_old,
            ),
            counter(
                "metrics_influx_strings_skipped_total",
                "Fields that were skipped because they are strings.",
                strings,
            ),
            counter(
                "metrics_influx_integers_rounded_total",
                "Integers beyond 2^53, stored rounded.",
                rounded,
            ),
            counter(
                "metrics_influx_points_merged_total",
                "Points that replaced one of the same key and second, in one batch, as timestamps were rounded down.",
                merged,
            ),
        ]
    }
}

/// The version whose errors and answers are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Returns the paths of InfluxDB.
pub(super) fn router<S: Store>(counters: Arc<WriteCounters>) -> Router<Arc<App<S>>> {
    Router::new()
        .route("/ping", get(ping))
        .route("/health", get(health))
        .route("/write", post(write_v1::<S>))
        .route("/api/v2/write", post(write_v2::<S>))
        .route("/query", get(query).post(query_form::<S>))
        .layer(Extension(counters))
        .layer(map_response(with_version))
}

/// Adds what clients look for to know that they talk to InfluxDB.
async fn with_version(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(
        VERSION,
        HeaderValue::from_static(concat!("1.8-metrics-", env!("CARGO_PKG_VERSION"))),
    );
    headers
        .insert(HeaderName::from_static("x-influxdb-build"), HeaderValue::from_static("metrics"));
    response
}

const VERSION: HeaderName = HeaderName::from_static("x-influxdb-version");

async fn ping() -> StatusCode {
    StatusCode::NO_CONTENT
}

async fn health() -> impl IntoResponse {
    let health = json!({
        "name": "metrics",
        "message": "ready for writes",
        "status": "pass",
        "checks": [],
        "version": env!("CARGO_PKG_VERSION"),
    });
    ([(header::CONTENT_TYPE, "application/json")], health.to_string())
}

async fn write_v1<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(counters): Extension<Arc<WriteCounters>>,
    source: Option<Extension<PeerSource>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let params = Params::parse(query.as_deref());
    let written = if params.get("db").is_none_or(str::is_empty) {
        Err(ApiError::bad_request("database is required"))
    } else {
        // InfluxDB 1.x takes what it does not know for nanoseconds.
        let precision = params.get("precision").and_then(Precision::parse).unwrap_or_default();
        write(&app, &counters, precision, source.map(|source| source.0), &headers, body).await
    };
    answer(written, Version::V1)
}

async fn write_v2<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(counters): Extension<Arc<WriteCounters>>,
    source: Option<Extension<PeerSource>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let params = Params::parse(query.as_deref());
    let precision = params.get("precision").filter(|text| !text.is_empty());
    let written = match precision.map_or(Some(Precision::default()), Precision::parse) {
        None => Err(ApiError::bad_request("invalid precision: use ns, us, ms or s")),
        Some(precision) => {
            write(&app, &counters, precision, source.map(|source| source.0), &headers, body).await
        }
    };
    answer(written, Version::V2)
}

/// Returns the answer to a write, in the form of the version.
fn answer(written: Result<(), ApiError>, version: Version) -> Response {
    let Err(error) = written else { return StatusCode::NO_CONTENT.into_response() };
    let status = error.status;
    let body = match version {
        Version::V1 => json!({ "error": error.message }),
        Version::V2 => {
            let code = match status {
                StatusCode::BAD_REQUEST => "invalid",
                StatusCode::PAYLOAD_TOO_LARGE => "request too large",
                StatusCode::SERVICE_UNAVAILABLE => "unavailable",
                StatusCode::REQUEST_TIMEOUT => "request timeout",
                StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported media type",
                _ => "internal error",
            };
            json!({ "code": code, "message": error.message })
        }
    };
    let mut response =
        (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response();
    let headers = response.headers_mut();
    if version == Version::V1
        && let Ok(message) = HeaderValue::from_str(&error.message.replace('\n', " "))
    {
        headers.insert(HeaderName::from_static("x-influxdb-error"), message);
    }
    headers.extend(error.header_pair());
    response
}

/// Stores the lines of a body. Lines that are fine are stored beside bad ones.
async fn write<S: Store>(
    app: &App<S>,
    counters: &WriteCounters,
    precision: Precision,
    source: Option<PeerSource>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(), ApiError> {
    let body = body::read(headers, body, &app.limits, &app.body_budget).await?;
    let puts = source.map_or_else(PutBatch::new, |source| PutBatch::from_source(source.0));
    let mut writer = BatchWriter { app, puts, counters, stored: 0, failures: Failures::default() };
    let mut parser = LineParser::default();
    let now = unix_seconds(SystemTime::now());
    let mut since_yield = 0;
    for line in lines(&body.bytes) {
        if let Err(error) = parser.read_line(line, precision, now) {
            writer.failures.add(line, &error);
            counters.bad_lines.add(1);
        }
        while let Some((key, point)) = parser.next_point() {
            writer.put(key, point);
            if writer.puts.len() >= BATCH {
                writer.apply(mem::take(&mut parser.has_rounded)).await?;
            }
        }
        // Lines without a point wait for no store.
        since_yield += line.len() + 1;
        if since_yield >= YIELD_BYTES {
            since_yield = 0;
            tokio::task::yield_now().await;
        }
    }
    writer.apply(parser.has_rounded).await?;
    let OmittedFields { strings, rounded } = parser.omitted;
    counters.strings.add(strings as usize);
    counters.rounded.add(rounded as usize);
    writer.failures.into_result(writer.stored > 0)
}

/// After how many points they are applied: one sync of a disk, and some milliseconds of parsing.
const BATCH: usize = 8192;

/// After how many bytes of lines other tasks of the thread run: some 100 us.
const YIELD_BYTES: usize = 64 * 1024;

/// Collects points, and applies them.
struct BatchWriter<'a, S> {
    app: &'a App<S>,
    counters: &'a WriteCounters,
    puts: PutBatch,
    stored: usize,
    failures: Failures,
}

impl<S: Store> BatchWriter<'_, S> {
    fn put(&mut self, key: &str, point: Point) {
        match KeyRef::new(key) {
            Ok(key) => self.puts.push_ref(key, point),
            // The parser writes no such key.
            Err(error) => self.failures.add(key.as_bytes(), &error),
        }
    }

    /// Applies what was collected. `has_rounded` says that some of it may be of one key and second.
    async fn apply(&mut self, has_rounded: bool) -> Result<(), ApiError> {
        if self.puts.is_empty() {
            return Ok(());
        }
        let merged = if has_rounded { count_merged(&self.puts) } else { 0 };
        let applied =
            timeout(self.app.limits.store_timeout, self.app.store.apply(&self.puts)).await;
        let count = self.puts.len();
        let refused = match applied.map_err(|_| ApiError::store_timeout())? {
            Ok(()) => 0,
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => {
                let errors = (0..count).filter_map(|index| error.of_put(index));
                let (mut refused, mut message) = (0, None);
                for error in errors {
                    refused += 1;
                    message.get_or_insert_with(|| error.to_string());
                }
                self.failures.refuse(refused, message);
                refused
            }
        };
        self.stored += count - refused;
        self.counters.points.add(count - refused);
        self.counters.too_old.add(refused);
        self.counters.merged.add(merged);
        self.puts.clear();
        Ok(())
    }
}

/// Returns how many points have the key and the second of another one of the batch.
fn count_merged(puts: &PutBatch) -> usize {
    let mut seen = HashSet::with_capacity(puts.len());
    puts.iter().filter(|(key, point)| !seen.insert((*key, point.timestamp))).count()
}

/// What was not stored, for the answer.
#[derive(Debug, Default)]
struct Failures {
    lines: usize,
    message: String,
    /// How many points the store refused, and why the first of them.
    refused: usize,
    reason: Option<String>,
}

impl Failures {
    fn add(&mut self, line: &[u8], error: &dyn std::error::Error) {
        self.lines += 1;
        if self.lines <= MAX_MESSAGES {
            let line = String::from_utf8_lossy(&line[..line.len().min(MAX_EXCERPT_BYTES)]);
            let separator = if self.message.is_empty() { "" } else { "\n" };
            // Writing to memory does not fail.
            let _ = write!(
                self.message,
                "{separator}unable to parse '{}': {error}",
                Escaped(line.trim())
            );
        }
    }

    fn refuse(&mut self, points: usize, reason: Option<String>) {
        self.refused += points;
        self.reason = self.reason.take().or(reason);
    }

    /// Returns the error of the request, in the words of influxd.
    fn into_result(mut self, is_some_stored: bool) -> Result<(), ApiError> {
        if self.lines == 0 && self.refused == 0 {
            return Ok(());
        }
        if self.lines > MAX_MESSAGES {
            let _ = write!(self.message, "\nand {} more lines", self.lines - MAX_MESSAGES);
        }
        if let Some(reason) = &self.reason {
            let separator = if self.message.is_empty() { "" } else { "\n" };
            // Agents look for these words, and drop what they sent.
            let _ = write!(self.message, "{separator}points beyond retention policy: {reason}");
        }
        if is_some_stored || self.refused > 0 {
            let message = self.message;
            self.message = format!("partial write: {message} dropped={}", self.refused);
        }
        Err(ApiError::bad_request(self.message))
    }
}

/// How many bad lines an answer names.
const MAX_MESSAGES: usize = 10;

/// How much of a bad line is looked at for the answer, which shows less.
const MAX_EXCERPT_BYTES: usize = 1024;

async fn query(RawQuery(query): RawQuery) -> Response {
    answer_query(Params::parse(query.as_deref()).get("q"))
}

async fn query_form<S: Store>(
    State(app): State<Arc<App<S>>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if let Some(statement) = Params::parse(query.as_deref()).get("q") {
        return answer_query(Some(statement));
    }
    let body = match body::read(&headers, body, &app.limits, &app.body_budget).await {
        Ok(body) => body,
        Err(error) => return answer(Err(error), Version::V1),
    };
    answer_query(Params::parse(str::from_utf8(&body.bytes).ok()).get("q"))
}

/// Answers the two statements with which clients begin.
fn answer_query(statement: Option<&str>) -> Response {
    let Some(statement) = statement else {
        return answer(Err(ApiError::bad_request("missing required parameter \"q\"")), Version::V1);
    };
    let words: Vec<_> = statement.split_whitespace().map(str::to_ascii_lowercase).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let results = match *words {
        ["create", "database", ..] => json!({ "results": [{ "statement_id": 0 }] }),
        ["show", "databases" | "databases;"] => json!({ "results": [{
            "statement_id": 0,
            "series": [{ "name": "databases", "columns": ["name"], "values": [["metrics"]] }],
        }] }),
        _ => {
            let message = "only CREATE DATABASE and SHOW DATABASES are understood: read points with \
                           /api/v1/points, or with `get` of the metrics protocol";
            return answer(Err(ApiError::bad_request(message)), Version::V1);
        }
    };
    ([(header::CONTENT_TYPE, "application/json")], results.to_string()).into_response()
}
