//! How a client ends, in every order of its threads.

use std::{
    future::{Future, pending, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use loom::sync::Mutex;

use super::{
    begun, block_on, client, connected, in_thread, join_all,
    line::{Line, Server, wake},
    model,
};
use crate::{
    client::{MetricsClient, Pipelining, connector_fn},
    error::{Delivery, Error},
    metric::Sample,
};

#[test]
fn closing_serves_what_has_been_accepted() {
    model(|| {
        let (client, driver) = connected(Pipelining::On, Line::new(Server::IsPrompt));
        let others = client.clone();
        let caller = in_thread(async move {
            match client.put_at("a", 0.5, 0).await {
                Ok(()) | Err(Error::Closed { delivery: Delivery::NotSent, .. }) => {}
                outcome => panic!("{outcome:?}"),
            }
        });
        let closer = in_thread(async move { others.close().await.unwrap() });
        block_on(driver);
        join_all([caller, closer]);
    });
}

/// The server never answers, and a handle is kept: only the caller's leaving lets the close end.
#[test]
fn closing_ends_when_the_last_caller_leaves() {
    model(|| {
        let (client, driver) = connected(Pipelining::On, Line::new(Server::Withholds));
        let others = client.clone();
        let last = client.clone();
        let closer = in_thread(async move { others.close().await.unwrap() });
        let caller = in_thread(async move { begun(client.put_at("a", 0.5, 0)).await });
        block_on(driver);
        join_all([closer, caller]);
        drop(last);
    });
}

#[test]
fn an_idle_driver_ends_with_the_last_handle() {
    model(|| {
        let connector = connector_fn(|_| async { Ok(Line::new(Server::IsPrompt)) });
        let (client, driver) = client(Pipelining::Off, connector, None);
        let handles = [client.clone(), client].map(|handle| in_thread(async move { drop(handle) }));
        block_on(driver);
        join_all(handles);
    });
}

/// The last handle goes, and the call that it was asked for, while the answer comes.
#[test]
fn an_answer_that_nobody_waits_for_keeps_no_driver() {
    model(|| {
        let line = Line::new(Server::Withholds);
        let server = line.clone();
        let (client, driver) = connected(Pipelining::On, line);
        let caller = in_thread(async move { begun(client.put_at("a", 0.5, 0)).await });
        let server = in_thread(async move { server.answer() });
        block_on(driver);
        join_all([caller, server]);
    });
}

/// One who closes leaves before it is done, and calls again; the other waits.
#[test]
fn two_may_close() {
    model(|| {
        let (client, driver) = connected(Pipelining::On, Line::new(Server::IsPrompt));
        let others = client.clone();
        let one = in_thread(async move {
            begin_to_close(&client);
            is_refused(&client).await;
        });
        let other = in_thread(async move {
            others.close().await.unwrap();
            is_refused(&others).await;
        });
        block_on(driver);
        join_all([one, other]);
    });
}

/// The driver ends, as with its runtime, while calls are on their way to it, and from it.
#[test]
fn nobody_waits_for_a_driver_that_is_gone() {
    for server in [Server::IsPrompt, Server::Withholds] {
        model(move || {
            let (client, driver) = connected(Pipelining::On, Line::new(server));
            let others = client.clone();
            let callers = [client, others].map(|client| {
                in_thread(async move { is_stored_or_closed(client.put_at("a", 0.5, 0).await) })
            });
            begun_and_dropped(driver);
            join_all(callers);
        });
    }
}

/// As above, for a batch, which waits for room, and for a caller of `close`.
#[test]
fn neither_a_batch_nor_a_close_waits_for_a_driver_that_is_gone() {
    model(|| {
        let (client, driver) = connected(Pipelining::On, Line::new(Server::Withholds));
        let others = client.clone();
        let batch = in_thread(async move {
            let samples = ["a", "b", "c"].map(|key| Sample::new(key, 0.5, 0).unwrap());
            match client.put_all(samples).await {
                Err(Error::Batch(batch)) => is_stored_or_closed(Err(batch.first_error().1.clone())),
                outcome => panic!("{outcome:?}"),
            }
        });
        let closer = in_thread(async move {
            let _ = others.close().await;
        });
        begun_and_dropped(driver);
        join_all([batch, closer]);
    });
}

/// There never is a connection, and a handle is kept: the close ends when the last caller leaves.
#[test]
fn closing_waits_for_no_connection_that_nobody_wants() {
    model(|| {
        let connector = connector_fn(|_| pending::<io::Result<Line>>());
        let (client, driver) = client(Pipelining::Off, connector, None);
        let others = client.clone();
        let last = client.clone();
        let caller = in_thread(async move { begun(client.put_at("a", 0.5, 0)).await });
        let closer = in_thread(async move { begin_to_close(&others) });
        block_on(driver);
        join_all([caller, closer]);
        drop(last);
    });
}

/// The connection is made while the client closes: who was accepted is served over it.
#[test]
fn closing_serves_over_a_connection_that_is_just_being_made() {
    model(|| {
        let door = Door::default();
        let behind = door.clone();
        let connector = connector_fn(move |_| {
            let door = behind.clone();
            async move {
                door.opened().await;
                Ok(Line::new(Server::IsPrompt))
            }
        });
        let (client, driver) = client(Pipelining::Off, connector, None);
        let others = client.clone();
        let caller =
            in_thread(async move { is_stored_or_closed(client.put_at("a", 0.5, 0).await) });
        let closer = in_thread(async move {
            door.open();
            begin_to_close(&others);
        });
        block_on(driver);
        join_all([caller, closer]);
    });
}

/// The client continues to close, and no task waits for the state.
fn begin_to_close(client: &MetricsClient) {
    let _ = pin!(client.close()).poll(&mut Context::from_waker(Waker::noop()));
}

async fn is_refused(client: &MetricsClient) {
    match client.put_at("b", 0.5, 0).await {
        Err(
            Error::Closed { delivery: Delivery::NotSent, .. }
            | Error::RuntimeGone { delivery: Delivery::NotSent },
        ) => {}
        outcome => panic!("{outcome:?}"),
    }
}

fn is_stored_or_closed(outcome: Result<(), Error>) {
    match outcome {
        Ok(()) | Err(Error::Closed { .. } | Error::RuntimeGone { .. }) => {}
        Err(error) => panic!("{error:?}"),
    }
}

/// Lets the driver have one turn.
fn begun_and_dropped(driver: impl Future<Output = ()> + Unpin) {
    block_on(begun(driver));
}

/// Shut until it is opened.
#[derive(Clone, Default)]
struct Door(Arc<Mutex<(bool, Option<Waker>)>>);

impl Door {
    fn open(&self) {
        let mut door = self.0.lock().unwrap();
        door.0 = true;
        let waiting = door.1.take();
        drop(door);
        wake(waiting);
    }

    async fn opened(&self) {
        poll_fn(|cx| {
            let mut door = self.0.lock().unwrap();
            if door.0 {
                return Poll::Ready(());
            }
            door.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
