//! What handles and driver share memory with: the standard library's locks and atomics, but loom's where
//! `loom_tests.rs` checks what is done with them.

#[cfg(all(test, loom_model))]
pub(super) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};
#[cfg(not(all(test, loom_model)))]
pub(super) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};
