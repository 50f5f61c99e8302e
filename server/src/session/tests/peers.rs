//! Peers that no pipe could play: always heard, stuck, or watched.

use std::{pin::Pin, task::Context};

use tokio::io::ReadBuf;

use super::*;

/// Sends blank lines without a pause after its request, and reads nothing.
#[derive(Default)]
struct Blanks {
    has_asked: bool,
}

impl AsyncRead for Blanks {
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

impl AsyncWrite for Blanks {
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
async fn an_answer_may_not_be_left_unread_by_a_peer_that_is_always_heard() {
    let shared = Arc::new(Shared::new(MemoryStore::new(), Limits::default(), Arc::default()));
    let (_stop, stopped) = watch::channel(false);
    let session = tokio::spawn(run(Blanks::default(), None, shared, Usage::default(), stopped));
    // It is looked at once more when its time is over.
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

/// Counts what is read of it.
struct Counted(DuplexStream, Arc<Mutex<Vec<usize>>>);

impl AsyncRead for Counted {
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

impl AsyncWrite for Counted {
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

/// What was read in each of so many turns of a session whose peer has sent `bytes`, one by one, and
/// what these turns counted for.
async fn turns_of(bytes: &[u8], scheduler: usize) -> Vec<(Vec<usize>, usize)> {
    let (mut peer, io) = duplex(bytes.len());
    peer.write_all(bytes).await.unwrap();
    let (reads, work) = (Arc::default(), Usage::default());
    let (_stop, stopped) = watch::channel(false);
    let shared = Arc::new(Shared::new(MemoryStore::new(), Limits::default(), Arc::default()));
    let io = Counted(io, Arc::clone(&reads));
    let mut session = Box::pin(run(io, None, shared, work.clone(), stopped));
    let mut seen = Vec::new();
    for _ in 0..scheduler {
        poll_fn(|cx| {
            assert!(session.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        seen.push((std::mem::take(&mut *reads.lock().unwrap()), work.take()));
    }
    seen
}

#[tokio::test]
async fn no_read_and_no_turn_takes_more_than_it_may() {
    for (reads, counted) in turns_of(&b"put a 1 1\n".repeat(60_000), 8).await {
        assert!(reads.iter().all(|&read| read <= MAX_READ), "{reads:?}");
        let read: usize = reads.iter().sum();
        assert!((1..=2 * MAX_READ).contains(&read) && counted > read, "{reads:?}, {counted}");
    }
}

#[tokio::test]
async fn what_is_passed_over_after_the_end_counts_as_work_and_takes_turns() {
    for (reads, counted) in turns_of(&vec![b'x'; 1 << 20], 10).await {
        let read: usize = reads.iter().sum();
        assert!((1..=2 * MAX_READ).contains(&read) && counted >= read, "{reads:?}, {counted}");
    }
}

/// Takes what is written into a buffer, and never gets it out.
struct Stuck(DuplexStream);

impl AsyncRead for Stuck {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stuck {
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
async fn small_answers_into_a_buffer_do_not_begin_the_time_anew() {
    let (mut peer, io) = duplex(64 * 1024);
    let shared = Arc::new(Shared::new(MemoryStore::new(), Limits::default(), Arc::default()));
    let (_stop, stopped) = watch::channel(false);
    let session = tokio::spawn(run(Stuck(io), None, shared, Usage::default(), stopped));
    let begin = Instant::now();
    while begin.elapsed() < 60 * SECOND && peer.write_all(b"get a\n").await.is_ok() {
        sleep(SECOND).await;
    }
    let took = begin.elapsed();
    assert!((30 * SECOND..33 * SECOND).contains(&took), "{took:?}");
    session.await.unwrap();
}
