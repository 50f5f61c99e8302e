//! The state that all sessions of a server share.

use std::sync::Arc;

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
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(self, tls: Option<TlsAcceptor>) -> Self {
        Self { tls, ..self }
    }

    /// Returns true if more than [`CONTENTION_THRESHOLD`] sessions wait to be scheduled: each should then
    /// use less memory and shorter time slices.
    pub(super) fn is_contended(&self) -> bool {
        self.scheduler.waiting() > CONTENTION_THRESHOLD
    }
}

/// How many sessions may wait to be scheduled before each of them frees its buffers while it waits
/// and gets shorter time slices.
///
/// Both cost a busy peer some of its speed. Buffers that are kept cost up to 512 KiB for each session,
/// and long slices of many sessions delay all others.
pub(super) const CONTENTION_THRESHOLD: usize = 32;
