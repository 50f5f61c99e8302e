//! The samples of a `get` of any size, over a connection of its own.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use futures_core::{FusedStream, Stream};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    task::coop,
    time::{self, Instant, Sleep},
};
use tokio_util::codec::FramedRead;

use super::{
    dialer::{AsyncStream, DynDialer},
    greeting::END_WITHIN,
    turn::{IoTurn, within},
};
use crate::{
    error::{ConnectionError, Delivery, Error},
    metric::{Sample, Selector},
    protocol::{self, ResponseEnd, SampleDecoder, StreamItem},
};

/// The samples of a `get`, one by one; made by [`MetricsClient::stream`](crate::MetricsClient::stream).
///
/// It holds one connection, at most 128 KiB of what was read and the samples in that, some 1 MiB if
/// their keys are one letter long, however much the server sends; a slow consumer slows the server down. It is also a
/// [`Stream`]. Each sample counts in Tokio's cooperative budget, so a loop over it yields to other tasks, and to a
/// timeout around it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use metrics_client::MetricsClient;
/// # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr();
/// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
/// # let client = MetricsClient::connect(address).await?;
/// client.put_at("palm.cpu", 23.7, 1150864247).await?;
/// let mut samples = client.stream("*").await?;
/// while let Some(sample) = samples.next().await {
///     println!("{}", sample?);
/// }
/// # Ok(()) }
/// ```
#[must_use = "streams do nothing unless polled"]
pub struct SampleStream {
    /// `None` once it has ended.
    samples: Option<FramedRead<Exclusive, SampleDecoder>>,
    asked: Selector,
    limit: Duration,
    /// The `error` that the server sent in place of samples, until it is clear if the connection ends after it:
    /// then it is about the connection.
    rejection: Option<Arc<str>>,
    /// Runs while nothing comes, if it is armed.
    read_timeout: Pin<Box<Sleep>>,
    timer_armed: bool,
    /// For input that came while the process or its runtime was suspended, in which case the timer is late.
    io_turn: IoTurn,
}

/// A connection that only its owner can reach, so that a [`SampleStream`] is [`Sync`] although the connection
/// need not be: the mutex is never locked.
struct Exclusive(Mutex<Box<dyn AsyncStream>>);

impl AsyncRead for Exclusive {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let io = self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner);
        Pin::new(io).poll_read(cx, buffer)
    }
}

/// How many bytes are read, and then held as samples, at once.
const READ_BUFFER_BYTES: usize = 64 * 1024;

impl SampleStream {
    /// Returns the next sample, or `None` after the last one. Shadows `StreamExt::next` on purpose: no trait has to be
    /// imported, and it is the same.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] with [`ConnectionError::Rejected`] if the server answers `error` and closes the
    /// connection, as a server at its connection limit does; [`Error::Rejected`] if it rejects the request;
    /// [`Error::InvalidResponse`] if it sends an invalid record; [`Error::Timeout`] if it sends nothing within the
    /// request timeout; [`Error::Connection`] if the connection is lost. Nothing follows an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no sample.
    pub async fn next(&mut self) -> Option<Result<Sample, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Connects, sends the request, and returns without waiting for the response.
    pub(super) async fn open(
        dialer: Arc<dyn DynDialer>,
        selector: &Selector,
        limit: Duration,
    ) -> Result<Self, Error> {
        let mut io = dialer.dial_boxed().await?;
        let mut request = BytesMut::new();
        protocol::encode_get(&mut request, selector);
        let ask = async {
            io.write_all(&request).await?;
            io.flush().await
        };
        match within(limit, ask).await {
            Some(asked) => asked.map_err(|error| connection_error(ConnectionError::Io(error)))?,
            None => return Err(timeout_error(limit)),
        }
        Ok(Self {
            samples: Some(FramedRead::with_capacity(
                Exclusive(Mutex::new(io)),
                SampleDecoder::new(),
                READ_BUFFER_BYTES,
            )),
            asked: selector.clone(),
            limit,
            rejection: None,
            read_timeout: Box::pin(time::sleep(limit)),
            timer_armed: true,
            io_turn: IoTurn::default(),
        })
    }

    fn poll_sample(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Sample>, Error>> {
        let Some(samples) = &mut self.samples else {
            return Poll::Ready(Ok(None));
        };
        // Most samples come from the buffer, where nothing else would make a task yield to others.
        let budget = ready!(coop::poll_proceed(cx));
        self.io_turn.observe();
        match Pin::new(samples).poll_next(cx) {
            Poll::Ready(item) if self.rejection.is_some() => {
                let message = self.rejection.take().unwrap_or_default();
                Poll::Ready(Err(match item {
                    Some(Ok(_)) => Error::Rejected { message },
                    Some(Err(_)) | None => connection_error(ConnectionError::Rejected { message }),
                }))
            }
            Poll::Ready(Some(Ok(StreamItem::End(ResponseEnd::Error(message))))) => {
                self.rejection = Some(message.into());
                self.timer_armed = true;
                self.read_timeout.as_mut().reset(Instant::now() + END_WITHIN);
                self.poll_sample(cx)
            }
            Poll::Ready(item) => {
                budget.made_progress();
                self.timer_armed = false;
                Poll::Ready(match item {
                    Some(Ok(StreamItem::Sample(sample))) => match &self.asked {
                        Selector::Key(key) if *key != sample.key => {
                            Err(connection_error(ConnectionError::DataForAnotherKey))
                        }
                        _ => Ok(Some(sample)),
                    },
                    Some(Ok(StreamItem::End(ResponseEnd::Ok))) => Ok(None),
                    Some(Ok(StreamItem::End(ResponseEnd::Malformed(record)))) => Err(record.into()),
                    Some(Ok(StreamItem::End(ResponseEnd::Error(message)))) => {
                        Err(Error::Rejected { message: message.into() })
                    }
                    Some(Ok(StreamItem::End(ResponseEnd::TooLarge))) => {
                        Err(Error::ResponseTooLarge { limit: usize::MAX })
                    }
                    Some(Err(error)) => Err(connection_error(error.into())),
                    None => Err(connection_error(ConnectionError::Io(
                        io::ErrorKind::UnexpectedEof.into(),
                    ))),
                })
            }
            Poll::Pending => {
                if !self.timer_armed {
                    self.timer_armed = true;
                    self.read_timeout.as_mut().reset(Instant::now() + self.limit);
                }
                ready!(self.read_timeout.as_mut().poll(cx));
                ready!(self.io_turn.poll(cx));
                Poll::Ready(Err(match self.rejection.take() {
                    Some(message) => Error::Rejected { message },
                    None => timeout_error(self.limit),
                }))
            }
        }
    }
}

impl Stream for SampleStream {
    type Item = Result<Sample, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_sample(cx).map(|sample| {
            if !matches!(sample, Ok(Some(_))) {
                self.samples = None;
            }
            sample.transpose()
        })
    }
}

impl FusedStream for SampleStream {
    fn is_terminated(&self) -> bool {
        self.samples.is_none()
    }
}

impl fmt::Debug for SampleStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SampleStream").field("ended", &self.samples.is_none()).finish()
    }
}

fn connection_error(fault: ConnectionError) -> Error {
    Error::Connection { source: Arc::new(fault), delivery: Delivery::Unknown }
}

fn timeout_error(after: Duration) -> Error {
    Error::Timeout { timeout: after, delivery: Delivery::Unknown, source: None }
}
