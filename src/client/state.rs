//! The states of a client's connections, and their aggregate.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;

/// The state of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum ConnectionState {
    /// A connection is being made.
    Connecting,
    /// There is a connection.
    Connected,
    /// There is no connection. A new client, and one whose connection has ended while no request waited, as when a
    /// server closes an idle one, connects with the next request. A client that has failed
    /// to connect, or has lost a connection while requests waited or to a server that broke the
    /// protocol or rejected the connection, tries to connect until it succeeds, also if no request waits any more.
    Disconnected,
    /// The client is closed, and fails every call.
    Closed,
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Closed => "closed",
        })
    }
}

/// The state of each connection, and a watch of the aggregated state.
#[derive(Debug)]
pub(super) struct StateTracker {
    per_connection: Mutex<Box<[ConnectionState]>>,
    aggregate: watch::Sender<ConnectionState>,
}

impl StateTracker {
    /// Creates the tracker of this number of connections, of which none has been made.
    pub(super) fn new(connections: usize) -> Self {
        let none = ConnectionState::Disconnected;
        Self {
            per_connection: Mutex::new(vec![none; connections].into()),
            aggregate: watch::Sender::new(none),
        }
    }

    pub(super) fn aggregate(&self) -> &watch::Sender<ConnectionState> {
        &self.aggregate
    }

    pub(super) fn set(&self, connection: usize, state: ConnectionState) {
        // Under the watch's own lock, so that the last change is also the last one published.
        self.aggregate.send_if_modified(|aggregate| {
            let mut each = self.per_connection.lock().unwrap_or_else(PoisonError::into_inner);
            each[connection] = state;
            let now = merge_states(&each);
            std::mem::replace(aggregate, now) != now
        });
    }

    pub(super) fn is_connected(&self, connection: usize) -> bool {
        let each = self.per_connection.lock().unwrap_or_else(PoisonError::into_inner);
        each[connection] == ConnectionState::Connected
    }
}

/// Returns the state of the best connection: all lead to the same server, so one that is connected shows that it can be
/// reached, and others may have nothing to do.
fn merge_states(each: &[ConnectionState]) -> ConnectionState {
    [ConnectionState::Connected, ConnectionState::Connecting, ConnectionState::Disconnected]
        .into_iter()
        .find(|state| each.contains(state))
        .unwrap_or(ConnectionState::Closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregate_state_is_that_of_the_best_connection() {
        use ConnectionState::{Closed, Connected, Connecting, Disconnected};

        let tracker = StateTracker::new(2);
        let mut state = tracker.aggregate().subscribe();
        for (connection, own, aggregate) in [
            (1, Connecting, Connecting),
            (0, Connecting, Connecting),
            (1, Connected, Connected),
            (0, Disconnected, Connected),
            (1, Disconnected, Disconnected),
            (0, Closed, Disconnected),
            (1, Connected, Connected),
            (1, Closed, Closed),
        ] {
            let before = *state.borrow_and_update();
            tracker.set(connection, own);
            assert_eq!(state.has_changed().unwrap(), before != aggregate);
            assert_eq!(*state.borrow_and_update(), aggregate);
        }
    }
}
