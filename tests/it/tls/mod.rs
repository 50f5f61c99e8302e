//! TLS of client and server, with certificates made for each test.

use std::{error::Error, sync::Arc, time::Duration};

use metrics_client::{
    ClientBuilder, MetricsClient,
    client::{Connector, connector_fn},
    tls::{
        TlsConnector,
        rustls::{
            ServerConfig,
            crypto::ring,
            pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        },
    },
};
use metrics_server::{Limits, MemoryStore, Server, serve_connection, tls::TlsAcceptor};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

use tokio::io::{DuplexStream, duplex};

use crate::running_server::Running;

mod certificates;
mod close_notify;
mod data;
mod handshake_failures;
mod memory;
mod pem_errors;

/// A certificate authority.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, as PEM text.
struct Identity {
    chain: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    /// The root, as PEM text.
    fn root(&self) -> String {
        self.issuer.pem()
    }

    fn issue(&self, names: &[&str]) -> Identity {
        self.issue_as(names, |_| {})
    }

    fn issue_as(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names: Vec<_> = names.iter().copied().map(String::from).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// A connector that trusts this authority.
    fn connector(&self) -> TlsConnector {
        TlsConnector::with_root_certificates(self.root()).unwrap()
    }
}

impl Identity {
    /// A server with this certificate, for everyone.
    async fn serve(&self) -> Running {
        serve(TlsAcceptor::new(&self.chain, &self.key).unwrap()).await
    }

    /// A configuration with this certificate, for a server that the test plays.
    fn config(&self) -> ServerConfig {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key)
            .unwrap()
    }
}

async fn serve(acceptor: TlsAcceptor) -> Running {
    Running::serve(Server::bind("127.0.0.1:0").await.unwrap().tls(acceptor))
}

/// A client of a server on this machine, which it knows by this name.
fn client<C: Connector>(host: &str, server: &Running, connector: C) -> ClientBuilder<C> {
    MetricsClient::builder(format!("{host}:{}", server.addr.port())).connector(connector)
}

/// Makes pipes to a server in this process, whose connections share one store.
fn in_process(config: impl Into<Arc<ServerConfig>>) -> impl Connector<Io = DuplexStream> {
    let acceptor = tokio_rustls::TlsAcceptor::from(config.into());
    let store = Arc::new(MemoryStore::new());
    let limits = Limits::default().idle_timeout(Duration::from_secs(60));
    connector_fn(move |_| {
        let (acceptor, store) = (acceptor.clone(), Arc::clone(&store));
        async move {
            let (ours, theirs) = duplex(64 * 1024);
            tokio::spawn(async move {
                if let Ok(io) = acceptor.accept(theirs).await {
                    serve_connection(io, store, limits).await;
                }
            });
            Ok(ours)
        }
    })
}

/// Returns the texts of an error and of all its sources.
fn said(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
