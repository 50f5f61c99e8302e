//! Where a server is reached: [`Address`], lists of them, and the options of their URLs.

use std::{
    borrow::Cow,
    fmt,
    hash::{Hash, Hasher},
    path::Path,
    str::FromStr,
    sync::Arc,
};

use self::{
    errors::{ANY_FORM, invalid},
    unix_path::UnixPath,
};
use crate::error::InvalidAddress;

mod addresses;
mod errors;
mod host_port;
mod options;
mod to_addresses;
mod unix_path;
mod url;

pub use addresses::Addresses;
pub use to_addresses::ToAddresses;

pub(super) use host_port::HostPort;
#[cfg(feature = "tls")]
pub(super) use options::TlsOptions;
pub(super) use options::{Options, Setting};

/// The address of one server.
///
/// As text it has one of these forms; [`Addresses`] are several, with options.
///
/// | form | connects over |
/// |---|---|
/// | `host:port`, `metrics://host:port` | TCP |
/// | `metrics+tls://host:port` | TLS, with the feature `tls` |
/// | `unix:/path`, `metrics+unix:///path` | a Unix socket; `unix:@name` is one in Linux's abstract namespace |
///
/// A host is a name, an IPv4 address, or an IPv6 address in brackets, and a name is looked up each time that a
/// connection is made. `Display` writes the shortest form, which can be parsed again.
///
/// ```
/// use metrics_client::client::Address;
///
/// let address: Address = "metrics+tls://metrics.internal:8889".parse()?;
/// assert_eq!((address.host(), address.port()), (Some("metrics.internal"), Some(8889)));
/// assert!(address.is_tls());
/// let error = "metrics.internal".parse::<Address>().unwrap_err();
/// assert!(error.to_string().contains("the port is missing"));
/// # Ok::<(), metrics_client::error::InvalidAddress>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    kind: Kind,
    /// What `Display` writes.
    text: Arc<str>,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Tcp {
        target: Arc<HostPort>,
        is_tls: bool,
    },
    Unix(Arc<UnixPath>),
    /// For a connector of the caller's own. It has an error if it was parsed from text and has none of the
    /// forms.
    Custom(Option<Arc<InvalidAddress>>),
}

impl Address {
    /// Returns the address of a TCP port. An IPv6 address may be written with or without brackets.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`] if `host` is neither a host name nor an IP address, or `port` is 0.
    pub fn tcp(host: &str, port: u16) -> Result<Self, InvalidAddress> {
        HostPort::new(host, port).map(|target| Self::of_tcp(target, false))
    }

    /// Returns the address of the Unix socket at `path`. On Linux a path that begins with `@` is a name in
    /// the abstract namespace, as systemd writes them; a file of such a name is `./@name`.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`] if `path` is empty, longer than a socket's path can be (107 bytes on Linux), or not
    /// UTF-8.
    pub fn unix(path: impl AsRef<Path>) -> Result<Self, InvalidAddress> {
        UnixPath::new(path.as_ref()).map(Self::of_unix)
    }

    /// Returns an address that only a [`Connector`](super::Connector) of the caller's own understands.
    #[must_use]
    pub fn custom(text: &str) -> Self {
        Self { kind: Kind::Custom(None), text: text.into() }
    }

    /// Returns the host, without brackets; `None` if this is not the address of a TCP port.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host_port().map(HostPort::host)
    }

    /// Returns the port; `None` if this is not the address of a TCP port.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.host_port().map(HostPort::port)
    }

    /// Returns the path of a Unix socket; `None` if this is another kind of address.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Unix(path) => Some(path.as_str().as_ref()),
            Kind::Tcp { .. } | Kind::Custom(_) => None,
        }
    }

    /// Returns true for `metrics+tls://` addresses.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Tcp { is_tls: true, .. })
    }

    /// Returns the address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn host_port(&self) -> Option<&HostPort> {
        match &self.kind {
            Kind::Tcp { target, .. } => Some(target),
            Kind::Unix(_) | Kind::Custom(_) => None,
        }
    }

    /// Returns the host and port of a TCP address, for a connector that connects to nothing else.
    pub(super) fn require_host_port(&self) -> Result<&HostPort, InvalidAddress> {
        if self.is_tls() {
            return Err(self.needs_tls());
        }
        self.host_port().ok_or_else(|| match &self.kind {
            Kind::Custom(Some(error)) => InvalidAddress::clone(error),
            _ => self.invalid("it is not the address of a TCP port", HostPort::FORM),
        })
    }

    /// Returns the path of a Unix socket, for a connector that connects to nothing else.
    #[cfg(unix)]
    pub(super) fn require_unix(&self) -> Result<&UnixPath, InvalidAddress> {
        match &self.kind {
            Kind::Unix(path) => Ok(path),
            _ => Err(self.invalid("it is not the address of a Unix socket", UnixPath::FORM)),
        }
    }

    /// Returns why an address that has none of the forms has none.
    pub(super) fn error(&self) -> Option<InvalidAddress> {
        match &self.kind {
            Kind::Custom(None) => Some(
                self.invalid("only a connector of the caller's own can connect to it", ANY_FORM),
            ),
            Kind::Custom(Some(error)) => Some(InvalidAddress::clone(error)),
            Kind::Tcp { .. } | Kind::Unix(_) => None,
        }
    }

    pub(super) fn invalid(
        &self,
        reason: impl Into<Cow<'static, str>>,
        form: &'static str,
    ) -> InvalidAddress {
        InvalidAddress::new(&self.text, reason, form)
    }

    /// Returns the error of a connector that does not speak TLS.
    pub(super) fn needs_tls(&self) -> InvalidAddress {
        self.invalid(
            "it asks for TLS, and the connector of this client does not encrypt",
            "one without TLS here; use `TlsConnector`, or no connector of your own",
        )
    }

    /// Returns the address of the connection that carries TLS.
    #[cfg(feature = "tls")]
    pub(super) fn without_tls(&self) -> Self {
        match &self.kind {
            Kind::Tcp { target, is_tls: true } => Self::of_tcp(HostPort::clone(target), false),
            _ => self.clone(),
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn invalid_tls(&self, reason: String) -> InvalidAddress {
        self.invalid(reason, errors::TLS_FORM)
    }

    fn of_tcp(target: HostPort, is_tls: bool) -> Self {
        let scheme = if is_tls { url::TLS } else { "" };
        let text = format!("{scheme}{target}").into();
        Self { kind: Kind::Tcp { target: Arc::new(target), is_tls }, text }
    }

    fn of_unix(path: UnixPath) -> Self {
        let text = url::unix(path.as_str()).into();
        Self { kind: Kind::Unix(Arc::new(path)), text }
    }

    fn unparsed(text: &str, error: InvalidAddress) -> Self {
        Self { kind: Kind::Custom(Some(Arc::new(error))), text: text.into() }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    /// Parses the address of one server, without options.
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (mut servers, options) = text.parse::<Addresses>()?.into_parts();
        match servers.pop() {
            Some(address) if servers.is_empty() && options == Options::default() => Ok(address),
            _ => Err(invalid(
                text,
                "it has options, or is a list of servers, and here is room for one address alone",
                ANY_FORM,
            )),
        }
    }
}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({:?})", self.text)
    }
}
