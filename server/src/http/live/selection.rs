//! The keys that a viewer wants.

use axum::http::StatusCode;
use metrics_client::Key;

use crate::{
    http::{error::ApiError, params::Params},
    store::KeyPattern,
};

/// Keys and patterns, each once and sorted, so that equal ones are found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LiveSelection {
    pub(super) keys: Vec<Key>,
    pub(super) patterns: Vec<KeyPattern>,
}

impl LiveSelection {
    pub(super) fn from_params(params: &Params<'_>, max_keys: usize) -> Result<Self, ApiError> {
        let keys = params.all("key").map(Key::new);
        let mut keys = keys
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let mut patterns = params.all("match").map(KeyPattern::new).collect::<Vec<_>>();
        if keys.is_empty() && patterns.is_empty() {
            return Err(ApiError::bad_request("no key: add key=KEY or match=PATTERN"));
        }
        if patterns.iter().any(|pattern| pattern.as_str().len() > Key::MAX_LEN) {
            return Err(ApiError::bad_request("a pattern is longer than a key can be"));
        }
        keys.sort_unstable();
        keys.dedup();
        patterns.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        patterns.dedup();
        if keys.len() > max_keys || patterns.len() > MAX_PATTERNS {
            return Err(ApiError::limit(StatusCode::BAD_REQUEST, "max_live_keys", max_keys));
        }
        Ok(Self { keys, patterns })
    }

    pub(super) fn matches_pattern(&self, key: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(key))
    }
}

/// How many patterns a viewer may have: each is compared with every new key.
const MAX_PATTERNS: usize = 20;
