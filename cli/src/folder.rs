//! What the commands on a folder of points share.

use std::path::Path;

use metrics_server::store::OpenError;

use crate::failure::{Failure, chain};

/// Returns the failure of opening a folder, with what can be done.
pub(crate) fn failure(dir: &Path, error: &OpenError, remedy: &str) -> Failure {
    let remedy = match error {
        OpenError::InUse { .. } => format!("; {remedy}"),
        _ => String::new(),
    };
    Failure::usage(format!("cannot open {}: {}{remedy}", dir.display(), chain(error)))
}

/// Returns a number of bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
