//! The cases that the queue's bookkeeping could get wrong, one by one.

use super::*;

#[test]
fn a_withdrawn_request_is_never_sent() {
    let mut bench = Bench::new(1);
    bench.put("a");
    let withdrawn = bench.put("b");
    bench.put("c");
    assert_eq!(bench.take(), "put a 0.5 7\n");
    bench.cancel(withdrawn);
    bench.answer([Response::ok()]);
    assert_eq!(bench.take(), "put c 0.5 7\n");
}

#[test]
fn the_answer_to_a_caller_who_left_goes_to_nobody() {
    let mut bench = Bench::new(2);
    let gone = bench.get("a");
    let here = bench.get("b");
    assert_eq!(bench.take(), "get a\nget b\n");
    bench.cancel(gone);
    // The place is taken until the answer has come.
    let next = bench.put("c");
    assert_eq!(bench.take(), "");
    bench.answer([Response::Error("to a".into())]);
    assert_eq!(bench.outcome(here), None);
    assert_eq!(bench.take(), "put c 0.5 7\n");
    bench.answer([Response::Error("to b".into()), Response::ok()]);
    assert_eq!(bench.outcome(here), Some(Outcome::Rejected("to b".into())));
    assert_eq!(bench.outcome(next), Some(Outcome::Stored));
}

#[test]
fn the_unsent_part_of_a_block_is_withdrawn_and_the_answers_to_the_rest_are_swallowed() {
    let mut bench = Bench::new(2);
    let batch = bench.batch(5);
    let get = bench.get("a");
    assert_eq!(bench.take(), "put k 0.5 0\nput k 0.5 1\n");
    bench.cancel(batch);
    assert_eq!(bench.stats().cancelled, 5);
    bench.answer([Response::ok()]);
    assert_eq!(bench.take(), "get a\n");
    bench.answer([Response::ok(), Response::Error("to a".into())]);
    assert_eq!(bench.outcome(get), Some(Outcome::Rejected("to a".into())));
    assert_eq!(bench.pipeline.queue.held_len(), 0);
}

#[test]
fn a_block_whose_sent_part_is_answered_can_be_withdrawn() {
    let mut bench = Bench::new(2);
    let batch = bench.batch(5);
    bench.take();
    bench.answer([Response::ok(), Response::ok()]);
    bench.cancel(batch);
    assert_eq!((bench.stats().acknowledged, bench.stats().cancelled), (2, 3));
    assert_eq!(bench.pipeline.queue.held_len(), 0);
    bench.get("a");
    assert_eq!(bench.take(), "get a\n");
}

#[test]
fn withdrawn_requests_take_no_room() {
    let mut bench = Bench::new(1);
    bench.put("first");
    bench.take();
    for _ in 0..1000 {
        let put = bench.put("withdrawn");
        bench.put("kept");
        bench.cancel(put);
        let last = bench.put("withdrawn");
        bench.cancel(last);
    }
    let kept = "put kept 0.5 7\n".repeat(1000);
    assert_eq!(bench.pipeline.queue.queued_bytes(), kept.len());
    assert!(bench.pipeline.queue.held_len() <= 2 * (kept.len() + "put first 0.5 7\n".len()));
    bench.pipeline.set_window(2000);
    assert_eq!(bench.take(), kept);
}

#[test]
fn a_half_sent_block_stays_whole_when_the_room_behind_it_is_given_back() {
    let mut bench = Bench::new(2);
    let batch = bench.batch(4);
    assert_eq!(bench.take(), "put k 0.5 0\nput k 0.5 1\n");
    let withdrawn = (0..20).map(|_| bench.put("withdrawn")).collect::<Vec<_>>();
    bench.put("a");
    withdrawn.into_iter().for_each(|put| bench.cancel(put));
    bench.answer([Response::ok(), Response::ok()]);
    assert_eq!(bench.take(), "put k 0.5 2\nput k 0.5 3\n");
    bench.answer([Response::ok(), Response::ok()]);
    assert_eq!(bench.progress(batch).acknowledged, 4);
    assert_eq!(bench.take(), "put a 0.5 7\n");
}

#[test]
fn a_block_goes_again_from_its_first_put_without_an_answer() {
    let mut bench = Bench::new(3);
    let batch = bench.batch(5);
    bench.put("a");
    assert_eq!(bench.take(), "put k 0.5 0\nput k 0.5 1\nput k 0.5 2\n");
    bench.answer([Response::ok(), Response::Error("no".into())]);
    assert_eq!(bench.lose(ConnectionError::Closed), 1);
    bench.pipeline.on_connected(9);
    assert_eq!(bench.take(), "put k 0.5 2\nput k 0.5 3\nput k 0.5 4\nput a 0.5 7\n");
    bench.answer([Response::ok(), Response::Error("no".into()), Response::ok()]);
    let progress = bench.progress(batch);
    assert_eq!((progress.outstanding, progress.acknowledged), (0, 3));
    assert_eq!(progress.failure.map(|(index, _)| index), Some(1));
}

#[test]
fn a_violation_fails_what_was_sent_of_a_block_and_the_rest_goes_on() {
    let mut bench = Bench::new(3);
    let batch = bench.batch(5);
    bench.take();
    bench.answer([Response::ok()]);
    assert_eq!(bench.lose(ConnectionError::Unsolicited), 0);
    bench.pipeline.on_connected(9);
    assert_eq!(bench.take(), "put k 0.5 3\nput k 0.5 4\n");
    bench.answer([Response::ok(), Response::ok()]);
    let progress = bench.progress(batch);
    assert_eq!((progress.acknowledged, bench.stats().failed), (3, 2));
    assert_eq!(progress.failure.map(|(index, _)| index), Some(1));
}

#[test]
fn without_retry_a_lost_put_fails_and_a_lost_get_goes_again() {
    let mut bench = Bench::with(Settings { resend_unacknowledged: false, ..settings() }, 2);
    let put = bench.put("a");
    bench.get("b");
    let waiting = bench.put("c");
    bench.take();
    assert_eq!(bench.lose(ConnectionError::Closed), 1);
    assert_eq!(bench.outcome(put), Some(Outcome::Lost(Delivery::Unknown)));
    assert_eq!(bench.outcome(waiting), None);
    bench.pipeline.on_connected(9);
    assert_eq!(bench.take(), "get b\nput c 0.5 7\n");
}

#[test]
fn a_small_request_does_not_overtake_a_large_one_that_found_no_room() {
    let mut bench = Bench::with(Settings { max_buffered_bytes: 30, ..settings() }, 1);
    bench.put("a");
    let large = bench.put(&"b".repeat(40));
    bench.put("c");
    bench.put("d");
    assert_eq!(bench.pipeline.wait_queue.len(), 3);
    assert_eq!(bench.take(), "put a 0.5 7\n");
    // Alone it may be longer than the limit.
    assert_eq!(bench.pipeline.wait_queue.len(), 2);
    bench.cancel(large);
    assert_eq!(bench.pipeline.wait_queue.len(), 0);
    bench.answer([Response::ok()]);
    assert_eq!(bench.take(), "put c 0.5 7\n");
}

#[test]
fn a_request_that_finds_no_room_leaves_no_trace() {
    let settings = Settings { max_buffered_bytes: 20, when_full: WhenFull::Fail, ..settings() };
    let mut bench = Bench::with(settings, 5);
    bench.put("a");
    let refused = bench.pipeline.put(
        "b",
        &PutSuffix::new("k", Point::new(0.5, 7)).unwrap(),
        Waker::noop().clone(),
        bench.now,
    );
    assert!(matches!(refused, Err(Error::QueueFull { limit: 20 })));
    assert_eq!(bench.stats().accepted, 1);
    assert_eq!(bench.take(), "put a 0.5 7\n");
    bench.put("c");
    assert_eq!(bench.take(), "put c 0.5 7\n");
}

#[test]
fn who_waits_for_room_is_told_when_the_deadline_passes() {
    let mut bench = Bench::with(Settings { max_buffered_bytes: 20, ..settings() }, 1);
    bench.put("a");
    bench.now += SECOND;
    let crowded_out = bench.put("b");
    bench.now += 4 * SECOND;
    assert_eq!(bench.expire(), Some(bench.now + SECOND));
    assert_eq!(bench.outcome(crowded_out), None);
    bench.now += SECOND;
    assert_eq!(bench.expire(), None);
    assert_eq!(bench.outcome(crowded_out), Some(Outcome::Timeout(Delivery::NotSent)));
    assert_eq!(bench.stats().failed, 2);
}

#[test]
fn the_answer_to_an_expired_request_goes_to_nobody() {
    let mut bench = Bench::new(1);
    let late = bench.get("a");
    bench.take();
    bench.now += 5 * SECOND;
    let here = bench.get("b");
    // The connection has the same time once more before it is dropped.
    assert_eq!(bench.expire(), Some(bench.now + 5 * SECOND));
    assert_eq!(bench.outcome(late), Some(Outcome::Timeout(Delivery::Unknown)));
    assert_eq!(bench.take(), "");
    bench.answer([Response::Error("to a".into())]);
    assert_eq!(bench.outcome(here), None);
    assert_eq!(bench.take(), "get b\n");
}

#[test]
fn a_block_that_expires_half_sent_fails_as_a_whole() {
    let mut bench = Bench::new(2);
    let batch = bench.batch(5);
    bench.take();
    bench.answer([Response::ok()]);
    bench.now += 5 * SECOND;
    bench.expire();
    let progress = bench.progress(batch);
    assert_eq!(
        (progress.outstanding, progress.acknowledged, progress.interrupted),
        (0, 1, Some((1, true)))
    );
    assert_eq!(progress.failure.map(|(index, _)| index), Some(1));
    assert_eq!(bench.take(), "");
    bench.answer([Response::ok()]);
    assert_eq!(bench.pipeline.queue.held_len(), 0);
}

#[test]
fn an_answer_is_due_from_the_one_before_it() {
    let mut bench = Bench::new(2);
    let start = bench.now;
    bench.put("a");
    assert_eq!(bench.pipeline.response_due_since, None);
    bench.now += SECOND;
    bench.take();
    assert_eq!(bench.pipeline.response_due_since, Some(start + SECOND));
    bench.now += SECOND;
    bench.put("b");
    bench.take();
    assert_eq!(bench.pipeline.response_due_since, Some(start + SECOND));
    bench.now += SECOND;
    bench.answer([Response::ok()]);
    assert_eq!(bench.pipeline.response_due_since, Some(start + 3 * SECOND));
    bench.answer([Response::ok()]);
    assert_eq!(bench.pipeline.response_due_since, None);
}

#[test]
fn a_connection_stalls_also_if_nobody_waits_for_the_answer() {
    let mut bench = Bench::new(1);
    let put = bench.put("a");
    bench.take();
    bench.cancel(put);
    assert!(bench.pipeline.is_drained());
    assert_eq!(bench.expire(), Some(bench.now + 10 * SECOND));
    bench.now += 10 * SECOND;
    assert!(bench.pipeline.is_stalled(bench.now));
    assert_eq!(bench.lose(ConnectionError::Stalled { timeout: 10 * SECOND }), 0);
    assert!(!bench.pipeline.is_stalled(bench.now));
    assert_eq!(bench.expire(), None);
}

#[test]
fn a_driver_that_cannot_send_is_roused_for_the_first_deadline_only() {
    let mut bench = Bench::new(1);
    let gone = bench.put("a");
    bench.take();
    bench.cancel(gone);
    bench.park();
    bench.put("b");
    assert!(bench.driver.was_woken());
    bench.park();
    bench.put("c");
    assert!(!bench.driver.was_woken());
}

#[test]
fn a_driver_that_closes_is_roused_when_the_last_caller_leaves() {
    let mut bench = Bench::new(1);
    let put = bench.put("a");
    bench.take();
    bench.pipeline.close();
    bench.park();
    bench.cancel(put);
    assert!(bench.driver.was_woken() && bench.pipeline.is_drained());
}

#[test]
fn after_a_close_what_was_accepted_is_served_and_nothing_else() {
    let mut bench = Bench::new(1);
    let put = bench.put("a");
    let batch = bench.batch(1);
    assert!(bench.pipeline.close().is_none());
    assert!(matches!(
        bench.pipeline.put(
            "b",
            &PutSuffix::new("k", Point::new(0.5, 7)).unwrap(),
            Waker::noop().clone(),
            bench.now
        ),
        Err(Error::Closed { delivery: Delivery::NotSent, .. })
    ));
    let more = bench.pipeline.extend_batch(batch, 1, 1, b"put k 0.5 1\n", None, bench.now);
    assert!(matches!(more, Err(Error::Closed { delivery: Delivery::NotSent, .. })));
    bench.take();
    bench.answer([Response::ok()]);
    bench.take();
    bench.answer([Response::ok()]);
    assert_eq!(bench.outcome(put), Some(Outcome::Stored));
    assert!(bench.pipeline.is_drained() && bench.pipeline.close_failure().is_none());
}

/// A connected pipeline with a clock.
#[test]
fn a_put_sees_without_the_lock_that_it_is_stored_unless_an_error_waits_to_be_taken() {
    let mut bench = Bench::new(8);
    let [refused, stored, later] = [bench.put("a"), bench.put("b"), bench.put("c")];
    bench.take();
    bench.answer([Response::Error("no".into()), Response::ok()]);
    let settled = Arc::clone(bench.pipeline.watermark());
    assert!(!settled.is_acked(refused) && !settled.is_acked(stored));
    assert!(matches!(bench.outcome(refused), Some(Outcome::Rejected(_))));
    assert!(settled.is_acked(stored) && !settled.is_acked(later));
    assert_eq!(bench.outcome(stored), Some(Outcome::Stored));
    bench.now += 5 * SECOND;
    bench.expire();
    bench.answer([Response::ok()]);
    assert!(!settled.is_acked(later));
    bench.cancel(later);
    assert!(settled.is_acked(stored));
}

pub(super) struct Bench {
    pub(super) pipeline: Pipeline,
    pub(super) now: Instant,
    pub(super) driver: Arc<Task>,
}

pub(super) fn settings() -> Settings {
    Settings {
        request_timeout: 5 * SECOND,
        stall_timeout: Some(10 * SECOND),
        max_buffered_bytes: 1024 * 1024,
        when_full: WhenFull::Wait,
        resend_unacknowledged: true,
    }
}

impl Bench {
    fn new(window: usize) -> Self {
        Self::with(settings(), window)
    }

    pub(super) fn with(settings: Settings, window: usize) -> Self {
        let mut pipeline = Pipeline::new(settings);
        pipeline.on_connected(window);
        Self { pipeline, now: Instant::now(), driver: Arc::default() }
    }

    pub(super) fn put(&mut self, key: &str) -> WaiterId {
        let submitted = self.pipeline.put(
            key,
            &PutSuffix::new("k", Point::new(0.5, 7)).unwrap(),
            Waker::noop().clone(),
            self.now,
        );
        self.submitted(submitted)
    }

    pub(super) fn get(&mut self, key: &str) -> WaiterId {
        let submitted =
            self.pipeline.get(&Selector::new(key).unwrap(), Waker::noop().clone(), self.now);
        self.submitted(submitted)
    }

    fn submitted(&mut self, submitted: Result<Submitted, Error>) -> WaiterId {
        let Ok(Submitted { waiter, driver }) = submitted else { panic!("refused") };
        driver.into_iter().for_each(Waker::wake);
        waiter
    }

    /// A batch of one block: `put k 0.5 0`, `put k 0.5 1`, and so on.
    pub(super) fn batch(&mut self, len: usize) -> WaiterId {
        let batch = self.pipeline.open_batch();
        let puts = (0..len).map(|at| format!("put k 0.5 {at}\n")).collect::<String>();
        self.pipeline.extend_batch(batch, 0, len, puts.as_bytes(), None, self.now).unwrap();
        batch
    }

    pub(super) fn cancel(&mut self, waiter: WaiterId) {
        let mut wakers = Vec::new();
        self.pipeline.cancel(waiter, self.now, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn take(&mut self) -> String {
        let mut taken = BytesMut::new();
        let mut wakers = Vec::new();
        self.pipeline.take_sendable(&mut taken, self.now, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        String::from_utf8(taken.to_vec()).unwrap()
    }

    pub(super) fn answer<const N: usize>(&mut self, responses: [Response; N]) {
        self.pipeline.complete(responses, false, 0, self.now, &mut Vec::new()).unwrap();
    }

    fn lose(&mut self, fault: ConnectionError) -> usize {
        self.pipeline.on_disconnected(&Arc::new(fault), &mut Vec::new())
    }

    pub(super) fn expire(&mut self) -> Option<Instant> {
        let mut wakers = Vec::new();
        let next = self.pipeline.expire(self.now, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        next
    }

    /// As the driver does when its timer has run out.
    pub(super) fn expire_and_trim(&mut self) {
        self.pipeline.trim(self.now);
        self.expire();
    }

    pub(super) fn park(&mut self) {
        self.pipeline.park(&Waker::from(Arc::clone(&self.driver)), false);
    }

    pub(super) fn outcome(&mut self, waiter: WaiterId) -> Option<Outcome> {
        match self.pipeline.poll(waiter, Waker::noop()).0 {
            Poll::Ready(outcome) => Some(outcome.into()),
            Poll::Pending => None,
        }
    }

    fn progress(&mut self, batch: WaiterId) -> Progress {
        match self.pipeline.poll_batch(batch, usize::MAX, Waker::noop()).0 {
            Poll::Ready(progress) => progress.clone(),
            Poll::Pending => panic!("no batch has that many requests"),
        }
    }

    fn stats(&self) -> ClientStats {
        self.pipeline.stats()
    }
}
