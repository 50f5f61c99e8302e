//! What a session asks of its store, and how it answers with what comes of it.

use std::sync::Arc;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::Encoder;

use metrics_client::{
    Selector,
    codec::{Response, encode_records},
};

use super::{CloseReason, Session, deadline::within};
use crate::store::{Block, Snapshot, Store, StoreError};

impl<Io, S> Session<Io, S>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    S: Store,
{
    /// Applies the puts that have gathered, and answers them.
    pub(super) async fn apply(&mut self) -> Result<(), CloseReason> {
        let count = self.puts.len();
        if count == 0 {
            return Ok(());
        }
        let applied =
            within(self.shared.limits.store_time, self.shared.store.apply(&self.puts)).await;
        self.puts.clear();
        match applied.unwrap_or_else(|_| Err(too_slow())) {
            Ok(()) => {
                self.shared.log_limits.puts.works();
                self.acknowledge(count);
                Ok(())
            }
            Err(failure) => self.answer_puts(count, &failure).await,
        }
    }

    fn acknowledge(&mut self, count: usize) {
        self.shared.counters.puts.add(count);
        let output = &mut self.transport.output;
        output.reserve(count * ACK.len());
        (0..count).for_each(|_| output.put_slice(ACK));
    }

    /// Answers each of `count` puts of which at least one failed.
    async fn answer_puts(&mut self, count: usize, failure: &StoreError) -> Result<(), CloseReason> {
        let has_none = || (0..count).all(|index| failure.of_put(index).is_some());
        let is_down = failure.is_of_all() || (failure.is_transient() && has_none());
        if is_down {
            self.shared.log_limits.puts.fails(self.peer.as_ref(), failure);
        }
        for index in 0..count {
            match failure.of_put(index) {
                None => {
                    self.shared.log_limits.puts.works();
                    self.acknowledge(1);
                }
                Some(failure) => {
                    if !is_down {
                        self.shared.log_limits.puts.refuses(self.peer.as_ref(), failure);
                    }
                    self.fail(failure)?;
                }
            }
            // What the store says may be much longer than the puts.
            self.make_room().await?;
        }
        Ok(())
    }

    /// Answers a get, block by block.
    pub(super) async fn get(&mut self, selector: &Selector) -> Result<(), CloseReason> {
        let shared = Arc::clone(&self.shared);
        shared.counters.gets.add(1);
        let time = shared.limits.store_time;
        let snapshot = within(time, shared.store.get(selector)).await;
        let mut snapshot = match snapshot.unwrap_or_else(|_| Err(too_slow())) {
            Ok(snapshot) => snapshot,
            Err(failure) => {
                shared.log_limits.gets.fails(self.peer.as_ref(), &failure);
                return self.fail(&failure);
            }
        };
        let begin = self.transport.output.len();
        let mut has_left = false;
        self.transport.output.put_slice(OK);
        loop {
            let block = within(time, snapshot.next_block()).await;
            let Block { key, points } = match block.unwrap_or_else(|_| Err(too_slow())) {
                Ok(Some(block)) => block,
                Ok(None) => break,
                Err(failure) => {
                    shared.log_limits.gets.fails(self.peer.as_ref(), &failure);
                    if has_left {
                        shared.counters.failed.add(1);
                        return Err(CloseReason::Store);
                    }
                    self.transport.output.truncate(begin);
                    return self.fail(&failure);
                }
            };
            for points in points.chunks(POINTS_PER_CAPACITY_CHECK) {
                encode_records(&mut self.transport.output, key.into(), points);
                if self.transport.is_full() {
                    self.drain().await?;
                    has_left = true;
                    self.yield_slice().await?;
                }
            }
        }
        self.transport.output.put_u8(b'\n');
        shared.log_limits.gets.works();
        Ok(())
    }

    /// Answers a request with what the store says, or ends the connection without an answer if the
    /// failure passes: a client takes an `error` for final, and sends again what was not answered.
    fn fail(&mut self, failure: &StoreError) -> Result<(), CloseReason> {
        self.shared.counters.failed.add(1);
        if failure.is_transient() {
            return Err(CloseReason::StoreTransient);
        }
        let message = failure.to_string().chars().take(MAX_MESSAGE_CHARS).collect();
        self.codec
            .encode(Response::Error(message), &mut self.transport.output)
            .expect("only a malformed response cannot be encoded");
        Ok(())
    }
}

fn too_slow() -> StoreError {
    StoreError::transient("the store takes too long")
}

const OK: &[u8] = b"ok\n";
pub(super) const ACK: &[u8] = b"ok\n\n";

/// How much of a store's message goes to the other end.
const MAX_MESSAGE_CHARS: usize = 200;

/// How many records may be made before a look at how many bytes they are: a block may have
/// thousands of points of a key of 1 KiB.
const POINTS_PER_CAPACITY_CHECK: usize = 64;
