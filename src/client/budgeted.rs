//! Bounds how many bytes of a connection are read in one poll of the driver.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::{coop, yield_now},
};

/// How many bytes are read in one poll of the driver, before the runtime's other tasks get their turn.
///
/// To decode them takes up to 2 milliseconds (200 MB/s, the slowest of `benches/compare.rs decode`
/// with keys of one letter), and to come back for more some microseconds.
const READ_BUDGET_BYTES: usize = 256 * 1024;

/// Limits the bytes read in one poll of the task, and records why reading stopped.
#[derive(Debug)]
pub(super) struct Budgeted<Io> {
    io: Io,
    left: usize,
    /// How many bytes have ever been read.
    received: u64,
    cut_short: bool,
}

impl<Io> Budgeted<Io> {
    pub(super) fn new(io: Io) -> Self {
        Self { io, left: READ_BUDGET_BYTES, received: 0, cut_short: false }
    }

    pub(super) fn get_ref(&self) -> &Io {
        &self.io
    }

    /// Begins a poll of the task.
    pub(super) fn renew(&mut self) {
        self.left = READ_BUDGET_BYTES;
        self.cut_short = false;
    }

    /// How many bytes have ever been read. It grows with each system call that brought any, and with
    /// nothing else.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Whether reading stopped in this poll because a budget was used up, so that there may be more. The
    /// task has been woken then.
    pub(super) fn is_cut_short(&self) -> bool {
        self.cut_short
    }

    fn cut_short(&mut self, cx: &mut Context<'_>) {
        if !self.cut_short {
            self.cut_short = true;
            // Polled once, it has told the runtime.
            let _ = pin!(yield_now()).poll(cx);
        }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Budgeted<Io> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            self.cut_short(cx);
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        match polled {
            Poll::Ready(_) => {
                let read = buffer.filled().len() - before;
                self.received += read as u64;
                self.left = self.left.saturating_sub(read);
            }
            // Tokio's own budget: nothing has been asked of the system.
            Poll::Pending if !coop::has_budget_remaining() => self.cut_short(cx),
            Poll::Pending => {}
        }
        polled
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Budgeted<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
