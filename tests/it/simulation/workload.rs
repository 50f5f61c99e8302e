//! A task that puts and gets, and records the outcomes in the history.

use std::{sync::MutexGuard, time::Duration};

use fastrand::Rng;
use metrics_client::{Error, Metrics, MetricsClient, Sample, client::ClientStats};
use tokio::time::{self, Instant};

use super::{
    history::{self, History, PutId, PutOutcome, Reading},
    scenario::Scenario,
};
use crate::workload::{self, Call, Checker, put_sample};

/// One of a client's tasks. Agents share keys and seconds, those of other clients too.
#[derive(Clone, Debug)]
pub(super) struct SimAgent {
    pub(super) client: MetricsClient,
    pub(super) id: (usize, usize),
    pub(super) plan: Scenario,
    pub(super) history: history::SharedHistory,
    pub(super) tally: Tally,
}

/// How an agent's calls have ended, counted in requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Calls that were made.
    pub(super) made: u64,
    pub(super) acknowledged: u64,
    pub(super) rejected: u64,
    /// Certainly accepted, and ended with another error.
    pub(super) failed: u64,
    /// Any other: calls that were rejected at once, and calls that were dropped.
    pub(super) other: u64,
}

const KEYS: usize = 4;
const SECONDS: i64 = 5;

/// A deadline is met if a call ends so soon after it: the simulation's clock and the runtime's both
/// go by the millisecond.
pub(super) const TOLERANCE: Duration = Duration::from_millis(5);

impl SimAgent {
    /// Calls until the faults are over, or the client is closed.
    pub(super) async fn work(mut self) -> Tally {
        while turmoil::sim_elapsed().unwrap_or_default() < self.plan.faults && !self.is_closing() {
            self.call().await;
            self.check_stats();
            if fastrand::u8(..4) == 0 {
                time::sleep(Duration::from_millis(fastrand::u64(..100))).await;
            }
        }
        self.tally
    }

    async fn call(&mut self) {
        if fastrand::u8(..16) == 0 {
            return self.stream().await;
        }
        // Its seed comes from that of the simulation.
        let call = Call::random(&mut Rng::new(), 40, (0..KEYS).map(key_name));
        let client = self.client.clone();
        workload::make(call, &client, self).await;
    }

    /// Puts until it works, for so long at most. It does so also if this caller is refused because the
    /// client is busy with those of others.
    pub(super) async fn recover(&mut self, limit: Duration) {
        let (begun, before) = (Instant::now(), self.client.stats().acknowledged);
        loop {
            let (put, sample) = self.begin_put();
            let result = {
                let client = self.client.clone();
                self.in_time(put_sample(&client, &sample)).await
            };
            let is_busy = matches!(&result, Err(Error::QueueFull { .. }))
                && self.client.stats().acknowledged > before;
            let works = result.is_ok() || is_busy;
            self.end_put(put, Some(result));
            if works || begun.elapsed() > limit {
                break;
            }
            // It may have failed at once.
            time::sleep(Duration::from_millis(5)).await;
        }
        let (taken, plan) = (begun.elapsed(), &self.plan);
        if taken > limit {
            let violation = format!("works again after {taken:?}, not {limit:?}, with {plan:?}");
            self.history().violation(violation);
        }
    }

    async fn stream(&mut self) {
        let reading = self.history().begin_get(self.id, None);
        let opening = self.plan.connect_timeout + self.plan.request_timeout;
        let mut stream = match self.within(opening, self.client.stream("*")).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return self.check_stream_error(&error),
            None => return,
        };
        let mut found = Vec::new();
        loop {
            match self.within(self.plan.request_timeout, stream.next()).await {
                Some(Some(Ok(sample))) => found.push(sample),
                Some(Some(Err(error))) => return self.check_stream_error(&error),
                Some(None) => break,
                None => return,
            }
        }
        self.history().end_get(reading, &found.into_iter().collect::<Metrics>());
    }

    fn count<T>(&mut self, result: Option<&Result<T, Error>>) {
        let counter = match result {
            Some(Ok(_)) => &mut self.tally.acknowledged,
            Some(Err(Error::Rejected { .. })) => &mut self.tally.rejected,
            Some(Err(Error::Timeout { .. } | Error::Connection { .. })) => &mut self.tally.failed,
            _ => &mut self.tally.other,
        };
        *counter += 1;
    }

    async fn within<T>(&self, limit: Duration, call: impl Future<Output = T>) -> Option<T> {
        let begun = Instant::now();
        let result = if fastrand::u8(..5) == 0 {
            let patience = self.plan.request_timeout.mul_f64(fastrand::f64() / 2.0);
            time::timeout(patience, call).await.ok()
        } else {
            Some(call.await)
        };
        self.check_deadline(begun, limit);
        result
    }

    fn check_deadline(&self, begun: Instant, limit: Duration) {
        let taken = begun.elapsed();
        if taken > limit + TOLERANCE {
            let id = self.id;
            self.history()
                .violation(format_args!("a call of {id:?} took {taken:?}, not {limit:?}"));
        }
    }

    /// The network may fail, the queue be full and the store refuse, if that is what this simulation
    /// has; but all is sound that was sent, and a client that tries again fails with its deadline,
    /// unless the request seems to be the cause of it all.
    fn check_error(&self, error: &Error, is_cause: bool) {
        let is_sound = match error {
            Error::Timeout { timeout: after, .. } => *after == self.plan.request_timeout,
            Error::QueueFull { limit, .. } => {
                self.plan.fails_when_full && *limit == self.plan.max_buffered_bytes
            }
            Error::Connection { .. } if error.is_closed_on_request() => is_cause,
            Error::Connection { source: fault, .. } => {
                !self.plan.retry && !fault.is_protocol_violation()
            }
            Error::Rejected { message, .. } => **message == *"disk full",
            Error::Closed { .. } => self.is_closing(),
            _ => false,
        };
        if !is_sound {
            self.history().violation(format_args!("{error:?} with {:?}", self.plan));
        }
    }

    fn check_closed_on(&self, is_cause: bool) {
        if !is_cause {
            self.history().violation(format_args!("a sound sample ends connections"));
        }
    }

    fn check_stream_error(&self, error: &Error) {
        let is_sound = match error {
            Error::Connect { .. } | Error::Timeout { .. } => true,
            Error::Connection { source: fault, .. } => !fault.is_protocol_violation(),
            error => return self.check_error(error, false),
        };
        if !is_sound {
            self.history().violation(format_args!("a stream ends with {error:?}"));
        }
    }

    fn check_stats(&self) {
        let stats = self.client.stats();
        let most = self.plan.max_in_flight as u64;
        if !adds_up(&stats) || stats.in_flight > most {
            self.history().violation(format_args!("{stats:?}"));
        }
    }

    fn is_closing(&self) -> bool {
        self.plan.close_at.is_some_and(|at| turmoil::sim_elapsed().unwrap_or_default() >= at)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }
}

impl Checker for SimAgent {
    type Put = PutId;
    type Get = Reading;

    fn begin_put(&mut self) -> (PutId, Sample) {
        self.tally.made += 1;
        let key = key_name(fastrand::usize(..KEYS));
        self.history().begin_put(self.id, &key, fastrand::i64(0..SECONDS))
    }

    fn end_put(&mut self, put: PutId, result: Option<Result<(), Error>>) {
        self.count(result.as_ref());
        if let Some(Err(error)) = &result {
            let is_cause = self.history().seems_to_be_the_cause(put);
            self.check_error(error, is_cause);
        }
        self.history().end_put(put, result.as_ref().map_or(PutOutcome::Unknown, PutOutcome::from));
    }

    fn end_put_all(&mut self, puts: &[PutId], result: Option<Result<(), Error>>) {
        let count = puts.len();
        let (stored, outcome) = match &result {
            Some(Ok(())) => (count, PutOutcome::Acknowledged),
            Some(Err(Error::Batch(batch))) => {
                if batch.total() != count || batch.acknowledged() < batch.first_error().0 {
                    self.history().violation(format_args!("{batch:?} of {count} samples"));
                }
                for &at in batch.closed_on() {
                    self.check_closed_on(self.history().seems_to_be_the_cause(puts[at]));
                }
                self.check_error(batch.first_error().1, !batch.closed_on().is_empty());
                (batch.acknowledged(), PutOutcome::from(&Err(batch.first_error().1.clone())))
            }
            Some(Err(error)) => {
                self.history().violation(format_args!("put_all fails with {error:?}"));
                return;
            }
            None => (0, PutOutcome::Unknown),
        };
        self.tally.acknowledged += stored as u64;
        self.tally.other += (count - stored) as u64;
        let first_failed = match &result {
            Some(Err(Error::Batch(batch))) => batch.first_error().0,
            _ => stored,
        };
        let none_was_sent =
            result.is_some_and(|result| PutOutcome::from(&result) == PutOutcome::NotSent);
        for (at, &put) in puts.iter().enumerate() {
            let outcome = if at < first_failed {
                PutOutcome::Acknowledged
            } else if at == first_failed || none_was_sent {
                outcome
            } else {
                PutOutcome::Unknown
            };
            self.history().end_put(put, outcome);
        }
    }

    fn begin_get(&mut self, key: Option<&str>) -> Reading {
        self.tally.made += 1;
        self.history().begin_get(self.id, key)
    }

    fn end_get(&mut self, reading: Reading, result: Option<Result<Metrics, Error>>) {
        self.count(result.as_ref());
        match result {
            Some(Ok(found)) => self.history().end_get(reading, &found),
            Some(Err(error)) => {
                let is_cause = self.history().get_seems_to_be_the_cause(&reading);
                self.check_error(&error, is_cause);
            }
            None => {}
        }
    }

    async fn in_time<T: Send>(&mut self, call: impl Future<Output = T> + Send) -> T {
        let (limit, begun) = (self.plan.request_timeout, Instant::now());
        let result = call.await;
        self.check_deadline(begun, limit);
        result
    }

    async fn patiently<T: Send>(
        &mut self,
        requests: u32,
        call: impl Future<Output = T> + Send,
    ) -> Option<T> {
        self.within(self.plan.request_timeout * requests, call).await
    }
}

pub(super) fn adds_up(stats: &ClientStats) -> bool {
    let ClientStats {
        accepted, acknowledged, rejected, failed, cancelled, in_flight, queued, ..
    } = *stats;
    accepted == acknowledged + rejected + failed + cancelled + in_flight + queued
}

fn key_name(at: usize) -> String {
    ["palm.cpu", "eardrum.memory", "ключ", "k"][at].to_string()
}
