//! The states of a client's connections, and their aggregate.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// Where a client stands with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// A connection is being made.
    Connecting,
    /// There is a connection.
    Connected,
    /// There is none. At first, and after a connection has ended while nobody waited, as when a
    /// server closes an idle one, the client dials when the next request comes. Once it has failed
    /// to connect, or has lost a connection while requests waited or to a server that broke the
    /// protocol or rejected the connection, it dials until there is a connection, also when nobody waits any more.
    Disconnected,
    /// The client serves nobody any more.
    Closed,
}

/// Where each connection stands, and a watch of what that comes to.
#[derive(Debug)]
pub(super) struct StateTracker {
    each: Mutex<Box<[ConnectionState]>>,
    aggregate: watch::Sender<ConnectionState>,
}

impl StateTracker {
    /// So many connections, of which none has been made.
    pub(super) fn new(connections: usize) -> Self {
        let none = ConnectionState::Disconnected;
        Self {
            each: Mutex::new(vec![none; connections].into()),
            aggregate: watch::Sender::new(none),
        }
    }

    pub(super) fn aggregate(&self) -> &watch::Sender<ConnectionState> {
        &self.aggregate
    }

    pub(super) fn set(&self, connection: usize, state: ConnectionState) {
        // Under the watch's own lock, so that who changes last also tells last.
        self.aggregate.send_if_modified(|aggregate| {
            let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
            each[connection] = state;
            let now = merge_states(&each);
            std::mem::replace(aggregate, now) != now
        });
    }

    pub(super) fn is_connected(&self, connection: usize) -> bool {
        let each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        each[connection] == ConnectionState::Connected
    }
}

/// What the best of them is: all lead to the same server, so one that is there says that it can be
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
    fn the_best_connection_counts_and_the_client_is_closed_when_all_are() {
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
