//! File descriptors run out, in the client and in the server.

use std::{env, fs::File, net::SocketAddr};

use metrics_client::{Delivery, Error, MetricsClient, error::ConnectionError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time,
};

use super::{
    SHORT, builder, is_late,
    server_process::{Port, ServerProcess, end_with_parent},
    with_timeout, works_again,
};
use crate::child_test::child_test;

/// Tells the test that it is the process of its own which it needs; its value is the server.
const CHILD: &str = "METRICS_TEST_CHILD_ADDRESS";

/// What the kernel says to a process that has too many files open (`EMFILE`).
const TOO_MANY_FILES: i32 = 24;

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn client_out_of_descriptors_recovers() {
    let Ok(address) = env::var(CHILD) else {
        let port = Port::reserve();
        let _server = ServerProcess::start(port.address);
        let mut test = child_test(module_path!(), "client_out_of_descriptors_recovers");
        assert!(test.env(CHILD, port.address.to_string()).status().unwrap().success());
        return;
    };
    end_with_parent();
    let connected = MetricsClient::connect(&address).await.unwrap();
    let lazy = builder(address.parse().unwrap()).connect_lazy().unwrap();
    connected.put_at("a", 1.0, 1).await.unwrap();

    rlimit::setrlimit(rlimit::Resource::NOFILE, 64, 64).unwrap();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    match MetricsClient::connect(&address).await.unwrap_err() {
        Error::Connect { source: cause, .. } => {
            assert_eq!(cause.raw_os_error(), Some(TOO_MANY_FILES));
        }
        error => panic!("{error:?}"),
    }
    let error = lazy.put_at("a", 2.0, 2).await.unwrap_err();
    assert_eq!(error.delivery(), Delivery::NotSent);
    let Error::Timeout { source: Some(fault), .. } = &error else { panic!("{error:?}") };
    let ConnectionError::Connect { source: cause, .. } = &**fault else { panic!("{error:?}") };
    assert_eq!(cause.raw_os_error(), Some(TOO_MANY_FILES));
    match connected.stream("*").await.unwrap_err() {
        Error::Connect { source: cause, .. } => {
            assert_eq!(cause.raw_os_error(), Some(TOO_MANY_FILES));
        }
        error => panic!("{error:?}"),
    }
    // A client that is connected is not affected.
    connected.put_at("a", 3.0, 3).await.unwrap();
    assert_eq!(connected.stats().reconnects, 0);

    drop(files);
    works_again(&lazy).await;
    assert_eq!(connected.get("a").await.unwrap().points("a").len(), 2);
}

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn server_out_of_descriptors_keeps_serving() {
    const FILES: u64 = 40;
    let port = Port::reserve();
    let _server = ServerProcess::with_files(port.address, FILES);
    let client = MetricsClient::connect(port.address).await.unwrap();
    client.put_at("a", 1.0, 1).await.unwrap();
    // The kernel accepts them all.
    let mut others = Vec::new();
    for _ in 0..FILES {
        others.push(TcpStream::connect(port.address).await.unwrap());
    }
    let mut last = TcpStream::connect(port.address).await.unwrap();
    last.write_all(b"get a\n").await.unwrap();
    let mut answer = [0; 14];
    let waited = time::timeout(SHORT, last.read_exact(&mut answer)).await;
    assert!(waited.is_err(), "it was to have no descriptor left");
    for second in 2..100 {
        with_timeout(client.put_at("a", 1.0, second)).await.unwrap();
    }
    assert_eq!(client.stats().reconnects, 0);
    let waiting = builder(port.address).connect().await.unwrap();
    assert!(is_late(&with_timeout(waiting.put_at("b", 1.0, 1)).await.unwrap_err()));

    drop(others);
    works_again(&waiting).await;
    with_timeout(last.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, *b"ok\na 1.0 1\na 1");
}

// FAULTS S6
#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn server_with_few_descriptors_keeps_half_free() {
    const FILES: u64 = 120;
    let port = Port::reserve();
    let _server = ServerProcess::with_limits(port.address, FILES, FILES);
    let served = served_of(FILES as usize, port.address).await;
    assert!((20..=FILES as usize / 2).contains(&served.len()), "{} are served", served.len());
    // Another address has its half.
    let mut other = connect_from([127, 0, 0, 2], port.address).await;
    assert!(is_served(&mut other).await);
}

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn server_raises_its_soft_descriptor_limit() {
    const PEERS: usize = 200;
    let port = Port::reserve();
    let _server = ServerProcess::with_limits(port.address, 40, 1000);
    assert_eq!(served_of(PEERS, port.address).await.len(), PEERS);
}

/// Opens `peers` connections from one address, and returns those that the server serves.
async fn served_of(peers: usize, server: SocketAddr) -> Vec<TcpStream> {
    let mut served = Vec::new();
    for _ in 0..peers {
        let mut peer = connect_from([127, 0, 0, 1], server).await;
        if is_served(&mut peer).await {
            served.push(peer);
        }
    }
    served
}

async fn connect_from(from: [u8; 4], server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    with_timeout(socket.connect(server)).await.unwrap()
}

/// Whether it has an answer; otherwise it has its end.
async fn is_served(peer: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    peer.write_all(b"get a\n").await.is_ok()
        && with_timeout(peer.read_exact(&mut answer)).await.is_ok()
}
