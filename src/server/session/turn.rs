//! Whose turn it is, where many sessions have much to do.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::yield_now,
};

use super::{End, Session};
use crate::{
    server::wire::{MAX_READ, MIN_READ},
    store::Store,
};

/// A session does a little whenever it is roused, and waits for a turn before it does more. Turns are
/// few, and given in the order in which they are asked for: however many peers flood the server, one
/// that asks for little waits for none of them, and one that asks for much for one turn of each.
impl<Io, S> Session<Io, S>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    S: Store,
{
    /// To be called before what was read is answered.
    pub(super) async fn before_answers(&mut self, read: usize) -> Result<(), End> {
        self.turn_bytes += read;
        if self.turn_bytes > LITTLE && self.turn.is_none() {
            self.wait_for_turn().await?;
        }
        Ok(())
    }

    /// To be called when all that was read is answered.
    pub(super) async fn after_answers(&mut self) -> Result<(), End> {
        let mut enough = MAX_READ / 2;
        if self.is_crowded() {
            self.wire.read_little();
            enough = MIN_READ;
        }
        if self.turn_bytes >= enough {
            self.let_others_go_first().await?;
        }
        Ok(())
    }

    /// Whether an answer is too large to go on with it out of turn.
    pub(super) fn needs_turn(&self) -> bool {
        self.turn.is_none() && self.wire.output.len() > LITTLE
    }

    /// Waits for a turn; there must be no put that is not applied.
    pub(super) async fn wait_for_turn(&mut self) -> Result<(), End> {
        let turns = &self.shared.turns;
        if let Ok(turn) = Arc::clone(turns).try_acquire_owned() {
            self.turn = Some(turn);
            return Ok(());
        }
        self.puts.release();
        let mut turn = pin!(Arc::clone(turns).acquire_owned());
        let turn = poll_fn(|cx| {
            // Its socket rouses it no more, or the runtime's queue would be full of such as this.
            if let Err(end) = self.wire.stand_by(cx) {
                return Poll::Ready(Err(end));
            }
            turn.as_mut().poll(cx).map(Ok)
        })
        .await?;
        self.turn = turn.ok();
        // The runtime looks at its sockets before it resumes whoever has yielded, and otherwise
        // only after dozens of turns.
        yield_now().await;
        Ok(())
    }

    /// Ends a turn, and waits for the next where others wait for theirs. There must be no put that
    /// is not applied.
    pub(super) async fn let_others_go_first(&mut self) -> Result<(), End> {
        self.rest();
        if self.is_crowded() {
            poll_fn(|cx| Poll::Ready(self.wire.write_some(cx))).await?;
            return self.wait_for_turn().await;
        }
        yield_now().await;
        Ok(())
    }

    /// Whether nobody can have a turn without waiting for it.
    fn is_crowded(&self) -> bool {
        self.shared.turns.available_permits() == 0
    }

    /// Ends a turn, for there is nothing to do, or nothing that can be done.
    pub(super) fn rest(&mut self) {
        self.turn = None;
        self.turn_bytes = 0;
    }
}

/// How many sessions may have their turn at once: enough to keep the threads of a large machine
/// busy, and few enough that nobody notices who comes after them.
pub(super) const TURNS: usize = 16;

/// How much may be read, or answered, out of turn, in bytes: the longest request, or some fifty puts.
const LITTLE: usize = 2 * 1024;
