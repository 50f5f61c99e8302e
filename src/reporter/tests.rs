//! The parts of a reporter together, where no peer can provoke it.

use std::time::Duration;

use tokio::{
    join,
    runtime::{self, Runtime},
    time::Instant,
};

use super::*;
use crate::client::MetricsClient;

/// Longer than anything takes; with paused time it costs nothing.
const LONG: Duration = Duration::from_secs(300);

fn paused() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// A reporter whose runtime is gone.
fn abandoned() -> Reporter {
    paused().block_on(async {
        Reporter::new(MetricsClient::builder("127.0.0.1:1").connect_lazy().unwrap())
    })
}

#[test]
fn flush_without_a_worker_ends_on_resume() {
    let reporter = abandoned();
    let shared = reporter.shared();
    assert!(shared.dispatcher.pause_sender());
    reporter.record("a", 1.0);
    paused().block_on(async {
        let start = Instant::now();
        let (flushed, ()) =
            join!(reporter.flush(LONG), async { shared.dispatcher.resume_sender() });
        assert_eq!(flushed.unwrap_err().waiting, 1);
        assert!(start.elapsed() < LONG);
    });
}

#[cfg(feature = "spool")]
mod with_a_spool {
    use tokio_test::{assert_pending, task};

    use super::*;
    use crate::spool::Spool;

    /// A reporter whose runtime is gone and that has recorded ten samples, and its folder.
    fn abandoned() -> (tempfile::TempDir, Reporter) {
        let folder = tempfile::tempdir().unwrap();
        let reporter = paused().block_on(async {
            let client = MetricsClient::builder("127.0.0.1:1").connect_lazy().unwrap();
            Reporter::builder(client).spool(Spool::dir(folder.path())).unwrap().start()
        });
        for second in 0..10 {
            reporter.record_at("a", 0.5, second);
        }
        (folder, reporter)
    }

    #[test]
    fn close_spills_what_a_guard_is_sending() {
        let (_folder, reporter) = abandoned();
        let shared = reporter.shared();
        assert!(shared.dispatcher.pause_sender());
        paused().block_on(async {
            let client = MetricsClient::builder("127.0.0.1:1").connect_lazy().unwrap();
            let mut sending = task::spawn(shared.dispatcher.send(&client, true, 3));
            assert_pending!(sending.poll());
            shared.spool.as_ref().unwrap().close(&shared.dispatcher).await;
        });
        shared.dispatcher.discard_all();
        let stats = reporter.stats();
        assert_eq!((stats.spooled, stats.waiting, stats.dropped.closed), (10, 0, 0), "{stats:?}");
    }
}
