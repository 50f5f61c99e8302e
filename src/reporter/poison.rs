//! The keys at whose samples the server closes the connection.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::{
    client::{ENOUGH_PROOFS, SampleOutcome},
    error::{ConnectionError, Error},
    metric::{Key, Point, Sample},
};

/// Remembers keys, so that each is logged once.
#[derive(Debug, Default)]
pub(super) struct PoisonKeys(Mutex<HashSet<Key>>);

/// So many keys are logged in the life of a reporter: enough to find the fault, and few enough that
/// names which strangers choose fill neither the log nor the memory.
const MAX_KEYS: usize = 100;

impl PoisonKeys {
    /// Remembers the key, and says whether it is to be logged.
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
                "dropped a sample: the server closes the connection at it"
            );
        }
    }
}

/// Samples of which each was alone when the server closed the connection, for a client that does not
/// find out by itself at which request that happens, because it was told not to retry.
///
/// A suspect is passed over until the server has acknowledged another sample, and then sent alone once
/// more: if the server closes the connection again, that is a proof. A server that closes whatever it is
/// sent acknowledges nothing, so that there it is a delay. For one that fails at random, the proofs have
/// to come in a row, as many as the client needs: they are void once the server has closed at a sample
/// of another key that was alone.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    list: Vec<Suspect>,
    /// How often the server has closed the connection at a sample alone of no suspect's key.
    #[cfg(feature = "spool")]
    closed_at_others: u64,
}

#[derive(Debug)]
struct Suspect {
    key: Key,
    timestamp: i64,
    /// How often the server has closed the connection at it, after it had acknowledged another.
    proofs: u32,
    /// Whether the server has acknowledged another since it was sent last.
    is_due: bool,
}

/// So many are passed over at most.
const MAX_SUSPECTS: usize = 64;

impl Suspects {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    #[cfg(feature = "spool")]
    pub(super) fn closed_at_others(&self) -> u64 {
        self.closed_at_others
    }

    /// Whether the sample is a suspect, or would replace one.
    pub(super) fn contains(&self, sample: &Sample) -> bool {
        self.list.iter().any(|suspect| suspect.is(sample))
    }

    /// Whether the sample is the suspect that is to be sent next, if it is `due` or any.
    pub(super) fn is_next(&self, sample: &Sample, due: bool) -> bool {
        let next = self.list.iter().find(|suspect| suspect.is_due || !due);
        next.is_some_and(|suspect| suspect.is(sample))
    }

    /// Whether a suspect is to be sent.
    pub(super) fn has_due(&self) -> bool {
        self.list.iter().any(|suspect| suspect.is_due)
    }

    /// The suspects that were due are not there any more.
    pub(super) fn forget_due(&mut self) {
        self.list.retain(|suspect| !suspect.is_due);
    }

    /// Learns from a batch that was sent, and notes in its outcomes if it is proved that the server
    /// closes at the only one.
    pub(super) fn judge(
        &mut self,
        batch: &[Sample],
        outcomes: &mut [SampleOutcome],
        error: Option<&Error>,
    ) {
        let alone = if let [alone] = batch { Some(alone) } else { None };
        // If the connection has ended in the middle of a batch, what ended it is sent alone first.
        let is_good = outcomes.contains(&SampleOutcome::Acknowledged)
            && !error.is_some_and(|error| alone.is_none() && is_hangup(error));
        if is_good {
            for suspect in &mut self.list {
                suspect.is_due |= !alone.is_some_and(|alone| suspect.is(alone));
            }
        }
        match (alone, outcomes) {
            (Some(alone), [outcome @ SampleOutcome::Open]) => {
                if error.is_some_and(is_hangup) && self.has_closed_at(alone) {
                    *outcome = SampleOutcome::ClosedOn;
                }
            }
            (Some(alone), _) => self.list.retain(|suspect| !suspect.is(alone)),
            (None, _) => {}
        }
    }

    /// The server has closed the connection when this sample was alone. Whether it is proved that it is
    /// due to the sample.
    fn has_closed_at(&mut self, sample: &Sample) -> bool {
        let Some(place) = self.list.iter().position(|suspect| suspect.is(sample)) else {
            // The next sample of a poison key is no surprise.
            if self.list.iter().all(|suspect| suspect.key != sample.key) {
                #[cfg(feature = "spool")]
                {
                    self.closed_at_others += 1;
                }
                self.list.iter_mut().for_each(|suspect| suspect.proofs = 0);
            }
            if self.list.len() < MAX_SUSPECTS {
                let (key, timestamp) = (sample.key.clone(), sample.point.timestamp);
                self.list.push(Suspect { key, timestamp, proofs: 0, is_due: false });
            }
            return false;
        };
        let suspect = &mut self.list[place];
        suspect.proofs += u32::from(std::mem::take(&mut suspect.is_due));
        let is_proved = suspect.proofs >= ENOUGH_PROOFS;
        if is_proved {
            self.list.remove(place);
        }
        is_proved
    }
}

impl Suspect {
    fn is(&self, sample: &Sample) -> bool {
        self.timestamp == sample.point.timestamp && self.key == sample.key
    }
}

/// Whether the server has closed the connection, so that it may be due to what it was sent.
pub(super) fn is_hangup(error: &Error) -> bool {
    match error {
        Error::Batch(batch) => is_hangup(&batch.error),
        Error::Connection { fault, .. } => {
            matches!(**fault, ConnectionError::ClosedByServer | ConnectionError::Io(_))
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
    async fn poison_samples_are_counted_and_the_others_arrive() {
        let (reporter, server) = sent(true, |reporter| reporter).await;
        check(&reporter, &server);
    }

    // FAULTS C12
    #[tokio::test(start_paused = true)]
    async fn poison_samples_are_found_where_the_client_does_not_retry() {
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
    async fn a_server_that_closes_at_whatever_it_is_sent_is_a_delay() {
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
        async fn poison_samples_in_the_spool_are_counted_and_the_others_arrive() {
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
