//! A log that a test can read.

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use tracing::{
    Dispatch, Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::{self, DefaultGuard},
};

/// Keeps the messages, without their fields, and calls something at each.
#[derive(Clone, Default)]
pub(crate) struct LogWatch {
    lines: Arc<Mutex<Vec<String>>>,
    at_each: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl LogWatch {
    pub(crate) fn calling(at_each: impl Fn() + Send + Sync + 'static) -> Self {
        Self { at_each: Some(Arc::new(at_each)), ..Self::default() }
    }

    /// Has it told of what happens on this thread.
    pub(crate) fn watch(&self) -> DefaultGuard {
        // As long as there is but one subscriber, an event that a test on another thread is the first to
        // reach is off for good.
        static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(LogWatch::default()));
        LazyLock::force(&ANOTHER);
        subscriber::set_default(self.clone())
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was logged.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines())
    }
}

impl Subscriber for LogWatch {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        if let Some(at_each) = &self.at_each {
            at_each();
        }
        let mut message = Message::default();
        event.record(&mut message);
        self.lines().push(message.0);
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
