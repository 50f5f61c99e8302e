//! Servers that need no thread of their own.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use loom::sync::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection, with the server at its other end.
#[derive(Clone)]
pub(super) struct Line(Arc<Mutex<Ends>>);

struct Ends {
    server: Server,
    requests: Vec<u8>,
    answers: Vec<u8>,
    /// Who waits for answers.
    client: Option<Waker>,
    hung_up: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Server {
    /// Its answer is there once the request is written.
    IsPrompt,
    /// Likewise, and then the connection is closed.
    HangsUp,
    /// Answers once it has two requests.
    WantsTwo,
    /// Answers on request, and at once from then on.
    Withholds,
}

impl Line {
    pub(super) fn new(server: Server) -> Self {
        Self(Arc::new(Mutex::new(Ends {
            server,
            requests: Vec::new(),
            answers: Vec::new(),
            client: None,
            hung_up: false,
        })))
    }

    /// Answers what was withheld.
    pub(super) fn answer(&self) {
        let mut ends = self.0.lock().unwrap();
        ends.server = Server::IsPrompt;
        let client = ends.answer();
        drop(ends);
        wake(client);
    }
}

impl Ends {
    /// Answers every request there is, and says whom to wake.
    fn answer(&mut self) -> Option<Waker> {
        let requests = String::from_utf8(std::mem::take(&mut self.requests)).unwrap();
        for request in requests.lines() {
            let key = request.split(' ').nth(1).unwrap();
            let answer =
                if key.starts_with("no") { format!("error\n{key}\n\n") } else { "ok\n\n".into() };
            self.answers.extend_from_slice(answer.as_bytes());
        }
        if requests.is_empty() { None } else { self.client.take() }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut ends = self.0.lock().unwrap();
        if !ends.answers.is_empty() {
            let len = ends.answers.len().min(buffer.remaining());
            buffer.put_slice(&ends.answers[..len]);
            ends.answers.drain(..len);
        } else if !ends.hung_up {
            ends.client = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut ends = self.0.lock().unwrap();
        if !ends.hung_up {
            ends.requests.extend_from_slice(bytes);
        }
        let client = match ends.server {
            Server::IsPrompt => ends.answer(),
            Server::HangsUp => {
                ends.hung_up = true;
                ends.answer()
            }
            Server::WantsTwo
                if ends.requests.iter().filter(|&&byte| byte == b'\n').count() == 2 =>
            {
                ends.answer()
            }
            Server::WantsTwo | Server::Withholds => None,
        };
        drop(ends);
        wake(client);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
