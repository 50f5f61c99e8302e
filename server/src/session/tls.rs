//! TLS handshakes of the server.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    rustls::{ServerConfig, server::WebPkiClientVerifier, sign::SingleCertAndKey},
    server::TlsStream,
};

use super::{
    CloseReason, Limits, deadline::within, handshakes::Handshakes, scheduler::Usage, transport,
};
use tokio_util::sync::CancellationToken;

use metrics_client::tls::{TlsError, certified_key, provider, roots};

/// Accepts TLS 1.2 and 1.3 for a [`Server`](crate::Server); see [`Server::tls`](crate::Server::tls).
///
/// Certificates and keys are PEM texts. A chain is the server's certificate followed by the certificates
/// of its issuers; the root may be left out. A key is in PKCS#8, PKCS#1 or SEC1 format, not encrypted.
/// They are read once. For a certificate that changes while the server runs, use
/// [`with_config`](Self::with_config) with rustls' `ResolvesServerCert`.
#[derive(Clone)]
pub struct TlsAcceptor {
    config: Arc<ServerConfig>,
    handshakes: Arc<Handshakes>,
}

impl TlsAcceptor {
    /// Creates an acceptor that presents this certificate and accepts every client.
    ///
    /// # Errors
    ///
    /// Returns an error if the certificate or the key is missing or invalid, or if they do not match.
    pub fn new(chain_pem: impl AsRef<[u8]>, key_pem: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        Self::build(chain_pem.as_ref(), key_pem.as_ref(), None)
    }

    /// Creates an acceptor that presents this certificate and requires a client certificate.
    ///
    /// A client certificate has to be valid now and issued by one of these roots. Its subject is not
    /// checked.
    ///
    /// # Errors
    ///
    /// Returns an error if the certificate or the key is missing or invalid, or if they do not match.
    pub fn with_client_roots(
        chain_pem: impl AsRef<[u8]>,
        key_pem: impl AsRef<[u8]>,
        roots_pem: impl AsRef<[u8]>,
    ) -> Result<Self, TlsError> {
        Self::build(chain_pem.as_ref(), key_pem.as_ref(), Some(roots_pem.as_ref()))
    }

    /// Creates an acceptor from a rustls configuration: for revocation lists, a certificate that changes,
    /// another cryptography provider.
    #[must_use]
    pub fn with_config(config: Arc<ServerConfig>) -> Self {
        Self { config, handshakes: Arc::default() }
    }

    fn build(chain: &[u8], key: &[u8], client_roots: Option<&[u8]>) -> Result<Self, TlsError> {
        let provider = provider();
        let key = certified_key(chain, key, &provider)?;
        let verifier = match client_roots {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(pem) => {
                let roots = Arc::new(roots(pem)?);
                WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
                    .build()
                    .expect("there is a root, and no revocation list")
            }
        };
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for both versions")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        Ok(Self::with_config(Arc::new(config)))
    }

    /// Does the handshake of a connection of another listener, which limits their number and time.
    #[cfg(feature = "http")]
    pub(crate) async fn accept_io<Io>(&self, io: Io) -> std::io::Result<TlsStream<Io>>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        tokio_rustls::TlsAcceptor::from(Arc::clone(&self.config)).accept(io).await
    }

    /// Does the handshake of a connection, within the line timeout, unless `stop` is cancelled.
    pub(super) async fn accept<Io>(
        &self,
        io: Io,
        from: IpAddr,
        limits: &Limits,
        usage: &Usage,
        stop: &CancellationToken,
    ) -> Result<TlsStream<Io>, CloseReason>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let queued = AtomicBool::new(false);
        let config = Arc::clone(&self.config);
        let handshake = self.handshakes.accept(io, from, config, usage, &queued);
        let handshake = within(limits.line_timeout, handshake);
        let outcome = tokio::select! {
            biased;
            outcome = handshake => outcome,
            () = stop.cancelled() => return Err(CloseReason::Stopped),
        };
        match outcome {
            Ok(Ok(io)) => {
                usage.set_held(HELD_BYTES);
                Ok(io)
            }
            Ok(Err((error, io))) => {
                // The alert is written, and the peer may still be sending.
                if let Some(io) = io {
                    transport::linger(io, usage).await;
                }
                Err(CloseReason::Handshake(error))
            }
            Err(_) if queued.load(Ordering::Relaxed) => Err(CloseReason::HandshakeQueueTimeout),
            Err(_) => Err(CloseReason::HandshakeTimeout),
        }
    }
}

/// How many bytes rustls holds for a connection whose peer does not read: up to 64 KiB of records to be
/// written (its default), received records, and its state. A test measures it (`tests/it/tls/memory.rs`).
const HELD_BYTES: usize = 128 * 1024;

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::generate_simple_self_signed;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        task::{JoinHandle, JoinSet},
        time::{Instant, sleep},
    };
    use tokio_rustls::rustls::ClientConfig;

    use super::*;
    use crate::{
        session::{SessionShared, serve_accepted},
        store::MemoryStore,
    };

    /// A running handshake, with the peer's end of the pipe.
    struct HandshakeTalk {
        peer: DuplexStream,
        stop: CancellationToken,
        handshake: JoinHandle<CloseReason>,
    }

    impl HandshakeTalk {
        fn new() -> Self {
            let own = generate_simple_self_signed(["localhost".into()]).unwrap();
            let acceptor = TlsAcceptor::new(own.cert.pem(), own.signing_key.serialize_pem());
            let acceptor = acceptor.unwrap();
            let (peer, io) = duplex(64 * 1024);
            let stop = CancellationToken::new();
            let stopped = stop.clone();
            let handshake = tokio::spawn(async move {
                let from = [10, 0, 0, 1].into();
                let (limits, usage) = (Limits::default(), Usage::default());
                let accepted = acceptor.accept(io, from, &limits, &usage, &stopped).await;
                accepted.expect_err("no peer here speaks TLS")
            });
            Self { peer, stop, handshake }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unfinished_handshake_times_out() {
        let mut talk = HandshakeTalk::new();
        let begin = Instant::now();
        // The beginning of a long `ClientHello`, and the rest of it byte by byte, each well within
        // any limit.
        talk.peer.write_all(&[22, 3, 1, 64, 0, 1, 0, 60, 0]).await.unwrap();
        while talk.peer.write_all(&[0]).await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
        let limit = Duration::from_secs(30);
        assert!((limit..limit + Duration::from_secs(2)).contains(&begin.elapsed()));
        let end = talk.handshake.await.unwrap();
        assert_eq!(end.to_string(), "handshake timeout");
    }

    // FAULTS S9
    #[tokio::test(start_paused = true)]
    async fn tls_memory_counts_towards_the_unsent_budget() {
        let own = generate_simple_self_signed(["localhost".into()]).unwrap();
        let acceptor = TlsAcceptor::new(own.cert.pem(), own.signing_key.serialize_pem()).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(own.cert.pem().as_bytes()).unwrap())
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        // Without the memory of rustls, all of them stay below this.
        let limits =
            Limits::default().max_unsent_bytes(4 * 1024).max_total_unsent_bytes(400 * 1024);
        let shared = SessionShared::new(MemoryStore::new(), limits, Arc::default());
        let shared = Arc::new(shared.tls(Some(acceptor)));
        let stop = CancellationToken::new();
        let (mut sessions, mut peers) = (JoinSet::new(), JoinSet::new());
        for number in 0..8 {
            let (near, far) = duplex(64 * 1024);
            let from = ([10, 0, 0, number], 1).into();
            let (shared, stopped) = (Arc::clone(&shared), stop.clone());
            sessions.spawn(serve_accepted(far, from, shared, Usage::default(), stopped));
            let connector = connector.clone();
            peers.spawn(async move {
                let name = "localhost".try_into().unwrap();
                let mut io = connector.connect(name, near).await.unwrap();
                // Until the connection ends or no more can be written.
                while io.write_all(&b"bad\n".repeat(1024)).await.is_ok() {}
            });
        }
        // Well before the write timeout.
        let begin = Instant::now();
        for _ in 0..4 {
            sessions.join_next().await.unwrap().unwrap();
        }
        assert!(begin.elapsed() < limits.write_timeout, "no peer was evicted");
    }

    #[tokio::test(start_paused = true)]
    async fn handshake_does_not_delay_shutdown() {
        let talk = HandshakeTalk::new();
        sleep(Duration::from_secs(1)).await;
        let begin = Instant::now();
        talk.stop.cancel();
        assert!(matches!(talk.handshake.await.unwrap(), CloseReason::Stopped));
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn handshake_failure_sends_an_alert_and_is_logged() {
        let mut talk = HandshakeTalk::new();
        talk.peer.write_all(b"put a 1 1\n").await.unwrap();
        let mut answer = Vec::new();
        talk.peer.read_to_end(&mut answer).await.unwrap();
        // A fatal alert (RFC 8446, section 6).
        assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, _]), "{answer:?}");
        drop(talk.peer);
        let end = talk.handshake.await.unwrap().to_string();
        assert!(end.starts_with("received corrupt message"), "{end}");
    }

    #[test]
    fn handshake_error_is_escaped() {
        let end = CloseReason::Handshake(std::io::Error::other("a\nput b 1 1\u{1b}[2J"));
        assert_eq!(end.to_string(), "a\\nput b 1 1\\u{1b}[2J");
    }
}
