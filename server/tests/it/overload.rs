//! Many peers, slow peers, peers over a limit, and shutdown.

use std::{sync::Arc, time::Duration};

use metrics_client::{Key, Point};
use metrics_server::{Limits, MemoryStore, Server, Store, store::PutBatch};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Running, WRONG_COMMAND};

/// Passes only if a test hangs.
const AGES: Duration = Duration::from_secs(120);

#[tokio::test]
async fn slow_reader_sees_a_snapshot_and_blocks_no_put() {
    const KEYS: usize = 100;
    const POINTS: i64 = 10_000;
    let store = Arc::new(MemoryStore::new());
    let mut puts = PutBatch::new();
    for key in 0..KEYS {
        let key = Key::new(format!("key.{key}")).unwrap();
        (0..POINTS).for_each(|at| puts.push(&key, Point::new(1.0, at)));
    }
    store.apply(&puts).await.unwrap();
    // The reader must not time out, however long the writer takes.
    let limits = Limits::default().write_timeout(10 * AGES);
    let server = Server::bind("127.0.0.1:0").await.unwrap().store(store).limits(limits);
    let running = Running::serve(server);

    // Some 17 MB, more than the buffers of two sockets hold.
    let mut slow = running.connect().await;
    slow.send("get *\n").await;
    slow.expect("ok\nkey.0 1.0 0\n").await;

    // Overwrites all that the slow reader has not read, and more.
    let mut writer = running.connect().await;
    for key in 0..KEYS {
        let puts: String = (0..POINTS + 1).map(|at| format!("put key.{key} 2.0 {at}\n")).collect();
        let write = async {
            let (mut answers, mut requests) = writer.io.split();
            let mut got = vec![0; 4 * (POINTS as usize + 1)];
            let (written, read) =
                tokio::join!(requests.write_all(puts.as_bytes()), answers.read_exact(&mut got));
            (written.unwrap(), read.unwrap())
        };
        timeout(AGES, write).await.expect("a slow reader blocks a writer");
    }
    writer
        .ask(
            "get key.99\n",
            &(0..POINTS + 1)
                .fold("ok\n".into(), |text: String, at| text + &format!("key.99 2.0 {at}\n"))
                .add_line(),
        )
        .await;

    let mut rest = String::new();
    for key in 0..KEYS {
        for at in 0..POINTS {
            if (key, at) != (0, 0) {
                rest += &format!("key.{key} 1.0 {at}\n");
            }
        }
    }
    timeout(AGES, slow.expect(&rest.add_line())).await.unwrap();
}

trait AddLine {
    fn add_line(self) -> Self;
}

impl AddLine for String {
    fn add_line(mut self) -> Self {
        self.push('\n');
        self
    }
}

#[tokio::test]
async fn two_thousand_idle_connections_are_served() {
    const IDLE: usize = 2000;
    const NEEDED: u64 = 2 * IDLE as u64 + 200;
    let allowed = rlimit::increase_nofile_limit(NEEDED).unwrap_or(0);
    if allowed < NEEDED {
        eprintln!("SKIPPED: this takes {NEEDED} file descriptors, and only {allowed} are allowed");
        return;
    }
    let running = Running::start().await;
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(running.connect().await);
    }
    let mut peer = running.connect().await;
    for at in 0..100 {
        timeout(AGES, peer.ask(format!("put a 1 {at}\n"), "ok\n\n")).await.unwrap();
    }
    for peer in &mut idle {
        peer.send("get none\n").await;
    }
    for peer in &mut idle {
        peer.expect("ok\n\n").await;
    }
    assert_eq!(running.monitor.stats().connections, IDLE as u64 + 1);
}

#[tokio::test]
async fn line_of_100_mb_is_rejected_beside_other_peers() {
    let running = Running::start().await;
    let mut huge = TcpStream::connect(running.addr).await.unwrap();
    let flood = tokio::spawn(async move {
        huge.write_all(b"put a 1 1\nput ").await.unwrap();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..100 {
            huge.write_all(&piece).await.unwrap();
        }
        let mut answers = String::new();
        huge.read_to_string(&mut answers).await.unwrap();
        answers
    });
    let mut peer = running.connect().await;
    for at in 0..50 {
        peer.ask(format!("put b 1 {at}\n"), "ok\n\n").await;
    }
    let answers = timeout(AGES, flood).await.unwrap().unwrap();
    assert_eq!(answers, format!("ok\n\n{WRONG_COMMAND}"));
}

#[tokio::test]
async fn connection_over_the_limit_is_closed() {
    let running = Running::with(Limits::default().max_connections(2)).await;
    let (mut first, mut second) = (running.connect().await, running.connect().await);
    first.ask("put a 1 1\n", "ok\n\n").await;
    second.ask("get a\n", "ok\na 1.0 1\n\n").await;
    let mut third = running.connect().await;
    assert_eq!(third.rest().await, "");
    assert_eq!(running.monitor.stats().rejected_connections, 1);
    first.ask("get a\n", "ok\na 1.0 1\n\n").await;
}

#[tokio::test]
async fn shutdown_answers_what_was_read() {
    let Running { addr, monitor, stop, serving, dir: _dir } = Running::start().await;
    let mut busy = TcpStream::connect(addr).await.unwrap();
    let mut idle = TcpStream::connect(addr).await.unwrap();
    idle.write_all(b"get a\n").await.unwrap();
    idle.read_exact(&mut [0; 4]).await.unwrap();
    busy.write_all(&b"put a 1 1\n".repeat(1000)).await.unwrap();
    let mut first = [0; 4];
    busy.read_exact(&mut first).await.unwrap();
    stop.send(()).unwrap();
    // Each connection ends in an orderly way, without a reset.
    let mut answers = Vec::new();
    busy.read_to_end(&mut answers).await.unwrap();
    assert!(answers.chunks(4).all(|answer| answer == b"ok\n\n"));
    assert_eq!(monitor.stats().puts, answers.len() as u64 / 4 + 1);
    assert_eq!(idle.read(&mut first).await.unwrap(), 0);
    drop((busy, idle));
    timeout(AGES, serving).await.unwrap().unwrap();
    assert_eq!(monitor.stats().connections, 0);
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn port_can_be_bound_again_at_once() {
    let first = Running::start().await;
    let mut peer = first.connect().await;
    peer.ask("put a 1 1\n", "ok\n\n").await;
    first.stop.send(()).unwrap();
    first.serving.await.unwrap();
    let second = Running::serve(Server::bind(first.addr).await.unwrap());
    second.connect().await.ask("get a\n", "ok\n\n").await;
}

#[tokio::test]
async fn bind_to_a_used_port_fails() {
    let running = Running::start().await;
    let error = Server::bind(running.addr).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}
