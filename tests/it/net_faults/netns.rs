//! A client's host, a router and a server's host, as network namespaces of Linux.
//!
//! They have no names: they end with the process that uses them, also when it is killed.

use std::{
    env, fs,
    fs::File,
    net::SocketAddr,
    os::fd::AsRawFd,
    process::{self, Command},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use metrics_server::{Limits, MemoryStore, Server};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::oneshot;

use crate::skipped;

/// A client's host and a server's, each on a wire of its own to a router between them.
pub(super) struct Network {
    client: Namespace,
    router: Namespace,
    server: Mutex<Namespace>,
}

const CLIENT: &str = "10.0.1.1";
const SERVER: &str = "10.0.2.1";
const PORT: u16 = 8888;

/// One way through the router.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    ToServer,
    ToClient,
}

impl Network {
    pub(super) const ADDRESS: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 2, 1)), PORT);

    /// `None`, and says so, where no namespaces can be made. In CI they must.
    pub(super) fn new(what: &str) -> Option<Self> {
        let namespaces =
            Namespace::new().and_then(|client| Ok((client, Namespace::new()?, Namespace::new()?)));
        let (client, router, server) = match namespaces {
            Ok(namespaces) => namespaces,
            Err(reason) => {
                assert!(env::var_os("CI").is_none(), "{what}: no network namespace: {reason}");
                skipped(what, &format!("no network namespace: {reason}"));
                return None;
            }
        };
        let network = Self { client, router, server: Mutex::new(server) };
        network.router.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        network.plug_in(&network.client, CLIENT, "10.0.1.2", "client");
        network.plug_in(&network.server.lock().unwrap(), SERVER, "10.0.2.2", "server");
        Some(network)
    }

    /// A wire between the router and a host.
    fn plug_in(&self, host: &Namespace, address: &str, gateway: &str, name: &str) {
        host.ip("link set lo up");
        self.router.ip(&format!("link add {name} type veth peer name eth netns {}", host.path()));
        self.router.ip(&format!("address add {gateway}/24 dev {name}"));
        self.router.ip(&format!("link set {name} up"));
        host.ip(&format!("address add {address}/24 dev eth"));
        host.ip("link set eth up");
        host.ip(&format!("route add default via {gateway}"));
    }

    /// From now on the router swallows what goes this way, and says nothing.
    pub(super) fn swallow(&self, way: Way) {
        self.router.ip(&format!("route add blackhole {}", way.destination()));
    }

    pub(super) fn heal(&self, way: Way) {
        self.router.ip(&format!("route del blackhole {}", way.destination()));
    }

    /// The server's host loses power, and is replaced by one with the same address, which knows of
    /// no connection.
    pub(super) fn replace_server(&self) {
        self.router.ip("link del server");
        let server = Namespace::new().unwrap();
        self.plug_in(&server, SERVER, "10.0.2.2", "server");
        *self.server.lock().unwrap() = server;
    }

    /// Runs `ip` on both hosts.
    pub(super) fn on_both_hosts(&self, arguments: &str) {
        self.client.ip(arguments);
        self.server.lock().unwrap().ip(arguments);
    }

    /// Runs this on the client's host, on a runtime of its own.
    pub(super) fn client<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.client.run(|| block_on(future))
    }

    /// Has the client's kernel give this port to every connection from now on.
    pub(super) fn dial_from(&self, port: u16) {
        let range = format!("{port} {port}");
        self.client.run(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap());
    }

    /// Serves on the server's host.
    pub(super) fn serve(&self, store: Arc<MemoryStore>, limits: Limits) -> Serving {
        let file = self.server.lock().unwrap().0.try_clone().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
            drop(file);
            block_on(async {
                let server = Server::bind(Network::ADDRESS).await.unwrap();
                let server = server.store(store).limits(limits);
                ready.send(server.stats_handle()).unwrap();
                server.serve_until(async { _ = stopped.await }).await;
            });
        });
        let monitor = is_ready.recv().unwrap();
        Serving { monitor, stop: Some(stop), thread: Some(thread) }
    }
}

impl Way {
    fn destination(self) -> &'static str {
        match self {
            Self::ToServer => SERVER,
            Self::ToClient => CLIENT,
        }
    }
}

/// A server on a thread that lives in a namespace, until it is dropped.
pub(super) struct Serving {
    pub(super) monitor: metrics_server::stats::StatsHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
    }
}

/// A network namespace, which exists as long as this value or a socket in it.
struct Namespace(File);

impl Namespace {
    fn new() -> Result<Self, String> {
        let ip = Command::new("ip").arg("-V").output();
        ip.map_err(|error| format!("the command `ip` of iproute2 is needed: {error}"))?;
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|error| format!("this takes the right to make one: {error}"))?;
            File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())
        });
        made.join().unwrap().map(Self)
    }

    /// What another process may call it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd())
    }

    /// Runs this in the namespace.
    fn run<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            run()
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn ip(&self, arguments: &str) {
        let status = self.run(|| Command::new("ip").args(arguments.split(' ')).status());
        assert!(status.unwrap().success(), "ip {arguments}");
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}
