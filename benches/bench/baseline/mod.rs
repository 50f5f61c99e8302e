//! Baselines: what a careful user would write without this crate, or use instead of it.

pub(crate) mod blocking;
pub(crate) mod cadence;
pub(crate) mod framed;
pub(crate) mod mpsc;
pub(crate) mod redis;
pub(crate) mod split_parse;
