//! Random puts, answers, faults of the disk and restarts: the counters add up at every step, and what arrived last for a
//! key and second is what was put last.

use std::collections::BTreeMap;

use fastrand::Rng;
use metrics_wal::testing::Fault;

use super::*;

/// What a destination has for a key and second.
type LastValues = BTreeMap<(String, i64), f64>;

fn apply(points: &mut LastValues, rows: impl IntoIterator<Item = PutRow>) {
    for (key, second, value) in rows {
        points.insert((key, second), value);
    }
}

async fn scenario(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let fs = FaultyFs::with_seed(seed);
    let spill_after = SECOND * rng.u32(0..2);
    let setup = Setup { spill_after, max_queue_bytes: 256 * 1024, ..Setup::default() };
    let mut running = setup.clone().start(&fs);
    let (mut put, mut arrived) = (LastValues::new(), LastValues::new());
    let mut version = 0.0;
    for _ in 0..60 {
        match rng.u32(0..12) {
            0..=4 => {
                let rows: Vec<_> = (0..rng.i64(1..50))
                    .map(|_| {
                        version += 1.0;
                        (["a", "b", "c"][rng.usize(0..3)], rng.i64(0..5), version)
                    })
                    .collect();
                running.put_rows(rows.iter().copied());
                apply(&mut put, rows.into_iter().map(|(key, at, v)| (key.to_owned(), at, v)));
            }
            5..=7 => {
                if let Ok(Some(request)) = timeout(SECOND, running.requests.recv()).await {
                    let len = request.rows.len();
                    match rng.u32(0..3) {
                        0 => apply(&mut arrived, request.accept()),
                        1 => {
                            // More was executed than was acknowledged.
                            let settled = rng.usize(0..len);
                            let executed = rng.usize(settled..=len);
                            apply(&mut arrived, request.fail_after(settled).drain(..executed));
                        }
                        _ => apply(&mut arrived, request.fail_after(0)),
                    }
                }
            }
            8 => running.wait(SECOND * rng.u32(0..3)).await,
            9 => {
                let path = ["/spool", "position"][rng.usize(0..2)];
                fs.set_fault(Fault::On { path, kind: std::io::ErrorKind::StorageFull });
            }
            10 => fs.set_fault(Fault::None),
            _ => {
                fs.set_fault(Fault::None);
                running.relay.close().await;
                let stats = running.stats();
                assert_eq!((stats.waiting, stats.dropped.total()), (0, 0), "{stats:?}");
                while let Ok(request) = running.requests.try_recv() {
                    apply(&mut arrived, request.rows);
                }
                drop(running);
                running = setup.clone().start(&fs);
                assert_eq!(running.stats().recovered, stats.spooled);
            }
        }
        running.stats();
    }
    fs.set_fault(Fault::None);
    apply(&mut arrived, running.accept_all().await);
    assert_eq!(running.stats().dropped.total(), 0);
    assert_eq!(arrived, put);
}

#[tokio::test(start_paused = true)]
async fn destination_has_what_was_put_last() {
    for seed in 0..100 {
        eprintln!("seed {seed}");
        scenario(seed).await;
    }
}
