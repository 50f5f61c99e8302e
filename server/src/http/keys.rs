//! `/api/v1/keys`: the keys that match a pattern, with the last point of each if wanted.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use metrics_client::Key;
use serde::Serialize;
use tokio::time::timeout;

use super::{App, error::ApiError, json, params::Params};
use crate::store::{KeyPattern, Store};

#[derive(Serialize)]
struct Answer<'a> {
    keys: Vec<KeyRow<'a>>,
    /// How many keys match.
    total: usize,
    truncated: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum KeyRow<'a> {
    Name(&'a str),
    Last { key: &'a str, last: Option<(i64, f64)> },
}

pub(super) async fn keys<S: Store>(
    State(app): State<Arc<App<S>>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let params = Params::parse(query.as_deref());
    params.expect(&["match", "limit", "last"])?;
    let pattern = params.get("match").filter(|pattern| !pattern.is_empty()).unwrap_or("*");
    let limit = params.parsed::<usize>("limit")?.unwrap_or(DEFAULT_LIMIT).min(app.limits.max_keys);
    let with_last = params.parsed::<bool>("last")?.unwrap_or(false);
    let _permit = app.admit_read().await?;
    let matching = app.keys(&KeyPattern::new(pattern)).await?;
    let shown = &matching[..limit.min(matching.len())];
    let mut rows = Vec::with_capacity(shown.len());
    for key in shown {
        rows.push(if with_last {
            KeyRow::Last { key: key.as_str(), last: last(&app, key).await? }
        } else {
            KeyRow::Name(key.as_str())
        });
    }
    let (total, truncated) = (matching.len(), shown.len() < matching.len());
    Ok(json(&Answer { keys: rows, total, truncated }).into_response())
}

async fn last<S: Store>(app: &App<S>, key: &Key) -> Result<Option<(i64, f64)>, ApiError> {
    let last = timeout(app.limits.store_timeout, app.store.last(key)).await;
    let last = last.map_err(|_| ApiError::store_timeout())??;
    Ok(last.map(|point| (point.timestamp, point.value)))
}

const DEFAULT_LIMIT: usize = 1000;
