//! A client of several servers goes to the next one when its own fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use metrics_client::{
    ClientBuilder, Error, MetricsClient,
    client::{Connector, Pipelining, ReconnectPolicy, ServerOrder, connector_fn},
};
use tokio::{
    io::DuplexStream,
    sync::mpsc,
    time::{self, Instant},
};

use crate::peer::{Peer, with_timeout};

const SECOND: Duration = Duration::from_secs(1);

/// What a server does with an attempt to connect. Without one of these it is not there, and refuses.
#[derive(Clone, Copy, PartialEq)]
enum ServerBehavior {
    Accepts,
    Hangs,
}

/// Servers by their names, and the attempts to connect to them.
struct Servers {
    state: Arc<Mutex<ServersState>>,
    connections: mpsc::UnboundedReceiver<(String, DuplexStream)>,
}

#[derive(Default)]
struct ServersState {
    servers: BTreeMap<&'static str, ServerBehavior>,
    dials: Vec<(String, Instant)>,
}

impl Servers {
    fn new() -> (Self, impl Connector<Io = DuplexStream> + Clone) {
        let (sender, connections) = mpsc::unbounded_channel();
        let state = Arc::<Mutex<ServersState>>::default();
        let shared = Arc::clone(&state);
        let connector = connector_fn(move |address| {
            let name = address.host().unwrap().to_owned();
            let mut state = shared.lock().unwrap();
            state.dials.push((name.clone(), Instant::now()));
            let server = state.servers.get(&*name).copied();
            let sender = sender.clone();
            async move {
                match server {
                    None => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "refused")),
                    Some(ServerBehavior::Hangs) => pending().await,
                    Some(ServerBehavior::Accepts) => {
                        let (ours, theirs) = tokio::io::duplex(1024 * 1024);
                        let _ = sender.send((name, theirs));
                        Ok(ours)
                    }
                }
            }
        });
        (Self { state, connections }, connector)
    }

    fn set(&self, name: &'static str, server: impl Into<Option<ServerBehavior>>) {
        let servers = &mut self.state.lock().unwrap().servers;
        match server.into() {
            Some(server) => servers.insert(name, server),
            None => servers.remove(name),
        };
    }

    /// The next connection, and the server that it leads to.
    async fn accept(&mut self) -> (String, Peer) {
        let (name, io) = with_timeout(self.connections.recv()).await.unwrap();
        (name, Peer::on(io))
    }

    async fn accept_at(&mut self, name: &str) -> Peer {
        let (server, peer) = self.accept().await;
        assert_eq!(server, name);
        peer
    }

    fn take_dials(&self) -> Vec<(String, Instant)> {
        std::mem::take(&mut self.state.lock().unwrap().dials)
    }

    fn take_dialed(&self) -> Vec<String> {
        self.take_dials().into_iter().map(|(name, _)| name).collect()
    }
}

/// A client of the servers `a`, `b` and `c`, in this order.
fn listed<C: Connector>(connector: C) -> ClientBuilder<C> {
    MetricsClient::builder("a:1,b:1,c:1")
        .connector(connector)
        .server_order(ServerOrder::Listed)
        .pipelining(Pipelining::On)
}

fn server(client: &MetricsClient) -> &str {
    client.server().unwrap().host().unwrap()
}

#[tokio::test(start_paused = true)]
async fn connect_takes_the_first_server_that_answers() {
    let (mut servers, connector) = Servers::new();
    servers.set("c", ServerBehavior::Accepts);
    let start = Instant::now();
    let client = listed(connector).connect().await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!((server(&client), client.stats().failovers), ("c", 1));
    let put = async { client.put_at("k", 1.0, 1).await.unwrap() };
    let answer = async { servers.accept_at("c").await.answer("put k 1.0 1\n", "ok\n\n").await };
    tokio::join!(put, answer);
}

#[tokio::test(start_paused = true)]
async fn connect_error_says_why_of_each_server() {
    let (servers, connector) = Servers::new();
    servers.set("b", ServerBehavior::Hangs);
    let error = listed(connector).connect_timeout(3 * SECOND).connect().await.unwrap_err();
    let Error::Connect { address, source: cause, .. } = error else { panic!("{error:?}") };
    assert_eq!(&*address, "a:1,b:1,c:1");
    assert_eq!(cause.to_string(), "a:1: refused; c:1: refused; b:1: no connection within 3s");
}

#[tokio::test(start_paused = true)]
async fn failover_limits_the_time_of_a_hanging_server() {
    let (servers, connector) = Servers::new();
    servers.set("a", ServerBehavior::Hangs);
    servers.set("b", ServerBehavior::Hangs);
    servers.set("c", ServerBehavior::Accepts);
    let start = Instant::now();
    let client = listed(connector).connect_timeout(3 * SECOND).connect().await.unwrap();
    assert_eq!((server(&client), start.elapsed()), ("c", 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn failover_after_a_stall_resends_puts_in_order() {
    let (mut servers, connector) = Servers::new();
    servers.set("a", ServerBehavior::Accepts);
    servers.set("b", ServerBehavior::Accepts);
    let builder = listed(connector).stall_timeout(SECOND).request_timeout(4 * SECOND);
    let client = builder.connect().await.unwrap();
    let mut a = servers.accept_at("a").await;
    let puts = async {
        tokio::try_join!(client.put_at("k", 1.0, 1), client.put_at("k", 2.0, 1)).unwrap();
    };
    let answers = async {
        a.expect("put k 1.0 1\nput k 2.0 1\n").await;
        let mut b = servers.accept_at("b").await;
        b.answer("put k 1.0 1\nput k 2.0 1\n", "ok\n\nok\n\n").await;
        b
    };
    let start = Instant::now();
    let ((), _b) = tokio::join!(puts, answers);
    assert_eq!((start.elapsed(), server(&client)), (SECOND, "b"));
    assert_eq!((client.stats().failovers, client.stats().retried), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn failover_backs_off_after_a_whole_round_only() {
    let (mut servers, connector) = Servers::new();
    let (wait, long) = (10 * SECOND, 60 * SECOND);
    let builder =
        listed(connector).reconnect(ReconnectPolicy::backoff(wait, wait)).request_timeout(long);
    let client = builder.connect_lazy().unwrap();
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put_at("k", 1.0, 1).await }
    });
    let start = Instant::now();
    time::sleep(Duration::from_millis(1)).await;
    let dials = servers.take_dials();
    assert_eq!(dials.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(dials.iter().all(|(_, at)| *at == start));
    // Another one has the first place, and the most time, in each round.
    servers.set("a", ServerBehavior::Accepts);
    servers.accept_at("a").await.answer("put k 1.0 1\n", "ok\n\n").await;
    put.await.unwrap().unwrap();
    assert_eq!(servers.take_dialed(), ["b", "c", "a"]);
}

#[tokio::test(start_paused = true)]
async fn failover_after_a_close_without_a_response() {
    let (mut servers, connector) = Servers::new();
    for name in ["a", "b", "c"] {
        servers.set(name, ServerBehavior::Accepts);
    }
    let client = listed(connector).connect_lazy().unwrap();
    let start = Instant::now();
    let put = async { client.put_at("k", 1.0, 1).await.unwrap() };
    let answers = async {
        drop(servers.accept_at("a").await);
        servers.accept_at("b").await.send("error\ntoo many connections\n\n").await;
        // A rejection may be the request's fault, so something else is asked first.
        let mut c = servers.accept_at("c").await;
        let mut asked = String::new();
        while asked != "put k 1.0 1\n" {
            asked = c.read_some().await;
            c.send("ok\n\n").await;
        }
        c
    };
    let ((), _c) = tokio::join!(put, answers);
    assert_eq!((start.elapsed(), server(&client)), (Duration::ZERO, "c"));
}

#[tokio::test(start_paused = true)]
async fn failover_from_a_server_that_closes_on_puts() {
    let (mut servers, connector) = Servers::new();
    servers.set("a", ServerBehavior::Accepts);
    servers.set("b", ServerBehavior::Accepts);
    let client = listed(connector).connect().await.unwrap();
    let calls = async { tokio::join!(client.get("k"), client.put_at("k", 1.0, 1)) };
    let answers = async {
        let mut a = servers.accept_at("a").await;
        a.expect("get k\nput k 1.0 1\n").await;
        a.send("ok\n\n").await;
        drop(a);
        // It may have been restarted: it gets a second chance, and no third.
        drop(servers.accept_at("a").await);
        servers.accept_at("b").await.answer("put k 1.0 1\n", "ok\n\n").await;
    };
    let ((get, put), ()) = tokio::join!(calls, answers);
    get.unwrap();
    put.unwrap();
    assert_eq!(server(&client), "b");
}

#[tokio::test(start_paused = true)]
async fn failover_is_not_undone_while_the_server_works() {
    let (mut servers, connector) = Servers::new();
    servers.set("b", ServerBehavior::Accepts);
    let client = listed(connector).connect().await.unwrap();
    servers.set("a", ServerBehavior::Accepts);
    let mut b = servers.accept_at("b").await;
    for round in 0..3 {
        let request = format!("put k 1.0 {round}\n");
        let put = async { client.put_at("k", 1.0, round).await.unwrap() };
        tokio::join!(put, b.answer(&request, "ok\n\n"));
        // As a server does with an idle connection.
        drop(b);
        time::sleep(SECOND).await;
        let put = async { client.put_at("k", 2.0, round).await.unwrap() };
        let accept = async {
            let mut b = servers.accept_at("b").await;
            b.answer(&format!("put k 2.0 {round}\n"), "ok\n\n").await;
            b
        };
        ((), b) = tokio::join!(put, accept);
    }
    assert_eq!((server(&client), client.stats().failovers), ("b", 1));
}

#[tokio::test(start_paused = true)]
async fn clients_spread_over_the_list() {
    let (mut servers, connector) = Servers::new();
    let names = ["a", "b", "c"];
    names.into_iter().for_each(|name| servers.set(name, ServerBehavior::Accepts));
    let mut found = BTreeSet::new();
    for _ in 0..200 {
        let builder = MetricsClient::builder(names.map(|name| (name, 1)));
        let _client = builder.connector(connector.clone()).connect().await.unwrap();
        found.insert(servers.accept().await.0);
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), names);
}

#[tokio::test(start_paused = true)]
async fn connections_of_a_pool_keep_to_one_server() {
    let (mut servers, connector) = Servers::new();
    servers.set("b", ServerBehavior::Accepts);
    servers.set("c", ServerBehavior::Accepts);
    let client = listed(connector).max_connections(8).connect().await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for key in 0..64 {
        let client = client.clone();
        calls.spawn(async move { client.put_at(format!("k{key}"), 1.0, 1).await });
    }
    for _ in 0..8 {
        let mut peer = servers.accept_at("b").await;
        tokio::spawn(async move {
            loop {
                let puts = peer.read_some().await.lines().count();
                if puts == 0 {
                    break;
                }
                peer.send(&"ok\n\n".repeat(puts)).await;
            }
        });
    }
    assert!(with_timeout(calls.join_all()).await.into_iter().all(|put| put.is_ok()));
    assert_eq!(client.stats().failovers, 1);
}
