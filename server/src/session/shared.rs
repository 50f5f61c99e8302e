//! The state that all sessions of a server share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

#[cfg(feature = "tls")]
use super::TlsAcceptor;
use super::{Limits, log_limits::LogLimits, scheduler::FairScheduler, unsent_budget::UnsentBudget};
use crate::stats::ServerCounters;

#[derive(Debug)]
pub(crate) struct SessionShared<S> {
    pub(super) store: S,
    pub(super) limits: Limits,
    pub(super) counters: Arc<ServerCounters>,
    pub(crate) log_limits: LogLimits,
    /// Schedules the sessions. Nothing waits in it if a session runs outside of a server.
    pub(super) scheduler: Arc<FairScheduler>,
    pub(super) unsent_budget: Arc<UnsentBudget>,
    /// The memory of batches of puts that the store has not applied yet, in bytes.
    unapplied_bytes: AtomicUsize,
    /// Does the handshake of each connection, if the server speaks TLS.
    #[cfg(feature = "tls")]
    pub(super) tls: Option<TlsAcceptor>,
}

impl<S> SessionShared<S> {
    pub(crate) fn new(store: S, limits: Limits, counters: Arc<ServerCounters>) -> Self {
        Self {
            store,
            limits,
            counters,
            log_limits: LogLimits::default(),
            scheduler: Arc::new(FairScheduler::new()),
            unsent_budget: Arc::new(UnsentBudget::new(limits.max_total_unsent_bytes)),
            unapplied_bytes: AtomicUsize::new(0),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(self, tls: Option<TlsAcceptor>) -> Self {
        Self { tls, ..self }
    }

    /// Counts the memory of a batch until the guard is dropped.
    pub(super) fn count_unapplied(&self, bytes: usize) -> UnappliedGuard<'_> {
        self.unapplied_bytes.fetch_add(bytes, Ordering::Relaxed);
        UnappliedGuard { bytes, unapplied_bytes: &self.unapplied_bytes }
    }

    /// Returns true if more than [`CONTENTION_THRESHOLD`] sessions wait to be scheduled, or batches of more than
    /// [`MAX_UNCONTENDED_BYTES`] for the store: each session should then use less memory and shorter time
    /// slices.
    pub(super) fn is_contended(&self) -> bool {
        self.is_store_busy() || self.scheduler.waiting() > CONTENTION_THRESHOLD
    }

    /// Returns true if batches of more than [`MAX_UNCONTENDED_BYTES`] wait for the store. Takes no lock.
    pub(super) fn is_store_busy(&self) -> bool {
        self.unapplied_bytes.load(Ordering::Relaxed) > MAX_UNCONTENDED_BYTES
    }
}

/// Counts a batch that is not applied yet.
pub(super) struct UnappliedGuard<'a> {
    bytes: usize,
    unapplied_bytes: &'a AtomicUsize,
}

impl Drop for UnappliedGuard<'_> {
    fn drop(&mut self) {
        self.unapplied_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// How many sessions may wait to be scheduled before each of them frees its buffers while it waits
/// and gets shorter time slices.
///
/// Both cost a busy peer some of its speed. Buffers that are kept cost up to 512 KiB for each session,
/// and long slices of many sessions delay all others.
pub(super) const CONTENTION_THRESHOLD: usize = 32;

/// How much memory the batches that the store has not applied may take, in bytes, before sessions read less at
/// once: a store on disk writes as much in some milliseconds.
pub(super) const MAX_UNCONTENDED_BYTES: usize = 4 * 1024 * 1024;

/// The largest batch of a session, in puts, while the store is busy. With a read of
/// [`MIN_READ`](super::MIN_READ), a session that waits for the store takes some 20 KiB.
pub(super) const MAX_CONTENDED_PUTS: usize = 256;
