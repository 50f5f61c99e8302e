//! The byte level of one connection: buffers, backpressure and deadlines.

use std::{
    future::{Future, poll_fn},
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    task::yield_now,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    CloseReason, Limits,
    deadline::{LATE, SECOND_LOOK, within},
    scheduler::Usage,
    unsent_budget::BudgetEntry,
};
use metrics_client::codec::MAX_REQUEST_LEN;

/// Reads requests into one buffer while it writes answers out of another.
pub(super) struct Transport<Io> {
    io: Io,
    /// Bytes that were read. Between time slices it is empty or holds the beginning of a line.
    input: BytesMut,
    /// The capacity of `input` after it was shrunk; `None` if it may be shrunk.
    input_capacity: Option<usize>,
    /// Answers that are not written yet.
    pub(super) output: BytesMut,
    /// How many written bytes may still take memory in front of `output`.
    output_consumed: usize,
    limits: Limits,
    /// The size of the next read; adapts to the size of the last ones.
    read_size: usize,
    /// True if written bytes may still be in a buffer of `io`.
    unflushed: bool,
    /// When the last answer was written. A blank line is not a request, and has none.
    quiet_since: Instant,
    /// When the first byte of the line in `input` was read.
    line_since: Option<Instant>,
    /// Set while the peer does not read its answers.
    write_stall: Option<WriteStall>,
    /// The entry in the budget of all connections whose peers do not read.
    budget_entry: BudgetEntry,
    /// Charged with the bytes that are read and written.
    usage: Usage,
    /// Fires at the deadline or earlier. It is reset when it fires, not whenever the deadline moves.
    timer: Pin<Box<Sleep>>,
    /// The grace time after a deadline, see [`deadline`](super::deadline).
    second_look: Option<SecondLook>,
}

/// A short grace time after a deadline: the runtime may not have seen yet what the peer did in time.
struct SecondLook {
    deadline: Instant,
    until: Instant,
    /// True if the deadline passed while the process was suspended.
    is_late: bool,
}

/// A peer that does not read its answers.
struct WriteStall {
    since: Instant,
    /// How many of the bytes that were unread at `since` are still unread.
    bytes: usize,
}

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The peer sent this many bytes.
    Bytes(usize),
    /// The peer has closed its sending side.
    Eof,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Transport<Io> {
    pub(super) fn new(io: Io, limits: Limits, budget_entry: BudgetEntry, usage: Usage) -> Self {
        let now = Instant::now();
        Self {
            io,
            input: BytesMut::new(),
            input_capacity: None,
            output: BytesMut::new(),
            output_consumed: 0,
            limits,
            read_size: MIN_READ,
            unflushed: false,
            quiet_since: now,
            line_since: None,
            write_stall: None,
            budget_entry,
            usage,
            timer: Box::pin(sleep_until(after(now, limits.idle_timeout))),
            second_look: None,
        }
    }

    /// Returns the bytes that were read and not consumed.
    pub(super) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Consumes a line of `len` bytes, its line break included.
    #[inline]
    pub(super) fn consume(&mut self, len: usize) {
        self.input.advance(len);
        self.line_since = None;
    }

    /// Returns true if the unsent answers have reached their limit.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.output.len() >= self.limits.max_unsent_bytes
    }

    /// Writes output, and reads if there is room for more answers. Every complete line must have been
    /// consumed. An error ends the connection.
    pub(super) fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<Input, CloseReason>> {
        let _ = self.poll_write(cx)?;
        if !self.is_full()
            && let Poll::Ready(input) = self.poll_read(cx)?
        {
            return Poll::Ready(Ok(input));
        }
        if self.input.is_empty() {
            self.read_size = (self.read_size / 2).max(MIN_READ);
        } else if self.line_since.is_none() {
            self.line_since = Some(Instant::now());
        }
        self.poll_deadline(cx).map(Err)
    }

    /// Writes all output.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        match self.poll_write(cx)? {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => self.poll_deadline(cx).map(Err),
        }
    }

    /// Writes what can be written at once, and checks the deadlines, which no other call does for a peer
    /// that always has input. If the server is contended, it also shrinks the buffers.
    pub(super) fn yield_buffers(
        &mut self,
        cx: &mut Context<'_>,
        is_contended: bool,
    ) -> Result<(), CloseReason> {
        if is_contended {
            self.read_size = MIN_READ;
        }
        if let Poll::Ready(drained) = self.poll_drain(cx) {
            drained?;
            if is_contended {
                self.shrink_buffers();
            }
            // The input may consist of blank lines.
            if self.line_since.is_none()
                && Instant::now() >= after(self.quiet_since, self.limits.idle_timeout)
                && let Poll::Ready(end) = self.poll_deadline(cx)
            {
                return Err(end);
            }
        }
        Ok(())
    }

    /// Frees the unused memory of the buffers. Returns how many bytes they still take.
    fn shrink_buffers(&mut self) -> usize {
        let input = match self.input_capacity {
            Some(held) => held,
            None => {
                let len = self.input.len();
                // A long line keeps less than twice its length: shrinking would copy it with each read.
                if len <= MAX_READ || self.input.capacity() > 2 * len {
                    self.move_input(len);
                }
                *self.input_capacity.insert(self.input.capacity())
            }
        };
        let is_wasteful = if self.output.is_empty() {
            self.output_consumed + self.output.capacity() > MAX_IDLE_CAPACITY
        } else {
            self.output_consumed > self.output.len()
        };
        if is_wasteful {
            self.output = BytesMut::from(&*self.output);
            self.output_consumed = 0;
        }
        input + self.output_consumed + self.output.capacity()
    }

    /// Moves the input into a buffer of this capacity.
    fn move_input(&mut self, capacity: usize) {
        let mut input = BytesMut::with_capacity(capacity);
        input.extend_from_slice(&self.input);
        self.input = input;
        #[cfg(test)]
        effort::COPIED.set(effort::COPIED.get() + self.input.len());
    }

    /// Closes the connection without losing answers that are written.
    pub(super) async fn linger(&mut self) {
        self.input = BytesMut::new();
        self.output = BytesMut::new();
        linger(&mut self.io, &self.usage).await;
    }

    /// Shuts down the sending side if that is possible at once: over TLS, a connection that ends without
    /// `close_notify` looks truncated.
    pub(super) async fn shutdown_now(&mut self) {
        poll_fn(|cx| {
            // The connection ends whatever the outcome.
            let _ = Pin::new(&mut self.io).poll_shutdown(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// Ready when all output is written and flushed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        while !self.output.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut self.io).poll_write(cx, &self.output) else {
                self.arm_write_timeout(self.output.len());
                return Poll::Pending;
            };
            let written = written?;
            if written == 0 {
                return Poll::Ready(Err(CloseReason::Io(io::ErrorKind::WriteZero.into())));
            }
            self.output.advance(written);
            self.output_consumed += written;
            self.usage.charge(written);
            self.unflushed = true;
            let restart = self.restart_after_suspend();
            self.write_stall = self.write_stall.take().and_then(|WriteStall { since, bytes }| {
                let bytes = bytes.checked_sub(written).filter(|&bytes| bytes > 0)?;
                Some(WriteStall { since: restart.unwrap_or(since), bytes })
            });
        }
        if self.unflushed {
            if Pin::new(&mut self.io).poll_flush(cx)?.is_pending() {
                self.arm_write_timeout(MAX_UNFLUSHED);
                return Poll::Pending;
            }
            self.unflushed = false;
            self.write_stall = None;
            self.budget_entry.release();
            self.quiet_since = Instant::now();
        }
        Poll::Ready(Ok(()))
    }

    /// Starts the write timeout, if it is not running, until the peer has read `bytes` more bytes.
    fn arm_write_timeout(&mut self, bytes: usize) {
        self.write_stall.get_or_insert_with(|| WriteStall { since: Instant::now(), bytes });
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Input, CloseReason>> {
        if self.input.capacity() - self.input.len() < self.read_size / 2 {
            if !self.input.try_reclaim(self.read_size) {
                // `reserve` would keep the consumed bytes in front. The next read may leave as much in the
                // same buffer.
                let rest = self.input.len().max(MAX_REQUEST_LEN);
                // The capacity of a long line doubles, so that it is not copied with each read.
                let room = self.read_size.max(self.input.len());
                self.move_input(rest + room);
            }
            self.input_capacity = None;
        }
        let room = self.read_size.min(self.input.capacity() - self.input.len());
        let mut input = (&mut self.input).limit(room);
        let Poll::Ready(read) = pin!(self.io.read_buf(&mut input)).poll(cx) else {
            return Poll::Pending;
        };
        let read = read?;
        self.usage.charge(read);
        if read == room {
            self.read_size = (self.read_size * 2).min(MAX_READ);
        }
        Poll::Ready(Ok(if read == 0 { Input::Eof } else { Input::Bytes(read) }))
    }

    /// Ready when a timeout has passed, or when the peer is evicted.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let held = self.shrink_buffers();
        if let Some(WriteStall { since, .. }) = self.write_stall
            && self.budget_entry.poll_evicted(cx, since, held).is_ready()
        {
            return Poll::Ready(CloseReason::Evicted);
        }
        let (deadline, end) = match (&self.write_stall, self.line_since) {
            (Some(stall), _) => {
                (after(stall.since, self.limits.write_timeout), CloseReason::WriteTimeout)
            }
            (None, Some(since)) => {
                (after(since, self.limits.line_timeout), CloseReason::LineTimeout)
            }
            (None, None) => {
                (after(self.quiet_since, self.limits.idle_timeout), CloseReason::IdleTimeout)
            }
        };
        self.second_look.take_if(|look| look.deadline != deadline);
        let mut until = self.second_look.as_ref().map_or(deadline, |look| look.until);
        if until < self.timer.deadline() {
            self.timer.as_mut().reset(until);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.timer.deadline() >= until {
                if self.second_look.is_some() {
                    return Poll::Ready(end);
                }
                let now = Instant::now();
                let is_late = now.saturating_duration_since(deadline) >= LATE;
                until = now + SECOND_LOOK;
                self.second_look = Some(SecondLook { deadline, until, is_late });
            }
            self.timer.as_mut().reset(until);
        }
        Poll::Pending
    }

    /// Returns when the write timeout starts again, if the process was suspended until after it: the peer
    /// has read what it was sent, and could not be sent more.
    fn restart_after_suspend(&self) -> Option<Instant> {
        let stall = self.write_stall.as_ref()?;
        let look = self.second_look.as_ref().filter(|look| look.is_late)?;
        (look.deadline == after(stall.since, self.limits.write_timeout)).then(Instant::now)
    }
}

/// Closes a connection without losing answers that are written: a socket that is closed with unread
/// input resets the connection, and the peer may then never see the last answer.
///
/// Discarded input is charged to `usage` and yields to other sessions like any other. After
/// [`LINGER_BYTES`] the connection is closed anyway.
pub(super) async fn linger(mut io: impl AsyncRead + AsyncWrite + Unpin, usage: &Usage) {
    let until_end = async {
        io.shutdown().await?;
        let (mut slice_bytes, mut left) = (0, LINGER_BYTES);
        while let Ok(read) = within(LINGER_QUIET, poll_fn(|cx| poll_discard(&mut io, cx))).await {
            let read = read?;
            left = left.saturating_sub(read);
            if read == 0 || left == 0 {
                break;
            }
            usage.charge(read);
            slice_bytes += read;
            if slice_bytes >= MAX_READ / 2 {
                slice_bytes = 0;
                yield_now().await;
            }
        }
        Ok(())
    };
    // The connection ends whatever the outcome.
    let _ = within(LINGER_TIME, until_end).await.unwrap_or(Ok::<(), io::Error>(()));
}

/// Reads and discards input. Returns how many bytes it was. No memory is held between two reads.
fn poll_discard(
    io: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut buffer = [MaybeUninit::uninit(); DISCARD_BUFFER];
    let mut buffer = ReadBuf::uninit(&mut buffer);
    Pin::new(io).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
}

/// Returns `since + time`, or a time in the far future if that overflows.
fn after(since: Instant, time: Duration) -> Instant {
    since.checked_add(time).unwrap_or_else(|| since + FAR_FUTURE)
}

/// Thirty years.
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The size of the first read, in bytes: some 200 puts.
pub(super) const MIN_READ: usize = 8 * 1024;

/// The largest size of a read, in bytes: some 1,500 puts. It bounds a session's time slice, and how
/// long one batch holds the store's lock.
pub(super) const MAX_READ: usize = 64 * 1024;

/// How many written bytes a buffer of the connection may hold: the default of rustls. Once as many
/// further bytes are accepted, the peer has read those.
const MAX_UNFLUSHED: usize = 64 * 1024;

/// The size of the buffer for discarded input, in bytes. It is on the stack.
const DISCARD_BUFFER: usize = 16 * 1024;

/// The largest output buffer that an idle connection keeps, in bytes.
const MAX_IDLE_CAPACITY: usize = 4 * 1024;

/// How long to wait after the last answer for a peer that neither sends nor closes.
const LINGER_QUIET: Duration = Duration::from_secs(1);

/// How long to discard input after the last answer: as long as nginx does (`lingering_time`).
const LINGER_TIME: Duration = Duration::from_secs(30);

/// How many bytes to discard after the last answer: enough for a line of 100 MB, so that its sender
/// sees the answer, and done in a fraction of a second.
const LINGER_BYTES: usize = 128 * 1024 * 1024;

/// Counts the copied bytes of input: a test shows that a long line is not copied with each read.
#[cfg(test)]
pub(super) mod effort {
    use std::cell::Cell;

    thread_local! {
        pub(crate) static COPIED: Cell<usize> = const { Cell::new(0) };
    }
}
