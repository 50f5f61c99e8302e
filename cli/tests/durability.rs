//! A server that is killed loses nothing that it acknowledged.
//!
//! `METRICS_TEST_KILLS=100 cargo test -p metrics-cli --test durability` is the long form.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use metrics_client::MetricsClient;
use tokio::{sync::Semaphore, task::JoinSet};

/// How many clients put at the same time, each over a connection of its own.
const CLIENTS: usize = 4;

/// How many callers they have.
const CALLERS: usize = 16;

fn serve(dir: &Path) -> (Child, String) {
    let mut process = Command::new(assert_cmd::cargo::cargo_bin!("metrics"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data", dir.to_str().unwrap()])
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().nth(1).expect("it says where it serves");
    (process, address.rsplit('/').next().unwrap().to_owned())
}

/// Puts one second after the other until a put fails. Returns the last second that was acknowledged, and
/// the one that was not.
async fn put_until_killed(
    client: MetricsClient,
    acknowledged: Arc<Semaphore>,
    caller: usize,
    first: i64,
) -> (usize, i64) {
    let key = format!("caller{caller}");
    let mut second = first;
    while client.put_at(&key, value(caller, second), second).await.is_ok() {
        second += 1;
        acknowledged.add_permits(1);
    }
    (caller, second)
}

/// The value of a point says which one it is.
fn value(caller: usize, second: i64) -> f64 {
    second as f64 + caller as f64 / 64.0
}

#[tokio::test]
async fn killed_server_keeps_what_it_acknowledged() {
    let kills = env::var("METRICS_TEST_KILLS").map_or(4, |kills| kills.parse::<u32>().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut next = HashMap::<usize, i64>::new();
    for kill in 0..=kills {
        let (mut process, address) = serve(dir.path());
        let connect = || MetricsClient::builder(&address).resend_unacknowledged(false).connect();
        let metrics = connect().await.unwrap().get_all().await.unwrap();
        for (&caller, &end) in &next {
            let points = metrics.points(&format!("caller{caller}"));
            assert!(
                points.len() as i64 == end || points.len() as i64 == end + 1,
                "kill {kill}: caller {caller} has {} of {end} acknowledged points",
                points.len()
            );
            for (second, point) in points.iter().enumerate() {
                assert_eq!(
                    (point.timestamp, point.value),
                    (second as i64, value(caller, second as i64))
                );
            }
        }
        if kill == kills {
            process.kill().unwrap();
            process.wait().unwrap();
            break;
        }
        let mut callers = JoinSet::new();
        let acknowledged = Arc::new(Semaphore::new(0));
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(connect().await.unwrap());
        }
        for caller in 0..CALLERS {
            let first = next.get(&caller).copied().unwrap_or_default();
            callers.spawn(put_until_killed(
                clients[caller % CLIENTS].clone(),
                Arc::clone(&acknowledged),
                caller,
                first,
            ));
        }
        // The number of acknowledgements says when it is killed, not the time.
        acknowledged.acquire_many(fastrand::u32(1..2000)).await.unwrap().forget();
        process.kill().unwrap();
        process.wait().unwrap();
        while let Some(caller) = callers.join_next().await {
            let (caller, end) = caller.unwrap();
            next.insert(caller, end);
        }
    }
    let acknowledged = next.values().sum::<i64>();
    println!("{kills} kills, {acknowledged} acknowledged points, none lost");
    assert!(acknowledged > 0);
}
