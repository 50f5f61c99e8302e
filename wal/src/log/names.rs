//! The names of a log's files.

use crate::lock::LOCK;

pub(super) const POSITION: &str = "position";
const SEGMENT: &str = ".log";
/// The suffix of a file that is to replace a segment, while it is written.
pub(super) const TEMPORARY: &str = ".tmp";
/// As many as `u64::MAX` has.
const DIGITS: usize = 20;

/// Returns the name of the segment whose first entry has this number.
pub(crate) fn segment_name(first: u64) -> String {
    format!("{first:0DIGITS$}{SEGMENT}")
}

/// What a file is by its name.
pub(super) enum FileName {
    /// A segment, with the number of its first entry.
    Segment(u64),
    /// A file that was to replace a segment.
    Temporary,
    /// The lock, the position, or a quarantined segment.
    Known,
    Unknown,
}

impl FileName {
    pub(super) fn of(name: &str) -> Self {
        if [LOCK, POSITION].contains(&name) {
            return Self::Known;
        }
        let Some((digits, suffix)) = name.split_once(SEGMENT) else { return Self::Unknown };

        let is_number = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        match (digits.parse(), suffix) {
            (Ok(first), "") if is_number => Self::Segment(first),
            (Ok(_), TEMPORARY) if is_number => Self::Temporary,
            (Ok(_), suffix) if is_number && suffix.starts_with('.') => Self::Known,
            _ => Self::Unknown,
        }
    }
}
