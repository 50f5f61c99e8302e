//! A server that restarts, a bad network before it, and clients that live as long as the run.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fastrand::Rng;
use metrics_client::{
    MetricsClient, Sample,
    client::{Pipelining, ReconnectPolicy, ToAddresses, WhenFull},
};
use metrics_server::{Limits, MemoryStore, Server};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle, time};

use crate::{proxy::Proxy, usage::Usage};

/// Every key has a point at every second from the beginning, so that a load only replaces values:
/// the store does not grow, and a reader knows how much there must be.
pub(crate) const KEYS: usize = 8;
pub(crate) const SECONDS: i64 = 100;

pub(crate) struct Harness {
    /// Each restart of the server takes it over, so that no connection is refused in between.
    listener: std::net::TcpListener,
    pub(crate) server: SocketAddr,
    store: Arc<MemoryStore>,
    serving: Serving,
    pub(crate) proxy: Proxy,
    pub(crate) clients: Clients,
}

struct Serving {
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

/// Clients that last for the whole run.
#[derive(Clone)]
pub(crate) struct Clients {
    /// With everything at its default and no bad network: it may not fail.
    pub(crate) direct: MetricsClient,
    /// Behind the bad network.
    pub(crate) disturbed: Vec<MetricsClient>,
}

impl Harness {
    pub(crate) async fn new(rng: &mut Rng) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = listener.local_addr().unwrap();
        let store = Arc::new(MemoryStore::new());
        let serving = Serving::start(&listener, &store);
        let proxy = Proxy::start(server, rng.fork()).await;
        let direct = MetricsClient::connect(server).await.unwrap();
        let samples = (0..KEYS).flat_map(|at| {
            (0..SECONDS).map(move |second| Sample::new(key(at), value(at, 0.0), second).unwrap())
        });
        direct.put_all(samples.collect::<Vec<_>>()).await.unwrap();
        let disturbed = vec![
            impatient(proxy.address, Pipelining::Auto, WhenFull::Wait),
            impatient(proxy.address, Pipelining::On, WhenFull::Fail),
        ];
        Self { listener, server, store, serving, proxy, clients: Clients { direct, disturbed } }
    }

    /// What a world at rest holds, once each client has its connection, besides `nothing`.
    pub(crate) fn at_rest(&self, nothing: &Usage) -> Usage {
        let disturbed = self.clients.disturbed.len();
        Usage {
            // Three listening sockets, two ends of a connection, two more where there is a proxy.
            fds: nothing.fds + 3 + 2 + 4 * disturbed,
            // The server with the giver of its turns, the proxy, a driver and a session, and a relay
            // where there is a proxy.
            tasks: nothing.tasks + 3 + 2 + 3 * disturbed,
            ..*nothing
        }
    }

    /// Stops the server as a deployment does, and starts another with the same points.
    pub(crate) async fn restart(&mut self) {
        self.serving.end().await;
        self.serving = Serving::start(&self.listener, &self.store);
    }

    /// Lets nothing more go wrong, and gives each client a connection that works.
    pub(crate) async fn calm_down(&self) {
        self.proxy.set_calm(true);
        for client in self.clients.all() {
            let works = async {
                while client.put_at(key(0), value(0, 0.0), 0).await.is_err() {
                    time::sleep(Duration::from_millis(10)).await;
                }
            };
            time::timeout(HANG, works).await.expect("a client does not work again");
            let stats = client.stats();
            assert_eq!((stats.in_flight, stats.queued), (0, 0), "{stats:?}");
        }
    }

    pub(crate) async fn end(mut self) {
        for client in self.clients.all() {
            time::timeout(HANG, client.close()).await.expect("a client does not close").unwrap();
        }
        self.serving.end().await;
    }
}

impl Clients {
    pub(crate) fn all(&self) -> impl Iterator<Item = &MetricsClient> {
        self.disturbed.iter().chain([&self.direct])
    }
}

impl Serving {
    fn start(listener: &std::net::TcpListener, store: &Arc<MemoryStore>) -> Self {
        let listener = TcpListener::from_std(listener.try_clone().unwrap()).unwrap();
        // Short, so that timeouts happen in a short run too.
        let limits = Limits::default()
            .line_timeout(Duration::from_secs(1))
            .write_timeout(Duration::from_secs(1))
            .shutdown_grace(Duration::from_secs(1));
        let server =
            Server::from_listener(listener).unwrap().store(Arc::clone(store)).limits(limits);
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop).notified_owned();
        Self { stop, task: tokio::spawn(server.serve_until(stopped)) }
    }

    async fn end(&mut self) {
        self.stop.notify_one();
        (&mut self.task).await.unwrap();
    }
}

/// A client with short timeouts and a short backoff.
pub(crate) fn impatient(
    address: impl ToAddresses,
    pipelining: Pipelining,
    overflow: WhenFull,
) -> MetricsClient {
    MetricsClient::builder(address)
        .connect_timeout(Duration::from_millis(500))
        .request_timeout(Duration::from_millis(500))
        .stall_timeout(Duration::from_millis(300))
        .reconnect(ReconnectPolicy::backoff(Duration::from_millis(5), Duration::from_millis(100)))
        .pipelining(pipelining)
        .max_buffered_bytes(4000)
        .when_full(overflow)
        .connect_lazy()
        .unwrap()
}

pub(crate) fn key(at: usize) -> String {
    format!("key.{at}")
}

/// A value that says whose it is: `part` is from 0 to 1.
pub(crate) fn value(at: usize, part: f64) -> f64 {
    at as f64 + part
}

/// How long anything may take at the very most: only a hang takes longer.
pub(crate) const HANG: Duration = Duration::from_secs(60);
