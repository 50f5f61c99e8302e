//! Any number of puts with one wait.

use std::{future::poll_fn, sync::Arc};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    pipeline::{Progress, WaiterId},
    shared::Shared,
};
use crate::{
    error::{BatchError, Error},
    metric::Sample,
    protocol::{self, NotFinite},
};

/// How many samples become one entry of the pipeline: enough that what an entry costs does not
/// count, few enough that other callers get their turn between them.
const BLOCK: usize = 512;

pub(super) async fn put_all(shared: &Shared, samples: &[Sample]) -> Result<(), Error> {
    for sample in samples {
        NotFinite::check(&sample.key, sample.point.value)?;
    }
    let batch = Batch::begin(shared);
    let mut puts = BytesMut::new();
    let mut accepted = 0;
    let mut failure = None;
    while accepted < samples.len() {
        let Some(room) = batch.room().await else {
            break;
        };
        let rest = &samples[accepted..];
        let block = &rest[..rest.len().min(room)];
        puts.clear();
        for Sample { key, point } in block {
            protocol::encode_put(&mut puts, key, *point);
        }
        if let Err(error) = batch.extend(accepted, block.len(), &puts) {
            failure = Some((accepted, error));
            break;
        }
        accepted += block.len();
    }
    let progress = batch.finished().await;
    match progress.failure.or(failure) {
        None => Ok(()),
        Some((first_failed, error)) => Err(Error::Batch(Arc::new(BatchError {
            acknowledged: progress.acknowledged,
            total: samples.len(),
            first_failed,
            error,
        }))),
    }
}

/// A batch in the pipeline. Dropped, it withdraws what has not been sent.
struct Batch<'a> {
    shared: &'a Shared,
    waiter: WaiterId,
}

impl<'a> Batch<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let waiter = shared.pipeline().begin_batch();
        Self { shared, waiter }
    }

    /// How many samples may be added, once any may; `None` if adding more is of no use.
    ///
    /// A batch holds back so that what it has accepted can be answered before its deadline: with a
    /// server that takes one request at a time, one waits while one is under way; else as many as
    /// may be in flight.
    async fn room(&self) -> Option<usize> {
        poll_fn(|cx| {
            let mut pipeline = self.shared.pipeline();
            let width = pipeline.width();
            let block = BLOCK.min(width);
            let window = 2 * width;
            pipeline
                .poll_batch(self.waiter, window - block, cx.waker())
                .map(|progress| (!progress.broken).then_some(block))
        })
        .await
    }

    fn extend(&self, index: usize, samples: usize, puts: &[u8]) -> Result<(), Error> {
        let now = Instant::now();
        let driver = self.shared.pipeline().extend_batch(self.waiter, index, samples, puts, now)?;
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(())
    }

    /// How the batch went, once everything that was accepted has an outcome.
    async fn finished(&self) -> Progress {
        poll_fn(|cx| {
            self.shared.pipeline().poll_batch(self.waiter, 0, cx.waker()).map(Progress::clone)
        })
        .await
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.shared.abandon(self.waiter);
    }
}
