//! What a flush waits for, as plain state.

use super::*;
use crate::reporter::WhenFull;

fn outbox(when_full: WhenFull) -> Outbox {
    Outbox::new(Limits { samples: 100, bytes: 1 << 20, when_full })
}

fn sample(key: &str, value: f64, second: i64) -> Sample {
    Sample::new(key, value, second).unwrap()
}

#[cfg(feature = "spool")]
mod with_a_spool {
    use super::*;
    use crate::reporter::SpoolStats;

    #[test]
    fn a_flush_tells_of_what_the_spool_has_dropped_and_lost_meanwhile() {
        let mut outbox = outbox(WhenFull::DropOldest);
        let before =
            SpoolStats { recovered: 9, dropped: 2, lost: 1, waiting: 6, ..SpoolStats::default() };
        outbox.spool_opened(before, Some(5));
        let (mark, _) = outbox.begin_flush();
        let after = SpoolStats { dropped: 4, lost: 4, waiting: 0, replayed: 1, ..before };
        outbox.replayed(1, 0, after, true);
        let flushed = outbox.poll_flushed(&mark);
        assert!(matches!(&flushed, Poll::Ready(Err(Unsent { dropped: 5, .. }))), "{flushed:?}");
        let (later, _) = outbox.begin_flush();
        assert!(matches!(outbox.poll_flushed(&later), Poll::Ready(Ok(()))));
    }
}
