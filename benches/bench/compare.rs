//! Compares this crate with its baselines, interleaved, as Markdown tables.
//!
//! Criterion measures one candidate after the other, and on a busy machine the second one meets
//! another machine than the first. Here the candidates are interleaved, round after round. Each round
//! gives one ratio, and the median of the ratios counts.

use std::{error::Error, time::Duration};

use crate::{
    scenario::{
        self, Comparison,
        interleave::{Quartiles, Rounds},
        open_loop,
    },
    support::mode::Mode,
};

/// Runs the comparisons whose names contain the first argument, or all.
pub(crate) fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    let options = Options::new(args);
    println!("| what | this crate, /s | against | its /s | ratio (quartiles) | at least | met |");
    println!("|---|---|---|---|---|---|---|");
    let mut cpu_rows = Vec::new();
    for comparisons in scenario::ALL {
        for comparison in comparisons()? {
            if comparison.name.contains(&options.filter) {
                cpu_rows.extend(options.compare(comparison));
            }
        }
    }
    if !cpu_rows.is_empty() {
        println!();
        println!(
            "| what | this crate, CPU ns | against | its CPU ns | ratio (quartiles) | at most | met |"
        );
        println!("|---|---|---|---|---|---|---|");
        cpu_rows.iter().for_each(|row| println!("{row}"));
    }
    if open_loop::NAME.contains(&options.filter) {
        println!();
        open_loop::measure(options.rounds)?;
    }
    Ok(())
}

/// How long to measure, and what.
struct Options {
    rounds: Rounds,
    filter: String,
}

impl Options {
    fn new(args: &[String]) -> Self {
        let (count, time) = match Mode::current() {
            Mode::Test => (1, Duration::ZERO),
            Mode::Quick => (3, Duration::from_millis(20)),
            // Many short rounds, so that what disturbs one candidate disturbs its baseline too.
            Mode::Full => (41, Duration::from_millis(30)),
        };
        let filter = args.first().cloned().unwrap_or_default();
        Self { rounds: Rounds { count, time }, filter }
    }

    /// Measures the candidates, interleaved, and prints a row for each baseline of the first. Returns the
    /// rows that compare processor time.
    fn compare(&self, mut comparison: Comparison) -> Vec<String> {
        let rounds = comparison.rounds(&self.rounds);
        let (ours, baselines) = rounds.split_first().expect("a comparison has candidates");
        let mut cpu_rows = Vec::new();
        for (baseline, theirs) in comparison.candidates[1..].iter().zip(baselines) {
            let pairs = || ours.iter().zip(theirs);
            let ratio = Quartiles::of(pairs().map(|(ours, theirs)| ours.rate / theirs.rate));
            let (min_ratio, met) = match baseline.min_ratio {
                Some(min_ratio) => (
                    format!("{min_ratio:.2}"),
                    if ratio.median >= min_ratio { "yes" } else { "no" },
                ),
                None => ("–".into(), "–"),
            };
            println!(
                "| {} | {} | {} | {} | {ratio} | {min_ratio} | {met} |",
                comparison.name,
                shown(Quartiles::of(ours.iter().map(|round| round.rate)).median),
                baseline.name,
                shown(Quartiles::of(theirs.iter().map(|round| round.rate)).median),
            );
            let cpu: Option<Vec<_>> =
                pairs().map(|(ours, theirs)| ours.cpu.zip(theirs.cpu)).collect();
            if let Some(cpu) = cpu {
                let ratio = Quartiles::of(cpu.iter().map(|(ours, theirs)| ours / theirs));
                let (min_ratio, met) = match baseline.max_cpu_ratio {
                    Some(min_ratio) => (
                        format!("{min_ratio:.2}"),
                        if ratio.median <= min_ratio { "yes" } else { "no" },
                    ),
                    None => ("–".into(), "–"),
                };
                cpu_rows.push(format!(
                    "| {} | {:.0} | {} | {:.0} | {ratio} | {min_ratio} | {met} |",
                    comparison.name,
                    Quartiles::of(cpu.iter().map(|(ours, _)| *ours)).median,
                    baseline.name,
                    Quartiles::of(cpu.iter().map(|(_, theirs)| *theirs)).median,
                ));
            }
        }
        cpu_rows
    }
}

/// A rate with three digits: `23.4 k`, `1.30 M`.
fn shown(rate: f64) -> String {
    let (rate, unit) = if rate >= 1e6 { (rate / 1e6, "M") } else { (rate / 1e3, "k") };
    let decimals = match rate {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{rate:.decimals$} {unit}")
}
