//! Servers and networks that let the client down.

use std::time::Duration;

use metrics_client::{Error, Pipelining};
use tokio::{join, time::Instant};

use crate::peer::Network;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_call_behind_one_that_was_never_answered_keeps_its_own_deadline() {
    let (mut network, builder) = Network::new();
    let builder = builder.pipelining(Pipelining::Off).stall_timeout(60 * SECOND);
    let client = builder.request_timeout(5 * SECOND).connect().await.unwrap();
    let mut peer = network.accept().await;

    let (first, ()) = join!(client.put_at("a", 1.0, 1), peer.expect("put a 1.0 1\n"));
    assert!(matches!(first, Err(Error::Timeout { .. })), "{first:?}");

    let asked = Instant::now();
    let second = client.put_at("a", 2.0, 2).await;
    assert!(matches!(second, Err(Error::Timeout { .. })), "{second:?}");
    assert!(asked.elapsed() < 6 * SECOND, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_noticed_before_a_later_deadline() {
    let (mut network, builder) = Network::new();
    let builder = builder.pipelining(Pipelining::Off).stall_timeout(SECOND);
    let client = builder.request_timeout(60 * SECOND).connect().await.unwrap();
    let mut peer = network.accept().await;

    let asked = Instant::now();
    let server = async {
        peer.expect("put a 1.0 1\n").await;
        network.accept().await.answer("put a 1.0 1\n", "ok\n\n").await;
    };
    let (put, ()) = join!(client.put_at("a", 1.0, 1), server);
    put.unwrap();
    assert!(asked.elapsed() < 2 * SECOND, "{:?}", asked.elapsed());
}
