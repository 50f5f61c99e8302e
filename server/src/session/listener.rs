//! Accepts connections up to the limits, spawns their sessions, and stops them.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use metrics_client::internal::log_limit;
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{error, info, warn};

use super::{SessionShared, scheduler::Usage, serve_accepted};
use crate::{
    net::{Accept, Acceptor, PerSourceLimit},
    stats::ServerCounters,
    store::Store,
};

/// Serves every connection until `shutdown` completes, then lets the sessions end.
pub(crate) async fn run<A, S>(
    listener: A,
    shared: Arc<SessionShared<S>>,
    shutdown: impl Future<Output = ()>,
) where
    A: Accept,
    S: Store,
{
    let sessions = TaskTracker::new();
    // A session waits on a child of each: it takes no lock that another session takes.
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    // No session and no scheduler outlives this future.
    let _abort_on_drop = abort.clone().drop_guard();
    let _scheduler = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&shared.scheduler).run()));
    let mut acceptor = Acceptor::new(listener, Arc::clone(&shared.log_limits.accept_failing));
    let conn_limit = PerSourceLimit::new(shared.limits.max_connections_per_address);
    let mut log_timer = interval(log_limit::WINDOW);
    log_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = pin!(shutdown);
    loop {
        let (io, peer) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            _ = log_timer.tick() => {
                shared.log_limits.log_suppressed();
                continue;
            }
            connection = acceptor.next() => connection,
        };
        let permit = if sessions.len() >= shared.limits.max_connections {
            Err("max_connections")
        } else {
            conn_limit.try_acquire(peer.ip()).ok_or("max_connections_per_address")
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(limit) => {
                shared.counters.rejected_connections.add(1);
                if shared.log_limits.rejected_connections.should_log() {
                    let connections = sessions.len();
                    warn!(%peer, connections, limit, "connection rejected: limit reached");
                }
                continue;
            }
        };
        shared.counters.accepted.add(1);
        let usage = Usage::default();
        let session = {
            let ended = EndGuard(Arc::clone(&shared.counters));
            let (shared, usage, stop) = (Arc::clone(&shared), usage.clone(), stop.child_token());
            async move {
                let _ended = ended;
                serve_accepted(io, peer, shared, usage, stop).await;
            }
        };
        let session = shared.scheduler.schedule(session, usage, permit);
        sessions.spawn(abort.child_token().run_until_cancelled_owned(session));
    }
    // From now on the kernel refuses new connections.
    drop(acceptor);
    stop.cancel();
    sessions.close();
    let grace = shared.limits.shutdown_grace;
    if Alarm::set(grace).timeout(sessions.wait()).await.is_none() {
        warn!(connections = sessions.len(), ?grace, "aborting connections after grace period");
        abort.cancel();
        if Alarm::set(MAX_ABORT_TIME).timeout(sessions.wait()).await.is_none() {
            let connections = sessions.len();
            error!(connections, "store blocks its threads; leaving connections behind");
        }
    }
    shared.log_limits.log_suppressed();
    info!("stopped");
}

/// Counts a session as ended when it is dropped, also by a panic.
struct EndGuard(Arc<ServerCounters>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.ended.add(1);
        if thread::panicking() {
            error!("session panicked");
        }
    }
}

/// A timer that fires even if the store blocks every worker thread of the runtime.
///
/// Such a runtime drives no timers. The thread that is in `block_on` still polls its future when it
/// is woken, and this wakes it from a thread of its own.
struct Alarm {
    time: Duration,
    fired: Arc<Notify>,
    /// Ends the thread when it is dropped.
    _cancel: mpsc::Sender<()>,
}

impl Alarm {
    fn set(time: Duration) -> Self {
        let (cancel, cancelled) = mpsc::channel();
        let fired = Arc::new(Notify::new());
        let fire = Arc::clone(&fired);
        let thread = thread::Builder::new().name("metrics-server-stop".into());
        // Without a thread, the runtime's timer remains.
        let _ = thread.spawn(move || {
            if cancelled.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout) {
                fire.notify_one();
            }
        });
        Self { time, fired, _cancel: cancel }
    }

    /// Awaits `future`. Returns `None` if the time is over first.
    async fn timeout<F: Future>(self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = sleep(self.time) => None,
            () = self.fired.notified() => None,
        }
    }
}

/// How long aborted sessions may take to end. They end at once, unless the store blocks their thread.
const MAX_ABORT_TIME: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::{io, net::SocketAddr, sync::Mutex};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::{mpsc, oneshot},
        task::JoinHandle,
        time::{Instant, timeout},
    };

    use super::super::Limits;
    use super::*;
    use crate::stats::{ServerCounters, StatsHandle};
    use crate::store::MemoryStore;

    const SECOND: Duration = Duration::from_secs(1);

    type Event = io::Result<(DuplexStream, [u8; 4])>;

    /// Returns scripted results of `accept`.
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
        monitor: StatsHandle,
        stop: oneshot::Sender<()>,
        serving: JoinHandle<()>,
    }

    impl Running {
        fn with(limits: Limits) -> Self {
            let (events, script) = mpsc::unbounded_channel();
            let accepts = Arc::new(Mutex::new(Vec::new()));
            let (stop, stopped) = oneshot::channel();
            let counters = Arc::new(ServerCounters::default());
            let shared = SessionShared::new(MemoryStore::new(), limits, Arc::clone(&counters));
            let script = Script(tokio::sync::Mutex::new(script), Arc::clone(&accepts));
            let serving = tokio::spawn(run(script, Arc::new(shared), async {
                _ = stopped.await;
            }));
            Self { events, accepts, monitor: StatsHandle(counters), stop, serving }
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
    async fn accept_failure_backs_off_and_recovers() {
        let running = Running::with(Limits::default());
        for _ in 0..20 {
            // As without free file descriptors.
            running.fail(io::ErrorKind::Other);
        }
        let begin = Instant::now();
        assert_eq!(ask(&mut running.connect()).await.unwrap(), 4);
        let waits: Vec<_> =
            running.accepts.lock().unwrap().windows(2).map(|two| two[1] - two[0]).collect();
        assert!(waits.is_sorted() && waits[0] >= Duration::from_millis(10), "{waits:?}");
        assert!(waits[19] >= SECOND && waits[19] < 2 * SECOND, "{waits:?}");
        // A success resets the backoff, and a peer that disconnected causes none.
        assert!(begin.elapsed() > 10 * SECOND);
        let begin = Instant::now();
        running.fail(io::ErrorKind::Other);
        running.fail(io::ErrorKind::ConnectionAborted);
        assert_eq!(ask(&mut running.connect()).await.unwrap(), 4);
        assert!(begin.elapsed() < SECOND / 10);
    }

    #[tokio::test(start_paused = true)]
    async fn accept_failure_does_not_delay_shutdown() {
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
    async fn connection_over_the_limit_is_rejected_until_one_ends() {
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
    async fn connections_per_address_are_limited() {
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
    async fn log_shows_a_few_peers_and_counts_the_rest() {
        let lines = LogLines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        // With one subscriber only, tracing caches an event as disabled if a test on another thread
        // reaches it first.
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
        // The slow peers are disconnected after 30 s; the summary follows within 10 s.
        tokio::time::sleep(45 * SECOND).await;
        let logged = lines.take();
        let count = |what: &str| logged.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("connection rejected: limit reached"), 5, "{logged}");
        assert_eq!(count("connection rejected: messages suppressed suppressed=595"), 1, "{logged}");
        assert_eq!(count("closing connection peer="), 5, "{logged}");
        // A summary is due in the same second.
        let counts = logged.lines().filter_map(|line| {
            line.split_once("closing connection: messages suppressed suppressed=")
        });
        assert_eq!(counts.map(|(_, count)| count.parse::<u32>().unwrap()).sum::<u32>(), 995);
        // FAULTS S2: a state that lasts is logged when it begins, and each minute.
        assert_eq!(count("accept failed; retrying"), 1, "{logged}");
        assert!(logged.lines().count() < 50, "{logged}");

        let mut last = running.connect();
        tokio::time::sleep(200 * SECOND).await;
        assert_eq!(ask(&mut last).await.unwrap(), 4);
        let logged = lines.take();
        let count = |what: &str| logged.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("accept failed; retrying"), 1, "{logged}");
        assert_eq!(count("accept recovered"), 1, "{logged}");
        running.stop.send(()).unwrap();
        running.serving.await.unwrap();
    }

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct LogLines(Arc<Mutex<Vec<u8>>>);

    impl LogLines {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut self.0.lock().unwrap())).unwrap()
        }
    }

    impl io::Write for LogLines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_aborts_sessions_after_the_grace_period() {
        let running = Running::with(Limits::default());
        let mut peer = running.connect();
        let (mut reader, mut writer) = tokio::io::split(&mut peer);
        // The answers are not read, so this session cannot end by itself.
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
    async fn dropping_the_server_ends_its_sessions() {
        let running = Running::with(Limits::default());
        let mut peer = running.connect();
        assert_eq!(ask(&mut peer).await.unwrap(), 4);
        running.serving.abort();
        assert_eq!(peer.read(&mut [0; 16]).await.unwrap(), 0);
    }
}
