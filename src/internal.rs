//! What the packages of this repository share, and nobody else should use: it may change in any release.

/// Rate limits for log lines.
pub mod log_limit {
    pub use crate::log_limit::{Lasting, LogCondition, LogLimiter, WINDOW};
}

/// Waking tasks that are not ours.
pub mod wake {
    pub use crate::wake::wake_each;
}
