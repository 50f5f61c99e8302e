//! TLS at the server's end.

use std::{fmt, net::IpAddr, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::{
    rustls::{ServerConfig, server::WebPkiClientVerifier, sign::SingleCertAndKey},
    server::TlsStream,
};

use super::{
    CloseReason, Limits, deadline::within, handshakes::Handshakes, scheduler::Usage, transport,
};
use metrics_client::tls::{TlsError, certified_key, provider, roots};

/// Speaks TLS with those who connect to a [`Server`](crate::Server), versions 1.2 and 1.3; given to
/// [`Server::tls`](crate::Server::tls).
///
/// All texts are those of PEM files: a chain is the server's certificate and behind it those of its
/// issuers, up to the root, which may be left out; a key is in PKCS#8, PKCS#1 or SEC1, not encrypted.
/// They are read once: for a certificate that changes while the server runs there is
/// [`with_config`](Self::with_config) and rustls' `ResolvesServerCert`.
#[derive(Clone)]
pub struct TlsAcceptor {
    config: Arc<ServerConfig>,
    handshakes: Arc<Handshakes>,
}

impl TlsAcceptor {
    /// Shows this certificate, and lets in whoever comes.
    ///
    /// # Errors
    ///
    /// If there is no certificate or no key, one cannot be used, or they do not belong together.
    pub fn new(chain_pem: impl AsRef<[u8]>, key_pem: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        Self::build(chain_pem.as_ref(), key_pem.as_ref(), None)
    }

    /// Shows this certificate, and lets in only those who show one that leads to one of these roots
    /// and is valid now. Whose it is does not matter.
    ///
    /// # Errors
    ///
    /// If there is no certificate or no key, one cannot be used, or they do not belong together.
    pub fn with_client_roots(
        chain_pem: impl AsRef<[u8]>,
        key_pem: impl AsRef<[u8]>,
        roots_pem: impl AsRef<[u8]>,
    ) -> Result<Self, TlsError> {
        Self::build(chain_pem.as_ref(), key_pem.as_ref(), Some(roots_pem.as_ref()))
    }

    /// Does as `config` says, for all that the other ways to make an acceptor do not offer:
    /// revocation lists, a certificate that changes, other cryptography.
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

    /// Makes TLS of a connection, in the time that a line may take, unless the server stops.
    pub(super) async fn accept<Io>(
        &self,
        io: Io,
        from: IpAddr,
        limits: &Limits,
        work: &Usage,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<TlsStream<Io>, CloseReason>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = self.handshakes.accept(io, from, Arc::clone(&self.config), work);
        let handshake = within(limits.line_time, handshake);
        let outcome = tokio::select! {
            biased;
            outcome = handshake => outcome,
            _ = stop.wait_for(|&stop| stop) => return Err(CloseReason::Stopped),
        };
        match outcome {
            Ok(Ok(io)) => {
                work.set_held(HELD_BYTES);
                Ok(io)
            }
            Ok(Err((error, io))) => {
                // The peer has been told why, and may still be sending.
                if let Some(io) = io {
                    transport::linger(io, work).await;
                }
                Err(CloseReason::Handshake(error))
            }
            Err(_) => Err(CloseReason::HandshakeTimeout),
        }
    }
}

/// What rustls holds of a connection whose peer takes no answers, in bytes: up to 64 KiB of records that
/// wait to be written, as many as its buffer takes by default, records that are read, decoded or not, and its
/// state. A test measures it (`tests/it/tls/memory.rs`).
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
        session::{Shared, serve_accepted},
        store::MemoryStore,
    };

    /// A handshake under way, with the peer's end of the pipe.
    struct Talk {
        peer: DuplexStream,
        stop: watch::Sender<bool>,
        handshake: JoinHandle<CloseReason>,
    }

    impl Talk {
        fn new() -> Self {
            let own = generate_simple_self_signed(["localhost".into()]).unwrap();
            let acceptor = TlsAcceptor::new(own.cert.pem(), own.signing_key.serialize_pem());
            let acceptor = acceptor.unwrap();
            let (peer, io) = duplex(64 * 1024);
            let (stop, mut stopped) = watch::channel(false);
            let handshake = tokio::spawn(async move {
                let from = [10, 0, 0, 1].into();
                let (limits, work) = (Limits::default(), Usage::default());
                let accepted = acceptor.accept(io, from, &limits, &work, &mut stopped).await;
                accepted.expect_err("no peer here speaks TLS")
            });
            Self { peer, stop, handshake }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_end_its_handshake_is_cut_off() {
        let mut talk = Talk::new();
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
        assert_eq!(end.to_string(), "the peer took too long over the TLS handshake");
    }

    // FAULTS S9
    #[tokio::test(start_paused = true)]
    async fn peers_that_read_nothing_cost_what_the_budget_says() {
        let own = generate_simple_self_signed(["localhost".into()]).unwrap();
        let acceptor = TlsAcceptor::new(own.cert.pem(), own.signing_key.serialize_pem()).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(own.cert.pem().as_bytes()).unwrap())
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        // Without what rustls holds, all of them would cost less than this.
        let limits =
            Limits::default().max_unsent_bytes(4 * 1024).max_total_unsent_bytes(400 * 1024);
        let shared = Shared::new(MemoryStore::new(), limits, Arc::default());
        let shared = Arc::new(shared.tls(Some(acceptor)));
        let (_stop, stopped) = watch::channel(false);
        let (mut sessions, mut peers) = (JoinSet::new(), JoinSet::new());
        for number in 0..8 {
            let (near, far) = duplex(64 * 1024);
            let from = ([10, 0, 0, number], 1).into();
            let (shared, stopped) = (Arc::clone(&shared), stopped.clone());
            sessions.spawn(serve_accepted(far, from, shared, Usage::default(), stopped));
            let connector = connector.clone();
            peers.spawn(async move {
                let name = "localhost".try_into().unwrap();
                let mut io = connector.connect(name, near).await.unwrap();
                // Until nothing moves any more, or the connection ends.
                while io.write_all(&b"bad\n".repeat(1024)).await.is_ok() {}
            });
        }
        // Well before a limit in time for one of them.
        let begin = Instant::now();
        for _ in 0..4 {
            sessions.join_next().await.unwrap().unwrap();
        }
        assert!(begin.elapsed() < limits.write_time, "no peer was cut off");
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_does_not_delay_the_stop() {
        let talk = Talk::new();
        sleep(Duration::from_secs(1)).await;
        let begin = Instant::now();
        talk.stop.send_replace(true);
        assert!(matches!(talk.handshake.await.unwrap(), CloseReason::Stopped));
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_speaks_no_tls_is_told_in_the_log_and_on_the_wire() {
        let mut talk = Talk::new();
        talk.peer.write_all(b"put a 1 1\n").await.unwrap();
        let mut answer = Vec::new();
        talk.peer.read_to_end(&mut answer).await.unwrap();
        // A fatal alert (RFC 8446, section 6).
        assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, _]), "{answer:?}");
        drop(talk.peer);
        let end = talk.handshake.await.unwrap().to_string();
        assert!(end.starts_with("the TLS handshake failed: received corrupt message"), "{end}");
    }

    #[test]
    fn a_reason_that_quotes_the_peer_is_one_harmless_line() {
        let end = CloseReason::Handshake(std::io::Error::other("a\nput b 1 1\u{1b}[2J"));
        assert_eq!(end.to_string(), "the TLS handshake failed: a\\nput b 1 1\\u{1b}[2J");
    }
}
