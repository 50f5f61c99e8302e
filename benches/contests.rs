//! Every contest, measured by criterion: one contender after the other, with its history.
//!
//!     cargo bench --bench contests                   all contests
//!     cargo bench --bench contests -- decode         those with `decode` in their name
//!     cargo bench --bench contests -- --quick        seconds instead of minutes

use std::error::Error;

use criterion::Criterion;

mod baseline;
#[allow(dead_code, reason = "`compare` alone looks at the bars")]
mod contest;
#[allow(dead_code, reason = "`growth` alone looks at a peer's memory")]
mod peer;
#[allow(dead_code, reason = "`growth` alone has an agent that goes on")]
mod workload;

fn main() -> Result<(), Box<dyn Error>> {
    if peer::serve_if_asked()? {
        return Ok(());
    }
    let mut criterion = Criterion::default().configure_from_args();
    for contests in contest::ALL {
        for mut contest in contests()? {
            contest.bench(&mut criterion);
        }
    }
    criterion.final_summary();
    Ok(())
}
