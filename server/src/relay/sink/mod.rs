//! How points are sent to a destination: one file for each kind.

use std::{future::Future, time::Duration};

use crate::store::PutBatch;

mod influx;
mod metrics;

pub(super) use influx::{InfluxAccess, InfluxSink, RequestHead};
pub(super) use metrics::MetricsSink;

/// Sends points to one destination.
pub(super) trait Sink: Send + 'static {
    /// Sends points in order, and returns what has become of them. A later point of the same key and second
    /// replaces an earlier one.
    ///
    /// # Cancel safety
    ///
    /// The points may be sent or not.
    fn send(&mut self, puts: &PutBatch) -> impl Future<Output = Sent> + Send;
}

/// What has become of points that were sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// How many have a final outcome: the first ones.
    pub(super) settled: usize,
    /// How many of these the destination has rejected for good.
    pub(super) rejected: usize,
    /// How many of these cannot be written in the form of the destination.
    pub(super) unrepresentable: usize,
    /// Why the first of the rejected was, in the words of the destination.
    pub(super) rejection: Option<String>,
    /// Why the others have no outcome, if there are others.
    pub(super) failure: Option<SendFailure>,
}

/// Why points were not sent. They are sent again.
#[derive(Debug)]
pub(super) struct SendFailure {
    pub(super) message: String,
    /// How long the destination wants to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl SendFailure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), retry_after: None }
    }
}

/// Returns an error with its sources.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
