//! What a flush waits for, as plain state.

use super::*;
use crate::client::WhenFull;

fn outbox(when_full: WhenFull) -> Outbox {
    Outbox::new(QueueLimits { samples: 100, bytes: 1 << 20, when_full })
}

fn sample(key: &str, value: f64, second: i64) -> Sample {
    Sample::new(key, value, second).unwrap()
}

fn taken(outbox: &mut Outbox) -> Vec<Sample> {
    let mut batch = Vec::new();
    assert!(outbox.take(100, false, &mut batch));
    batch
}

fn acknowledged(samples: u64) -> Settled {
    Settled { acknowledged: samples, ..Settled::default() }
}

#[track_caller]
fn assert_waits(outbox: &Outbox, mark: &Mark) {
    let flushed = outbox.poll_flushed(mark);
    assert!(flushed.is_pending(), "{flushed:?} {:?}", outbox.stats());
}

#[test]
fn flush_waits_for_sample_before_a_coalesced_one() {
    let mut outbox = outbox(WhenFull::Coalesce);
    let _ = outbox.record(sample("a", 1.0, 1));
    let (mark, _) = outbox.begin_flush();
    let _ = outbox.record(sample("b", 1.0, 1));
    let batch = taken(&mut outbox);
    let _ = outbox.record(sample("b", 2.0, 1));
    // The connection is cut, and nothing has an outcome.
    outbox.settle(Settled::default(), batch.into_iter(), None);
    assert_eq!(outbox.stats().coalesced, 1);
    assert_waits(&outbox, &mark);
    let batch = taken(&mut outbox);
    assert_waits(&outbox, &mark);
    outbox.settle(acknowledged(batch.len() as u64), [].into_iter(), None);
    assert!(matches!(outbox.poll_flushed(&mark), Poll::Ready(Ok(()))));
}

#[cfg(feature = "spool")]
mod with_a_spool {
    use super::*;
    use crate::spool::SpoolStats;

    #[test]
    fn flush_waits_for_held_back_sample() {
        let mut outbox = outbox(WhenFull::DropOldest);
        outbox.spool_opened(
            SpoolStats { recovered: 1, waiting: 1, ..SpoolStats::default() },
            Some(5),
        );
        let _ = outbox.record(sample("a", 1.0, 5));
        let (mark, _) = outbox.begin_flush();
        let _ = outbox.record(sample("b", 1.0, 6));
        assert_eq!(taken(&mut outbox), [sample("b", 1.0, 6)]);
        outbox.settle(acknowledged(1), [].into_iter(), None);
        outbox.replayed(
            acknowledged(1),
            SpoolStats { recovered: 1, replayed: 1, ..SpoolStats::default() },
            true,
        );
        assert_waits(&outbox, &mark);
        assert_eq!(taken(&mut outbox), [sample("a", 1.0, 5)]);
        assert_waits(&outbox, &mark);
        outbox.settle(acknowledged(1), [].into_iter(), None);
        assert!(matches!(outbox.poll_flushed(&mark), Poll::Ready(Ok(()))));
    }

    #[test]
    fn flush_counts_samples_that_the_spool_lost() {
        let mut outbox = outbox(WhenFull::DropOldest);
        let before =
            SpoolStats { recovered: 9, dropped: 2, lost: 1, waiting: 6, ..SpoolStats::default() };
        outbox.spool_opened(before, Some(5));
        let (mark, _) = outbox.begin_flush();
        let after = SpoolStats { dropped: 4, lost: 4, waiting: 0, replayed: 1, ..before };
        outbox.replayed(acknowledged(1), after, true);
        let flushed = outbox.poll_flushed(&mark);
        assert!(matches!(&flushed, Poll::Ready(Err(FlushError { dropped: 5, .. }))), "{flushed:?}");
        let (later, _) = outbox.begin_flush();
        assert!(matches!(outbox.poll_flushed(&later), Poll::Ready(Ok(()))));
    }
}
