//! What is watched: the newest point of each key that a viewer wants, and the events that viewers share.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use metrics_client::{Key, Point, codec::KeyRef};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::selection::LiveSelection;
use crate::{
    http::{HttpLimits, points::write_json_text},
    store::PutBatch,
};

/// The watched keys of all viewers.
#[derive(Debug)]
pub(crate) struct Hub {
    list: Mutex<WatchList>,
    /// The number of the last change; viewers wait for it.
    version: watch::Sender<u64>,
    /// One permit for each viewer.
    admission: Arc<Semaphore>,
    max_keys: usize,
    /// Ends the streams.
    stopping: CancellationToken,
}

#[derive(Debug)]
struct WatchList {
    keys: HashMap<Key, Arc<Watched>>,
    /// Groups with patterns and those without; a group lives as long as it has a viewer.
    groups: HashMap<LiveSelection, Weak<ViewerGroup>>,
    /// The hashes of keys that no pattern matches, so that each is compared once.
    unwatched: HashSet<u64>,
    hasher: RandomState,
    has_patterns: bool,
    /// The number of the change that is being collected.
    next: u64,
    /// True if there is something in it.
    is_dirty: bool,
    is_collecting: bool,
}

/// A watched key.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) key: Key,
    newest: Mutex<Newest>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    /// `None` until a point is put, or read from the store.
    point: Option<Point>,
    /// The number of the change that it came with.
    version: u64,
}

impl Watched {
    fn newest(&self) -> MutexGuard<'_, Newest> {
        lock(&self.newest)
    }

    /// Returns false if there is a later point.
    fn put(&self, point: Point, version: u64) -> bool {
        let mut newest = self.newest();
        if newest.point.is_some_and(|newest| newest.timestamp > point.timestamp) {
            return false;
        }
        *newest = Newest { point: Some(point), version };
        true
    }
}

impl Hub {
    pub(crate) fn new(stopping: CancellationToken, limits: &HttpLimits) -> Arc<Self> {
        // A number behind those of an earlier process, so that a viewer that comes back gets everything.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let version = u64::try_from(now.as_millis()).unwrap_or(0);
        let list = WatchList {
            keys: HashMap::new(),
            groups: HashMap::new(),
            unwatched: HashSet::new(),
            hasher: RandomState::new(),
            has_patterns: false,
            next: version + 1,
            is_dirty: false,
            is_collecting: false,
        };
        Arc::new(Self {
            list: Mutex::new(list),
            version: watch::Sender::new(version),
            admission: Arc::new(Semaphore::new(limits.max_live_streams)),
            max_keys: limits.max_live_keys,
            stopping,
        })
    }

    fn list(&self) -> MutexGuard<'_, WatchList> {
        lock(&self.list)
    }

    /// Returns how many viewers there are.
    pub(crate) fn viewers(&self) -> usize {
        self.version.receiver_count()
    }

    pub(super) fn try_admit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.admission).try_acquire_owned().ok()
    }

    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Subscribes a viewer. Returns true too if it has to start the task that collects.
    pub(super) fn subscribe(&self) -> (watch::Receiver<u64>, bool) {
        let viewer = self.version.subscribe();
        let is_first = !std::mem::replace(&mut self.list().is_collecting, true);
        (viewer, is_first)
    }

    /// Returns the group of a selection, and true if it is new, so that the keys of its patterns have to be
    /// [added](Self::watch).
    pub(super) fn group(&self, selection: LiveSelection) -> (Arc<ViewerGroup>, bool) {
        let mut list = self.list();
        if let Some(group) = list.groups.get(&selection).and_then(Weak::upgrade) {
            return (group, false);
        }
        let group = Arc::new(ViewerGroup {
            selection: selection.clone(),
            max_keys: self.max_keys,
            members: Mutex::default(),
            is_limited: AtomicBool::new(false),
            event: Mutex::default(),
        });
        for key in &selection.keys {
            let watched = list.watched(key.clone());
            group.add(watched);
        }
        if !selection.patterns.is_empty() {
            list.has_patterns = true;
            list.unwatched.clear();
        }
        list.groups.insert(selection, Arc::downgrade(&group));
        (group, true)
    }

    /// Adds a key that is in the store to a group.
    pub(super) fn watch(&self, group: &ViewerGroup, key: Key) {
        let watched = self.list().watched(key);
        group.add(watched);
    }

    /// Returns the groups with patterns.
    pub(super) fn pattern_groups(&self) -> Vec<Arc<ViewerGroup>> {
        let list = self.list();
        let groups = list.groups.values().filter_map(Weak::upgrade);
        groups.filter(|group| !group.selection.patterns.is_empty()).collect()
    }

    /// Returns all watched keys.
    pub(super) fn watched(&self) -> Vec<Arc<Watched>> {
        self.list().keys.values().cloned().collect()
    }

    #[cfg(test)]
    pub(crate) fn is_collecting(&self) -> bool {
        self.list().is_collecting
    }

    #[cfg(test)]
    pub(crate) fn watched_keys(&self) -> usize {
        self.list().keys.len()
    }

    /// Takes points that were applied.
    pub(super) fn apply(&self, puts: &PutBatch) {
        let mut list = self.list();
        let list = &mut *list;
        for (key, point) in puts {
            if let Some(watched) = list.keys.get(key) {
                list.is_dirty |= watched.put(point, list.next);
            } else if list.has_patterns && list.unwatched.insert(list.hasher.hash_one(key)) {
                list.found(key, point);
                if list.unwatched.len() > MAX_UNWATCHED {
                    list.unwatched = HashSet::new();
                }
            }
        }
    }

    /// Takes the last point of a key, read from the store.
    pub(super) fn put(&self, watched: &Watched, point: Point) {
        let mut list = self.list();
        let is_new = watched.newest().point.is_none_or(|newest| {
            (newest.timestamp, newest.value.to_bits()) != (point.timestamp, point.value.to_bits())
        });
        if is_new {
            list.is_dirty |= watched.put(point, list.next);
        }
    }

    /// Shows a viewer that has come back what it has missed with the next change, even if nothing is put.
    pub(super) fn show_soon(&self) {
        self.list().is_dirty = true;
    }

    /// Shows the viewers what was collected. Returns false if there is no viewer.
    pub(super) fn publish(&self) -> bool {
        let mut list = self.list();
        if self.version.receiver_count() == 0 {
            *list = WatchList {
                keys: HashMap::new(),
                groups: HashMap::new(),
                unwatched: HashSet::new(),
                hasher: RandomState::new(),
                has_patterns: false,
                next: list.next,
                is_dirty: false,
                is_collecting: false,
            };
            return false;
        }
        if std::mem::take(&mut list.is_dirty) {
            let version = list.next;
            list.next += 1;
            drop(list);
            self.version.send_replace(version);
        }
        true
    }

    /// Forgets the keys and groups that no viewer wants any more.
    pub(super) fn prune(&self) {
        let mut list = self.list();
        list.groups.retain(|_, group| group.strong_count() > 0);
        list.keys.retain(|_, watched| Arc::strong_count(watched) > 1);
        list.has_patterns = list.groups.keys().any(|selection| !selection.patterns.is_empty());
    }
}

impl WatchList {
    fn watched(&mut self, key: Key) -> Arc<Watched> {
        let entry = self.keys.entry(key);
        let key = entry.key().clone();
        let new = || Arc::new(Watched { key, newest: Mutex::default() });
        Arc::clone(entry.or_insert_with(new))
    }

    /// Adds a key that was put for the first time to the groups whose patterns match.
    fn found(&mut self, key: &str, point: Point) {
        let groups = self.groups.iter();
        let groups = groups.filter(|(selection, _)| selection.matches_pattern(key));
        let groups: Vec<_> = groups.filter_map(|(_, group)| group.upgrade()).collect();
        if groups.is_empty() {
            return;
        }
        // Every key of a batch is valid.
        let Ok(key) = KeyRef::new(key) else { return };
        let watched = self.watched(key.to_key());
        self.is_dirty |= watched.put(point, self.next);
        groups.iter().for_each(|group| group.add(Arc::clone(&watched)));
    }
}

/// How many hashes of unwatched keys are kept: some 2 MiB.
const MAX_UNWATCHED: usize = 100_000;

/// The viewers of one selection.
#[derive(Debug)]
pub(super) struct ViewerGroup {
    pub(super) selection: LiveSelection,
    max_keys: usize,
    members: Mutex<Vec<Arc<Watched>>>,
    /// True if more keys match than a viewer may have.
    is_limited: AtomicBool,
    /// The last event, which viewers share.
    event: Mutex<Option<SharedPiece>>,
}

/// A piece, and what it is for.
#[derive(Clone, Debug)]
struct SharedPiece {
    seen: u64,
    target: u64,
    cursor: usize,
    piece: Piece,
}

/// A part of the changes between two versions.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// As JSON: `[["palm.cpu",1150864247,23.7]]`; empty if nothing has changed.
    pub(super) rows: Arc<str>,
    /// Where the next piece begins; `None` at the end.
    pub(super) next: Option<usize>,
}

impl ViewerGroup {
    fn add(&self, watched: Arc<Watched>) {
        let mut members = lock(&self.members);
        if members.iter().any(|member| Arc::ptr_eq(member, &watched)) {
            return;
        }
        if members.len() < self.max_keys {
            members.push(watched);
        } else {
            self.is_limited.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn members(&self) -> Vec<Arc<Watched>> {
        lock(&self.members).clone()
    }

    pub(super) fn max_keys(&self) -> usize {
        self.max_keys
    }

    pub(super) fn is_limited(&self) -> bool {
        self.is_limited.load(Ordering::Relaxed)
    }

    /// Returns the changes after `seen`, of the members from `cursor` on.
    pub(super) fn piece(&self, seen: u64, target: u64, cursor: usize) -> Piece {
        let mut event = lock(&self.event);
        if let Some(shared) = &*event
            && (shared.seen, shared.target, shared.cursor) == (seen, target, cursor)
        {
            return shared.piece.clone();
        }
        let piece = self.write_piece(seen, cursor);
        *event = Some(SharedPiece { seen, target, cursor, piece: piece.clone() });
        piece
    }

    fn write_piece(&self, seen: u64, cursor: usize) -> Piece {
        let members = lock(&self.members);
        let mut rows = Vec::new();
        let mut next = None;
        for (index, member) in members.iter().enumerate().skip(cursor) {
            let Newest { point, version } = *member.newest();
            let Some(point) = point.filter(|_| version > seen) else { continue };
            if rows.len() >= PIECE_BYTES {
                next = Some(index);
                break;
            }
            write_row(&mut rows, &member.key, point);
        }
        if !rows.is_empty() {
            rows.push(b']');
        }
        // It is made of strings and digits.
        Piece { rows: String::from_utf8(rows).unwrap_or_default().into(), next }
    }
}

/// About how long an event is at most, in bytes: what a slow viewer keeps in memory.
const PIECE_BYTES: usize = 32 * 1024;

fn write_row(rows: &mut Vec<u8>, key: &Key, point: Point) {
    rows.extend_from_slice(if rows.is_empty() { b"[[" } else { b",[" });
    write_json_text(rows, key.as_str());
    let (mut second, mut value) = (itoa::Buffer::new(), zmij::Buffer::new());
    rows.push(b',');
    rows.extend_from_slice(second.format(point.timestamp).as_bytes());
    rows.push(b',');
    rows.extend_from_slice(value.format_finite(point.value).as_bytes());
    rows.push(b']');
}

/// Locks what every step leaves consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
