//! The servers of a script, each on one connection.

use std::{
    future::pending,
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{self, Sleep},
};

use super::state::SharedState;
use crate::fuzz::{codec::sizes, yield_once};

/// A connection, which does at the client's end what its script says.
pub(super) struct ScriptedIo {
    world: SharedState,
    id: usize,
    script: std::iter::Peekable<std::vec::IntoIter<u8>>,
    cuts: Box<dyn Iterator<Item = usize> + Send>,
    /// What the server has sent and the client has not read.
    sent: Vec<u8>,
    answered: usize,
    waits: Option<Pin<Box<Sleep>>>,
    writing: Writing,
    /// Who waits for requests to come, and who for room to write.
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq)]
enum Writing {
    Goes,
    Waits,
    Fails,
}

impl ScriptedIo {
    pub(super) async fn dial(world: SharedState) -> io::Result<Self> {
        let mut line = Self::accepted(world);
        match line.script.peek() {
            Some(b'r') => return Err(io::ErrorKind::ConnectionRefused.into()),
            Some(b'R') => pending().await,
            Some(b'd') => time::sleep(SHORT).await,
            _ => {}
        }
        line.script.next_if_eq(&b'd');
        Ok(line)
    }

    pub(super) fn accepted(world: SharedState) -> Self {
        let (id, cuts, script) = world.lock().connect();
        let cuts = sizes(&cuts).take(cuts.len().max(1)).collect::<Vec<_>>().into_iter().cycle();
        Self {
            world,
            id,
            script: script.into_iter().peekable(),
            cuts: Box::new(cuts),
            sent: Vec::new(),
            answered: 0,
            waits: None,
            writing: Writing::Goes,
            reader: None,
            writer: None,
        }
    }

    /// Does the next thing: says whether there is something to read now.
    fn act(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if let Some(wait) = &mut self.waits {
            ready!(wait.as_mut().poll(cx));
            self.waits = None;
        }
        let Some(&act) = self.script.peek() else { return Poll::Pending };
        match act {
            b'a' | b'e' | b'm' | b'*' => {
                let Some(answer) = self.world.lock().answer(self.id, self.answered, act) else {
                    self.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                };
                self.answered += 1;
                self.sent.extend_from_slice(answer.as_bytes());
                if act == b'*' {
                    return Poll::Ready(Ok(false));
                }
            }
            b'w' => self.waits = Some(Box::pin(time::sleep(SHORT))),
            b'W' => self.waits = Some(Box::pin(time::sleep(LONG))),
            b'k' => self.writing = Writing::Waits,
            b'K' => self.writing = Writing::Goes,
            b'x' => self.writing = Writing::Fails,
            b'z' => return Poll::Ready(Ok(true)),
            b'!' => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            _ => {}
        }
        self.script.next();
        match act {
            b'\'' => {
                let bytes = self.script.by_ref().take_while(|&byte| byte != b'\'');
                self.sent.extend(bytes.map(|byte| if byte == b'/' { b'\n' } else { byte }));
            }
            b'K' | b'x' => wake(&mut self.writer),
            b'.' => return yield_once(cx),
            _ => {}
        }
        Poll::Ready(Ok(false))
    }
}

const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(2);

impl AsyncRead for ScriptedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.sent.is_empty() {
            if ready!(self.act(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
        let size = match self.cuts.next() {
            Some(0) => return yield_once(cx),
            size => size.unwrap_or(0).min(self.sent.len()).min(buffer.remaining()),
        };
        buffer.put_slice(&self.sent[..size]);
        self.world.lock().read(self.id, &self.sent[..size]);
        self.sent.drain(..size);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ScriptedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let size = match self.writing {
            Writing::Goes => self.cuts.next().unwrap_or(0).min(bytes.len()),
            Writing::Waits => 0,
            Writing::Fails => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        self.world.lock().wrote(self.id, &bytes[..size], size < bytes.len());
        if size > 0 {
            return Poll::Ready(Ok(size));
        }
        if self.writing == Writing::Goes {
            return yield_once(cx);
        }
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.world.lock().flushed(self.id) {
            wake(&mut self.reader);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.writing {
            Writing::Goes => self.poll_flush(cx),
            Writing::Waits => Poll::Pending,
            Writing::Fails => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl Drop for ScriptedIo {
    fn drop(&mut self) {
        self.world.lock().disconnect(self.id);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
