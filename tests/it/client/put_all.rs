//! `put_all`: batches over one connection and over several, and what their errors say.

use std::time::Duration;

use metrics_client::{
    Delivery, Error, Sample,
    client::{Pipelining, WhenFull},
};
use tokio::{
    join,
    time::{self, Instant},
};

use super::{
    hangup::{SEARCH_TIME, closes_on_poison, is_closed_on_request},
    pool::{HalfDown, connections_by_key, samples},
};
use crate::{
    mock_server::{self, OK, Reply, text},
    peer::MockNetwork,
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn put_all_stores_many_samples() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;

    let samples = (0..20_000).map(|i| Sample::new("k", 0.5, i).unwrap()).collect::<Vec<_>>();
    let server = async {
        for sample in &samples {
            peer.answer(&format!("put {sample}\n"), "ok\n\n").await;
        }
    };
    let (result, ()) = join!(client.put_all(&samples), server);
    result.unwrap();
    assert_eq!(client.stats().acknowledged, 20_000);
}

#[tokio::test(start_paused = true)]
async fn put_all_applies_backpressure_of_a_slow_server() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;

    // Ten milliseconds for each put: all of them take forty times as long as one call may.
    let samples = (0..20_000).map(|i| Sample::new("k", 0.5, i).unwrap()).collect::<Vec<_>>();
    let server = async {
        for sample in &samples {
            peer.expect(&format!("put {sample}\n")).await;
            time::sleep(Duration::from_millis(10)).await;
            peer.send("ok\n\n").await;
        }
    };
    let (result, ()) = join!(client.put_all(&samples), server);
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn put_all_waits_for_capacity_with_when_full_fail() {
    let (mut network, builder) = MockNetwork::new();
    let client =
        builder.pipelining(Pipelining::On).when_full(WhenFull::Fail).connect().await.unwrap();
    let mut peer = network.accept().await;

    let key = "k".repeat(300);
    let samples = (0..20_000).map(|i| Sample::new(&key, 0.5, i).unwrap()).collect::<Vec<_>>();
    let server = async {
        for sample in &samples {
            peer.answer(&format!("put {sample}\n"), "ok\n\n").await;
        }
    };
    let (result, ()) = join!(client.put_all(&samples), server);
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn put_all_error_counts_stored_and_rejected() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;
    let samples = (0..4).map(|i| Sample::new("k", 1.0, i).unwrap()).collect::<Vec<_>>();
    let server = async {
        peer.expect("put k 1.0 0\nput k 1.0 1\nput k 1.0 2\nput k 1.0 3\n").await;
        peer.send("ok\n\nerror\nno\n\nerror\nnever\n\nok\n\n").await;
    };
    let (all, ()) = join!(client.put_all(&samples), server);
    let Err(Error::Batch(batch)) = all else { panic!("{all:?}") };
    assert_eq!((batch.acknowledged(), batch.total(), batch.first_error().0), (2, 4, 1));
    assert_eq!(batch.to_string(), "sample 1 was not stored (2 of 4 were)");
    assert_eq!(batch.first_error().1.to_string(), "request rejected by the server: no");
}

#[tokio::test(start_paused = true)]
async fn put_all_error_covers_all_samples() {
    for (answers, delivery, is_retryable) in [
        ("", Delivery::Unknown, true),
        ("ok\n\n", Delivery::Unknown, true),
        ("error\nno\n\n", Delivery::Unknown, true),
        ("ok\n\nerror\nno\n\n", Delivery::Unknown, false),
        ("error\nno\n\nok\n\n", Delivery::Unknown, false),
        ("error\nno\n\nerror\nno\n\n", Delivery::Rejected, false),
        ("error\nno\n\nhello\n\n", Delivery::Unknown, false),
    ] {
        let (mut network, builder) = MockNetwork::new();
        let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
        let mut peer = network.accept().await;
        let samples = ["a", "b"].map(|key| Sample::new(key, 1.0, 1).unwrap());
        let server = peer.answer("put a 1.0 1\nput b 1.0 1\n", answers);
        let (all, ()) = join!(client.put_all(samples), server);
        let error = all.unwrap_err();
        assert_eq!(
            (error.delivery(), error.is_retryable()),
            (delivery, is_retryable),
            "{answers:?}: {error:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn put_all_error_of_an_invalid_sample() {
    let (network, builder) = MockNetwork::new();
    network.black_hole();
    let client = builder.connect_lazy().unwrap();
    let samples = (0..1000).map(|i| Sample::new("k", 1.0, i).unwrap()).collect::<Vec<_>>();
    let error = client.put_all(&samples).await.unwrap_err();
    assert_eq!((error.delivery(), error.is_retryable()), (Delivery::NotSent, true));
    client.close().await.unwrap();
    let error = client.put_all(&samples).await.unwrap_err();
    assert_eq!((error.delivery(), error.is_retryable()), (Delivery::NotSent, false));
}

// FAULTS C12
#[tokio::test(start_paused = true)]
async fn put_all_isolates_samples_that_end_connections() {
    for (pipelining, poison) in [
        (Pipelining::Off, vec![7]),
        (Pipelining::On, vec![0]),
        (Pipelining::On, vec![700]),
        (Pipelining::Auto, vec![3, 4, 5, 6, 7, 8, 500]),
        (Pipelining::On, vec![999]),
    ] {
        let (mut network, builder) = MockNetwork::new();
        let client = builder.pipelining(pipelining).connect().await.unwrap();
        let samples = (0..1000).map(|at| {
            let key = if poison.contains(&at) { format!("poison.{at}") } else { format!("k{at}") };
            Sample::new(key, 1.0, at as i64).unwrap()
        });
        let samples = samples.collect::<Vec<_>>();
        let start = Instant::now();
        let batch = tokio::select! {
            () = mock_server::serve(&mut network, |_, request| closes_on_poison(request)) => unreachable!("it serves for ever"),
            result = client.put_all(&samples) => match result {
                Err(Error::Batch(batch)) => batch,
                other => panic!("{other:?}"),
            },
        };
        // The last sample has no other behind it that could show that puts are stored.
        let closed_on = if poison == [999] { vec![] } else { poison.clone() };
        assert_eq!(batch.closed_on(), closed_on, "{pipelining:?} {poison:?}: {batch:?}");
        assert_eq!(batch.acknowledged(), 1000 - poison.len());
        assert_eq!((batch.first_error().0, batch.rejected_before_resume()), (poison[0], 0));
        if closed_on.is_empty() {
            assert!(matches!(batch.first_error().1, Error::Timeout { .. }), "{batch:?}");
        } else {
            assert_eq!(batch.resume_from(), 1000);
            assert!(is_closed_on_request(batch.first_error().1));
            assert!(!Error::Batch(batch).is_retryable());
            assert!(
                start.elapsed() < SEARCH_TIME * poison.len() as u32 * 2,
                "{:?}",
                start.elapsed()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn put_all_dropped_cancels_unsent_samples() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).connect().await.unwrap();
    let mut peer = network.accept().await;

    let samples = (0..10).map(|i| Sample::new("k", 1.0, i).unwrap()).collect::<Vec<_>>();
    let server = async {
        peer.expect("put k 1.0 0\n").await;
        peer.expect_silence(2 * SECOND).await;
        peer.send("ok\n\n").await;
        peer.answer("put z 1.0 1\n", "ok\n\n").await;
    };
    let dropped = time::timeout(SECOND, client.put_all(&samples));
    let later = async {
        time::sleep(SECOND + SECOND / 2).await;
        client.put_at("z", 1.0, 1).await
    };
    let (all, z, ()) = join!(dropped, later, server);
    assert!(all.is_err());
    z.unwrap();
    let stats = client.stats();
    assert_eq!(stats.accepted, stats.acknowledged + stats.cancelled);
}

#[tokio::test(start_paused = true)]
async fn put_all_error_names_the_first_unstored_sample() {
    let (network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(4).connect().await.unwrap();
    let samples = samples(50, 20);
    let refused = [700, 333, 801, 334].map(|place: usize| samples[place].clone());
    let requests = refused.map(|sample| format!("put {sample}"));
    let log = mock_server::spawn(network, move |_, request| {
        let is_refused = requests.iter().any(|refused| refused == request);
        if is_refused { text("error\nno\n\n") } else { OK }
    });
    let Err(Error::Batch(batch)) = client.put_all(&samples).await else { panic!("it was refused") };
    assert_eq!((batch.acknowledged(), batch.total(), batch.first_error().0), (996, 1000, 333));
    assert_eq!(batch.first_error().1.delivery(), Delivery::Rejected);
    assert_eq!(log.lock().unwrap().len(), 1000);
    let stats = client.stats();
    assert_eq!((stats.accepted, stats.acknowledged, stats.rejected), (1000, 996, 4));
}

#[tokio::test(start_paused = true)]
async fn put_all_failure_of_one_connection_spares_others() {
    let (network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(4).connect().await.unwrap();
    let samples = samples(50, 40);
    // Silent is the connection of this sample, from this sample on.
    let silent = 777;
    let request = format!("put {}", samples[silent]);
    let log = mock_server::spawn(
        network,
        move |_, asked| if asked == request { Reply::Silence } else { OK },
    );
    let Err(Error::Batch(batch)) = client.put_all(&samples).await else { panic!("it was silent") };
    assert_eq!(batch.first_error().0, silent);
    assert!(matches!(batch.first_error().1, Error::Timeout { .. }), "{:?}", batch.first_error().1);

    let connections = connections_by_key(&log);
    let its_own = &connections[samples[silent].key.as_str()];
    let of_others =
        samples.iter().filter(|sample| &connections[sample.key.as_str()] != its_own).count();
    let before =
        samples[..silent].iter().filter(|sample| &connections[sample.key.as_str()] == its_own);
    assert_eq!(batch.acknowledged(), of_others + before.count());
    assert_eq!(client.stats().acknowledged, batch.acknowledged() as u64);
}

#[tokio::test(start_paused = true)]
async fn put_all_error_counts_rejected_over_connections() {
    let (network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(4).connect().await.unwrap();
    let samples = samples(50, 20);
    let silent = 827;
    let request = format!("put {}", samples[silent]);
    // Every third second is refused.
    let is_refused = |sample: &Sample| sample.point.timestamp % 3 == 0;
    let log = mock_server::spawn(network, move |_, asked| {
        match asked.rsplit(' ').next().unwrap().parse() {
            _ if asked == request => Reply::Silence,
            Ok(second) if second % 3 == 0 => text("error\nno\n\n"),
            Ok::<i64, _>(_) => OK,
            Err(error) => panic!("{asked}: {error}"),
        }
    });
    let Err(Error::Batch(batch)) = client.put_all(&samples).await else { panic!("it was silent") };
    assert_eq!((batch.first_error().0, batch.resume_from()), (0, silent));
    let rejected = samples[..silent].iter().filter(|sample| is_refused(sample)).count();
    assert_eq!(batch.rejected_before_resume(), rejected);

    // All others have their outcome, but for those that would have come over the silent connection.
    let connections = connections_by_key(&log);
    let its_own = &connections[samples[silent].key.as_str()];
    let answered = samples.iter().enumerate().filter(|&(place, sample)| {
        !is_refused(sample) && (place < silent || &connections[sample.key.as_str()] != its_own)
    });
    assert_eq!(batch.acknowledged(), answered.count());
}

#[tokio::test(start_paused = true)]
async fn put_all_error_covers_all_connections() {
    for answer in [None, Some("ok\n\n"), Some("error\nno\n\n")] {
        let HalfDown { client, lost, kept, mut other, _network } = HalfDown::new().await;
        let samples = [&lost, &kept].map(|key| Sample::new(key, 1.0, 1).unwrap());
        let server = async {
            other.expect(&format!("put {kept} 1.0 1\n")).await;
            if let Some(answer) = answer {
                other.send(answer).await;
            }
        };
        let (all, ()) = join!(client.put_all(&samples), server);
        let error = all.unwrap_err();
        let Error::Batch(batch) = &error else { panic!("{error:?}") };
        assert_eq!(
            (batch.first_error().0, batch.first_error().1.delivery()),
            (0, Delivery::NotSent)
        );
        let said = (error.delivery(), error.is_retryable());
        assert_eq!(said, (Delivery::Unknown, true), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn put_all_error_is_retryable_beyond_rejections() {
    let HalfDown { client, lost, kept, mut other, _network } = HalfDown::new().await;
    let samples = [&kept, &lost].map(|key| Sample::new(key, 1.0, 1).unwrap());
    let request = format!("put {kept} 1.0 1\n");
    let server = other.answer(&request, "error\nno\n\n");
    let (all, ()) = join!(client.put_all(&samples), server);
    let error = all.unwrap_err();
    let Error::Batch(batch) = &error else { panic!("{error:?}") };
    assert_eq!((batch.first_error().0, batch.first_error().1.delivery()), (0, Delivery::Rejected));
    assert_eq!((error.delivery(), error.is_retryable()), (Delivery::Unknown, true));
}

#[tokio::test(start_paused = true)]
async fn put_all_uses_every_connection() {
    let (network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).max_connections(256).connect().await.unwrap();
    let log = mock_server::spawn(network, |_, _| OK);
    let samples = samples(1000, 2);
    client.put_all(&samples).await.unwrap();
    assert_eq!(log.lock().unwrap().len(), samples.len());
    let connections = connections_by_key(&log);
    assert!(connections.values().all(|connections| connections.len() == 1), "{connections:?}");
}
