//! The keys at whose samples the server closes the connection.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use indexmap::IndexMap;

use super::queue::SCAN_LIMIT;
use crate::{
    client::{ENOUGH_PROOFS, SampleOutcome},
    error::{ConnectionError, Error},
    metric::{Key, Point, Sample},
};

/// Remembers keys, so that each is logged once.
#[derive(Debug, Default)]
pub(super) struct PoisonKeys(Mutex<HashSet<Key>>);

/// The most keys that are logged in the life of a reporter: enough to find the fault, and few enough that
/// names from untrusted input fill neither the log nor the memory.
const MAX_KEYS: usize = 100;

impl PoisonKeys {
    /// Remembers the key. Returns true if it is to be logged.
    fn is_new(&self, key: &Key) -> bool {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.len() < MAX_KEYS && keys.insert(key.clone())
    }

    /// Logs a sample at which the server closes the connection, if it is the first of its key.
    pub(super) fn log(&self, sample: &Sample) {
        let Sample { key, point: Point { value, timestamp } } = sample;
        if self.is_new(key) {
            tracing::error!(
                %key,
                value,
                timestamp,
                "sample dropped: the server closes the connection at it"
            );
        }
    }
}

/// Samples of which each was alone when the server closed the connection, for a client that does not
/// find out by itself at which request that happens, because it does not resend.
///
/// A suspect is passed over until the server has acknowledged another sample, and then sent alone once
/// more: if the server closes the connection again, that is a proof. A server that closes whatever it is
/// sent acknowledges nothing, so there it is a delay. Because a server may fail at random, the proofs have
/// to come in a row, as many as the client needs: they are void once the server has closed at a sample of
/// another key that was alone. Between two trials of suspects other samples are sent, if any wait.
///
/// While one sample after the other turns out to be a suspect, more and more of those behind it are
/// skipped, so that the first good one is found among thousands.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// In the order in which they became suspects.
    list: IndexMap<(Key, i64), SuspectState>,
    /// How many have become suspects since the server last acknowledged a sample.
    in_a_row: usize,
    /// The last sample that was sent was a suspect, so that it is the turn of others.
    is_others_turn: bool,
    /// How often the server has closed the connection at a sample alone of no suspect's key.
    #[cfg(feature = "spool")]
    closed_at_others: u64,
}

#[derive(Debug, Default)]
struct SuspectState {
    /// How often the server has closed the connection at it, after it had acknowledged another.
    proofs: u32,
    /// Whether the server has acknowledged another since it was sent last.
    is_due: bool,
}

/// The most suspects that are passed over: as many samples as the queue is searched for others.
const MAX_SUSPECTS: usize = SCAN_LIMIT;

/// From this many suspects in a row on, samples are skipped.
const SKIP_FROM: usize = 4;

impl Suspects {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    #[cfg(feature = "spool")]
    pub(super) fn closed_at_others(&self) -> u64 {
        self.closed_at_others
    }

    /// Returns true if the sample is a suspect, or would replace one.
    pub(super) fn contains(&self, sample: &Sample) -> bool {
        self.list.contains_key(&id(sample))
    }

    /// Returns true if the sample is a suspect that is to be sent alone once more.
    pub(super) fn is_due(&self, sample: &Sample) -> bool {
        self.list.get(&id(sample)).is_some_and(|state| state.is_due)
    }

    /// Returns true if it is a suspect's turn, and one is due.
    pub(super) fn is_trial_due(&self) -> bool {
        !self.is_others_turn && self.list.values().any(|state| state.is_due)
    }

    /// Forgets the suspects that are due, which do not wait any more.
    pub(super) fn forget_due(&mut self) {
        self.list.retain(|_, state| !state.is_due);
    }

    /// Returns how many samples that are no suspects are to be skipped.
    pub(super) fn skip(&self) -> usize {
        let doublings =
            self.in_a_row.saturating_sub(SKIP_FROM - 1).min(SCAN_LIMIT.ilog2() as usize);
        (1 << doublings) - 1
    }

    /// Starts over with skipping.
    pub(super) fn reset_skip(&mut self) {
        self.in_a_row = 0;
    }

    /// Learns from a batch that was sent. Marks its only sample as [`SampleOutcome::ClosedOn`] once it is
    /// proved that the server closes at it.
    pub(super) fn judge(
        &mut self,
        batch: &[Sample],
        outcomes: &mut [SampleOutcome],
        error: Option<&Error>,
    ) {
        let alone = if let [alone] = batch { Some(id(alone)) } else { None };
        // If the connection has ended in the middle of a batch, what ended it is sent alone first.
        let is_good = outcomes.contains(&SampleOutcome::Acknowledged)
            && !error.is_some_and(|error| alone.is_none() && is_hangup(error));
        if is_good {
            self.in_a_row = 0;
            for (suspect, state) in &mut self.list {
                state.is_due |= alone.as_ref() != Some(suspect);
            }
        }
        self.is_others_turn = alone.as_ref().is_some_and(|alone| self.list.contains_key(alone));
        match (alone, outcomes) {
            (Some(alone), [outcome @ SampleOutcome::Open]) => {
                if error.is_some_and(is_hangup) && self.has_closed_at(alone) {
                    *outcome = SampleOutcome::ClosedOn;
                }
            }
            (Some(alone), _) => {
                self.list.shift_remove(&alone);
            }
            (None, _) => {}
        }
    }

    /// Notes that the server has closed the connection when this sample was alone. Returns true if it is
    /// proved that the sample is the reason.
    fn has_closed_at(&mut self, alone: (Key, i64)) -> bool {
        let Some(state) = self.list.get_mut(&alone) else {
            // The next sample of a poison key is no surprise.
            if self.list.keys().all(|(key, _)| *key != alone.0) {
                #[cfg(feature = "spool")]
                {
                    self.closed_at_others += 1;
                }
                self.list.values_mut().for_each(|state| state.proofs = 0);
            }
            if self.list.len() >= MAX_SUSPECTS {
                // It may not wait any more: a full queue drops its oldest.
                self.list.shift_remove_index(0);
            }
            self.list.insert(alone, SuspectState::default());
            self.in_a_row += 1;
            return false;
        };
        state.proofs += u32::from(std::mem::take(&mut state.is_due));
        let is_proved = state.proofs >= ENOUGH_PROOFS;
        if is_proved {
            self.list.shift_remove(&alone);
        }
        is_proved
    }
}

/// What a server keeps one value of.
fn id(sample: &Sample) -> (Key, i64) {
    (sample.key.clone(), sample.point.timestamp)
}

/// Returns true if the server has closed the connection, which may be due to what it was sent.
pub(super) fn is_hangup(error: &Error) -> bool {
    match error {
        Error::Batch(batch) => is_hangup(batch.first_error().1),
        Error::Connection { source: fault, .. } => {
            matches!(**fault, ConnectionError::Closed | ConnectionError::Io(_))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{self, Instant};

    use crate::{
        Reporter,
        reporter::{
            ReporterBuilder, ReporterStats,
            test_server::{TestServer, accounted},
        },
    };

    const LONG: Duration = Duration::from_secs(300);

    /// Longer than it takes to find out which sample it is.
    const SOON: Duration = Duration::from_secs(5);

    /// Sends samples among which are some at which the server closes, and says what became of them.
    async fn sent(
        retry: bool,
        tell: impl FnOnce(ReporterBuilder) -> ReporterBuilder,
    ) -> (Reporter, TestServer) {
        let server = TestServer::default();
        server.close_at("poison");
        let client = server.builder().resend_unacknowledged(retry).connect_lazy().unwrap();
        let reporter = tell(Reporter::builder(client)).start();
        for second in 0..100 {
            reporter.record_at("a", 0.5, second);
            if second % 40 == 20 {
                reporter.record_at("poison", 0.5, second);
            }
        }
        let unsent = reporter.flush(LONG).await.unwrap_err();
        assert_eq!((unsent.waiting, unsent.dropped), (0, 2), "{unsent}");
        (reporter, server)
    }

    #[track_caller]
    fn check(reporter: &Reporter, server: &TestServer) -> ReporterStats {
        let stats = accounted(reporter);
        assert_eq!((stats.acknowledged, stats.dropped.poison), (100, 2), "{stats:?}");
        assert_eq!(stats.dropped.total(), 2);
        let mut puts = server.puts();
        puts.sort_unstable();
        puts.dedup();
        assert_eq!(puts.len(), 100);
        stats
    }

    // FAULTS C12
    #[tokio::test(start_paused = true)]
    async fn poison_samples_are_counted_and_others_arrive() {
        let (reporter, server) = sent(true, |reporter| reporter).await;
        check(&reporter, &server);
    }

    // FAULTS C12
    #[tokio::test(start_paused = true)]
    async fn poison_samples_are_found_without_client_retries() {
        let (reporter, server) = sent(false, |reporter| reporter).await;
        check(&reporter, &server);
    }

    // FAULTS C12
    #[tokio::test(start_paused = true)]
    async fn live_samples_do_not_wait_behind_poison() {
        for retry in [true, false] {
            let server = TestServer::default();
            server.close_at("poison");
            let client = server.builder().resend_unacknowledged(retry).connect_lazy().unwrap();
            let reporter = Reporter::new(client);
            for second in 0..100 {
                reporter.record_at("poison", 0.5, second);
                reporter.record_at("live", 0.5, second);
                let recorded = Instant::now();
                server.has(&format!("live 0.5 {second}")).await;
                assert!(recorded.elapsed() < SOON, "{retry} {second} {:?}", recorded.elapsed());
                time::sleep(Duration::from_secs(1)).await;
            }
            accounted(&reporter);
        }
    }

    // FAULTS C12
    #[tokio::test(start_paused = true)]
    async fn live_samples_pass_any_number_of_poison_samples() {
        for keys in [1, 300] {
            let server = TestServer::default();
            server.close_at("poison");
            let client = server.builder().resend_unacknowledged(false).connect_lazy().unwrap();
            let reporter = Reporter::new(client);
            for second in 0..300 {
                reporter.record_at(format!("poison{}", second % keys), 0.5, second);
            }
            for second in 0..600 {
                reporter.record_at("live", 0.5, second);
                let recorded = Instant::now();
                server.has(&format!("live 0.5 {second}")).await;
                assert!(recorded.elapsed() < SOON, "{keys} {second} {:?}", recorded.elapsed());
                time::sleep(Duration::from_secs(1)).await;
            }
            let stats = accounted(&reporter);
            assert_eq!((stats.acknowledged, stats.dropped.poison), (600, 300), "{keys} {stats:?}");
        }
    }

    // FAULTS C12
    #[tokio::test(start_paused = true)]
    async fn server_that_closes_at_every_put_is_a_delay() {
        for retry in [true, false] {
            let server = TestServer::default();
            server.close_at("");
            let client = server.builder().resend_unacknowledged(retry).connect_lazy().unwrap();
            let reporter = Reporter::new(client);
            for second in 0..100 {
                reporter.record_at("a", 0.5, second);
            }
            time::sleep(LONG).await;
            assert_eq!(accounted(&reporter).waiting, 100);
            server.close_at("poison");
            reporter.flush(LONG).await.unwrap();
            assert_eq!(accounted(&reporter).acknowledged, 100);
        }
    }

    #[cfg(feature = "spool")]
    mod with_a_spool {
        use super::*;
        use crate::spool::Spool;

        // FAULTS C12
        #[tokio::test(start_paused = true)]
        async fn spooled_samples_pass_any_number_of_poison_samples() {
            let folder = tempfile::tempdir().unwrap();
            let server = TestServer::default();
            server.set_away(true);
            let client = server.builder().resend_unacknowledged(false).connect_lazy().unwrap();
            let spool = Spool::dir(folder.path());
            let reporter = Reporter::builder(client).spool(spool).unwrap().start();
            for second in 0..100 {
                reporter.record_at("poison", 0.5, second);
            }
            reporter.record_at("good", 0.5, 100);
            while accounted(&reporter).spooled < 101 {
                time::sleep(Duration::from_millis(100)).await;
            }
            server.close_at("poison");
            server.set_away(false);
            let _ = reporter.flush(10 * LONG).await;
            let stats = accounted(&reporter);
            assert_eq!((stats.acknowledged, stats.dropped.poison), (1, 100), "{stats:?}");
        }

        // FAULTS C12
        #[tokio::test(start_paused = true)]
        async fn spooled_poison_samples_are_counted_and_others_sent() {
            for retry in [true, false] {
                let folder = tempfile::tempdir().unwrap();
                let spool = Spool::dir(folder.path());
                let server = TestServer::default();
                server.set_away(true);
                let client = server.builder().resend_unacknowledged(retry).connect_lazy().unwrap();
                let reporter = Reporter::builder(client).spool(spool).unwrap().start();
                for second in 0..100 {
                    reporter.record_at("old", 0.5, second);
                    if second % 40 == 20 {
                        reporter.record_at("poison", 0.5, second);
                    }
                }
                while accounted(&reporter).spooled < 102 {
                    time::sleep(Duration::from_millis(100)).await;
                }
                server.close_at("poison");
                server.set_away(false);
                server.has("old 0.5 0").await;
                for second in 100..120 {
                    reporter.record_at("live", 0.5, second);
                    let recorded = Instant::now();
                    server.has(&format!("live 0.5 {second}")).await;
                    assert!(recorded.elapsed() < SOON, "{:?}", recorded.elapsed());
                    time::sleep(Duration::from_secs(1)).await;
                }
                server.has("old 0.5 99").await;
                let _ = reporter.flush(LONG).await;
                let stats = accounted(&reporter);
                assert_eq!((stats.acknowledged, stats.dropped.poison), (120, 2), "{retry}");
                assert_eq!((stats.waiting, stats.spooled), (0, 0));
            }
        }
    }
}
