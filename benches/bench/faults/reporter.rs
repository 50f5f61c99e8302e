//! The reporter: A3 to A5, A20, A21.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use metrics_client::client::Pipelining;
use tokio::{
    runtime::Builder,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    Outcome,
    support::{
        Limits, MemoryStore, MetricsClient, Reporter, SECOND, Server, guard, lazy, memory, nowhere,
        peer, runtime, spool_dir, with_spool,
    },
};

pub(super) fn close_on_a_slow_server() -> Outcome {
    const ROUNDS: usize = 40;
    let puts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&puts);
    let addr = peer(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(2));
        Some(b"ok\n\n")
    })?;
    runtime()?.block_on(async {
        let (mut closed, mut unfinished) = (Vec::new(), 0);
        for _ in 0..ROUNDS {
            let reporter = Reporter::new(lazy(addr)?);
            (0..5000).for_each(|second| reporter.record_at("a", 1.0, second));
            let _ = reporter.close(SECOND / 5).await;
            unfinished += usize::from(reporter.stats().waiting > 0);
            closed.push(reporter);
        }
        // What the connections had taken.
        sleep(2 * SECOND).await;
        let sent = puts.load(Ordering::Relaxed);
        sleep(4 * SECOND).await;
        let late = puts.load(Ordering::Relaxed) - sent;
        Ok(format!(
            "samples wait in {unfinished} of {ROUNDS} closed reporters, {late} puts are sent more than 2 s later"
        ))
    })
}

/// A reporter with a spool, and a runtime whose only blocking thread is busy for this long.
fn busy_runtime(time: Duration) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).max_blocking_threads(1).enable_all().build()?;
    runtime.spawn(async move { spawn_blocking(move || thread::sleep(time)).await });
    Ok(runtime)
}

pub(super) fn close_with_a_busy_pool() -> Outcome {
    let mut times = Vec::new();
    for closes in [true, false] {
        let dir = tempfile::tempdir()?;
        let runtime = busy_runtime(12 * SECOND)?;
        let time = runtime.block_on(async {
            let builder = Reporter::builder(lazy(nowhere())?);
            let reporter = with_spool(builder, spool_dir(dir.path()))?;
            (0..10).for_each(|second| reporter.record_at("a", 1.0, second));
            let begin = Instant::now();
            if closes {
                let _ = reporter.close(SECOND).await;
            } else {
                drop(guard(&reporter, SECOND));
            }
            let stats = reporter.stats();
            Ok::<_, super::support::Failure>(format!(
                "{:.1} s ({} on disk, {} dropped)",
                begin.elapsed().as_secs_f64(),
                stats.spooled,
                stats.dropped.total()
            ))
        })?;
        runtime.shutdown_background();
        times.push(time);
    }
    Ok(format!("close(1 s): {}; guard of 1 s: {}", times[0], times[1]))
}

pub(super) fn live_samples_with_a_busy_pool() -> Outcome {
    const BUSY: Duration = Duration::from_secs(6);
    let dir = tempfile::tempdir()?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(1)
        .enable_all()
        .build()?;
    let servers = self::runtime()?;
    runtime.block_on(async {
        let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
        let addr = socket.local_addr()?;
        drop(socket);
        let client: MetricsClient = lazy(addr)?;
        let reporter = with_spool(Reporter::builder(client.clone()), spool_dir(dir.path()))?;
        (0..1000).for_each(|second| reporter.record_at("old", 1.0, second));
        while reporter.stats().spooled < 1000 {
            sleep(SECOND / 10).await;
        }
        let busy = spawn_blocking(|| thread::sleep(BUSY));
        servers.spawn(async move {
            let server = Server::bind(addr).await?.store(MemoryStore::new());
            server.limits(Limits::default()).serve_until(std::future::pending::<()>()).await;
            Ok::<(), std::io::Error>(())
        });
        // The client is connected again.
        while client.put_at("probe", 1.0, 1).await.is_err() {}
        let mut latest = Duration::ZERO;
        for second in 0..20 {
            let recorded = Instant::now();
            reporter.record_at("live", 1.0, second);
            let stored = async {
                while client
                    .get("live")
                    .await
                    .is_ok_and(|it| it.points("live").len() <= second as usize)
                {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            let _ = timeout(30 * SECOND, stored).await;
            latest = latest.max(recorded.elapsed());
            sleep(SECOND / 10).await;
        }
        busy.await?;
        Ok(format!("{:.2} s late at most", latest.as_secs_f64()))
    })
}

pub(super) fn acknowledged_during_close() -> Outcome {
    let puts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&puts);
    // Three answers, and then no more.
    let addr = peer(move |_| (count.fetch_add(1, Ordering::Relaxed) < 3).then_some(b"ok\n\n"))?;
    runtime()?.block_on(async {
        let builder = MetricsClient::builder(addr.to_string()).pipelining(Pipelining::On);
        let reporter = Reporter::new(builder.connect().await?);
        (0..4).for_each(|second| reporter.record_at("a", 1.0, second));
        let _ = reporter.close(SECOND).await;
        let stats = reporter.stats();
        Ok(format!(
            "3 of 4 answered: {} acknowledged, {} dropped",
            stats.acknowledged, stats.dropped.closed
        ))
    })
}

pub(super) fn guard_without_a_thread() -> Outcome {
    let addr = memory()?;
    let runtime = runtime()?;
    let reporter = runtime.block_on(async {
        let client = lazy(addr)?;
        client.put_at("a", 1.0, 1).await?;
        Ok::<_, super::support::Failure>(Reporter::new(client))
    })?;
    rlimit::setrlimit(rlimit::Resource::NPROC, 1, 1)?;
    if thread::Builder::new().spawn(|| ()).is_ok() {
        return Ok("skipped: the limit of threads is not for this user".into());
    }
    reporter.record_at("a", 1.0, 2);
    let begin = Instant::now();
    drop(guard(&reporter, 2 * SECOND));
    let stats = reporter.stats();
    Ok(format!(
        "{} stored, {} left, after {:?}",
        stats.acknowledged,
        stats.waiting,
        begin.elapsed()
    ))
}
