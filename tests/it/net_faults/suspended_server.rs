//! A server process that is suspended, resumed, killed and restarted.

use std::{io, time::Duration};

use metrics_client::{Delivery, Error, MetricsClient, client::Pipelining, error::ConnectionError};
use tokio::{join, task::JoinSet, time};

use super::{
    SHORT, builder, is_late,
    server_process::{Port, ServerProcess},
    with_timeout, works_again,
};

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn server_suspended_briefly_is_only_slow() {
    let port = Port::reserve();
    let server = ServerProcess::start(port.address);
    let client = MetricsClient::connect(port.address).await.unwrap();
    client.put_at("a", 1.0, 1).await.unwrap();
    server.stop();
    let go_on = async {
        time::sleep(SHORT).await;
        server.go_on();
    };
    let (put, ()) = with_timeout(async { join!(client.put_at("a", 2.0, 2), go_on) }).await;
    put.unwrap();
    assert_eq!(client.stats().reconnects, 0);
}

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn server_suspended_long_fails_calls_in_time() {
    let port = Port::reserve();
    let server = ServerProcess::start(port.address);
    let client = builder(port.address).connect().await.unwrap();
    client.put_at("a", 1.0, 1).await.unwrap();
    server.stop();
    // On the connection there was, and on those that its kernel accepts and it does not.
    for second in 2..6 {
        let error = with_timeout(client.put_at("a", 1.0, second)).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
        let error = with_timeout(client.get("a")).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    }
    server.go_on();
    works_again(&client).await;
    let mut calls = JoinSet::new();
    for at in 0..100 {
        let (client, key) = (client.clone(), format!("key.{at}"));
        calls.spawn(async move {
            client.put_at(&key, 1.0, at).await.unwrap();
            let metrics = client.get(&*key).await.unwrap();
            assert_eq!(metrics.latest(&key).unwrap().timestamp, at);
        });
    }
    with_timeout(calls.join_all()).await;
}

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn server_killed_and_restarted_fails_no_call() {
    let port = Port::reserve();
    let server = ServerProcess::start(port.address);
    let client = MetricsClient::builder(port.address).pipelining(Pipelining::On).connect().await;
    let client = client.unwrap();
    client.put_at("lost", 1.0, 1).await.unwrap();
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let client = client.clone();
        callers.spawn(async move {
            for second in 0.. {
                client.put_at(format!("key.{caller}"), 1.0, second).await.unwrap();
                if client.stats().reconnects > 0 {
                    break;
                }
            }
        });
    }
    let restart = async {
        while client.stats().acknowledged < 1000 {
            time::sleep(Duration::from_millis(1)).await;
        }
        server.kill();
        ServerProcess::start(port.address)
    };
    let (_, _server) = with_timeout(async { join!(callers.join_all(), restart) }).await;
    let metrics = client.get_all().await.unwrap();
    // It keeps everything in memory, so what it had acknowledged went with it.
    assert!(metrics.points("lost").is_empty());
    assert!(!metrics.is_empty());
}

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn server_that_stays_down_is_named_as_the_cause() {
    let port = Port::reserve();
    let server = ServerProcess::start(port.address);
    let client = builder(port.address).connect().await.unwrap();
    client.put_at("a", 1.0, 1).await.unwrap();
    server.stop();
    let in_flight = client.put_at("a", 2.0, 2);
    let kill = async {
        while client.stats().in_flight == 0 {
            time::sleep(Duration::from_millis(1)).await;
        }
        server.kill();
    };
    let (error, ()) = with_timeout(async { join!(in_flight, kill) }).await;
    assert!(is_late(&error.unwrap_err()));
    let error = with_timeout(client.put_at("a", 3.0, 3)).await.unwrap_err();
    assert_eq!(error.delivery(), Delivery::NotSent);
    let Error::Timeout { source: Some(fault), .. } = &error else { panic!("{error:?}") };
    let ConnectionError::Connect { source: cause, .. } = &**fault else { panic!("{error:?}") };
    assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);

    let connected = MetricsClient::connect(port.address).await;
    assert!(matches!(connected, Err(Error::Connect { .. })), "{connected:?}");
    let stream = with_timeout(client.stream("*")).await;
    assert!(matches!(stream, Err(Error::Connect { .. })), "{stream:?}");

    let _server = ServerProcess::start(port.address);
    works_again(&client).await;
}
