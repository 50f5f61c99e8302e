//! One connection: reads requests, and answers them in order.

use std::{fmt, future::poll_fn, net::SocketAddr, sync::Arc, task::Poll};

use bytes::BufMut;
use metrics_client::{
    Selector,
    codec::{Excerpt, RequestRef, ServerCodec},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::yield_now,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, field::DisplayValue, info};

use crate::{
    net::source_of,
    store::{PutBatch, Store},
};

mod close_reason;
mod deadline;
#[cfg(unix)]
pub(crate) mod descriptors;
#[cfg(feature = "tls")]
mod handshakes;
mod limits;
pub(crate) mod listener;
mod log_limits;
mod scheduler;
mod shared;
mod store;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod unsent_budget;

use close_reason::CloseReason;
pub use limits::Limits;
pub(crate) use scheduler::Usage;
use shared::MAX_CONTENDED_PUTS;
pub(crate) use shared::SessionShared;
#[cfg(feature = "tls")]
pub use tls::TlsAcceptor;
use transport::{Input, MAX_READ, MIN_READ, Transport};
use unsent_budget::BudgetEntry;

/// Serves a connection that the server has accepted, after its TLS handshake if it has one.
async fn serve_accepted<Io, S>(
    io: Io,
    peer: SocketAddr,
    shared: Arc<SessionShared<S>>,
    usage: Usage,
    stop: CancellationToken,
) where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Store,
{
    #[cfg(feature = "tls")]
    if let Some(tls) = &shared.tls {
        match tls.accept(io, peer.ip(), &shared.limits, &usage, &stop).await {
            // Boxed, so that a session without TLS does not reserve space for it.
            Ok(io) => Box::pin(run(io, Some(peer), Arc::clone(&shared), usage, stop)).await,
            Err(
                reason @ (CloseReason::Handshake(_)
                | CloseReason::HandshakeTimeout
                | CloseReason::HandshakeQueueTimeout),
            ) => {
                shared.counters.failed_handshakes.add(1);
                if shared.log_limits.failed_handshakes.should_log() {
                    info!(%peer, %reason, "TLS handshake failed");
                } else {
                    debug!(%peer, %reason, "TLS handshake failed");
                }
            }
            Err(reason) => debug!(%peer, %reason, "TLS handshake failed"),
        }
        return;
    }
    run(io, Some(peer), shared, usage, stop).await;
}

/// Serves one connection until it ends, or until `stop` is cancelled and every request that was read
/// is answered.
///
/// `peer` is for the log. What the session reads and writes is charged to `usage`.
pub(crate) async fn run<Io, S>(
    io: Io,
    peer: Option<SocketAddr>,
    shared: Arc<SessionShared<S>>,
    usage: Usage,
    stop: CancellationToken,
) where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    S: Store,
{
    let limits = shared.limits;
    let puts = peer.map_or_else(PutBatch::new, |peer| PutBatch::from_source(source_of(peer.ip())));
    let peer = peer.map(tracing::field::display);
    let mut session = Session {
        transport: Transport::new(
            io,
            limits,
            BudgetEntry::new(Arc::clone(&shared.unsent_budget), usage.clone()),
            usage,
        ),
        codec: ServerCodec::with_max_line_bytes(limits.max_line_bytes),
        puts,
        is_new: true,
        slice_bytes: 0,
        peer: peer.clone(),
        shared: Arc::clone(&shared),
    };
    debug!(peer, "connected");
    let reason = session.serve(&stop).await;
    if reason.is_by_server() && shared.log_limits.closing.should_log() {
        info!(peer, %reason, "closing connection");
    } else {
        debug!(peer, %reason, "closing connection");
    }
}

struct Session<Io, S> {
    transport: Transport<Io>,
    codec: ServerCodec,
    /// Puts that were read. They are applied before another request is answered.
    puts: PutBatch,
    /// True until the peer has sent a line that is not blank.
    is_new: bool,
    /// How many bytes were read in this time slice.
    slice_bytes: usize,
    peer: Option<DisplayValue<SocketAddr>>,
    shared: Arc<SessionShared<S>>,
}

impl<Io, S> Session<Io, S>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    S: Store,
{
    async fn serve(&mut self, stop: &CancellationToken) -> CloseReason {
        let end = loop {
            match self.serve_once(stop).await {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        if matches!(end, CloseReason::Closed) {
            self.drop_unfinished_line();
        }
        match end {
            CloseReason::Closed
            | CloseReason::Stopped
            | CloseReason::LineTooLong
            | CloseReason::ForeignProtocol
            | CloseReason::StoreTransient => {
                if let Err(end) = self.drain().await {
                    return end;
                }
                self.puts.release();
                self.transport.linger().await;
            }
            // No answer is owed. With an answer owed, the connection must not end in an orderly way.
            CloseReason::IdleTimeout | CloseReason::LineTimeout => {
                self.transport.shutdown_now().await;
            }
            _ => {}
        }
        end
    }

    /// Reads once, and answers every complete request.
    async fn serve_once(&mut self, stop: &CancellationToken) -> Result<(), CloseReason> {
        // Without this check a peer that never pauses would not notice the shutdown.
        if stop.is_cancelled() {
            return Err(CloseReason::Stopped);
        }
        let exchange = poll_fn(|cx| {
            let input = self.transport.poll_io(cx);
            if input.is_pending() {
                self.puts.release();
                self.slice_bytes = 0;
            }
            input
        });
        let input = tokio::select! {
            biased;
            input = exchange => input?,
            () = stop.cancelled() => return Err(CloseReason::Stopped),
        };
        match input {
            Input::Eof => Err(CloseReason::Closed),
            Input::Bytes(read) => {
                self.answer().await?;
                self.slice_bytes += read;
                let enough = if self.shared.is_contended() { MIN_READ } else { MAX_READ / 2 };
                if self.slice_bytes >= enough {
                    // A peer that sends without a pause must not delay the others.
                    self.yield_slice().await?;
                }
                Ok(())
            }
        }
    }

    /// Ends the time slice.
    async fn yield_slice(&mut self) -> Result<(), CloseReason> {
        self.slice_bytes = 0;
        let is_contended = self.shared.is_contended();
        if is_contended {
            self.puts.release();
        }
        poll_fn(|cx| Poll::Ready(self.transport.yield_buffers(cx, is_contended))).await?;
        yield_now().await;
        Ok(())
    }

    /// Writes all output. Every put must have been applied.
    async fn drain(&mut self) -> Result<(), CloseReason> {
        poll_fn(|cx| {
            let drained = self.transport.poll_drain(cx);
            if drained.is_pending() {
                self.puts.release();
            }
            drained
        })
        .await
    }

    /// Answers every request whose line is complete.
    async fn answer(&mut self) -> Result<(), CloseReason> {
        let max_puts = if self.shared.is_store_busy() { MAX_CONTENDED_PUTS } else { usize::MAX };
        loop {
            self.take_puts(max_puts);
            if self.puts.len() >= max_puts {
                self.apply().await?;
                continue;
            }
            let line = match self.codec.next_line(self.transport.input()) {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => {
                    self.apply().await?;
                    self.reject_line(&error);
                    return Err(CloseReason::LineTooLong);
                }
            };
            let selector = match RequestRef::parse(&self.transport.input()[..line]) {
                Ok(Some(RequestRef::Put(key, point))) => {
                    self.puts.push_ref(key, point);
                    self.is_new = false;
                    self.transport.consume(line + 1);
                    continue;
                }
                Ok(Some(RequestRef::Get(key))) => Ok(Selector::Key(key.to_key())),
                Ok(Some(RequestRef::GetAll)) => Ok(Selector::All),
                Ok(None) => {
                    self.transport.consume(line + 1);
                    continue;
                }
                Err(error) => Err(error),
            };
            if let Err(error) = &selector
                && std::mem::take(&mut self.is_new)
                && is_foreign(&self.transport.input()[..line])
            {
                self.reject_line(error);
                return Err(CloseReason::ForeignProtocol);
            }
            self.is_new = false;
            self.transport.consume(line + 1);
            self.apply().await?;
            match selector {
                Ok(selector) => self.get(&selector).await?,
                Err(error) => self.reject_line(&error),
            }
            self.wait_for_capacity().await?;
        }
        self.apply().await
    }

    /// If the output is full, waits until it is written, and then for the next time slice.
    async fn wait_for_capacity(&mut self) -> Result<(), CloseReason> {
        if self.transport.is_full() {
            self.drain().await?;
            self.yield_slice().await?;
        }
        Ok(())
    }

    /// Takes the puts at the beginning of the input that the fast parser accepts, up to a batch of `max_puts`,
    /// and consumes them at once.
    fn take_puts(&mut self, max_puts: usize) {
        let input = self.transport.input();
        let mut len = 0;
        while self.puts.len() < max_puts
            && let Some((key, point, put_len)) = self.codec.next_put(&input[len..])
        {
            self.puts.push_ref(key, point);
            len += put_len;
        }
        if len > 0 {
            self.is_new = false;
            self.transport.consume(len);
        }
    }

    fn reject_line(&mut self, error: &dyn fmt::Display) {
        if self.shared.log_limits.invalid_requests.should_log() {
            info!(peer = self.peer, %error, "invalid request");
        } else {
            debug!(peer = self.peer, %error, "invalid request");
        }
        self.shared.counters.invalid_requests.add(1);
        self.transport.output.put_slice(WRONG_COMMAND);
    }

    /// Logs and counts the peer's last line if it has no line break. It is not carried out, because its
    /// last number may be incomplete.
    fn drop_unfinished_line(&mut self) {
        let line = self.transport.input();
        if line.iter().all(|byte| b" \t\r".contains(byte)) {
            return;
        }
        let line = Excerpt::of(line);
        self.shared.counters.incomplete_lines.add(1);
        if self.shared.log_limits.invalid_requests.should_log() {
            info!(peer = self.peer, %line, "line without a line break dropped");
        } else {
            debug!(peer = self.peer, %line, "line without a line break dropped");
        }
    }
}

/// Returns true if an invalid request is the beginning of HTTP or TLS.
///
/// A web page can make a browser send both to any port of this machine, and choose the next lines.
fn is_foreign(line: &[u8]) -> bool {
    let is_http = || {
        let mut fields = line.rsplit(u8::is_ascii_whitespace);
        fields.find(|field| !field.is_empty()).is_some_and(|last| last.starts_with(b"HTTP/"))
    };
    // A handshake record (RFC 8446, section 5.1).
    line.starts_with(&[22, 3]) || is_http()
}

const WRONG_COMMAND: &[u8] = b"error\nwrong command\n\n";

#[cfg(test)]
mod tests;
