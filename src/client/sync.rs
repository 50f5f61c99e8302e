//! The lock between the handles and the driver: the standard library's, but loom's where `handover.rs`
//! checks what they do under it.

#[cfg(all(test, loom_model))]
pub(super) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(all(test, loom_model)))]
pub(super) use std::sync::{Mutex, MutexGuard};
