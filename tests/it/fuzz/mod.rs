//! The bodies of the fuzz targets in `fuzz/`, which are tests too.
//!
//! Each target of `fuzz/` includes this module and runs one of its checks; `corpus` runs each check
//! on the inputs that the fuzzer kept.

pub(crate) mod client;
pub(crate) mod codec;
#[cfg(test)]
mod corpus;
pub(crate) mod server;
pub(crate) mod spool;

use std::task::{Context, Poll};

/// Returns `Pending` from a poll, and has the task polled again.
fn yield_once<T>(cx: &mut Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}
