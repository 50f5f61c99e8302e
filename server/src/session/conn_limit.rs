//! How many connections there are from each address.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Counts connections by where they come from.
#[derive(Debug)]
pub(super) struct PerSourceLimit {
    limit: usize,
    /// Only those that have any, so it is no larger than there are connections. Hashed with a
    /// secret, since peers have some choice in their addresses.
    /// Changed under the lock, and read without it.
    counts: Mutex<HashMap<IpAddr, Arc<AtomicUsize>>>,
}

impl PerSourceLimit {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, counts: Mutex::default() })
    }

    /// Counts a connection from `addr` until what is returned is dropped, or says that there are as
    /// many as may be.
    pub(super) fn enter(self: &Arc<Self>, addr: IpAddr) -> Option<ConnectionPermit> {
        let source = source_of(addr);
        let mut counts = self.counts();
        let count = Arc::clone(counts.entry(source).or_default());
        let others = count.load(Ordering::Relaxed);
        if others >= self.limit {
            if others == 0 {
                counts.remove(&source);
            }
            return None;
        }
        count.store(others + 1, Ordering::Relaxed);
        Some(ConnectionPermit { conn_limit: Arc::clone(self), source, count })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<AtomicUsize>>> {
        // Nothing in here panics between two changes that belong together.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    conn_limit: Arc<PerSourceLimit>,
    source: IpAddr,
    count: Arc<AtomicUsize>,
}

impl ConnectionPermit {
    /// How many connections come from where this one does, itself among them.
    pub(super) fn connections_from_source(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if let Entry::Occupied(count) = self.conn_limit.counts().entry(self.source) {
            let left = self.count.fetch_sub(1, Ordering::Relaxed) - 1;
            if left == 0 {
                count.remove();
            }
        }
    }
}

/// What is counted as one place: an IPv4 address, or the 64 bits of an IPv6 address that say which
/// network it is in, for whoever has one address of a network has all of them (RFC 6177).
pub(super) fn source_of(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_counts_as_one_and_leaves_no_trace() {
        let conn_limit = PerSourceLimit::new(2);
        let enter = |addr: &str| conn_limit.enter(addr.parse().unwrap());
        let (first, second) = (enter("10.0.0.1").unwrap(), enter("::ffff:10.0.0.1").unwrap());
        assert_eq!((first.connections_from_source(), second.connections_from_source()), (2, 2));
        assert!(enter("10.0.0.1").is_none());
        let third = enter("10.0.0.2").unwrap();
        drop(first);
        assert_eq!((second.connections_from_source(), third.connections_from_source()), (1, 1));
        let fourth = enter("10.0.0.1").unwrap();

        let fifth = enter("2001:db8:0:1::1").unwrap();
        let sixth = enter("2001:db8:0:1:ffff::").unwrap();
        assert!(enter("2001:db8:0:1::3").is_none());
        let seventh = enter("2001:db8:0:2::1").unwrap();
        drop((second, third, fourth, fifth, sixth, seventh));
        assert!(conn_limit.counts().is_empty());
        assert!(PerSourceLimit::new(0).enter([10, 0, 0, 1].into()).is_none());
    }
}
