//! How much is in the store at once, and which batch is next.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    task::Waker,
};

use super::fair_queue::{BatchTicket, FairQueue, WaitingBatch};

/// Admits batches to the groups that the committer takes next.
///
/// While there is room, a batch is admitted at once. Beyond that it waits in a [`FairQueue`]: when the
/// committer takes the groups, each source has its share of the new room. A small batch of a source that has none
/// there does not wait, once for each source until the groups are taken: so a peer that puts one point at a time is
/// in the next group, however many others wait.
///
/// All batches that are admitted and not yet written, with those that are being written, are at most twice
/// the limit, and for each a batch and 40 KiB.
#[derive(Debug)]
pub(super) struct Room {
    /// How many bytes are admitted before the groups are taken. The last batch exceeds it.
    limit: usize,
    /// The bytes of all batches that were admitted since the groups were taken, but for those of `express`.
    bytes: usize,
    waiting: FairQueue,
    /// Batches that have waited, and are admitted and not in a group yet, with their bytes.
    admitted: HashMap<BatchTicket, usize>,
    express: Express,
}

/// The batches that were admitted beyond the limit.
#[derive(Debug, Default)]
struct Express {
    sources: HashSet<Option<IpAddr>>,
    bytes: usize,
}

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: 0,
            waiting: FairQueue::default(),
            admitted: HashMap::new(),
            express: Express::default(),
        }
    }

    /// Sets how many bytes are admitted from the next time on that the groups are taken, or a batch leaves.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Admits a batch, whose caller then adds it to a group. Otherwise it waits, and `waker` is woken when it
    /// is admitted.
    pub(super) fn enter(
        &mut self,
        source: Option<IpAddr>,
        bytes: usize,
        waker: &Waker,
    ) -> Result<(), BatchTicket> {
        if self.waiting.is_empty() && self.bytes < self.limit {
            self.bytes += bytes;
            return Ok(());
        }
        let express = &mut self.express;
        if bytes <= self.limit / EXPRESS_BATCH_FRACTION
            && express.bytes < MAX_EXPRESS_BYTES
            && !self.waiting.has_source(source)
            && express.sources.insert(source)
        {
            express.bytes += bytes;
            return Ok(());
        }
        Err(self.waiting.push(source, WaitingBatch { bytes, waker: waker.clone() }))
    }

    /// Returns true if a batch that has waited is admitted; its caller then adds it to a group. Otherwise
    /// `waker` is swapped with the one that was to be woken.
    pub(super) fn is_admitted(
        &mut self,
        ticket: BatchTicket,
        bytes: usize,
        waker: &mut Waker,
    ) -> bool {
        if let Some(waiting) = self.waiting.get_mut(ticket) {
            std::mem::swap(&mut waiting.waker, waker);
            return false;
        }
        if self.admitted.remove(&ticket).is_none() {
            // The groups were taken since.
            self.bytes += bytes;
        }
        true
    }

    /// Forgets a batch that is in no group. Returns wakers to be woken without a lock, and its own, if it has
    /// waited, to be dropped without one.
    pub(super) fn leave(&mut self, ticket: BatchTicket) -> (Vec<Waker>, Option<Waker>) {
        if let Some(waiting) = self.waiting.remove(ticket) {
            return (Vec::new(), Some(waiting.waker));
        }
        match self.admitted.remove(&ticket) {
            Some(bytes) => {
                self.bytes -= bytes;
                (self.admit(), None)
            }
            None => (Vec::new(), None),
        }
    }

    /// Notes that the committer has taken the groups. Returns wakers to be woken without a lock.
    pub(super) fn on_taken(&mut self) -> Vec<Waker> {
        self.bytes = 0;
        // A caller that is late exceeds the limit, and holds up no other.
        self.admitted.clear();
        if self.express.bytes > 0 {
            self.express = Express::default();
        }
        self.admit()
    }

    /// Removes all batches. Returns wakers to be woken without a lock.
    pub(super) fn close(&mut self) -> Vec<Waker> {
        self.waiting.drain().map(|waiting| waiting.waker).collect()
    }

    /// Returns true if no batch waits or is admitted.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.admitted.is_empty() && self.bytes == 0
    }

    /// Admits batches while there is room.
    fn admit(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while self.bytes < self.limit
            && let Some((ticket, WaitingBatch { bytes, waker })) = self.waiting.pop()
        {
            self.bytes += bytes;
            self.admitted.insert(ticket, bytes);
            wakers.push(waker);
        }
        wakers
    }
}

/// Which part of the limit a batch may take that is admitted beyond it: some hundred puts, as a session has them that
/// reads little at once, and less while groups are small.
const EXPRESS_BATCH_FRACTION: usize = 16;

/// How many bytes these batches may take together.
const MAX_EXPRESS_BYTES: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;

    const LIMIT: usize = 100_000;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn source(number: u8) -> Option<IpAddr> {
        Some(Ipv4Addr::new(10, 0, 0, number).into())
    }

    fn enter(room: &mut Room, number: u8, bytes: usize) -> Result<(), BatchTicket> {
        room.enter(source(number), bytes, Waker::noop())
    }

    /// Returns a room that the first source has filled, and its batches that wait.
    fn full(waiting: usize) -> (Room, Vec<BatchTicket>) {
        let mut room = Room::new(LIMIT);
        for _ in 0..10 {
            enter(&mut room, 0, 10_000).unwrap();
        }
        let tickets = (0..waiting).map(|_| enter(&mut room, 0, 10_000).unwrap_err()).collect();
        (room, tickets)
    }

    fn is_admitted(room: &mut Room, ticket: BatchTicket) -> bool {
        room.is_admitted(ticket, 10_000, &mut Waker::noop().clone())
    }

    #[test]
    fn source_has_its_share_of_the_next_room() {
        let (mut room, many) = full(1000);
        let few = [(); 4].map(|()| enter(&mut room, 1, 10_000).unwrap_err());
        assert_eq!(room.on_taken().len(), 10);
        assert!(few.into_iter().all(|ticket| is_admitted(&mut room, ticket)));
        let admitted = many.iter().filter(|&&ticket| is_admitted(&mut room, ticket)).count();
        assert_eq!(admitted, 6);
    }

    #[test]
    fn small_batch_of_another_source_does_not_wait_once() {
        let (mut room, _many) = full(1000);
        enter(&mut room, 1, 100).unwrap();
        assert!(enter(&mut room, 1, 100).is_err());
        // Nor does it overtake one of its own source, or a batch that is large.
        assert!(enter(&mut room, 0, 100).is_err());
        assert!(enter(&mut room, 2, LIMIT / EXPRESS_BATCH_FRACTION + 1).is_err());
        room.on_taken();
        // What waited was admitted.
        enter(&mut room, 1, 100).unwrap();
        // However many sources there are, their bytes are limited.
        let admitted = (2..=255).filter(|&number| enter(&mut room, number, 6_000).is_ok()).count();
        assert_eq!(admitted, MAX_EXPRESS_BYTES / 6_000 + 1);
        // While groups are small, a batch that would fill one is not small.
        room.set_limit(8 * 1024);
        room.on_taken();
        assert!(enter(&mut room, 1, 6_000).is_err());
        enter(&mut room, 2, 100).unwrap();
    }

    #[test]
    fn batch_that_leaves_makes_room_for_the_next() {
        let (mut room, many) = full(12);
        let woken = Arc::new(Woken::default());
        let mut waker = Waker::from(Arc::clone(&woken));
        assert!(!room.is_admitted(many[11], 10_000, &mut waker));
        assert_eq!(room.on_taken().len(), 10);
        // The tenth was admitted, and is not in a group yet; the eleventh waits.
        assert!(room.leave(many[10]).1.is_some());
        let (wakers, own) = room.leave(many[9]);
        assert!(own.is_none() && wakers.len() == 1);
        wakers.into_iter().for_each(Waker::wake);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        for ticket in many {
            room.leave(ticket);
        }
        assert!(room.is_empty());
    }

    #[test]
    fn late_caller_holds_up_no_other() {
        let (mut room, many) = full(20);
        assert_eq!(room.on_taken().len(), 10);
        // None of the ten has added its batch when the groups are taken again.
        assert_eq!(room.on_taken().len(), 10);
        assert!(many.into_iter().all(|ticket| is_admitted(&mut room, ticket)));
        assert_eq!(room.bytes, 20 * 10_000);
    }

    #[test]
    fn closed_room_wakes_all_that_wait() {
        let (mut room, many) = full(20);
        assert_eq!(room.close().len(), 20);
        many.into_iter().for_each(|ticket| _ = room.leave(ticket));
        room.on_taken();
        assert!(room.is_empty());
    }
}
