//! Many requests in one write, and one request in many.

use tokio::io::AsyncReadExt;

use super::{Running, WRONG_COMMAND};

const TALK: &str = "put a 1 1\r\nget a\n\ngot a\nput ключ 2 -2 \nget *\nget none\n";
const ANSWERS: &str =
    "ok\n\nok\na 1.0 1\n\nerror\nwrong command\n\nok\n\nok\na 1.0 1\nключ 2.0 -2\n\nok\n\n";

#[tokio::test]
async fn requests_are_framed_across_two_writes() {
    for at in 1..TALK.len() {
        let mut peer = Running::start().await.connect().await;
        let (first, second) = TALK.as_bytes().split_at(at);
        peer.send(first).await;
        // Complete requests must be answered without waiting for the rest.
        let whole = first.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let answered = answers_to(&first[..whole]);
        peer.expect(&ANSWERS[..answered]).await;
        peer.send(second).await;
        peer.expect(&ANSWERS[answered..]).await;
    }
}

/// Returns the length of the answers to the first lines of [`TALK`].
fn answers_to(lines: &[u8]) -> usize {
    let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count();
    ANSWERS.match_indices("\n\n").take(lines).last().map_or(0, |(at, _)| at + 2)
}

#[tokio::test]
async fn requests_are_framed_byte_by_byte() {
    let mut peer = Running::start().await.connect().await;
    for byte in TALK.bytes() {
        peer.send([byte]).await;
        tokio::task::yield_now().await;
    }
    peer.expect(ANSWERS).await;
}

#[tokio::test]
async fn answers_to_one_read_are_sent_in_one_write() {
    let mut peer = Running::start().await.connect().await;
    peer.send(TALK).await;
    let mut got = vec![0; 4096];
    let read = peer.io.read(&mut got).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got[..read]), ANSWERS);
}

#[tokio::test]
async fn pipelining_probe_of_the_client_is_answered() {
    let mut peer = Running::start().await.connect().await;
    peer.send("get p.1\nget p.2\nget").await;
    peer.expect("ok\n\nok\n\n").await;
    peer.send(" p.3\n").await;
    peer.expect("ok\n\n").await;
}

#[tokio::test]
async fn ten_thousand_requests_are_answered_in_order() {
    let running = Running::start().await;
    let mut peer = running.connect().await;
    let (mut requests, mut answers) = (String::new(), String::new());
    for at in 0..10_000 {
        match at % 10 {
            7 => {
                requests += &format!("get key.{}\n", at - 1);
                answers += &format!("ok\nkey.{} 0.25 {}\n\n", at - 1, at - 1);
            }
            8 => {
                requests += "nonsense\n";
                answers += WRONG_COMMAND;
            }
            _ => {
                requests += &format!("put key.{at} 0.25 {at}\n");
                answers += "ok\n\n";
            }
        }
    }
    // Written in full before anything is read.
    peer.send(requests).await;
    peer.expect(&answers).await;
    let stats = running.monitor.stats();
    assert_eq!((stats.puts, stats.gets, stats.invalid_requests), (8000, 1000, 1000));
}

#[tokio::test]
async fn get_sees_earlier_puts_and_no_later_ones() {
    let mut peer = Running::start().await.connect().await;
    peer.send("put a 1 1\nget a\nput a 2 1\nput a 3 2\nget a\nput a 4 1\n").await;
    peer.expect("ok\n\nok\na 1.0 1\n\nok\n\nok\n\nok\na 2.0 1\na 3.0 2\n\nok\n\n").await;
}
