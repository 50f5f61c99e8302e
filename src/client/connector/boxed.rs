//! A connector whose type does not depend on what it connects with.

use std::{
    any::Any,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    super::{address::Address, durations::MAX_DURATION},
    Connector,
};
use crate::error::InvalidAddress;

/// A [`Connector`] of any type, made by [`Connector::boxed`].
///
/// ```
/// use metrics_client::client::{BoxConnector, Connector, TcpConnector, connector_fn};
///
/// fn connector(is_test: bool) -> BoxConnector {
///     if is_test {
///         connector_fn(|_| async { Ok(tokio::io::duplex(4096).0) }).boxed()
///     } else {
///         TcpConnector::new().boxed()
///     }
/// }
/// # drop((connector(true), connector(false)));
/// ```
#[derive(Clone)]
pub struct BoxConnector {
    connector: Arc<dyn DynConnector>,
}

/// A connection made by a [`BoxConnector`].
pub struct BoxConnection {
    io: Box<dyn AnyIo>,
}

type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<BoxConnection>> + Send + 'a>>;

/// A [`Connector`] as a trait object.
trait DynConnector: Send + Sync {
    fn connect<'a>(&'a self, address: &'a Address, limit: Duration) -> Connecting<'a>;
    fn check_address(&self, address: &Address) -> Result<(), InvalidAddress>;
    fn abort(&self, io: &dyn Any);
    fn has_input(&self, io: &dyn Any) -> io::Result<Option<bool>>;
}

impl<C: Connector> DynConnector for C {
    fn connect<'a>(&'a self, address: &'a Address, limit: Duration) -> Connecting<'a> {
        Box::pin(async move {
            let io = self.connect_within(address, limit).await?;
            Ok(BoxConnection { io: Box::new(io) })
        })
    }

    fn check_address(&self, address: &Address) -> Result<(), InvalidAddress> {
        Connector::check_address(self, address)
    }

    fn abort(&self, io: &dyn Any) {
        if let Some(io) = io.downcast_ref() {
            Connector::abort(self, io);
        }
    }

    fn has_input(&self, io: &dyn Any) -> io::Result<Option<bool>> {
        io.downcast_ref().map_or(Ok(None), |io| Connector::has_input(self, io))
    }
}

impl BoxConnector {
    pub(in crate::client) fn new(connector: impl Connector) -> Self {
        Self { connector: Arc::new(connector) }
    }
}

impl Connector for BoxConnector {
    type Io = BoxConnection;

    async fn connect(&self, address: &Address) -> io::Result<BoxConnection> {
        self.connect_within(address, MAX_DURATION).await
    }

    async fn connect_within(
        &self,
        address: &Address,
        limit: Duration,
    ) -> io::Result<BoxConnection> {
        DynConnector::connect(&*self.connector, address, limit).await
    }

    fn check_address(&self, address: &Address) -> Result<(), InvalidAddress> {
        DynConnector::check_address(&*self.connector, address)
    }

    fn abort(&self, io: &BoxConnection) {
        DynConnector::abort(&*self.connector, io.io.as_any());
    }

    fn has_input(&self, io: &BoxConnection) -> io::Result<Option<bool>> {
        DynConnector::has_input(&*self.connector, io.io.as_any())
    }

    fn boxed(self) -> Self {
        self
    }
}

impl fmt::Debug for BoxConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxConnector").finish_non_exhaustive()
    }
}

trait AnyIo: AsyncRead + AsyncWrite + Send + Unpin {
    fn as_any(&self) -> &dyn Any;
}

impl<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static> AnyIo for Io {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl AsyncRead for BoxConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoxConnection {
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

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl fmt::Debug for BoxConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxConnection").finish_non_exhaustive()
    }
}
