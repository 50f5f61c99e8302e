//! Allocations of a warm put, and the memory of a stream.

use std::{
    cell::Cell,
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::Duration,
};

use metrics_client::{Error, MetricsClient, client::Pipelining};
use tokio::{join, runtime, task::JoinSet};

use crate::peer::MockNetwork;

#[test]
fn warm_put_allocates_nothing() {
    assert_eq!(allocated_by(1, async |client| client.put("palm.cpu", 23.7).await.unwrap()), 0);
}

#[test]
fn warm_put_of_a_pool_allocates_nothing() {
    assert_eq!(allocated_by(4, async |client| client.put("palm.cpu", 23.7).await.unwrap()), 0);
}

#[cfg(feature = "tower")]
#[test]
fn warm_service_call_allocates_nothing() {
    use std::{cell::Cell, future::poll_fn};

    use metrics_client::{codec::Request, service::MetricsService};
    use tower::Service;

    for connections in [1, 4] {
        let kept = Cell::<Option<MetricsService>>::default();
        let put = Request::put("palm.cpu", 23.7, 1150864247).unwrap();
        let allocated = allocated_by(connections, async |client| {
            let mut service = kept.take().unwrap_or_else(|| client.service());
            poll_fn(|cx| service.poll_ready(cx)).await.unwrap();
            service.call(put.clone()).await.unwrap();
            kept.set(Some(service));
        });
        assert_eq!(allocated, 0, "{connections} connections");
    }
}

/// How many allocations a thousand puts take once as many have been made, over
/// one of `connections` connections.
fn allocated_by(connections: usize, put: impl AsyncFn(&MetricsClient)) -> u64 {
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
    let client =
        MetricsClient::builder(address).pipelining(Pipelining::On).max_connections(connections);
    // The one key that there is has the client make one connection.
    let client = runtime.block_on(async { client.connect_lazy().unwrap() });
    let puts = |number: usize| {
        runtime.block_on(async {
            for _ in 0..number {
                put(&client).await;
            }
        });
    };
    puts(1000);
    let counted = allocation_counter::measure(|| puts(1000));
    runtime.block_on(client.close()).unwrap();
    server.join().unwrap();
    counted.count_total
}

#[test]
fn stream_of_a_million_records_buffers_few() {
    let runtime = runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.unwrap();
    let records: String = (0..1000).map(|host| format!("rack{host:03}.cpu 23.7 1\n")).collect();
    let counted = allocation_counter::measure(|| {
        runtime.block_on(async {
            let (mut network, builder) = MockNetwork::with_buffer(64 * 1024);
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

// FAULTS C18
#[test]
fn memory_of_a_burst_is_freed_when_idle() {
    const CALLS: usize = 30_000;
    let runtime = runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.unwrap();
    let (client, connected) = runtime.block_on(async {
        let (mut network, builder) = MockNetwork::with_buffer(64 * 1024);
        let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
        (client, Cell::new(Some(network.accept().await)))
    });
    let burst = || {
        runtime.block_on(async {
            let mut peer = connected.take().unwrap();
            let mut puts = JoinSet::new();
            for _ in 0..CALLS {
                let client = client.clone();
                puts.spawn(async move { client.put("palm.cpu", 23.7).await.unwrap() });
            }
            let server = async {
                let mut answered = 0;
                while answered < CALLS {
                    let requests = peer.read_some().await.matches('\n').count();
                    peer.send(&"ok\n\n".repeat(requests)).await;
                    answered += requests;
                }
            };
            join!(server, puts.join_all());
            // And one large answer.
            let records: String = (0..2000).map(|at| format!("rack{at:03}.cpu 23.7 1\n")).collect();
            let server = async {
                peer.answer("get *\n", "ok\n").await;
                for _ in 0..100 {
                    peer.send(&records).await;
                }
                peer.send("\n").await;
            };
            let (_, metrics) = join!(server, client.get_all());
            assert_eq!(metrics.unwrap().len(), 2000);
            connected.set(Some(peer));
        });
    };
    let counted = allocation_counter::measure(burst);
    assert!(counted.bytes_current > 4 * 1024 * 1024, "this was no burst: {counted:?}");
    let quiet = allocation_counter::measure(|| {
        runtime.block_on(async { tokio::time::sleep(Duration::from_secs(30)).await });
    });
    let kept = counted.bytes_current + quiet.bytes_current;
    // Pipes and buffers of usual size among them.
    assert!(kept < 1024 * 1024, "{kept} bytes are kept");
}

// FAULTS C15
#[test]
fn response_memory_is_within_the_documented_bound() {
    const LIMIT: usize = 1024 * 1024;
    let keys = |text: fn(usize) -> String| {
        let mut records = String::new();
        for number in 0.. {
            let record = text(number);
            if records.len() + record.len() + 16 > LIMIT {
                return records;
            }
            records += &record;
        }
        records
    };
    for (name, records, fits) in [
        ("short keys", keys(|number| format!("{number:x} 1 1\n")), false),
        ("usual keys", keys(|number| format!("rack{number:05}.cpu 23.7 1150864247\n")), true),
        ("one key", keys(|number| format!("a 1 {number}\n")), true),
        ("one second", keys(|number| format!("a 1 {}\n", number % 2)), true),
        ("by time", keys(|number| format!("rack{:03}.cpu 23.7 {number}\n", number % 500)), true),
    ] {
        let mut taken = None;
        let runtime =
            runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let counted = allocation_counter::measure(|| {
            runtime.block_on(async {
                let (mut network, builder) = MockNetwork::with_buffer(64 * 1024);
                let client = builder.max_response_bytes(LIMIT).connect().await.unwrap();
                let mut peer = network.accept().await;
                let server = async {
                    peer.answer("get *\n", "ok\n").await;
                    peer.send(&records).await;
                    peer.send("\n").await;
                };
                taken = Some(join!(client.get_all(), server).0);
            });
        });
        match taken.unwrap() {
            Ok(_) => assert!(fits, "{name}: {counted:?}"),
            Err(Error::ResponseTooLarge { limit: LIMIT, .. }) => {
                assert!(!fits, "{name}: {counted:?}");
            }
            Err(error) => panic!("{name}: {error:?}"),
        }
        // The pipes and what was read of them take the rest.
        assert!(counted.bytes_max < 12 * LIMIT as u64 + 512 * 1024, "{name}: {counted:?}");
    }
}
