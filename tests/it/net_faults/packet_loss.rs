//! Packets that are lost, without an end or a reset of the connection.

use std::{io, sync::Arc, time::Duration};

use metrics_client::{
    Delivery, Error, MetricsClient, Sample, Selector,
    client::{ConnectionState, Pipelining, TcpConnector},
    error::ConnectionError,
};
use metrics_server::{Limits, MemoryStore, Store, store::Snapshot};
use tokio::{
    join,
    time::{self, Instant},
};

use super::{
    HANG, SHORT, builder, is_late, is_reset,
    netns::{Network, Serving, Way},
    with_timeout, works_again,
};

async fn stored(store: &MemoryStore, key: &str) -> usize {
    let snapshot = store.get(&Selector::All).await.unwrap();
    snapshot.into_metrics().await.unwrap().points(key).len()
}

async fn until(condition: impl Fn() -> bool) {
    with_timeout(async {
        while !condition() {
            time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn connections(serving: &Serving) -> u64 {
    serving.monitor.stats().connections
}

#[test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
fn black_hole_fails_calls_in_time_and_heals() {
    let Some(network) = Network::new("a black hole") else { return };
    let store = Arc::new(MemoryStore::new());
    let _serving = network.serve(Arc::clone(&store), Limits::default());
    network.client(async {
        let client = builder(Network::ADDRESS).connect().await.unwrap();
        client.put_at("before", 1.0, 1).await.unwrap();
        network.swallow(Way::ToServer);
        network.swallow(Way::ToClient);
        let begin = Instant::now();
        assert!(is_late(&with_timeout(client.put_at("sent", 1.0, 1)).await.unwrap_err()));
        // It takes the connection for dead, and finds no other.
        let error = loop {
            let error = with_timeout(client.put_at("unsent", 1.0, 1)).await.unwrap_err();
            if error.delivery() == Delivery::NotSent {
                break error;
            }
        };
        let Error::Timeout { source: Some(fault), .. } = &error else { panic!("{error:?}") };
        assert!(matches!(
            **fault,
            ConnectionError::Stalled { .. } | ConnectionError::Connect { .. }
        ));
        assert!(begin.elapsed() < HANG / 2);
        let refused = builder(Network::ADDRESS).connect_timeout(SHORT).connect().await.unwrap_err();
        assert!(matches!(refused, Error::Connect { .. }), "{refused:?}");

        network.heal(Way::ToServer);
        network.heal(Way::ToClient);
        works_again(&client).await;
        assert_eq!(client.get("before").await.unwrap().points("before").len(), 1);
    });
}

#[test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
fn lost_response_means_stored_lost_put_means_not() {
    let Some(network) = Network::new("a black hole one way") else { return };
    let store = Arc::new(MemoryStore::new());
    let serving = network.serve(Arc::clone(&store), Limits::default());
    network.client(async {
        let client = builder(Network::ADDRESS).connect().await.unwrap();
        client.put_at("before", 1.0, 1).await.unwrap();
        network.swallow(Way::ToClient);
        assert!(is_late(&with_timeout(client.put_at("answered", 1.0, 1)).await.unwrap_err()));
        until(|| serving.monitor.stats().puts == 2).await;
        assert_eq!(stored(&store, "answered").await, 1);
        network.heal(Way::ToClient);
        works_again(&client).await;

        network.swallow(Way::ToServer);
        assert!(is_late(&with_timeout(client.put_at("lost", 1.0, 1)).await.unwrap_err()));
        assert_eq!(stored(&store, "lost").await, 0);
        network.heal(Way::ToServer);
        works_again(&client).await;
    });
}

#[test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
fn abandoned_connection_delivers_nothing_later() {
    let Some(network) = Network::new("packets that come late") else { return };
    let serving = network.serve(Arc::default(), Limits::default());
    network.client(async {
        let client = builder(Network::ADDRESS).request_timeout(HANG).connect().await.unwrap();
        client.put_at("a", 1.0, 1).await.unwrap();
        network.swallow(Way::ToServer);
        let heal = async {
            until(|| client.stats().retried > 0).await;
            network.heal(Way::ToServer);
        };
        let (put, ()) = join!(client.put_at("a", 2.0, 2), heal);
        put.unwrap();
        // A kernel that still has to send something tries again within this time.
        time::sleep(Duration::from_secs(3)).await;
        assert_eq!(serving.monitor.stats().puts, 2);
    });
}

#[test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
fn keepalive_notices_a_black_hole_when_idle() {
    let Some(network) = Network::new("a black hole behind an idle connection") else { return };
    let second = Duration::from_secs(1);
    let limits = Limits::default().idle_timeout(second);
    let serving = network.serve(Arc::default(), limits);
    network.client(async {
        let connector = TcpConnector::default().keepalive(second).user_timeout(2 * second);
        let builder = builder(Network::ADDRESS).request_timeout(HANG).connector(connector);
        let client = builder.connect().await.unwrap();
        client.put_at("a", 1.0, 1).await.unwrap();
        network.swallow(Way::ToServer);
        network.swallow(Way::ToClient);
        let mut state = client.watch_state();
        with_timeout(state.wait_for(|state| state == ConnectionState::Disconnected)).await.unwrap();
        // The server does not ask, but does not keep an idle peer for ever either.
        until(|| connections(&serving) == 0).await;

        network.heal(Way::ToServer);
        network.heal(Way::ToClient);
        assert_eq!(works_again(&client).await, 0);
    });
}

#[test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
fn black_hole_ends_a_stream_at_both_ends() {
    let Some(network) = Network::new("a black hole in the middle of an answer") else { return };
    let serving = network.serve(Arc::default(), Limits::default().write_timeout(SHORT));
    network.client(async {
        let client = builder(Network::ADDRESS).request_timeout(HANG).connect().await.unwrap();
        // More than the buffers of two sockets hold.
        let key = "k".repeat(1000);
        let samples = (0..20_000).map(|at| Sample::new(&*key, 1.0, at).unwrap());
        with_timeout(client.put_all(samples.collect::<Vec<_>>())).await.unwrap();
        drop(client);
        until(|| connections(&serving) == 0).await;

        let client = builder(Network::ADDRESS).connect_lazy().unwrap();
        let mut samples = client.stream("*").await.unwrap();
        samples.next().await.unwrap().unwrap();
        network.swallow(Way::ToClient);
        let error = with_timeout(async {
            loop {
                if let Err(error) = samples.next().await.expect("it has not come to its end") {
                    break error;
                }
            }
        })
        .await;
        assert!(is_late(&error), "{error:?}");
        until(|| connections(&serving) == 0).await;
    });
}

#[test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
fn server_crash_without_reset_is_unnoticed_by_calls() {
    for retry in [true, false] {
        let Some(network) = Network::new("a server that loses power") else { return };
        let _first = network.serve(Arc::default(), Limits::default());
        network.client(async {
            let builder = MetricsClient::builder(Network::ADDRESS).resend_unacknowledged(retry);
            let client = builder.connect().await.unwrap();
            client.put_at("a", 1.0, 1).await.unwrap();
            network.replace_server();
            let store = Arc::new(MemoryStore::new());
            let _second = network.serve(Arc::clone(&store), Limits::default());
            match with_timeout(client.put_at("a", 2.0, 2)).await {
                Ok(()) => assert!(retry),
                Err(error) => assert!(!retry && is_reset(&error), "{error:?}"),
            }
            assert_eq!(stored(&store, "a").await, usize::from(retry));
            assert_eq!(works_again(&client).await, 0);
            drop(client);
        });
    }
}

#[test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
fn tiny_segments_carry_everything() {
    let Some(network) = Network::new("small segments") else { return };
    network.on_both_hosts("link set eth mtu 68");
    let _serving = network.serve(Arc::default(), Limits::default());
    network.client(async {
        let client = MetricsClient::builder(Network::ADDRESS).pipelining(Pipelining::On);
        let client = client.connect().await.unwrap();
        let samples = (0..1000).map(|at| Sample::new("a", 1.0, at).unwrap());
        with_timeout(client.put_all(samples.collect::<Vec<_>>())).await.unwrap();
        let metrics = with_timeout(client.get_all()).await.unwrap();
        assert!(metrics.points("a").iter().map(|point| point.timestamp).eq(0..1000));
    });
}

#[test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
fn tcp_self_connect_is_rejected() {
    let Some(network) = Network::new("a dial from the port that it goes to") else { return };
    const PORT: u16 = 40_000;
    network.dial_from(PORT);
    network.client(async {
        let error = MetricsClient::connect(format!("127.0.0.1:{PORT}")).await.unwrap_err();
        let Error::Connect { source: cause, .. } = error else { panic!("{error:?}") };
        assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);
    });
}
