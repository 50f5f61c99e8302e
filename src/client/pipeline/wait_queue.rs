//! A FIFO queue that any member can leave in the time of a binary search.

use std::collections::VecDeque;

use super::steps;

/// Values in the order of their sequence numbers.
///
/// Leaving costs a binary search, however many stay: a member that has left keeps its slot, so that
/// nothing behind it moves. Vacant slots are removed once they are more than the others, so each is
/// visited a constant number of times.
#[derive(Debug)]
pub(super) struct WaitQueue<T> {
    /// The first slot is never vacant.
    slots: VecDeque<(u64, Option<T>)>,
    vacant: usize,
}

impl<T> WaitQueue<T> {
    pub(super) const fn new() -> Self {
        Self { slots: VecDeque::new(), vacant: 0 }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.vacant
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds a value; `seq` must be larger than all before it.
    pub(super) fn push(&mut self, seq: u64, value: T) {
        debug_assert!(self.slots.back().is_none_or(|&(last, _)| last < seq));
        self.slots.push_back((seq, Some(value)));
    }

    pub(super) fn front(&self) -> Option<(u64, &T)> {
        self.slots.front().and_then(|(seq, value)| Some((*seq, value.as_ref()?)))
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let (_, value) = self.slots.pop_front()?;
        self.drop_vacant_front();
        value
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.find(seq).is_some_and(|at| self.slots[at].1.is_some())
    }

    pub(super) fn get_mut(&mut self, seq: u64) -> Option<&mut T> {
        let at = self.find(seq)?;
        self.slots[at].1.as_mut()
    }

    pub(super) fn remove(&mut self, seq: u64) -> Option<T> {
        let at = self.find(seq)?;
        let value = self.slots[at].1.take()?;
        self.vacant += 1;
        self.drop_vacant_front();
        if self.vacant > self.slots.len() / 2 {
            steps::count(self.slots.len());
            self.slots.retain(|(_, value)| value.is_some());
            self.vacant = 0;
        }
        Some(value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|(_, value)| value.as_ref())
    }

    /// Removes all, in their order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.vacant = 0;
        std::mem::take(&mut self.slots).into_iter().filter_map(|(_, value)| value)
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Gives back the room for more than twice as many as given, if there is much more.
    pub(super) fn shrink_to(&mut self, values: usize) {
        if self.slots.capacity() / 4 > values {
            self.slots.shrink_to(2 * values);
        }
    }

    fn find(&self, seq: u64) -> Option<usize> {
        let seq_of = |&(seq, _): &(u64, Option<T>)| {
            steps::count(1);
            seq
        };
        // The member that is served next looks often, and needs no search.
        if self.slots.front().is_some_and(|&(first, _)| first == seq) {
            return Some(0);
        }
        self.slots.binary_search_by_key(&seq, seq_of).ok()
    }

    fn drop_vacant_front(&mut self) {
        while let Some((_, None)) = self.slots.front() {
            steps::count(1);
            self.slots.pop_front();
            self.vacant -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum WaitQueueOp {
        Push,
        Pop,
        /// The member of this number leaves, if it is one.
        Remove(u64),
    }

    fn event() -> impl Strategy<Value = WaitQueueOp> {
        prop_oneof![
            3 => Just(WaitQueueOp::Push),
            1 => Just(WaitQueueOp::Pop),
            2 => (0_u64..60).prop_map(WaitQueueOp::Remove),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_holds_what_an_ordered_map_holds(events in proptest::collection::vec(event(), 1..80)) {
            let (mut queue, mut model) = (WaitQueue::new(), BTreeMap::new());
            for (next, event) in events.into_iter().enumerate() {
                match event {
                    WaitQueueOp::Push => {
                        queue.push(next as u64, next);
                        model.insert(next as u64, next);
                    }
                    WaitQueueOp::Pop => {
                        assert_eq!(queue.pop(), model.pop_first().map(|(_, value)| value));
                    }
                    WaitQueueOp::Remove(seq) => {
                        assert_eq!(queue.contains(seq), model.contains_key(&seq));
                        assert_eq!(queue.get_mut(seq), model.get_mut(&seq));
                        assert_eq!(queue.remove(seq), model.remove(&seq));
                    }
                }
                assert_eq!(queue.front(), model.first_key_value().map(|(&seq, value)| (seq, value)));
                assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
                assert!(queue.values().eq(model.values()));
                assert!(queue.slots.len() <= 2 * model.len() + 1, "{} slots", queue.slots.len());
            }
            assert!(queue.drain().eq(model.into_values()));
            assert!(queue.is_empty());
            assert_eq!(queue.len(), 0);
        }
    }
}
