//! Where a client stands with its connections, taken together.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::connect::ConnectionState;

/// Where each connection stands, and a watch of what that comes to.
#[derive(Debug)]
pub(super) struct Standing {
    each: Mutex<Box<[ConnectionState]>>,
    together: watch::Sender<ConnectionState>,
}

impl Standing {
    /// So many connections, of which none has been made.
    pub(super) fn new(connections: usize) -> Self {
        let none = ConnectionState::Disconnected;
        Self {
            each: Mutex::new(vec![none; connections].into()),
            together: watch::Sender::new(none),
        }
    }

    pub(super) fn together(&self) -> &watch::Sender<ConnectionState> {
        &self.together
    }

    pub(super) fn set(&self, connection: usize, state: ConnectionState) {
        // Under the watch's own lock, so that who changes last also tells last.
        self.together.send_if_modified(|together| {
            let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
            each[connection] = state;
            let now = merged(&each);
            std::mem::replace(together, now) != now
        });
    }

    pub(super) fn is_connected(&self, connection: usize) -> bool {
        let each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        each[connection] == ConnectionState::Connected
    }
}

/// What the best of them is: all lead to the same server, so one that is there says that it can be
/// reached, and others may have nothing to do.
fn merged(each: &[ConnectionState]) -> ConnectionState {
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

        let standing = Standing::new(2);
        let mut state = standing.together().subscribe();
        for (connection, own, together) in [
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
            standing.set(connection, own);
            assert_eq!(state.has_changed().unwrap(), before != together);
            assert_eq!(*state.borrow_and_update(), together);
        }
    }
}
