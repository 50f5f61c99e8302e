//! Attacks of hostile peers on a server.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use metrics_client::tls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, crypto::ring, pki_types::ServerName,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// What each of the peers of an attack does, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    /// Makes the server's buffers large, then sends a line byte by byte.
    SlowLines,
    /// Sends bad requests without a pause, and reads the answers.
    BadRequests,
    /// The same with puts, always of the same points.
    Puts,
    /// Sends a line that does not end.
    EndlessLines,
    /// Asks for everything, puts behind it, and reads nothing.
    UnreadAnswers,
    /// Asks for everything and reads it as slowly as it may, while others change everything.
    SlowReads,
    /// Connects, sends half a line, and resets the connection.
    Resets,
    /// Begins a TLS handshake, and resets the connection when the server has signed: the server speaks
    /// TLS, with a key of RSA-4096.
    Handshakes,
    /// Puts what was not there before.
    NewPoints,
    /// All of the above but the last two.
    All,
}

impl Attack {
    pub(crate) const EACH: [Self; 10] = [
        Self::SlowLines,
        Self::BadRequests,
        Self::Puts,
        Self::EndlessLines,
        Self::UnreadAnswers,
        Self::SlowReads,
        Self::Resets,
        Self::Handshakes,
        Self::All,
        Self::NewPoints,
    ];

    /// Begins the attack with `peers` peers. It ends when the returned set is dropped.
    pub(crate) fn begin(self, server: SocketAddr, peers: usize) -> JoinSet<()> {
        let mut attackers = JoinSet::new();
        for number in 0..peers {
            attackers.spawn(async move {
                let attack = match self {
                    Self::All => Self::EACH[number % 7],
                    one => one,
                };
                loop {
                    let peer = Attacker { server, number };
                    // Whatever ends it, it comes again, as the next one and not at the same time.
                    _ = peer.run(attack).await;
                    sleep(Duration::from_millis(50 + number as u64 % 100)).await;
                }
            });
        }
        attackers
    }
}

#[derive(Clone, Copy)]
struct Attacker {
    server: SocketAddr,
    number: usize,
}

impl Attacker {
    async fn run(self, attack: Attack) -> io::Result<()> {
        let mut io = self.connect().await?;
        match attack {
            Attack::SlowLines => {
                let puts = b"put slow 1 1\n".repeat(5_000);
                exchange(&mut io, &puts, 5_000 * DONE.len()).await?;
                io.write_all(b"put slow").await?;
                send_slowly(&mut io).await
            }
            Attack::BadRequests => flood(io, &b"bad\n".repeat(4_000)).await,
            Attack::Puts => flood(io, &b"put a 1 1\nput b 1 1\n".repeat(2_000)).await,
            Attack::EndlessLines => {
                let piece = vec![b'x'; 64 * 1024];
                loop {
                    io.write_all(&piece).await?;
                    sleep(Duration::from_millis(20)).await;
                }
            }
            Attack::UnreadAnswers => {
                io.write_all(&b"put slow 1 1\n".repeat(3_000)).await?;
                io.write_all(b"get *\n").await?;
                io.write_all(&b"put slow 1 1\n".repeat(1_500)).await?;
                send_slowly(&mut io).await
            }
            Attack::SlowReads if self.number.is_multiple_of(100) => {
                change_everything(io, self.number as i64).await
            }
            Attack::SlowReads => {
                io.write_all(b"get *\n").await?;
                // A little more than the server asks for.
                let mut piece = [0; 6 * 1024];
                while io.read_exact(&mut piece).await? > 0 {
                    sleep(Duration::from_secs(1)).await;
                }
                Ok(())
            }
            Attack::Resets => {
                io.write_all(b"put res").await?;
                io.set_zero_linger()
            }
            Attack::Handshakes => {
                io.write_all(&client_hello()?).await?;
                io.read_exact(&mut [0; 1]).await?;
                io.set_zero_linger()
            }
            Attack::NewPoints => {
                let mut at = 0;
                loop {
                    let key = |at| format!("put new.{}.{at} 1 {at}\n", self.number);
                    let puts: String = (at..at + 1_000).map(key).collect();
                    at += 1_000;
                    io.write_all(puts.as_bytes()).await?;
                    // Refusals are longer than this, and are read with the next.
                    io.read_exact(&mut [0; 1_000 * DONE.len()]).await?;
                }
            }
            Attack::All => unreachable!("each peer does one thing"),
        }
    }

    /// From one of ten addresses, so that no limit for one of them stops the attack; with little
    /// room for answers, so that they wait in the server and not on the way.
    async fn connect(self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4 * 1024)?;
        let from = Ipv4Addr::new(127, 0, 1, 1 + (self.number % 10) as u8);
        socket.bind((from, 0).into())?;
        socket.connect(self.server).await
    }
}

/// Puts of the points that were stored before the attack, with another value, again and again.
async fn change_everything(io: TcpStream, value: i64) -> io::Result<()> {
    let puts: String =
        stored().map(|(key, at)| format!("put {key} {value} {at}\n")).step_by(500).collect();
    flood(io, puts.as_bytes()).await
}

/// What is stored before the attack: some 6 MB of answer.
pub(crate) fn stored() -> impl Iterator<Item = (String, i64)> {
    (0..20).flat_map(|key| (0..10_000).map(move |at| (format!("stored.{key}"), at)))
}

/// Sends `requests` without a pause, and reads the answers.
async fn flood(mut io: TcpStream, requests: &[u8]) -> io::Result<()> {
    let (mut answers, mut writer) = io.split();
    let write = async {
        loop {
            writer.write_all(requests).await?;
        }
    };
    let read = async {
        let mut piece = vec![0; 16 * 1024];
        while answers.read(&mut piece).await? > 0 {}
        Err(io::ErrorKind::UnexpectedEof.into())
    };
    tokio::select! {
        ended = write => ended,
        ended = read => ended,
    }
}

/// Sends `requests`, and reads `len` bytes of answers.
async fn exchange(io: &mut TcpStream, requests: &[u8], len: usize) -> io::Result<()> {
    let (mut reader, mut writer) = io.split();
    let mut answers = vec![0; len];
    tokio::try_join!(writer.write_all(requests), reader.read_exact(&mut answers))?;
    Ok(())
}

/// What a client sends first, over TLS.
fn client_hello() -> io::Result<Vec<u8>> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for both versions")
            .with_root_certificates(RootCertStore::empty());
        Arc::new(config.with_no_client_auth())
    });
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut client = ClientConnection::new(Arc::clone(&CONFIG), name).map_err(io::Error::other)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    Ok(hello)
}

/// A byte each second, until the connection fails.
async fn send_slowly(io: &mut TcpStream) -> io::Result<()> {
    loop {
        sleep(Duration::from_secs(1)).await;
        io.write_all(b"x").await?;
    }
}

const DONE: &[u8] = b"ok\n\n";
