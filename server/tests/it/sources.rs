//! The source of each batch of puts, by which a busy store divides its time.

use std::{
    future::pending,
    net::{IpAddr, Ipv4Addr},
};

use metrics_server::{
    MemoryStore,
    graphite::GraphiteListener,
    http::{Access, HttpServer},
    store::{Applied, Subscription, Tee},
};
use tokio::net::UdpSocket;

use super::*;

async fn next_source(subscription: &mut Subscription) -> Option<IpAddr> {
    match subscription.next().await {
        Some(Applied::Puts(puts)) => puts.source(),
        other => panic!("{other:?}"),
    }
}

async fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.unwrap()
}

#[tokio::test]
async fn source_of_puts_is_the_address_of_the_peer() {
    let store = Tee::new(Arc::new(MemoryStore::new()), 16);
    let mut applied = store.subscribe();
    let local = Some(IpAddr::from(Ipv4Addr::LOCALHOST));

    let running = Running::serve(Server::bind("127.0.0.1:0").await.unwrap().store(store.clone()));
    let mut peer = running.connect().await;
    for _ in 0..2 {
        peer.ask("put a 1 1\n", "ok\n\n").await;
        assert_eq!(next_source(&mut applied).await, local);
    }

    let http = HttpServer::bind("127.0.0.1:0", store.clone(), Access::Loopback).await.unwrap();
    let addr = http.local_addr();
    let http = tokio::spawn(http.influx().serve_until(pending()));
    let mut peer = connect(addr).await;
    for path in ["/write?db=a", "/api/v2/write?bucket=a"] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\na v=1 100"
        );
        peer.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(next_source(&mut applied).await, local);
    }

    let graphite = GraphiteListener::bind("127.0.0.1:0").await.unwrap().store(store);
    let addr = graphite.local_addr();
    let graphite = tokio::spawn(graphite.serve_until(pending()));
    connect(addr).await.write_all(b"a 1 100\n").await.unwrap();
    assert_eq!(next_source(&mut applied).await, local);
    // The address of a datagram can be forged.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"a 1 100\n", addr).await.unwrap();
    assert_eq!(next_source(&mut applied).await, None);

    http.abort();
    graphite.abort();
}
