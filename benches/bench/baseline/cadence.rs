//! cadence, the statsd client that most services record with.

use std::{io, net::UdpSocket, thread, time::Duration};

use cadence::{BufferedUdpMetricSink, Gauged, QueuingMetricSink, StatsdClient};

/// A buffered and queuing client, as its documentation advises for production. What it sends arrives at a
/// socket that is never read, which is the least work that a server could cause.
#[derive(Debug)]
pub(crate) struct Cadence {
    client: StatsdClient,
    sink: QueuingMetricSink,
    _server: UdpSocket,
}

impl Cadence {
    pub(crate) fn new() -> io::Result<Self> {
        let server = UdpSocket::bind("127.0.0.1:0")?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_nonblocking(true)?;
        let buffered =
            BufferedUdpMetricSink::from(server.local_addr()?, socket).map_err(io::Error::other)?;
        let sink = QueuingMetricSink::from(buffered);
        let client = StatsdClient::from_sink("palm", sink.clone());
        Ok(Self { client, sink, _server: server })
    }

    #[inline]
    pub(crate) fn record(&self, key: &str, value: f64) {
        self.client.gauge(key, value).expect("the queue has no bound");
    }

    /// Waits until everything is sent.
    pub(crate) fn drain(&self) {
        while self.sink.queued() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
