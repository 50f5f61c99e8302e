//! Lets peers in, as many as may be, and sees them out.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Notify, watch},
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tracing::{debug, error, info, warn};

use metrics_client::internal::log_limit::{self, Lasting};

use super::{Shared, conn_limit::PerSourceLimit, scheduler::Usage, serve_accepted};
use crate::store::Store;

/// Where connections come from.
pub(crate) trait Accept: Send + Sync {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Cancel safe: none is lost.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;
}

/// The sockets that a server listens on.
pub(crate) struct Listeners {
    listeners: Vec<TcpListener>,
    /// Which is asked first: none keeps another waiting.
    first: AtomicUsize,
}

impl Listeners {
    pub(crate) fn new(listeners: Vec<TcpListener>) -> Self {
        Self { listeners, first: AtomicUsize::new(0) }
    }
}

impl Accept for Listeners {
    type Io = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Io, SocketAddr)> {
        let (io, peer) = poll_fn(|cx| {
            let first = self.first.fetch_add(1, Ordering::Relaxed);
            let count = self.listeners.len();
            for at in 0..count {
                let listener = &self.listeners[first.wrapping_add(at) % count];
                if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await?;
        // Answers leave when they are due. Fails only if the peer is gone, as the session will see.
        let _ = io.set_nodelay(true);
        Ok((io, peer))
    }
}

/// Serves whoever connects until `shutdown` is done, then lets the sessions end.
pub(crate) async fn run<A, S>(
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
    let mut giver = JoinSet::new();
    giver.spawn(Arc::clone(&shared.scheduler).give());
    let mut door =
        Acceptor { listener, pause: Duration::ZERO, retry_at: None, shared: Arc::clone(&shared) };
    let conn_limit = PerSourceLimit::new(shared.limits.max_connections_per_address);
    let mut summary = interval(log_limit::WINDOW);
    summary.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = pin!(shutdown);
    loop {
        let (io, peer) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = sessions.join_next() => {
                on_session_end(&shared, ended);
                continue;
            }
            _ = summary.tick() => {
                shared.log_limits.log_suppressed();
                continue;
            }
            connection = door.next() => connection,
        };
        while let Some(ended) = sessions.try_join_next() {
            on_session_end(&shared, ended);
        }
        let entry = if sessions.len() >= shared.limits.max_connections {
            Err("max_connections")
        } else {
            conn_limit.enter(peer.ip()).ok_or("max_connections_per_address")
        };
        let member = match entry {
            Ok(member) => member,
            Err(limit) => {
                shared.counters.rejected_connections.add(1);
                if shared.log_limits.rejected_connections.should_log() {
                    let connections = sessions.len();
                    warn!(%peer, connections, limit, "turned away: too many connections");
                }
                continue;
            }
        };
        shared.counters.accepted.add(1);
        let work = Usage::default();
        let session = serve_accepted(io, peer, Arc::clone(&shared), work.clone(), stopped.clone());
        sessions.spawn(shared.scheduler.take(session, work, member));
    }
    // Whoever connects from now on is refused instead of kept waiting.
    drop(door);
    stop.send_replace(true);
    let grace = shared.limits.grace_time;
    let all_ended = async {
        while let Some(ended) = sessions.join_next().await {
            on_session_end(&shared, ended);
        }
    };
    if Alarm::set(grace).timeout(all_ended).await.is_none() {
        warn!(connections = sessions.len(), ?grace, "cut off what did not end in time");
        shared.counters.ended.add(sessions.len());
        if Alarm::set(MAX_ABORT_TIME).timeout(sessions.shutdown()).await.is_none() {
            // What is left ends when its call returns: dropping the tasks has aborted them.
            let connections = sessions.len();
            error!(connections, "the store blocks, and is left behind");
        }
    }
    shared.log_limits.log_suppressed();
    info!("stopped");
}

/// A timer that also fires where the store blocks every thread of the runtime, which then runs no
/// timers: what waits for it is polled by the thread that blocks on the runtime, if it is in there.
struct Alarm {
    time: Duration,
    rings: Arc<Notify>,
    /// Ends the thread when it is dropped.
    _stop: mpsc::Sender<()>,
}

impl Alarm {
    fn set(time: Duration) -> Self {
        let (stop, stopped) = mpsc::channel();
        let rings = Arc::new(Notify::new());
        let ring = Arc::clone(&rings);
        let thread = std::thread::Builder::new().name("metrics-server-stop".into());
        // Without a thread there is still the runtime's timer.
        let _ = thread.spawn(move || {
            if stopped.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout) {
                ring.notify_one();
            }
        });
        Self { time, rings, _stop: stop }
    }

    /// What `future` comes to, unless the time is over first.
    async fn timeout<F: Future>(self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = sleep(self.time) => None,
            () = self.rings.notified() => None,
        }
    }
}

/// How long sessions that are cut off may take to end: they do at once, unless they are amid a call
/// that blocks.
const MAX_ABORT_TIME: Duration = Duration::from_millis(100);

fn on_session_end<S>(shared: &Shared<S>, ended: Result<(), JoinError>) {
    shared.counters.ended.add(1);
    if let Err(error) = ended {
        error!(%error, "a session failed");
    }
}

/// Accepts connections, and waits a while when none can be: without file descriptors `accept` fails
/// at once, again and again, while the connection that it failed for stays in the queue.
struct Acceptor<A, S> {
    listener: A,
    /// How long to wait after the next failure.
    pause: Duration,
    retry_at: Option<Instant>,
    shared: Arc<Shared<S>>,
}

impl<A: Accept, S: Store> Acceptor<A, S> {
    const MIN_PAUSE: Duration = Duration::from_millis(10);
    /// Short enough that nobody who waits gives up.
    const MAX_PAUSE: Duration = Duration::from_secs(1);

    /// The next connection, however long it takes.
    async fn next(&mut self) -> (A::Io, SocketAddr) {
        loop {
            if let Some(until) = self.retry_at {
                sleep_until(until).await;
                self.retry_at = None;
            }
            match self.listener.accept().await {
                Ok(connection) => {
                    self.pause = Duration::ZERO;
                    if let Some(Lasting { since, times }) =
                        self.shared.log_limits.not_accepting.is_evicted()
                    {
                        info!(failed_for = ?since, times, "accepts connections again");
                    }
                    return connection;
                }
                Err(error) if is_per_connection_error(&error) => {
                    debug!(%error, "a peer left at once");
                }
                Err(error) => {
                    self.pause = (self.pause * 2).clamp(Self::MIN_PAUSE, Self::MAX_PAUSE);
                    self.retry_at = Some(Instant::now() + self.pause);
                    if let Some(Lasting { since, times }) =
                        self.shared.log_limits.not_accepting.holds()
                    {
                        let pause = self.pause;
                        warn!(%error, ?pause, failed_for = ?since, times, "cannot accept connections");
                    }
                }
            }
        }
    }
}

/// Whether `accept` failed because of the connection that it would have returned; `man 2 accept`
/// asks to try again then.
fn is_per_connection_error(error: &io::Error) -> bool {
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
        time::timeout,
    };

    use super::super::{Counters, Limits, Monitor};
    use super::*;
    use crate::store::MemoryStore;

    const SECOND: Duration = Duration::from_secs(1);

    type Event = io::Result<(DuplexStream, [u8; 4])>;

    /// Accepts what the test says.
    struct Script(tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>, Arc<Mutex<Vec<Instant>>>);

    impl Accept for Script {
        type Io = DuplexStream;

        async fn accept(&self) -> io::Result<(DuplexStream, SocketAddr)> {
            let event = self.0.lock().await.recv().await.expect("the test holds the sender");
            self.1.lock().unwrap().push(Instant::now());
            event.map(|(io, addr)| (io, (addr, 1).into()))
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
            self.connect_from([127, 0, 0, 1])
        }

        fn connect_from(&self, addr: [u8; 4]) -> DuplexStream {
            let (peer, io) = duplex(1024);
            self.events.send(Ok((io, addr))).unwrap();
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
    async fn one_entry_is_turned_away_until_there_is_room() {
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
        assert_eq!((stats.accepted, stats.rejected_connections, stats.gets), (3, 1, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn no_address_takes_more_places_than_it_may() {
        let running = Running::with(Limits::default().max_connections_per_address(1));
        let mut first = running.connect();
        assert_eq!(ask(&mut first).await.unwrap(), 4);
        assert_eq!(running.connect().read(&mut [0; 16]).await.unwrap(), 0);
        let mut elsewhere = running.connect_from([127, 0, 0, 2]);
        assert_eq!(ask(&mut elsewhere).await.unwrap(), 4);
        drop(first);
        tokio::time::sleep(SECOND).await;
        assert_eq!(ask(&mut running.connect()).await.unwrap(), 4);
        assert_eq!(running.monitor.stats().rejected_connections, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_tells_of_few_peers_and_counts_the_rest() {
        let log_limits = Lines::default();
        let writer = log_limits.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        // As long as there is but one subscriber, an event that a test on another thread is the
        // first to reach is off for good.
        let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
        let running = Running::with(Limits::default().max_connections(1000));
        let mut slow = Vec::new();
        for _ in 0..1000 {
            slow.push(running.connect());
        }
        for peer in &mut slow {
            peer.write_all(b"put a").await.unwrap();
        }
        for _ in 0..3 {
            for _ in 0..200 {
                assert_eq!(running.connect().read(&mut [0; 16]).await.unwrap(), 0);
            }
        }
        for _ in 0..100 {
            running.fail(io::ErrorKind::Other);
        }
        // The slow ones are cut off after 30 s, and summed up within 10 s.
        tokio::time::sleep(45 * SECOND).await;
        let told = log_limits.take();
        let count = |what: &str| told.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("turned away: too many connections"), 5, "{told}");
        assert_eq!(count("more connections were turned away count=595"), 1, "{told}");
        assert_eq!(count("cut off peer="), 5, "{told}");
        // A summary is due in the very second in which they are cut off.
        let counts = told.lines().filter_map(|line| line.split_once("peers were cut off count="));
        assert_eq!(counts.map(|(_, count)| count.parse::<u32>().unwrap()).sum::<u32>(), 995);
        // FAULTS S2: a state that lasts is logged when it begins, and each minute.
        assert_eq!(count("cannot accept connections"), 1, "{told}");
        assert!(told.lines().count() < 50, "{told}");

        let mut last = running.connect();
        tokio::time::sleep(200 * SECOND).await;
        assert_eq!(ask(&mut last).await.unwrap(), 4);
        let told = log_limits.take();
        let count = |what: &str| told.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("cannot accept connections"), 1, "{told}");
        assert_eq!(count("accepts connections again"), 1, "{told}");
        running.stop.send(()).unwrap();
        running.serving.await.unwrap();
    }

    /// What was logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut self.0.lock().unwrap())).unwrap()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
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
