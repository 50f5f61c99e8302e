//! Measures every comparison with criterion: one candidate after the other, with its history.

use std::error::Error;

use criterion::Criterion;

use crate::{scenario, support::mode::Mode};

/// Runs the comparisons whose names contain the argument, or all.
///
/// `--save-baseline NAME` and `--baseline NAME` do what they do for every bench of criterion.
pub(crate) fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    let mode = Mode::current();
    let mut criterion = Criterion::default();
    let mut filter = "";
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut name = || args.next().cloned().ok_or_else(|| format!("{arg} needs a name"));
        match arg.as_str() {
            "--save-baseline" => criterion = criterion.save_baseline(name()?),
            "--baseline" => criterion = criterion.retain_baseline(name()?, true),
            name => filter = name,
        }
    }
    for comparisons in scenario::ALL {
        for mut comparison in comparisons()? {
            if !comparison.name.contains(filter) {
                continue;
            }
            match mode {
                Mode::Test => comparison.run_once(),
                Mode::Quick | Mode::Full => comparison.bench(&mut criterion, mode),
            }
        }
    }
    criterion.final_summary();
    Ok(())
}
