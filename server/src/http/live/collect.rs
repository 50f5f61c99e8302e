//! The task that collects new points while there are viewers.

use std::{
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    hub::{ViewerGroup, Watched},
    selection::LiveSelection,
};
use crate::{
    http::{App, error::ApiError},
    store::{Applied, Store, Subscription},
};

/// Adds a viewer to the group of its selection, and starts to collect if it is the first.
pub(super) async fn join<S: Store>(
    app: &Arc<App<S>>,
    selection: LiveSelection,
) -> Result<(Arc<ViewerGroup>, watch::Receiver<u64>), ApiError> {
    let (version, is_first) = app.hub.subscribe();
    if is_first {
        tokio::spawn(collect(Arc::downgrade(app), app.store.subscribe()));
    }
    let (group, is_new) = app.hub.group(selection);
    if is_new {
        let _permit = app.admit_read().await?;
        add_stored_keys(app, &group).await?;
    }
    Ok((group, version))
}

/// Adds the keys in the store that match the patterns of a group.
async fn add_stored_keys<S: Store>(app: &App<S>, group: &ViewerGroup) -> Result<(), ApiError> {
    for pattern in &group.selection.patterns {
        // One more, so that the group knows that it is limited.
        let keys = app.keys(pattern).await?.into_iter().take(group.max_keys() + 1);
        keys.for_each(|key| app.hub.watch(group, key));
    }
    Ok(())
}

/// Reads the last points of some keys, of which batches may have been missed.
pub(super) async fn refresh<S: Store>(
    app: &App<S>,
    watched: &[Arc<Watched>],
) -> Result<(), ApiError> {
    for watched in watched {
        let last = timeout(app.limits.store_timeout, app.store.last(&watched.key)).await;
        if let Some(point) = last.map_err(|_| ApiError::store_timeout())?? {
            app.hub.put(watched, point);
        }
        tokio::task::coop::consume_budget().await;
    }
    Ok(())
}

/// Collects until there is no viewer.
async fn collect<S: Store>(app: Weak<App<S>>, mut applied: Subscription) {
    let Some(stopping) = app.upgrade().map(|app| app.hub.stopping().clone()) else { return };
    let mut timer = interval(PERIOD);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pause = pin!(sleep(Duration::ZERO));
    let (mut has_missed, mut ticks) = (false, 0u32);
    loop {
        let next = tokio::select! {
            () = stopping.cancelled() => return,
            _ = timer.tick() => None,
            // Puts do not wake this task one by one.
            next = async { pause.as_mut().await; applied.next().await } => Some(next),
        };
        let Some(app) = app.upgrade() else { return };
        let hub = &app.hub;
        match next {
            None => {
                ticks = ticks.wrapping_add(1);
                if ticks % TICKS_A_SECOND == 0 {
                    hub.prune();
                    if std::mem::take(&mut has_missed) {
                        has_missed = catch_up(&app).await.is_err();
                    }
                }
                if !hub.publish() {
                    return;
                }
            }
            Some(None) => return,
            Some(Some(first)) => {
                let mut next = Some(first);
                let mut left = DRAINED_BATCHES;
                while let Some(received) = next {
                    match received {
                        Applied::Missed(_) => has_missed = true,
                        Applied::Puts(puts) => hub.apply(&puts),
                    }
                    left -= 1;
                    next = if left > 0 { applied.try_next() } else { None };
                }
                pause
                    .as_mut()
                    .reset(Instant::now() + if left > 0 { COALESCING } else { Duration::ZERO });
            }
        }
    }
}

/// Finds what was in batches that were missed: it was stored, and is read from there.
async fn catch_up<S: Store>(app: &App<S>) -> Result<(), ApiError> {
    for group in app.hub.pattern_groups() {
        add_stored_keys(app, &group).await?;
    }
    refresh(app, &app.hub.watched()).await
}

/// How often viewers are shown new points.
const PERIOD: Duration = Duration::from_millis(200);

const TICKS_A_SECOND: u32 = 5;

/// How long batches are left in the queue, so that a burst of them wakes the task once.
const COALESCING: Duration = Duration::from_millis(10);

/// After how many batches other tasks of the thread run.
const DRAINED_BATCHES: usize = 256;
