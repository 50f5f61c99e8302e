//! Prints the public items of a crate, one a line and sorted, from its rustdoc JSON.

use std::{
    collections::BTreeSet,
    env,
    error::Error,
    io::{Write, stdout},
};

/// Auto traits that callers depend on without noticing. Others, such as `Freeze`, are not shown.
const AUTO_TRAITS: [&str; 2] = ["core::marker::Send", "core::marker::Sync"];

/// Methods of derived traits: the `impl` line says all.
const DERIVED_METHODS: [&str; 8] =
    ["clone", "cmp", "default", "eq", "fmt", "hash", "partial_cmp", "source"];

fn main() -> Result<(), Box<dyn Error>> {
    let json = env::args_os().nth(1).ok_or("usage: public-api-listing RUSTDOC_JSON")?;
    let api = public_api::Builder::from_rustdoc_json(json).omit_blanket_impls(true).build()?;
    // A set, since an item that is exported under two paths comes with its impls twice.
    let lines: BTreeSet<String> =
        api.items().map(ToString::to_string).filter(|line| is_shown(line)).collect();
    let mut out = stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Returns true unless the line repeats what another line says, or is of no use to a reader.
fn is_shown(line: &str) -> bool {
    if let Some((_, implementation)) = line.split_once("core::marker::")
        && line.starts_with("impl")
        && !line.contains(" core::marker::Copy for ")
    {
        let name = implementation.split_whitespace().next().unwrap_or_default();
        return AUTO_TRAITS.iter().any(|shown| shown.ends_with(&format!("::{name}")));
    }
    if line.starts_with("impl") && line.contains("core::panic::unwind_safe::") {
        return false;
    }
    if line.contains("core::marker::StructuralPartialEq") {
        return false;
    }
    let method = line
        .strip_prefix("pub fn ")
        .and_then(|rest| rest.split_once('('))
        .and_then(|(path, _)| path.rsplit("::").next());
    !method.is_some_and(|name| DERIVED_METHODS.contains(&name.split('<').next().unwrap_or(name)))
}
