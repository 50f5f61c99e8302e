//! What it costs to leave, in entries that are visited or moved: FAULTS C6.

use super::{
    edge_cases::{Bench, settings},
    *,
};
use crate::client::pipeline::steps;

/// Who waits in this test, and how one of them leaves.
trait Crowd {
    /// How many entries each has in the pipeline.
    const ENTRIES: usize = 1;

    /// Returns as many waiting callers as asked for, in the order in which they came.
    fn gather(bench: &mut Bench, number: usize) -> Vec<Self>
    where
        Self: Sized;

    fn leave(self, bench: &mut Bench);
}

/// A caller of `put`.
struct Put(WaiterId);

/// A caller of `put_all`, with three blocks in the pipeline.
struct PutAll(WaiterId);

impl Crowd for Put {
    fn gather(bench: &mut Bench, number: usize) -> Vec<Self> {
        (0..number).map(|at| Self(bench.put(&format!("key.number.{at}")))).collect()
    }

    fn leave(self, bench: &mut Bench) {
        bench.cancel(self.0);
    }
}

impl Crowd for PutAll {
    const ENTRIES: usize = 3;

    fn gather(bench: &mut Bench, number: usize) -> Vec<Self> {
        let mut batches = Vec::new();
        for _ in 0..number {
            let batch = bench.batch(2);
            for index in [2, 4] {
                let now = bench.now;
                let puts = b"put k 0.5 7\nput k 0.5 8\n";
                bench.pipeline.extend_batch(batch, index, 2, puts, None, now).unwrap();
            }
            batches.push(Self(batch));
        }
        batches
    }

    fn leave(self, bench: &mut Bench) {
        bench.cancel(self.0);
    }
}

/// Returns how many steps it takes this many callers to leave, by the order in which they do.
fn steps_to_leave<C: Crowd>(number: usize, max_buffered_bytes: usize, order: Order) -> usize {
    let mut bench = Bench::with(Settings { max_buffered_bytes, ..settings() }, 1);
    bench.put("flying");
    bench.take();
    let mut crowd = C::gather(&mut bench, number).into_iter().map(Some).collect::<Vec<_>>();
    let order = order.of(number);
    steps::of(|| {
        for at in order {
            crowd[at].take().unwrap().leave(&mut bench);
            bench.pipeline.next_expiry();
        }
    })
}

#[derive(Clone, Copy)]
enum Order {
    AsTheyCame,
    Backwards,
    Random,
}

impl Order {
    fn of(self, number: usize) -> Vec<usize> {
        let mut order = (0..number).collect::<Vec<_>>();
        match self {
            Self::AsTheyCame => {}
            Self::Backwards => order.reverse(),
            Self::Random => fastrand::Rng::with_seed(6).shuffle(&mut order),
        }
        order
    }
}

fn check<C: Crowd>() {
    let number = at_most(4000);
    // All in the queue; all in line for it; half of them each.
    for max_buffered_bytes in [usize::MAX / 2, 1, number * C::ENTRIES * 10] {
        for order in [Order::AsTheyCame, Order::Backwards, Order::Random] {
            let steps = steps_to_leave::<C>(number, max_buffered_bytes, order);
            let entries = number * C::ENTRIES;
            // A search in the queue and one in the line, and what clearing up takes for each.
            let most = entries * (2 * (entries.ilog2() as usize + 1) + 6);
            assert!(steps <= most, "{steps} steps of {most} ({max_buffered_bytes} bytes)");
        }
    }
}

#[test]
fn puts_leave_at_the_same_cost_in_any_order() {
    check::<Put>();
}

#[test]
fn batches_leave_at_the_same_cost_in_any_order() {
    check::<PutAll>();
}

#[cfg(feature = "tower")]
mod services {
    use super::*;
    use crate::client::pipeline::ReservationId;

    /// A service in line for a reservation.
    struct WaitingService(Option<ReservationId>);

    impl Crowd for WaitingService {
        fn gather(bench: &mut Bench, number: usize) -> Vec<Self> {
            let ask = |_| {
                let mut reservation = None;
                let asked = (Waker::noop(), bench.now);
                let _ = bench.pipeline.poll_reserve(&mut reservation, asked, &mut Vec::new());
                Self(reservation)
            };
            (0..number).map(ask).collect()
        }

        fn leave(self, bench: &mut Bench) {
            bench.pipeline.release(self.0.unwrap(), bench.now, &mut Vec::new());
        }
    }

    #[test]
    fn services_leave_at_the_same_cost_in_any_order() {
        check::<WaitingService>();
    }
}
