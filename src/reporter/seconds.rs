//! Seconds of which each is used once.

use crate::metric::unix_seconds;

/// Hands out the second in which something is reported, never the same one twice: a server keeps one
/// value for each second, so a second report would replace the first.
#[derive(Debug, Default)]
pub(crate) struct Seconds {
    last: Option<i64>,
}

impl Seconds {
    /// The current second, or the one after the last if that is not over.
    pub(crate) fn next(&mut self) -> i64 {
        self.after(unix_seconds())
    }

    fn after(&mut self, now: i64) -> i64 {
        let second = match self.last {
            Some(last) if (0..SET_BACK).contains(&last.saturating_sub(now)) => last + 1,
            _ => now,
        };
        self.last = Some(second);
        second
    }
}

/// A last second that is so far ahead, in seconds, is that of a clock which has been set back since.
const SET_BACK: i64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_is_used_twice_unless_the_clock_is_set_back() {
        let mut seconds = Seconds::default();
        let given = [500, 500, 500, 501, 503, 504, 400, 400].map(|now| seconds.after(now));
        assert_eq!(given, [500, 501, 502, 503, 504, 505, 400, 401]);
    }
}
