//! Memory after a burst: FAULTS C18.

use super::{
    edge_cases::{Bench, settings},
    *,
};
use crate::client::pipeline::trim::{KEPT_CALLS, QUIET_TIME};

/// A bench whose pipeline has served this many puts at once.
fn after_burst(puts: usize) -> Bench {
    let mut bench = Bench::with(settings(), 4096);
    for _ in 0..puts {
        bench.put("palm.cpu");
    }
    serve(&mut bench);
    bench
}

fn serve(bench: &mut Bench) {
    loop {
        bench.take();
        let in_flight = bench.pipeline.in_flight();
        if in_flight == 0 {
            break;
        }
        let answers = [Responses::Acknowledgements(in_flight)];
        bench.pipeline.complete(answers, false, 0, bench.now, &mut Vec::new()).unwrap();
    }
}

/// The room for calls, and that for bytes.
fn room(bench: &Bench) -> (usize, usize) {
    let Pipeline { queue, waiters, wait_queue, .. } = &bench.pipeline;
    let calls = [queue.capacity(), waiters.capacity(), wait_queue.capacity()];
    (calls.into_iter().max().unwrap(), queue.buffer_len())
}

/// Lets the quiet time pass, with one put now and then.
fn quiet(bench: &mut Bench) {
    for _ in 0..10 {
        bench.now += QUIET_TIME / 10;
        bench.expire_and_trim();
        bench.put("palm.cpu");
        serve(bench);
    }
}

#[cfg_attr(miri, ignore = "takes minutes")]
#[test]
fn a_burst_is_forgotten_after_two_quiet_times() {
    let mut bench = after_burst(100_000);
    let (calls, bytes) = room(&bench);
    assert!(calls >= 65_536 && bytes >= 1024 * 1024, "{calls} calls, {bytes} bytes");
    quiet(&mut bench);
    quiet(&mut bench);
    let (calls, bytes) = room(&bench);
    assert!(calls <= 2 * KEPT_CALLS && bytes <= 256 * 1024, "{calls} calls, {bytes} bytes");
    assert_eq!(bench.pipeline.next_expiry(), None, "nothing is left to be done");
}

#[cfg_attr(miri, ignore = "takes minutes")]
#[test]
fn a_client_that_has_bursts_keeps_its_room() {
    let mut bench = after_burst(20_000);
    let before = room(&bench);
    for _ in 0..5 {
        bench.now += QUIET_TIME;
        bench.expire_and_trim();
        for _ in 0..20_000 {
            bench.put("palm.cpu");
        }
        serve(&mut bench);
    }
    assert_eq!(room(&bench), before);
}

#[cfg_attr(miri, ignore = "takes minutes")]
#[test]
fn a_call_in_flight_survives_the_trim() {
    let mut bench = Bench::with(settings(), 4096);
    let first = bench.put("first");
    for _ in 0..30_000 {
        bench.put("palm.cpu");
    }
    serve(&mut bench);
    assert_eq!(bench.outcome(first), Some(Outcome::Stored));
    let sent = bench.put("sent");
    assert_eq!(bench.take(), "put sent 0.5 7\n");
    let waiting = bench.put("waiting");
    for _ in 0..2 {
        bench.now += QUIET_TIME;
        bench.pipeline.trim(bench.now);
    }
    let later = bench.put("later");
    assert_eq!(bench.take(), "put waiting 0.5 7\nput later 0.5 7\n");
    bench.answer([Response::ok(), Response::Error("no".into())]);
    assert_eq!(bench.outcome(sent), Some(Outcome::Stored));
    assert_eq!(bench.outcome(waiting), Some(Outcome::Rejected("no".into())));
    // Their slots kept many others; one call that goes on does not.
    bench.now += QUIET_TIME;
    bench.pipeline.trim(bench.now);
    assert!(room(&bench).0 <= 2 * KEPT_CALLS);
    bench.answer([Response::ok()]);
    assert_eq!(bench.outcome(later), Some(Outcome::Stored));
}
