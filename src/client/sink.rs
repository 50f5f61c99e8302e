//! Samples one by one into batches, in bounded memory.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use futures_core::Stream;
use futures_sink::Sink;
use tokio::{task::coop, time::Instant};

use super::{
    batch::{BLOCK_SAMPLES, Batch, BatchOutcome, first_by_index},
    handle::MetricsClient,
    shared::{cooperative, poll_budget},
};
use crate::{
    error::{Delivery, Error},
    metric::Sample,
    protocol::{self, NonFiniteValue},
};

/// A [`Sink`] of samples; made by [`MetricsClient::sink`].
///
/// Samples are sent in blocks: when 512 have been fed for a connection, and when the sink is flushed. It holds
/// up to 512 samples for each connection, and waits for room in the client's queue before it takes more.
/// Closing the sink flushes it; it does not close the client. A sink can be used on after a flush, a close or an
/// error.
///
/// Samples that the server rejects do not keep others from being stored: the next flush fails, with
/// [`Error::Batch`] about all samples since the flush before. After any other failure [`poll_ready`] and
/// [`poll_flush`] fail in this way at once, and what had not been sent by then is dropped; the indices of the
/// [`BatchError`] count from the last flush or error. A value that is not finite fails its
/// [`start_send`], and nothing else.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr();
/// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
/// use futures_util::SinkExt;
/// use metrics_client::{MetricsClient, Sample};
///
/// let client = MetricsClient::connect(address).await?;
/// let mut sink = client.sink();
/// for second in 0..1000 {
///     sink.feed(Sample::new("palm.cpu", 23.7, second)?).await?;
/// }
/// sink.close().await?; // everything is stored
/// # Ok(()) }
/// ```
///
/// [`poll_ready`]: Sink::poll_ready
/// [`poll_flush`]: Sink::poll_flush
/// [`start_send`]: Sink::start_send
/// [`BatchError`]: crate::error::BatchError
#[must_use = "sinks do nothing unless polled"]
pub struct SampleSink {
    lanes: Box<[SinkLane]>,
    /// The lane that has to send a block before it takes more.
    full: Option<usize>,
    /// How many samples the present round has. What is known of a round is bounded, so that a sink that is
    /// never flushed, or a server that rejects everything, takes no memory for each sample.
    in_round: usize,
    /// How many samples of earlier rounds there were since the last flush, how many of them were rejected, and
    /// the rest of their outcome.
    before: usize,
    rejected_before: usize,
    outcome: BatchOutcome,
    /// Whether the round ends early, because of a failure that is no rejection.
    is_interrupted: bool,
    /// Keeps the client open; dropped last.
    client: MetricsClient,
}

/// The samples of one connection.
struct SinkLane {
    batch: Batch<'static>,
    buffer: VecDeque<Sample>,
    /// The index of each of its samples in the round, if there are several lanes.
    indices: Vec<usize>,
    /// How many samples of the round have been queued.
    accepted: usize,
    /// The first sample of the lane that could not be queued, and why.
    failure: Option<(usize, Error)>,
}

/// The most samples of a round. The sink ends it by waiting for the responses that are due, which costs a round trip.
const ROUND_SAMPLES: usize = 64 * 1024;

impl MetricsClient {
    /// Stores all samples of a stream, in order and in bounded memory, and returns once the server has acknowledged
    /// all of them. The samples that have come are sent while the stream is not ready.
    ///
    /// Differs from [`put_all`](Self::put_all) in one point: a connection that is down holds up the samples of the
    /// other ones too.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
    /// # let address = server.local_addr();
    /// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
    /// use futures_util::stream;
    /// use metrics_client::{Key, MetricsClient, Point, Sample};
    ///
    /// let client = MetricsClient::connect(address).await?;
    /// let key = Key::new("palm.cpu")?;
    /// let second = |timestamp| Sample { key: key.clone(), point: Point { timestamp, value: 23.7 } };
    /// client.put_stream(stream::iter((0..100_000).map(second))).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Batch`], in which the indices count from the first sample of the stream. A rejection does not keep
    /// the rest from being stored. Any other failure, a value that is not finite among them, ends the call once
    /// the responses that are due have come: what the stream has had by then is the total.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the samples that have not been sent.
    pub async fn put_stream(&self, samples: impl Stream<Item = Sample>) -> Result<(), Error> {
        cooperative(async {
            let mut samples = pin!(samples);
            let mut sink = self.sink();
            poll_fn(|cx| sink.poll_send_all(samples.as_mut(), cx)).await?;
            poll_fn(|cx| Pin::new(&mut sink).poll_flush(cx)).await?;
            coop::consume_budget().await;
            Ok(())
        })
        .await
    }

    /// Returns a [`Sink`] that stores samples.
    pub fn sink(&self) -> SampleSink {
        SampleSink::new(self.clone())
    }
}

impl SampleSink {
    pub(super) fn new(client: MetricsClient) -> Self {
        let lane = |shared| SinkLane {
            batch: Batch::open(shared, client.timeout(), None),
            buffer: VecDeque::new(),
            indices: Vec::new(),
            accepted: 0,
            failure: None,
        };
        Self {
            lanes: client.pool().connections().iter().map(lane).collect(),
            full: None,
            in_round: 0,
            before: 0,
            rejected_before: 0,
            outcome: BatchOutcome::default(),
            is_interrupted: false,
            client,
        }
    }

    /// Sends everything of `samples`. Where the stream is not ready, the samples before are sent at once.
    pub(super) fn poll_send_all(
        &mut self,
        mut samples: Pin<&mut impl Stream<Item = Sample>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        loop {
            ready!(self.poll_ready_inner(cx))?;
            match samples.as_mut().poll_next(cx) {
                Poll::Ready(Some(sample)) => {
                    if let Err(error) = self.push(sample) {
                        self.interrupt(error);
                    }
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    if self.poll_queue(cx).is_ready() && self.is_interrupted {
                        continue;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Fails the sample that would come next.
    fn interrupt(&mut self, error: Error) {
        let index = self.before + self.in_round;
        self.outcome.interrupted = Some((index, error.is_retryable()));
        let delivery = self.outcome.delivery.into_iter().chain([error.delivery()]);
        self.outcome.delivery = Delivery::of_all(delivery);
        self.outcome.failure = first_by_index(self.outcome.failure.take(), Some((index, error)));
        self.in_round += 1;
        self.is_interrupted = true;
    }

    fn push(&mut self, sample: Sample) -> Result<(), Error> {
        NonFiniteValue::ensure_finite(&sample.key, sample.point.value)?;
        let index = self.client.pool().shard_of(sample.key.as_str());
        let several = self.lanes.len() > 1;
        let lane = &mut self.lanes[index];
        if several {
            lane.indices.push(self.in_round);
        }
        lane.buffer.push_back(sample);
        self.in_round += 1;
        if lane.buffer.len() >= BLOCK_SAMPLES {
            self.full = Some(index);
        }
        Ok(())
    }

    fn poll_ready_inner(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(index) = self.full {
            let lane = &mut self.lanes[index];
            let queued = lane.poll_queue(cx);
            self.is_interrupted |= lane.is_interrupted(&queued);
            if lane.buffer.len() < BLOCK_SAMPLES {
                self.full = None;
            } else if !self.is_interrupted {
                return Poll::Pending;
            }
        }
        if self.is_interrupted {
            return self.poll_outcome(cx);
        }
        if self.in_round >= ROUND_SAMPLES {
            ready!(self.poll_round(cx));
            if self.is_interrupted {
                return self.poll_outcome(cx);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Queues the samples of all lanes; ready when all of them are queued, or when none will be any more.
    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut polled = Poll::Ready(());
        for lane in &mut self.lanes {
            let queued = lane.poll_queue(cx);
            self.is_interrupted |= lane.is_interrupted(&queued);
            if queued.is_pending() {
                polled = Poll::Pending;
            }
        }
        polled
    }

    /// Waits for the outcome of every sample since the last flush.
    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_round(cx));
        if self.outcome.failure.is_some() {
            ready!(poll_budget(cx));
        }
        let total = self.before;
        self.before = 0;
        self.is_interrupted = false;
        let rejected = std::mem::take(&mut self.rejected_before);
        Poll::Ready(std::mem::take(&mut self.outcome).into_result(total, rejected))
    }

    /// Ends the round: waits for the outcome of every sample in it.
    fn poll_round(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.in_round == 0 {
            return Poll::Ready(());
        }
        if !self.is_interrupted {
            let queued = self.poll_queue(cx);
            if queued.is_pending() && !self.is_interrupted {
                return Poll::Pending;
            }
        }
        for lane in &self.lanes {
            ready!(lane.batch.poll_drained(cx));
        }
        let mut round = BatchOutcome { settled: self.in_round, ..BatchOutcome::default() };
        let several = self.lanes.len() > 1;
        for lane in &mut self.lanes {
            let (outcome, indices) = lane.finish();
            round.add(match several {
                true => outcome.into_global_indices(indices.into_iter(), self.in_round),
                false => outcome,
            });
        }
        round.shift(self.before);
        self.before += std::mem::take(&mut self.in_round);
        self.full = None;
        self.is_interrupted |= round.interrupted.is_some();
        if let Some((index, _)) = self.outcome.interrupted {
            // The sample that could not be taken is the end of what is settled.
            round.settled = round.settled.min(index);
        }
        self.outcome.settled = round.settled;
        self.outcome.add(round);
        if !self.is_interrupted {
            self.rejected_before += std::mem::take(&mut self.outcome.rejected).len();
        }
        Poll::Ready(())
    }
}

impl SinkLane {
    /// Queues the samples in the buffer; ready when it is empty, or when adding more is of no use.
    fn poll_queue(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut puts = BytesMut::new();
        while !self.buffer.is_empty() && self.failure.is_none() {
            let Some(capacity) = ready!(self.batch.poll_capacity(self.accepted, cx)) else {
                break;
            };
            let block = capacity.min(self.buffer.len());
            puts.clear();
            for Sample { key, point } in self.buffer.drain(..block) {
                protocol::encode_put(&mut puts, key.as_str(), point);
            }
            match self.batch.push_block(self.accepted, block, &puts) {
                Ok(()) => self.accepted += block,
                Err(error) => self.failure = Some((self.accepted, error)),
            }
        }
        Poll::Ready(())
    }

    /// Returns true if `queued` was ready although there are samples that were not queued.
    fn is_interrupted(&self, queued: &Poll<()>) -> bool {
        queued.is_ready() && (self.failure.is_some() || !self.buffer.is_empty())
    }

    /// Returns the outcome of the round, and the indices of its samples in it, and begins the next one.
    fn finish(&mut self) -> (BatchOutcome, Vec<usize>) {
        let progress = self.batch.restart(Instant::now());
        let unsent = self.failure.is_some() || !self.buffer.is_empty();
        self.buffer.clear();
        let accepted = std::mem::take(&mut self.accepted);
        let total = accepted + usize::from(unsent);
        let outcome = BatchOutcome::of(progress, accepted, total, self.failure.take());
        (outcome, std::mem::take(&mut self.indices))
    }
}

impl Sink<Sample> for SampleSink {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_ready_inner(cx)
    }

    fn start_send(self: Pin<&mut Self>, sample: Sample) -> Result<(), Error> {
        self.get_mut().push(sample)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_outcome(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_outcome(cx)
    }
}

impl fmt::Debug for SampleSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SampleSink").field("since_flush", &(self.before + self.in_round)).finish()
    }
}
