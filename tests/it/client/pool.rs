//! Several connections behind one handle.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use metrics_client::{
    Delivery, Error, MetricsClient, Sample,
    client::{ConnectionState, Pipelining, ReconnectPolicy},
};
use tokio::{
    join,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    mock_server::{self, OK, Reply, RequestLog, text},
    peer::{MockNetwork, Peer, with_timeout},
};

fn key_of(request: &str) -> &str {
    request.split(' ').nth(1).unwrap()
}

/// Over which connections each key came.
pub(super) fn connections_by_key(log: &RequestLog) -> BTreeMap<String, BTreeSet<usize>> {
    let mut connections = BTreeMap::<_, BTreeSet<_>>::new();
    for (connection, request) in &*log.lock().unwrap() {
        connections.entry(key_of(request).to_owned()).or_default().insert(*connection);
    }
    connections
}

fn keys(number: usize) -> Vec<String> {
    (0..number).map(|number| format!("key{number:03}")).collect()
}

/// Returns a sample of each of `keys` keys for each of `seconds` seconds.
pub(super) fn samples(keys: usize, seconds: i64) -> Vec<Sample> {
    let keys = self::keys(keys);
    let second = |at| keys.iter().map(move |key| Sample::new(key, 0.5, at).unwrap());
    (0..seconds).flat_map(second).collect()
}

/// Has the client make all its connections, and finds a key of each.
async fn key_of_each(
    client: &MetricsClient,
    network: &mut MockNetwork,
    number: usize,
) -> Vec<(String, Peer)> {
    let mut found = vec![(String::new(), network.accept().await)];
    for key in keys(1000) {
        if found.len() == number && found.iter().all(|(key, _)| !key.is_empty()) {
            return found;
        }
        let request = format!("get {key}\n");
        let server = async {
            for (known, peer) in &mut found {
                if timeout(Duration::from_millis(1), peer.expect(&request)).await.is_ok() {
                    peer.send("ok\n\n").await;
                    known.clone_from(&key);
                    return;
                }
            }
            let mut peer = network.accept().await;
            peer.answer(&request, "ok\n\n").await;
            found.push((key.clone(), peer));
        };
        let (get, ()) = join!(client.get(&key), server);
        get.unwrap();
    }
    panic!("a thousand keys, and one of {number} connections has none");
}

#[tokio::test(start_paused = true)]
async fn keys_are_sharded_over_connections() {
    let (network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(4).connect().await.unwrap();
    let log = mock_server::spawn(network, |_, _| OK);
    let mut calls = JoinSet::new();
    for key in keys(200) {
        let client = client.clone();
        calls.spawn(async move {
            client.put_at(&key, 1.0, 1).await.unwrap();
            client.get(&key).await.unwrap();
            client.put_all([Sample::new(&key, 1.0, 2).unwrap()]).await.unwrap();
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    let connections = connections_by_key(&log);
    assert_eq!(connections.len(), 200);
    assert!(connections.values().all(|connections| connections.len() == 1), "{connections:?}");
    let mut keys_by_connection = [0; 4];
    for connections in connections.values() {
        keys_by_connection[*connections.first().unwrap()] += 1;
    }
    // 50 each, and a standard deviation of 6.
    assert!(keys_by_connection.iter().all(|&keys| keys > 10), "{keys_by_connection:?}");
}

#[tokio::test(start_paused = true)]
async fn one_request_per_connection_without_pipelining() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(3).connect().await.unwrap();
    let mut puts = JoinSet::new();
    for key in keys(100) {
        let client = client.clone();
        puts.spawn(async move { client.put_at(&key, 1.0, 1).await.unwrap() });
    }
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = network.accept().await;
        assert_eq!(peer.read_some().await.lines().count(), 1);
        peers.push(peer);
    }
    network.expect_no_dial(Duration::from_secs(1)).await;
    for peer in &mut peers {
        peer.expect_silence(Duration::from_millis(100)).await;
    }
    assert_eq!((client.stats().in_flight, client.stats().queued), (3, 97));
}

#[tokio::test(start_paused = true)]
async fn key_order_survives_reconnects() {
    let (network, builder) = MockNetwork::new();
    let client = builder
        .pipelining(Pipelining::Off)
        .max_connections(3)
        .reconnect(ReconnectPolicy::backoff(Duration::from_millis(1), Duration::from_millis(5)))
        .connect()
        .await
        .unwrap();
    let asked = Mutex::new(0);
    let log = mock_server::spawn(network, move |_, _| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        if *asked % 7 == 0 { Reply::Close } else { OK }
    });
    let mut series = JoinSet::new();
    for key in keys(20) {
        let client = client.clone();
        series.spawn(async move {
            // All are asked for at once, in this order.
            let (one, two, three, four) = join!(
                client.put_at(&key, 1.0, 1),
                client.put_at(&key, 1.0, 2),
                client.put_at(&key, 1.0, 3),
                client.put_at(&key, 1.0, 4)
            );
            [one, two, three, four].into_iter().collect::<Result<(), _>>().unwrap();
        });
    }
    let batch = client.put_all(samples(20, 10));
    let (batch, ()) = join!(batch, async {
        while let Some(series) = series.join_next().await {
            series.unwrap();
        }
    });
    batch.unwrap();
    // Each series and each part of the batch in its order, whatever was sent twice.
    let mut last = BTreeMap::new();
    for (_, request) in &*log.lock().unwrap() {
        let [_, key, value, second] = *request.split(' ').collect::<Vec<_>>() else { panic!() };
        let second = second.parse::<i64>().unwrap();
        let last = last.entry((key.to_owned(), value.to_owned())).or_insert(second);
        assert!(*last <= second, "{request} behind {last}");
        *last = second;
    }
    assert!(client.stats().retried > 0);
}

/// A client with two connections, of which one is lost and cannot be made again.
pub(super) struct HalfDown {
    pub(super) client: MetricsClient,
    /// A key of the lost connection, and one of the other.
    pub(super) lost: String,
    pub(super) kept: String,
    pub(super) other: Peer,
    pub(super) _network: MockNetwork,
}

impl HalfDown {
    pub(super) async fn new() -> Self {
        let (mut network, builder) = MockNetwork::new();
        let client =
            builder.pipelining(Pipelining::Off).max_connections(2).connect().await.unwrap();
        let keys = key_of_each(&client, &mut network, 2).await;
        let [(lost, peer), (kept, other)] = <[_; 2]>::try_from(keys).unwrap();
        drop(peer);
        network.black_hole();
        Self { client, lost, kept, other, _network: network }
    }
}

#[tokio::test(start_paused = true)]
async fn down_connection_keeps_its_keys() {
    let HalfDown { client, lost, kept, mut other, _network } = HalfDown::new().await;
    let start = Instant::now();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.put_at(lost, 1.0, 1).await }
    });
    for second in 0..100 {
        let put = client.put_at(&*kept, 1.0, second);
        let request = format!("put {kept} 1.0 {second}\n");
        let (put, ()) = join!(put, other.answer(&request, "ok\n\n"));
        put.unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(client.state(), ConnectionState::Connected);
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.delivery(), Delivery::NotSent);
    other.expect_silence(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn get_all_goes_to_the_least_loaded_connection() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).max_connections(3).connect().await.unwrap();
    let mut first = network.accept().await;
    // All are idle: the one that is there is as good as any.
    let (all, ()) = join!(client.get_all(), first.answer("get *\n", "ok\n\n"));
    all.unwrap();
    let mut calls = JoinSet::new();
    let mut everything = || {
        let client = client.clone();
        calls.spawn(async move { client.get_all().await.unwrap() });
    };
    everything();
    first.expect("get *\n").await;
    everything();
    let mut second = network.accept().await;
    second.expect("get *\n").await;
    everything();
    let mut third = network.accept().await;
    third.expect("get *\n").await;
    second.send("ok\n\n").await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    everything();
    second.expect("get *\n").await;
}

#[tokio::test(start_paused = true)]
async fn probe_runs_once_per_connection() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.max_connections(2).connect().await.unwrap();
    let peers = key_of_each(&client, &mut network, 2).await;
    let mut calls = JoinSet::new();
    for (key, _) in &peers {
        for _ in 0..2 {
            let (client, key) = (client.clone(), key.clone());
            calls.spawn(async move { client.put_at(key, 1.0, 1).await });
        }
    }
    for _ in 0..2 {
        assert!(network.accept().await.read_some().await.starts_with("get pipelining-probe."));
    }
    network.expect_no_dial(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn close_completes_requests_of_every_connection() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).max_connections(3).connect().await.unwrap();
    let mut peers = key_of_each(&client, &mut network, 3).await;
    let mut puts = JoinSet::new();
    for (key, peer) in &mut peers {
        let (client, put) = (client.clone(), format!("put {key} 1.0 1\n"));
        let key = key.clone();
        puts.spawn(async move { client.put_at(key, 1.0, 1).await.unwrap() });
        peer.expect(&put).await;
    }
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close().await }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    for (key, _) in &peers {
        assert!(matches!(client.put(key, 1.0).await, Err(Error::Closed { .. })));
    }
    let state = client.watch_state();
    for (_, mut peer) in peers {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(state.get(), ConnectionState::Connected);
        assert!(!closing.is_finished());
        peer.send("ok\n\n").await;
        peer.expect_end().await;
    }
    closing.await.unwrap().unwrap();
    assert_eq!(state.get(), ConnectionState::Closed);
    while let Some(put) = puts.join_next().await {
        put.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn stats_sum_over_connections() {
    let (network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(4).connect().await.unwrap();
    let log = mock_server::spawn(network, |_, request| match request {
        "put key007 0.5 3" => text("error\nno\n\n"),
        _ => OK,
    });
    let sent = samples(100, 4);
    client.put_all(&sent).await.unwrap_err();
    let stats = client.stats();
    assert_eq!((stats.accepted, stats.acknowledged, stats.rejected), (400, 399, 1));
    assert_eq!((stats.reconnects, stats.in_flight, stats.queued, stats.failed), (0, 0, 0, 0));
    let bytes = sent.iter().map(|sample| format!("put {sample}\n").len()).sum::<usize>();
    assert_eq!(stats.bytes_sent, bytes as u64);
    assert_eq!(stats.bytes_received, (399 * "ok\n\n".len() + "error\nno\n\n".len()) as u64);
    assert_eq!(log.lock().unwrap().len(), 400);
}

#[tokio::test(start_paused = true)]
async fn state_is_connected_while_one_connection_is() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(2).connect_lazy().unwrap();
    let mut state = client.watch_state();
    assert_eq!(state.get(), ConnectionState::Disconnected);
    network.black_hole();
    let get = tokio::spawn({
        let client = client.clone();
        async move { client.get_all().await }
    });
    state.wait_for(|state| state == ConnectionState::Connecting).await.unwrap();
    network.refuse(0);
    get.await.unwrap().unwrap_err();

    // The first one still dials, and it is another's turn.
    let peers = async {
        let mut peers = Vec::new();
        for _ in 0..2 {
            peers.push(network.accept().await);
        }
        peers
    };
    let mut calls = JoinSet::new();
    for key in keys(40) {
        let client = client.clone();
        calls.spawn(async move { client.put_at(key, 1.0, 1).await });
    }
    let mut peers = peers.await;
    calls.shutdown().await;
    assert_eq!(state.get(), ConnectionState::Connected);
    drop(peers.pop());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(state.get(), ConnectionState::Connected);
    drop(peers.pop());
    with_timeout(state.wait_for(|state| state == ConnectionState::Disconnected)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pool_without_reconnect_closes_on_a_loss() {
    let (mut network, builder) = MockNetwork::new();
    let builder = builder.pipelining(Pipelining::Off).reconnect(ReconnectPolicy::never());
    let client = builder.max_connections(2).connect().await.unwrap();
    let [(_, lost), (key, mut other)] =
        <[_; 2]>::try_from(key_of_each(&client, &mut network, 2).await).unwrap();
    let put = tokio::spawn({
        let (client, key) = (client.clone(), key.clone());
        async move { client.put_at(key, 1.0, 1).await }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(lost);
    tokio::time::sleep(Duration::from_millis(1)).await;
    for key in keys(20) {
        assert!(matches!(client.put(key, 1.0).await, Err(Error::Closed { .. })));
    }
    // What the other one had accepted is served.
    other.answer(&format!("put {key} 1.0 1\n"), "ok\n\n").await;
    put.await.unwrap().unwrap();
    other.expect_end().await;
    with_timeout(client.watch_state().wait_for(|state| state == ConnectionState::Closed))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn last_handle_dropped_ends_every_connection() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.max_connections(3).connect().await.unwrap();
    let peers = key_of_each(&client, &mut network, 3).await;
    drop(client);
    for (_, mut peer) in peers {
        peer.expect_end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn connect_opens_one_connection_or_fails() {
    let (mut network, builder) = MockNetwork::new();
    network.refuse(1);
    let error = builder.clone().max_connections(8).connect().await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    let _client = builder.max_connections(8).connect().await.unwrap();
    network.accept().await;
    network.expect_no_dial(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn given_stream_is_the_only_connection() {
    let (ours, theirs) = tokio::io::duplex(1024);
    let client = MetricsClient::builder("a pipe").max_connections(8).with_io(ours);
    let mut peer = Peer::on(theirs);
    for key in keys(20) {
        let request = format!("put {key} 1.0 1\n");
        let (put, ()) = join!(client.put_at(&key, 1.0, 1), peer.answer(&request, "ok\n\n"));
        put.unwrap();
    }
}
