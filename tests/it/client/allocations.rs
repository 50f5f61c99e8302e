//! What a put costs once everything is warm.

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
};

use metrics_client::{MetricsClient, Pipelining};

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

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
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
