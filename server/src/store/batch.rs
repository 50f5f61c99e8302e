//! Batches of puts.

use std::{net::IpAddr, ops::Range};

use metrics_client::{Key, Point, codec::KeyRef};

/// A batch of puts, in order.
///
/// It stores its keys in one string, so a batch that is cleared and filled again allocates nothing.
///
/// ```
/// use metrics_client::{Key, Point};
/// use metrics_server::store::PutBatch;
///
/// let mut puts = PutBatch::new();
/// puts.push(&Key::new("palm.cpu")?, Point::new(23.7, 1150864247));
/// assert_eq!(puts.iter().collect::<Vec<_>>(), [("palm.cpu", Point::new(23.7, 1150864247))]);
/// # Ok::<(), metrics_client::error::InvalidKey>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct PutBatch {
    keys: String,
    /// Each put with the range of its key in `keys`.
    puts: Vec<(Range<usize>, Point)>,
    source: Option<IpAddr>,
}

impl PutBatch {
    /// Creates an empty batch without a source.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty batch for the puts of one source: the address of a peer, or for IPv6 the first 64 bits of
    /// it, since a host may use every address of its network.
    ///
    /// A store that is busy divides its time between sources. All batches without a source are one.
    #[must_use]
    pub fn from_source(source: IpAddr) -> Self {
        Self { source: Some(source), ..Self::default() }
    }

    /// Returns whose puts they are, if that is known.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// Adds a put.
    pub fn push(&mut self, key: &Key, point: Point) {
        self.push_ref(key.into(), point);
    }

    /// Adds a put of a valid key.
    pub(crate) fn push_ref(&mut self, key: KeyRef<'_>, point: Point) {
        self.push_str(key.as_str(), point);
    }

    fn push_str(&mut self, key: &str, point: Point) {
        let range = match self.puts.last() {
            // Consecutive puts of one key share its text.
            Some((last, _)) if self.keys[last.clone()] == *key => last.clone(),
            _ => {
                let start = self.keys.len();
                self.keys.push_str(key);
                start..self.keys.len()
            }
        };
        self.puts.push((range, point));
    }

    /// Removes all puts, and keeps the source and the memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.puts.clear();
    }

    /// Frees the memory of an empty batch, unless it is small.
    pub(crate) fn release(&mut self) {
        const KEPT: usize = 64;
        if self.puts.capacity() > KEPT || self.keys.capacity() > KEPT * 32 {
            *self = Self { source: self.source, ..Self::default() };
        }
    }

    /// Returns how many bytes of memory the batch takes.
    pub(crate) fn memory(&self) -> usize {
        self.keys.capacity() + self.puts.capacity() * size_of::<(Range<usize>, Point)>()
    }

    /// Returns the number of puts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.puts.len()
    }

    /// Returns true if there is no put.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty()
    }

    /// Returns a batch of the puts whose index `keep` selects.
    pub(crate) fn filtered(&self, keep: impl Fn(usize) -> bool) -> Self {
        let puts = self.puts.iter().enumerate();
        let puts = puts.filter(|&(index, _)| keep(index)).map(|(_, put)| put.clone());
        Self { keys: self.keys.clone(), puts: puts.collect(), source: self.source }
    }

    /// Adds the puts of another batch.
    #[cfg(any(feature = "disk", feature = "relay"))]
    pub(crate) fn append(&mut self, other: &Self) {
        let offset = self.keys.len();
        self.keys.push_str(&other.keys);
        let moved = |range: &Range<usize>| range.start + offset..range.end + offset;
        self.puts.extend(other.puts.iter().map(|(range, point)| (moved(range), *point)));
    }

    /// Splits the puts into batches, each of about `max_bytes` or of one put.
    #[cfg(feature = "disk")]
    pub(super) fn split(&self, max_bytes: usize) -> impl Iterator<Item = Self> {
        let mut puts = self.puts.iter().peekable();
        std::iter::from_fn(move || {
            let (mut batch, mut bytes) = (Self { source: self.source, ..Self::default() }, 0);
            while let Some((range, point)) = puts.next_if(|_| bytes < max_bytes) {
                batch.push_str(&self.keys[range.clone()], *point);
                bytes += range.len() + size_of::<Point>();
            }
            (!batch.is_empty()).then_some(batch)
        })
    }

    /// Returns about how many bytes the puts take.
    #[cfg(any(feature = "disk", feature = "relay"))]
    pub(crate) fn bytes(&self) -> usize {
        self.keys.len() + self.puts.len() * size_of::<Point>()
    }

    /// Iterates over the puts in order, grouped into runs of one key.
    pub(crate) fn runs(&self) -> impl Iterator<Item = KeyRun<'_>> {
        let runs = self.puts.chunk_by(|(range, _), (next, _)| range == next);
        runs.map(|puts| KeyRun { key: &self.keys[puts[0].0.clone()], puts })
    }

    /// Iterates over the puts in order; each key is valid for [`Key::new`].
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { keys: &self.keys, puts: self.puts.iter() }
    }
}

/// Consecutive puts of one key.
pub(crate) struct KeyRun<'a> {
    pub(crate) key: &'a str,
    puts: &'a [(Range<usize>, Point)],
}

impl KeyRun<'_> {
    pub(crate) fn points(&self) -> impl ExactSizeIterator<Item = Point> {
        self.puts.iter().map(|&(_, point)| point)
    }
}

impl<'a> IntoIterator for &'a PutBatch {
    type Item = (&'a str, Point);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// An iterator over the puts of a [`PutBatch`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    keys: &'a str,
    puts: std::slice::Iter<'a, (Range<usize>, Point)>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, Point);

    fn next(&mut self) -> Option<Self::Item> {
        self.puts.next().map(|(range, point)| (&self.keys[range.clone()], *point))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.puts.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_keep_their_order() {
        let rows = [("a", 1), ("a", 2), ("ab", 3), ("a", 1), ("b", 1)];
        let mut puts = PutBatch::new();
        for _ in 0..2 {
            puts.clear();
            for (key, at) in rows {
                puts.push(&Key::new(key).unwrap(), Point::new(0.5, at));
            }
            let got: Vec<_> = puts.iter().map(|(key, point)| (key, point.timestamp)).collect();
            assert_eq!(got, rows);
            assert_eq!(puts.len(), rows.len());
            #[cfg(feature = "disk")]
            for (max_bytes, lens) in [(1, vec![1; 5]), (40, vec![3, 2]), (1 << 20, vec![5])] {
                let parts: Vec<_> = puts.split(max_bytes).collect();
                assert_eq!(parts.iter().map(PutBatch::len).collect::<Vec<_>>(), lens);
                let got: Vec<_> =
                    parts.iter().flatten().map(|(key, p)| (key, p.timestamp)).collect();
                assert_eq!(got, rows);
            }
            let runs: Vec<_> = puts.runs().map(|run| (run.key, run.points().count())).collect();
            assert_eq!(runs, [("a", 2), ("ab", 1), ("a", 1), ("b", 1)]);
        }
    }
}
