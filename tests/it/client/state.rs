//! The connection state as a value that cannot block the client.

use std::{sync::mpsc, time::Duration};

use metrics_client::{
    Delivery, Error, MetricsClient,
    client::{ConnectionState, ReconnectPolicy},
};
use tokio::join;

use crate::peer::{MockNetwork, with_timeout};

// FAULTS C2
#[tokio::test(start_paused = true)]
async fn call_during_a_state_match_does_not_deadlock() {
    let (network, builder) = MockNetwork::new();
    network.refuse(1_000_000);
    let client = builder.connect_lazy().unwrap();
    let put = match client.state() {
        ConnectionState::Closed => unreachable!("it has just been made"),
        _ => with_timeout(client.put("a", 1.0)).await,
    };
    assert!(matches!(put, Err(Error::Timeout { delivery: Delivery::NotSent, .. })), "{put:?}");
}

// FAULTS C2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_predicate_does_not_stop_the_driver() {
    let (ours, theirs) = tokio::io::duplex(64);
    let client = MetricsClient::builder("a pipe").reconnect(ReconnectPolicy::never()).with_io(ours);
    let (sender, closed) = mpsc::channel();
    let mut other = client.watch_state();
    tokio::spawn(async move {
        let _ = sender.send(other.wait_for(|state| state == ConnectionState::Closed).await);
    });
    let mut theirs = Some(theirs);
    let mut states = client.watch_state();
    // The first time it ends the connection, and comes back once the driver has noticed.
    let waiting = states.wait_for(|state| {
        let shown = format!("{state:?} {client:?}");
        if let Some(theirs) = theirs.take() {
            assert!(shown.starts_with("Connected"), "{shown}");
            drop(theirs);
            let told = closed.recv_timeout(Duration::from_secs(60));
            assert_eq!(told.expect("the driver is stopped"), Some(ConnectionState::Closed));
        }
        state == ConnectionState::Closed
    });
    assert_eq!(waiting.await, Some(ConnectionState::Closed));
}

#[tokio::test(start_paused = true)]
async fn watcher_ends_after_the_closed_state() {
    use ConnectionState::{Closed, Connected, Disconnected};

    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut states = client.watch_state();
    assert_eq!((states.get(), client.state()), (Connected, Connected));
    drop(network.accept().await);
    assert_eq!(with_timeout(states.changed()).await, Some(Disconnected));
    let server = async {
        let mut peer = network.accept().await;
        peer.answer("put a 1.0 1\n", "ok\n\n").await;
        peer
    };
    let (put, _peer) = join!(client.put_at("a", 1.0, 1), server);
    put.unwrap();
    // It was connecting too, which has passed.
    assert_eq!(with_timeout(states.changed()).await, Some(Connected));
    let mut late = states.clone();
    drop(client);
    assert_eq!(with_timeout(states.changed()).await, Some(Closed));
    assert_eq!(with_timeout(states.changed()).await, None);
    assert_eq!(with_timeout(late.wait_for(|state| state == Disconnected)).await, None);
    assert_eq!(format!("{late:?}"), "StateWatcher { state: Closed, .. }");
}
