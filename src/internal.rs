//! Items shared by the packages of this repository. Not public API: they may change in any release.

/// Rate limits for log lines.
pub mod log_limit {
    pub use crate::log_limit::{Lasting, LogCondition, LogLimiter, WINDOW};
}

/// Waking tasks whose wakers may panic.
pub mod wake {
    pub use crate::wake::wake_each;
}

/// Numbers as text, as on the wire.
pub mod number {
    pub use crate::protocol::{
        MAX_TIMESTAMP_LEN, MAX_VALUE_LEN, Number, parse_timestamp, parse_value, write_timestamp,
        write_value,
    };
}
