//! The client as a tower service, under tower's own layers.

use std::{
    future::{Ready, poll_fn, ready},
    task::Poll,
    time::Duration,
};

use metrics_client::{
    Delivery, Error, MetricsClient,
    client::{ConnectionState, Pipelining, WhenFull},
    codec::Request,
    service::MetricsService,
};
use tokio::{
    join,
    task::JoinSet,
    time::{Instant, timeout},
};
use tower::{
    BoxError, Service, ServiceBuilder, ServiceExt,
    load_shed::error::Overloaded,
    retry::{Policy, Retry},
    timeout::error::Elapsed,
};

use crate::peer::{MockNetwork, Peer, with_timeout};

/// What a place takes: the longest request.
const PLACE: usize = 1075;

/// A put that takes nearly all of a place, and what it is on the wire.
fn long(second: i64) -> (Request, String) {
    let key = "k".repeat(1024);
    (Request::put(&*key, 1.0, second).unwrap(), format!("put {key} 1.0 {second}\n"))
}

fn put(key: &str) -> Request {
    Request::put(key, 1.0, 1).unwrap()
}

/// A client whose queue holds `places` reservations, and its server, which takes one request at a time.
async fn client_with_room_for(places: usize) -> (MetricsClient, Peer, MockNetwork) {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).max_buffered_bytes(places * PLACE);
    let client = client.connect().await.unwrap();
    let peer = network.accept().await;
    (client, peer, network)
}

/// Whether the service is ready now.
async fn is_ready(service: &mut MetricsService) -> bool {
    poll_fn(|cx| Poll::Ready(service.poll_ready(cx).map(Result::unwrap).is_ready())).await
}

/// Lets everybody do what they can do now.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn client_and_service_convert_into_each_other() {
    let (_network, builder) = MockNetwork::new();
    let client = builder.connect_lazy().unwrap();
    let service = MetricsService::from(client.clone());
    drop(client);
    let client = service.into_inner();
    assert_eq!(client.state(), ConnectionState::Disconnected);
    client.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn service_put_returns_unit_and_get_points() {
    let (client, mut peer, _network) = client_with_room_for(2).await;
    let mut service = client.service();
    let calls = async {
        let put = Request::put("a", 2.5, 7).unwrap();
        assert!(service.ready().await.unwrap().call(put).await.unwrap().is_empty());
        let get = Request::get("a").unwrap();
        let metrics = service.ready().await.unwrap().call(get).await.unwrap();
        assert_eq!(metrics.points("a")[0].value, 2.5);
        let nan = Request::Put(metrics_client::Sample::new("a", f64::NAN, 7).unwrap());
        let error = service.ready().await.unwrap().call(nan).await.unwrap_err();
        assert!(matches!(error, Error::NonFiniteValue(_)), "{error:?}");
    };
    let server = async {
        peer.answer("put a 2.5 7\n", "ok\n\n").await;
        peer.answer("get a\n", "ok\na 2.5 7\n\n").await;
        peer.expect_silence(Duration::from_secs(1)).await;
    };
    join!(calls, server);
}

#[tokio::test(start_paused = true)]
async fn load_shed_sheds_calls_beyond_the_queue() {
    let (client, mut peer, _network) = client_with_room_for(3).await;
    let service = ServiceBuilder::new().load_shed().service(client.service());
    let mut stored = JoinSet::new();
    let mut call = |second| {
        let mut service = service.clone();
        stored.spawn(async move {
            let answer = service.ready().await.unwrap().call(long(second).0).await;
            answer.map_err(|error| assert!(error.is::<Overloaded>(), "{error:?}")).is_ok()
        });
    };
    // One is in flight, and three wait to be sent.
    for second in 0..4 {
        call(second);
        settle().await;
    }
    assert_eq!((client.stats().in_flight, client.stats().queued), (1, 3));
    for second in 4..6 {
        call(second);
        settle().await;
    }
    // The next one is sent, which leaves room for one.
    peer.answer(&long(0).1, "ok\n\n").await;
    settle().await;
    for second in 6..8 {
        call(second);
        settle().await;
    }
    for second in [1, 2, 3, 6] {
        peer.answer(&long(second).1, "ok\n\n").await;
    }
    peer.expect_silence(Duration::from_secs(1)).await;
    let stored = stored.join_all().await;
    assert_eq!(stored.iter().filter(|&&stored| stored).count(), 5);
    assert_eq!(client.stats().accepted, 5);
}

#[tokio::test(start_paused = true)]
async fn services_wait_in_order_and_none_is_forgotten() {
    let (client, mut peer, _network) = client_with_room_for(1).await;
    let mut calls = JoinSet::new();
    for second in 0..20 {
        let mut service = client.service();
        calls.spawn(async move {
            service.ready().await.unwrap().call(long(second).0).await.unwrap();
        });
        settle().await;
    }
    assert!(client.stats().accepted < 4);
    let start = Instant::now();
    for second in 0..20 {
        peer.answer(&long(second).1, "ok\n\n").await;
    }
    calls.join_all().await;
    // A timeout would have woken a forgotten service, but seconds later.
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn reservation_is_released_when_a_service_drops() {
    let (client, _peer, _network) = client_with_room_for(1).await;
    let mut service = client.service();
    assert!(is_ready(&mut service).await);
    let mut clone = service.clone();
    assert!(!is_ready(&mut clone).await);
    assert!(is_ready(&mut service).await);
    drop(service);
    assert!(is_ready(&mut clone).await);

    let mut next = client.service();
    let future = clone.call(put("a"));
    assert!(!is_ready(&mut next).await, "the future has the place");
    drop(future);
    assert!(is_ready(&mut next).await);
    // Who has only got in line leaves it.
    assert!(!is_ready(&mut clone).await);
    let mut last = client.service();
    assert!(!is_ready(&mut last).await);
    drop(clone);
    drop(next);
    assert!(is_ready(&mut last).await);
    assert_eq!(client.stats().accepted, 0);
}

#[tokio::test(start_paused = true)]
async fn call_without_poll_ready_is_served() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder
        .pipelining(Pipelining::Off)
        .max_buffered_bytes(1)
        .when_full(WhenFull::Fail)
        .connect()
        .await
        .unwrap();
    let mut peer = network.accept().await;
    let mut service = client.service();
    let [one, two, three] = ["a", "b", "c"].map(|key| service.call(put(key)));
    let one = tokio::spawn(one);
    settle().await;
    let two = tokio::spawn(two);
    settle().await;
    assert!(matches!(three.await, Err(Error::QueueFull { .. })));
    peer.answer("put a 1.0 1\n", "ok\n\n").await;
    peer.answer("put b 1.0 1\n", "ok\n\n").await;
    one.await.unwrap().unwrap();
    two.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn reservation_holds_with_overflow_fail() {
    let (mut network, builder) = MockNetwork::new();
    let builder = builder.pipelining(Pipelining::Off).when_full(WhenFull::Fail);
    let client = builder.max_buffered_bytes(2 * PLACE).connect().await.unwrap();
    let mut peer = network.accept().await;
    let mut service = client.service();
    assert!(is_ready(&mut service).await);
    let mut others = JoinSet::new();
    for second in 0..4 {
        let client = client.clone();
        others.spawn(async move { client.put_at("k".repeat(1024), 1.0, second).await });
        settle().await;
    }
    // One is in flight, one waits, and the rest is kept.
    let kept = tokio::spawn(service.call(put("a")));
    for request in [&long(0).1, &long(1).1, "put a 1.0 1\n"] {
        peer.answer(request, "ok\n\n").await;
    }
    kept.await.unwrap().unwrap();
    let full = others.join_all().await.into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(matches!(full[..], [Error::QueueFull { .. }, Error::QueueFull { .. }]), "{full:?}");
}

#[tokio::test(start_paused = true)]
async fn close_fails_ready_and_waiting_services() {
    let (client, _peer, _network) = client_with_room_for(1).await;
    let [mut ready, mut waiting] = [client.service(), client.service()];
    assert!(is_ready(&mut ready).await);
    let waiting = tokio::spawn(async move { waiting.ready().await.map(drop) });
    settle().await;
    assert!(!waiting.is_finished());
    client.close().await.unwrap();
    let told = [with_timeout(waiting).await.unwrap(), ready.ready().await.map(drop)];
    for told in told {
        let error = told.unwrap_err();
        assert!(matches!(error, Error::Closed { .. }), "{error:?}");
    }
    let error = ready.call(put("a")).await.unwrap_err();
    assert_eq!(error.delivery(), Delivery::NotSent);
}

#[tokio::test(start_paused = true)]
async fn future_keeps_the_client_open() {
    let (client, mut peer, _network) = client_with_room_for(1).await;
    let state = client.watch_state();
    let mut service = client.service();
    let call = service.ready().await.unwrap().call(put("a"));
    drop((client, service));
    let (call, ()) = join!(call, peer.answer("put a 1.0 1\n", "ok\n\n"));
    call.unwrap();
    peer.expect_end().await;
    settle().await;
    assert_eq!(state.get(), ConnectionState::Closed);
}

#[tokio::test(start_paused = true)]
async fn timeout_layer_leaves_other_calls_alone() {
    let (client, mut peer, _network) = client_with_room_for(4).await;
    let limit = Duration::from_millis(100);
    let mut service = ServiceBuilder::new().timeout(limit).service(client.service());
    let mut call = async |key| {
        let get = Request::get(key).unwrap();
        let answer: Result<_, BoxError> = service.ready().await.unwrap().call(get).await;
        answer
    };
    let (late, ()) = join!(call("a"), peer.expect("get a\n"));
    assert!(late.unwrap_err().is::<Elapsed>());
    let server = async {
        settle().await;
        peer.send("ok\na 1.0 1\n\n").await;
        peer.answer("get b\n", "ok\nb 2.0 1\n\n").await;
    };
    let (b, ()) = join!(call("b"), server);
    assert_eq!(b.unwrap().points("b")[0].value, 2.0);
    assert_eq!(client.stats().cancelled, 1);
}

/// Retries what may work, up to this number of times.
#[derive(Clone)]
struct Attempts(usize);

impl Policy<Request, metrics_client::Metrics, Error> for Attempts {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request,
        result: &mut Result<metrics_client::Metrics, Error>,
    ) -> Option<Ready<()>> {
        let error = result.as_ref().err()?;
        self.0 = self.0.checked_sub(1)?;
        error.is_retryable().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn retry_layer_retries_only_retryable_errors() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.resend_unacknowledged(false).connect().await.unwrap();
    let mut service = Retry::new(Attempts(3), client.service());
    let server = async {
        for _ in 0..2 {
            let mut peer = network.accept().await;
            peer.expect("put a 1.0 1\n").await;
        }
        let mut peer = network.accept().await;
        peer.answer("put a 1.0 1\n", "ok\n\n").await;
        peer.answer("put b 1.0 1\n", "error\nno\n\n").await;
        peer.expect_silence(Duration::from_secs(1)).await;
    };
    let calls = async {
        service.ready().await.unwrap().call(put("a")).await.unwrap();
        let error = service.ready().await.unwrap().call(put("b")).await.unwrap_err();
        assert_eq!(error.delivery(), Delivery::Rejected);
    };
    join!(server, calls);
}

#[tokio::test(start_paused = true)]
async fn concurrency_limit_bounds_requests_of_the_client() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;
    let service = ServiceBuilder::new().concurrency_limit(3).service(client.service());
    let mut calls = JoinSet::new();
    for number in 0..9 {
        let mut service = service.clone();
        calls.spawn(async move {
            let put = Request::put("a", 1.0, number).unwrap();
            service.ready().await.unwrap().call(put).await.unwrap();
        });
    }
    for _ in 0..3 {
        settle().await;
        assert_eq!(client.stats().in_flight + client.stats().queued, 3);
        assert_eq!(peer.read_some().await.lines().count(), 3);
        peer.send(&"ok\n\n".repeat(3)).await;
    }
    calls.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn ready_with_a_pool_needs_capacity_on_each() {
    let (network, builder) = MockNetwork::new();
    network.black_hole();
    let client = builder
        .pipelining(Pipelining::Off)
        .max_connections(2)
        .max_buffered_bytes(PLACE)
        .request_timeout(Duration::from_secs(60))
        .connect_lazy()
        .unwrap();
    let [mut one, mut two] = [client.service(), client.service()];
    assert!(is_ready(&mut one).await);
    assert!(!is_ready(&mut two).await);
    drop(one.call(put("a")));
    assert!(is_ready(&mut two).await, "a call keeps no place but its own");
    two = client.service();
    assert!(is_ready(&mut one).await && !is_ready(&mut two).await);
    // The place in one queue is used, and the one in the other is given back.
    let call = tokio::spawn(one.call(long(1).0));
    settle().await;
    assert_eq!(client.stats().queued, 1);
    assert!(!is_ready(&mut two).await, "one queue is full");
    assert!(!is_ready(&mut one).await);
    drop(two);
    call.abort();
    assert!(timeout(Duration::from_secs(1), one.ready()).await.is_ok());

    // Whatever each has had, none keeps another from it for ever.
    drop(one);
    let mut services = JoinSet::new();
    for _ in 0..20 {
        let mut service = client.service();
        services.spawn(async move { service.ready().await.map(drop).unwrap() });
    }
    with_timeout(services.join_all()).await;
}

// FAULTS C13
#[tokio::test(start_paused = true)]
async fn idle_services_do_not_starve_the_next_one() {
    for connections in [1, 3] {
        let (network, builder) = MockNetwork::new();
        network.black_hole();
        let timeout_of_calls = Duration::from_secs(5);
        let client = builder
            .max_connections(connections)
            .max_buffered_bytes(4 * PLACE)
            .request_timeout(timeout_of_calls)
            .connect_lazy()
            .unwrap();
        let mut idle = [(); 4].map(|()| client.service());
        for service in &mut idle {
            service.ready().await.unwrap();
        }
        let mut next = client.service();
        let start = Instant::now();
        next.ready().await.unwrap();
        let waited = start.elapsed();
        assert!(waited <= timeout_of_calls + Duration::from_millis(1), "{waited:?}");

        // What has lost its place is asked again, or called all the same, and has its deadline.
        let late = timeout(timeout_of_calls * 2, idle[0].call(put("a"))).await.unwrap();
        assert!(
            matches!(late, Err(Error::Timeout { delivery: Delivery::NotSent, .. })),
            "{late:?}"
        );
        assert!(timeout(timeout_of_calls * 2, idle[1].ready()).await.is_ok());
    }
}
