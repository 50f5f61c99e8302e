//! A spool on a small file system, mounted in a namespace of its own, that really fills up.

use std::{env, fs, path::PathBuf, process::Command, time::Duration};

use metrics_client::{Reporter, client::Pipelining, spool::Spool};
use tokio::time;

use crate::{
    child_test::child_test,
    peer::MockNetwork,
    reporter::{
        LONG, accounted,
        spool::{ReceivedPuts, spooling},
    },
};

const FOLDER: &str = "METRICS_TEST_CHILD_FOLDER";

#[test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
fn full_disk_stops_nothing_and_adds_up() {
    let folder = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=512k spool '{}'", folder.path().display());
    let alone = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]);
        command
    };
    if !alone(&mount).output().is_ok_and(|output| output.status.success()) {
        crate::skipped("a disk that is full in truth", "mounting one takes root");
        return;
    }
    let child = child_test(module_path!(), "child_on_a_small_disk");
    let role = alone(&format!("{mount} && exec \"$0\" \"$@\""))
        .arg(child.get_program())
        .args(child.get_args())
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&role.stdout);
    assert!(role.status.success() && said.contains("1 passed"), "{said}{role:?}");
}

#[tokio::test(start_paused = true)]
#[ignore = "a role in the test of the full disk, which starts it"]
async fn child_on_a_small_disk() {
    let folder = PathBuf::from(env::var_os(FOLDER).unwrap());
    let (mut network, builder) = MockNetwork::new();
    network.black_hole();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    let reporter: Reporter = spooling(client, Spool::dir(&folder));
    // Twice of what there is room for.
    for second in 0..20_000 {
        reporter.record_at("some.key.of.ordinary.length", 0.5, second);
    }
    time::sleep(Duration::from_secs(30)).await;
    let stats = accounted(&reporter);
    assert!(stats.spooled > 5000 && stats.waiting > 5000, "{stats:?}");
    assert_eq!(stats.spooled + stats.waiting, 20_000);
    let errors = reporter.spool_stats().unwrap().io_errors;
    assert!((1..100).contains(&errors.full) && errors.total() == errors.full, "{errors:?}");

    network.refuse(0);
    let mut received = ReceivedPuts::default();
    received.take(&mut network.accept().await, 20_000).await;
    reporter.flush(LONG).await.unwrap();
    let stats = accounted(&reporter);
    assert_eq!((stats.acknowledged, stats.dropped.total()), (20_000, 0), "{stats:?}");
    assert!(fs::read_dir(&folder).unwrap().count() == 2);
}
