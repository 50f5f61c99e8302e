//! How many connections the process has file descriptors for.

use tracing::{debug, info, warn};

use super::Limits;

/// Holds `limits` against what the process may open: raises its soft limit, as far as the hard limit
/// allows, or else lowers theirs, and tells the log.
///
/// A server that may have more connections than descriptors does not reject what it cannot serve: that
/// waits in the kernel, without an answer, while one address has all there is.
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
        info!(before, now = allowed, "raised the limit of open files");
    }
    let fitted = limits.fitted(usize::try_from(allowed).unwrap_or(usize::MAX), in_use);
    if fitted != limits {
        let Limits { max_connections, max_connections_per_address, .. } = fitted;
        warn!(
            open_files = allowed,
            wanted = needed,
            max_connections,
            max_connections_per_address,
            "lowered the limits of connections: the process may not open more files"
        );
    }
    fitted
}

impl Limits {
    /// With as many connections as `allowed` descriptors are enough for, of which `in_use` are taken, and
    /// half of them for an address.
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

/// So many descriptors are left for what else the process opens later, unless it may open few.
const RESERVE: usize = 64;

/// Where nothing says how many descriptors are in use: standard streams, the runtime and the listener.
const USUALLY_IN_USE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    // FAULTS S6
    #[test]
    fn limits_are_what_the_descriptors_are_enough_for() {
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
