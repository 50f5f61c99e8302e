//! Test, quick or full mode, from the flags.

use std::env;

/// How long a bench measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Runs each part once, to see that it works: `--test`, or no `--bench`, as `cargo test` runs benches.
    Test,
    /// Measures for seconds instead of minutes: `--quick`.
    Quick,
    Full,
}

impl Mode {
    /// Returns the mode that the arguments of this process ask for.
    ///
    /// Processes that the bench starts get the same arguments, and so the same mode.
    pub(crate) fn current() -> Self {
        let is_given = |flag| env::args().any(|arg| arg == flag);
        if is_given("--test") || !is_given("--bench") {
            Self::Test
        } else if is_given("--quick") {
            Self::Quick
        } else {
            Self::Full
        }
    }
}
