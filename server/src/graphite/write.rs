//! Writes series as JSON, CSV and raw data, as graphite-web does.

use jiff::{Timestamp, tz::TimeZone};
use metrics_client::internal::number::{
    MAX_TIMESTAMP_LEN, MAX_VALUE_LEN, write_timestamp, write_value,
};

use super::{RenderFormat, RenderRequest, Series};

impl RenderRequest {
    /// Writes the series that [`render`](super::render) has returned, in the form that the request asks for.
    #[must_use]
    pub fn write(&self, series: Vec<Series>) -> Vec<u8> {
        let mut out = Vec::new();
        match self.format {
            RenderFormat::Json => {
                if let Some(function) = &self.jsonp {
                    out.extend_from_slice(function.as_bytes());
                    out.push(b'(');
                }
                write_json(&mut out, series, self.max_data_points, self.no_null_points);
                if self.jsonp.is_some() {
                    out.push(b')');
                }
            }
            RenderFormat::Csv => write_csv(&mut out, &series, &self.tz),
            RenderFormat::Raw => write_raw(&mut out, &series),
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

fn write_json(
    out: &mut Vec<u8>,
    series: Vec<Series>,
    max_data_points: Option<usize>,
    no_null_points: bool,
) {
    let start = series.iter().map(|series| series.start).min().unwrap_or(0);
    let end = series.iter().map(|series| series.end).max().unwrap_or(0);
    // `[1.5, 1150864247], ` takes about twenty bytes.
    let points: usize = series.iter().map(|series| series.values.len()).sum();
    out.reserve(
        20 * points.min(max_data_points.unwrap_or(usize::MAX).saturating_mul(series.len())),
    );
    out.push(b'[');
    let mut is_first = true;
    for mut series in series {
        let count = match max_data_points {
            Some(max) => consolidate(&mut series, max, end - start),
            None => 1,
        };
        let step = series.step.saturating_mul(i64::try_from(count).unwrap_or(i64::MAX));
        let values = series.consolidated(count);
        let seconds =
            (0..).map(|index: i64| series.start.saturating_add(index.saturating_mul(step)));
        // As in graphite-web, no point is behind the end, even if there is a value.
        let points = values.iter().copied().zip(seconds).take_while(|&(_, at)| at <= series.end);
        let points = points.filter(|(value, _)| !no_null_points || !value.is_nan());
        let mut points = points.peekable();
        if no_null_points && points.peek().is_none() {
            continue;
        }
        if !std::mem::replace(&mut is_first, false) {
            out.extend_from_slice(b", ");
        }
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
        for (index, (value, second)) in points.enumerate() {
            out.extend_from_slice(if index > 0 { b", [" } else { b"[" });
            if value.is_finite() {
                push_value(out, value);
            } else {
                out.extend_from_slice(match value {
                    // Too large for any number: JavaScript reads it as infinite.
                    f64::INFINITY => b"1e9999",
                    f64::NEG_INFINITY => b"-1e9999",
                    _ => b"null",
                });
            }
            out.extend_from_slice(b", ");
            push_integer(out, second);
            out.push(b']');
        }
        out.extend_from_slice(b"]}");
    }
    out.push(b']');
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

fn push_value(out: &mut Vec<u8>, value: f64) {
    let mut text = [0; MAX_VALUE_LEN + 8];
    let len = write_value(&mut text, value);
    out.extend_from_slice(&text[..len]);
}

fn push_integer(out: &mut Vec<u8>, value: i64) {
    let mut text = [0; MAX_TIMESTAMP_LEN + 8];
    let len = write_timestamp(&mut text, value);
    out.extend_from_slice(&text[..len]);
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

fn write_csv(out: &mut Vec<u8>, series: &[Series], tz: &TimeZone) {
    for series in series {
        let mut name = Vec::new();
        write_csv_text(&mut name, &series.name);
        for (second, &value) in (series.start..).step_by(step_of(series)).zip(&series.values) {
            out.extend_from_slice(&name);
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
                push_value(out, value);
            }
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn step_of(series: &Series) -> usize {
    usize::try_from(series.step).unwrap_or(1).max(1)
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

fn write_raw(out: &mut Vec<u8>, series: &[Series]) {
    for series in series {
        let Series { name, start, end, step, .. } = series;
        out.extend_from_slice(format!("{name},{start},{end},{step}|").as_bytes());
        for (index, &value) in series.values.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            if value.is_nan() {
                out.extend_from_slice(b"None");
            } else {
                push_value(out, value);
            }
        }
        out.push(b'\n');
    }
}
