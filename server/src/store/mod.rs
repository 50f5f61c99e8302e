//! Where a server keeps its points.
//!
//! A [`Store`] takes batches of puts and hands out snapshots; [`MemoryStore`] is one that forgets
//! everything when its process ends. Nothing here knows the wire or a socket.

use std::{error::Error, fmt, future::Future, sync::Arc};

use metrics_client::{Key, Metrics, Point, Sample, Selector};

mod batch;
mod index;
mod memory;
mod meter;
mod points;
mod spares;

pub use batch::{Iter, PutBatch};
pub use memory::{MemorySnapshot, MemoryStore};

/// Keeps points, one for each key and second.
///
/// A server calls it from many connections at once. Whoever wants to keep a hand on the store while
/// a server serves it gives the server an [`Arc`] of it, which is a store as well.
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
    /// If any of the puts may not be kept; each is then reported as failed, and sent again by a
    /// client that cares. Puts are idempotent, so some of them may have been applied all the same.
    ///
    /// # Cancel safety
    ///
    /// A server that is stopped drops this future when the time of grace is over. Each put has then
    /// been applied or has not, and the store stays sound.
    fn apply(&self, puts: &PutBatch) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// A view of what `selector` names, as it was at one moment between this call and its return.
    ///
    /// What is put afterwards does not show in it, however slowly it is read, and reading it holds
    /// up nobody. A key that is not there makes an empty snapshot.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
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
#[derive(Clone, Debug)]
pub struct StoreError {
    message: Box<str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl StoreError {
    /// A failure that `message` tells the other end about, such as `disk full`.
    #[must_use]
    pub fn new(message: impl Into<Box<str>>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// Adds what lies beneath.
    #[must_use]
    pub fn caused_by(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into().into()), ..self }
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
