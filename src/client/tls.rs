//! Connections over TLS.

use std::{fmt, fs, io, path::Path, sync::Arc, time::Duration};

use tokio_rustls::{
    client::TlsStream,
    rustls::{
        self, CertificateError, ClientConfig, RootCertStore, pki_types::ServerName,
        sign::SingleCertAndKey,
    },
};

use super::{
    address::{Address, TlsOptions},
    connector::Connector,
    durations::MAX_DURATION,
    tcp::TcpConnector,
};
use crate::{
    certificates::{TlsError, certified_key, provider, roots},
    error::InvalidAddress,
};

/// Connects over TLS, on top of TCP or of another [`Connector`].
///
/// The server's certificate must lead to one of the roots, must be valid now, and must be for the
/// server's name, which is the host in the client's address unless [`server_name`](Self::server_name)
/// says otherwise. The check cannot be switched off. TLS 1.2 and 1.3 are supported.
///
/// The handshake counts as part of an attempt to connect: it has to be over within
/// [`connect_timeout`](crate::ClientBuilder::connect_timeout), and one that fails is an
/// [`Error::Connect`](crate::Error::Connect), with the error of rustls as its source. As after any other failure
/// to connect, a running client tries again with backoff, since certificates are
/// renewed. All connections of a client resume the sessions of earlier ones if the server allows
/// it, which saves both sides most of the computation.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use metrics_client::{MetricsClient, tls::TlsConnector};
/// use metrics_server::{Server, tls::TlsAcceptor};
///
/// // A self-signed certificate, for this example only.
/// let own = rcgen::generate_simple_self_signed(["localhost".into()])?;
/// let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
///
/// let server = Server::bind("127.0.0.1:0").await?.tls(TlsAcceptor::new(&chain, key)?);
/// let address = format!("localhost:{}", server.local_addr().port());
/// tokio::spawn(server.serve_until(std::future::pending::<()>()));
///
/// let client = MetricsClient::builder(address)
///     .connector(TlsConnector::with_root_certificates(chain)?)
///     .connect()
///     .await?;
/// client.put("palm.cpu", 23.7).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct TlsConnector<C = TcpConnector> {
    inner: C,
    /// One for all connections: it holds the sessions that can be resumed.
    config: Arc<ClientConfig>,
    /// Unless it is the host in the address.
    server_name: Option<ServerName<'static>>,
}

impl TlsConnector {
    /// Trusts the roots that this system trusts. They are read now, once, from disk or from the
    /// system's keychain, which can take some milliseconds.
    ///
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` name others, as for OpenSSL. The system's roots are all
    /// that is taken from it: what a certificate must be like is the same everywhere, and nothing
    /// asks whether it was revoked.
    ///
    /// # Errors
    ///
    /// [`TlsError::NoSystemRoots`] if the system has no roots. Roots that cannot be used are skipped.
    pub fn with_system_roots() -> Result<Self, TlsError> {
        let mut found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(TlsError::NoSystemRoots(found.errors.pop().map(Into::into)));
        }
        for error in &found.errors {
            tracing::warn!(%error, "some of the system's roots cannot be read");
        }
        tracing::debug!(roots = added, ignored, "read the system's roots");
        Ok(Self::from_roots(roots))
    }

    /// Trusts these roots and no others: the text of a PEM file with one certificate or more.
    ///
    /// # Errors
    ///
    /// If there is no certificate in it, or one that cannot be used.
    pub fn with_root_certificates(pem: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        Ok(Self::from_roots(roots(pem.as_ref())?))
    }

    /// Does as `config` says, for all that the other ways to make a connector do not offer: roots
    /// from several places, revocation lists, a certificate that changes, other cryptography.
    #[must_use]
    pub fn with_config(config: Arc<ClientConfig>) -> Self {
        Self { inner: TcpConnector::default(), config, server_name: None }
    }

    /// Makes a connector of the options of an address. The error says which option is wrong, and shows nothing of
    /// the contents of a file.
    pub(super) fn with_options(options: &TlsOptions, tcp: TcpConnector) -> Result<Self, String> {
        let TlsOptions { ca_file, client_cert, client_key, server_name } = options;
        let mut tls = match ca_file {
            None => Self::with_system_roots().map_err(|error| with_sources(&error))?,
            Some(path) => Self::with_root_certificates(read("ca_file", path)?)
                .map_err(|error| in_option("ca_file", &error))?,
        };
        match (client_cert, client_key) {
            (None, None) => {}
            (Some(chain), Some(key)) => {
                let (chain, key) = (read("client_cert", chain)?, read("client_key", key)?);
                tls = tls
                    .client_certificate(chain, key)
                    .map_err(|error| in_option("client_cert or client_key", &error))?;
            }
            (Some(_), None) => return Err("the option client_cert needs client_key".into()),
            (None, Some(_)) => return Err("the option client_key needs client_cert".into()),
        }
        if let Some(name) = server_name {
            tls = tls.server_name(name).map_err(|error| in_option("server_name", &error))?;
        }
        Ok(tls.with_connector(tcp))
    }

    fn from_roots(roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self::with_config(Arc::new(config))
    }
}

impl<C> TlsConnector<C> {
    /// Shows a certificate to servers that ask for one: the text of a PEM file with the client's
    /// certificate and behind it those of its issuers, up to the root, which may be left out; and that of
    /// one with its private key, in PKCS#8, PKCS#1 or SEC1, not encrypted.
    ///
    /// With TLS 1.3 a server looks at the client's certificate when the client takes the connection
    /// for made: a refusal fails the first request on it, not the attempt to connect.
    ///
    /// # Errors
    ///
    /// If there is no certificate or no key, one cannot be used, or they do not belong together.
    pub fn client_certificate(
        mut self,
        chain_pem: impl AsRef<[u8]>,
        key_pem: impl AsRef<[u8]>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::clone(self.config.crypto_provider());
        let key = certified_key(chain_pem.as_ref(), key_pem.as_ref(), &provider)?;
        Arc::make_mut(&mut self.config).client_auth_cert_resolver =
            Arc::new(SingleCertAndKey::from(key));
        Ok(self)
    }

    /// Wants a certificate for `name`, a host name or an IP address, whatever the address is that is
    /// dialled: for a tunnel, a Unix socket, a host that is dialled by number.
    ///
    /// # Errors
    ///
    /// If it is neither.
    pub fn server_name(mut self, name: impl AsRef<str>) -> Result<Self, TlsError> {
        self.server_name = Some(parse_name(name.as_ref())?);
        Ok(self)
    }

    /// Makes the connections that carry TLS with `connector` instead of [`TcpConnector`].
    #[must_use]
    pub fn with_connector<D: Connector>(self, connector: D) -> TlsConnector<D> {
        TlsConnector { inner: connector, config: self.config, server_name: self.server_name }
    }
}

impl<C: Connector> Connector for TlsConnector<C> {
    type Io = TlsStream<C::Io>;

    async fn connect(&self, address: &Address) -> io::Result<Self::Io> {
        self.connect_within(address, MAX_DURATION).await
    }

    async fn connect_within(&self, address: &Address, limit: Duration) -> io::Result<Self::Io> {
        let name = self
            .name_for(address)
            .map_err(|invalid| io::Error::new(io::ErrorKind::InvalidInput, invalid))?;
        let io = self.inner.connect_within(&address.without_tls(), limit).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.config));
        connector.connect(name, io).await.map_err(|cause| {
            io::Error::new(cause.kind(), HandshakeFailed { hint: hint(&cause), cause })
        })
    }

    fn check_address(&self, address: &Address) -> Result<(), InvalidAddress> {
        self.inner.check_address(&address.without_tls())?;
        self.name_for(address).map(drop)
    }

    fn abort(&self, io: &Self::Io) {
        self.inner.abort(io.get_ref().0);
    }

    /// The bytes may be no data but a session ticket; reading shows that.
    fn has_input(&self, io: &Self::Io) -> io::Result<Option<bool>> {
        self.inner.has_input(io.get_ref().0)
    }
}

impl<C> TlsConnector<C> {
    /// Returns the name for which the server's certificate must be.
    fn name_for(&self, address: &Address) -> Result<ServerName<'static>, InvalidAddress> {
        if let Some(name) = &self.server_name {
            return Ok(name.clone());
        }
        let host = address.host().unwrap_or(address.as_str());
        parse_name(host).map_err(|_| {
            address.invalid(
                "no certificate can be for its host",
                "one with a host name or an IP address here; for others, name the server with \
                 `TlsConnector::server_name` or the option server_name",
            )
        })
    }
}

impl<C: fmt::Debug> fmt::Debug for TlsConnector<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnector")
            .field("inner", &self.inner)
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| in_option(option, &error))
}

fn in_option(option: &str, error: &dyn std::error::Error) -> String {
    format!("the option {option} cannot be used: {}", with_sources(error))
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn parse_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    match ServerName::try_from(name) {
        Ok(name) => Ok(name.to_owned()),
        Err(_) => Err(TlsError::ServerName { name: name.into() }),
    }
}

/// The handshake on a connection that was made has failed.
#[derive(Debug, thiserror::Error)]
#[error("TLS handshake failed ({hint})")]
struct HandshakeFailed {
    hint: &'static str,
    #[source]
    cause: io::Error,
}

/// Returns what the operator of the client can do about it.
fn hint(cause: &io::Error) -> &'static str {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    use rustls::{AlertDescription as Alert, Error, InvalidMessage};

    match cause.get_ref().and_then(|cause| cause.downcast_ref()) {
        Some(Error::InvalidCertificate(fault)) => match fault {
            UnknownIssuer => {
                "the server's certificate leads to no root that this client trusts: add the root certificate"
            }
            NotValidForName | NotValidForNameContext { .. } => {
                "connect to the server by a name in its certificate, or set `TlsConnector::server_name`"
            }
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => {
                "renew the server's certificate, or set this machine's clock"
            }
            _ => "the server's certificate is not valid",
        },
        Some(Error::AlertReceived(Alert::CertificateRequired)) => {
            "the server requires a client certificate: set `TlsConnector::client_certificate`"
        }
        Some(Error::AlertReceived(_)) => "the server rejected this client",
        // No TLS, or the end of the connection.
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) | None => {
            "does the server speak TLS at this address?"
        }
        Some(_) => "client and server have no settings in common",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_name_is_the_host_of_the_address() {
        for host in ["metrics.internal", "metrics_1", "127.0.0.1", "::1"] {
            let address = Address::tcp(host, 8889).unwrap();
            let connector = TlsConnector::from_roots(RootCertStore::empty());
            assert_eq!(connector.name_for(&address).unwrap().to_str(), host);
        }
    }
}
