//! Requests with a timeout of their own.

use super::{
    edge_cases::{Bench, settings},
    *,
};

impl Bench {
    /// Puts `key` with a timeout of its own.
    fn put_within(&mut self, key: &str, timeout: Duration) -> WaiterId {
        let put = format!("put {key} 0.5 7\n");
        let encode = |bytes: &mut BytesMut| bytes.extend_from_slice(put.as_bytes());
        let (waker, timeout) = (Waker::noop().clone(), Some(CallTimeout::new(timeout)));
        let submitted = self.pipeline.submit(
            Admission::ByPolicy,
            RequestKind::Put,
            timeout,
            waker,
            self.now,
            encode,
        );
        let Ok(Submitted { waiter, driver }) = submitted else { panic!("refused") };
        driver.into_iter().for_each(Waker::wake);
        waiter
    }
}

const UNSENT: Option<Outcome> = Some(Outcome::Timeout(Delivery::NotSent));

#[test]
fn shorter_timeout_passes_before_earlier_deadlines() {
    let mut bench = Bench::with(settings(), 0);
    let (usual, short) = (bench.put("a"), bench.put_within("b", SECOND));
    assert_eq!(bench.expire(), Some(bench.now + SECOND));
    bench.now += SECOND;
    assert_eq!(bench.expire(), Some(bench.now + 4 * SECOND));
    assert_eq!((bench.outcome(usual), bench.outcome(short)), (None, UNSENT));
}

#[test]
fn longer_timeout_holds_up_no_later_deadline() {
    let mut bench = Bench::with(settings(), 0);
    let (long, usual) = (bench.put_within("a", 60 * SECOND), bench.put("b"));
    bench.now += 5 * SECOND;
    assert_eq!(bench.expire(), Some(bench.now + 55 * SECOND));
    assert_eq!((bench.outcome(long), bench.outcome(usual)), (None, UNSENT));
    bench.now += 55 * SECOND;
    assert_eq!(bench.expire(), None);
    assert_eq!(bench.outcome(long), UNSENT);
}

#[test]
fn timeouts_hold_in_the_line_before_a_full_queue() {
    let mut bench = Bench::with(Settings { max_buffered_bytes: 20, ..settings() }, 0);
    bench.put("a");
    let first = bench.put("b");
    let long = bench.put_within("c", 60 * SECOND);
    let usual = bench.put("d");
    let short = bench.put_within("e", SECOND);
    bench.now += SECOND;
    bench.expire();
    assert_eq!(bench.outcome(short), UNSENT);
    bench.now += 4 * SECOND;
    assert_eq!(bench.expire(), Some(bench.now + 55 * SECOND));
    assert_eq!((bench.outcome(first), bench.outcome(usual)), (UNSENT, UNSENT));
    assert_eq!(bench.outcome(long), None);
    // It was the last in line, and has moved up.
    bench.pipeline.set_window(1);
    assert_eq!(bench.take(), "put c 0.5 7\n");
}

#[test]
fn shorter_timeout_wakes_a_driver_that_cannot_send() {
    let mut bench = Bench::with(settings(), 0);
    bench.put("a");
    bench.park();
    bench.driver.was_woken();
    bench.put("b");
    assert!(!bench.driver.was_woken());
    bench.put_within("c", SECOND);
    assert!(bench.driver.was_woken());
}

#[test]
fn abort_ends_requests_with_their_own_timeout() {
    let mut bench = Bench::with(settings(), 0);
    let (long, usual) = (bench.put_within("a", 60 * SECOND), bench.put("b"));
    bench.pipeline.abort(&mut Vec::new());
    let closed = Some(Outcome::Closed(Delivery::NotSent));
    assert_eq!((bench.outcome(long), bench.outcome(usual)), (closed.clone(), closed));
    assert_eq!(bench.expire(), None);
}

#[test]
fn deadlines_of_answered_requests_take_no_room() {
    let mut bench = Bench::with(settings(), 1);
    let slow = bench.put_within("slow", 60 * SECOND);
    bench.take();
    bench.answer([Response::ok()]);
    for _ in 0..1000 {
        bench.put_within("a", 60 * SECOND);
        bench.take();
        bench.answer([Response::ok()]);
    }
    assert!(bench.pipeline.own_deadlines.capacity() < 16);
    assert_eq!(bench.outcome(slow), Some(Outcome::Stored));
    assert_eq!(bench.expire(), None);
}
