//! Writes series as JSON, CSV and raw data, as graphite-web does, piece by piece.

use std::vec;

use jiff::{Timestamp, tz::TimeZone};
use metrics_client::internal::number::{
    MAX_TIMESTAMP_LEN, MAX_VALUE_LEN, write_timestamp, write_value,
};

use super::{RenderFormat, RenderRequest, Series, limits::PointsCharge};

impl RenderRequest {
    /// Writes the series that [`render`](super::render) has returned, in the form that the request asks for.
    #[must_use]
    pub fn write(&self, series: Vec<Series>) -> Vec<u8> {
        let mut writer = AnswerWriter::new(self, series, None);
        let mut out = writer.next_piece().unwrap_or_default();
        while let Some(piece) = writer.next_piece() {
            out.extend_from_slice(&piece);
        }
        out
    }

    /// Returns the content type of the answer.
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        match (self.format, &self.jsonp) {
            (RenderFormat::Json, Some(_)) => "text/javascript",
            (format, _) => format.content_type(),
        }
    }
}

/// Writes an answer in pieces, so that no more than the values and one piece are in memory.
#[derive(Debug)]
pub(super) struct AnswerWriter {
    format: RenderFormat,
    tz: TimeZone,
    max_data_points: Option<usize>,
    no_null_points: bool,
    jsonp: Option<String>,
    /// The seconds from the first start to the last end.
    time_range: i64,
    series: vec::IntoIter<Series>,
    current: Option<CurrentSeries>,
    /// How many series have begun.
    begun: usize,
    is_over: bool,
    /// Held as long as there are points.
    _charge: Option<PointsCharge>,
}

/// The series that is being written.
#[derive(Debug)]
struct CurrentSeries {
    /// The name, as it is repeated in each row of CSV.
    name: Vec<u8>,
    values: Vec<f64>,
    /// The second of the first value, and the seconds between two.
    start: i64,
    step: i64,
    /// How many values were written or skipped, and how many there are rows for.
    index: usize,
    len: usize,
    is_first_row: bool,
}

impl AnswerWriter {
    pub(super) fn new(
        request: &RenderRequest,
        series: Vec<Series>,
        charge: Option<PointsCharge>,
    ) -> Self {
        let start = series.iter().map(|series| series.start).min().unwrap_or(0);
        let end = series.iter().map(|series| series.end).max().unwrap_or(0);
        Self {
            format: request.format,
            tz: request.tz.clone(),
            max_data_points: request.max_data_points,
            no_null_points: request.no_null_points,
            jsonp: request.jsonp.clone(),
            time_range: end - start,
            series: series.into_iter(),
            current: None,
            begun: 0,
            is_over: false,
            _charge: charge,
        }
    }

    /// Returns the next piece; `None` at the end.
    pub(super) fn next_piece(&mut self) -> Option<Vec<u8>> {
        if self.is_over {
            return None;
        }
        let mut out = Vec::with_capacity(PIECE_BYTES + ROW_BYTES);
        if self.begun == 0 && self.current.is_none() {
            self.begin(&mut out);
        }
        while out.len() < PIECE_BYTES {
            if let Some(current) = &mut self.current {
                match self.format {
                    RenderFormat::Json => current.write_json(&mut out, self.no_null_points),
                    RenderFormat::Csv => current.write_csv(&mut out, &self.tz),
                    RenderFormat::Raw => current.write_raw(&mut out),
                }
                if current.index < current.len {
                    break;
                }
                self.end_series(&mut out);
            } else if let Some(series) = self.series.next() {
                self.begin_series(&mut out, series);
            } else {
                self.end(&mut out);
                break;
            }
        }
        Some(out)
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if self.format != RenderFormat::Json {
            return;
        }
        if let Some(function) = &self.jsonp {
            out.extend_from_slice(function.as_bytes());
            out.push(b'(');
        }
        out.push(b'[');
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.format == RenderFormat::Json {
            out.push(b']');
            if self.jsonp.is_some() {
                out.push(b')');
            }
        }
        self.is_over = true;
    }

    fn begin_series(&mut self, out: &mut Vec<u8>, mut series: Series) {
        let mut current = CurrentSeries {
            name: Vec::new(),
            values: Vec::new(),
            start: series.start,
            step: series.step.max(1),
            index: 0,
            len: series.values.len(),
            is_first_row: true,
        };
        match self.format {
            RenderFormat::Json => {
                let count = self
                    .max_data_points
                    .map_or(1, |max| consolidate(&mut series, max, self.time_range));
                let end = series.end;
                current.start = series.start;
                current.step =
                    series.step.saturating_mul(i64::try_from(count).unwrap_or(i64::MAX)).max(1);
                if count > 1 {
                    series.values = series.consolidated(count).into_owned();
                }
                // As in graphite-web, no point is behind the end, even if there is a value.
                let rows = end.checked_sub(current.start).filter(|&seconds| seconds >= 0);
                let rows = rows.map_or(0, |seconds| seconds / current.step + 1);
                current.len = series.values.len().min(usize::try_from(rows).unwrap_or(usize::MAX));
                let is_empty = || series.values[..current.len].iter().all(|value| value.is_nan());
                if self.no_null_points && is_empty() {
                    return;
                }
                if self.begun > 0 {
                    out.extend_from_slice(b", ");
                }
                write_json_head(out, &series);
            }
            RenderFormat::Csv => write_csv_text(&mut current.name, &series.name),
            RenderFormat::Raw => {
                let Series { name, start, end, step, .. } = &series;
                out.extend_from_slice(format!("{name},{start},{end},{step}|").as_bytes());
            }
        }
        self.begun += 1;
        current.values = series.values;
        self.current = Some(current);
    }

    fn end_series(&mut self, out: &mut Vec<u8>) {
        self.current = None;
        match self.format {
            RenderFormat::Json => out.extend_from_slice(b"]}"),
            RenderFormat::Csv => {}
            RenderFormat::Raw => out.push(b'\n'),
        }
    }
}

impl CurrentSeries {
    /// Returns the next value with its second, unless the piece is full.
    fn next(&mut self, out: &[u8]) -> Option<(f64, i64)> {
        if self.index >= self.len || out.len() >= PIECE_BYTES {
            return None;
        }
        let index = i64::try_from(self.index).unwrap_or(i64::MAX);
        let second = self.start.saturating_add(index.saturating_mul(self.step));
        let value = self.values[self.index];
        self.index += 1;
        Some((value, second))
    }

    fn write_json(&mut self, out: &mut Vec<u8>, no_null_points: bool) {
        while let Some((value, second)) = self.next(out) {
            if no_null_points && value.is_nan() {
                continue;
            }
            let before: &[u8] = if std::mem::take(&mut self.is_first_row) { b"[" } else { b", [" };
            push_row(out, |row| {
                row[..before.len()].copy_from_slice(before);
                let mut at = before.len();
                if value.is_finite() {
                    at += write_value(&mut row[at..], value);
                } else {
                    let text: &[u8] = match value {
                        // Too large for any number: JavaScript reads it as infinite.
                        f64::INFINITY => b"1e9999",
                        f64::NEG_INFINITY => b"-1e9999",
                        _ => b"null",
                    };
                    row[at..at + text.len()].copy_from_slice(text);
                    at += text.len();
                }
                row[at..at + 2].copy_from_slice(b", ");
                at += 2;
                at += write_timestamp(&mut row[at..], second);
                row[at] = b']';
                at + 1
            });
        }
    }

    fn write_csv(&mut self, out: &mut Vec<u8>, tz: &TimeZone) {
        while let Some((value, second)) = self.next(out) {
            out.extend_from_slice(&self.name);
            out.push(b',');
            let at = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
            let at = tz.to_datetime(at);
            let (date, time) = (at.date(), at.time());
            let text = format!(
                "{}-{:02}-{:02} {:02}:{:02}:{:02},",
                date.year(),
                date.month(),
                date.day(),
                time.hour(),
                time.minute(),
                time.second()
            );
            out.extend_from_slice(text.as_bytes());
            if !value.is_nan() {
                push_row(out, |row| write_value(row, value));
            }
            out.extend_from_slice(b"\r\n");
        }
    }

    fn write_raw(&mut self, out: &mut Vec<u8>) {
        while let Some((value, _)) = self.next(out) {
            if !std::mem::take(&mut self.is_first_row) {
                out.push(b',');
            }
            if value.is_nan() {
                out.extend_from_slice(b"None");
            } else {
                push_row(out, |row| write_value(row, value));
            }
        }
    }
}

/// How long a piece of an answer is at least, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// Room for two numbers, which write up to eight bytes behind them, and what is between.
const ROW_BYTES: usize = MAX_VALUE_LEN + MAX_TIMESTAMP_LEN + 24;

/// Adds what `write` writes to the beginning of some room: in place, since a copy of a few bytes is a call.
fn push_row(out: &mut Vec<u8>, write: impl FnOnce(&mut [u8; ROW_BYTES]) -> usize) {
    let at = out.len();
    out.extend_from_slice(&[0; ROW_BYTES]);
    let len = match out[at..].first_chunk_mut() {
        Some(row) => write(row),
        None => 0,
    };
    out.truncate(at + len);
}

fn write_json_head(out: &mut Vec<u8>, series: &Series) {
    out.extend_from_slice(b"{\"target\": ");
    write_json_text(out, &series.name);
    out.extend_from_slice(b", \"tags\": {");
    for (index, (tag, value)) in series.tags.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        write_json_text(out, tag);
        out.extend_from_slice(b": ");
        write_json_text(out, value);
    }
    out.extend_from_slice(b"}, \"datapoints\": [");
}

/// Prepares a series for at most `max` points, and returns how many values are consolidated to one.
fn consolidate(series: &mut Series, max: usize, time_range: i64) -> usize {
    if max == 1 {
        return series.values.len().max(1);
    }
    let points = time_range as f64 / series.step as f64;
    if max == 0 || max as f64 >= points {
        return 1;
    }
    let count = (points / max as f64).ceil();
    let seconds = (count * series.step as f64) as i64;
    if seconds < 1 {
        return 1;
    }
    // The intervals begin at multiples of their length, so that values do not change when the range moves.
    let nudge = seconds + series.start.rem_euclid(series.step) - series.start.rem_euclid(seconds);
    series.start += nudge;
    let lost = usize::try_from(nudge / series.step - 1).unwrap_or(0);
    series.values.drain(..lost.min(series.values.len()));
    count as usize
}

/// Writes a JSON string in ASCII.
fn write_json_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            ' '..='~' => out.push(c as u8),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            }
        }
    }
    out.push(b'"');
}

fn write_csv_text(out: &mut Vec<u8>, text: &str) {
    if text.contains([',', '"', '\r', '\n']) {
        out.push(b'"');
        out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(text.as_bytes());
    }
}
