//! The default connector: TCP, TLS or a Unix socket, as the address says.

#[cfg(feature = "tls")]
use std::sync::{Arc, OnceLock};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
#[cfg(feature = "tls")]
use tokio_rustls::client::TlsStream;

#[cfg(unix)]
use super::unix::UnixConnector;
#[cfg(feature = "tls")]
use super::{address::TlsOptions, tls::TlsConnector};
use super::{
    address::{Address, Options, Setting},
    connector::Connector,
    durations::MAX_DURATION,
    tcp::TcpConnector,
};
use crate::error::InvalidAddress;

/// Connects as the [`Address`] says: over TCP, TLS, or a Unix socket. It is what a client has unless
/// it is given another [`Connector`].
///
/// For TLS the system's root certificates are trusted, or those of the option `ca_file`. They are read when the client
/// is made, if one of its addresses needs them.
#[derive(Clone, Debug, Default)]
pub struct DefaultConnector {
    tcp: TcpConnector,
    #[cfg(feature = "tls")]
    tls: Tls,
}

#[cfg(feature = "tls")]
#[derive(Clone, Debug, Default)]
struct Tls {
    options: Arc<TlsOptions>,
    /// Made when the first address that needs it is checked.
    connector: OnceLock<Result<TlsConnector, String>>,
}

impl DefaultConnector {
    /// Returns the connector with all settings at their defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how connections over TCP are made, also those that carry TLS.
    #[must_use]
    pub fn tcp(mut self, connector: TcpConnector) -> Self {
        self.tcp = connector;
        #[cfg(feature = "tls")]
        {
            self.tls.connector = OnceLock::new();
        }
        self
    }

    pub(super) fn with_options(options: &Options) -> Self {
        Self {
            tcp: options.iter().fold(TcpConnector::new(), |tcp, setting| match *setting {
                Setting::Keepalive(interval) => tcp.keepalive(interval),
                Setting::UserTimeout(limit) => tcp.user_timeout(limit),
                Setting::LocalAddress(address) => tcp.local_address(address),
                _ => tcp,
            }),
            #[cfg(feature = "tls")]
            tls: Tls { options: Arc::new(options.tls()), connector: OnceLock::new() },
        }
    }

    #[cfg(feature = "tls")]
    fn tls(&self) -> Result<&TlsConnector, &String> {
        let make = || TlsConnector::with_options(&self.tls.options, self.tcp.clone());
        self.tls.connector.get_or_init(make).as_ref()
    }
}

impl Connector for DefaultConnector {
    type Io = DefaultConnection;

    async fn connect(&self, address: &Address) -> io::Result<DefaultConnection> {
        self.connect_within(address, MAX_DURATION).await
    }

    async fn connect_within(
        &self,
        address: &Address,
        limit: Duration,
    ) -> io::Result<DefaultConnection> {
        #[cfg(feature = "tls")]
        if address.is_tls() {
            let tls = self.tls().map_err(|error| io::Error::other(error.as_str()))?;
            let io = tls.connect_within(address, limit).await?;
            return Ok(DefaultConnection(Transport::Tls(Box::new(io))));
        }
        #[cfg(unix)]
        if address.path().is_some() {
            let io = UnixConnector::new().connect(address).await?;
            return Ok(DefaultConnection(Transport::Unix(io)));
        }
        let io = self.tcp.connect_within(address, limit).await?;
        Ok(DefaultConnection(Transport::Tcp(io)))
    }

    fn check_address(&self, address: &Address) -> Result<(), InvalidAddress> {
        #[cfg(feature = "tls")]
        if address.is_tls() {
            let tls = self.tls().map_err(|error| address.invalid_tls(error.clone()))?;
            return tls.check_address(address);
        }
        address.error().map_or(Ok(()), Err)
    }

    fn abort(&self, io: &DefaultConnection) {
        match &io.0 {
            Transport::Tcp(io) => self.tcp.abort(io),
            #[cfg(unix)]
            Transport::Unix(io) => UnixConnector::new().abort(io),
            #[cfg(feature = "tls")]
            Transport::Tls(io) => self.tcp.abort(io.get_ref().0),
        }
    }

    fn has_input(&self, io: &DefaultConnection) -> io::Result<Option<bool>> {
        match &io.0 {
            Transport::Tcp(io) => self.tcp.has_input(io),
            #[cfg(unix)]
            Transport::Unix(io) => UnixConnector::new().has_input(io),
            #[cfg(feature = "tls")]
            Transport::Tls(io) => self.tcp.has_input(io.get_ref().0),
        }
    }
}

/// A connection made by a [`DefaultConnector`].
#[derive(Debug)]
pub struct DefaultConnection(Transport);

#[derive(Debug)]
enum Transport {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<TcpStream>>),
}

/// Runs an expression on the stream of whatever type.
macro_rules! with_io {
    ($connection:expr, $io:ident => $run:expr) => {
        match $connection {
            Transport::Tcp($io) => $run,
            #[cfg(unix)]
            Transport::Unix($io) => $run,
            #[cfg(feature = "tls")]
            Transport::Tls($io) => $run,
        }
    };
}

impl AsyncRead for DefaultConnection {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with_io!(&mut self.0, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for DefaultConnection {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        with_io!(&mut self.0, io => Pin::new(io).poll_write(cx, buf))
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_io!(&mut self.0, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_io!(&mut self.0, io => Pin::new(io).poll_shutdown(cx))
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with_io!(&mut self.0, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        with_io!(&self.0, io => io.is_write_vectored())
    }
}
