//! The connections of a client: one, or several that share its requests.

use std::{
    hash::{BuildHasher, RandomState},
    slice,
    sync::Arc,
};

use tokio::sync::watch;

use super::{
    connector::Connector,
    dialer::{Connected, Dialer},
    driver::Driver,
    settings::{ConnectionConfig, Settings},
    shared::Shared,
    state::{ConnectionState, StateTracker},
    stats::Stats,
};
use crate::{
    error::Error,
    metric::{Sample, Selector},
};

/// The most connections that a client may have: [`ShardedConnections::shard_indices`] has a byte for each sample.
pub(super) const MAX_CONNECTIONS: usize = 256;

#[derive(Debug)]
pub(super) struct Pool {
    first: Arc<Shared>,
    /// All of them, if there are more than the first.
    several: Option<ShardedConnections>,
    state: Arc<StateTracker>,
}

/// Connections that share the requests of one client.
///
/// What concerns a key goes over the key's own connection, whatever becomes of that: puts of one key
/// are stored in their order, and a get finds what was put before it.
#[derive(Debug)]
pub(super) struct ShardedConnections {
    all: Arc<[Arc<Shared>]>,
    /// Keyed, so that nobody who chooses keys can bring them all onto one connection.
    hasher: RandomState,
}

impl Pool {
    /// As many pipelines as there are to be connections, none of which has a driver.
    pub(super) fn new(connections: usize, settings: &Settings) -> Self {
        let connections = connections.clamp(1, MAX_CONNECTIONS);
        let state = Arc::new(StateTracker::new(connections));
        let shared = |number| Arc::new(Shared::new(settings.clone(), Arc::clone(&state), number));
        let first = shared(0);
        let several = (connections > 1).then(|| ShardedConnections {
            all: [Arc::clone(&first)].into_iter().chain((1..connections).map(shared)).collect(),
            hasher: RandomState::new(),
        });
        Self { first, several, state }
    }

    /// Gives each connection its driver, and the first one `io`, if that is there already. The others
    /// dial when there is something for them.
    pub(super) fn drive<C: Connector>(
        &self,
        plan: &ConnectionConfig,
        dialer: &Arc<Dialer<C>>,
        io: Option<Connected<C::Io>>,
    ) {
        let driver = |shared: &Arc<Shared>, io| {
            Driver::new(Arc::clone(shared), plan.clone(), Arc::clone(dialer), io)
        };
        let first = driver(&self.first, io);
        let Some(ShardedConnections { all, .. }) = &self.several else {
            tokio::spawn(first);
            return;
        };
        let others = all[1..].iter().map(|shared| driver(shared, None));
        for driver in [first].into_iter().chain(others) {
            let end = CloseAllOnDrop(Arc::clone(all));
            tokio::spawn(async move {
                let _end = end;
                driver.await;
            });
        }
    }

    #[inline]
    pub(super) fn first(&self) -> &Arc<Shared> {
        &self.first
    }

    /// The connection of this key.
    #[inline]
    pub(super) fn of(&self, key: &str) -> &Arc<Shared> {
        match &self.several {
            None => &self.first,
            Some(several) => &several.all[several.shard_of(key)],
        }
    }

    /// The connection that a get takes.
    pub(super) fn for_get(&self, selector: &Selector) -> &Arc<Shared> {
        match (selector, &self.several) {
            (_, None) => &self.first,
            (Selector::Key(key), Some(several)) => &several.all[several.shard_of(key)],
            (Selector::All, Some(ShardedConnections { all, .. })) => {
                let load = |number: &usize| {
                    (all[*number].pipeline().open(), !self.state.is_connected(*number))
                };
                (0..all.len()).min_by_key(load).map_or(&self.first, |number| &all[number])
            }
        }
    }

    pub(super) fn several(&self) -> Option<&ShardedConnections> {
        self.several.as_ref()
    }

    pub(super) fn all(&self) -> &[Arc<Shared>] {
        match &self.several {
            None => slice::from_ref(&self.first),
            Some(several) => &several.all,
        }
    }

    pub(super) fn state(&self) -> &watch::Sender<ConnectionState> {
        self.state.aggregate()
    }

    pub(super) fn stats(&self) -> Stats {
        let each = self.all().iter().map(|shared| shared.pipeline().stats());
        each.fold(Stats::default(), Stats::plus)
    }

    pub(super) fn close(&self) {
        self.all().iter().for_each(|shared| shared.close());
    }

    pub(super) fn close_failure(&self) -> Option<Error> {
        self.all().iter().find_map(|shared| shared.pipeline().close_failure())
    }
}

impl ShardedConnections {
    pub(super) fn all(&self) -> &[Arc<Shared>] {
        &self.all
    }

    /// The number of the connection of each sample.
    pub(super) fn shard_indices(&self, samples: &[Sample]) -> Box<[u8]> {
        samples.iter().map(|sample| self.shard_of(&sample.key) as u8).collect()
    }

    fn shard_of(&self, key: &str) -> usize {
        (self.hasher.hash_one(key) % self.all.len() as u64) as usize
    }
}

/// Closes the client when one of its connections is at its end for good: as one that gives up, or
/// whose driver has panicked. The keys of that connection have nowhere to go any more.
struct CloseAllOnDrop(Arc<[Arc<Shared>]>);

impl Drop for CloseAllOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(|shared| shared.close());
    }
}
