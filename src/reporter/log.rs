//! What a reporter logs: each thing at a limited rate, and never under a lock.

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
    /// One for each reason for which a sample is not stored.
    reasons: [LogLimiter; LossReason::COUNT],
    full: LogState,
    unsent: LogState,
    last: LogLimiter,
}

impl ReporterLog {
    /// A sample cannot be sent, whatever the server says.
    pub(super) fn refused(&self, reason: LossReason, fault: &dyn StdError) {
        let limiter = self.of(reason);
        if limiter.should_log() {
            let suppressed = limiter.take_suppressed();
            warn!(error = %fault, suppressed, "a sample was dropped");
        }
    }

    /// Samples were dropped for this reason; `so_far` is asked how many there have been.
    pub(super) fn dropped(&self, reason: LossReason, so_far: impl FnOnce() -> u64) {
        if reason == LossReason::QueueFull {
            if let Some(Lasting { since, times }) = self.full.holds() {
                let so_far = so_far();
                warn!(so_far, ?since, times, "the queue is full: samples are dropped");
            }
            return;
        }
        let limiter = self.of(reason);
        if limiter.should_log() {
            let (so_far, suppressed) = (so_far(), limiter.take_suppressed());
            warn!(so_far, suppressed, "samples come after the reporter was closed");
        }
    }

    /// At most half of what may wait does.
    pub(super) fn has_room(&self) {
        if let Some(Lasting { since, times }) = self.full.is_over() {
            info!(lasted = ?since, times, "the queue has room again");
        }
    }

    /// The server has refused samples.
    pub(super) fn rejected(&self, samples: u64, error: Option<&Error>) {
        let limiter = self.of(LossReason::Rejected);
        if limiter.should_log() {
            let suppressed = limiter.take_suppressed();
            let error = error.map(tracing::field::display);
            warn!(samples, error, suppressed, "the server refuses samples");
        }
    }

    /// Samples were dropped after their last attempt.
    pub(super) fn exhausted(&self, samples: usize) {
        let limiter = self.of(LossReason::Attempts);
        if limiter.should_log() {
            let suppressed = limiter.take_suppressed();
            warn!(samples, suppressed, "samples are dropped: all attempts to send them failed");
        }
    }

    /// Samples could not be sent, and wait.
    pub(super) fn unsent(&self, error: &Error) {
        if let Some(Lasting { since, times }) = self.unsent.holds() {
            let error = error as &dyn StdError;
            warn!(error, ?since, times, "samples cannot be sent and wait");
        }
    }

    /// Samples were sent.
    pub(super) fn sent(&self) {
        if let Some(Lasting { since, times }) = self.unsent.is_over() {
            info!(lasted = ?since, times, "samples are sent again");
        }
    }

    /// What a guard was to send could not be sent.
    pub(super) fn guard_failed(&self, unsent: &FlushError) {
        if self.last.should_log() {
            let suppressed = self.last.take_suppressed();
            let FlushError { waiting, dropped, rejected, .. } = *unsent;
            let error = unsent as &dyn StdError;
            error!(
                error,
                waiting, dropped, rejected, suppressed, "the last samples could not be sent"
            );
        }
    }

    /// What a guard was to send lies in the spool.
    pub(super) fn guard_spooled(&self, samples: u64) {
        if self.last.should_log() {
            let suppressed = self.last.take_suppressed();
            warn!(samples, suppressed, "what could not be sent lies in the spool");
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

    const FULL: &str = "the queue is full: samples are dropped";

    // FAULTS A25
    #[tokio::test(start_paused = true)]
    async fn full_queue_is_said_reminded_of_and_over() {
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
            lines.retain(|line| line.contains("queue") || line.contains("sample"));
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
        assert_eq!(reporters(&watch), ["the queue has room again"]);
        server.abort();
    }

    // FAULTS A25
    #[tokio::test(start_paused = true)]
    async fn samples_that_cannot_be_sent_are_said_reminded_of_and_over() {
        let watch = LogWatch::default();
        let _default = watch.watch();
        let log = super::ReporterLog::default();
        let error = crate::Error::CannotDial;
        for _ in 0..1200 {
            log.unsent(&error);
            time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(watch.take(), ["samples cannot be sent and wait"; 2]);
        log.sent();
        log.sent();
        assert_eq!(watch.take(), ["samples are sent again"]);
    }
}
