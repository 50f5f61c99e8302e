//! Several servers, and the options of their URL.

use std::fmt;

use super::{Address, Options, errors::invalid};
use crate::error::InvalidAddress;

/// The addresses of one server or of several that store in the same place, with options.
///
/// As text it is one of these:
///
/// - addresses in one of the forms of [`Address`], with a comma between them:
///   `a.internal:8888,b.internal:8888`;
/// - a URL, which may have several hosts and options:
///   `metrics+tls://a.internal:8889,b.internal:8889?max_connections=8&request_timeout=2s`.
///
/// An option means the same as the setting of [`ClientBuilder`](crate::ClientBuilder) that it is named after. A
/// setter that is called in the program wins over an option of the URL.
///
/// | option | value |
/// |---|---|
/// | `max_connections` (or `connections`), `max_in_flight` | a number |
/// | `connect_timeout`, `request_timeout`, `stall_timeout`, `max_lifetime`, `idle_timeout` | a number with `ms`, `s`, `m`, `h` or `d`: `500ms` |
/// | `max_buffered_bytes`, `max_response_bytes` | a number of bytes, also with `KiB`, `MiB` or `GiB` |
/// | `server_order` | `random` or `listed` |
/// | `pipelining` | `auto`, `on` or `off` |
/// | `when_full` | `wait` or `fail` |
/// | `reconnect` | `never`, or the limits of the backoff: `50ms..10s` |
/// | `max_attempts` | a number, for [`ReconnectPolicy::max_attempts`](crate::client::ReconnectPolicy::max_attempts) |
/// | `resend_unacknowledged` | `true` or `false` |
/// | `keepalive`, `user_timeout` | as the timeouts; `user_timeout` also `system`. See [`TcpConnector`](crate::client::TcpConnector) |
/// | `local_address` | the IP address from which connections are made |
/// | `ca_file` | a PEM file with the root certificates to trust, instead of the system's |
/// | `client_cert`, `client_key` | PEM files with the client's certificate chain and its key |
/// | `server_name` | the name for which the server's certificate must be, instead of the host |
///
/// The last three rows are for `metrics+tls://`. Files are read once, when the client is made. A `%` and two
/// hexadecimal digits stand for a byte in a value, and in the path of `metrics+unix://`.
///
/// An address has no user name and no password. Text before an `@` is not shown in errors.
///
/// ```
/// use metrics_client::client::Addresses;
///
/// let addresses: Addresses = "metrics://a:8888,b:8888?request_timeout=2s".parse()?;
/// assert_eq!(addresses.servers().len(), 2);
/// let error = "metrics://a:8888?request_timeout=2".parse::<Addresses>().unwrap_err();
/// assert!(error.to_string().contains("a number with ms, s, m, h or d"));
/// # Ok::<(), metrics_client::error::InvalidAddress>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Addresses {
    /// At least one.
    pub(super) servers: Vec<Address>,
    pub(super) options: Options,
}

impl Addresses {
    /// Returns the servers, in the order in which they were given.
    #[must_use]
    pub fn servers(&self) -> &[Address] {
        &self.servers
    }

    pub(in crate::client) fn options(&self) -> &Options {
        &self.options
    }

    /// Rejects options of the default connector, which another one does not know.
    pub(in crate::client) fn for_other_connector(self) -> Result<Self, InvalidAddress> {
        if self.options.concern_connector() {
            return Err(invalid(
                &self.to_string(),
                "its options of TCP or TLS are for the default connector, and this client has another",
                "one without these options here; configure the connector instead",
            ));
        }
        Ok(self)
    }

    pub(in crate::client) fn into_parts(self) -> (Vec<Address>, Options) {
        (self.servers, self.options)
    }

    pub(super) fn none() -> Self {
        Self { servers: Vec::new(), options: Options::default() }
    }

    /// Adds all of `other`, unless it has another value for an option.
    pub(super) fn append(&mut self, other: Self) -> Result<(), &'static str> {
        other.servers.into_iter().for_each(|server| self.push(server));
        self.options.extend(other.options)
    }

    /// Adds a server, unless it is there already.
    pub(super) fn push(&mut self, server: Address) {
        if !self.servers.contains(&server) {
            self.servers.push(server);
        }
    }
}

impl From<Address> for Addresses {
    fn from(address: Address) -> Self {
        Self { servers: vec![address], options: Options::default() }
    }
}

/// Shows the servers, and not the options.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.servers.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{server}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Addresses").field("servers", &self.servers).finish_non_exhaustive()
    }
}
