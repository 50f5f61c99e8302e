//! Every contest in alternation, as one Markdown table.
//!
//! Criterion measures one contender after the other, and on a busy machine the second one meets
//! another machine than the first. Here they take turns, round after round, each round gives one
//! ratio, and the median of these counts.
//!
//!     cargo bench --bench compare                    all contests
//!     cargo bench --bench compare -- put             those with `put` in their name
//!     cargo bench --bench compare -- --quick         seconds instead of minutes

use std::{env, error::Error, time::Duration};

use contest::{
    Contest,
    turns::{Quartiles, Turns},
};

mod baseline;
#[allow(dead_code, reason = "`contests` alone measures with criterion")]
mod contest;
#[allow(dead_code, reason = "`growth` alone looks at a peer's memory")]
mod peer;
#[allow(dead_code, reason = "`growth` alone has an agent that goes on")]
mod workload;

fn main() -> Result<(), Box<dyn Error>> {
    if peer::serve_if_asked()? {
        return Ok(());
    }
    let options = Options::from_args();
    println!("| what | this crate, /s | against | its /s | ratio (quartiles) | bar | met |");
    println!("|---|---|---|---|---|---|---|");
    let mut cpu_rows = Vec::new();
    for contests in contest::ALL {
        for contest in contests()? {
            if contest.name.contains(&options.filter) {
                cpu_rows.extend(options.compare(contest));
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
    if contest::open_loop::NAME.contains(&options.filter) {
        println!();
        contest::open_loop::measure(options.turns)?;
    }
    Ok(())
}

/// How long to measure, and what.
struct Options {
    turns: Turns,
    filter: String,
}

impl Options {
    fn from_args() -> Self {
        let args: Vec<_> = env::args().skip(1).collect();
        let given = |flag| args.iter().any(|arg| arg == flag);
        // `cargo test` runs benches without `--bench`, to see that they work.
        let (rounds, time) = if given("--test") || !given("--bench") {
            (1, Duration::ZERO)
        } else if given("--quick") {
            (3, Duration::from_millis(20))
        } else {
            // Short turns, so that what disturbs one contender disturbs its rival too, and many.
            (41, Duration::from_millis(30))
        };
        let filter = args.into_iter().find(|arg| !arg.starts_with('-')).unwrap_or_default();
        Self { turns: Turns { rounds, time }, filter }
    }

    /// Lets the contenders take turns, and prints a row for each rival of the first. Returns the rows
    /// that compare processor time.
    fn compare(&self, mut contest: Contest) -> Vec<String> {
        let rounds = contest.rounds(&self.turns);
        let (ours, rivals) = rounds.split_first().expect("a contest has contenders");
        let mut cpu_rows = Vec::new();
        for (rival, theirs) in contest.contenders[1..].iter().zip(rivals) {
            let pairs = || ours.iter().zip(theirs);
            let ratio = Quartiles::of(pairs().map(|(ours, theirs)| ours.rate / theirs.rate));
            let (bar, met) = match rival.bar {
                Some(bar) => (format!("{bar:.2}"), if ratio.median >= bar { "yes" } else { "no" }),
                None => ("–".into(), "–"),
            };
            println!(
                "| {} | {} | {} | {} | {ratio} | {bar} | {met} |",
                contest.name,
                shown(Quartiles::of(ours.iter().map(|round| round.rate)).median),
                rival.name,
                shown(Quartiles::of(theirs.iter().map(|round| round.rate)).median),
            );
            let cpu: Option<Vec<_>> =
                pairs().map(|(ours, theirs)| ours.cpu.zip(theirs.cpu)).collect();
            if let Some(cpu) = cpu {
                let ratio = Quartiles::of(cpu.iter().map(|(ours, theirs)| ours / theirs));
                let (bar, met) = match rival.cpu_bar {
                    Some(bar) => {
                        (format!("{bar:.2}"), if ratio.median <= bar { "yes" } else { "no" })
                    }
                    None => ("–".into(), "–"),
                };
                cpu_rows.push(format!(
                    "| {} | {:.0} | {} | {:.0} | {ratio} | {bar} | {met} |",
                    contest.name,
                    Quartiles::of(cpu.iter().map(|(ours, _)| *ours)).median,
                    rival.name,
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
