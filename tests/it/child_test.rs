//! A test of this binary as a process of its own.

use std::{env, process::Command};

/// Returns a command that runs one test of the module, with its output. The module is what
/// `module_path!()` says, so that it follows moves.
pub(crate) fn child_test(module: &str, name: &str) -> Command {
    let (_, module) = module.split_once("::").unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([&format!("{module}::{name}"), "--exact", "--nocapture", "--include-ignored"]);
    command
}
