//! A session's calls of its store, and the answers that it makes of their outcomes.

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
    /// Applies the batched puts, and answers them.
    pub(super) async fn apply(&mut self) -> Result<(), CloseReason> {
        let count = self.puts.len();
        if count == 0 {
            return Ok(());
        }
        let unapplied = self.shared.count_unapplied(self.puts.memory());
        let applied =
            within(self.shared.limits.store_timeout, self.shared.store.apply(&self.puts)).await;
        drop(unapplied);
        self.puts.clear();
        match applied.unwrap_or_else(|_| Err(timed_out())) {
            Ok(()) => {
                self.shared.log_limits.puts.on_success();
                self.acknowledge(count);
                Ok(())
            }
            Err(error) => self.answer_puts(count, &error).await,
        }
    }

    fn acknowledge(&mut self, count: usize) {
        self.shared.counters.puts.add(count);
        let output = &mut self.transport.output;
        output.reserve(count * ACK.len());
        (0..count).for_each(|_| output.put_slice(ACK));
    }

    /// Answers `count` puts, of which at least one failed.
    async fn answer_puts(&mut self, count: usize, error: &StoreError) -> Result<(), CloseReason> {
        let has_none = || (0..count).all(|index| error.of_put(index).is_some());
        let is_down = error.is_of_all() || (error.is_transient() && has_none());
        if is_down {
            self.shared.log_limits.puts.on_failure(self.peer.as_ref(), error);
        }
        for index in 0..count {
            match error.of_put(index) {
                None => {
                    self.shared.log_limits.puts.on_success();
                    self.acknowledge(1);
                }
                Some(error) => {
                    if !is_down {
                        self.shared.log_limits.puts.on_rejected(self.peer.as_ref(), error);
                    }
                    self.reply_store_error(error)?;
                }
            }
            // An error message may be much longer than its put.
            self.wait_for_capacity().await?;
        }
        Ok(())
    }

    /// Answers a get, block by block.
    pub(super) async fn get(&mut self, selector: &Selector) -> Result<(), CloseReason> {
        let shared = Arc::clone(&self.shared);
        shared.counters.gets.add(1);
        let timeout = shared.limits.store_timeout;
        let snapshot = within(timeout, shared.store.get(selector)).await;
        let mut snapshot = match snapshot.unwrap_or_else(|_| Err(timed_out())) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                shared.log_limits.gets.on_failure(self.peer.as_ref(), &error);
                return self.reply_store_error(&error);
            }
        };
        let begin = self.transport.output.len();
        let mut is_partly_sent = false;
        self.transport.output.put_slice(OK);
        loop {
            let block = within(timeout, snapshot.next_block()).await;
            let Block { key, points } = match block.unwrap_or_else(|_| Err(timed_out())) {
                Ok(Some(block)) => block,
                Ok(None) => break,
                Err(error) => {
                    shared.log_limits.gets.on_failure(self.peer.as_ref(), &error);
                    if is_partly_sent {
                        shared.counters.failed.add(1);
                        return Err(CloseReason::Store);
                    }
                    self.transport.output.truncate(begin);
                    return self.reply_store_error(&error);
                }
            };
            for points in points.chunks(POINTS_PER_CAPACITY_CHECK) {
                encode_records(&mut self.transport.output, key.into(), points);
                if self.transport.is_full() {
                    self.drain().await?;
                    is_partly_sent = true;
                    self.yield_slice().await?;
                }
            }
        }
        self.transport.output.put_u8(b'\n');
        shared.log_limits.gets.on_success();
        Ok(())
    }

    /// Answers a request with the store's error, or ends the connection without an answer if the error is
    /// transient: a client takes an `error` for final, and retries what was not answered.
    fn reply_store_error(&mut self, error: &StoreError) -> Result<(), CloseReason> {
        self.shared.counters.failed.add(1);
        if error.is_transient() {
            return Err(CloseReason::StoreTransient);
        }
        let message = error.to_string().chars().take(MAX_MESSAGE_CHARS).collect();
        self.codec
            .encode(Response::Error(message), &mut self.transport.output)
            .expect("only a malformed response cannot be encoded");
        Ok(())
    }
}

fn timed_out() -> StoreError {
    StoreError::transient("store timeout")
}

const OK: &[u8] = b"ok\n";
pub(super) const ACK: &[u8] = b"ok\n\n";

/// How many characters of a store's message are sent to the peer.
const MAX_MESSAGE_CHARS: usize = 200;

/// How many records are encoded before the size of the output is checked: a block may have thousands of
/// points of a key of 1 KiB.
const POINTS_PER_CAPACITY_CHECK: usize = 64;
