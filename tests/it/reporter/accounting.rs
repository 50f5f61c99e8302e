//! Every sample is accounted for, with threads and a server over TCP.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use metrics_client::{
    MetricsClient, Reporter,
    client::{Pipelining, WhenFull},
};
use tokio::runtime;

use super::accounted;

const THREADS: usize = 8;
const RECORDS: usize = 20_000;
const LIMIT: Duration = Duration::from_secs(120);

/// Eight threads record more than may wait, of all kinds, while another takes snapshots: each adds up.
fn adds_up(policy: WhenFull) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || serve(listener));

    let runtime =
        runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let reporter = runtime.block_on(async {
        let client =
            MetricsClient::builder(address).pipelining(Pipelining::On).connect_lazy().unwrap();
        let reporter = Reporter::builder(client).capacity(10_000).when_full(policy);
        reporter.linger(Duration::from_millis(1)).start()
    });
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert!(accounted(&reporter).waiting <= 10_000);
            }
        });
        let recording: Vec<_> = (0..THREADS)
            .map(|thread| {
                let reporter = &reporter;
                scope.spawn(move || record(reporter, thread))
            })
            .collect();
        recording.into_iter().for_each(|thread| thread.join().unwrap());
        let before = reporter.stats();
        let flushed = runtime.block_on(reporter.flush(LIMIT));
        over.store(true, Ordering::Relaxed);
        // It reports what was rejected since it began, which is nothing if the sender was done by then.
        if let Err(unsent) = flushed {
            let rejected = reporter.stats().rejected - before.rejected;
            assert!(unsent.rejected <= rejected, "{unsent:?}, before {before:?}");
            assert!(unsent.waiting == 0 && unsent.rejected + unsent.dropped > 0, "{unsent:?}");
        }
    });
    let stats = accounted(&reporter);
    assert!(stats.rejected > 0, "{stats:?}");
    assert_eq!(stats.recorded, (THREADS * RECORDS) as u64);
    assert_eq!((stats.waiting, stats.waiting_bytes), (0, 0));
    assert_eq!(stats.dropped.invalid_key, (THREADS * RECORDS / 100) as u64);
    assert_eq!(stats.dropped.not_finite, (THREADS * RECORDS / 100) as u64);
    drop(reporter);
    drop(runtime);
    let (stored, refused) = server.join().unwrap();
    // A connection that is cut may have carried out what it did not acknowledge.
    assert!(stored >= stats.acknowledged, "{stored} of {stats:?}");
    assert!(refused >= stats.rejected, "{refused} of {stats:?}");
}

fn record(reporter: &Reporter, thread: usize) {
    let handle = reporter.series(format!("gauge{thread}")).unwrap();
    for number in 0..RECORDS {
        match number % 100 {
            0 => reporter.record("no key", 1.0),
            1 => reporter.record("a", f64::NAN),
            2 => reporter.record_at("no", 1.0, number as i64),
            3..50 => reporter.record_at(format!("key{}", number % 7), 1.0, number as i64 / 10),
            _ => handle.record_at(number as f64, number as i64 / 10),
        }
    }
}

/// Acknowledges all but the key `no`, and hangs up now and then. How much it has stored and refused.
fn serve(listener: TcpListener) -> (u64, u64) {
    let (mut stored, mut refused) = (0, 0);
    let mut connections = 0;
    loop {
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(LIMIT)).unwrap();
        connections += 1;
        let mut until_cut = if connections < 6 { 2_000 } else { usize::MAX };
        let mut requests = Vec::new();
        let mut some = vec![0; 64 * 1024];
        while until_cut > 0 {
            match peer.read(&mut some) {
                // The client has closed the connection, and not the server.
                Ok(0) | Err(_) => return (stored, refused),
                Ok(len) => requests.extend_from_slice(&some[..len]),
            }
            let mut answers = Vec::new();
            while let Some(end) = requests.iter().position(|&byte| byte == b'\n') {
                let request: Vec<u8> = requests.drain(..=end).collect();
                let is_refused = request.starts_with(b"put no ");
                *if is_refused { &mut refused } else { &mut stored } += 1;
                answers.extend_from_slice(if is_refused { b"error\nno\n\n" } else { b"ok\n\n" });
                until_cut = until_cut.saturating_sub(1);
            }
            peer.write_all(&answers).unwrap();
        }
    }
}

#[test]
fn accounting_adds_up_with_drop_oldest() {
    adds_up(WhenFull::DropOldest);
}

#[test]
fn accounting_adds_up_with_drop_newest() {
    adds_up(WhenFull::Fail);
}

#[test]
fn accounting_adds_up_with_coalescing() {
    adds_up(WhenFull::Coalesce);
}
