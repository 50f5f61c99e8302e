//! `/api/v1/live`: new points as server-sent events.
//!
//! One task collects the points of watched keys as the store applies them, and wakes the viewers a few times a
//! second. A viewer gets the newest point of each key that has changed since it looked last: one that reads slowly
//! misses values in between, and costs no more memory than one that reads fast. Viewers of the same keys share their
//! events.

mod collect;
mod hub;
mod selection;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};

pub(super) use hub::Hub;

use self::{
    hub::{Piece, ViewerGroup},
    selection::LiveSelection,
};
use super::{App, error::ApiError, params::Params};
use crate::store::Store;

pub(super) async fn live<S: Store>(
    State(app): State<Arc<App<S>>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let params = Params::parse(query.as_deref());
    params.expect(&["key", "match"])?;
    let selection = LiveSelection::from_params(&params, app.limits.max_live_keys)?;
    let Some(permit) = app.hub.try_admit() else {
        let max = app.limits.max_live_streams;
        let error = ApiError::limit(StatusCode::SERVICE_UNAVAILABLE, "max_live_streams", max);
        return Err(error.retry_after());
    };
    let (group, version) = collect::join(&app, selection).await?;
    // A browser that comes back says what it has seen.
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let now = *version.borrow();
    if last_id.is_some() {
        collect::refresh(&app, &group.members()).await?;
        app.hub.show_soon();
    }
    let seen = last_id.map_or(now, |seen: u64| seen.min(now));
    let viewer = Viewer {
        hub: Arc::clone(&app.hub),
        group,
        version,
        seen,
        target: seen,
        after: now,
        cursor: 0,
        has_said_limit: false,
        _permit: permit,
    };
    let events = Sse::new(stream::unfold(viewer, Viewer::next_event));
    let mut response = events.keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// How often a comment is sent, so that a dead peer and a proxy's timeout are noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A viewer's stream of events.
struct Viewer {
    hub: Arc<Hub>,
    group: Arc<ViewerGroup>,
    version: watch::Receiver<u64>,
    /// The version up to which everything was sent.
    seen: u64,
    /// The version that is being sent, which takes several events if many keys have changed.
    target: u64,
    /// The version after which it looks again.
    after: u64,
    /// How many of the group's keys have been looked at for it.
    cursor: usize,
    has_said_limit: bool,
    _permit: OwnedSemaphorePermit,
}

impl Viewer {
    async fn next_event(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if self.seen == self.target {
                let (after, stopping) = (self.after, self.hub.stopping().clone());
                tokio::select! {
                    changed = self.version.wait_for(|version| *version > after) => {
                        self.target = *changed.ok()?;
                        self.after = self.target;
                        self.cursor = 0;
                    }
                    () = stopping.cancelled() => return None,
                }
            }
            if self.group.is_limited() && !std::mem::replace(&mut self.has_said_limit, true) {
                let data = format!("{{\"max_live_keys\":{}}}", self.group.max_keys());
                return Some((Ok(Event::default().event("limited").data(data)), self));
            }
            let Piece { rows, next } = self.group.piece(self.seen, self.target, self.cursor);
            let is_last = next.is_none();
            match next {
                Some(next) => self.cursor = next,
                None => self.seen = self.target,
            }
            if rows.is_empty() {
                continue;
            }
            // A viewer that comes back in the middle gets all of it again.
            let event =
                if is_last { Event::default().id(self.seen.to_string()) } else { Event::default() };
            let event = event.event("points").data(&*rows);
            return Some((Ok(event), self));
        }
    }
}
