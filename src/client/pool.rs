//! The connections of a client: one, or several that share its requests.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use tokio::sync::watch;

use super::{
    connector::Connector,
    dialer::{Connected, Dialer},
    driver::Driver,
    settings::ConnectionConfig,
    shared::Shared,
    state::{ConnectionState, StateTracker},
    stats::ClientStats,
};
use crate::{error::Error, metric::Selector};

/// The most connections that a client may have. More serve no server that takes requests in turns: each of
/// them costs it a task, two buffers and a descriptor.
pub(super) const MAX_CONNECTIONS: usize = 256;

/// Connections that share the requests of one client.
///
/// What concerns a key goes over the key's own connection, whatever happens to that one: puts of one key
/// are stored in their order, and a get returns what was put before it.
#[derive(Debug)]
pub(super) struct Pool {
    /// At least one.
    connections: Arc<[Arc<Shared>]>,
    /// Keyed, so that a peer that chooses keys cannot bring all of them onto one connection.
    hasher: RandomState,
    state: Arc<StateTracker>,
}

impl Pool {
    /// Creates as many pipelines as there are to be connections, none of which has a driver.
    pub(super) fn new(config: &ConnectionConfig) -> Self {
        let number = config.connections.clamp(1, MAX_CONNECTIONS);
        let state = Arc::new(StateTracker::new(number));
        let shared =
            |index| Arc::new(Shared::new(config.settings.clone(), Arc::clone(&state), index));
        Self { connections: (0..number).map(shared).collect(), hasher: RandomState::new(), state }
    }

    /// Spawns the driver of each connection. The first one gets `io`, if that is there already; the others
    /// dial when they get their first request.
    pub(super) fn spawn_drivers<C: Connector>(
        &self,
        config: &ConnectionConfig,
        dialer: &Arc<Dialer<C>>,
        mut io: Option<Connected<C::Io>>,
    ) {
        for shared in &*self.connections {
            let driver =
                Driver::new(Arc::clone(shared), config.clone(), Arc::clone(dialer), io.take());
            if let [_] = &*self.connections {
                tokio::spawn(driver);
                return;
            }
            let close_all = CloseAllOnDrop(Arc::clone(&self.connections));
            tokio::spawn(async move {
                let _close_all = close_all;
                driver.await;
            });
        }
    }

    /// Returns all connections, of which there is at least one.
    #[inline]
    pub(super) fn connections(&self) -> &[Arc<Shared>] {
        &self.connections
    }

    /// Returns the connection of this key.
    #[inline]
    pub(super) fn connection_for(&self, key: &str) -> &Arc<Shared> {
        match &*self.connections {
            [only] => only,
            connections => &connections[self.shard_of(key)],
        }
    }

    /// Returns the connection that a get uses: that of its key, or the one with the fewest requests.
    pub(super) fn connection_for_get(&self, selector: &Selector) -> &Arc<Shared> {
        match (selector, &*self.connections) {
            (_, [only]) => only,
            (Selector::Key(key), _) => self.connection_for(key.as_str()),
            (Selector::All, _) => {
                let load = |&index: &usize| {
                    let outstanding = self.connections[index].pipeline().outstanding();
                    (outstanding, !self.state.is_connected(index))
                };
                let least = (0..self.connections.len()).min_by_key(load).unwrap_or_default();
                &self.connections[least]
            }
        }
    }

    /// Returns the index of the connection of this key.
    #[inline]
    pub(super) fn shard_of(&self, key: &str) -> usize {
        match &*self.connections {
            [_] => 0,
            connections => (self.hasher.hash_one(key) % connections.len() as u64) as usize,
        }
    }

    pub(super) fn state(&self) -> &watch::Sender<ConnectionState> {
        self.state.aggregate()
    }

    pub(super) fn stats(&self) -> ClientStats {
        let each = self.connections.iter().map(|shared| shared.pipeline().stats());
        each.fold(ClientStats::default(), ClientStats::plus)
    }

    pub(super) fn close(&self) {
        self.connections.iter().for_each(|shared| shared.close());
    }

    /// Fails every outstanding request, so that the connections close at once.
    pub(super) fn abort(&self) {
        self.connections.iter().for_each(|shared| shared.abort());
    }

    pub(super) fn close_failure(&self) -> Option<Error> {
        self.connections.iter().find_map(|shared| shared.pipeline().close_failure())
    }
}

/// Closes the client when one of its connections has ended for good: one that does not reconnect, or
/// whose driver has panicked. There is no connection for its keys any more.
struct CloseAllOnDrop(Arc<[Arc<Shared>]>);

impl Drop for CloseAllOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(|shared| shared.close());
    }
}
