//! TLS: the certificates of the protocol's listener, and those of clients if asked.

use std::{net::SocketAddr, sync::Arc};

use metrics_client::tls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    MemoryStore,
    http::{Access, HttpServer},
    store::Tee,
    tls::TlsAcceptor,
};

/// A certificate authority, and a certificate with its key, as PEM text.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// Returns what a client needs that trusts this authority, and shows a certificate.
    fn client(&self, identity: Option<&(String, String)>) -> tokio_rustls::TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.0.pem().as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        Arc::new(config).into()
    }
}

async fn serve(acceptor: TlsAcceptor) -> SocketAddr {
    let store = Tee::new(MemoryStore::new(), 16);
    let server = HttpServer::bind("127.0.0.1:0", store, Access::Loopback).await.unwrap();
    let server = server.tls(acceptor);
    let addr = server.local_addr();
    tokio::spawn(server.serve());
    addr
}

const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// Returns the answer to a request over TLS, or nothing if the connection fails.
async fn answer(addr: SocketAddr, client: &tokio_rustls::TlsConnector) -> String {
    let name = ServerName::try_from("localhost").unwrap();
    let io = TcpStream::connect(addr).await.unwrap();
    let Ok(mut io) = client.connect(name, io).await else { return String::new() };
    let mut answer = Vec::new();
    if io.write_all(REQUEST).await.is_ok() {
        let _ = io.read_to_end(&mut answer).await;
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn tls_serves_requests_and_nothing_without_it() {
    let authority = Authority::new();
    let (chain, key) = authority.issue("localhost");
    let addr = serve(TlsAcceptor::new(chain, key).unwrap()).await;
    assert!(answer(addr, &authority.client(None)).await.starts_with("HTTP/1.1 200 "));
    // Another authority's server is not trusted.
    assert_eq!(answer(addr, &Authority::new().client(None)).await, "");
    let mut plain = TcpStream::connect(addr).await.unwrap();
    plain.write_all(REQUEST).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/"));
}

#[tokio::test]
async fn tls_requires_certificates_of_clients_if_asked() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (chain, key) = authority.issue("localhost");
    let acceptor = TlsAcceptor::with_client_roots(chain, key, clients.0.pem()).unwrap();
    let addr = serve(acceptor).await;
    let good = authority.client(Some(&clients.issue("a client")));
    assert!(answer(addr, &good).await.starts_with("HTTP/1.1 200 "));
    let foreign = authority.client(Some(&Authority::new().issue("a client")));
    for client in [authority.client(None), foreign] {
        assert_eq!(answer(addr, &client).await, "");
    }
}
