//! Lets peers in, as many as may be, and sees them out.

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, error, info, warn};

use super::session::{self, Shared};
use crate::store::Store;

/// Where connections come from.
pub(super) trait Accept: Send + Sync {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Cancel safe: none is lost.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    type Io = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Io, SocketAddr)> {
        let (io, peer) = self.accept().await?;
        // Answers leave when they are due. Fails only if the peer is gone, as the session will see.
        let _ = io.set_nodelay(true);
        Ok((io, peer))
    }
}

/// Serves whoever connects until `shutdown` is done, then lets the sessions end.
pub(super) async fn run<A, S>(
    listener: A,
    shared: Arc<Shared<S>>,
    shutdown: impl Future<Output = ()>,
) where
    A: Accept,
    S: Store,
{
    let (stop, stopped) = watch::channel(false);
    // Aborts its sessions when it is dropped: none outlives this future.
    let mut sessions = JoinSet::new();
    let mut door = Door { listener, pause: Duration::ZERO, shut_until: None };
    let mut is_full = false;
    let mut shutdown = pin!(shutdown);
    loop {
        let (io, peer) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = sessions.join_next() => {
                see_out(&shared, ended);
                continue;
            }
            connection = door.next() => connection,
        };
        while let Some(ended) = sessions.try_join_next() {
            see_out(&shared, ended);
        }
        let was_full =
            std::mem::replace(&mut is_full, sessions.len() >= shared.limits.max_connections);
        if is_full {
            shared.counters.turned_away.add(1);
            if was_full {
                debug!(%peer, "turned away");
            } else {
                warn!(%peer, connections = sessions.len(), "turned away: too many connections");
            }
            continue;
        }
        shared.counters.accepted.add(1);
        sessions.spawn(session::welcome(io, peer, Arc::clone(&shared), stopped.clone()));
    }
    // Whoever connects from now on is refused instead of kept waiting.
    drop(door);
    stop.send_replace(true);
    let grace = shared.limits.grace_time;
    let all_ended = async {
        while let Some(ended) = sessions.join_next().await {
            see_out(&shared, ended);
        }
    };
    if timeout(grace, all_ended).await.is_err() {
        warn!(connections = sessions.len(), ?grace, "cut off what did not end in time");
        shared.counters.ended.add(sessions.len());
        sessions.shutdown().await;
    }
    info!("stopped");
}

fn see_out<S>(shared: &Shared<S>, ended: Result<(), JoinError>) {
    shared.counters.ended.add(1);
    if let Err(error) = ended {
        error!(%error, "a session failed");
    }
}

/// Accepts connections, and waits a while when none can be: without file descriptors `accept` fails
/// at once, again and again, while the connection that it failed for stays in the queue.
struct Door<A> {
    listener: A,
    /// How long to wait after the next failure.
    pause: Duration,
    shut_until: Option<Instant>,
}

impl<A: Accept> Door<A> {
    const MIN_PAUSE: Duration = Duration::from_millis(10);
    /// Short enough that nobody who waits gives up, and a log line a second fills no disk.
    const MAX_PAUSE: Duration = Duration::from_secs(1);

    /// The next connection, however long it takes.
    async fn next(&mut self) -> (A::Io, SocketAddr) {
        loop {
            if let Some(until) = self.shut_until {
                sleep_until(until).await;
                self.shut_until = None;
            }
            match self.listener.accept().await {
                Ok(connection) => {
                    self.pause = Duration::ZERO;
                    return connection;
                }
                Err(error) if is_of_one_peer(&error) => debug!(%error, "a peer left at once"),
                Err(error) => {
                    self.pause = (self.pause * 2).clamp(Self::MIN_PAUSE, Self::MAX_PAUSE);
                    self.shut_until = Some(Instant::now() + self.pause);
                    warn!(%error, pause = ?self.pause, "cannot accept connections");
                }
            }
        }
    }
}

/// Whether `accept` failed because of the connection that it would have returned; `man 2 accept`
/// asks to try again then.
fn is_of_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::{mpsc, oneshot},
        task::JoinHandle,
    };

    use super::*;
    use crate::{
        server::{Limits, Monitor, stats::Counters},
        store::MemoryStore,
    };

    const SECOND: Duration = Duration::from_secs(1);

    type Event = io::Result<DuplexStream>;

    /// Accepts what the test says.
    struct Script(tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>, Arc<Mutex<Vec<Instant>>>);

    impl Accept for Script {
        type Io = DuplexStream;

        async fn accept(&self) -> io::Result<(DuplexStream, SocketAddr)> {
            let event = self.0.lock().await.recv().await.expect("the test holds the sender");
            self.1.lock().unwrap().push(Instant::now());
            event.map(|io| (io, ([127, 0, 0, 1], 1).into()))
        }
    }

    struct Running {
        events: mpsc::UnboundedSender<Event>,
        accepts: Arc<Mutex<Vec<Instant>>>,
        monitor: Monitor,
        stop: oneshot::Sender<()>,
        serving: JoinHandle<()>,
    }

    impl Running {
        fn with(limits: Limits) -> Self {
            let (events, script) = mpsc::unbounded_channel();
            let accepts = Arc::new(Mutex::new(Vec::new()));
            let (stop, stopped) = oneshot::channel();
            let counters = Arc::new(Counters::default());
            let shared = Shared::new(MemoryStore::new(), limits, Arc::clone(&counters));
            let script = Script(tokio::sync::Mutex::new(script), Arc::clone(&accepts));
            let serving = tokio::spawn(run(script, Arc::new(shared), async {
                _ = stopped.await;
            }));
            Self { events, accepts, monitor: Monitor(counters), stop, serving }
        }

        fn connect(&self) -> DuplexStream {
            let (peer, io) = duplex(1024);
            self.events.send(Ok(io)).unwrap();
            peer
        }

        fn fail(&self, kind: io::ErrorKind) {
            self.events.send(Err(kind.into())).unwrap();
        }
    }

    async fn ask(peer: &mut DuplexStream) -> io::Result<usize> {
        peer.write_all(b"get a\n").await?;
        peer.read(&mut [0; 16]).await
    }

    #[tokio::test(start_paused = true)]
    async fn failing_to_accept_backs_off_and_serves_again() {
        let running = Running::with(Limits::default());
        for _ in 0..20 {
            // What a process without file descriptors gets.
            running.fail(io::ErrorKind::Other);
        }
        let begin = Instant::now();
        assert_eq!(ask(&mut running.connect()).await.unwrap(), 4);
        let waits: Vec<_> =
            running.accepts.lock().unwrap().windows(2).map(|two| two[1] - two[0]).collect();
        assert!(waits.is_sorted() && waits[0] >= Duration::from_millis(10), "{waits:?}");
        assert!(waits[19] >= SECOND && waits[19] < 2 * SECOND, "{waits:?}");
        // A success makes the next failure cheap again, and a peer that left costs nothing.
        assert!(begin.elapsed() > 10 * SECOND);
        let begin = Instant::now();
        running.fail(io::ErrorKind::Other);
        running.fail(io::ErrorKind::ConnectionAborted);
        assert_eq!(ask(&mut running.connect()).await.unwrap(), 4);
        assert!(begin.elapsed() < SECOND / 10);
    }

    #[tokio::test(start_paused = true)]
    async fn failing_to_accept_does_not_delay_the_stop() {
        let running = Running::with(Limits::default());
        for _ in 0..100 {
            running.fail(io::ErrorKind::Other);
        }
        tokio::time::sleep(10 * SECOND).await;
        let begin = Instant::now();
        running.stop.send(()).unwrap();
        running.serving.await.unwrap();
        assert!(begin.elapsed() < SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn one_too_many_is_turned_away_until_there_is_room() {
        let running = Running::with(Limits::default().max_connections(2));
        let (mut first, mut second) = (running.connect(), running.connect());
        assert_eq!(ask(&mut first).await.unwrap(), 4);
        assert_eq!(ask(&mut second).await.unwrap(), 4);
        let mut third = running.connect();
        assert_eq!(third.read(&mut [0; 16]).await.unwrap(), 0);
        drop(first);
        tokio::time::sleep(SECOND).await;
        assert_eq!(ask(&mut running.connect()).await.unwrap(), 4);
        assert_eq!(ask(&mut second).await.unwrap(), 4);
        let stats = running.monitor.stats();
        assert_eq!((stats.accepted, stats.turned_away, stats.gets), (3, 1, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_does_not_end_is_cut_off_after_the_grace_time() {
        let running = Running::with(Limits::default());
        let mut peer = running.connect();
        let (mut reader, mut writer) = tokio::io::split(&mut peer);
        // Nobody reads the answers, so this session cannot end by itself.
        let flood = async { while writer.write_all(b"bad\n").await.is_ok() {} };
        assert!(timeout(SECOND, flood).await.is_err());
        let begin = Instant::now();
        running.stop.send(()).unwrap();
        running.serving.await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 5);
        assert_eq!(running.monitor.stats().connections, 0);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn no_session_outlives_the_server() {
        let running = Running::with(Limits::default());
        let mut peer = running.connect();
        assert_eq!(ask(&mut peer).await.unwrap(), 4);
        running.serving.abort();
        assert_eq!(peer.read(&mut [0; 16]).await.unwrap(), 0);
    }
}
