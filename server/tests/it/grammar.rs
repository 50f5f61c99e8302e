//! Valid and invalid requests, and their answers.

use super::{Running, WRONG_COMMAND};

#[tokio::test]
async fn examples_of_the_protocol() {
    let mut peer = Running::start().await.connect().await;
    peer.ask("put palm.cpu 23.7 1150864247\n", "ok\n\n").await;
    peer.ask("put palm.cpu 2.0 1150864247\n", "ok\n\n").await;
    peer.ask("put palm.cpu 0.5 1150864248\n", "ok\n\n").await;
    peer.ask("put eardrum.cpu 3.0 1150864250\n", "ok\n\n").await;
    let palm = "palm.cpu 2.0 1150864247\npalm.cpu 0.5 1150864248\n";
    peer.ask("get palm.cpu\n", &format!("ok\n{palm}\n")).await;
    peer.ask("get *\n", &format!("ok\n{palm}eardrum.cpu 3.0 1150864250\n\n")).await;
    peer.ask("get no.such.key\n", "ok\n\n").await;
    peer.ask("got test_key\n", WRONG_COMMAND).await;
}

#[tokio::test]
async fn get_all_of_an_empty_store() {
    Running::start().await.connect().await.ask("get *\n", "ok\n\n").await;
}

#[tokio::test]
async fn order_of_keys_and_points() {
    let running = Running::start().await;
    let mut peer = running.connect().await;
    for put in ["b 1 30", "a 1 5", "b 2 -10", "b 3 20", "a 9 4", "b 4 30", "b 5 0"] {
        peer.ask(format!("put {put}\n"), "ok\n\n").await;
    }
    let mut other = running.connect().await;
    other.ask("get *\n", "ok\nb 2.0 -10\nb 5.0 0\nb 3.0 20\nb 4.0 30\na 9.0 4\na 1.0 5\n\n").await;
    other.ask("get a\n", "ok\na 9.0 4\na 1.0 5\n\n").await;
}

#[tokio::test]
async fn invalid_requests_are_rejected_and_store_nothing() {
    let running = Running::start().await;
    let mut peer = running.connect().await;
    let lines: &[&[u8]] = &[
        b"got test_key",
        b"PUT a 1 1",
        b"Get a",
        b"hello",
        b" PUT a 1 1",
        b"\xc2\xa0put a 1 1",
        b"put",
        b"put a",
        b"put a 1",
        b"put a 1 1 1",
        b"get",
        b"get ",
        b"get a b",
        b"get * *",
        b"put * 1 1",
        b"put a x 1",
        b"put a 1,5 1",
        b"put a nan 1",
        b"put a inf 1",
        b"put a -Infinity 1",
        b"put a 1e999 1",
        b"put a 1_0 1",
        "put a \u{661} 1".as_bytes(),
        b"put a 1 1.5",
        b"put a 1 1e3",
        b"put a 1 now",
        b"put a 1 9223372036854775808",
        b"put a 1 1_0",
        b"put a\x01 1 1",
        b"put a\x7f 1 1",
        "put a\u{a0}b 1 1".as_bytes(),
        b"put a\xff 1 1",
        b"get \xc3\x28",
        b"\xff\xfe",
        b"\0",
        b"put a\rb 1 1",
    ];
    for line in lines {
        let request = [line, b"\n".as_slice()].concat();
        peer.send(&request).await;
        let shown = String::from_utf8_lossy(line).into_owned();
        peer.expect(WRONG_COMMAND).await;
        peer.ask("get *\n", "ok\n\n").await;
        assert!(!shown.is_empty());
    }
    let too_long = "k".repeat(1025);
    peer.ask(format!("put {too_long} 1 1\n"), WRONG_COMMAND).await;
    peer.ask("get *\n", "ok\n\n").await;
    assert_eq!(running.monitor.stats().invalid_requests, lines.len() as u64 + 1);
}

#[tokio::test]
async fn blanks_and_carriage_returns_are_accepted() {
    let mut peer = Running::start().await.connect().await;
    for (at, put) in
        // FAULTS S14: blanks before the command, as both published references take them.
        [
            "put a 1 0\r\n",
            "put  a\t1 \t 1\n",
            "put a 1 2 \n",
            "put a 1 3\t \r\n",
            "put a 1.0 +4\n",
            " put a 1 5\n",
            "\t \tput\t\ta  1\t6\n",
        ]
        .into_iter()
        .enumerate()
    {
        peer.send(put).await;
        peer.expect("ok\n\n").await;
        peer.ask("get  a \r\n", &records("a", at + 1)).await;
    }
    peer.ask("get\t*\n", &records("a", 7)).await;
    peer.ask(" get *\n", &records("a", 7)).await;
}

fn records(key: &str, count: usize) -> String {
    let records: String = (0..count).map(|at| format!("{key} 1.0 {at}\n")).collect();
    format!("ok\n{records}\n")
}

#[tokio::test]
async fn empty_lines_are_ignored() {
    let mut peer = Running::start().await.connect().await;
    peer.ask("\n\r\n \nput a 1 1\n\n", "ok\n\n").await;
    peer.ask("get a\n\n", "ok\na 1.0 1\n\n").await;
}

#[tokio::test]
async fn values_are_formatted_as_in_python() {
    let mut peer = Running::start().await.connect().await;
    for (at, (sent, printed)) in [
        ("10", "10.0"),
        ("4.2e6", "4200000.0"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("1e16", "1e+16"),
        ("1E22", "1e+22"),
        ("-0.0", "-0.0"),
        ("+.5", "0.5"),
        ("123456789.125", "123456789.125"),
        ("0.1000000000000000055", "0.1"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
    ]
    .into_iter()
    .enumerate()
    {
        peer.ask(format!("put v{at} {sent} 0\n"), "ok\n\n").await;
        peer.ask(format!("get v{at}\n"), &format!("ok\nv{at} {printed} 0\n\n")).await;
    }
}

#[tokio::test]
async fn unusual_keys_and_extreme_timestamps_are_stored() {
    let mut peer = Running::start().await.connect().await;
    let longest = "k".repeat(1024);
    for key in ["ключ", "a;b=c", "**", "\u{1f600}", "put", "get", "ok", longest.as_str()] {
        for at in ["9223372036854775807", "-9223372036854775808", "0"] {
            peer.ask(format!("put {key} 1 {at}\n"), "ok\n\n").await;
        }
        let answer = format!(
            "ok\n{key} 1.0 -9223372036854775808\n{key} 1.0 0\n{key} 1.0 9223372036854775807\n\n"
        );
        peer.ask(format!("get {key}\n"), &answer).await;
    }
}
