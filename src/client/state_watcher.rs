//! `StateWatcher`: waits for changes of a client's state.

use std::fmt;

use tokio::{sync::watch, task::coop};

use super::state::ConnectionState;

/// Follows the [`ConnectionState`] of a client; made by
/// [`MetricsClient::watch_state`](crate::MetricsClient::watch_state).
///
/// It returns values, holds no lock, and runs no code of the caller under one, so it cannot
/// block the client. It does not keep the client open. A clone continues from where the
/// original is.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr();
/// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
/// use metrics_client::{MetricsClient, client::ConnectionState};
///
/// let client = MetricsClient::connect(address).await?;
/// let mut states = client.watch_state();
/// tokio::spawn(async move {
///     while let Some(state) = states.changed().await {
///         println!("the client is {state:?} now");
///     }
/// });
/// client.close().await?;
/// assert_eq!(client.state(), ConnectionState::Closed);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct StateWatcher {
    states: watch::Receiver<ConnectionState>,
    /// The last state that the caller has seen, at first the one when the watcher was made.
    seen: ConnectionState,
}

impl StateWatcher {
    pub(super) fn new(mut states: watch::Receiver<ConnectionState>) -> Self {
        let seen = *states.borrow_and_update();
        Self { states, seen }
    }

    /// Returns the current state. The next [`changed`](Self::changed) still returns it.
    #[must_use]
    pub fn get(&self) -> ConnectionState {
        *self.states.borrow()
    }

    /// Waits until the state has changed since this watcher was made or last waited, and returns the new
    /// one. Of several changes in the meantime only the last is seen.
    ///
    /// Returns `None` once [`ConnectionState::Closed`] has been returned, or was the state when the watcher was
    /// made: no change follows that one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no change.
    pub async fn changed(&mut self) -> Option<ConnectionState> {
        if self.seen == ConnectionState::Closed {
            coop::consume_budget().await;
            return None;
        }
        // The sender ends with the client, whose last state is `Closed`.
        self.states.changed().await.ok()?;
        Some(self.see())
    }

    /// Waits until `predicate` accepts the state, the present one first, and returns the accepted state; or
    /// `None` if the client is closed and `predicate` does not accept that either.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no change but those that `predicate` has been asked about.
    pub async fn wait_for(
        &mut self,
        mut predicate: impl FnMut(ConnectionState) -> bool,
    ) -> Option<ConnectionState> {
        coop::consume_budget().await;
        let mut state = self.see();
        // Not `Receiver::wait_for`: that asks the predicate under the lock that the driver needs.
        while !predicate(state) {
            state = self.changed().await?;
        }
        Some(state)
    }

    fn see(&mut self) -> ConnectionState {
        self.seen = *self.states.borrow_and_update();
        self.seen
    }
}

impl fmt::Debug for StateWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateWatcher").field("state", &self.get()).finish_non_exhaustive()
    }
}
