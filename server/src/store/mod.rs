//! Where a server keeps its points.
//!
//! A [`Store`] takes batches of puts and hands out snapshots; [`MemoryStore`] is one that forgets
//! everything when its process ends. Nothing here knows the wire or a socket.

use std::{error::Error, fmt, future::Future, sync::Arc};

use metrics_client::{Key, Metrics, Point, Sample, Selector};

mod accounting;
mod batch;
mod chunk_pool;
mod index;
mod memory;
mod points;

pub use batch::{Iter, PutBatch};
pub use memory::{MemorySnapshot, MemoryStore};

/// Keeps points, one for each key and second.
///
/// A server calls it from many connections at once. To use the store while a server serves it, give
/// the server an [`Arc`] of it, which is a store as well.
///
/// # Blocking
///
/// The futures of a store and of its snapshots run on the server's runtime, so they must not block
/// the thread: a call that waits for a disk or a lock belongs in
/// [`spawn_blocking`](tokio::task::spawn_blocking) or in a thread of the store's own. A store that
/// blocks delays every connection on the same worker thread, and no limit in time can end such a
/// call; a server that is told to stop leaves it behind when
/// [`grace_time`](crate::session::Limits::grace_time) is over. A future that waits without blocking is
/// dropped after [`store_time`](crate::session::Limits::store_time).
pub trait Store: Send + Sync + 'static {
    /// What a read hands out.
    type Snapshot: Snapshot;

    /// Applies `puts`, in their order: a later put on a key and second replaces the value.
    ///
    /// When this returns `Ok`, each of them is as safe as the store promises (a durable store:
    /// survives `kill -9`), and every [`get`](Self::get) that begins afterwards sees it. The puts
    /// of one batch were written by one peer without waiting, so a store is free to pay for a lock
    /// or a disk flush once for all of them.
    ///
    /// # Errors
    ///
    /// If not every put can be kept. The kind of error decides what becomes of the data:
    ///
    /// - [`StoreError::transient`] is for a failure that passes: a full disk, a database that cannot
    ///   be reached. The server does not answer the puts, and ends the connection; a client then
    ///   sends them again until they are stored or their deadline passes.
    /// - [`StoreError::new`] is final: each put is answered with this error, and a client does not
    ///   send it again.
    /// - [`StoreError::of_puts`] has an outcome for each put, so that one that the store refuses does
    ///   not fail the others of its batch.
    ///
    /// The first two are the outcome of every put of the batch. Puts are idempotent, so some of them
    /// may have been applied all the same.
    ///
    /// # Cancel safety
    ///
    /// A server drops this future when it has taken longer than
    /// [`store_time`](crate::session::Limits::store_time), and when it is stopped and the time of grace
    /// is over. Each put has then been applied or has not, and the store stays sound.
    fn apply(&self, puts: &PutBatch) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// A view of what `selector` names, as it was at one moment between this call and its return.
    ///
    /// What is put afterwards does not show in it, however slowly it is read, and reading it holds
    /// up nobody. A key that is not there makes an empty snapshot.
    ///
    /// # Errors
    ///
    /// If the store cannot be read. A failure that passes is [`StoreError::transient`]: the server
    /// ends the connection, and the client asks again.
    fn get(
        &self,
        selector: &Selector,
    ) -> impl Future<Output = Result<Self::Snapshot, StoreError>> + Send;
}

impl<S: Store> Store for Arc<S> {
    type Snapshot = S::Snapshot;

    fn apply(&self, puts: &PutBatch) -> impl Future<Output = Result<(), StoreError>> + Send {
        S::apply(self, puts)
    }

    fn get(
        &self,
        selector: &Selector,
    ) -> impl Future<Output = Result<S::Snapshot, StoreError>> + Send {
        S::get(self, selector)
    }
}

/// The state of a store at one moment, read block by block.
pub trait Snapshot: Send + 'static {
    /// The next block, or `None` after the last one.
    ///
    /// Keys come in the order of their first put; the blocks of one key follow each other, and its
    /// points ascend by timestamp, one for each second.
    ///
    /// # Errors
    ///
    /// If the store cannot be read; nothing can be read from this snapshot any more.
    fn next_block(&mut self) -> impl Future<Output = Result<Option<Block<'_>>, StoreError>> + Send;

    /// Reads all that is left into memory.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    fn into_metrics(mut self) -> impl Future<Output = Result<Metrics, StoreError>> + Send
    where
        Self: Sized,
    {
        async move {
            let mut samples = Vec::new();
            while let Some(Block { key, points }) = self.next_block().await? {
                samples.extend(points.iter().map(|&point| Sample { key: key.clone(), point }));
            }
            Ok(samples.into_iter().collect())
        }
    }
}

/// Some consecutive points of one key.
///
/// A block is what a reader holds in memory at once: a store keeps it to some thousands of points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block<'a> {
    /// Whose points these are.
    pub key: &'a Key,
    /// The points, ascending by timestamp.
    pub points: &'a [Point],
}

/// A store could not keep or read points.
///
/// Its `Display` is the message that a server answers with, so it says in one short line what the
/// other end should know; the cause beneath it is for the server's own log.
///
/// ```
/// use metrics_server::store::StoreError;
///
/// let full = StoreError::transient("disk full");
/// assert!(full.is_transient());
/// // The second put of a batch is refused, the others are stored.
/// let one = StoreError::of_puts([(1, StoreError::new("no such tenant"))]);
/// assert!(one.of_put(0).is_none());
/// assert_eq!(one.of_put(1).unwrap().to_string(), "no such tenant");
/// ```
#[derive(Clone, Debug)]
pub struct StoreError {
    message: Box<str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Final,
    Transient,
    /// The puts of a batch that failed, ascending by their index.
    OfPuts(Box<[(usize, StoreError)]>),
}

impl StoreError {
    /// Creates an error that is final: `message` is the answer to the request, such as
    /// `no such tenant`, and no client sends the request again.
    #[must_use]
    pub fn new(message: impl Into<Box<str>>) -> Self {
        Self { message: message.into(), source: None, kind: Kind::Final }
    }

    /// Creates an error that passes, such as `disk full`: the same request may succeed later.
    ///
    /// The server does not answer the request but ends the connection, because a client takes an
    /// `error` for final and would lose the data. It sends what was not answered again. The message
    /// is for the server's log.
    #[must_use]
    pub fn transient(message: impl Into<Box<str>>) -> Self {
        Self { message: message.into(), source: None, kind: Kind::Transient }
    }

    /// Creates the outcome of a batch of which some puts failed: each with its index in the
    /// [`PutBatch`], in any order. All other puts of the batch have been applied.
    ///
    /// An index beyond the batch has no meaning. Where one put has several errors, the first counts.
    #[must_use]
    pub fn of_puts(errors: impl IntoIterator<Item = (usize, Self)>) -> Self {
        let mut errors: Vec<_> = errors.into_iter().collect();
        errors.sort_by_key(|&(index, _)| index);
        errors.dedup_by_key(|&mut (index, _)| index);
        let message = match &errors[..] {
            [] => "no put failed".into(),
            [(_, first), ..] => format!("{} puts failed, the first with: {first}", errors.len()),
        };
        let kind = Kind::OfPuts(errors.into());
        Self { message: message.into(), source: None, kind }
    }

    /// Adds what lies beneath.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into().into()), ..self }
    }

    /// Returns true if the failure passes, so that the request may be sent again; for the errors
    /// of [`of_puts`](Self::of_puts), if all of them do.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match &self.kind {
            Kind::Final => false,
            Kind::Transient => true,
            Kind::OfPuts(errors) => {
                !errors.is_empty() && errors.iter().all(|(_, error)| error.is_transient())
            }
        }
    }

    /// Returns why the put with this index in its [`PutBatch`] failed; `None` if it was applied.
    ///
    /// An error that was not made by [`of_puts`](Self::of_puts) is the outcome of every put.
    #[must_use]
    pub fn of_put(&self, index: usize) -> Option<&Self> {
        let Kind::OfPuts(errors) = &self.kind else { return Some(self) };
        let place = errors.binary_search_by_key(&index, |&(index, _)| index).ok()?;
        errors[place].1.of_put(index)
    }

    /// Returns true if it is the outcome of every put of its batch.
    pub(crate) fn is_of_all(&self) -> bool {
        !matches!(self.kind, Kind::OfPuts(_))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // FAULTS S5, S10
    #[test]
    fn store_error_has_one_outcome_for_each_put() {
        let no = |message: &str| StoreError::new(message);
        let some = StoreError::of_puts([(7, no("c")), (2, no("a")), (2, no("b"))]);
        let said = |index| some.of_put(index).map(ToString::to_string);
        assert_eq!([2, 3, 7, 8].map(said), [Some("a".into()), None, Some("c".into()), None]);
        assert_eq!(some.to_string(), "2 puts failed, the first with: a");
        assert!(!some.is_transient() && !some.is_of_all());

        let all = StoreError::transient("disk full").with_source("no space left");
        assert!(all.of_put(5).is_some_and(StoreError::is_transient) && all.is_of_all());
        assert!(StoreError::of_puts([(1, all)]).is_transient());
        assert!(!no("never").is_transient());
        assert!(StoreError::of_puts([]).of_put(0).is_none());
    }
}
