//! A request that arrives while the driver is going to sleep.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use metrics_client::{MetricsClient, client::Pipelining};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    join,
    sync::oneshot,
    time,
};
use tokio_test::{assert_pending, task};

/// A connection on which something happens once, at the worst moment: the driver has sent a request, has
/// looked for another, has found none, and is about to sleep.
struct NotifyingIo {
    io: DuplexStream,
    progress: Progress,
    event: Option<Box<dyn FnOnce() + Send>>,
}

#[derive(Clone, Copy)]
enum Progress {
    Nothing,
    Written,
    Flushed,
}

#[tokio::test(start_paused = true)]
async fn request_wakes_a_driver_that_is_going_to_sleep() {
    let (ours, mut server) = tokio::io::duplex(1024);
    let (sender, mut receiver) = oneshot::channel::<MetricsClient>();
    let (submitted, submission) = oneshot::channel();
    let event = Box::new(move || {
        let client = receiver.try_recv().unwrap();
        let mut put = task::spawn(async move { client.put_at("b", 2.0, 2).await });
        // Its first poll hands the request over.
        assert_pending!(put.poll());
        assert!(submitted.send(put).is_ok());
    });
    let io = NotifyingIo { io: ours, progress: Progress::Nothing, event: Some(event) };
    let client = MetricsClient::builder("a pipe").pipelining(Pipelining::On).with_io(io);
    assert!(sender.send(client.clone()).is_ok());

    let both = async {
        let mut requests = [0; 24];
        let read = time::timeout(Duration::from_secs(1), server.read_exact(&mut requests)).await;
        read.expect("the second request was forgotten").unwrap();
        assert_eq!(&requests, b"put a 1.0 1\nput b 2.0 2\n");
        server.write_all(b"ok\n\nok\n\n").await.unwrap();
        submission.await.unwrap().await.unwrap();
    };
    let (first, ()) = join!(client.put_at("a", 1.0, 1), both);
    first.unwrap();
}

impl AsyncRead for NotifyingIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for NotifyingIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.progress = Progress::Written;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.progress {
            Progress::Nothing => {}
            Progress::Written => self.progress = Progress::Flushed,
            Progress::Flushed => {
                if let Some(event) = self.event.take() {
                    event();
                }
            }
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
