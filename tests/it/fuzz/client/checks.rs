//! Checks how a call ended.

use std::time::Duration;

use metrics_client::{
    Delivery, Error, Sample,
    codec::{InvalidResponse, Response},
};
use tokio::time::Instant;

use super::{
    CLOSE_TIMEOUT, CONNECT_TIMEOUT, SHORTEST, SLACK,
    state::{Ask, CallResult, ScriptState},
    transcript::{Asked, DecodedAnswer},
};

/// A call that has ended, with what was known when it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) tag: usize,
    pub(super) since: Instant,
    /// Whether the client was closing already.
    pub(super) was_late: bool,
}

impl ScriptState {
    pub(super) fn judge(&self, call: Ended, outcome: &CallResult) {
        let ask = self.calls[call.tag].ask;
        let taken = call.since.elapsed();
        let limit = self.limit(ask);
        assert!(taken <= limit + SLACK, "{ask:?} took {taken:?}: {outcome:?}");
        if call.was_late && ask != Ask::Nonsense {
            let closed = matches!(
                outcome,
                Err(Error::Closed { .. } | Error::RuntimeGone { .. } | Error::CannotDial)
            );
            assert!(closed, "{ask:?} after the close: {outcome:?}");
        }
        match outcome {
            Err(Error::Timeout { timeout: after, .. }) => {
                assert!(taken >= *after, "{ask:?}: {taken:?}");
            }
            Err(Error::QueueFull { .. }) => {
                assert_eq!(self.rules.overflow, metrics_client::client::WhenFull::Fail);
            }
            Err(Error::Closed { .. } | Error::RuntimeGone { .. }) => {
                assert!(
                    self.closing || self.rules.may_give_up(),
                    "{ask:?}: the client was not closed"
                );
            }
            _ => {}
        }
        match ask {
            Ask::Put | Ask::PutNow | Ask::Get => self.judge_one(call.tag, ask, outcome),
            Ask::GetAll => self.judge_all(outcome),
            Ask::Batch(_) | Ask::Stream => self.is_excused(ask, outcome),
            Ask::Nonsense => {
                let refused =
                    matches!(outcome, Err(Error::InvalidKey(_) | Error::NonFiniteValue(_)));
                assert!(refused, "{outcome:?}");
            }
        }
        if let Err(error) = outcome
            && error.delivery() == Delivery::NotSent
            && !matches!(ask, Ask::GetAll | Ask::Batch(_) | Ask::Stream)
        {
            assert!(!self.was_seen(&ask.text(call.tag, 0)), "{ask:?} was sent: {error:?}");
        }
    }

    /// How long a call may take.
    fn limit(&self, ask: Ask) -> Duration {
        match ask {
            Ask::Batch(samples) => self.rules.request_timeout * u32::try_from(samples + 1).unwrap(),
            Ask::Stream => CONNECT_TIMEOUT + self.rules.request_timeout,
            _ => self.rules.request_timeout,
        }
    }

    /// The outcome is what the server has answered to this request, and if it has, that is the outcome.
    fn judge_one(&self, tag: usize, ask: Ask, outcome: &CallResult) {
        if let Err(Error::ResponseTooLarge { .. }) = outcome {
            // As soon as it is, and as late as it ends.
            return self.is_excused(ask, outcome);
        }
        let said = || self.answers(Asked::One(tag));
        if is_final(outcome) {
            let all = said().map(|(_, response)| response).collect::<Vec<_>>();
            assert!(
                all.iter().any(|response| says(response, outcome)),
                "{outcome:?} is not {all:?}"
            );
        } else {
            let now = Instant::now();
            let unheard = said().find(|(at, _)| *at < now);
            assert!(unheard.is_none(), "{unheard:?} became {outcome:?}");
            self.is_excused(ask, outcome);
        }
    }

    /// As of one request, but that they all look alike.
    fn judge_all(&self, outcome: &CallResult) {
        if is_final(outcome) {
            let said = self.answers(Asked::All).any(|(_, response)| says(response, outcome));
            assert!(said, "no response says {outcome:?}");
        } else {
            self.is_excused(Ask::GetAll, outcome);
        }
    }

    /// Nothing goes wrong as long as every server is prompt.
    fn is_excused(&self, ask: Ask, outcome: &CallResult) {
        let Err(error) = outcome else { return };
        let cause = match error {
            Error::Batch(batch) => batch.first_error().1,
            error => error,
        };
        let expected = !self.all_are_prompt
            || self.rules.request_timeout == SHORTEST
            || matches!(
                cause,
                Error::QueueFull { .. } | Error::Closed { .. } | Error::RuntimeGone { .. }
            )
            || matches!(cause, Error::CannotDial if ask == Ask::Stream)
            // Only what is longer than allowed goes wrong with a prompt server.
            || (self.rules.max_response_bytes < 100
                && matches!(cause, Error::ResponseTooLarge { .. }));
        assert!(expected, "{ask:?} failed, and every server is prompt: {error:?}");
    }

    pub(super) fn judge_batch(&self, tag: usize, total: usize, outcome: &Result<(), Error>) {
        let now = Instant::now();
        let is_stored = |index, until: &dyn Fn(Instant) -> bool| {
            self.answers(Asked::Sample(tag, index))
                .any(|(at, response)| matches!(response, Ok(Response::Ok(_))) && until(at))
        };
        let count = |until: &dyn Fn(Instant) -> bool| {
            (0..total).filter(|&index| is_stored(index, until)).count()
        };
        match outcome {
            Ok(()) => assert_eq!(count(&|_| true), total, "not all are stored"),
            Err(Error::Batch(batch)) => {
                let (acknowledged, (first_failed, _)) = (batch.acknowledged(), batch.first_error());
                assert_eq!(batch.total(), total);
                assert!(acknowledged <= count(&|_| true), "{batch:?}");
                assert!(acknowledged >= count(&|at| at < now), "{batch:?}");
                assert!(!is_stored(first_failed, &|at| at < now), "{batch:?}");
                for index in 0..first_failed {
                    assert!(is_stored(index, &|_| true), "{index} is not stored: {batch:?}");
                }
            }
            Err(error) => panic!("a batch never fails as a whole: {error:?}"),
        }
    }

    /// What came over a stream is what its connection said.
    pub(super) fn judge_stream(&self, tag: usize, samples: Vec<Sample>, end: &Result<(), Error>) {
        let said = self.streamed(tag);
        let agrees = match (end, said) {
            (Ok(()), Some(Ok(Response::Ok(metrics)))) => {
                format!("{metrics:?}")
                    == format!("{:?}", samples.into_iter().collect::<metrics_client::Metrics>())
            }
            (Ok(()), _) => false,
            (Err(Error::Rejected { message, .. }), Some(Ok(Response::Error(said)))) => {
                **message == **said
            }
            (Err(Error::InvalidResponse(_)), Some(Err(InvalidResponse::Record(_)))) => true,
            (Err(Error::Rejected { .. } | Error::InvalidResponse(_)), _) => false,
            (Err(_), _) => true,
        };
        assert!(agrees, "a stream ended with {end:?} where the server said {said:?}");
        self.is_excused(Ask::Stream, &end.clone().map(|()| None));
    }

    /// A client that was closed has nothing left, and has not taken longer than it may.
    pub(super) fn judge_close(&self, since: Instant, stats: &metrics_client::client::ClientStats) {
        let taken = since.elapsed();
        let limit = self.rules.request_timeout + CLOSE_TIMEOUT + SLACK;
        assert!(taken <= limit, "closing took {taken:?}");
        assert_eq!((stats.in_flight, stats.queued), (0, 0));
    }
}

/// Whether the server has answered.
fn is_final(outcome: &CallResult) -> bool {
    matches!(outcome, Ok(_) | Err(Error::Rejected { .. } | Error::InvalidResponse(_)))
}

fn says(response: &DecodedAnswer, outcome: &CallResult) -> bool {
    match (response, outcome) {
        (Ok(Response::Ok(metrics)), Ok(None)) => metrics.is_empty(),
        // As text, in which NaN equals itself.
        (Ok(Response::Ok(said)), Ok(Some(got))) => format!("{said:?}") == format!("{got:?}"),
        (Ok(Response::Error(said)), Err(Error::Rejected { message, .. })) => **said == **message,
        (Err(InvalidResponse::Record(_)), Err(Error::InvalidResponse(_))) => true,
        _ => false,
    }
}
