//! Places in the queue, and the line for them.

use std::collections::VecDeque;

use proptest::{prelude::*, prop_oneof, proptest};

use super::{
    edge_cases::{Bench, settings},
    *,
};
use crate::{client::pipeline::admission::ReservationId, protocol::MAX_REQUEST_LEN};

/// A service that wants a place.
#[derive(Default)]
struct ReservingService {
    reservation: Option<ReservationId>,
    task: Arc<Task>,
    /// Whether it has been told to wait.
    waits: bool,
    /// Since when it was known to have its reservation.
    since: Option<Instant>,
}

impl ReservingService {
    /// Whether it has a place.
    fn is_ready(&mut self, bench: &mut Bench) -> bool {
        let waker = Waker::from(Arc::clone(&self.task));
        let mut wakers = Vec::new();
        let asked =
            bench.pipeline.poll_reserve(&mut self.reservation, (&waker, bench.now), &mut wakers).0;
        wakers.into_iter().for_each(Waker::wake);
        match asked {
            Poll::Ready(Ok(())) => self.waits = false,
            Poll::Pending => self.waits = true,
            Poll::Ready(Err(error)) => panic!("{error:?}"),
        }
        !self.waits
    }

    /// Puts `key` in its place.
    fn put(&mut self, bench: &mut Bench, key: &str) -> WaiterId {
        let numbers = PutSuffix::new("k", Point::new(0.5, 7)).unwrap();
        let caller = (Waker::noop().clone(), bench.now);
        let encode = |bytes: &mut BytesMut| numbers.append_put(bytes, key);
        let mut wakers = Vec::new();
        let submitted = bench.pipeline.submit_reserved(
            &mut self.reservation,
            (RequestKind::Put, None),
            caller,
            encode,
            &mut wakers,
        );
        wakers.into_iter().for_each(Waker::wake);
        assert_eq!(self.reservation, None);
        let Ok(Submitted { waiter, driver }) = submitted else { panic!("refused") };
        driver.into_iter().for_each(Waker::wake);
        waiter
    }

    fn leave(&mut self, bench: &mut Bench) {
        let mut wakers = Vec::new();
        if let Some(reservation) = self.reservation.take() {
            bench.pipeline.release(reservation, bench.now, &mut wakers);
        }
        self.waits = false;
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A queue for this many reservations and some bytes more, of which one request may be in flight.
fn bench(places: usize) -> Bench {
    let max_buffered_bytes = places * MAX_REQUEST_LEN + MAX_REQUEST_LEN / 2;
    Bench::with(Settings { max_buffered_bytes, ..settings() }, 1)
}

/// The longest key there is: its put takes all of a place but a few bytes.
fn long() -> String {
    "k".repeat(1024)
}

#[test]
fn a_place_is_kept_until_it_is_filled_or_given_back() {
    let mut bench = bench(2);
    let [mut one, mut two, mut three] = <[ReservingService; 3]>::default();
    assert!(one.is_ready(&mut bench) && two.is_ready(&mut bench));
    assert!(!three.is_ready(&mut bench));
    assert!(one.is_ready(&mut bench) && two.is_ready(&mut bench), "asked again");
    one.put(&mut bench, &long());
    two.leave(&mut bench);
    assert!(three.task.was_woken());
    assert!(three.is_ready(&mut bench));
    assert!(!one.is_ready(&mut bench));
    bench.take();
    assert!(one.task.was_woken() && one.is_ready(&mut bench));
}

#[test]
fn a_request_is_accepted_in_its_place_also_while_others_wait() {
    let mut bench = bench(1);
    let mut service = ReservingService::default();
    assert!(service.is_ready(&mut bench));
    // One may always wait, and the other one finds no room.
    bench.put(&long());
    bench.put(&long());
    assert_eq!(wait_position(&bench.pipeline), 1);
    let filled = service.put(&mut bench, "a");
    assert_eq!(wait_position(&bench.pipeline), 2, "earlier callers go first");
    assert_eq!(bench.pipeline.reserved_bytes(), 0);
    let put = format!("put {} 0.5 7\n", long());
    for sent in [&put, &put, "put a 0.5 7\n"] {
        assert_eq!(bench.take(), sent);
        bench.answer([Response::ok()]);
    }
    assert_eq!(bench.outcome(filled), Some(Outcome::Stored));
}

/// In flight: one request. In the queue: `a`, then, in this order, a put that had to get in line, and what
/// a service has put in its place afterwards.
fn filled_while_another_waits() -> (Bench, WaiterId, WaiterId) {
    let mut bench = bench(1);
    let mut service = ReservingService::default();
    bench.put("flying");
    bench.take();
    assert!(service.is_ready(&mut bench));
    bench.put("a");
    bench.now += SECOND;
    let waited = bench.put(&long());
    assert_eq!(wait_position(&bench.pipeline), 1);
    bench.now += 3 * SECOND;
    let filled = service.put(&mut bench, "filled");
    (bench, waited, filled)
}

#[test]
fn what_fills_a_place_is_sent_after_those_who_wait_and_neither_is_stored_before() {
    let (mut bench, waited, filled) = filled_while_another_waits();
    let settled = Arc::clone(bench.pipeline.watermark());
    for sent in ["put a 0.5 7\n", &format!("put {} 0.5 7\n", long()), "put filled 0.5 7\n"] {
        assert!(!settled.is_acked(waited) || sent.contains("filled"));
        assert!(!settled.is_acked(filled));
        bench.answer([Response::ok()]);
        assert_eq!(bench.take(), sent);
    }
    bench.answer([Response::ok()]);
    assert!(settled.is_acked(waited) && settled.is_acked(filled));
}

#[test]
fn who_waited_while_a_place_was_filled_can_be_withdrawn_and_its_answer_is_nobodys() {
    let (mut bench, waited, filled) = filled_while_another_waits();
    bench.cancel(waited);
    let get = bench.get("else");
    bench.pipeline.set_window(9);
    assert_eq!(bench.take(), "put a 0.5 7\nput filled 0.5 7\nget else\n");
    bench.answer([Response::ok(), Response::ok(), Response::ok()]);
    assert_eq!(bench.outcome(filled), Some(Outcome::Stored));
    assert_eq!(bench.outcome(get), None, "its answer has not come");
}

#[test]
fn who_waited_while_a_place_was_filled_has_a_deadline_of_its_own() {
    let (mut bench, waited, _) = filled_while_another_waits();
    // It has waited for 3 s of its 5.
    bench.now += 2 * SECOND;
    bench.expire();
    assert_eq!(bench.outcome(waited), Some(Outcome::Timeout(Delivery::NotSent)));
}

#[test]
fn callers_and_those_who_want_a_place_go_in_the_order_in_which_they_came() {
    let mut bench = bench(1);
    let [mut one, mut two] = <[ReservingService; 2]>::default();
    bench.put(&long());
    bench.put("small");
    assert!(!one.is_ready(&mut bench));
    let behind = bench.put("behind");
    assert!(!two.is_ready(&mut bench));
    assert_eq!(wait_position(&bench.pipeline), 3, "no small request overtakes a place");
    bench.take();
    assert!(one.task.was_woken() && !two.task.was_woken());
    assert!(one.is_ready(&mut bench));
    assert!(!bench.pipeline.wait_queue.contains(behind_seq(&bench)));
    one.leave(&mut bench);
    assert!(two.task.was_woken());
    bench.cancel(behind);
}

/// How many requests and services wait for room.
fn wait_position(pipeline: &Pipeline) -> usize {
    pipeline.wait_queue.len() + pipeline.reservation_queue.len()
}

fn behind_seq(bench: &Bench) -> u64 {
    bench.pipeline.entries().last().unwrap().seq
}

#[test]
fn who_holds_a_place_keeps_no_request_waiting_while_nothing_else_waits() {
    let mut bench = bench(1);
    let [mut holder, mut other] = <[ReservingService; 2]>::default();
    assert!(holder.is_ready(&mut bench));
    assert!(!other.is_ready(&mut bench));
    for key in ["a", "b", "c"] {
        let put = bench.put(key);
        assert_eq!(bench.take(), format!("put {key} 0.5 7\n"));
        bench.answer([Response::ok()]);
        assert_eq!(bench.outcome(put), Some(Outcome::Stored));
    }
    // Also those that have queued since.
    bench.put("d");
    bench.put(&long());
    bench.put("e");
    assert_eq!(wait_position(&bench.pipeline), 3);
    for key in ["d", &long(), "e"] {
        assert_eq!(bench.take(), format!("put {key} 0.5 7\n"));
        bench.answer([Response::ok()]);
    }
    assert!(!other.task.was_woken() && !other.is_ready(&mut bench));
    holder.leave(&mut bench);
    assert!(other.task.was_woken() && other.is_ready(&mut bench));
}

#[test]
fn a_place_does_not_overtake_a_batch_that_found_no_room() {
    let mut bench = bench(2);
    let mut service = ReservingService::default();
    bench.put(&long());
    bench.batch(200);
    assert!(bench.pipeline.can_reserve() && !bench.pipeline.wait_queue.is_empty());
    assert!(!service.is_ready(&mut bench));
    bench.take();
    assert!(!service.task.was_woken(), "the batch has the room");
}

#[test]
fn a_queue_that_is_smaller_than_a_place_has_one() {
    let mut bench = Bench::with(Settings { max_buffered_bytes: 1, ..settings() }, 1);
    let [mut one, mut two] = <[ReservingService; 2]>::default();
    assert!(one.is_ready(&mut bench));
    assert!(!two.is_ready(&mut bench));
    one.put(&mut bench, "a");
    assert!(!two.is_ready(&mut bench));
    bench.take();
    assert!(two.task.was_woken() && two.is_ready(&mut bench));
}

#[test]
fn the_task_that_asked_last_is_woken() {
    let mut bench = bench(1);
    let [mut holder, mut other] = <[ReservingService; 2]>::default();
    assert!(holder.is_ready(&mut bench) && !other.is_ready(&mut bench));
    let before = std::mem::take(&mut other.task);
    assert!(!other.is_ready(&mut bench));
    holder.leave(&mut bench);
    assert!(other.task.was_woken() && !before.was_woken());
}

#[test]
fn whoever_is_late_leaves_the_line_and_the_others_keep_their_order() {
    let mut bench = bench(1);
    let mut services = <[ReservingService; 3]>::default();
    bench.put(&long());
    let late = bench.put(&long());
    for service in &mut services {
        assert!(!service.is_ready(&mut bench));
        bench.put(&long());
        bench.now += SECOND;
    }
    bench.now += 2 * SECOND;
    bench.expire();
    assert_eq!(bench.outcome(late), Some(Outcome::Timeout(Delivery::NotSent)));
    assert!(services[0].is_ready(&mut bench), "the queue is empty");
    assert!(!services[1].is_ready(&mut bench) && !services[2].is_ready(&mut bench));
}

#[test]
fn the_end_tells_those_in_line() {
    for is_orderly in [true, false] {
        let mut bench = bench(1);
        let [mut one, mut two] = <[ReservingService; 2]>::default();
        assert!(one.is_ready(&mut bench) && !two.is_ready(&mut bench));
        let mut wakers = Vec::new();
        if is_orderly {
            bench.pipeline.close();
            bench.pipeline.cancel_reservations(&mut wakers);
        } else {
            bench.pipeline.close_now(None, &mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
        assert!(two.task.was_woken());
        for service in [&mut one, &mut two] {
            let asked = (Waker::noop(), bench.now);
            let (told, _) =
                bench.pipeline.poll_reserve(&mut service.reservation, asked, &mut Vec::new());
            assert!(matches!(told, Poll::Ready(Err(Error::Closed { .. }))), "{told:?}");
        }
        one.leave(&mut bench);
        two.leave(&mut bench);
        assert_eq!(bench.pipeline.reserved_bytes(), 0);
    }
}

// FAULTS C13
#[test]
fn a_reservation_held_too_long_is_taken_back_for_others() {
    let mut bench = bench(2);
    let [mut idle, mut fresh, mut other, mut last] = <[ReservingService; 4]>::default();
    bench.park();
    assert!(idle.is_ready(&mut bench));
    bench.now += 2 * SECOND;
    assert!(fresh.is_ready(&mut bench));
    bench.now += SECOND;
    assert!(!bench.driver.was_woken());
    assert!(!other.is_ready(&mut bench));
    assert!(bench.driver.was_woken(), "a deadline has come up");
    bench.park();
    assert!(!last.is_ready(&mut bench));
    assert_eq!(bench.pipeline.next_expiry(), Some(bench.now + 2 * SECOND));
    bench.now += 2 * SECOND;
    assert_eq!(bench.expire(), Some(bench.now + 2 * SECOND));
    assert!(other.task.was_woken() && other.is_ready(&mut bench));
    assert!(!last.task.was_woken());
    assert!(fresh.is_ready(&mut bench), "it was held for 3 s of 5");
    assert!(!idle.is_ready(&mut bench), "it gets in line again");
}

#[test]
fn a_reservation_is_kept_while_no_one_waits() {
    let mut bench = bench(1);
    let [mut idle, mut other] = <[ReservingService; 2]>::default();
    assert!(idle.is_ready(&mut bench));
    bench.now += 60 * SECOND;
    assert_eq!(bench.expire(), None);
    assert!(idle.is_ready(&mut bench));
    assert!(other.is_ready(&mut bench), "it has been idle for long");
}

#[test]
fn a_call_whose_reservation_was_taken_back_is_accepted() {
    for when_full in [WhenFull::Wait, WhenFull::Fail] {
        let max_buffered_bytes = MAX_REQUEST_LEN;
        let mut bench = Bench::with(Settings { max_buffered_bytes, when_full, ..settings() }, 1);
        let [mut idle, mut other] = <[ReservingService; 2]>::default();
        assert!(idle.is_ready(&mut bench));
        bench.now += 5 * SECOND;
        assert!(other.is_ready(&mut bench));
        bench.put("a");
        let called = idle.put(&mut bench, "late");
        assert_eq!((bench.outcome(called), wait_position(&bench.pipeline)), (None, 1));
        assert_eq!(bench.take(), "put a 0.5 7\n");
        bench.answer([Response::ok()]);
        assert_eq!(bench.take(), "put late 0.5 7\n");
        bench.answer([Response::ok()]);
        assert_eq!(bench.outcome(called), Some(Outcome::Stored));
        assert!(other.is_ready(&mut bench));
    }
}

#[test]
fn a_request_in_line_gets_the_room_of_an_idle_reservation() {
    let mut bench = bench(1);
    let mut idle = ReservingService::default();
    assert!(idle.is_ready(&mut bench));
    bench.now += 4 * SECOND;
    bench.put("a");
    bench.put(&long());
    assert_eq!(wait_position(&bench.pipeline), 1);
    bench.now += SECOND;
    bench.put("b");
    bench.expire();
    assert_eq!(wait_position(&bench.pipeline), 0);
    assert!(!idle.is_ready(&mut bench));
}

/// What may happen around a queue.
#[derive(Clone, Copy, Debug)]
enum QueueOp {
    /// One of the services asks for a place.
    Ask(usize),
    /// Fills it, if it has one, with a request of about this many bytes.
    Fill(usize, usize),
    /// Fills the reservation that it was granted, without asking again.
    Call(usize, usize),
    Leave(usize),
    /// A caller puts about this many bytes.
    Put(usize),
    /// The caller who has waited longest goes.
    Abandon,
    Take,
    Reply,
    /// This many seconds pass.
    Wait(u32),
}

const SERVICES: usize = 6;

fn event() -> impl Strategy<Value = QueueOp> {
    let service = 0..SERVICES;
    prop_oneof![
        4 => service.clone().prop_map(QueueOp::Ask),
        3 => (service.clone(), 1_usize..1024).prop_map(|(service, len)| QueueOp::Fill(service, len)),
        1 => (service.clone(), 1_usize..1024).prop_map(|(service, len)| QueueOp::Call(service, len)),
        1 => service.prop_map(QueueOp::Leave),
        3 => (1_usize..1024).prop_map(QueueOp::Put),
        1 => Just(QueueOp::Abandon),
        3 => Just(QueueOp::Take),
        3 => Just(QueueOp::Reply),
        1 => (1_u32..4).prop_map(QueueOp::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_place_is_lost_or_had_twice_and_whoever_gets_one_is_woken(
        limit in 1_usize..6000,
        events in proptest::collection::vec(event(), 1..at_most(200)),
    ) {
        let mut bench = Bench::with(Settings { max_buffered_bytes: limit, ..settings() }, 1);
        let mut services = <[ReservingService; SERVICES]>::default();
        let mut calls = VecDeque::new();
        let mut timer = None;
        bench.park();
        for event in events {
            let is_drivers = matches!(event, QueueOp::Take | QueueOp::Reply | QueueOp::Wait(_));
            match event {
                QueueOp::Ask(service) => _ = services[service].is_ready(&mut bench),
                QueueOp::Fill(service, len) => {
                    let service = &mut services[service];
                    if service.reservation.is_some() && service.is_ready(&mut bench) {
                        calls.push_back(service.put(&mut bench, &"k".repeat(len)));
                    }
                }
                QueueOp::Call(service, len) => {
                    let service = &mut services[service];
                    if service.reservation.is_some() && !service.waits {
                        calls.push_back(service.put(&mut bench, &"k".repeat(len)));
                    }
                }
                QueueOp::Leave(service) => services[service].leave(&mut bench),
                QueueOp::Put(len) => calls.push_back(bench.put(&"k".repeat(len))),
                QueueOp::Abandon => calls.pop_front().into_iter().for_each(|call| bench.cancel(call)),
                QueueOp::Take => _ = bench.take(),
                QueueOp::Reply if bench.pipeline.in_flight() > 0 => bench.answer([Response::ok()]),
                QueueOp::Reply => {}
                QueueOp::Wait(seconds) => {
                    bench.now += seconds * SECOND;
                    timer = bench.expire();
                    let is_later = timer.is_none_or(|at| at > bench.now);
                    assert!(is_later || bench.pipeline.is_stalled(bench.now));
                }
            }
            if bench.driver.was_woken() || is_drivers {
                timer = timer.into_iter().chain(bench.pipeline.next_expiry()).min();
                bench.park();
            }
            let due = bench.pipeline.next_expiry();
            assert!(
                due.is_none_or(|due| timer.is_some_and(|at| at <= due)),
                "the driver sleeps until {timer:?}, beyond {due:?}"
            );
            check(&bench, &mut services);
        }
        // The callers in the queue get in once the others have left.
        services.iter_mut().filter(|service| !service.waits).for_each(|service| service.leave(&mut bench));
        for round in 0.. {
            let waiting = services.iter().filter(|service| service.waits).count();
            if waiting == 0 && bench.pipeline.outstanding() == 0 {
                break;
            }
            assert!(round < 500, "{waiting} services wait for ever");
            bench.take();
            if bench.pipeline.in_flight() > 0 {
                bench.answer([Response::ok()]);
            }
            let woken = services.iter_mut().filter(|service| service.task.was_woken());
            woken.for_each(|service| service.leave(&mut bench));
        }
        assert_eq!(bench.pipeline.reserved_bytes(), 0);
        assert_eq!(wait_position(&bench.pipeline), 0);
    }
}

fn check(bench: &Bench, services: &mut [ReservingService]) {
    let pipeline = &bench.pipeline;
    let limit = pipeline.settings.max_buffered_bytes;
    let has_place = |service: &ReservingService| {
        service
            .reservation
            .as_ref()
            .is_some_and(|reservation| pipeline.reserved.contains(reservation.seq()))
    };
    let held = services.iter().filter(|service| has_place(service)).count();
    assert_eq!(pipeline.reserved.len(), held);
    assert!(pipeline.reserved_bytes() <= limit.max(MAX_REQUEST_LEN));
    let waiting = pipeline.queue.queued_bytes();
    assert!(waiting + pipeline.reserved_bytes() <= limit.max(MAX_REQUEST_LEN) + MAX_REQUEST_LEN);
    for service in services.iter().filter(|service| service.waits && has_place(service)) {
        assert!(service.task.is_woken(), "a service sleeps on its place");
    }
    for service in services {
        let is_in_line = service
            .reservation
            .as_ref()
            .is_some_and(|reservation| pipeline.reservation_queue.contains(reservation.seq()));
        assert!(!is_in_line || service.waits);
        if has_place(service) {
            service.since.get_or_insert(bench.now);
        } else if let Some(since) = service.since.take()
            && service.reservation.is_some()
            && !is_in_line
        {
            assert!(bench.now >= since + pipeline.settings.request_timeout, "taken back early");
        }
    }
    assert!(pipeline.entries().map(|entry| entry.seq).is_sorted());
    assert!(pipeline.entries().map(|entry| entry.deadline).is_sorted());
    assert!(pipeline.wait_queue.is_empty() || waiting > 0, "nothing would admit the request");
    let request = pipeline
        .wait_queue
        .front()
        .map(|(seq, (_, bytes))| (seq, pipeline.has_capacity(bytes.len())));
    let reservation =
        pipeline.reservation_queue.front().map(|(seq, _)| (seq, pipeline.can_reserve()));
    let can_go =
        [request, reservation].into_iter().flatten().min().is_some_and(|(_, can_go)| can_go);
    assert!(!can_go, "there is room, and someone in line for it");
}
