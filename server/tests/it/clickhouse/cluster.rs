//! Two shards of two replicas, with ZooKeeper.

use super::{batch, engine::Debian, key, open, rows, single::behaves_as_the_model};

use metrics_server::Store;

#[tokio::test]
#[ignore = "starts clickhouse-server and ZooKeeper"]
async fn cluster_behaves_as_the_model() {
    let Some(debian) = Debian::cluster().await else { return };
    let hosts: Vec<_> = debian.hosts().split(',').map(str::to_owned).collect();
    // Each server has a replica of another shard.
    let [first, second] = [&hosts[1], &hosts[2]]
        .map(|host| format!("clickhouse://{host}/default?cluster=main&quorum=2&wait=5ms"));
    behaves_as_the_model([&first, &second]).await;
}

#[tokio::test]
#[ignore = "starts clickhouse-server and ZooKeeper"]
async fn every_server_reads_what_was_acknowledged() {
    let Some(debian) = Debian::cluster().await else { return };
    let hosts: Vec<_> = debian.hosts().split(',').map(str::to_owned).collect();
    let mut stores = Vec::new();
    for host in &hosts {
        let url = format!("clickhouse://{host}/default?cluster=main&quorum=2&wait=1ms");
        stores.push(open(&url).await);
    }
    let mut stale = 0;
    for round in 0..1000 {
        let name = format!("k.{}", round % 7);
        let [writer, reader] = [0, 1].map(|_| &stores[fastrand::usize(..stores.len())]);
        writer.apply(&batch([(&*name, 1, f64::from(round))])).await.unwrap();
        let found = rows(reader.get(&key(&name)).await.unwrap()).await;
        stale += usize::from(found != [(name, 1, f64::from(round).to_bits())]);
    }
    assert_eq!(stale, 0);
}
