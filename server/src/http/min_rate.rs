//! A connection that fails if its peer reads too slowly: it would keep an answer, and a snapshot of the store.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// A connection whose peer has to read at least [`MIN_BYTES`] in a time. Only the time counts in which writing
/// waits for the peer.
#[derive(Debug)]
pub(super) struct MinRateIo<Io> {
    io: Io,
    timeout: Duration,
    /// How long the last bytes, fewer than [`MIN_BYTES`], have waited.
    waited: Duration,
    written: usize,
    /// Since when writing waits.
    waits_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

/// What a peer has to read in the time: 2 KiB a second with the default.
const MIN_BYTES: usize = 64 * 1024;

impl<Io> MinRateIo<Io> {
    pub(super) fn new(io: Io, timeout: Duration) -> Self {
        Self {
            io,
            timeout,
            waited: Duration::ZERO,
            written: 0,
            waits_since: None,
            timer: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// Counts the outcome of a write, and fails if the peer is too slow.
    fn count<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
        written: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match &outcome {
            Poll::Ready(Ok(value)) => {
                if let Some(since) = self.waits_since.take() {
                    self.waited += since.elapsed();
                }
                self.written += written(value);
                if self.written >= MIN_BYTES {
                    (self.waited, self.written) = (Duration::ZERO, 0);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                if self.waits_since.is_none() {
                    let now = Instant::now();
                    self.waits_since = Some(now);
                    self.timer.as_mut().reset(now + self.timeout.saturating_sub(self.waited));
                }
                if self.timer.as_mut().poll(cx).is_ready() {
                    let error =
                        io::Error::new(io::ErrorKind::TimedOut, "the peer reads too slowly");
                    return Poll::Ready(Err(error));
                }
            }
        }
        outcome
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for MinRateIo<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for MinRateIo<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, buf);
        self.count(cx, outcome, |len| *len)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.count(cx, outcome, |len| *len)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        self.count(cx, outcome, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_shutdown(cx);
        self.count(cx, outcome, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::sleep,
    };

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn peer_that_reads_a_byte_now_and_then_fails() {
        let (io, mut peer) = duplex(1024);
        let mut io = MinRateIo::new(io, TIMEOUT);
        let reading = tokio::spawn(async move {
            let mut byte = [0];
            while peer.read_exact(&mut byte).await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        let begin = Instant::now();
        let error = io.write_all(&[b'x'; 1 << 20]).await.unwrap_err();
        assert_eq!((error.kind(), begin.elapsed()), (io::ErrorKind::TimedOut, TIMEOUT));
        drop(io);
        reading.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_is_fast_enough_reads_all() {
        let (io, mut peer) = duplex(1024);
        let mut io = MinRateIo::new(io, TIMEOUT);
        let reading = tokio::spawn(async move {
            let mut block = [0; 8 * 1024];
            while peer.read_exact(&mut block).await.is_ok() {
                sleep(Duration::from_secs(3)).await;
            }
        });
        let begin = Instant::now();
        io.write_all(&[b'x'; 1 << 20]).await.unwrap();
        assert!(begin.elapsed() > 10 * TIMEOUT);
        drop(io);
        reading.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn time_without_anything_to_write_does_not_count() {
        let (io, mut peer) = duplex(16);
        let mut io = MinRateIo::new(io, TIMEOUT);
        for _ in 0..10 {
            let (wrote, read) = tokio::join!(io.write_all(&[b'x'; 32]), async {
                sleep(Duration::from_secs(1)).await;
                peer.read_exact(&mut [0; 32]).await
            });
            assert!(wrote.is_ok() && read.is_ok());
            sleep(10 * TIMEOUT).await;
        }
    }
}
