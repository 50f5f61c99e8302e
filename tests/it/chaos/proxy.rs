//! A network that cuts, resets, stalls, splits and delays.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink},
    net::{TcpListener, TcpStream},
    select,
    task::{JoinHandle, JoinSet},
    time,
};

/// Stands between a client and a server, until it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    is_calm: Arc<AtomicBool>,
    serving: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr, rng: Rng) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_calm = Arc::<AtomicBool>::default();
        let serving = tokio::spawn(serve(listener, server, rng, Arc::clone(&is_calm)));
        Self { address, is_calm, serving }
    }

    /// While it is calm, nothing more happens to a connection that it has not happened to yet.
    pub(crate) fn set_calm(&self, is_calm: bool) {
        self.is_calm.store(is_calm, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, server: SocketAddr, mut rng: Rng, is_calm: Arc<AtomicBool>) {
    let mut relays = JoinSet::new();
    loop {
        let (client, _) = select! {
            Some(_) = relays.join_next() => continue,
            accepted = listener.accept() => accepted.unwrap(),
        };
        // One after the other: the server sees the order in which the client dialled.
        let server = TcpStream::connect(server).await.unwrap();
        relays.spawn(Relay::new(&mut rng, Arc::clone(&is_calm)).run(client, server));
    }
}

/// What happens to a connection in the end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Cut,
    Reset,
    /// What comes is swallowed, in some directions.
    Stall {
        to_server: bool,
        to_client: bool,
    },
}

/// One connection.
struct Relay {
    fate: Fate,
    /// After how many bytes, both ways together.
    bytes_left: AtomicUsize,
    /// How many bytes are forwarded at once, and after what wait.
    piece: usize,
    delay: Duration,
    is_calm: Arc<AtomicBool>,
}

impl Relay {
    fn new(rng: &mut Rng, is_calm: Arc<AtomicBool>) -> Self {
        let fate = match rng.u8(..8) {
            0..3 => Fate::Cut,
            3..6 => Fate::Reset,
            6 => Fate::Stall { to_server: true, to_client: true },
            _ => {
                let to_server = rng.bool();
                Fate::Stall { to_server, to_client: !to_server }
            }
        };
        let (piece, delay) = match rng.u8(..4) {
            0 => (rng.usize(1..8), Duration::ZERO),
            1 => (usize::MAX, Duration::from_millis(rng.u64(1..20))),
            2 => (rng.usize(8..64), Duration::from_millis(1)),
            _ => (usize::MAX, Duration::ZERO),
        };
        let bytes = 1 << rng.u32(4..16);
        let bytes_left = AtomicUsize::new(rng.usize(..bytes));
        Self { fate, bytes_left, piece, delay, is_calm }
    }

    /// Forwards until an end closes, or the connection meets its fate.
    async fn run(self, mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let met = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let is_stall = |to_server| match self.fate {
                Fate::Stall { to_server: there, to_client: back } => {
                    (to_server && there) || (!to_server && back)
                }
                Fate::Cut | Fate::Reset => false,
            };
            select! {
                met = self.forward(from_client, to_server, is_stall(true)) => met,
                met = self.forward(from_server, to_client, is_stall(false)) => met,
            }
        };
        if met.is_ok_and(|met| met) && self.fate == Fate::Reset {
            for end in [&client, &server] {
                SockRef::from(end).set_linger(Some(Duration::ZERO))?;
            }
        }
        Ok(())
    }

    /// Forwards one way, and says whether fate or an end of the connection has put an end to it.
    async fn forward(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        is_stalled: bool,
    ) -> io::Result<bool> {
        let mut received = vec![0; 4096];
        loop {
            let len = from.read(&mut received).await?;
            if len == 0 {
                return Ok(false);
            }
            for piece in received[..len].chunks(self.piece) {
                let len = self.allowed(piece.len());
                time::sleep(self.delay).await;
                to.write_all(&piece[..len]).await?;
                match self.fate {
                    _ if len == piece.len() => {}
                    Fate::Stall { .. } if is_stalled => {
                        return copy(&mut from, &mut sink()).await.map(|_| false);
                    }
                    Fate::Stall { .. } => to.write_all(&piece[len..]).await?,
                    Fate::Cut | Fate::Reset => return Ok(true),
                }
            }
        }
    }

    /// How many of these bytes pass before the connection meets its fate.
    fn allowed(&self, len: usize) -> usize {
        if self.is_calm.load(Ordering::SeqCst) {
            return len;
        }
        let left = |left: usize| Some(left.saturating_sub(len));
        let update = self.bytes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        update.map_or(0, |left| left.min(len))
    }
}
