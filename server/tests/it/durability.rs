//! A server on a `DiskStore`: restarted, and killed.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use metrics_client::Selector;
use metrics_server::{
    Server, Store,
    store::{DiskStore, Snapshot},
};

use super::Running;

#[tokio::test]
async fn restarted_server_has_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let store = Arc::new(DiskStore::open(dir.path()).await.unwrap());
        let server = Server::bind("127.0.0.1:0").await.unwrap().store(Arc::clone(&store));
        let running = Running::serve(server);
        let mut peer = running.connect().await;
        let before: String = (0..round).map(|second| format!("a 0.5 {second}\n")).collect();
        peer.ask("get *\n", &format!("ok\n{before}\n")).await;
        peer.ask(format!("put a 0.5 {round}\n"), "ok\n\n").await;
        running.stop.send(()).unwrap();
        running.serving.await.unwrap();
        store.close().await;
    }
}

/// The folder of the store, in the process that is killed.
const DIR: &str = "METRICS_TEST_CHILD_STORE";

/// Not a test: what a process does that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_server() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    // Small heads, so that it is killed while it writes blocks too.
    let store = DiskStore::builder().max_head_points(500).open(dir).await.unwrap();
    let server = Server::bind("127.0.0.1:0").await.unwrap().store(store);
    println!("\nlistening on {}", server.local_addr());
    server.serve().await;
}

const PEERS: usize = 4;

/// Kills a server under load. Returns how many puts of each peer were acknowledged.
fn kill_under_load(dir: &Path, first: [usize; PEERS], acks: usize) -> [usize; PEERS] {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "durability::child_server", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let addr = lines
        .map_while(Result::ok)
        .find_map(|line| Some(line.strip_prefix("listening on ")?.to_owned()))
        .expect("the server starts");
    let peers: Vec<_> = (0..PEERS)
        .map(|peer| {
            let (addr, mut second) = (addr.clone(), first[peer]);
            thread::spawn(move || {
                let mut io = TcpStream::connect(addr).unwrap();
                let mut acknowledged = second;
                loop {
                    // Some at once, and each second once again with its final value.
                    let puts: String = (second..second + 10)
                        .map(|at| format!("put key.{peer} 9 {at}\nput key.{peer} {at} {at}\n"))
                        .collect();
                    second += 10;
                    let mut answers = [0; 80];
                    if io.write_all(puts.as_bytes()).is_err()
                        || io.read_exact(&mut answers).is_err()
                    {
                        return acknowledged;
                    }
                    assert_eq!(&answers[..], b"ok\n\n".repeat(20));
                    acknowledged = second;
                    if peer == 0 && acknowledged - first[0] >= acks {
                        return acknowledged;
                    }
                }
            })
        })
        .collect();
    let mut peers = peers.into_iter();
    let mut acknowledged = [0; PEERS];
    // The first peer decides when.
    acknowledged[0] = peers.next().unwrap().join().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    for (peer, puts) in (1..).zip(peers) {
        acknowledged[peer] = puts.join().unwrap();
    }
    acknowledged
}

#[cfg(unix)]
#[tokio::test]
async fn killed_server_has_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = [0; PEERS];
    for kill in 0..5 {
        acknowledged = kill_under_load(dir.path(), acknowledged, 50 + 130 * kill);
        let store = DiskStore::open(dir.path()).await.unwrap();
        let snapshot = store.get(&Selector::All).await.unwrap();
        let metrics = snapshot.into_metrics().await.unwrap();
        for (peer, &acknowledged) in acknowledged.iter().enumerate() {
            let points = metrics.points(&format!("key.{peer}"));
            let stored: Vec<_> = points.iter().map(|p| (p.timestamp, p.value)).collect();
            assert!(stored.len() >= acknowledged, "{} of {acknowledged}", stored.len());
            let expected: Vec<_> = (0..acknowledged as i64).map(|at| (at, at as f64)).collect();
            assert_eq!(stored[..acknowledged], expected);
        }
        // What was not acknowledged may be stored; the next puts replace it.
        store.close().await;
    }
}
