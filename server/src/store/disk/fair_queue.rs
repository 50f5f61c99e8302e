//! Batches that wait for room in the commit queue, served in a fair order of their sources.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    task::Waker,
};

/// Deficit round robin over the sources of batches (M. Shreedhar and G. Varghese, SIGCOMM 1995).
///
/// Each source that has batches here is served in turn, and each time as many bytes as any other, in the order
/// of their arrival. So a source with thousands of connections has the share of one source, and a source
/// that is alone has everything. Batches without a source are those of one more.
///
/// The queue holds no puts: the caller of each batch keeps it until it is served.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    /// Only sources with batches. Hashed with a secret, since peers can choose among addresses.
    sources: HashMap<Option<IpAddr>, Backlog>,
    /// The sources in the order in which they are served next.
    turns: BTreeMap<u64, Option<IpAddr>>,
    /// The last number of a batch or turn.
    entered: u64,
}

/// The batches of one source.
#[derive(Debug)]
struct Backlog {
    /// The key in `turns`.
    turn: u64,
    /// How many bytes may be served in this turn.
    deficit: usize,
    batches: BTreeMap<u64, WaitingBatch>,
}

/// A batch that waits.
#[derive(Debug)]
pub(super) struct WaitingBatch {
    pub(super) bytes: usize,
    pub(super) waker: Waker,
}

/// Identifies a batch in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct BatchTicket {
    source: Option<IpAddr>,
    number: u64,
}

impl FairQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Returns true if a batch of this source waits.
    pub(super) fn has_source(&self, source: Option<IpAddr>) -> bool {
        self.sources.contains_key(&source)
    }

    pub(super) fn push(&mut self, source: Option<IpAddr>, waiting: WaitingBatch) -> BatchTicket {
        self.entered += 1;
        let number = self.entered;
        let (turns, turn) = (&mut self.turns, number);
        let backlog = self.sources.entry(source).or_insert_with(|| {
            turns.insert(turn, source);
            Backlog { turn, deficit: QUANTUM_BYTES, batches: BTreeMap::new() }
        });
        backlog.batches.insert(number, waiting);
        BatchTicket { source, number }
    }

    /// Returns a batch, unless it was served or removed.
    pub(super) fn get_mut(&mut self, ticket: BatchTicket) -> Option<&mut WaitingBatch> {
        self.sources.get_mut(&ticket.source)?.batches.get_mut(&ticket.number)
    }

    /// Removes a batch, unless it was served.
    pub(super) fn remove(
        &mut self,
        BatchTicket { source, number }: BatchTicket,
    ) -> Option<WaitingBatch> {
        let backlog = self.sources.get_mut(&source)?;
        let removed = backlog.batches.remove(&number);
        if backlog.batches.is_empty() {
            self.turns.remove(&backlog.turn);
            self.sources.remove(&source);
        }
        removed
    }

    /// Serves the next batch.
    pub(super) fn pop(&mut self) -> Option<(BatchTicket, WaitingBatch)> {
        loop {
            let (&turn, &source) = self.turns.first_key_value()?;
            let backlog = self.sources.get_mut(&source)?;
            let (&number, WaitingBatch { bytes, .. }) = backlog.batches.first_key_value()?;
            let cost = bytes + BATCH_OVERHEAD_BYTES;
            if let Some(left) = backlog.deficit.checked_sub(cost) {
                backlog.deficit = left;
                let ticket = BatchTicket { source, number };
                return self.remove(ticket).map(|waiting| (ticket, waiting));
            }
            // Its turn is over, and what it has left counts in the next.
            backlog.deficit += QUANTUM_BYTES;
            self.entered += 1;
            backlog.turn = self.entered;
            self.turns.remove(&turn);
            self.turns.insert(self.entered, source);
        }
    }

    /// Removes all batches.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = WaitingBatch> + use<> {
        let all = std::mem::take(self);
        all.sources.into_values().flat_map(|backlog| backlog.batches.into_values())
    }
}

/// How many bytes of a source are served in one turn: more than most batches of a server that is busy have, so
/// that few turns serve nothing, and a fraction of a group.
const QUANTUM_BYTES: usize = 8 * 1024;

/// The fixed cost of a batch, in bytes: its caller is woken twice, which takes as long as some puts.
const BATCH_OVERHEAD_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn source(number: u8) -> Option<IpAddr> {
        Some(Ipv4Addr::new(10, 0, 0, number).into())
    }

    fn push(queue: &mut FairQueue, number: u8, bytes: usize) -> BatchTicket {
        queue.push(source(number), WaitingBatch { bytes, waker: Waker::noop().clone() })
    }

    /// Serves batches, and returns how many bytes each of two sources was served.
    fn serve(queue: &mut FairQueue, batches: usize) -> [usize; 2] {
        let mut served = [0; 2];
        for _ in 0..batches {
            let (ticket, waiting) = queue.pop().unwrap();
            served[usize::from(ticket.source != source(0))] += waiting.bytes;
        }
        served
    }

    #[test]
    fn sources_have_equal_shares_however_many_batches() {
        let mut queue = FairQueue::default();
        (0..1000).for_each(|_| _ = push(&mut queue, 0, 1000));
        (0..10).for_each(|_| _ = push(&mut queue, 1, 1000));
        let served = serve(&mut queue, 20);
        assert!(served[1] >= 7_000, "{served:?}");
        // Alone, a source has everything.
        let rest = serve(&mut queue, 990);
        assert_eq!(served[0] + rest[0], 1_000_000);
        assert!(queue.is_empty() && queue.pop().is_none() && queue.turns.is_empty());
    }

    #[test]
    fn shares_are_counted_in_bytes() {
        let mut queue = FairQueue::default();
        (0..100).for_each(|_| _ = push(&mut queue, 0, 50_000));
        (0..10_000).for_each(|_| _ = push(&mut queue, 1, 100));
        let mut served = [0; 2];
        while served[0] < 1_000_000 {
            let [large, small] = serve(&mut queue, 1);
            served = [served[0] + large, served[1] + small];
        }
        // Less its overhead.
        assert!((500_000..700_000).contains(&served[1]), "{served:?}");
    }

    #[test]
    fn batches_of_a_source_are_served_in_order() {
        let mut queue = FairQueue::default();
        let tickets = [(); 3].map(|()| push(&mut queue, 0, 100_000));
        assert_eq!(tickets.map(|_| queue.pop().unwrap().0), tickets);
    }

    #[test]
    fn removed_batch_leaves_nothing_behind() {
        let mut queue = FairQueue::default();
        let [first, second] = [(); 2].map(|()| push(&mut queue, 0, 1));
        assert!(queue.remove(first).is_some() && queue.remove(first).is_none());
        assert!(queue.has_source(source(0)) && queue.get_mut(second).is_some());
        assert!(queue.remove(second).is_some() && queue.get_mut(second).is_none());
        assert!(queue.is_empty() && queue.turns.is_empty());
        // A source that returns has one turn.
        push(&mut queue, 0, 1);
        assert_eq!(queue.turns.len(), 1);
    }
}
