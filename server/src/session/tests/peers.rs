//! Peers that a pipe cannot play: endless input, a stuck flush, counted reads.

use std::{pin::Pin, task::Context};

use tokio::io::ReadBuf;
use tokio_test::{assert_pending, task};

use super::*;

/// Sends blank lines without a pause after its request, and reads nothing.
#[derive(Default)]
struct BlankLinesIo {
    has_asked: bool,
}

impl AsyncRead for BlankLinesIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::replace(&mut self.has_asked, true) {
            buffer.put_slice(&vec![b'\n'; buffer.remaining()]);
        } else {
            buffer.put_slice(b"get a\n");
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BlankLinesIo {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn write_timeout_applies_despite_endless_input() {
    let shared =
        Arc::new(SessionShared::new(MemoryStore::new(), Limits::default(), Arc::default()));
    let stop = CancellationToken::new();
    let session = tokio::spawn(run(BlankLinesIo::default(), None, shared, Usage::default(), stop));
    // There is a short grace time after the deadline.
    let look = SECOND_LOOK + Duration::from_millis(1);
    for (time, is_evicted) in
        [(Duration::ZERO, false), (29 * SECOND, false), (2 * SECOND, false), (look, true)]
    {
        tokio::time::advance(time).await;
        for _ in 0..100 {
            yield_now().await;
        }
        assert_eq!(session.is_finished(), is_evicted);
    }
}

/// Records the size of each read.
struct CountingIo(DuplexStream, Arc<Mutex<Vec<usize>>>);

impl AsyncRead for CountingIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.0).poll_read(cx, buffer);
        self.1.lock().unwrap().push(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for CountingIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Runs `count` time slices of a session whose peer has sent `bytes`. Returns the sizes of the reads of
/// each slice and its charge.
async fn slices_of(bytes: &[u8], count: usize) -> Vec<(Vec<usize>, usize)> {
    let (mut peer, io) = duplex(bytes.len());
    peer.write_all(bytes).await.unwrap();
    let (reads, usage) = (Arc::default(), Usage::default());
    let stop = CancellationToken::new();
    let shared =
        Arc::new(SessionShared::new(MemoryStore::new(), Limits::default(), Arc::default()));
    let io = CountingIo(io, Arc::clone(&reads));
    let mut session = task::spawn(run(io, None, shared, usage.clone(), stop));
    let mut seen = Vec::new();
    for _ in 0..count {
        assert_pending!(session.poll());
        seen.push((std::mem::take(&mut *reads.lock().unwrap()), usage.take()));
    }
    seen
}

#[tokio::test]
async fn reads_and_slices_are_bounded() {
    for (reads, counted) in slices_of(&b"put a 1 1\n".repeat(60_000), 8).await {
        assert!(reads.iter().all(|&read| read <= MAX_READ), "{reads:?}");
        let read: usize = reads.iter().sum();
        assert!((1..=2 * MAX_READ).contains(&read) && counted > read, "{reads:?}, {counted}");
    }
}

#[tokio::test]
async fn discarded_input_is_charged_and_yields() {
    for (reads, counted) in slices_of(&vec![b'x'; 1 << 20], 10).await {
        let read: usize = reads.iter().sum();
        assert!((1..=2 * MAX_READ).contains(&read) && counted >= read, "{reads:?}, {counted}");
    }
}

/// Accepts every write, and never flushes.
struct PendingFlushIo(DuplexStream);

impl AsyncRead for PendingFlushIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PendingFlushIo {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// As over TLS.
#[tokio::test(start_paused = true)]
async fn buffered_answers_do_not_reset_the_write_timeout() {
    let (mut peer, io) = duplex(64 * 1024);
    let shared =
        Arc::new(SessionShared::new(MemoryStore::new(), Limits::default(), Arc::default()));
    let stop = CancellationToken::new();
    let session = tokio::spawn(run(PendingFlushIo(io), None, shared, Usage::default(), stop));
    let begin = Instant::now();
    while begin.elapsed() < 60 * SECOND && peer.write_all(b"get a\n").await.is_ok() {
        sleep(SECOND).await;
    }
    let elapsed = begin.elapsed();
    assert!((30 * SECOND..33 * SECOND).contains(&elapsed), "{elapsed:?}");
    session.await.unwrap();
}
