//! One connection: bytes from the pipeline to the server, answers from the server to the pipeline.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_core::Stream as _;
use futures_sink::Sink;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::yield_now,
    time::{self, Instant, Sleep},
};
use tokio_util::codec::Framed;

use super::{
    connect::BoxFuture,
    gathering::{Gathering, Leave},
    greeting::Greeting,
    hangup::Dialed,
    pipeline::Answers,
    shared::{Shared, wake_all},
};
use crate::{
    error::ConnectionFault,
    protocol::{ClientCodec, CodecError, Request},
};

/// How much is read at once, in bytes. As with the kernel's own buffers, more gains little.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// How many answers, or runs of acknowledgements, are handed out under one lock.
const ANSWERS_AT_ONCE: usize = 1024;

/// How many bytes may wait for the socket before no more requests are taken: they would only wait
/// here instead of in the pipeline, where they can still be withdrawn.
const WRITE_BUFFER_BYTES: usize = 256 * 1024;

/// How long the rest of an answer that is too large may take until the connection is replaced. Other
/// requests wait for it, and have 5 seconds by default.
const SKIP_WITHIN: Duration = Duration::from_secs(1);

pub(super) struct Connection<Io> {
    framed: Framed<Io, ClientCodec>,
    /// Answers on their way to the pipeline.
    answers: Vec<Answers>,
    /// How many of the decoded bytes have been counted.
    counted: u64,
    /// Whether the server has given an answer that was due.
    proven: bool,
    /// Whether it has shown that it answers requests other than the one that is suspected.
    has_proof: bool,
    gathering: Gathering,
    greeting: Greeting,
    /// Runs while the rest of an answer is passed over that is too large.
    skipping: Option<Pin<Box<Sleep>>>,
    /// Whether there can be another connection.
    is_replaceable: bool,
    probe: Probe,
}

/// How far a connection has come with what there was to move.
pub(super) enum Moved {
    All,
    /// It will go on in its next turn, which has been asked for.
    Waits,
    /// It is at its end, for this reason.
    Ended(ConnectionFault),
}

/// Where the question stands whether this server can pipeline.
enum Probe {
    /// To be asked once a request has to wait for the answer to another.
    Due,
    Running(BoxFuture<bool>),
    /// Was answered, or must not be asked.
    Done,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Connection<Io> {
    pub(super) fn new(
        dialed: Dialed<Io>,
        max_response_bytes: usize,
        may_probe: bool,
        is_replaceable: bool,
    ) -> Self {
        let Dialed { io, has_answered, has_proof } = dialed;
        let codec = ClientCodec::max_response_bytes(max_response_bytes);
        Self {
            framed: Framed::with_capacity(io, codec, READ_BUFFER_BYTES),
            answers: Vec::new(),
            counted: 0,
            proven: false,
            has_proof,
            gathering: Gathering::default(),
            greeting: Greeting::new(is_replaceable && !has_answered),
            skipping: None,
            is_replaceable,
            probe: if may_probe { Probe::Due } else { Probe::Done },
        }
    }

    pub(super) fn io(&self) -> &Io {
        self.framed.get_ref()
    }

    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    pub(super) fn has_proof(&self) -> bool {
        self.has_proof
    }

    /// Moves whatever can be moved now.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared,
        wakers: &mut Vec<Waker>,
    ) -> Moved {
        loop {
            // Reading comes first and never waits for writing: two ends that both only write would
            // wait for each other for ever. And bytes that nobody asked for must be seen before the
            // next request makes them look like its answer.
            if let Poll::Ready(fault) = self.poll_read(cx, shared, wakers) {
                return Moved::Ended(fault);
            }
            match self.gathering.look(|| shared.pipeline().waiting()) {
                Leave::Now => {}
                Leave::NextTurn => {
                    cx.waker().wake_by_ref();
                    return Moved::Waits;
                }
                Leave::WhenIdle => {
                    // Polled once, it has told the runtime.
                    let _ = pin!(yield_now()).poll(cx);
                    return Moved::Waits;
                }
            }
            let taken = self.take(shared, wakers);
            if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                return Moved::Ended(error.into());
            }
            if !taken {
                return Moved::All;
            }
        }
    }

    /// Whether there is room for more requests.
    pub(super) fn has_room(&self) -> bool {
        self.framed.write_buffer().len() < WRITE_BUFFER_BYTES && !self.greeting.is_held()
    }

    /// Shuts the connection down, after what is left has been written.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        Sink::<Request>::poll_close(Pin::new(&mut self.framed), cx)
    }

    /// Begins to find out whether the server can pipeline, if that is open. Says whether it was.
    pub(super) fn start_probe(&mut self, probe: impl FnOnce() -> BoxFuture<bool>) -> bool {
        let due = matches!(self.probe, Probe::Due);
        if due {
            self.probe = Probe::Running(probe());
        }
        due
    }

    /// Whether the server is being asked whether it can pipeline.
    pub(super) fn is_probing(&self) -> bool {
        matches!(self.probe, Probe::Running(_))
    }

    /// Whether it is open whether the server can pipeline.
    pub(super) fn wants_probe(&self) -> bool {
        matches!(self.probe, Probe::Due)
    }

    /// Whether the server can pipeline, once that has been found out.
    pub(super) fn poll_probe(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Probe::Running(probe) = &mut self.probe else {
            return Poll::Pending;
        };
        let found = probe.as_mut().poll(cx);
        if found.is_ready() {
            self.probe = Probe::Done;
        }
        found
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared,
        wakers: &mut Vec<Waker>,
    ) -> Poll<ConnectionFault> {
        loop {
            let mut all_read = false;
            let end = match Pin::new(&mut self.framed).poll_next(cx) {
                Poll::Ready(Some(Ok(response))) => {
                    self.answers.extend(self.greeting.release().map(Answers::One));
                    let Some(response) = self.greeting.pass(response) else {
                        if let Some(fault) = self.rejected_unasked(shared) {
                            return Poll::Ready(fault);
                        }
                        continue;
                    };
                    self.answers.push(Answers::One(response));
                    self.take_acknowledgements();
                    if self.answers.len() < ANSWERS_AT_ONCE {
                        continue;
                    }
                    None
                }
                Poll::Ready(Some(Err(error))) => {
                    let fault = self.greeting.explain(error.into());
                    self.answers.extend(self.greeting.release().map(Answers::One));
                    Some(fault)
                }
                Poll::Ready(None) => Some(self.greeting.explain(ConnectionFault::ClosedByServer)),
                Poll::Pending => {
                    if self.greeting.is_held() {
                        if self.greeting.poll(cx).is_pending() {
                            return Poll::Pending;
                        }
                        self.answers.extend(self.greeting.release().map(Answers::One));
                    }
                    all_read = true;
                    self.poll_skipping(cx)
                }
            };
            if let Err(fault) = self.complete(all_read, shared, wakers) {
                return Poll::Ready(fault);
            }
            match end {
                Some(fault) => return Poll::Ready(fault),
                None if all_read => return Poll::Pending,
                None => {}
            }
        }
    }

    /// Returns why the connection is at its end if the `error` that is held back has come before
    /// any request was written.
    fn rejected_unasked(&mut self, shared: &Shared) -> Option<ConnectionFault> {
        let is_asked = shared.pipeline().in_flight() > self.unwritten();
        (!is_asked).then(|| self.greeting.explain(ConnectionFault::ClosedByServer))
    }

    /// How many of the requests taken are not written to their end: each ends with a line break
    /// and has no other.
    fn unwritten(&self) -> usize {
        memchr::memchr_iter(b'\n', self.framed.write_buffer()).count()
    }

    /// Returns why the connection is at its end if the rest of an answer that is too large takes too
    /// long.
    fn poll_skipping(&mut self, cx: &mut Context<'_>) -> Option<ConnectionFault> {
        let Some(limit) = self.framed.codec().oversized().filter(|_| self.is_replaceable) else {
            self.skipping = None;
            return None;
        };
        let skipping = self.skipping.get_or_insert_with(|| Box::pin(time::sleep(SKIP_WITHIN)));
        let is_late = skipping.as_mut().poll(cx).is_ready();
        is_late.then_some(ConnectionFault::ResponseTooLarge { limit })
    }

    /// Counts the acknowledgements that have come and lie next in the buffer: with many puts in
    /// flight most answers are, and need not be decoded one by one.
    fn take_acknowledgements(&mut self) {
        let mut read = std::mem::take(self.framed.read_buffer_mut());
        let count = self.framed.codec_mut().skip_acknowledgements(&mut read);
        *self.framed.read_buffer_mut() = read;
        if count > 0 {
            self.answers.push(Answers::Acknowledgements(count));
        }
    }

    /// Hands the answers to the pipeline, and wakes those who waited for them.
    fn complete(
        &mut self,
        all_read: bool,
        shared: &Shared,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionFault> {
        let codec = self.framed.codec();
        let amid = all_read && (codec.is_amid_response() || !self.framed.read_buffer().is_empty());
        let decoded = codec.decoded();
        if self.answers.is_empty() && !amid {
            return Ok(());
        }
        let any = !self.answers.is_empty();
        let unwritten = self.unwritten();
        let mut pipeline = shared.pipeline();
        pipeline.counters_mut().bytes_received += decoded - self.counted;
        self.counted = decoded;
        let result =
            pipeline.complete(self.answers.drain(..), amid, unwritten, Instant::now(), wakers);
        drop(pipeline);
        self.gathering.rouse(wakers.len());
        wake_all(wakers);
        self.proven |= any && result.is_ok();
        result
    }

    /// Takes the requests that may be sent, and says whether there were any.
    fn take(&mut self, shared: &Shared, wakers: &mut Vec<Waker>) -> bool {
        if !self.has_room() {
            return false;
        }
        let buffer = self.framed.write_buffer_mut();
        let before = buffer.len();
        let mut pipeline = shared.pipeline();
        pipeline.take(buffer, Instant::now(), wakers);
        let taken = buffer.len() - before;
        pipeline.counters_mut().bytes_sent += taken as u64;
        drop(pipeline);
        wake_all(wakers);
        taken > 0
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        Sink::<Request>::poll_flush(Pin::new(&mut self.framed), cx)
    }
}
