//! `/api/v1/points`: the points of keys, streamed.

use std::{ops::RangeInclusive, sync::Arc, time::SystemTime, vec};

use axum::{
    body::{Body, Bytes},
    extract::{RawQuery, State},
    http::{HeaderValue, header},
    response::Response,
};
use futures_util::{StreamExt, stream};
use metrics_client::{Key, Point, Selector, unix_seconds};
use tokio::time::timeout;

use super::{
    App,
    consolidate::{Consolidator, PointAggregate},
    error::{ApiError, slow_store_message},
    params::Params,
    time,
};
use crate::store::{KeyPattern, RangeSnapshot, Snapshot, Store, StoreError};

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
}

pub(super) async fn points<S: Store>(
    State(app): State<Arc<App<S>>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let params = Params::parse(query.as_deref());
    params.expect(&["key", "match", "from", "until", "max", "agg", "format"])?;
    let format = match params.get("format") {
        None | Some("json") => Format::Json,
        Some("csv") => Format::Csv,
        Some(format) => {
            let message = format!("invalid format {format:?}: expected json or csv");
            return Err(ApiError::bad_request(message));
        }
    };
    let aggregation = match params.get("agg") {
        None => PointAggregate::default(),
        Some(name) => PointAggregate::parse(name).ok_or_else(|| {
            let names = PointAggregate::NAMES.join(", ");
            ApiError::bad_request(format!("invalid agg {name:?}: expected one of {names}"))
        })?,
    };
    let (from, until) = (second(&params, "from")?, second(&params, "until")?);
    let span = from.zip(until).and_then(|(from, until)| until.checked_sub(from)?.checked_add(1));
    let max = params.parsed::<usize>("max")?;
    let (keys, is_truncated) = {
        let _permit = app.admit_read().await?;
        keys(&app, &params).await?
    };
    let mut writer = PointsWriter {
        keys: keys.into_iter(),
        seconds: from.unwrap_or(i64::MIN)..=until.unwrap_or(i64::MAX),
        consolidator: max.map(|max| Consolidator::new(max, aggregation, span)),
        span,
        points_left: app.limits.max_points,
        format,
        is_truncated,
        buffer: Vec::new(),
        state: WriteProgress::Begin,
        app,
    };
    // Until the first piece is read, an error can be answered; then all that can be done is to end the answer early.
    let first = writer.next_piece().await?.unwrap_or_default();
    let rest = stream::try_unfold(writer, |mut writer| async {
        // A connection that takes many pieces at once would keep the thread from the peers of the protocol.
        tokio::task::yield_now().await;
        let piece = writer.next_piece().await;
        piece.map(|piece| piece.map(|piece| (piece, writer)))
    });
    let pieces = stream::once(async { Ok::<_, StoreError>(first) }).chain(rest);
    let mut response = Response::new(Body::from_stream(pieces));
    let content_type = match format {
        Format::Json => "application/json",
        Format::Csv => "text/csv; charset=utf-8",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn second(params: &Params<'_>, name: &str) -> Result<Option<i64>, ApiError> {
    let Some(text) = params.get(name) else { return Ok(None) };
    let invalid = || {
        let expected = "expected seconds since 1970, now, or a time such as -6h";
        ApiError::bad_request(format!("invalid {name} {text:?}: {expected}"))
    };
    time::parse(text, unix_seconds(SystemTime::now())).map(Some).ok_or_else(invalid)
}

/// Returns the keys that are asked for, and true if there were more than an answer may have.
async fn keys<S: Store>(app: &App<S>, params: &Params<'_>) -> Result<(Vec<Key>, bool), ApiError> {
    let mut keys = Vec::new();
    for text in params.all("key") {
        keys.push(Key::new(text).map_err(|error| ApiError::bad_request(error.to_string()))?);
    }
    let mut is_truncated = keys.len() > app.limits.max_keys;
    for pattern in params.all("match") {
        let matching = app.keys(&KeyPattern::new(pattern)).await?;
        let room = app.limits.max_keys.saturating_sub(keys.len());
        is_truncated |= matching.len() > room;
        keys.extend(matching.into_iter().take(room));
    }
    if keys.is_empty() && params.all("match").next().is_none() {
        return Err(ApiError::bad_request("no key: add key=KEY or match=PATTERN"));
    }
    keys.truncate(app.limits.max_keys);
    Ok((keys, is_truncated))
}

/// Writes an answer piece by piece.
struct PointsWriter<S: Store> {
    app: Arc<App<S>>,
    keys: vec::IntoIter<Key>,
    seconds: RangeInclusive<i64>,
    /// Merges the points of one key; `None` if all are wanted.
    consolidator: Option<Consolidator>,
    span: Option<i64>,
    points_left: usize,
    format: Format,
    is_truncated: bool,
    buffer: Vec<u8>,
    state: WriteProgress<S>,
}

/// How far a [`PointsWriter`] is.
enum WriteProgress<S: Store> {
    Begin,
    /// In the points of a key.
    Series {
        key: Key,
        snapshot: RangeSnapshot<S::Snapshot>,
        count: usize,
    },
    /// Behind a key.
    Between,
    End,
}

impl<S: Store> PointsWriter<S> {
    /// Returns the next piece; `None` at the end.
    async fn next_piece(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.buffer.len() < PIECE_BYTES {
            match std::mem::replace(&mut self.state, WriteProgress::End) {
                WriteProgress::Begin => {
                    self.buffer.extend_from_slice(match self.format {
                        Format::Json => b"{\"series\":[",
                        Format::Csv => b"key,timestamp,value\n",
                    });
                    self.begin_series(true).await?;
                }
                WriteProgress::Between => self.begin_series(false).await?,
                WriteProgress::Series { key, mut snapshot, mut count } => {
                    let next = timeout(self.app.limits.store_timeout, snapshot.next_block());
                    let block = next.await.map_err(|_| slow_store())??;
                    match block {
                        Some(block) if self.points_left > 0 => {
                            let points = block.points;
                            // Points that are merged make no piece for long.
                            tokio::task::coop::consume_budget().await;
                            let is_over = match &mut self.consolidator {
                                Some(consolidator) => {
                                    points.iter().for_each(|&point| consolidator.add(point));
                                    false
                                }
                                None => {
                                    let len = points.len().min(self.points_left);
                                    write_points(
                                        self.format,
                                        &mut self.buffer,
                                        &key,
                                        &points[..len],
                                        count,
                                    );
                                    self.points_left -= len;
                                    count += len;
                                    len < points.len()
                                }
                            };
                            self.is_truncated |= is_over;
                            self.state = WriteProgress::Series { key, snapshot, count };
                        }
                        rest => {
                            self.is_truncated |= rest.is_some();
                            self.end_series(&key, count);
                            self.state = WriteProgress::Between;
                        }
                    }
                }
                WriteProgress::End => break,
            }
        }
        let piece = std::mem::take(&mut self.buffer);
        Ok((!piece.is_empty()).then(|| piece.into()))
    }

    async fn begin_series(&mut self, is_first: bool) -> Result<(), StoreError> {
        let next = if self.points_left > 0 { self.keys.next() } else { None };
        let Some(key) = next else {
            self.is_truncated |= self.keys.len() > 0;
            if self.format == Format::Json {
                let end = format!("],\"truncated\":{}}}\n", self.is_truncated);
                self.buffer.extend_from_slice(end.as_bytes());
            }
            return Ok(());
        };
        if self.format == Format::Json {
            self.buffer.extend_from_slice(if is_first { b"{\"key\":" } else { b",{\"key\":" });
            write_json_text(&mut self.buffer, key.as_str());
            self.buffer.extend_from_slice(b",\"points\":[");
        }
        if let Some(consolidator) = &mut self.consolidator {
            // Each series has a width of its own.
            *consolidator = consolidator.new_for(self.span);
        }
        let selector = Selector::Key(key.clone());
        let snapshot = self.app.store.get_range(&selector, self.seconds.clone());
        let snapshot =
            timeout(self.app.limits.store_timeout, snapshot).await.map_err(|_| slow_store())??;
        self.state = WriteProgress::Series { key, snapshot, count: 0 };
        Ok(())
    }

    fn end_series(&mut self, key: &Key, count: usize) {
        if let Some(consolidator) = &mut self.consolidator {
            let mut points: Vec<_> = consolidator.take().collect();
            if points.len() > self.points_left {
                points.truncate(self.points_left);
                self.is_truncated = true;
            }
            self.points_left -= points.len();
            write_points(self.format, &mut self.buffer, key, &points, count);
        }
        if self.format == Format::Json {
            self.buffer.extend_from_slice(b"]}");
        }
    }
}

fn slow_store() -> StoreError {
    StoreError::transient(slow_store_message())
}

/// How long a piece of an answer is at least, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// Writes points of a key, of which `before` are written.
fn write_points(format: Format, buffer: &mut Vec<u8>, key: &Key, points: &[Point], before: usize) {
    let mut key_text = String::new();
    if format == Format::Csv {
        key_text = csv_text(key.as_str());
    }
    buffer.reserve(points.len() * (key_text.len() + 24));
    let (mut seconds, mut values) = (itoa::Buffer::new(), zmij::Buffer::new());
    for (index, point) in points.iter().enumerate() {
        match format {
            Format::Json => buffer.extend_from_slice(if before + index > 0 { b",[" } else { b"[" }),
            Format::Csv => {
                buffer.extend_from_slice(key_text.as_bytes());
                buffer.push(b',');
            }
        }
        buffer.extend_from_slice(seconds.format(point.timestamp).as_bytes());
        buffer.push(b',');
        buffer.extend_from_slice(values.format_finite(point.value).as_bytes());
        buffer.push(if format == Format::Json { b']' } else { b'\n' });
    }
}

/// Writes a text as JSON.
pub(super) fn write_json_text(buffer: &mut Vec<u8>, text: &str) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(buffer, text);
}

/// Returns a text as a field of CSV (RFC 4180).
fn csv_text(text: &str) -> String {
    if text.contains(['"', ',']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}
