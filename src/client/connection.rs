//! One connection: bytes from the pipeline to the server, answers from the server to the pipeline.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use futures_core::Stream as _;
use futures_sink::Sink;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::yield_now,
    time::{self, Instant, Sleep},
};
use tokio_util::codec::Framed;

use super::{
    budgeted::Budgeted,
    connector::Connector,
    dialer::BoxFuture,
    greeting::Greeting,
    hangup::Dialed,
    pipeline::Responses,
    shared::{Shared, wake_all},
    turn::IoTurn,
    write_coalescing::{Flush, WriteCoalescer},
};
use crate::{
    error::ConnectionError,
    metric::Metrics,
    protocol::{ClientCodec, CodecError, Request},
};

/// How many bytes are read at once. As with the kernel's own buffers, more gains little.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// How many responses, or runs of acknowledgements, are passed to the pipeline under one lock.
const RESPONSE_BATCH: usize = 1024;

/// How many bytes may wait for the socket before no more requests are taken: they would only wait
/// here instead of in the pipeline, where they can still be cancelled.
const WRITE_BUFFER_BYTES: usize = 256 * 1024;

/// How long the rest of a response that is too large may take until the connection is replaced. Other
/// requests wait for it, and have 5 seconds by default.
const SKIP_WITHIN: Duration = Duration::from_secs(1);

/// How long after a read no check for further input is needed. A caller that sends its next request at once does so
/// within 10 microseconds on one thread, and within 100 from another; a check costs half a microsecond.
const LOOK_HOLDS: Duration = Duration::from_micros(100);

/// How many bytes may be read before a deadline is judged although there is more input. Linux lets a socket
/// hold 6 MiB (`tcp_rmem`), so what comes beyond that has come later.
const READ_BEFORE_JUDGING_BYTES: u64 = 8 * 1024 * 1024;

pub(super) struct Connection<Io> {
    framed: Framed<Budgeted<Io>, ClientCodec>,
    /// Responses on their way to the pipeline.
    responses: Vec<Responses>,
    /// How many of the decoded bytes have been counted in the statistics.
    bytes_reported: u64,
    /// How many bytes had been received at the last check of the socket, by reading or asking, and when that
    /// was.
    looked: Option<(u64, Instant)>,
    io_turn: IoTurn,
    /// How many received bytes are read before a deadline is judged, while that is open.
    judge_at: Option<u64>,
    /// Whether the server has sent a response that was due, or a proof before.
    got_response: bool,
    /// Whether it has shown that it answers requests other than the suspected one.
    has_proof: bool,
    coalescer: WriteCoalescer,
    greeting: Greeting,
    /// Runs while the rest of a response is skipped that is too large.
    skipping: Option<Pin<Box<Sleep>>>,
    /// Whether there can be another connection.
    is_replaceable: bool,
    probe: Probe,
    /// Whether a buffer has become much larger than it usually is.
    holds_much: bool,
}

/// The result of moving bytes.
pub(super) enum IoProgress {
    /// Everything that could be moved has been.
    Idle,
    /// The task has been woken to continue.
    Yielded,
    /// The connection has ended, for this reason.
    Closed(ConnectionError),
}

/// The state of the probe for pipelining.
enum Probe {
    /// To be started when a request first has to wait for the response to another, but not before this time.
    Due(Option<Instant>),
    Running(BoxFuture<bool>),
    /// Finished, or not to be started.
    Done,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Connection<Io> {
    /// Creates a connection. The server is probed for pipelining not before the time in `probe_after`, and never if
    /// that is `None`.
    pub(super) fn new(
        dialed: Dialed<Io>,
        max_response_bytes: usize,
        probe_after: Option<Option<Instant>>,
        is_replaceable: bool,
    ) -> Self {
        let Dialed { io, has_answered, has_proof, .. } = dialed;
        let codec = ClientCodec::with_max_response_bytes(max_response_bytes).sorting_in_steps();
        Self {
            framed: Framed::with_capacity(Budgeted::new(io), codec, READ_BUFFER_BYTES),
            responses: Vec::new(),
            bytes_reported: 0,
            looked: None,
            io_turn: IoTurn::default(),
            judge_at: None,
            got_response: has_proof,
            has_proof,
            coalescer: WriteCoalescer::default(),
            greeting: Greeting::new(is_replaceable && !has_answered),
            skipping: None,
            is_replaceable,
            probe: probe_after.map_or(Probe::Done, Probe::Due),
            holds_much: false,
        }
    }

    pub(super) fn io(&self) -> &Io {
        self.framed.get_ref().get_ref()
    }

    /// Begins a poll of the driver, which reads a limited number of bytes.
    pub(super) fn renew_budget(&mut self) {
        self.framed.get_mut().renew();
    }

    pub(super) fn has_responded(&self) -> bool {
        self.got_response
    }

    pub(super) fn has_proof(&self) -> bool {
        self.has_proof
    }

    /// Moves the bytes that can be moved now.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connector: &impl Connector<Io = Io>,
        shared: &Shared,
        wakers: &mut Vec<Waker>,
    ) -> IoProgress {
        loop {
            // Reading comes first and never waits for writing: two ends that both only write would
            // wait for each other for ever. And unsolicited bytes must be seen before the next request makes
            // them look like its response.
            if let Poll::Ready(fault) = self.poll_read(cx, shared, wakers) {
                return IoProgress::Closed(fault);
            }
            match self.coalescer.decide(|| shared.pipeline().queued()) {
                Flush::Now => {}
                Flush::AfterYield => {
                    cx.waker().wake_by_ref();
                    return IoProgress::Yielded;
                }
                Flush::WhenIdle => {
                    // Polled once, it has registered the waker with the runtime.
                    let _ = pin!(yield_now()).poll(cx);
                    return IoProgress::Yielded;
                }
            }
            let taken = match self.fill_write_buffer(cx, connector, shared, wakers) {
                Ok(Poll::Ready(taken)) => taken,
                Ok(Poll::Pending) => return IoProgress::Yielded,
                Err(error) => return IoProgress::Closed(ConnectionError::Io(error)),
            };
            if let Poll::Ready(Err(error)) =
                Sink::<Request>::poll_flush(Pin::new(&mut self.framed), cx)
            {
                return IoProgress::Closed(error.into());
            }
            if !taken {
                return IoProgress::Idle;
            }
        }
    }

    /// Reads what had come when this was first called, so that deadlines can be judged. Wakes the task to continue
    /// until that has been read.
    pub(super) fn poll_before_judging(
        &mut self,
        cx: &mut Context<'_>,
        connector: &impl Connector<Io = Io>,
        shared: &Shared,
        wakers: &mut Vec<Waker>,
    ) -> IoProgress {
        let received = self.framed.get_ref().received();
        let judge_at = *self.judge_at.get_or_insert(received + READ_BEFORE_JUDGING_BYTES);
        if let Poll::Ready(fault) = self.poll_read(cx, shared, wakers) {
            return IoProgress::Closed(fault);
        }
        if self.framed.get_ref().received() < judge_at {
            match self.is_all_read(cx, connector) {
                Ok(true) => {}
                Ok(false) => return IoProgress::Yielded,
                Err(error) => return IoProgress::Closed(ConnectionError::Io(error)),
            }
        }
        self.end_look();
        IoProgress::Idle
    }

    /// Ends [`poll_before_judging`](Self::poll_before_judging), whether everything has been read or not.
    pub(super) fn end_look(&mut self) {
        self.judge_at = None;
    }

    /// Returns true if there is room for more requests.
    pub(super) fn has_room(&self) -> bool {
        self.framed.write_buffer().len() < WRITE_BUFFER_BYTES && !self.greeting.is_held()
    }

    /// Returns true if the buffers take much memory, as after a large response.
    pub(super) fn holds_much(&self) -> bool {
        self.holds_much
    }

    /// Replaces buffers that have grown by new ones, if they are empty.
    pub(super) fn trim(&mut self) {
        if self.holds_much
            && self.framed.read_buffer().is_empty()
            && self.framed.write_buffer().is_empty()
        {
            *self.framed.read_buffer_mut() = BytesMut::with_capacity(READ_BUFFER_BYTES);
            *self.framed.write_buffer_mut() = BytesMut::with_capacity(READ_BUFFER_BYTES);
            self.responses = Vec::new();
            self.holds_much = false;
        }
    }

    /// Writes what is left, and shuts the connection down.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        Sink::<Request>::poll_close(Pin::new(&mut self.framed), cx)
    }

    /// Starts the probe for pipelining, if it is due. Returns true if it was.
    pub(super) fn start_probe(&mut self, probe: impl FnOnce() -> BoxFuture<bool>) -> bool {
        let due = self.probe_on_queueing();
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
    pub(super) fn probe_on_queueing(&self) -> bool {
        match self.probe {
            Probe::Due(after) => after.is_none_or(|at| Instant::now() >= at),
            Probe::Running(_) | Probe::Done => false,
        }
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
    ) -> Poll<ConnectionError> {
        self.io_turn.observe();
        loop {
            let mut all_read = false;
            let end = match Pin::new(&mut self.framed).poll_next(cx) {
                Poll::Ready(Some(Ok(response))) => {
                    self.responses.extend(self.greeting.release().map(Responses::from));
                    let Some(response) = self.greeting.pass(response) else {
                        if let Some(fault) = self.rejected_unasked(shared) {
                            return Poll::Ready(fault);
                        }
                        continue;
                    };
                    self.responses.push(Responses::One(response));
                    self.drain_acks();
                    if self.responses.len() < RESPONSE_BATCH {
                        continue;
                    }
                    None
                }
                Poll::Ready(Some(Err(error))) => {
                    let fault = self.greeting.describe_error(error.into());
                    self.responses.extend(self.greeting.release().map(Responses::from));
                    Some(fault)
                }
                Poll::Ready(None) => Some(self.greeting.describe_error(ConnectionError::Closed)),
                Poll::Pending => {
                    if self.greeting.is_held() {
                        if self.greeting.poll(cx).is_pending() {
                            return Poll::Pending;
                        }
                        self.responses.extend(self.greeting.release().map(Responses::from));
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

    /// Returns why the connection has ended, if the `error` that is held back came before any request was written.
    fn rejected_unasked(&mut self, shared: &Shared) -> Option<ConnectionError> {
        let is_asked = shared.pipeline().in_flight() > self.unsent_requests();
        (!is_asked).then(|| self.greeting.describe_error(ConnectionError::Closed))
    }

    /// Returns how many of the requests taken have not been written to their end: each ends with a line break
    /// and has no other.
    fn unsent_requests(&self) -> usize {
        memchr::memchr_iter(b'\n', self.framed.write_buffer()).count()
    }

    /// Returns why the connection has ended, if the rest of a response that is too large takes too long.
    fn poll_skipping(&mut self, cx: &mut Context<'_>) -> Option<ConnectionError> {
        let Some(limit) = self.framed.codec().oversized().filter(|_| self.is_replaceable) else {
            self.skipping = None;
            return None;
        };
        let skipping = self.skipping.get_or_insert_with(|| Box::pin(time::sleep(SKIP_WITHIN)));
        let is_late = skipping.as_mut().poll(cx).is_ready();
        is_late.then_some(ConnectionError::ResponseTooLarge { limit })
    }

    /// Counts the acknowledgements that are next in the buffer: with many puts in flight most responses are
    /// acknowledgements, and need not be decoded one by one.
    fn drain_acks(&mut self) {
        let mut read = std::mem::take(self.framed.read_buffer_mut());
        let count = self.framed.codec_mut().decoder.skip_acknowledgements(&mut read);
        *self.framed.read_buffer_mut() = read;
        if count > 0 {
            self.responses.push(Responses::Acknowledgements(count));
        }
    }

    /// Passes the responses to the pipeline, and wakes the callers that waited for them.
    fn complete(
        &mut self,
        all_read: bool,
        shared: &Shared,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionError> {
        let codec = self.framed.codec();
        let mid_response =
            all_read && (codec.is_amid_response() || !self.framed.read_buffer().is_empty());
        let decoded = codec.decoder.decoded();
        if self.responses.is_empty() && !mid_response {
            return Ok(());
        }
        let buffers = [self.framed.read_buffer(), self.framed.write_buffer()];
        self.holds_much |= buffers.iter().any(|buffer| buffer.capacity() > WRITE_BUFFER_BYTES);
        let any = !self.responses.is_empty();
        let now = Instant::now();
        let received = self.framed.get_ref().received();
        if self.looked.is_none_or(|(before, _)| before < received) {
            self.looked = Some((received, now));
        }
        let unsent_requests = self.unsent_requests();
        let mut pipeline = shared.pipeline();
        pipeline.counters_mut().bytes_received += decoded - self.bytes_reported;
        self.bytes_reported = decoded;
        let result =
            pipeline.complete(self.responses.drain(..), mid_response, unsent_requests, now, wakers);
        let unclaimed = pipeline.take_unclaimed();
        drop(pipeline);
        unclaimed.into_iter().for_each(dispose);
        self.coalescer.on_woken(wakers.len());
        wake_all(wakers);
        self.got_response |= any && result.is_ok();
        result
    }

    /// Returns true if everything that has come has been read. Otherwise the task is woken to read it.
    fn is_all_read(
        &mut self,
        cx: &Context<'_>,
        connector: &impl Connector<Io = Io>,
    ) -> io::Result<bool> {
        if self.framed.get_ref().is_cut_short() {
            return Ok(false);
        }
        Ok(match connector.has_input(self.io())? {
            // The IO driver wakes the task, as for any input.
            Some(has_input) => !has_input,
            None => self.io_turn.poll(cx).is_ready(),
        })
    }

    /// Fills the write buffer with the requests that may be sent now. Returns true if there were any.
    ///
    /// On a connection that was idle, input from before a request would pass for its response. So the socket is
    /// checked first: what reading returns is what Tokio's IO driver knew when it last ran. Pending
    /// if that takes another run of the IO driver, after which the task is woken.
    fn fill_write_buffer(
        &mut self,
        cx: &Context<'_>,
        connector: &impl Connector<Io = Io>,
        shared: &Shared,
        wakers: &mut Vec<Waker>,
    ) -> io::Result<Poll<bool>> {
        if !self.has_room() {
            return Ok(Poll::Ready(false));
        }
        let now = Instant::now();
        let mut pipeline = shared.pipeline();
        let was_idle = pipeline.in_flight() == 0 && pipeline.can_send();
        let has_looked = self.looked.is_some_and(|(_, at)| now < at + LOOK_HOLDS)
            && !self.framed.get_ref().is_cut_short();
        if was_idle && !has_looked {
            drop(pipeline);
            if !self.is_all_read(cx, connector)? {
                return Ok(Poll::Pending);
            }
            self.looked = Some((self.framed.get_ref().received(), now));
            pipeline = shared.pipeline();
        }
        let buffer = self.framed.write_buffer_mut();
        let before = buffer.len();
        pipeline.take_sendable(buffer, now, wakers);
        let taken = buffer.len() - before;
        pipeline.counters_mut().bytes_sent += taken as u64;
        drop(pipeline);
        wake_all(wakers);
        Ok(Poll::Ready(taken > 0))
    }
}

/// How many series are dropped in one poll of a task, which takes some 100 microseconds.
const DROPPED_AT_ONCE: usize = 1024;

/// Drops a response, and if it is large, in a task that yields to others.
fn dispose(metrics: Metrics) {
    if metrics.len() <= DROPPED_AT_ONCE {
        return;
    }
    tokio::spawn(async move {
        let mut series = metrics.into_iter();
        while series.by_ref().take(DROPPED_AT_ONCE).count() == DROPPED_AT_ONCE {
            yield_now().await;
        }
    });
}
