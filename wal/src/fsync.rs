//! When appended records are synced.

use std::time::Duration;

/// When written data is synced to the device, so that it survives a loss of power.
///
/// Data that was written survives the end of the process, also by `kill -9`, without a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// After every append, before it returns.
    Always,
    /// At most this long after an append. A loss of power can lose what was appended in this time.
    Every(Duration),
    /// Never: the operating system decides. Linux writes within about 30 seconds.
    Never,
}
