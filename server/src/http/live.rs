//! `/api/v1/live`: new points as server-sent events.
//!
//! One task collects what the store has applied, and wakes the viewers a few times a second. A viewer gets the
//! newest point of each key that has changed since it looked last: one that reads slowly misses values in
//! between, and costs no more memory than one that reads fast.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use metrics_client::{Key, Point, codec::KeyRef};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{App, error::ApiError, params::Params, points::write_json_text};
use crate::store::{Applied, KeyPattern, PutBatch, Store, Subscription, Tee};

/// Collects new points for the viewers.
#[derive(Debug)]
pub(super) struct Hub {
    newest: Mutex<Newest>,
    /// The number of the last change; viewers wait for it.
    version: watch::Sender<u64>,
    /// Ends the streams.
    stopping: CancellationToken,
}

/// The newest point of each key that was put since the first viewer came.
#[derive(Debug)]
struct Newest {
    points: HashMap<Key, (Point, u64)>,
    /// The keys of the last change, for viewers that have seen all before it.
    last_change: Vec<(Key, Point)>,
    /// The number of the change that is being collected.
    next: u64,
    /// True if there is something in it.
    is_dirty: bool,
    is_running: bool,
}

impl Hub {
    pub(super) fn new(stopping: CancellationToken) -> Arc<Self> {
        // A number behind those of an earlier process, so that a viewer that comes back gets everything.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let version = u64::try_from(now.as_millis()).unwrap_or(0);
        Arc::new(Self {
            newest: Mutex::new(Newest {
                points: HashMap::new(),
                last_change: Vec::new(),
                next: version + 1,
                is_dirty: false,
                is_running: false,
            }),
            version: watch::Sender::new(version),
            stopping,
        })
    }

    fn newest(&self) -> MutexGuard<'_, Newest> {
        // Each put leaves it consistent.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many viewers there are.
    pub(super) fn viewers(&self) -> usize {
        self.version.receiver_count()
    }

    /// Subscribes a viewer, and starts to collect if it is the first.
    fn subscribe<S: Store>(self: &Arc<Self>, store: &Tee<S>) -> watch::Receiver<u64> {
        let viewer = self.version.subscribe();
        let mut newest = self.newest();
        if !std::mem::replace(&mut newest.is_running, true) {
            tokio::spawn(collect(Arc::downgrade(self), store.subscribe(), self.stopping.clone()));
        }
        viewer
    }

    fn apply(&self, puts: &PutBatch) {
        let mut newest = self.newest();
        let Newest { points, next, is_dirty, .. } = &mut *newest;
        *is_dirty = true;
        for (key, point) in puts {
            match points.get_mut(key) {
                Some((newest, _)) if newest.timestamp > point.timestamp => {}
                Some(newest) => *newest = (point, *next),
                None => {
                    // Every key of a batch is valid.
                    let Ok(key) = KeyRef::new(key) else { continue };
                    points.insert(key.to_key(), (point, *next));
                }
            }
        }
    }

    /// Shows the viewers what was collected. Returns false if there is no viewer.
    fn publish(&self) -> bool {
        let mut newest = self.newest();
        if self.version.receiver_count() == 0 {
            newest.points = HashMap::new();
            newest.last_change = Vec::new();
            newest.is_running = false;
            return false;
        }
        if std::mem::take(&mut newest.is_dirty) {
            let Newest { points, last_change, next, .. } = &mut *newest;
            last_change.clear();
            let changed = points.iter().filter(|(_, (_, version))| version == next);
            last_change.extend(changed.map(|(key, &(point, _))| (key.clone(), point)));
            let version = *next;
            *next += 1;
            drop(newest);
            self.version.send_replace(version);
        }
        true
    }

    /// Returns the points that a viewer has not seen, as JSON, and the version it has seen then.
    fn changes(&self, filter: &Filter, seen: u64) -> (Vec<u8>, u64) {
        let newest = self.newest();
        let version = newest.next - 1;
        let mut rows = Rows::default();
        if seen + 1 >= version {
            newest.last_change.iter().for_each(|(key, point)| rows.push(filter, key, *point));
        } else {
            let shown =
                newest.points.iter().filter(|(_, (_, at))| (seen + 1..=version).contains(at));
            shown.for_each(|(key, &(point, _))| rows.push(filter, key, point));
        }
        (rows.finish(), version)
    }
}

/// Collects until there is no viewer.
async fn collect(hub: Weak<Hub>, mut applied: Subscription, stopping: CancellationToken) {
    let mut timer = interval(PERIOD);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = tokio::select! {
            () = stopping.cancelled() => return,
            _ = timer.tick() => None,
            next = applied.next() => Some(next),
        };
        let Some(hub) = hub.upgrade() else { return };
        match next {
            None if !hub.publish() => return,
            // Keys of which batches were missed are shown when they are put again.
            None | Some(Some(Applied::Missed(_))) => {}
            Some(Some(Applied::Puts(puts))) => hub.apply(&puts),
            Some(None) => return,
        }
    }
}

/// How often viewers are shown new points.
const PERIOD: Duration = Duration::from_millis(200);

/// The keys that a viewer wants.
#[derive(Debug)]
struct Filter {
    keys: Vec<String>,
    patterns: Vec<KeyPattern>,
}

impl Filter {
    fn matches(&self, key: &Key) -> bool {
        self.keys.iter().any(|wanted| key == wanted)
            || self.patterns.iter().any(|pattern| pattern.matches(key.as_str()))
    }
}

/// Rows of an event: `[["palm.cpu",1150864247,23.7]]`.
#[derive(Default)]
struct Rows(Vec<u8>);

impl Rows {
    fn push(&mut self, filter: &Filter, key: &Key, point: Point) {
        if !filter.matches(key) {
            return;
        }
        self.0.extend_from_slice(if self.0.is_empty() { b"[[" } else { b",[" });
        write_json_text(&mut self.0, key.as_str());
        let (mut second, mut value) = (itoa::Buffer::new(), zmij::Buffer::new());
        self.0.push(b',');
        self.0.extend_from_slice(second.format(point.timestamp).as_bytes());
        self.0.push(b',');
        self.0.extend_from_slice(value.format_finite(point.value).as_bytes());
        self.0.push(b']');
    }

    /// Returns the rows, or nothing if there are no rows.
    fn finish(mut self) -> Vec<u8> {
        if !self.0.is_empty() {
            self.0.push(b']');
        }
        self.0
    }
}

/// A viewer's stream of events.
struct Viewer {
    hub: Arc<Hub>,
    filter: Filter,
    version: watch::Receiver<u64>,
    seen: u64,
}

impl Viewer {
    async fn next_event(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            let (seen, stopping) = (self.seen, self.hub.stopping.clone());
            tokio::select! {
                changed = self.version.wait_for(|version| *version > seen) => {
                    changed.ok()?;
                }
                () = stopping.cancelled() => return None,
            }
            let (rows, version) = self.hub.changes(&self.filter, self.seen);
            self.seen = version;
            if !rows.is_empty() {
                let data = String::from_utf8(rows).ok()?;
                let event = Event::default().id(version.to_string()).event("points").data(data);
                return Some((Ok(event), self));
            }
        }
    }
}

pub(super) async fn live<S: Store>(
    State(app): State<Arc<App<S>>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let params = Params::parse(query.as_deref());
    params.expect(&["key", "match"])?;
    let filter = Filter {
        keys: params.all("key").map(str::to_owned).collect(),
        patterns: params.all("match").map(KeyPattern::new).collect(),
    };
    if filter.keys.is_empty() && filter.patterns.is_empty() {
        return Err(ApiError::bad_request("no key: add key=KEY or match=PATTERN"));
    }
    let version = app.hub.subscribe(&app.store);
    // A browser that comes back says what it has seen.
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let now = *version.borrow();
    let seen = last_id.map_or(now, |seen: u64| seen.min(now));
    let viewer = Viewer { hub: Arc::clone(&app.hub), filter, version, seen };
    let events = Sse::new(stream::unfold(viewer, Viewer::next_event));
    let mut response = events.keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// How often a comment is sent, so that a dead peer and a proxy's timeout are noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
