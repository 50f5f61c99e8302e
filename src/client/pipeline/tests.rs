//! The pipeline, with plain values and a made-up clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Wake},
    time::Duration,
};

use bytes::BytesMut;

use super::{send_queue::RequestKind, *};
use crate::{
    client::settings::{CallTimeout, WhenFull},
    error::Delivery,
    metric::{Point, Selector},
    protocol::{PutSuffix, Response, encode_get},
};

#[cfg(feature = "tower")]
mod admission;
mod edge_cases;
mod leaving;
mod model;
mod ops;
mod random_walk;
mod timeouts;
mod trim;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// This many events, or as many as an interpreter gets through in seconds.
const fn at_most(events: usize) -> usize {
    if cfg!(miri) { 20 } else { events }
}

impl Pipeline {
    /// Submits a put.
    fn put(
        &mut self,
        key: &str,
        numbers: &PutSuffix,
        waker: Waker,
        now: Instant,
    ) -> Result<Submitted, Error> {
        let submitted =
            self.submit(Admission::ByPolicy, RequestKind::Put, None, waker, now, |bytes| {
                numbers.append_put(bytes, key);
            });
        submitted.map_err(|refused| refused.error)
    }

    /// Submits a get.
    fn get(&mut self, selector: &Selector, waker: Waker, now: Instant) -> Result<Submitted, Error> {
        let submitted =
            self.submit(Admission::ByPolicy, RequestKind::Get, None, waker, now, |bytes| {
                encode_get(bytes, selector);
            });
        submitted.map_err(|refused| refused.error)
    }
}

/// A task that only remembers that it was woken.
#[derive(Debug, Default)]
struct Task(AtomicBool);

impl Task {
    /// Whether it was woken since the last look.
    fn was_woken(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    #[cfg(feature = "tower")]
    fn is_woken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a request has come to.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Stored,
    /// The first key of the data, if there is data.
    Found(Option<String>),
    Rejected(String),
    Unreadable,
    Timeout(Delivery),
    Lost(Delivery),
    Closed(Delivery),
    /// The caller has left.
    Cancelled,
}

impl Outcome {
    /// What can have happened to a put that failed.
    fn of_failed_put(&self) -> Option<Delivery> {
        match self {
            Self::Rejected(_) => Some(Delivery::Rejected),
            Self::Timeout(delivery) | Self::Lost(delivery) | Self::Closed(delivery) => {
                Some(*delivery)
            }
            Self::Stored | Self::Found(_) | Self::Unreadable | Self::Cancelled => None,
        }
    }
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        match error {
            Error::Rejected { message } => Self::Rejected(message.to_string()),
            Error::InvalidResponse(_) => Self::Unreadable,
            Error::Timeout { delivery, .. } => Self::Timeout(*delivery),
            Error::Connection { delivery, .. } => Self::Lost(*delivery),
            Error::Closed { delivery, .. } => Self::Closed(*delivery),
            error => panic!("a pipeline does not end a request with {error:?}"),
        }
    }
}

impl From<Result<Reply, Error>> for Outcome {
    fn from(result: Result<Reply, Error>) -> Self {
        match result {
            Ok(Reply::Stored) => Self::Stored,
            Ok(Reply::Found(metrics)) => {
                Self::Found(metrics.keys().next().map(ToString::to_string))
            }
            Err(error) => Self::from(&error),
        }
    }
}
