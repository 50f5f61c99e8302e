//! The log lines of a reporter: each at a limited rate, and never under a lock.

use std::error::Error as StdError;

use tracing::{error, info, warn};

use super::stats::{FlushError, LossReason};
use crate::{
    error::Error,
    log_limit::{Lasting, LogLimiter},
    log_state::LogState,
};

#[derive(Debug, Default)]
pub(super) struct ReporterLog {
    /// One for each reason why a sample is not stored.
    reasons: [LogLimiter; LossReason::COUNT],
    full: LogState,
    unsent: LogState,
    last_flush: LogLimiter,
}

impl ReporterLog {
    /// Logs a sample that cannot be sent.
    pub(super) fn refused(&self, reason: LossReason, error: &dyn StdError) {
        let limiter = self.of(reason);
        if limiter.should_log() {
            let suppressed = limiter.take_suppressed();
            warn!(%error, suppressed, "invalid sample dropped");
        }
    }

    /// Logs dropped samples. `so_far` returns how many were dropped for this reason.
    pub(super) fn dropped(&self, reason: LossReason, so_far: impl FnOnce() -> u64) {
        if reason == LossReason::QueueFull {
            if let Some(Lasting { since, times }) = self.full.holds() {
                let so_far = so_far();
                warn!(so_far, ?since, times, "queue full, dropping samples");
            }
            return;
        }
        let limiter = self.of(reason);
        if limiter.should_log() {
            let (so_far, suppressed) = (so_far(), limiter.take_suppressed());
            warn!(so_far, suppressed, "sample recorded after close");
        }
    }

    /// Logs the end of a full queue, when it is at most half full.
    pub(super) fn has_room(&self) {
        if let Some(Lasting { since, times }) = self.full.is_over() {
            info!(lasted = ?since, times, "queue has room again");
        }
    }

    /// Logs samples that the server has rejected.
    pub(super) fn rejected(&self, samples: u64, error: Option<&Error>) {
        let limiter = self.of(LossReason::Rejected);
        if limiter.should_log() {
            let suppressed = limiter.take_suppressed();
            let error = error.map(tracing::field::display);
            warn!(samples, error, suppressed, "server rejected samples");
        }
    }

    /// Logs samples that were dropped after their last attempt.
    pub(super) fn exhausted(&self, samples: usize) {
        let limiter = self.of(LossReason::Attempts);
        if limiter.should_log() {
            let suppressed = limiter.take_suppressed();
            warn!(samples, suppressed, "samples dropped after their last attempt");
        }
    }

    /// Logs samples that could not be sent, and are queued again.
    pub(super) fn unsent(&self, error: &Error) {
        if let Some(Lasting { since, times }) = self.unsent.holds() {
            let error = error as &dyn StdError;
            warn!(error, ?since, times, "sending failed; samples stay queued");
        }
    }

    /// Logs that samples are sent again.
    pub(super) fn sent(&self) {
        if let Some(Lasting { since, times }) = self.unsent.is_over() {
            info!(lasted = ?since, times, "sending works again");
        }
    }

    /// Logs that a guard could not send all samples.
    pub(super) fn guard_failed(&self, unsent: &FlushError) {
        if self.last_flush.should_log() {
            let suppressed = self.last_flush.take_suppressed();
            let FlushError { waiting, dropped, rejected, .. } = *unsent;
            let error = unsent as &dyn StdError;
            error!(error, waiting, dropped, rejected, suppressed, "last flush failed");
        }
    }

    /// Logs that a guard has moved samples to the spool.
    pub(super) fn guard_spooled(&self, samples: u64) {
        if self.last_flush.should_log() {
            let suppressed = self.last_flush.take_suppressed();
            warn!(samples, suppressed, "last flush moved samples to the spool");
        }
    }

    fn of(&self, reason: LossReason) -> &LogLimiter {
        &self.reasons[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, OnceLock},
        time::Duration,
    };

    use tokio::{io::duplex, time};

    use crate::{MetricsClient, Reporter, log_watch::LogWatch, reporter::shared::ReporterShared};

    const FULL: &str = "queue full, dropping samples";

    // FAULTS A25
    #[tokio::test(start_paused = true)]
    async fn full_queue_is_logged_again_and_when_over() {
        let shared = Arc::new(OnceLock::<Arc<ReporterShared>>::new());
        let seen = Arc::clone(&shared);
        let watch = LogWatch::calling(move || {
            let is_locked = |shared: &Arc<ReporterShared>| !shared.dispatcher.is_unlocked();
            assert!(!seen.get().is_some_and(is_locked), "logged under a lock");
        });
        let _default = watch.watch();
        let (near, far) = duplex(1 << 20);
        let client = MetricsClient::from_io(near);
        let reporter = Reporter::builder(client).capacity(10).start();
        shared.set(Arc::clone(reporter.shared())).unwrap();
        for second in 0..1000 {
            reporter.record_at("a", 1.0, second);
        }
        let reporters = |watch: &LogWatch| {
            let mut lines = watch.take();
            lines.retain(|line| {
                line.contains("queue") || line.contains("sample") || line.contains("sending")
            });
            lines
        };
        assert_eq!(reporters(&watch), [FULL]);
        time::advance(Duration::from_secs(60)).await;
        reporter.record_at("a", 1.0, 1000);
        assert_eq!(reporters(&watch), [FULL]);
        // A server that takes everything.
        let server = tokio::spawn(async move {
            let mut far = tokio::io::BufReader::new(far);
            loop {
                let mut line = String::new();
                tokio::io::AsyncBufReadExt::read_line(&mut far, &mut line).await.unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut far, b"ok\n\n").await.unwrap();
            }
        });
        let _ = reporter.flush(Duration::from_secs(60)).await;
        assert_eq!(reporters(&watch), ["queue has room again"]);
        server.abort();
    }

    // FAULTS A25
    #[tokio::test(start_paused = true)]
    async fn failed_sending_is_logged_again_and_when_over() {
        let watch = LogWatch::default();
        let _default = watch.watch();
        let log = super::ReporterLog::default();
        let error = crate::Error::CannotDial;
        for _ in 0..1200 {
            log.unsent(&error);
            time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(watch.take(), ["sending failed; samples stay queued"; 2]);
        log.sent();
        log.sent();
        assert_eq!(watch.take(), ["sending works again"]);
    }
}
