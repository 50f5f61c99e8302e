//! The callers of a script, which says when a call begins and when it is dropped.
//!
//! They do not use `crate::workload`: nothing here is random, each call is held and dropped from
//! outside, and some calls are invalid on purpose.

use std::time::Duration;

use metrics_client::{
    Error, MetricsClient, Sample,
    client::{ConnectionState, SampleStream, StateWatcher},
};
use tokio::{
    task::{self, JoinHandle},
    time::{self, Instant},
};

use super::{
    CLOSE_TIMEOUT, Held, SLACK, begun,
    checks::Ended,
    state::{Ask, CallResult, SharedState},
};

pub(super) struct Callers {
    world: SharedState,
    handles: Vec<MetricsClient>,
    state: StateWatcher,
    tasks: Vec<JoinHandle<()>>,
}

/// What is tried with more can be tried with these, in less time.
const MOST_ACTS: usize = 64;

impl Callers {
    pub(super) fn new(world: SharedState, client: MetricsClient) -> Self {
        Self { world, state: client.watch_state(), handles: vec![client], tasks: Vec::new() }
    }

    /// Plays to the end, or to where the script ends the runtime: returns calls that are then to be
    /// polled.
    pub(super) async fn play(mut self, script: &[u8]) -> Vec<Held> {
        for act in script.iter().take(MOST_ACTS) {
            match act {
                b'p' => self.spawn(Ask::Put),
                b'P' => self.spawn(Ask::PutNow),
                b'g' => self.spawn(Ask::Get),
                b'G' => self.spawn(Ask::GetAll),
                b'b' => self.spawn(Ask::Batch(3)),
                b'B' => self.spawn(Ask::Batch(40)),
                b's' => self.spawn(Ask::Stream),
                b'i' => self.spawn(Ask::Nonsense),
                b'h' | b'H' => self.begin(*act == b'H'),
                b'S' => self.hold_stream(),
                b'd' => self.drop_task(0),
                b'D' => self.drop_task(self.tasks.len().saturating_sub(1)),
                b'c' => self.handles.extend(self.handles.last().cloned()),
                b'x' => drop(self.handles.pop()),
                b'C' => self.close(),
                b'.' => task::yield_now().await,
                b'0'..=b'9' => {
                    time::sleep(Duration::from_millis(100) * u32::from(act - b'0')).await;
                }
                b'X' => return self.abandon(),
                _ => {}
            }
            self.look().await;
        }
        self.end().await;
        Vec::new()
    }

    /// Everything has an end: the calls, the client's task, the connections.
    async fn end(mut self) {
        for task in std::mem::take(&mut self.tasks) {
            finished(task).await;
        }
        self.look().await;
        if let Some(client) = self.handles.last() {
            let stats = client.stats();
            assert_eq!((stats.in_flight, stats.queued), (0, 0), "no request is outstanding");
        }
        self.handles.clear();
        let rest = CLOSE_TIMEOUT + SLACK;
        let ended = time::timeout(rest, self.state.wait_for(|_| false)).await;
        assert_eq!(ended.expect("the client's task must end"), None);
        assert_eq!(self.state.get(), ConnectionState::Closed);
        let world = self.world.lock();
        world.is_content();
        assert!(world.is_quiet(), "a connection is left");
    }

    /// Takes the outcomes of calls that have ended, and checks the state of the client.
    async fn look(&mut self) {
        let (done, open) = self.tasks.drain(..).partition(JoinHandle::is_finished);
        self.tasks = open;
        for task in Vec::from_iter::<Vec<_>>(done) {
            finished(task).await;
        }
        if let Some(client) = self.handles.last() {
            self.world.lock().agrees_with(&client.stats());
        }
        self.world.lock().is_content();
    }

    /// The script ends the runtime under the calls of this client: one of them is made now.
    fn abandon(self) -> Vec<Held> {
        let Some(client) = self.handles.last() else { return Vec::new() };
        let (client, key) = (client.clone(), "left");
        let mut call: Held = Box::pin(async move {
            let _ = client.put_at(key, 0.5, 0).await;
        });
        if begun(&mut call).is_ready() { Vec::new() } else { vec![call] }
    }

    fn spawn(&mut self, ask: Ask) {
        if let Some(call) = self.call(ask) {
            self.tasks.push(tokio::spawn(call));
        }
    }

    /// A put is polled once, and then dropped, or left to a task.
    fn begin(&mut self, stays: bool) {
        let Some(mut call) = self.call(Ask::Put) else { return };
        if begun(&mut call).is_pending() && stays {
            self.tasks.push(tokio::spawn(call));
        }
    }

    fn call(&self, ask: Ask) -> Option<Held> {
        let client = self.handles.last()?.clone();
        Some(Box::pin(call(self.world.clone(), client, ask)))
    }

    /// A stream is opened, and not read.
    fn hold_stream(&mut self) {
        let Some(client) = self.handles.last().cloned() else { return };
        self.tasks.push(tokio::spawn(async move {
            let stream = client.stream("sip").await;
            time::sleep(Duration::from_millis(300)).await;
            drop(stream);
        }));
    }

    fn drop_task(&self, place: usize) {
        if let Some(task) = self.tasks.get(place) {
            task.abort();
        }
    }

    fn close(&mut self) {
        let Some(client) = self.handles.last().cloned() else { return };
        let world = self.world.clone();
        self.tasks.push(tokio::spawn(async move {
            world.lock().closing = true;
            let since = Instant::now();
            let closed = client.close().await;
            let stats = client.stats();
            world.lock().judge_close(since, &stats);
            assert!(closed.is_ok() || stats.failed > 0, "{closed:?}");
            assert_eq!(client.state(), ConnectionState::Closed);
        }));
    }
}

async fn finished(task: JoinHandle<()>) {
    match task.await {
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        _ => {}
    }
}

/// A call, whose end is judged.
async fn call(world: SharedState, client: MetricsClient, ask: Ask) {
    let was_late = world.lock().closing;
    let tag = world.lock().call(ask);
    let _open = Open(&world, tag);
    let this = Ended { tag, since: Instant::now(), was_late };
    let value = tag as f64 + 0.5;
    let outcome: CallResult = match ask {
        Ask::Put => client.put_at(format!("p{tag}"), value, tag as i64).await.map(|()| None),
        Ask::PutNow => client.put(format!("p{tag}"), value).await.map(|()| None),
        Ask::Get => client.get(format!("g{tag}").as_str()).await.map(Some),
        Ask::GetAll => client.get_all().await.map(Some),
        Ask::Batch(total) => {
            let sample = |index| Sample::new(format!("b{tag}.{index}"), value, index as i64);
            let samples = (0..total).map(|index| sample(index).unwrap()).collect::<Vec<_>>();
            let outcome = client.put_all(samples).await;
            world.lock().judge_batch(tag, total, &outcome);
            match outcome {
                Err(Error::Batch(batch)) if this.was_late => Err(batch.first_error().1.clone()),
                outcome => outcome.map(|()| None),
            }
        }
        Ask::Stream => match client.stream(format!("s{tag}").as_str()).await {
            Ok(stream) => return read(&world, stream, tag).await,
            Err(error) => Err(error),
        },
        Ask::Nonsense if tag.is_multiple_of(2) => client.put("no key", value).await.map(|()| None),
        Ask::Nonsense => client.put("nan", f64::NAN).await.map(|()| None),
    };
    world.lock().judge(this, &outcome);
}

async fn read(world: &SharedState, mut stream: SampleStream, tag: usize) {
    let limit = world.lock().rules.request_timeout + SLACK;
    let mut samples = Vec::new();
    let end = loop {
        match time::timeout(limit, stream.next()).await.expect("a stream must not hang") {
            Some(Ok(sample)) => samples.push(sample),
            Some(Err(error)) => break Err(error),
            None => break Ok(()),
        }
    };
    world.lock().judge_stream(tag, samples, &end);
}

/// A call that a task waits for.
struct Open<'a>(&'a SharedState, usize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.lock().end(self.1);
    }
}
