//! Timestamps: whole seconds since the Unix epoch.

use std::time::SystemTime;

/// Returns `time` as a timestamp: whole seconds since the Unix epoch, rounded down.
///
/// Times before the epoch are negative.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use metrics_client::unix_seconds;
///
/// let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_150_864_247_900);
/// assert_eq!(unix_seconds(time), 1_150_864_247);
/// ```
#[must_use]
pub fn unix_seconds(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(error) => {
            let before = error.duration();
            let seconds = before.as_secs().saturating_add(u64::from(before.subsec_nanos() > 0));
            0i64.saturating_sub_unsigned(seconds)
        }
    }
}

/// Returns the current second of the system's clock.
pub(crate) fn unix_now() -> i64 {
    unix_seconds(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn unix_seconds_rounds_down_on_both_sides_of_the_epoch() {
        let epoch = SystemTime::UNIX_EPOCH;
        let half = Duration::from_millis(500);
        assert_eq!(unix_seconds(epoch), 0);
        assert_eq!(unix_seconds(epoch + half), 0);
        assert_eq!(unix_seconds(epoch - half), -1);
        assert_eq!(unix_seconds(epoch - Duration::from_secs(7)), -7);
    }
}
