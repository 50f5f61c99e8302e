//! Models of the hand-over between handles and driver, which loom runs in every order that threads
//! can bring it into.
//!
//! A lost wake-up shows as a deadlock. Time does not advance in a model, so that no deadline can hide
//! it. A model must run the same way twice: at most one of its threads waits for
//! [`super::ConnectionState`], and only for one change, because tokio spreads waiting tasks over
//! several lists at random, and goes through the lists one by one.
//!
//! ```sh
//! RUSTFLAGS='--cfg loom_model' cargo test --release --features tower --lib client::loom_tests -- --nocapture
//! ```

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::future::{join, join3};
use loom::{
    sync::Notify,
    thread::{self, JoinHandle},
};

use self::line::{Line, Server};
use super::{
    Connector, MetricsClient, Pipelining, ReconnectPolicy,
    address::Address,
    connector_fn,
    dialer::{Connected, Dialer, NoReconnect},
    driver::Driver,
    pool::Pool,
    reservation::Reservations,
    settings::{ConnectionConfig, Settings},
};
use crate::{error::Error, metric::Sample, protocol::Request};

mod line;
mod shutdown;

/// How often a thread may be made to give way where it could have gone on, unless
/// `LOOM_MAX_PREEMPTIONS` says otherwise. Two are known to find most errors ("Iterative context
/// bounding", M. Musuvathi and S. Qadeer, PLDI 2007).
const PREEMPTIONS: usize = 2;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn every_call_has_its_own_outcome_when_two_may_be_in_flight() {
    two_callers(Pipelining::On, Server::IsPrompt);
}

#[test]
fn every_call_has_its_own_outcome_when_one_may_be_in_flight() {
    two_callers(Pipelining::Off, Server::IsPrompt);
}

#[test]
fn answers_may_come_at_any_time() {
    for pipelining in [Pipelining::On, Pipelining::Off] {
        model(move || {
            let line = Line::new(Server::Withholds);
            let server = line.clone();
            let (client, driver) = connected(pipelining, line);
            let caller = in_thread(async move {
                join(stored(&client, "a"), refused(&client, "no.b")).await;
            });
            let server = in_thread(async move { server.answer() });
            block_on(driver);
            join_all([caller, server]);
        });
    }
}

/// Two callers that are woken together make the driver yield once. It has to run again by itself:
/// the third request waits, and nothing else wakes it.
#[test]
fn a_driver_that_waits_a_turn_comes_back() {
    model(|| {
        let line = Line::new(Server::Withholds);
        let server = line.clone();
        let (client, driver) = connected(Pipelining::On, line);
        let caller = in_thread(async move {
            join3(stored(&client, "a"), stored(&client, "b"), stored(&client, "c")).await;
        });
        let server = in_thread(async move { server.answer() });
        block_on(driver);
        join_all([caller, server]);
    });
}

/// The server answers nothing before it has both requests.
#[test]
fn a_request_that_may_be_sent_waits_for_no_answer() {
    two_callers(Pipelining::On, Server::WantsTwo);
}

#[test]
fn a_caller_who_asks_again_is_heard() {
    for pipelining in [Pipelining::On, Pipelining::Off] {
        model(move || {
            let (client, driver) = connected(pipelining, Line::new(Server::IsPrompt));
            let caller = in_thread(async move {
                stored(&client, "a").await;
                refused(&client, "no.b").await;
            });
            block_on(driver);
            join_all([caller]);
        });
    }
}

#[test]
fn a_batch_is_paced_to_its_end() {
    for pipelining in [Pipelining::On, Pipelining::Off] {
        model(move || {
            let (client, driver) = connected(pipelining, Line::new(Server::IsPrompt));
            let caller = in_thread(async move {
                let samples =
                    ["a", "b", "c", "d", "e"].map(|key| Sample::new(key, 0.5, 0).unwrap());
                client.put_all(samples).await.unwrap();
            });
            block_on(driver);
            join_all([caller]);
        });
    }
}

#[test]
fn a_call_that_is_dropped_half_way_keeps_nobody_from_anything() {
    for pipelining in [Pipelining::On, Pipelining::Off] {
        model(move || {
            let (client, driver) = connected(pipelining, Line::new(Server::IsPrompt));
            let others = client.clone();
            let gone = in_thread(async move { begun(stored(&client, "a")).await });
            let other = in_thread(async move { refused(&others, "no.b").await });
            block_on(driver);
            join_all([gone, other]);
        });
    }
}

/// The first poll is one task's, the second another's: the outcome wakes the second.
#[test]
fn a_call_may_move_to_another_task() {
    model(|| {
        let (client, driver) = connected(Pipelining::On, Line::new(Server::IsPrompt));
        let caller = in_thread(async move {
            let mut call = pin!(refused(&client, "no.a"));
            if call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                call.await;
            }
        });
        block_on(driver);
        join_all([caller]);
    });
}

#[test]
fn an_idle_driver_dials_for_the_first_request() {
    model(|| {
        let connector = connector_fn(|_| async { Ok(Line::new(Server::IsPrompt)) });
        let (client, driver) = client(Pipelining::Off, connector, None);
        let caller = in_thread(async move { stored(&client, "a").await });
        block_on(driver);
        join_all([caller]);
    });
}

/// The server hangs up after each answer, before or after it has been asked again.
#[test]
fn a_driver_that_is_idle_again_dials_for_the_next_request() {
    model(|| {
        let connector = connector_fn(|_| async { Ok(Line::new(Server::HangsUp)) });
        let (client, driver) = client(Pipelining::Off, connector, None);
        let caller = in_thread(async move {
            stored(&client, "a").await;
            refused(&client, "no.b").await;
        });
        block_on(driver);
        join_all([caller]);
    });
}

/// The server answers no request before the probe for pipelining, which the client starts only when a
/// second request waits.
#[test]
fn a_request_that_has_to_wait_has_the_server_probed() {
    model(|| {
        let line = Line::new(Server::Withholds);
        let held_back = line.clone();
        let connector = connector_fn(move |_| {
            held_back.answer();
            async { Ok(Line::new(Server::Withholds)) }
        });
        let (client, driver) = client(Pipelining::Auto, connector, Some(line));
        let others = client.clone();
        let one = in_thread(async move { stored(&client, "a").await });
        let other = in_thread(async move { refused(&others, "no.b").await });
        block_on(driver);
        join_all([one, other]);
    });
}

/// There is one reservation at a time: the caller that fills it has the next one woken.
#[test]
fn a_service_that_waits_for_a_place_gets_it_when_that_is_filled() {
    for pipelining in [Pipelining::On, Pipelining::Off] {
        model(move || {
            let (client, driver) = connected(pipelining, Line::new(Server::IsPrompt));
            let others = client.clone();
            let one = in_thread(async move { stored_in_place(&client, "a").await });
            let other = in_thread(async move { stored_in_place(&others, "b").await });
            block_on(driver);
            join_all([one, other]);
        });
    }
}

/// A caller that leaves, with the reservation or in the queue for it, has the next one woken too.
#[test]
fn a_service_that_waits_for_a_place_gets_it_when_another_leaves() {
    for pipelining in [Pipelining::On, Pipelining::Off] {
        model(move || {
            let (client, driver) = connected(pipelining, Line::new(Server::IsPrompt));
            let others = client.clone();
            let gone = in_thread(async move {
                let mut places = Reservations::default();
                begun(poll_fn(|cx| places.poll(&client, cx))).await;
            });
            let other = in_thread(async move { stored_in_place(&others, "b").await });
            block_on(driver);
            join_all([gone, other]);
        });
    }
}

#[test]
fn closing_tells_a_service_that_waits_for_a_place() {
    model(|| {
        let (client, driver) = connected(Pipelining::On, Line::new(Server::Withholds));
        let others = client.clone();
        let waiting = in_thread(async move {
            let [mut one, mut two] = <[Reservations; 2]>::default();
            for places in [&mut one, &mut two] {
                match poll_fn(|cx| places.poll(&others, cx)).await {
                    Ok(()) | Err(Error::Closed { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        let closer = in_thread(async move { client.close().await.unwrap() });
        block_on(driver);
        join_all([waiting, closer]);
    });
}

fn two_callers(pipelining: Pipelining, server: Server) {
    model(move || {
        let (client, driver) = connected(pipelining, Line::new(server));
        let others = client.clone();
        let one = in_thread(async move { stored(&client, "a").await });
        let other = in_thread(async move { refused(&others, "no.b").await });
        block_on(driver);
        join_all([one, other]);
    });
}

/// Runs the model in every order of its threads, within the bound on preemptions.
fn model(model: impl Fn() + Send + Sync + 'static) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap();
    // Loom's threads are all of this one thread of the system, so all are in the context.
    let _context = runtime.enter();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.check(model);
}

/// As loom's own, but that the counts of a waker are not among what is modelled: they are the standard
/// library's, and would be most of the orders.
fn block_on<T>(task: impl Future<Output = T>) -> T {
    struct Unpark(Notify);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.notify();
        }
    }

    let mut task = pin!(task);
    let unpark = Arc::new(Unpark(Notify::new()));
    let waker = Waker::from(Arc::clone(&unpark));
    loop {
        if let Poll::Ready(output) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        unpark.0.wait();
    }
}

fn in_thread(task: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    thread::spawn(|| block_on(task))
}

fn join_all(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A client that is connected and cannot dial, and its driver.
fn connected(pipelining: Pipelining, line: Line) -> (MetricsClient, Driver<NoReconnect<Line>>) {
    client(pipelining, NoReconnect::default(), Some(line))
}

fn client<C: Connector>(
    pipelining: Pipelining,
    connector: C,
    io: Option<C::Io>,
) -> (MetricsClient, Driver<C>) {
    let config = ConnectionConfig {
        settings: Settings {
            request_timeout: SECOND,
            stall_timeout: Some(SECOND),
            max_buffered_bytes: 1024,
            ..Settings::default()
        },
        pipelining,
        max_in_flight: 2,
        max_response_bytes: 1024,
        reconnect: ReconnectPolicy::backoff(Duration::ZERO, Duration::ZERO),
        ..ConnectionConfig::default()
    };
    let connected = io.map(|io| Connected { io, server: 0 });
    let dialer = Dialer::new(connector, vec![Address::custom("a model")], &config);
    let pool = Pool::new(&config);
    let shared = Arc::clone(&pool.connections()[0]);
    let driver = Driver::new(shared, config, Arc::new(dialer), connected);
    (MetricsClient::new(pool, None), driver)
}

async fn stored(client: &MetricsClient, key: &str) {
    client.put_at(key, 0.5, 0).await.unwrap();
}

async fn stored_in_place(client: &MetricsClient, key: &str) {
    let mut places = Reservations::default();
    poll_fn(|cx| places.poll(client, cx)).await.unwrap();
    places.call(client, Request::put(key, 0.5, 0).unwrap()).await.unwrap();
}

/// The server refuses a key that begins with `no`, and names it.
async fn refused(client: &MetricsClient, key: &str) {
    match client.put_at(key, 0.5, 0).await {
        Err(Error::Rejected { message }) => assert_eq!(&*message, key),
        outcome => panic!("{key}: {outcome:?}"),
    }
}

/// Polls the call once, and drops it.
async fn begun(call: impl Future) {
    let mut call = pin!(call);
    poll_fn(|cx| {
        let _ = call.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}
