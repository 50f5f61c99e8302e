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
//! then the suspect, alone in flight, ends this connection too, it is the request.
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
    connect::{Connector, Dialer},
    pipeline::{Kind, RequestId},
    shared::Shared,
};
use crate::{
    error::ConnectionFault,
    protocol::{ClientCodec, Response},
};

/// How many connections a request must have ended before it is a suspect. One is an accident, such
/// as a server's restart.
const ENOUGH_LOSSES: u32 = 2;

/// How often the number of requests doubles that are skipped to find one that the server answers: to
/// 1,023, so that the search gets past as many in a row that end connections.
const MAX_SKIPS: u32 = 10;

/// Which request is suspected, and how the search for it goes on.
#[derive(Debug, Default)]
pub(super) struct Search {
    suspect: Option<Suspect>,
    /// Up to this request, few may be in flight at once.
    narrow_until: Option<RequestId>,
    /// How many requests had been finished when the connection was made.
    finished_before: u64,
    /// How often a put has been looked for that the server answers.
    checks: u32,
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    request: RequestId,
    losses: u32,
    /// Whether the server answered it with `error` before it closed.
    was_rejected: bool,
}

/// A connection that has ended, as the search sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
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
    /// Such a get, and a put that waits behind so many others.
    Put { skip: usize },
}

/// A connection that has been made.
pub(super) struct Dialed<Io> {
    pub(super) io: Io,
    /// Whether the server has answered a question on it, or on the one before it.
    pub(super) has_answered: bool,
    /// Whether it has shown that it answers requests of the suspect's kind.
    pub(super) has_proof: bool,
}

impl Search {
    /// Takes note of a connection that has ended. Returns true if the request that was due is the
    /// one at which the server closes.
    pub(super) fn lost(&mut self, fault: &ConnectionFault, loss: Loss) -> bool {
        let was_rejected = matches!(fault, ConnectionFault::RejectedByServer { .. });
        let is_hangup = matches!(fault, ConnectionFault::ClosedByServer | ConnectionFault::Io(_));
        if !is_hangup && !was_rejected {
            *self = Self::default();
            return false;
        }
        let Some(request) = loss.due else {
            return false;
        };
        let before = self.suspect.filter(|suspect| suspect.request == request);
        let losses = before.map_or(0, |suspect| suspect.losses);
        let is_proved = is_hangup && loss.had_proof && loss.was_alone;
        if is_proved && losses >= ENOUGH_LOSSES {
            self.suspect = None;
            // The next one may be behind it, among as many that show nothing.
            self.checks = self.checks.saturating_sub(1);
            return true;
        }
        if before.is_none() && self.suspect.is_some() {
            self.checks = 0;
        }
        // What happens to a request alone, with proof, counts for more than one loss; and so does a
        // rejection, for it may be final.
        let weight = if is_proved || was_rejected { ENOUGH_LOSSES } else { 1 };
        let losses = losses.saturating_add(weight);
        self.suspect = Some(Suspect { request, losses, was_rejected });
        if losses >= ENOUGH_LOSSES {
            self.narrow_until = self.narrow_until.max(loss.last);
        }
        false
    }

    /// Returns what the next connection is to be asked first, given the oldest request.
    pub(super) fn next_check(
        &mut self,
        oldest: Option<(RequestId, Kind)>,
        has_witness: impl FnOnce() -> bool,
    ) -> Option<Check> {
        let (request, kind) = oldest?;
        let suspect = self.suspect.filter(|suspect| suspect.request == request);
        let is_due = self.is_narrow(Some(request))
            || suspect.is_some_and(|suspect| suspect.losses >= ENOUGH_LOSSES);
        if !is_due {
            return None;
        }
        if kind == Kind::Get || suspect.is_some_and(|suspect| suspect.was_rejected) {
            return Some(Check::Gets);
        }
        // The first put behind may be no better: look further each time.
        let skip = (1 << self.checks) - 1;
        self.checks = (self.checks + 1).min(MAX_SKIPS);
        // Without another put nothing can be shown, and nobody else waits.
        has_witness().then_some(Check::Put { skip })
    }

    /// A connection has been made, when so many requests were finished.
    pub(super) fn connected(&mut self, finished: u64) {
        self.finished_before = finished;
    }

    /// Returns true while a search goes on.
    pub(super) fn is_on(&self) -> bool {
        self.narrow_until.is_some()
    }

    /// Returns how many requests may be in flight, of the `limit` that there may be otherwise: at
    /// first one, and one more for each answer, which doubles it with each round trip.
    pub(super) fn width(
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
        if self.is_on() { 4 << self.checks } else { 0 }
    }

    fn is_narrow(&self, oldest: Option<RequestId>) -> bool {
        matches!((oldest, self.narrow_until), (Some(oldest), Some(until)) if oldest <= until)
    }
}

/// How long an answer may take, and how many bytes it may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) time: Duration,
    pub(super) bytes: usize,
}

/// Makes a connection, and asks what is to be asked first.
pub(super) async fn dial<C: Connector>(
    dialer: Arc<Dialer<C>>,
    shared: Arc<Shared>,
    check: Option<Check>,
    limits: Limits,
) -> Result<Dialed<C::Io>, ConnectionFault> {
    let dial = async || dialer.dial().await.map_err(|cause| dialer.fault(cause));
    let mut io = dial().await?;
    let Some(check) = check else {
        return Ok(Dialed { io, has_answered: false, has_proof: false });
    };
    let first = ask(&mut io, &harmless(), limits).await?;
    let (second, proves) = match check {
        Check::Gets => (harmless(), true),
        Check::Put { skip } => match shared.pipeline().witness(skip) {
            Some(put) => (put, true),
            None => (harmless(), false),
        },
    };
    let is_put = matches!(check, Check::Put { .. }) && proves;
    let mut closes_after_answer = false;
    let mut answer = ask(&mut io, &second, limits).await;
    if let (
        Err(ConnectionFault::ClosedByServer | ConnectionFault::Io(_)),
        Response::Error(message),
    ) = (&answer, &first)
    {
        return Err(ConnectionFault::RejectedByServer { message: message.as_str().into() });
    }
    if let Err(ConnectionFault::ClosedByServer | ConnectionFault::Io(_)) = answer {
        // Perhaps it closes after each answer.
        closes_after_answer = true;
        io = dial().await?;
        answer = ask(&mut io, &second, limits).await;
    }
    let has_proof = match answer? {
        Response::Error(_) => proves && !is_put,
        Response::Ok(metrics) if is_put && metrics.is_empty() => true,
        _ if is_put => return Err(ConnectionFault::DataForPut),
        _ => proves,
    };
    if closes_after_answer {
        io = dial().await?;
    }
    Ok(Dialed { io, has_answered: true, has_proof })
}

/// A get for a key that nothing is stored under.
fn harmless() -> Box<[u8]> {
    format!("get hangup-probe.{:016x}\n", fastrand::u64(..)).into_bytes().into()
}

/// Asks, and waits for one answer and nothing else.
async fn ask(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    question: &[u8],
    limits: Limits,
) -> Result<Response, ConnectionFault> {
    let conversation = async {
        // A server that rejects the connection may have said why before it closed.
        let written = match io.write_all(question).await {
            Ok(()) => io.flush().await,
            Err(error) => Err(error),
        };
        let mut codec = ClientCodec::max_response_bytes(limits.bytes);
        let mut buffer = BytesMut::new();
        loop {
            if let Some(response) = codec.decode(&mut buffer)? {
                let is_over = buffer.iter().all(|&byte| byte == b'\n');
                return if is_over { Ok(response) } else { Err(ConnectionFault::Unsolicited) };
            }
            if io.read_buf(&mut buffer).await.map_err(ConnectionFault::Io)? == 0 {
                return Err(
                    written.map_or_else(ConnectionFault::Io, |()| ConnectionFault::ClosedByServer)
                );
            }
        }
    };
    let late = |_| Err(ConnectionFault::Stalled { after: limits.time });
    time::timeout(limits.time, conversation).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: ConnectionFault = ConnectionFault::ClosedByServer;

    fn request(seq: u64) -> RequestId {
        RequestId::new(seq, 0)
    }

    fn loss(due: u64, last: u64, had_proof: bool) -> Loss {
        let (due, last) = (request(due), request(last));
        Loss { due: Some(due), last: Some(last), was_alone: due == last, had_proof }
    }

    fn check(search: &mut Search, oldest: u64, kind: Kind) -> Option<Check> {
        search.next_check(Some((request(oldest), kind)), || true)
    }

    #[test]
    fn request_is_found_after_two_losses_and_one_with_proof() {
        let mut search = Search::default();
        assert!(!search.lost(&CLOSED, loss(1, 1, false)));
        assert_eq!(check(&mut search, 1, Kind::Get), None);
        assert!(!search.lost(&CLOSED, loss(1, 1, false)));
        assert_eq!(check(&mut search, 1, Kind::Get), Some(Check::Gets));
        assert!(search.lost(&CLOSED, loss(1, 1, true)));
        // The next one is as good as any.
        assert_eq!(check(&mut search, 2, Kind::Get), None);
    }

    #[test]
    fn nothing_is_found_without_proof_or_among_several() {
        let mut search = Search::default();
        for _ in 0..10 {
            assert!(!search.lost(&CLOSED, loss(1, 1, false)));
            assert!(!search.lost(&CLOSED, loss(1, 2, true)));
        }
        // Another kind of end is another story.
        assert!(!search.lost(&ConnectionFault::Unsolicited, loss(1, 1, true)));
        assert!(!search.lost(&CLOSED, loss(1, 1, true)));
    }

    #[test]
    fn puts_to_ask_with_are_looked_for_ever_further_behind() {
        let mut search = Search::default();
        assert!(!search.lost(&CLOSED, loss(1, 1, false)));
        assert!(!search.lost(&CLOSED, loss(1, 1, false)));
        for skip in [0, 1, 3, 7] {
            assert_eq!(check(&mut search, 1, Kind::Put), Some(Check::Put { skip }));
        }
        assert_eq!(search.wanted_puts(), 64);
        assert!((0..100).all(|_| check(&mut search, 1, Kind::Put).is_some()));
    }

    #[test]
    fn what_was_in_flight_is_sent_few_at_a_time() {
        let mut search = Search::default();
        assert!(!search.lost(&CLOSED, loss(1, 9, false)));
        assert!(!search.is_on());
        assert!(!search.lost(&CLOSED, loss(1, 8, false)));
        search.connected(100);
        for (oldest, finished, width) in [(1, 100, 1), (2, 101, 2), (4, 103, 4), (8, 107, 5)] {
            assert_eq!(search.width(5, Some(request(oldest)), finished), width);
        }
        assert_eq!(search.width(5, Some(request(9)), 108), 5);
        assert!(!search.is_on());
    }

    #[test]
    fn rejection_is_checked_at_once() {
        let mut search = Search::default();
        let rejected = ConnectionFault::RejectedByServer { message: "no".into() };
        assert!(!search.lost(&rejected, loss(1, 1, false)));
        assert_eq!(check(&mut search, 1, Kind::Put), Some(Check::Gets));
    }
}
