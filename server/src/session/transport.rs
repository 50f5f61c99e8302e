//! One connection's bytes: buffers, back-pressure, deadlines. What they mean is the session's.

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
    unsent_budget::Place,
};
use metrics_client::codec::MAX_REQUEST_LEN;

/// Reads requests into a buffer and writes answers out of one, both at a time.
pub(super) struct Transport<Io> {
    io: Io,
    /// What was read. Between turns it is empty, or the beginning of a line.
    input: BytesMut,
    /// How much memory `input` takes, where it was given no more than it needs.
    input_held: Option<usize>,
    /// Answers that have not left.
    pub(super) output: BytesMut,
    /// How much has left `output` that may still take memory in front of what has not.
    output_left: usize,
    limits: Limits,
    /// How much to ask for with the next read; follows what comes.
    read_size: usize,
    /// Whether bytes were written that may still be in a buffer of `io`.
    unflushed: bool,
    /// When the last answer left: each request has one, and a blank line is not a request.
    quiet_since: Instant,
    /// When the line in `input` began.
    line_since: Option<Instant>,
    /// The time that runs for answers that the peer does not take.
    unread: Option<WriteStall>,
    /// Among all connections that wait for their peers to read.
    place: Place,
    /// Counts the bytes that are read and written.
    work: Usage,
    /// Fires at a deadline or before it: moved when it fires, not whenever the deadline moves.
    timer: Pin<Box<Sleep>>,
    /// The look at the socket that follows a deadline.
    second_look: Option<SecondLook>,
}

/// The last chance of a peer whose deadline has passed: what it did in time may not have been seen.
struct SecondLook {
    deadline: Instant,
    until: Instant,
    /// Whether the deadline passed while the process stood still.
    is_late: bool,
}

struct WriteStall {
    since: Instant,
    /// How much is left of what waited then.
    bytes: usize,
}

/// What a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// It sent this many bytes.
    Bytes(usize),
    /// It will send no more.
    CloseReason,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Transport<Io> {
    pub(super) fn new(io: Io, limits: Limits, place: Place, work: Usage) -> Self {
        let now = Instant::now();
        Self {
            io,
            input: BytesMut::new(),
            input_held: None,
            output: BytesMut::new(),
            output_left: 0,
            limits,
            read_size: MIN_READ,
            unflushed: false,
            quiet_since: now,
            line_since: None,
            unread: None,
            place,
            work,
            timer: Box::pin(sleep_until(after(now, limits.idle_time))),
            second_look: None,
        }
    }

    /// What was read and not consumed.
    pub(super) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Passes over a line, of `len` bytes with its line break.
    #[inline]
    pub(super) fn consume(&mut self, len: usize) {
        self.input.advance(len);
        self.line_since = None;
    }

    /// Whether so many answers wait that no more may be made.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.output.len() >= self.limits.max_unsent_bytes
    }

    /// Writes what there is, and reads on if there is room for answers. Whole lines must have been
    /// consumed. An error is the connection's end.
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

    /// Writes all there is.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        match self.poll_write(cx)? {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => self.poll_deadline(cx).map(Err),
        }
    }

    /// Writes what can be written at once, and ends the connection if its time is over: a peer that is
    /// always heard would not be asked otherwise. Holds no more than it must from now on, if others
    /// need the memory.
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
                self.release();
            }
            // It may send what is not a request.
            if self.line_since.is_none()
                && Instant::now() >= after(self.quiet_since, self.limits.idle_time)
                && let Poll::Ready(end) = self.poll_deadline(cx)
            {
                return Err(end);
            }
        }
        Ok(())
    }

    /// Gives back the memory that the buffers take beyond what is in them, for there may be long to
    /// wait, or many others that wait. Says how much they take now.
    fn release(&mut self) -> usize {
        let input = match self.input_held {
            Some(held) => held,
            None => {
                let len = self.input.len();
                // What is held of a long line is less than twice its length, for to cut it back would
                // copy it with each read.
                if len <= MAX_READ || self.input.capacity() > 2 * len {
                    self.move_input(len);
                }
                *self.input_held.insert(self.input.capacity())
            }
        };
        let is_wasteful = if self.output.is_empty() {
            self.output_left + self.output.capacity() > MAX_IDLE_CAPACITY
        } else {
            self.output_left > self.output.len()
        };
        if is_wasteful {
            self.output = BytesMut::from(&*self.output);
            self.output_left = 0;
        }
        input + self.output_left + self.output.capacity()
    }

    /// Moves the input to a buffer of this capacity.
    fn move_input(&mut self, capacity: usize) {
        let mut input = BytesMut::with_capacity(capacity);
        input.extend_from_slice(&self.input);
        self.input = input;
        #[cfg(test)]
        effort::COPIED.set(effort::COPIED.get() + self.input.len());
    }

    /// Closes without losing what was written.
    pub(super) async fn linger(&mut self) {
        self.input = BytesMut::new();
        self.output = BytesMut::new();
        linger(&mut self.io, &self.work).await;
    }

    /// Says that nothing more comes, if that can be said at once: over TLS a connection that ends
    /// without it looks as if somebody had cut it.
    pub(super) async fn part(&mut self) {
        poll_fn(|cx| {
            // Whatever comes of it, the connection is over.
            let _ = Pin::new(&mut self.io).poll_shutdown(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// Ready when all has left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        while !self.output.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut self.io).poll_write(cx, &self.output) else {
                self.await_reader(self.output.len());
                return Poll::Pending;
            };
            let written = written?;
            if written == 0 {
                return Poll::Ready(Err(CloseReason::Io(io::ErrorKind::WriteZero.into())));
            }
            self.output.advance(written);
            self.output_left += written;
            self.work.add(written);
            self.unflushed = true;
            let since_stop = self.seen_after_stop();
            self.unread = self.unread.take().and_then(|WriteStall { since, bytes }| {
                let bytes = bytes.checked_sub(written).filter(|&bytes| bytes > 0)?;
                Some(WriteStall { since: since_stop.unwrap_or(since), bytes })
            });
        }
        if self.unflushed {
            if Pin::new(&mut self.io).poll_flush(cx)?.is_pending() {
                self.await_reader(MAX_UNFLUSHED);
                return Poll::Pending;
            }
            self.unflushed = false;
            self.unread = None;
            self.place.leave();
            self.quiet_since = Instant::now();
        }
        Poll::Ready(Ok(()))
    }

    /// The time runs, if it does not already, until so many more bytes are taken.
    fn await_reader(&mut self, bytes: usize) {
        self.unread.get_or_insert_with(|| WriteStall { since: Instant::now(), bytes });
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Input, CloseReason>> {
        if self.input.capacity() - self.input.len() < self.read_size / 2 {
            if !self.input.try_reclaim(self.read_size) {
                // To reserve would keep room for what has been consumed, in front. Of the next read
                // as much may be left, in the same buffer.
                let rest = self.input.len().max(MAX_REQUEST_LEN);
                // A long line gets twice its room, so that it is copied a few times and not with each read.
                let room = self.read_size.max(self.input.len());
                self.move_input(rest + room);
            }
            self.input_held = None;
        }
        let room = self.read_size.min(self.input.capacity() - self.input.len());
        let mut input = (&mut self.input).limit(room);
        let Poll::Ready(read) = pin!(self.io.read_buf(&mut input)).poll(cx) else {
            return Poll::Pending;
        };
        let read = read?;
        self.work.add(read);
        if read == room {
            self.read_size = (self.read_size * 2).min(MAX_READ);
        }
        Poll::Ready(Ok(if read == 0 { Input::CloseReason } else { Input::Bytes(read) }))
    }

    /// Ready when the peer has taken too long over what it is at.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let held = self.release();
        if let Some(WriteStall { since, .. }) = self.unread
            && self.place.poll_evicted(cx, since, held).is_ready()
        {
            return Poll::Ready(CloseReason::Evicted);
        }
        let (deadline, end) = match (&self.unread, self.line_since) {
            (Some(unread), _) => {
                (after(unread.since, self.limits.write_time), CloseReason::WriteTimeout)
            }
            (None, Some(since)) => (after(since, self.limits.line_time), CloseReason::LineTimeout),
            (None, None) => (after(self.quiet_since, self.limits.idle_time), CloseReason::Idle),
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

    /// Says when the time for unread answers begins again, where the process stood still until after
    /// it was over: the peer has read what there was, and could not be sent more.
    fn seen_after_stop(&self) -> Option<Instant> {
        let unread = self.unread.as_ref()?;
        let look = self.second_look.as_ref().filter(|look| look.is_late)?;
        (look.deadline == after(unread.since, self.limits.write_time)).then(Instant::now)
    }
}

/// Closes without losing what was written: a socket that is closed while there is something to
/// read resets the connection, and a peer that is reset may never see the last answer.
///
/// What is passed over counts as `work`, and others have their turn as after any other. A peer that
/// sends more than [`LINGER_BYTES`] does not look for an answer.
pub(super) async fn linger(mut io: impl AsyncRead + AsyncWrite + Unpin, work: &Usage) {
    let until_end = async {
        io.shutdown().await?;
        let (mut slice_bytes, mut left) = (0, LINGER_BYTES);
        while let Ok(read) = within(LINGER_QUIET, poll_fn(|cx| poll_discard(&mut io, cx))).await {
            let read = read?;
            left = left.saturating_sub(read);
            if read == 0 || left == 0 {
                break;
            }
            work.add(read);
            slice_bytes += read;
            if slice_bytes >= MAX_READ / 2 {
                slice_bytes = 0;
                yield_now().await;
            }
        }
        Ok(())
    };
    // Whatever goes wrong now, the connection is over.
    let _ = within(LINGER_TIME, until_end).await.unwrap_or(Ok::<(), io::Error>(()));
}

/// Reads what there is, and says how much it was. Nothing is held between two reads.
fn poll_discard(
    io: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut scrap = [MaybeUninit::uninit(); DISCARD_BUFFER];
    let mut scrap = ReadBuf::uninit(&mut scrap);
    Pin::new(io).poll_read(cx, &mut scrap).map_ok(|()| scrap.filled().len())
}

/// The end of a time that began at `since`, however long.
fn after(since: Instant, time: Duration) -> Instant {
    since.checked_add(time).unwrap_or_else(|| since + NEVER)
}

/// Thirty years.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Enough for two hundred puts: what one read asks for at first, in bytes.
pub(super) const MIN_READ: usize = 8 * 1024;

/// The most that one read asks for, in bytes: some 1,500 puts. It is what one peer can make the
/// server do before others have their turn, and how long it can hold the store's lock.
pub(super) const MAX_READ: usize = 64 * 1024;

/// How much of what was written may be in a buffer of the connection, in bytes: rustls has room for so much
/// by default. Once as much again is taken from us, the peer has taken that.
const MAX_UNFLUSHED: usize = 64 * 1024;

/// How much is passed over at once, in bytes: it lies on the stack.
const DISCARD_BUFFER: usize = 16 * 1024;

/// How much memory for answers an idle connection keeps, in bytes.
const MAX_IDLE_CAPACITY: usize = 4 * 1024;

/// How long to wait for a peer that neither sends nor closes, once it has its last answer.
const LINGER_QUIET: Duration = Duration::from_secs(1);

/// How long to read on from a peer that never stops, once it has its last answer: as long as nginx
/// does (`lingering_time`).
const LINGER_TIME: Duration = Duration::from_secs(30);

/// How much to read on from a peer that has its last answer, in bytes: enough to pass over a line of
/// a hundred megabytes, so that its sender sees the answer, and done in a fraction of a second.
const LINGER_BYTES: usize = 128 * 1024 * 1024;

/// How many bytes of input were moved: a test shows that a long line is not moved with each read.
#[cfg(test)]
pub(super) mod effort {
    use std::cell::Cell;

    thread_local! {
        pub(crate) static COPIED: Cell<usize> = const { Cell::new(0) };
    }
}
