//! A tracing layer that counts log events as metrics, and keeps the lines for the test.

use std::{
    fmt::{self, Write},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use metrics::{counter, gauge, histogram, with_local_recorder};
use metrics_client::recorder::MetricsRecorder;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// The lines that this crate has logged, with their fields.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Those that hold this text.
    pub(crate) fn with(&self, text: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

/// A subscriber that updates metrics for each event.
struct Counting {
    recorder: Option<MetricsRecorder>,
    lines: Lines,
}

/// Runs `program` under a subscriber that keeps what is logged.
pub(crate) fn logged<T>(program: impl FnOnce() -> T) -> (T, Lines) {
    let lines = Lines::default();
    let subscriber = Counting { recorder: None, lines: lines.clone() };
    (tracing::subscriber::with_default(subscriber, program), lines)
}

/// Runs `program` on a thread of its own under a subscriber that counts events with `recorder`. It
/// fails where the thread hangs.
pub(crate) fn counted(
    recorder: &MetricsRecorder,
    program: impl FnOnce() + Send + 'static,
) -> Lines {
    let lines = Lines::default();
    let subscriber = Counting { recorder: Some(recorder.clone()), lines: lines.clone() };
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        tracing::subscriber::with_default(subscriber, program);
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(20)).expect("the thread hangs or has panicked");
    lines
}

impl Subscriber for Counting {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("metrics_client")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = EventLine(String::new());
        event.record(&mut line);
        self.lines.0.lock().unwrap().push(line.0);
        let Some(recorder) = &self.recorder else { return };
        with_local_recorder(recorder, || {
            // As many as reach each shard, and each kind.
            for shard in 0..16 {
                let shard = shard.to_string();
                counter!("log.events", "shard" => shard.clone()).increment(1);
                gauge!("log.last", "shard" => shard.clone()).set(1.0);
                histogram!("log.size", "shard" => shard).record(1.0);
            }
        });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct EventLine(String);

impl Visit for EventLine {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}
