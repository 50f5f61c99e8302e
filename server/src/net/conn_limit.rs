//! Limits the connections from each source address.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Counts connections by source.
#[derive(Debug)]
pub(crate) struct PerSourceLimit {
    limit: usize,
    /// Only sources with connections. Hashed with a secret, since peers can choose among addresses. A
    /// count is changed under the lock and read without it.
    counts: Mutex<HashMap<IpAddr, Arc<AtomicUsize>>>,
}

impl PerSourceLimit {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, counts: Mutex::default() })
    }

    /// Counts a connection from `addr` until the permit is dropped. Returns `None` if the limit is
    /// reached.
    pub(crate) fn try_acquire(self: &Arc<Self>, addr: IpAddr) -> Option<ConnectionPermit> {
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
        // No panic can leave the map inconsistent.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counted connection.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    conn_limit: Arc<PerSourceLimit>,
    source: IpAddr,
    count: Arc<AtomicUsize>,
}

impl ConnectionPermit {
    /// Returns how many connections this source has, this one included.
    pub(crate) fn connections_from_source(&self) -> usize {
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

/// Returns what counts as one source: an IPv4 address, or the network part (64 bits) of an IPv6 address,
/// since a host may use every address of its network (RFC 6177).
pub(crate) fn source_of(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_counted_by_network() {
        let conn_limit = PerSourceLimit::new(2);
        let acquire = |addr: &str| conn_limit.try_acquire(addr.parse().unwrap());
        let (first, second) = (acquire("10.0.0.1").unwrap(), acquire("::ffff:10.0.0.1").unwrap());
        assert_eq!((first.connections_from_source(), second.connections_from_source()), (2, 2));
        assert!(acquire("10.0.0.1").is_none());
        let third = acquire("10.0.0.2").unwrap();
        drop(first);
        assert_eq!((second.connections_from_source(), third.connections_from_source()), (1, 1));
        let fourth = acquire("10.0.0.1").unwrap();

        let fifth = acquire("2001:db8:0:1::1").unwrap();
        let sixth = acquire("2001:db8:0:1:ffff::").unwrap();
        assert!(acquire("2001:db8:0:1::3").is_none());
        let seventh = acquire("2001:db8:0:2::1").unwrap();
        drop((second, third, fourth, fifth, sixth, seventh));
        assert!(conn_limit.counts().is_empty());
        assert!(PerSourceLimit::new(0).try_acquire([10, 0, 0, 1].into()).is_none());
    }
}
