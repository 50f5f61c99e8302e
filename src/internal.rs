//! Items shared by the packages of this repository. Not public API: they may change in any release.

/// Rate limits for log lines.
pub mod log_limit {
    pub use crate::log_limit::{Lasting, LogCondition, LogLimiter, WINDOW};
}

/// Waking tasks whose wakers may panic.
pub mod wake {
    pub use crate::wake::wake_each;
}
