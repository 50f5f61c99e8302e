//! What an answer of InfluxDB means for the lines that were sent.

use std::time::Duration;

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};
use metrics_client::codec::Escaped;

use crate::relay::sink::SendFailure;

/// What has become of lines.
#[derive(Debug)]
pub(super) enum Verdict {
    /// All have their outcome: this many were rejected, for this reason.
    Settled { rejected: usize, reason: Option<String> },
    /// Some line is bad, and none was stored.
    SomeBad,
    /// There are too many.
    TooLarge,
    /// They should be sent again.
    Retry(SendFailure),
}

/// Judges an answer to a request of `lines` lines.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8], lines: usize) -> Verdict {
    if status.is_success() {
        return Verdict::Settled { rejected: 0, reason: None };
    }
    let text = headers.get("x-influxdb-error").map_or(body, |error| error.as_bytes());
    let text = String::from_utf8_lossy(text);
    let reason = format!("{status}: {}", Escaped(&excerpt(&text)));
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
            let unreadable = text.matches("unable to parse '").count();
            // The other lines were stored.
            let partial = text.contains("partial write").then(|| dropped(&text) + unreadable);
            match partial {
                Some(rejected) => {
                    Verdict::Settled { rejected: rejected.min(lines), reason: Some(reason) }
                }
                None if lines == 1 || unreadable >= lines => {
                    Verdict::Settled { rejected: lines, reason: Some(reason) }
                }
                None => Verdict::SomeBad,
            }
        }
        StatusCode::PAYLOAD_TOO_LARGE if lines == 1 => {
            Verdict::Settled { rejected: 1, reason: Some(reason) }
        }
        StatusCode::PAYLOAD_TOO_LARGE => Verdict::TooLarge,
        // The others are not about the lines: no access, no such database, overload, an error of the server.
        _ => {
            let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let retry_after = retry_after.and_then(|seconds| seconds.trim().parse().ok());
            let retry_after = retry_after.map(Duration::from_secs);
            // These last until a person has done something.
            let retry_after = retry_after.or(status.is_client_error().then_some(DENIED_DELAY));
            Verdict::Retry(SendFailure { message: reason, retry_after })
        }
    }
}

/// How long a destination is left alone that denies access, or has no such database.
const DENIED_DELAY: Duration = Duration::from_secs(5);

/// Returns how many points a partial write has dropped, which is the last thing that its message says.
fn dropped(text: &str) -> usize {
    let Some((_, number)) = text.rsplit_once("dropped=") else { return 0 };
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    number[..digits].parse().unwrap_or(0)
}

/// Returns the beginning of a message.
fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    text.trim().chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &str, lines: usize) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        match judge(status, &HeaderMap::new(), body.as_bytes(), lines) {
            Verdict::Settled { rejected, .. } => format!("settled {rejected}"),
            Verdict::SomeBad => "some bad".into(),
            Verdict::TooLarge => "too large".into(),
            Verdict::Retry(failure) => format!("retry {:?}", failure.retry_after),
        }
    }

    #[test]
    fn answers_decide_about_lines() {
        // As influxd 1.6.7 says it.
        let conflict = r#"{"error":"partial write: field type conflict: input field \"value\" on measurement \"cpu\" is type float, already exists as type integer dropped=2"}"#;
        let unreadable = r#"{"error":"partial write: unable to parse 'bad line here x': invalid field format dropped=0"}"#;
        let all_bad = r#"{"error":"unable to parse 'cpu value=': missing field value"}"#;
        for (status, body, lines, verdict) in [
            (204, "", 9, "settled 0"),
            (400, conflict, 9, "settled 2"),
            (400, conflict, 1, "settled 1"),
            (400, unreadable, 9, "settled 1"),
            (400, all_bad, 1, "settled 1"),
            (400, all_bad, 2, "some bad"),
            (422, "", 2, "some bad"),
            (422, "", 1, "settled 1"),
            (413, "", 2, "too large"),
            (413, "", 1, "settled 1"),
            (401, "", 9, "retry Some(5s)"),
            (403, "", 1, "retry Some(5s)"),
            (404, r#"{"error":"database not found: \"nope\""}"#, 1, "retry Some(5s)"),
            (302, "", 1, "retry None"),
            (500, r#"{"error":"timeout"}"#, 1, "retry None"),
            (503, "", 9, "retry None"),
        ] {
            assert_eq!(judged(status, body, lines), verdict, "{status} {body}");
        }
    }

    #[test]
    fn retry_after_is_read() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "17".parse().unwrap());
        let judged = judge(StatusCode::TOO_MANY_REQUESTS, &headers, b"slow down\n", 3);
        let Verdict::Retry(failure) = judged else { panic!("{judged:?}") };
        assert_eq!(failure.retry_after, Some(Duration::from_secs(17)));
        assert_eq!(failure.message, "429 Too Many Requests: slow down");
    }
}
