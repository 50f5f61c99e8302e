//! What its parts do together, where no peer can be made to show it.

use tokio::{
    join,
    runtime::{self, Runtime},
    time::Instant,
};

use super::*;

/// Longer than anything takes; with paused time it costs nothing.
const LONG: Duration = Duration::from_secs(300);

fn paused() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// A reporter whose runtime is gone.
fn abandoned() -> Reporter {
    paused().block_on(async { Reporter::new(MetricsClient::builder("127.0.0.1:1").connect_lazy()) })
}

#[test]
fn a_flush_of_an_abandoned_reporter_is_over_when_whoever_holds_it_lets_go() {
    let reporter = abandoned();
    let shared = reporter.shared();
    assert!(shared.hold());
    reporter.record("a", 1.0);
    paused().block_on(async {
        let start = Instant::now();
        let (flushed, ()) = join!(reporter.flush(LONG), async { shared.release() });
        assert_eq!(flushed.unwrap_err().waiting, 1);
        assert!(start.elapsed() < LONG);
    });
}
