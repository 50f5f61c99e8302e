//! Finds the request at which a server closes the connection.
//!
//! An exception in a server's handler closes the connection: the commonest fault in the field. The
//! request is retried, and ends the next connection, and so on, while everything behind it waits.
//! But a server that is restarting, or a balancer without backends, closes whatever it is asked, and
//! there a retry is right.
//!
//! So a request that has ended two connections without an answer is a suspect. The next connection
//! asks something else first: for a key that does not exist; and, if the suspect is a put, it sends
//! another put that waits, for a server whose disk is full answers gets. If both are answered, and
//! then the suspect, alone in flight, ends this connection too, that is a proof. A server that fails at
//! random gives one too, now and then: only [`ENOUGH_PROOFS`] of them in a row show that it is the
//! request.
//!
//! A server may lose answers that it owed to earlier requests when it closes, so what was in flight
//! is sent few requests at a time until all of it is answered. That is how the search gets from the
//! oldest request to the one behind it that is to blame.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time,
};
use tokio_util::codec::Decoder;

use super::{
    connector::Connector,
    dialer::{Connected, Dialer},
    pipeline::{RequestId, RequestKind},
    shared::Shared,
};
use crate::{
    error::ConnectionError,
    protocol::{ClientCodec, ReceivedResponse, Response},
};

/// How many connections a request must have ended before it is a suspect. One is an accident, such
/// as a server's restart.
const ENOUGH_LOSSES: u32 = 2;

/// How many connections in a row a request must have ended on which the server had answered others.
///
/// A server whose store fails at random, at a share `q` of its requests, ends a connection with proof
/// with the odds `q : 1 - q` to an answer for the suspect, and otherwise fails at what it is asked
/// first, which begins the count again. With `a = (1 - q)² q (1 + q²)` for a proof and
/// `c = (1 - q)³ (1 + q²)` for an answer (`q²`: the put that is sent ahead is sent again if it fails),
/// the client is wrong about a suspect with the probability `aⁿ / (aⁿ + c (1 + a + … + aⁿ⁻¹))`. The worst
/// `q` is about a half. There one proof is wrong at 1 of 2 suspects, 3 are at 1 of 50, and 5 at 1 of
/// 2,000; where a tenth of the requests fails, 5 are wrong at 1 of 200,000. A proof costs four round
/// trips and no wait.
pub(crate) const ENOUGH_PROOFS: u32 = 5;

/// How often the number of requests doubles that are skipped to find one that the server answers: to
/// 1,023, so that the search gets past as many in a row that end connections.
const MAX_SKIPS: u32 = 10;

/// Which request is suspected, and how the search for it goes on.
#[derive(Debug, Default)]
pub(super) struct Search {
    suspect: Option<SuspectRequest>,
    /// Up to this request, few may be in flight at once.
    narrow_until: Option<RequestId>,
    /// How many requests had been finished when the connection was made.
    finished_before: u64,
    /// How often a put that was sent ahead has not been acknowledged.
    skips: u32,
}

#[derive(Clone, Copy, Debug)]
struct SuspectRequest {
    request: RequestId,
    losses: u32,
    /// How many connections in a row it has ended, alone, after the server had answered others.
    proofs: u32,
    /// Whether the server answered it with `error` before it closed.
    was_rejected: bool,
}

/// A connection that has ended, as the search sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLoss {
    /// The request whose answer was due.
    pub(super) due: Option<RequestId>,
    /// The request that was sent last.
    pub(super) last: Option<RequestId>,
    /// Whether no other request was in flight.
    pub(super) was_alone: bool,
    /// Whether the server had proved on this connection that it answers others.
    pub(super) had_proof: bool,
}

/// What a connection is to be asked before it gets requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Two gets for keys that do not exist.
    Gets,
    /// Such a get, and a put that waits behind `skip` others.
    Put { skip: usize },
}

/// A connection that has been made.
pub(super) struct Dialed<Io> {
    pub(super) io: Io,
    /// The index of the server that it leads to.
    pub(super) server: usize,
    /// Whether the server has answered a question on it, or on the one before it.
    pub(super) has_answered: bool,
    /// Whether it has shown that it answers requests of the suspect's kind.
    pub(super) has_proof: bool,
}

impl Search {
    /// Takes note of a connection that has ended. Returns true if the request that was due is the
    /// one at which the server closes.
    pub(super) fn lost(&mut self, fault: &ConnectionError, loss: ConnectionLoss) -> bool {
        let was_rejected = matches!(fault, ConnectionError::Rejected { .. });
        let is_hangup = matches!(fault, ConnectionError::Closed | ConnectionError::Io(_));
        if !is_hangup && !was_rejected {
            *self = Self::default();
            return false;
        }
        let Some(request) = loss.due else {
            return false;
        };
        let before = self.suspect.filter(|suspect| suspect.request == request);
        let (losses, proofs) = before.map_or((0, 0), |suspect| (suspect.losses, suspect.proofs));
        let is_proof = is_hangup && loss.had_proof && loss.was_alone;
        let proofs = if is_proof { proofs + 1 } else { 0 };
        if proofs >= ENOUGH_PROOFS {
            // The next one may be behind it, among as many that show nothing: skip those again.
            self.suspect = None;
            return true;
        }
        if before.is_none() && self.suspect.is_some() {
            self.skips = 0;
        }
        // What happens to a request alone, with proof, counts for more than one loss; and so does a
        // rejection, for it may be final.
        let weight = if is_proof || was_rejected { ENOUGH_LOSSES } else { 1 };
        let losses = losses.saturating_add(weight);
        self.suspect = Some(SuspectRequest { request, losses, proofs, was_rejected });
        if losses >= ENOUGH_LOSSES {
            self.narrow_until = self.narrow_until.max(loss.last);
        }
        false
    }

    /// Takes note of a connection that could not be made, or on which the server did not answer what
    /// it was asked first: what it does at the suspect shows nothing any more.
    pub(super) fn on_connect_failed(&mut self) {
        if let Some(suspect) = &mut self.suspect {
            suspect.proofs = 0;
        }
        if self.is_on() {
            // The first put behind may be no better: look further each time.
            self.skips = (self.skips + 1).min(MAX_SKIPS);
        }
    }

    /// Returns what the next connection is to be asked first, given the oldest request.
    pub(super) fn next_check(
        &self,
        oldest: Option<(RequestId, RequestKind)>,
        has_witness: impl FnOnce() -> bool,
    ) -> Option<Check> {
        let (request, kind) = oldest?;
        let suspect = self.suspect.filter(|suspect| suspect.request == request);
        let is_due = self.is_narrow(Some(request))
            || suspect.is_some_and(|suspect| suspect.losses >= ENOUGH_LOSSES);
        if !is_due {
            return None;
        }
        if kind == RequestKind::Get || suspect.is_some_and(|suspect| suspect.was_rejected) {
            return Some(Check::Gets);
        }
        let skip = (1 << self.skips) - 1;
        // Without another put nothing can be proved, and no other put waits.
        has_witness().then_some(Check::Put { skip })
    }

    /// Notes that a connection has been made, when this number of requests was finished.
    pub(super) fn connected(&mut self, finished: u64) {
        self.finished_before = finished;
    }

    /// Returns true while a search goes on.
    pub(super) fn is_on(&self) -> bool {
        self.narrow_until.is_some()
    }

    /// Returns how many requests may be in flight, of the `limit` that there may be otherwise: at
    /// first one, and one more for each answer, which doubles it with each round trip.
    pub(super) fn window(
        &mut self,
        limit: usize,
        oldest: Option<RequestId>,
        finished: u64,
    ) -> usize {
        if !self.is_narrow(oldest) {
            self.narrow_until = None;
            return limit;
        }
        let answered = usize::try_from(finished - self.finished_before).unwrap_or(usize::MAX);
        limit.min(answered.saturating_add(1))
    }

    /// Returns how many puts a batch should have in the queue, so that there is one to ask with.
    pub(super) fn wanted_puts(&self) -> usize {
        if self.is_on() { 4 << (self.skips + 1).min(MAX_SKIPS) } else { 0 }
    }

    fn is_narrow(&self, oldest: Option<RequestId>) -> bool {
        matches!((oldest, self.narrow_until), (Some(oldest), Some(until)) if oldest <= until)
    }
}

/// How long an answer may take, and how many bytes it may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckLimits {
    pub(super) time: Duration,
    pub(super) bytes: usize,
}

/// Makes a connection, and asks what is to be asked first.
pub(super) async fn dial<C: Connector>(
    dialer: Arc<Dialer<C>>,
    shared: Arc<Shared>,
    check: Option<Check>,
    limits: CheckLimits,
) -> Result<Dialed<C::Io>, ConnectionError> {
    let Connected { mut io, server } = dialer.dial().await.map_err(|cause| dialer.fault(cause))?;
    let redial = async || dialer.dial_server(server).await.map_err(|cause| dialer.fault(cause));
    let Some(check) = check else {
        return Ok(Dialed { io, server, has_answered: false, has_proof: false });
    };
    let first = ask(&mut io, &harmless(), limits).await?;
    let second = || match check {
        Check::Gets => (harmless(), true),
        Check::Put { skip } => match shared.pipeline().witness(skip) {
            Some(put) => (put, true),
            None => (harmless(), false),
        },
    };
    let (mut question, mut proves) = second();
    let mut closes_after_answer = false;
    let mut answer = ask(&mut io, &question, limits).await;
    if let (Err(ConnectionError::Closed | ConnectionError::Io(_)), Ok(Response::Error(message))) =
        (&answer, &first)
    {
        return Err(ConnectionError::Rejected { message: message.as_str().into() });
    }
    if let Err(ConnectionError::Closed | ConnectionError::Io(_)) = answer {
        // Perhaps it closes after each answer: then it does so after this one.
        closes_after_answer = true;
        io = redial().await?;
        // The put may have ended since, and must not be sent any more.
        (question, proves) = second();
        answer = ask(&mut io, &question, limits).await;
        if answer.is_ok() && ask(&mut io, &harmless(), limits).await.is_ok() {
            return Err(ConnectionError::Closed);
        }
    }
    let is_put = matches!(check, Check::Put { .. }) && proves;
    let has_proof = match answer? {
        Ok(Response::Error(_)) => proves && !is_put,
        Ok(Response::Ok(metrics)) if is_put && metrics.is_empty() => true,
        _ if is_put => return Err(ConnectionError::UnexpectedData),
        _ => proves,
    };
    if closes_after_answer {
        io = redial().await?;
    }
    Ok(Dialed { io, server, has_answered: true, has_proof })
}

/// A get for a key that nothing is stored under.
fn harmless() -> Box<[u8]> {
    format!("get hangup-probe.{:016x}\n", fastrand::u64(..)).into_bytes().into()
}

/// Asks, and waits for one answer and nothing else.
async fn ask(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    question: &[u8],
    limits: CheckLimits,
) -> Result<ReceivedResponse, ConnectionError> {
    let conversation = async {
        // A server that rejects the connection may have said why before it closed.
        let written = match io.write_all(question).await {
            Ok(()) => io.flush().await,
            Err(error) => Err(error),
        };
        let mut codec = ClientCodec::with_max_response_bytes(limits.bytes);
        let mut buffer = BytesMut::new();
        loop {
            if let Some(response) = codec.decode(&mut buffer)? {
                let is_over = buffer.iter().all(|&byte| byte == b'\n');
                return if is_over { Ok(response) } else { Err(ConnectionError::Unsolicited) };
            }
            if io.read_buf(&mut buffer).await.map_err(ConnectionError::Io)? == 0 {
                return Err(written.map_or_else(ConnectionError::Io, |()| ConnectionError::Closed));
            }
        }
    };
    let late = |_| Err(ConnectionError::Stalled { timeout: limits.time });
    time::timeout(limits.time, conversation).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: ConnectionError = ConnectionError::Closed;

    fn request(seq: u64) -> RequestId {
        RequestId::new(seq, 0)
    }

    fn loss(due: u64, last: u64, had_proof: bool) -> ConnectionLoss {
        let (due, last) = (request(due), request(last));
        ConnectionLoss { due: Some(due), last: Some(last), was_alone: due == last, had_proof }
    }

    fn check(search: &Search, oldest: u64, kind: RequestKind) -> Option<Check> {
        search.next_check(Some((request(oldest), kind)), || true)
    }

    #[test]
    fn request_is_found_after_two_losses_and_proofs() {
        let mut search = Search::default();
        assert!(!search.lost(&CLOSED, loss(1, 1, false)));
        assert_eq!(check(&search, 1, RequestKind::Get), None);
        assert!(!search.lost(&CLOSED, loss(1, 1, false)));
        for _ in 1..ENOUGH_PROOFS {
            assert_eq!(check(&search, 1, RequestKind::Get), Some(Check::Gets));
            assert!(!search.lost(&CLOSED, loss(1, 1, true)));
        }
        assert!(search.lost(&CLOSED, loss(1, 1, true)));
        // The next one is as good as any.
        assert_eq!(check(&search, 2, RequestKind::Get), None);
    }

    #[test]
    fn proofs_count_only_in_a_row() {
        let mut search = Search::default();
        let interruptions: [fn(&mut Search); 3] = [
            Search::on_connect_failed,
            |search| assert!(!search.lost(&CLOSED, loss(1, 1, false))),
            |search| assert!(!search.lost(&CLOSED, loss(1, 2, true))),
        ];
        for interrupt in interruptions {
            for _ in 1..ENOUGH_PROOFS {
                assert!(!search.lost(&CLOSED, loss(1, 1, true)));
            }
            interrupt(&mut search);
        }
        for _ in 1..ENOUGH_PROOFS {
            assert!(!search.lost(&CLOSED, loss(1, 1, true)));
        }
        assert!(search.lost(&CLOSED, loss(1, 1, true)));
    }

    #[test]
    fn nothing_is_found_without_proof_or_among_several() {
        let mut search = Search::default();
        for _ in 0..10 {
            assert!(!search.lost(&CLOSED, loss(1, 1, false)));
            assert!(!search.lost(&CLOSED, loss(1, 2, true)));
        }
        // Another kind of end is another story.
        assert!(!search.lost(&ConnectionError::Unsolicited, loss(1, 1, true)));
        assert!(!search.lost(&CLOSED, loss(1, 1, true)));
    }

    #[test]
    fn puts_to_ask_with_are_looked_for_ever_further_behind() {
        let mut search = Search::default();
        assert!(!search.lost(&CLOSED, loss(1, 1, false)));
        assert!(!search.lost(&CLOSED, loss(1, 1, false)));
        for skip in [0, 1, 3, 7] {
            assert_eq!(check(&search, 1, RequestKind::Put), Some(Check::Put { skip }));
            assert!(search.wanted_puts() > skip + 2);
            search.on_connect_failed();
        }
        (0..100).for_each(|_| search.on_connect_failed());
        assert_eq!(check(&search, 1, RequestKind::Put), Some(Check::Put { skip: 1023 }));
        assert_eq!(search.wanted_puts(), 4096);
    }

    #[test]
    fn what_was_in_flight_is_sent_few_at_a_time() {
        let mut search = Search::default();
        assert!(!search.lost(&CLOSED, loss(1, 9, false)));
        assert!(!search.is_on());
        assert!(!search.lost(&CLOSED, loss(1, 8, false)));
        search.connected(100);
        for (oldest, finished, window) in [(1, 100, 1), (2, 101, 2), (4, 103, 4), (8, 107, 5)] {
            assert_eq!(search.window(5, Some(request(oldest)), finished), window);
        }
        assert_eq!(search.window(5, Some(request(9)), 108), 5);
        assert!(!search.is_on());
    }

    #[test]
    fn rejection_is_checked_at_once() {
        let mut search = Search::default();
        let rejected = ConnectionError::Rejected { message: "no".into() };
        assert!(!search.lost(&rejected, loss(1, 1, false)));
        assert_eq!(check(&search, 1, RequestKind::Put), Some(Check::Gets));
    }
}
