//! One HTTP connection to InfluxDB, which is kept between requests.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{HeaderMap, Request, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use metrics_client::client::{Address, BoxConnection, BoxConnector, Connector};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::JoinHandle,
    time::timeout,
};

use crate::relay::sink::chain;

/// Makes connections to one address, and has one open at a time.
#[derive(Debug)]
pub(super) struct HttpConnection {
    connector: Arc<BoxConnector>,
    address: Address,
    open: Option<OpenConnection>,
}

#[derive(Debug)]
struct OpenConnection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Reads and writes.
    driver: JoinHandle<()>,
    is_used: bool,
}

/// A complete answer.
#[derive(Debug)]
pub(super) struct InfluxAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// How long dialing may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The longest body of an answer that is read. An error names the lines, so it can be long.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

impl HttpConnection {
    pub(super) fn new(connector: Arc<BoxConnector>, address: Address) -> Self {
        Self { connector, address, open: None }
    }

    /// Sends a request and reads its answer. A connection that was used before and turns out to be closed is
    /// replaced once: the server may have closed it because it was idle.
    ///
    /// # Errors
    ///
    /// A message why there was no answer. The connection is reset then, so that what the server
    /// has not read yet is never executed: it could undo a newer value.
    ///
    /// # Cancel safety
    ///
    /// As after an error.
    pub(super) async fn exchange(
        &mut self,
        request: &Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<InfluxAnswer, String> {
        loop {
            let mut open = match self.open.take() {
                Some(open) if !open.sender.is_closed() => open,
                _ => self.dial().await?,
            };
            let answered = timeout(limit, Self::answer(&mut open.sender, request.clone())).await;
            match answered {
                Ok(Ok(answer)) => {
                    open.is_used = true;
                    self.open = Some(open);
                    return Ok(answer);
                }
                // Dropping `open` resets it.
                Ok(Err(_)) if open.is_used => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(format!("no answer within {limit:?}")),
            }
        }
    }

    async fn answer(
        sender: &mut http1::SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<InfluxAnswer, String> {
        sender.ready().await.map_err(|error| chain(&error))?;
        let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
        let (parts, body): (_, Incoming) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| chain(&*error))?.to_bytes();
        Ok(InfluxAnswer { status: parts.status, headers: parts.headers, body })
    }

    async fn dial(&self) -> Result<OpenConnection, String> {
        let dialing = self.connector.connect_within(&self.address, CONNECT_LIMIT);
        let io = match timeout(CONNECT_LIMIT, dialing).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return Err(format!("cannot connect: {}", chain(&error))),
            Err(_) => return Err(format!("cannot connect within {CONNECT_LIMIT:?}")),
        };
        let io = AbortedIo { io, connector: Arc::clone(&self.connector) };
        let (sender, connection) =
            http1::handshake(TokioIo::new(io)).await.map_err(|e| chain(&e))?;
        let driver = tokio::spawn(async move {
            // A request in flight gets the error.
            let _ = connection.await;
        });
        Ok(OpenConnection { sender, driver, is_used: false })
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A connection that is reset when it is dropped.
struct AbortedIo {
    io: BoxConnection,
    connector: Arc<BoxConnector>,
}

impl Drop for AbortedIo {
    fn drop(&mut self) {
        self.connector.abort(&self.io);
    }
}

impl AsyncRead for AbortedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for AbortedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
