//! Allocations of a record of a known key.

use metrics_client::{MetricsClient, Reporter, client::WhenFull};
use tokio::runtime;

#[test]
fn record_of_a_known_key_allocates_nothing() {
    for policy in [WhenFull::DropOldest, WhenFull::Fail, WhenFull::Coalesce] {
        // Allocations are counted by thread, and the sender has no turn on this one.
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let reporter = runtime.block_on(async {
            let client = MetricsClient::builder("127.0.0.1:1").connect_lazy().unwrap();
            Reporter::builder(client).capacity(2000).when_full(policy).start()
        });
        let handle = reporter.series("palm.memory").unwrap();
        reporter.record("palm.cpu", 23.7);
        let counted = allocation_counter::measure(|| {
            for second in 0..1000 {
                reporter.record("palm.cpu", 23.7);
                reporter.record_at("palm.cpu", 23.7, second);
                handle.record(512.0);
                handle.record_at(512.0, second);
                let _ = handle.try_record(512.0);
            }
        });
        assert_eq!(counted.count_total, 0, "{policy:?}: {counted:?}");
    }
}
