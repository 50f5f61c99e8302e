//! One connection: requests in, answers out, in order.

use std::{fmt, future::poll_fn, io, net::SocketAddr, sync::Arc, task::Poll};

use bytes::BufMut;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::yield_now,
};
use tracing::{debug, field::DisplayValue, info};

use metrics_client::{
    Selector,
    codec::{Excerpt, RequestRef, ServerCodec},
};

use crate::store::{PutBatch, Store};

mod conn_limit;
mod deadline;
#[cfg(unix)]
pub(crate) mod descriptors;
#[cfg(feature = "tls")]
mod handshakes;
mod limits;
pub(crate) mod listener;
mod log_limits;
mod scheduler;
mod stats;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod unsent_budget;

pub use limits::Limits;
use log_limits::LogLimits;
use scheduler::FairScheduler;
pub(crate) use scheduler::Usage;
pub(crate) use stats::Counters;
pub use stats::{Monitor, ServerStats};
#[cfg(feature = "tls")]
pub use tls::TlsAcceptor;
use transport::{Input, MAX_READ, MIN_READ, Transport};
use unsent_budget::{Place, UnsentBudget};

mod store;

/// What all sessions of a server share.
#[derive(Debug)]
pub(crate) struct Shared<S> {
    store: S,
    limits: Limits,
    counters: Arc<Counters>,
    pub(crate) log_limits: LogLimits,
    /// Whose turn it is. Empty for a session that nobody gave any.
    scheduler: Arc<FairScheduler>,
    unsent_budget: Arc<UnsentBudget>,
    /// Makes TLS of a connection before it is served, if that is what peers expect.
    #[cfg(feature = "tls")]
    tls: Option<TlsAcceptor>,
}

impl<S> Shared<S> {
    pub(crate) fn new(store: S, limits: Limits, counters: Arc<Counters>) -> Self {
        Self {
            store,
            limits,
            counters,
            log_limits: LogLimits::default(),
            scheduler: Arc::new(FairScheduler::new()),
            unsent_budget: Arc::new(UnsentBudget::new(limits.max_total_unsent_bytes)),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(self, tls: Option<TlsAcceptor>) -> Self {
        Self { tls, ..self }
    }

    /// Whether so many sessions have something to do that each must make do with less.
    fn is_contended(&self) -> bool {
        self.scheduler.waiting() > CONTENTION_THRESHOLD
    }
}

/// Serves one connection that the server has accepted, over TLS if that is what it speaks.
async fn serve_accepted<Io, S>(
    io: Io,
    peer: SocketAddr,
    shared: Arc<Shared<S>>,
    work: Usage,
    stop: watch::Receiver<bool>,
) where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Store,
{
    #[cfg(feature = "tls")]
    if let Some(tls) = &shared.tls {
        let mut stop = stop;
        match tls.accept(io, peer.ip(), &shared.limits, &work, &mut stop).await {
            // In a box of its own, so that a session without TLS need not keep room for it.
            Ok(io) => Box::pin(run(io, Some(peer), Arc::clone(&shared), work, stop)).await,
            Err(end @ (CloseReason::Handshake(_) | CloseReason::HandshakeTimeout)) => {
                shared.counters.failed_handshakes.add(1);
                if shared.log_limits.failed_handshakes.should_log() {
                    info!(%peer, reason = %end, "no TLS");
                } else {
                    debug!(%peer, reason = %end, "no TLS");
                }
            }
            Err(end) => debug!(%peer, reason = %end, "no TLS"),
        }
        return;
    }
    run(io, Some(peer), shared, work, stop).await;
}

/// Serves one connection to its end, or until `stop` says so and what was read is answered.
///
/// `peer` is for the log, where a connection without an address has none. What is done is counted as
/// `work`.
pub(crate) async fn run<Io, S>(
    io: Io,
    peer: Option<SocketAddr>,
    shared: Arc<Shared<S>>,
    work: Usage,
    stop: watch::Receiver<bool>,
) where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    S: Store,
{
    let limits = shared.limits;
    let peer = peer.map(tracing::field::display);
    let mut session = Session {
        transport: Transport::new(
            io,
            limits,
            Place::new(Arc::clone(&shared.unsent_budget), work.clone()),
            work,
        ),
        codec: ServerCodec::max_line_bytes(limits.max_line_bytes),
        puts: PutBatch::new(),
        is_new: true,
        slice_bytes: 0,
        peer: peer.clone(),
        shared: Arc::clone(&shared),
    };
    debug!(peer, "connected");
    match session.serve(stop).await {
        end @ (CloseReason::Idle
        | CloseReason::LineTimeout
        | CloseReason::LineTooLong
        | CloseReason::Foreign
        | CloseReason::WriteTimeout
        | CloseReason::Evicted)
            if shared.log_limits.cut_off.should_log() =>
        {
            info!(peer, reason = %end, "cut off");
        }
        end => debug!(peer, reason = %end, "disconnected"),
    }
}

/// Why a session is over.
#[derive(Debug)]
enum CloseReason {
    /// The peer closed.
    Closed,
    /// The server stops.
    Stopped,
    LineTooLong,
    /// What the peer speaks is HTTP or TLS.
    Foreign,
    Idle,
    LineTimeout,
    WriteTimeout,
    /// Too many answers of all peers are unread.
    Evicted,
    /// The store failed when half of an answer was gone.
    Store,
    /// The store failed in a way that passes, so the peer is to send again what was not answered.
    StoreTransient,
    Io(io::Error),
    /// The peer took too long over making TLS of the connection.
    #[cfg(feature = "tls")]
    HandshakeTimeout,
    #[cfg(feature = "tls")]
    Handshake(io::Error),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the peer closed the connection",
            Self::Stopped => "the server stops",
            Self::LineTooLong => "the peer sent a line that is too long",
            Self::Foreign => "the peer does not speak this protocol, but HTTP or TLS",
            Self::Idle => "the peer sent no request for too long",
            Self::LineTimeout => "the peer took too long over a line",
            Self::WriteTimeout => "the peer left an answer unread for too long",
            Self::Evicted => {
                "peers left too many answers unread, and this one its own for the longest time"
            }
            Self::Store => "the store failed in the middle of an answer",
            Self::StoreTransient => "the store cannot do now what the peer asked for",
            Self::Io(error) => return write!(f, "the connection failed: {error}"),
            #[cfg(feature = "tls")]
            Self::HandshakeTimeout => "the peer took too long over the TLS handshake",
            // It may quote the peer's certificate.
            #[cfg(feature = "tls")]
            Self::Handshake(error) => {
                let reason = error.to_string();
                return write!(f, "the TLS handshake failed: {}", reason.escape_debug());
            }
        })
    }
}

impl From<io::Error> for CloseReason {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Session<Io, S> {
    transport: Transport<Io>,
    codec: ServerCodec,
    /// Puts that were read, to be applied before anything else is answered.
    puts: PutBatch,
    /// Whether the peer has not sent a request yet, nor a line that might have been one.
    is_new: bool,
    /// How many bytes were read since others last had their turn.
    slice_bytes: usize,
    peer: Option<DisplayValue<SocketAddr>>,
    shared: Arc<Shared<S>>,
}

impl<Io, S> Session<Io, S>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    S: Store,
{
    async fn serve(&mut self, mut stop: watch::Receiver<bool>) -> CloseReason {
        let end = loop {
            match self.turn(&mut stop).await {
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
            | CloseReason::Foreign
            | CloseReason::StoreTransient => {
                if let Err(end) = self.drain().await {
                    return end;
                }
                self.puts.release();
                self.transport.linger().await;
            }
            // Nothing is owed; where something is, the end must look like none.
            CloseReason::Idle | CloseReason::LineTimeout => self.transport.part().await,
            _ => {}
        }
        end
    }

    /// Reads once, and answers all that is whole.
    async fn turn(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), CloseReason> {
        // Without this look a peer that never pauses would never see the stop.
        if *stop.borrow() {
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
            _ = stop.wait_for(|&stop| stop) => return Err(CloseReason::Stopped),
        };
        match input {
            Input::CloseReason => Err(CloseReason::Closed),
            Input::Bytes(read) => {
                self.answer().await?;
                self.slice_bytes += read;
                let enough = if self.shared.is_contended() { MIN_READ } else { MAX_READ / 2 };
                if self.slice_bytes >= enough {
                    // One peer that sends without a pause must not keep the others waiting.
                    self.yield_slice().await?;
                }
                Ok(())
            }
        }
    }

    /// Ends its turn.
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

    /// Writes all there is; there must be no put that is not applied.
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

    /// Answers every request whose line is whole.
    async fn answer(&mut self) -> Result<(), CloseReason> {
        loop {
            self.take_puts();
            let line = match self.codec.next_line(self.transport.input()) {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(fault) => {
                    self.apply().await?;
                    self.refuse(&fault);
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
                Err(fault) => Err(fault),
            };
            if let Err(fault) = &selector
                && std::mem::take(&mut self.is_new)
                && is_foreign(&self.transport.input()[..line])
            {
                self.refuse(fault);
                return Err(CloseReason::Foreign);
            }
            self.is_new = false;
            self.transport.consume(line + 1);
            self.apply().await?;
            match selector {
                Ok(selector) => self.get(&selector).await?,
                Err(fault) => self.refuse(&fault),
            }
            self.make_room().await?;
        }
        self.apply().await
    }

    /// Waits until there is room for answers, and for this session's next turn then.
    async fn make_room(&mut self) -> Result<(), CloseReason> {
        if self.transport.is_full() {
            self.drain().await?;
            self.yield_slice().await?;
        }
        Ok(())
    }

    /// Takes the puts that the input begins with as long as a glance is enough to read them, without
    /// passing over each by itself.
    fn take_puts(&mut self) {
        let input = self.transport.input();
        let mut len = 0;
        while let Some((key, point, put_len)) = self.codec.next_put(&input[len..]) {
            self.puts.push_ref(key, point);
            len += put_len;
        }
        if len > 0 {
            self.is_new = false;
            self.transport.consume(len);
        }
    }

    fn refuse(&mut self, fault: &dyn fmt::Display) {
        if self.shared.log_limits.refused.should_log() {
            info!(peer = self.peer, %fault, "refused a line");
        } else {
            debug!(peer = self.peer, %fault, "refused a line");
        }
        self.shared.counters.refused.add(1);
        self.transport.output.put_slice(WRONG_COMMAND);
    }

    /// Says that the peer's last line has no end. It is not carried out: the number that it ends with
    /// may be the beginning of another.
    fn drop_unfinished_line(&mut self) {
        let line = self.transport.input();
        if line.iter().all(|byte| b" \t\r".contains(byte)) {
            return;
        }
        let line = Excerpt::of(line);
        self.shared.counters.unfinished.add(1);
        if self.shared.log_limits.refused.should_log() {
            info!(peer = self.peer, %line, "dropped a line without a line break");
        } else {
            debug!(peer = self.peer, %line, "dropped a line without a line break");
        }
    }
}

/// Whether a line that is not a request begins another protocol: HTTP, or TLS. A web page can make a
/// browser send both to any port of this machine, and choose what the next lines are.
fn is_foreign(line: &[u8]) -> bool {
    let is_http = || {
        let mut fields = line.rsplit(u8::is_ascii_whitespace);
        fields.find(|field| !field.is_empty()).is_some_and(|last| last.starts_with(b"HTTP/"))
    };
    // A record of a handshake (RFC 8446, section 5.1).
    line.starts_with(&[22, 3]) || is_http()
}

/// How many sessions may wait for their turn before each of them gives its buffers back meanwhile,
/// and has shorter turns. Both cost a busy peer some of its speed; buffers that are kept cost up to
/// half a megabyte for each, and long turns of many make everybody else wait.
const CONTENTION_THRESHOLD: usize = 32;

const WRONG_COMMAND: &[u8] = b"error\nwrong command\n\n";

#[cfg(test)]
mod tests;
