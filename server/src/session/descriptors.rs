//! Fits the connection limits to the file descriptors of the process.

use tracing::{debug, info, warn};

use super::Limits;

/// Raises the soft limit of open files to what `limits` need, as far as the hard limit allows. Returns
/// `limits`, lowered if that is not enough. Logs either.
///
/// Without this, a server out of descriptors would leave connections unanswered in the kernel's queue,
/// while one address could hold all descriptors.
pub(crate) fn fit(limits: Limits) -> Limits {
    let in_use = std::fs::read_dir("/dev/fd").map_or(USUALLY_IN_USE, Iterator::count);
    let needed = limits.max_connections.saturating_add(in_use).saturating_add(RESERVE);
    let Ok((before, _)) = rlimit::getrlimit(rlimit::Resource::NOFILE) else {
        return limits;
    };
    let allowed = rlimit::increase_nofile_limit(needed as u64).unwrap_or_else(|error| {
        debug!(%error, "cannot raise the limit of open files");
        before
    });
    if allowed > before {
        info!(before, now = allowed, "limit of open files raised");
    }
    let fitted = limits.fitted(usize::try_from(allowed).unwrap_or(usize::MAX), in_use);
    if fitted != limits {
        let Limits { max_connections, max_connections_per_address, .. } = fitted;
        warn!(
            open_files = allowed,
            wanted = needed,
            max_connections,
            max_connections_per_address,
            "connection limits lowered: the process may not open more files"
        );
    }
    fitted
}

impl Limits {
    /// Returns the limits lowered to `allowed` descriptors, of which `in_use` are taken; one address may
    /// have half of the connections.
    fn fitted(self, allowed: usize, in_use: usize) -> Self {
        let reserve = RESERVE.min(allowed / 8);
        let room = allowed.saturating_sub(in_use).saturating_sub(reserve).max(1);
        if self.max_connections <= room {
            return self;
        }
        let of_address = self.max_connections_per_address.min((room / 2).max(1));
        Self { max_connections: room, max_connections_per_address: of_address, ..self }
    }
}

/// How many descriptors are reserved for other files of the process, unless it may open few.
const RESERVE: usize = 64;

/// The assumed number of open descriptors if it is unknown: standard streams, runtime, listener.
const USUALLY_IN_USE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    // FAULTS S6
    #[test]
    fn limits_are_fitted_to_the_descriptors() {
        let fitted = |limits: Limits, allowed| {
            let Limits { max_connections, max_connections_per_address, .. } =
                limits.fitted(allowed, 16);
            (max_connections, max_connections_per_address)
        };
        let limits = Limits::default();
        assert_eq!(fitted(limits, 20_000), (10_000, 5_000));
        assert_eq!(fitted(limits, 10_080), (10_000, 5_000));
        assert_eq!(fitted(limits, 10_079), (9_999, 4_999));
        assert_eq!(fitted(limits, 1_024), (944, 472));
        assert_eq!(fitted(limits, 40), (19, 9));
        assert_eq!(fitted(limits, 8), (1, 1));
        assert_eq!(fitted(limits.max_connections_per_address(10), 1_024), (944, 10));
        assert_eq!(fitted(limits.max_connections(100), 1_024), (100, 5_000));
    }
}
