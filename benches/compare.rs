//! Every contest in alternation, as one Markdown table.
//!
//! Criterion measures one contender after the other, and on a busy machine the second one meets
//! another machine than the first. Here they take turns, round after round, each round gives one
//! ratio, and the median of these counts.
//!
//!     cargo bench --bench compare                    all contests
//!     cargo bench --bench compare -- put             those with `put` in their name
//!     cargo bench --bench compare -- --quick         seconds instead of minutes

use std::{env, error::Error, fmt, time::Duration};

use contest::{Contender, Contest};

mod baseline;
#[allow(dead_code, reason = "`contests` alone measures with criterion")]
mod contest;
mod peer;
mod workload;

fn main() -> Result<(), Box<dyn Error>> {
    if peer::serve_if_asked()? {
        return Ok(());
    }
    let options = Options::from_args();
    println!("| what | this crate, /s | against | its /s | ratio (quartiles) | bar | met |");
    println!("|---|---|---|---|---|---|---|");
    for contests in contest::ALL {
        for contest in contests()? {
            if contest.name.contains(&options.filter) {
                options.compare(contest);
            }
        }
    }
    Ok(())
}

/// How long to measure, and what.
struct Options {
    /// How often each contender has its turn.
    rounds: usize,
    /// What one contender's turn should take.
    turn: Duration,
    filter: String,
}

impl Options {
    fn from_args() -> Self {
        let args: Vec<_> = env::args().skip(1).collect();
        let given = |flag| args.iter().any(|arg| arg == flag);
        // `cargo test` runs benches without `--bench`, to see that they work.
        let (rounds, turn) = if given("--test") || !given("--bench") {
            (1, Duration::ZERO)
        } else if given("--quick") {
            (3, Duration::from_millis(20))
        } else {
            // Short turns, so that what disturbs one contender disturbs its rival too, and many.
            (41, Duration::from_millis(30))
        };
        let filter = args.into_iter().find(|arg| !arg.starts_with('-')).unwrap_or_default();
        Self { rounds, turn, filter }
    }

    /// Lets the contenders take turns, and prints a row for each rival of the first.
    fn compare(&self, mut contest: Contest) {
        let iterations: Vec<_> =
            contest.contenders.iter_mut().map(|contender| self.calibrate(contender)).collect();
        let mut rates = vec![Vec::with_capacity(self.rounds); iterations.len()];
        for _ in 0..self.rounds {
            for (turn, contender) in contest.contenders.iter_mut().enumerate() {
                let time = contender.run(iterations[turn]);
                let elements = (iterations[turn] * contest.elements) as f64;
                rates[turn].push(elements / time.as_secs_f64());
            }
        }
        let (ours, rivals) = rates.split_first().expect("a contest has contenders");
        for (rival, theirs) in contest.contenders[1..].iter().zip(rivals) {
            let ratio = Quartiles::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs));
            let (bar, met) = match rival.bar {
                Some(bar) => (bar.to_string(), if ratio.median >= bar { "yes" } else { "no" }),
                None => ("–".into(), "–"),
            };
            println!(
                "| {} | {} | {} | {} | {ratio} | {bar} | {met} |",
                contest.name,
                shown(Quartiles::of(ours.iter().copied()).median),
                rival.name,
                shown(Quartiles::of(theirs.iter().copied()).median),
            );
        }
    }

    /// How many iterations fill a turn; finding out warms the contender up.
    fn calibrate(&self, contender: &mut Contender) -> u64 {
        let mut iterations = 1;
        loop {
            let time = contender.run(iterations);
            if time >= self.turn / 4 {
                let fill = self.turn.as_secs_f64() / time.as_secs_f64();
                return ((iterations as f64 * fill) as u64).max(1);
            }
            iterations *= 2;
        }
    }
}

struct Quartiles {
    lower: f64,
    median: f64,
    upper: f64,
}

impl Quartiles {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values[(values.len() * quarter / 4).min(values.len() - 1)];
        Self { lower: at(1), median: at(2), upper: at(3) }
    }
}

impl fmt::Display for Quartiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.lower, self.upper)
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
