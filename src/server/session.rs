//! One connection: requests in, answers out, in order.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use bytes::BufMut;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::yield_now,
};
use tokio_util::codec::Encoder;
use tracing::{debug, error, field::DisplayValue, info};

#[cfg(feature = "tls")]
use super::tls::TlsAcceptor;
use super::{
    Limits,
    backlog::{Backlog, Place},
    log::Log,
    stats::Counters,
    turns::{Turns, Work},
    wire::{Input, MAX_READ, MIN_READ, Wire},
};
use crate::{
    metric::{Escaped, Key, Selector},
    protocol::{RequestRef, Response, ServerCodec, encode_records},
    store::{Block, PutBatch, Snapshot, Store, StoreError},
};

/// What all sessions of a server share.
#[derive(Debug)]
pub(super) struct Shared<S> {
    pub(super) store: S,
    pub(super) limits: Limits,
    pub(super) counters: Arc<Counters>,
    pub(super) log: Log,
    /// Whose turn it is. Empty for a session that nobody gave any.
    pub(super) turns: Arc<Turns>,
    backlog: Arc<Backlog>,
    /// Whether the store failed when it was last asked: a store that stays broken is logged once.
    store_fails: AtomicBool,
    /// Makes TLS of a connection before it is served, if that is what peers expect.
    #[cfg(feature = "tls")]
    tls: Option<TlsAcceptor>,
}

impl<S> Shared<S> {
    pub(super) fn new(store: S, limits: Limits, counters: Arc<Counters>) -> Self {
        Self {
            store,
            limits,
            counters,
            log: Log::default(),
            turns: Arc::new(Turns::new()),
            backlog: Arc::new(Backlog::new(limits.max_total_unsent_bytes)),
            store_fails: AtomicBool::new(false),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn tls(self, tls: Option<TlsAcceptor>) -> Self {
        Self { tls, ..self }
    }

    /// Whether so many sessions have something to do that each must make do with less.
    fn is_crowded(&self) -> bool {
        self.turns.waiting() > MAX_WAITING_AT_EASE
    }
}

/// Serves one connection that the server has accepted, over TLS if that is what it speaks.
pub(super) async fn welcome<Io, S>(
    io: Io,
    peer: SocketAddr,
    shared: Arc<Shared<S>>,
    work: Work,
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
pub(super) async fn run<Io, S>(
    io: Io,
    peer: Option<SocketAddr>,
    shared: Arc<Shared<S>>,
    work: Work,
    stop: watch::Receiver<bool>,
) where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    S: Store,
{
    let limits = shared.limits;
    let peer = peer.map(tracing::field::display);
    let mut session = Session {
        wire: Wire::new(io, limits, Place::new(Arc::clone(&shared.backlog), work.clone()), work),
        codec: ServerCodec::max_line_bytes(limits.max_line_bytes),
        puts: PutBatch::new(),
        turn_bytes: 0,
        peer: peer.clone(),
        shared: Arc::clone(&shared),
    };
    debug!(peer, "connected");
    match session.serve(stop).await {
        end @ (End::Idle | End::SlowLine | End::Unread | End::GivenUp)
            if shared.log.cut_off.should_log() =>
        {
            info!(peer, reason = %end, "cut off");
        }
        end => debug!(peer, reason = %end, "disconnected"),
    }
}

/// Why a session is over.
#[derive(Debug)]
pub(super) enum End {
    /// The peer closed.
    Closed,
    /// The server stops.
    Stopped,
    LineTooLong,
    Idle,
    SlowLine,
    Unread,
    /// Too many answers of all peers are unread.
    GivenUp,
    /// The store failed when half of an answer was gone.
    Store,
    Io(io::Error),
    /// The peer took too long over making TLS of the connection.
    #[cfg(feature = "tls")]
    SlowHandshake,
    #[cfg(feature = "tls")]
    Handshake(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the peer closed the connection",
            Self::Stopped => "the server stops",
            Self::LineTooLong => "the peer sent a line that is too long",
            Self::Idle => "the peer sent no request for too long",
            Self::SlowLine => "the peer took too long over a line",
            Self::Unread => "the peer left an answer unread for too long",
            Self::GivenUp => {
                "peers left too many answers unread, and this one its own for the longest time"
            }
            Self::Store => "the store failed in the middle of an answer",
            Self::Io(error) => return write!(f, "the connection failed: {error}"),
            #[cfg(feature = "tls")]
            Self::SlowHandshake => "the peer took too long over the TLS handshake",
            // It may quote the peer's certificate.
            #[cfg(feature = "tls")]
            Self::Handshake(error) => {
                let reason = error.to_string();
                return write!(f, "the TLS handshake failed: {}", reason.escape_debug());
            }
        })
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Session<Io, S> {
    wire: Wire<Io>,
    codec: ServerCodec,
    /// Puts that were read, to be applied before anything else is answered.
    puts: PutBatch,
    /// How many bytes were read since others last had their turn.
    turn_bytes: usize,
    peer: Option<DisplayValue<SocketAddr>>,
    shared: Arc<Shared<S>>,
}

impl<Io, S> Session<Io, S>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    S: Store,
{
    async fn serve(&mut self, mut stop: watch::Receiver<bool>) -> End {
        let end = loop {
            match self.turn(&mut stop).await {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        match end {
            End::Closed | End::Stopped | End::LineTooLong => {
                if let Err(end) = self.drain().await {
                    return end;
                }
                self.puts.release();
                self.wire.linger().await;
            }
            // Nothing is owed; where something is, the end must look like none.
            End::Idle | End::SlowLine => self.wire.part().await,
            _ => {}
        }
        end
    }

    /// Reads once, and answers all that is whole.
    async fn turn(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), End> {
        // Without this look a peer that never pauses would never see the stop.
        if *stop.borrow() {
            return Err(End::Stopped);
        }
        let exchange = poll_fn(|cx| {
            let input = self.wire.poll_exchange(cx);
            if input.is_pending() {
                self.puts.release();
                self.turn_bytes = 0;
            }
            input
        });
        let input = tokio::select! {
            biased;
            input = exchange => input?,
            _ = stop.wait_for(|&stop| stop) => return Err(End::Stopped),
        };
        match input {
            Input::End => Err(End::Closed),
            Input::Bytes(read) => {
                self.answer().await?;
                self.turn_bytes += read;
                let enough = if self.shared.is_crowded() { MIN_READ } else { MAX_READ / 2 };
                if self.turn_bytes >= enough {
                    // One peer that sends without a pause must not keep the others waiting.
                    self.let_others_go_first().await?;
                }
                Ok(())
            }
        }
    }

    /// Ends its turn.
    async fn let_others_go_first(&mut self) -> Result<(), End> {
        self.turn_bytes = 0;
        let is_crowded = self.shared.is_crowded();
        if is_crowded {
            self.puts.release();
        }
        poll_fn(|cx| Poll::Ready(self.wire.step_back(cx, is_crowded))).await?;
        yield_now().await;
        Ok(())
    }

    /// Writes all there is; there must be no put that is not applied.
    async fn drain(&mut self) -> Result<(), End> {
        poll_fn(|cx| {
            let drained = self.wire.poll_drain(cx);
            if drained.is_pending() {
                self.puts.release();
            }
            drained
        })
        .await
    }

    /// Answers every request whose line is whole.
    async fn answer(&mut self) -> Result<(), End> {
        loop {
            self.take_puts();
            let line = match self.codec.next_line(self.wire.input()) {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(fault) => {
                    self.apply().await?;
                    self.refuse(&fault);
                    return Err(End::LineTooLong);
                }
            };
            let selector = match RequestRef::parse(&self.wire.input()[..line]) {
                Ok(Some(RequestRef::Put(key, point))) => {
                    self.puts.push_checked(key, point);
                    self.wire.consume(line + 1);
                    continue;
                }
                Ok(Some(RequestRef::Get(key))) => Ok(Selector::Key(Key::from_checked(key))),
                Ok(Some(RequestRef::GetAll)) => Ok(Selector::All),
                Ok(None) => {
                    self.wire.consume(line + 1);
                    continue;
                }
                Err(fault) => Err(fault),
            };
            self.wire.consume(line + 1);
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
    async fn make_room(&mut self) -> Result<(), End> {
        if self.wire.is_full() {
            self.drain().await?;
            self.let_others_go_first().await?;
        }
        Ok(())
    }

    /// Takes the puts that the input begins with as long as a glance is enough to read them, without
    /// passing over each by itself.
    fn take_puts(&mut self) {
        let input = self.wire.input();
        let mut len = 0;
        while let Some((key, point, put_len)) = self.codec.next_put(&input[len..]) {
            self.puts.push_checked(key, point);
            len += put_len;
        }
        if len > 0 {
            self.wire.consume(len);
        }
    }

    /// Applies the puts that have gathered, and answers them.
    async fn apply(&mut self) -> Result<(), End> {
        let count = self.puts.len();
        if count == 0 {
            return Ok(());
        }
        match self.shared.store.apply(&self.puts).await {
            Ok(()) => {
                self.succeeded();
                self.shared.counters.puts.add(count);
                let output = &mut self.wire.output;
                output.reserve(count * PUT_DONE.len());
                (0..count).for_each(|_| output.put_slice(PUT_DONE));
            }
            // What the store says may be much longer than the puts.
            Err(error) => {
                for _ in 0..count {
                    self.fail(&error);
                    self.make_room().await?;
                }
            }
        }
        self.puts.clear();
        Ok(())
    }

    /// Answers a get, block by block.
    async fn get(&mut self, selector: &Selector) -> Result<(), End> {
        let shared = Arc::clone(&self.shared);
        shared.counters.gets.add(1);
        let mut snapshot = match shared.store.get(selector).await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.fail(&error);
                return Ok(());
            }
        };
        let begin = self.wire.output.len();
        let mut has_left = false;
        self.wire.output.put_slice(OK);
        loop {
            let Block { key, points } = match snapshot.next_block().await {
                Ok(Some(block)) => block,
                Ok(None) => break,
                Err(error) if has_left => {
                    self.fail(&error);
                    return Err(End::Store);
                }
                Err(error) => {
                    self.wire.output.truncate(begin);
                    self.fail(&error);
                    return Ok(());
                }
            };
            for points in points.chunks(POINTS_BETWEEN_LOOKS) {
                encode_records(&mut self.wire.output, key, points);
                if self.wire.is_full() {
                    self.drain().await?;
                    has_left = true;
                    self.let_others_go_first().await?;
                }
            }
        }
        self.wire.output.put_u8(b'\n');
        self.succeeded();
        Ok(())
    }

    fn refuse(&mut self, fault: &dyn fmt::Display) {
        debug!(peer = self.peer, %fault, "refused a request");
        self.shared.counters.refused.add(1);
        self.wire.output.put_slice(WRONG_COMMAND);
    }

    fn succeeded(&self) {
        if self.shared.store_fails.load(Ordering::Relaxed)
            && self.shared.store_fails.swap(false, Ordering::Relaxed)
            && self.shared.log.store.should_log()
        {
            info!("the store works again");
        }
    }

    fn fail(&mut self, fault: &StoreError) {
        self.shared.counters.failed.add(1);
        let message = fault.to_string();
        let shown = Escaped(&message);
        if self.shared.store_fails.swap(true, Ordering::Relaxed)
            || !self.shared.log.store.should_log()
        {
            debug!(peer = self.peer, fault = %shown, "the store failed");
        } else {
            let cause = std::error::Error::source(fault).map(ToString::to_string);
            let cause = cause.as_deref().map(Escaped).map(tracing::field::display);
            error!(peer = self.peer, fault = %shown, cause, "the store failed");
        }
        let message = message.chars().take(MAX_MESSAGE_CHARS).collect();
        self.codec
            .encode(Response::Error(message), &mut self.wire.output)
            .expect("only a malformed response cannot be encoded");
    }
}

/// How many sessions may wait for their turn before each of them gives its buffers back meanwhile,
/// and has shorter turns. Both cost a busy peer some of its speed; buffers that are kept cost up to
/// half a megabyte for each, and long turns of many make everybody else wait.
const MAX_WAITING_AT_EASE: usize = 32;

const OK: &[u8] = b"ok\n";
const PUT_DONE: &[u8] = b"ok\n\n";
const WRONG_COMMAND: &[u8] = b"error\nwrong command\n\n";

/// How much of a store's message goes to the other end.
const MAX_MESSAGE_CHARS: usize = 200;

/// How many records may be made before a look at how many bytes they are: a block may have
/// thousands of points of a key of 1 KiB.
const POINTS_BETWEEN_LOOKS: usize = 64;

#[cfg(test)]
mod tests;
