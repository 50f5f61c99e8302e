//! The last flush, with real time and real sockets: it has a thread and a runtime of its own.

use std::{
    future::pending,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    panic,
    sync::mpsc,
    thread,
    time::Duration,
};

use metrics_client::{MetricsClient, Reporter, client::Pipelining};
use tokio::{net::TcpStream, runtime};

use super::accounted;

/// Far more than it takes.
const LIMIT: Duration = Duration::from_secs(60);

/// A server on a runtime and a thread of its own, as long as the process lasts.
fn server() -> SocketAddr {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(metrics_server::Server::bind("127.0.0.1:0")).unwrap();
    let address = server.local_addr();
    thread::spawn(move || runtime.block_on(server.serve_until(pending())));
    address
}

fn stored(address: SocketAddr, key: &str) -> Vec<f64> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = MetricsClient::connect(address).await.unwrap();
        let metrics = client.get(key).await.unwrap();
        metrics.points(key).iter().map(|point| point.value).collect()
    })
}

/// Does the work on a thread, and panics if it never ends: a broken guard blocks its thread.
fn ends<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(work()));
    end.recv_timeout(LIMIT).expect("the guard never ends, or the work has panicked")
}

fn current_thread() -> runtime::Runtime {
    runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn guard_delivers_when_nothing_else_can_run() {
    let address = server();
    let reporter = current_thread().block_on(async {
        let reporter = Reporter::new(MetricsClient::connect(address).await.unwrap());
        let _guard = reporter.flush_on_drop(LIMIT);
        for second in 0..10_000 {
            reporter.record_at("a", second as f64, second);
        }
        reporter
    });
    assert_eq!(accounted(&reporter).acknowledged, 10_000);
    assert_eq!(stored(address, "a").len(), 10_000);
}

#[test]
fn guard_delivers_samples_in_flight() {
    let address = server();
    let reporter = current_thread().block_on(async {
        let reporter = Reporter::new(MetricsClient::connect(address).await.unwrap());
        let _guard = reporter.flush_on_drop(LIMIT);
        reporter.record_at("a", 1.0, 1);
        // The sender runs, and the response does not come before the guard is dropped.
        tokio::task::yield_now().await;
        reporter.record_at("a", 2.0, 2);
        reporter
    });
    assert_eq!(accounted(&reporter).acknowledged, 2);
    assert_eq!(stored(address, "a"), [1.0, 2.0]);
}

#[test]
fn guard_without_a_timeout_delivers() {
    let address = server();
    let reporter = current_thread().block_on(async {
        let reporter = Reporter::new(MetricsClient::connect(address).await.unwrap());
        let _guard = reporter.flush_on_drop(Duration::MAX);
        reporter.record_at("a", 1.0, 1);
        reporter
    });
    assert_eq!(accounted(&reporter).acknowledged, 1);
}

#[test]
fn guard_delivers_when_the_runtime_is_gone() {
    let address = server();
    let runtime = current_thread();
    let reporter =
        runtime.block_on(async { Reporter::new(MetricsClient::connect(address).await.unwrap()) });
    let guard = reporter.flush_on_drop(LIMIT);
    reporter.record_at("a", 1.0, 1);
    drop(runtime);
    reporter.record_at("a", 2.0, 2);
    drop(guard);
    assert_eq!(accounted(&reporter).acknowledged, 2);
    assert_eq!(stored(address, "a"), [1.0, 2.0]);
}

#[test]
fn guard_delivers_when_main_panics() {
    let address = server();
    let panicked = panic::catch_unwind(|| {
        current_thread().block_on(async {
            let reporter = Reporter::new(MetricsClient::connect(address).await.unwrap());
            let _guard = reporter.flush_on_drop(LIMIT);
            reporter.record_at("a", 1.0, 1);
            panic::resume_unwind(Box::new("as a panic would"));
        });
    });
    assert!(panicked.is_err());
    assert_eq!(stored(address, "a"), [1.0]);
}

#[test]
fn guard_delivers_from_the_only_worker() {
    let address = server();
    let runtime =
        runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let reporter = Reporter::new(MetricsClient::connect(address).await.unwrap());
        tokio::spawn(async move {
            let _guard = reporter.flush_on_drop(LIMIT);
            reporter.record_at("a", 1.0, 1);
        })
        .await
        .unwrap();
    });
    assert_eq!(stored(address, "a"), [1.0]);
}

/// The connection beside would not be served, so it is well that none is needed.
#[test]
fn guard_reuses_the_connection_of_a_live_runtime() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let mut puts = 0;
        while let Ok(len @ 1..) = peer.read(&mut request) {
            puts += 1;
            // All take longer than the guard waits for a sender that makes no progress.
            thread::sleep(Duration::from_millis(10));
            assert_eq!(request[..len].iter().filter(|&&byte| byte == b'\n').count(), 1);
            peer.write_all(b"ok\n\n").unwrap();
        }
        puts
    });
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap();
    let reporter = runtime.block_on(async {
        let client = MetricsClient::builder(address).pipelining(Pipelining::Off);
        let reporter = Reporter::new(client.connect().await.unwrap());
        let _guard = reporter.flush_on_drop(LIMIT);
        for second in 0..100 {
            reporter.record_at("a", 0.5, second);
        }
        reporter
    });
    assert_eq!(accounted(&reporter).acknowledged, 100);
    drop(reporter);
    drop(runtime);
    assert_eq!(server.join().unwrap(), 100);
}

#[test]
fn guard_gives_up_at_its_timeout() {
    // It accepts, and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reporter = ends(move || {
        current_thread().block_on(async {
            let reporter = Reporter::new(MetricsClient::connect(address).await.unwrap());
            let _guard = reporter.flush_on_drop(Duration::from_millis(200));
            reporter.record_at("a", 1.0, 1);
            reporter
        })
    });
    let stats = accounted(&reporter);
    assert_eq!((stats.acknowledged, stats.waiting), (0, 1));
}

/// The samples that the guard took are queued again, and can be sent.
#[test]
fn reporter_works_after_a_guard_that_gave_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    current_thread().block_on(async {
        let client = MetricsClient::builder(address).pipelining(Pipelining::On);
        let reporter = Reporter::new(client.connect().await.unwrap());
        let guard = reporter.flush_on_drop(Duration::from_millis(200));
        reporter.record_at("a", 1.0, 1);
        drop(guard);
        assert_eq!(accounted(&reporter).waiting, 1);
        // Now a server answers.
        thread::spawn(move || {
            for peer in listener.incoming() {
                let mut peer = peer.unwrap();
                thread::spawn(move || {
                    let mut request = [0; 1024];
                    while let Ok(1..) = peer.read(&mut request) {
                        peer.write_all(b"ok\n\n").unwrap();
                    }
                });
            }
        });
        reporter.flush(LIMIT).await.unwrap();
        assert_eq!(accounted(&reporter).acknowledged, 1);
    });
}

#[test]
fn guard_without_a_connector_does_not_wait() {
    let address = server();
    ends(move || {
        current_thread().block_on(async {
            let client = MetricsClient::from_io(TcpStream::connect(address).await.unwrap());
            let reporter = Reporter::new(client);
            let guard = reporter.flush_on_drop(Duration::MAX);
            reporter.record_at("a", 1.0, 1);
            drop(guard);
            assert_eq!(accounted(&reporter).waiting, 1);
            reporter.flush(LIMIT).await.unwrap();
        });
    });
    assert_eq!(stored(address, "a"), [1.0]);
}

#[test]
fn reporter_works_after_a_guard() {
    let address = server();
    current_thread().block_on(async {
        let reporter = Reporter::new(MetricsClient::connect(address).await.unwrap());
        let guard = reporter.flush_on_drop(LIMIT);
        reporter.record_at("a", 1.0, 1);
        tokio::task::yield_now().await;
        drop(guard);
        assert_eq!(accounted(&reporter).acknowledged, 1);
        reporter.record_at("a", 2.0, 2);
        reporter.flush(LIMIT).await.unwrap();
        assert_eq!(accounted(&reporter).acknowledged, 2);
    });
    assert_eq!(stored(address, "a"), [1.0, 2.0]);
}
