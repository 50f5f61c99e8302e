//! Several connections behind one handle.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
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

use crate::peer::{Network, Peer, soon};

/// What came over which connection, in order.
type Log = Arc<Mutex<Vec<(usize, String)>>>;

/// What the server does with a request.
enum Answer {
    Text(&'static str),
    /// Hangs up.
    End,
    /// Nothing, for ever.
    Silence,
}

const OK: Answer = Answer::Text("ok\n\n");

/// Serves every connection, and lets `answer` say what becomes of each request, which it is given
/// with the number of its connection.
fn serve(
    mut network: Network,
    answer: impl Fn(usize, &str) -> Answer + Send + Sync + 'static,
) -> Log {
    let log = Log::default();
    let kept = Arc::clone(&log);
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        let mut sessions = JoinSet::new();
        for connection in 0.. {
            let mut peer = network.accept().await;
            let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
            sessions.spawn(async move { converse(&mut peer, connection, &log, &*answer).await });
        }
    });
    kept
}

async fn converse(
    peer: &mut Peer,
    connection: usize,
    log: &Mutex<Vec<(usize, String)>>,
    answer: &(dyn Fn(usize, &str) -> Answer + Send + Sync),
) {
    loop {
        let requests = peer.read_some().await;
        if requests.is_empty() {
            return;
        }
        for request in requests.lines() {
            log.lock().unwrap().push((connection, request.to_owned()));
            match answer(connection, request) {
                Answer::Text(text) => peer.send(text).await,
                Answer::End => return,
                Answer::Silence => std::future::pending().await,
            }
        }
    }
}

fn key_of(request: &str) -> &str {
    request.split(' ').nth(1).unwrap()
}

/// Over which connections each key came.
fn connections_by_key(log: &Log) -> BTreeMap<String, BTreeSet<usize>> {
    let mut connections = BTreeMap::<_, BTreeSet<_>>::new();
    for (connection, request) in &*log.lock().unwrap() {
        connections.entry(key_of(request).to_owned()).or_default().insert(*connection);
    }
    connections
}

fn keys(number: usize) -> Vec<String> {
    (0..number).map(|number| format!("key{number:03}")).collect()
}

/// Samples of `keys` keys, which take turns, for so many seconds.
fn samples(keys: usize, seconds: i64) -> Vec<Sample> {
    let keys = self::keys(keys);
    let second = |at| keys.iter().map(move |key| Sample::new(key, 0.5, at).unwrap());
    (0..seconds).flat_map(second).collect()
}

/// Has the client make all its connections, and finds a key of each.
async fn key_of_each(
    client: &MetricsClient,
    network: &mut Network,
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
    let (network, builder) = Network::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(4).connect().await.unwrap();
    let log = serve(network, |_, _| OK);
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
    let (mut network, builder) = Network::new();
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
    let (network, builder) = Network::new();
    let client = builder
        .pipelining(Pipelining::Off)
        .max_connections(3)
        .reconnect(ReconnectPolicy::backoff(Duration::from_millis(1), Duration::from_millis(5)))
        .connect()
        .await
        .unwrap();
    let asked = Mutex::new(0);
    let log = serve(network, move |_, _| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        if *asked % 7 == 0 { Answer::End } else { OK }
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
struct HalfDown {
    client: MetricsClient,
    /// A key of the lost connection, and one of the other.
    lost: String,
    kept: String,
    other: Peer,
    _network: Network,
}

impl HalfDown {
    async fn new() -> Self {
        let (mut network, builder) = Network::new();
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
async fn put_all_error_names_the_first_unstored_sample() {
    let (network, builder) = Network::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(4).connect().await.unwrap();
    let samples = samples(50, 20);
    let refused = [700, 333, 801, 334].map(|place: usize| samples[place].clone());
    let requests = refused.map(|sample| format!("put {sample}"));
    let log = serve(network, move |_, request| {
        let is_refused = requests.iter().any(|refused| refused == request);
        if is_refused { Answer::Text("error\nno\n\n") } else { OK }
    });
    let Err(Error::Batch(batch)) = client.put_all(&samples).await else { panic!("it was refused") };
    assert_eq!((batch.acknowledged, batch.total, batch.first_failed), (996, 1000, 333));
    assert_eq!(batch.error.delivery(), Delivery::Rejected);
    assert_eq!(log.lock().unwrap().len(), 1000);
    let stats = client.stats();
    assert_eq!((stats.accepted, stats.acknowledged, stats.rejected), (1000, 996, 4));
}

#[tokio::test(start_paused = true)]
async fn put_all_failure_of_one_connection_spares_others() {
    let (network, builder) = Network::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(4).connect().await.unwrap();
    let samples = samples(50, 40);
    // Silent is the connection of this sample, from this sample on.
    let silent = 777;
    let request = format!("put {}", samples[silent]);
    let log = serve(network, move |_, asked| if asked == request { Answer::Silence } else { OK });
    let Err(Error::Batch(batch)) = client.put_all(&samples).await else { panic!("it was silent") };
    assert_eq!(batch.first_failed, silent);
    assert!(matches!(batch.error, Error::Timeout { .. }), "{:?}", batch.error);

    let connections = connections_by_key(&log);
    let its_own = &connections[&*samples[silent].key];
    let of_others = samples.iter().filter(|sample| &connections[&*sample.key] != its_own).count();
    let before = samples[..silent].iter().filter(|sample| &connections[&*sample.key] == its_own);
    assert_eq!(batch.acknowledged, of_others + before.count());
    assert_eq!(client.stats().acknowledged, batch.acknowledged as u64);
}

#[tokio::test(start_paused = true)]
async fn put_all_error_counts_rejected_over_connections() {
    let (network, builder) = Network::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(4).connect().await.unwrap();
    let samples = samples(50, 20);
    let silent = 827;
    let request = format!("put {}", samples[silent]);
    // Every third second is refused.
    let is_refused = |sample: &Sample| sample.point.timestamp % 3 == 0;
    let log = serve(network, move |_, asked| match asked.rsplit(' ').next().unwrap().parse() {
        _ if asked == request => Answer::Silence,
        Ok(second) if second % 3 == 0 => Answer::Text("error\nno\n\n"),
        Ok::<i64, _>(_) => OK,
        Err(error) => panic!("{asked}: {error}"),
    });
    let Err(Error::Batch(batch)) = client.put_all(&samples).await else { panic!("it was silent") };
    assert_eq!((batch.first_failed, batch.settled), (0, silent));
    let rejected = samples[..silent].iter().filter(|sample| is_refused(sample)).count();
    assert_eq!(batch.rejected, rejected);

    // All others have their outcome, but for those that would have come over the silent connection.
    let connections = connections_by_key(&log);
    let its_own = &connections[&*samples[silent].key];
    let answered = samples.iter().enumerate().filter(|&(place, sample)| {
        !is_refused(sample) && (place < silent || &connections[&*sample.key] != its_own)
    });
    assert_eq!(batch.acknowledged, answered.count());
}

#[tokio::test(start_paused = true)]
async fn put_all_error_covers_all_connections() {
    for answer in [None, Some("ok\n\n"), Some("error\nno\n\n")] {
        let HalfDown { client, lost, kept, mut other, _network } = HalfDown::new().await;
        let samples = [&lost, &kept].map(|key| Sample::new(key, 1.0, 1).unwrap());
        let server = async {
            other.expect(&format!("put {kept} 1.0 1\n")).await;
            if let Some(answer) = answer {
                other.send(answer).await;
            }
        };
        let (all, ()) = join!(client.put_all(&samples), server);
        let error = all.unwrap_err();
        let Error::Batch(batch) = &error else { panic!("{error:?}") };
        assert_eq!((batch.first_failed, batch.error.delivery()), (0, Delivery::NotSent));
        let said = (error.delivery(), error.is_retryable());
        assert_eq!(said, (Delivery::Unknown, true), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn put_all_error_is_retryable_beyond_rejections() {
    let HalfDown { client, lost, kept, mut other, _network } = HalfDown::new().await;
    let samples = [&kept, &lost].map(|key| Sample::new(key, 1.0, 1).unwrap());
    let request = format!("put {kept} 1.0 1\n");
    let server = other.answer(&request, "error\nno\n\n");
    let (all, ()) = join!(client.put_all(&samples), server);
    let error = all.unwrap_err();
    let Error::Batch(batch) = &error else { panic!("{error:?}") };
    assert_eq!((batch.first_failed, batch.error.delivery()), (0, Delivery::Rejected));
    assert_eq!((error.delivery(), error.is_retryable()), (Delivery::Unknown, true));
}

#[tokio::test(start_paused = true)]
async fn put_all_uses_every_connection() {
    let (network, builder) = Network::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(256).connect().await.unwrap();
    let log = serve(network, |_, _| OK);
    let samples = samples(1000, 2);
    client.put_all(&samples).await.unwrap();
    assert_eq!(log.lock().unwrap().len(), samples.len());
    let connections = connections_by_key(&log);
    assert!(connections.values().all(|connections| connections.len() == 1), "{connections:?}");
}

#[tokio::test(start_paused = true)]
async fn get_all_goes_to_the_least_loaded_connection() {
    let (mut network, builder) = Network::new();
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
    let (mut network, builder) = Network::new();
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
    let (mut network, builder) = Network::new();
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
    let (network, builder) = Network::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(4).connect().await.unwrap();
    let log = serve(network, |_, request| match request {
        "put key007 0.5 3" => Answer::Text("error\nno\n\n"),
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
    let (mut network, builder) = Network::new();
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
    soon(state.wait_for(|state| state == ConnectionState::Disconnected)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pool_without_reconnect_closes_on_a_loss() {
    let (mut network, builder) = Network::new();
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
    soon(client.watch_state().wait_for(|state| state == ConnectionState::Closed)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn last_handle_dropped_ends_every_connection() {
    let (mut network, builder) = Network::new();
    let client = builder.max_connections(3).connect().await.unwrap();
    let peers = key_of_each(&client, &mut network, 3).await;
    drop(client);
    for (_, mut peer) in peers {
        peer.expect_end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn connect_opens_one_connection_or_fails() {
    let (mut network, builder) = Network::new();
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
