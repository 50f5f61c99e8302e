//! What a put allocates once everything is warm, and what a stream holds at once.

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
};

use metrics_client::{MetricsClient, Pipelining};
use tokio::{join, runtime};

use crate::peer::Network;

#[test]
fn a_warm_put_allocates_nothing() {
    // The server is on a thread of its own, for allocations are counted by thread.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut requests = [0; 1024];
        while peer.read(&mut requests).unwrap() > 0 {
            peer.write_all(b"ok\n\n").unwrap();
        }
    });

    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = MetricsClient::builder(address).pipelining(Pipelining::On);
    let client = runtime.block_on(client.connect()).unwrap();
    let puts = |number: usize| {
        runtime.block_on(async {
            for _ in 0..number {
                client.put("palm.cpu", 23.7).await.unwrap();
            }
        });
    };
    puts(1000);
    let counted = allocation_counter::measure(|| puts(1000));
    assert_eq!(counted.count_total, 0, "{counted:?}");

    runtime.block_on(client.close()).unwrap();
    server.join().unwrap();
}

#[test]
fn a_stream_of_a_million_records_holds_few_of_them_at_once() {
    let runtime = runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.unwrap();
    let records: String = (0..1000).map(|host| format!("rack{host:03}.cpu 23.7 1\n")).collect();
    let counted = allocation_counter::measure(|| {
        runtime.block_on(async {
            let (mut network, builder) = Network::with_buffer(64 * 1024);
            let client = builder.connect().await.unwrap();
            let _main = network.accept().await;
            let mut samples = client.stream("*").await.unwrap();
            let mut peer = network.accept().await;
            let server = async {
                peer.answer("get *\n", "ok\n").await;
                for _ in 0..1000 {
                    peer.send(&records).await;
                }
                peer.send("\n").await;
            };
            let reader = async {
                let mut count = 0;
                while let Some(sample) = samples.next().await {
                    sample.unwrap();
                    count += 1;
                }
                assert_eq!(count, 1_000_000);
            };
            join!(server, reader);
        });
    });
    // The answer has 19 MB. What the stream says that it holds, and the pipes, are half of this.
    assert!(counted.bytes_max < 2 * 1024 * 1024, "{counted:?}");
}
