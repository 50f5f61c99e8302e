//! Listening addresses.

// FAULTS S14

use std::net::SocketAddr;

use metrics_server::Server;
use tokio::net::{TcpListener, TcpStream, lookup_host};

use super::{Peer, Running};

fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn every_address_of_a_name_is_served_on_one_port() {
    let server = Server::bind("localhost:0").await.unwrap();
    let listening = server.local_addrs().to_vec();
    assert_eq!(listening[0], server.local_addr());
    let running = Running::serve(server);
    for mut addr in lookup_host("localhost:0").await.unwrap() {
        if TcpListener::bind(addr).await.is_err() {
            // This machine has no such family.
            continue;
        }
        addr.set_port(running.addr.port());
        assert!(listening.contains(&addr), "{addr} is not among {listening:?}");
        let io = TcpStream::connect(addr).await.unwrap();
        Peer::new(io).ask("put a 1 1\n", "ok\n\n").await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn several_addresses_are_served_absent_ones_skipped() {
    // One of TEST-NET-1 (RFC 5737), which no machine has.
    let all = addrs(&["192.0.2.1:0", "127.0.0.1:0", "127.0.0.2:0", "127.0.0.1:0"]);
    let server = Server::bind(&all[..]).await.unwrap();
    let port = server.local_addr().port();
    let expected = ["127.0.0.1", "127.0.0.2"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
    assert_eq!(server.local_addrs(), expected);
    let _running = Running::serve(server);
    for addr in expected {
        for _ in 0..3 {
            let io = TcpStream::connect(addr).await.unwrap();
            Peer::new(io).ask("get none\n", "ok\n\n").await;
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn address_in_use_is_an_error_beside_a_free_one() {
    let taken = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let both = addrs(&[&format!("127.0.0.1:{port}"), &format!("127.0.0.2:{port}")]);
    let error = Server::bind(&both[..]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let absent = addrs(&["192.0.2.1:0"]);
    let error = Server::bind(&absent[..]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
}
