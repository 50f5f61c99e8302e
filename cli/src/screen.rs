//! What the terminal can do.

use std::env;

/// Returns true unless `NO_COLOR` is set and not empty, or the terminal says that it has none.
pub(crate) fn has_colours() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !is_dumb()
}

/// Returns true if the terminal can place no cursor.
pub(crate) fn is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}
