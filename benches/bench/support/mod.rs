//! Helpers of the subcommands.

pub(crate) mod cost;
pub(crate) mod memory;
pub(crate) mod mode;
pub(crate) mod server_process;
pub(crate) mod values;
pub(crate) mod workload;
