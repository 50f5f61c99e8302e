//! Bytes and values: encoding puts, decoding answers.

use std::error::Error;

use criterion::Criterion;

#[allow(dead_code, reason = "each bench uses its part")]
mod baseline;
#[allow(dead_code, reason = "each bench uses its part")]
mod contest;
#[allow(dead_code, reason = "each bench uses its part")]
mod peer;
#[allow(dead_code, reason = "each bench uses its part")]
mod workload;

fn main() -> Result<(), Box<dyn Error>> {
    if peer::serve_if_asked()? {
        return Ok(());
    }
    let mut criterion = Criterion::default().configure_from_args();
    for mut contest in contest::codec::contests()? {
        contest.bench(&mut criterion);
    }
    criterion.final_summary();
    Ok(())
}
