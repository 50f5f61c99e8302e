//! TLS at the server's end.

use std::{fmt, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::{
    rustls::{ServerConfig, server::WebPkiClientVerifier, sign::SingleCertAndKey},
    server::TlsStream,
};

use super::{Limits, deadline::within, session::End, turns::Work, wire};
use crate::tls::{TlsError, certified_key, provider, roots};

/// Speaks TLS with those who connect to a [`Server`](super::Server), versions 1.2 and 1.3; given to
/// [`Server::tls`](super::Server::tls).
///
/// All texts are those of PEM files: a chain is the server's certificate and behind it those of its
/// issuers, up to the root, which may be left out; a key is in PKCS#8, PKCS#1 or SEC1, not encrypted.
/// They are read once: for a certificate that changes while the server runs there is
/// [`with_config`](Self::with_config) and rustls' `ResolvesServerCert`.
#[derive(Clone)]
pub struct TlsAcceptor {
    config: Arc<ServerConfig>,
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
        Self { config }
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
        limits: &Limits,
        work: &Work,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<TlsStream<Io>, End>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&self.config));
        let handshake = within(limits.line_time, acceptor.accept(io).into_fallible());
        let outcome = tokio::select! {
            biased;
            outcome = handshake => outcome,
            _ = stop.wait_for(|&stop| stop) => return Err(End::Stopped),
        };
        match outcome {
            Ok(Ok(io)) => Ok(io),
            Ok(Err((error, io))) => {
                // The peer has been told why, and may still be sending.
                wire::linger(io, work).await;
                Err(End::Handshake(error))
            }
            Err(_) => Err(End::SlowHandshake),
        }
    }
}

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
        task::JoinHandle,
        time::{Instant, sleep},
    };

    use super::*;

    /// A handshake under way, with the peer's end of the pipe.
    struct Talk {
        peer: DuplexStream,
        stop: watch::Sender<bool>,
        handshake: JoinHandle<End>,
    }

    impl Talk {
        fn new() -> Self {
            let own = generate_simple_self_signed(["localhost".into()]).unwrap();
            let acceptor = TlsAcceptor::new(own.cert.pem(), own.signing_key.serialize_pem());
            let acceptor = acceptor.unwrap();
            let (peer, io) = duplex(64 * 1024);
            let (stop, mut stopped) = watch::channel(false);
            let handshake = tokio::spawn(async move {
                let accepted =
                    acceptor.accept(io, &Limits::default(), &Work::default(), &mut stopped).await;
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

    #[tokio::test(start_paused = true)]
    async fn a_handshake_does_not_delay_the_stop() {
        let talk = Talk::new();
        sleep(Duration::from_secs(1)).await;
        let begin = Instant::now();
        talk.stop.send_replace(true);
        assert!(matches!(talk.handshake.await.unwrap(), End::Stopped));
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
        let end = End::Handshake(std::io::Error::other("a\nput b 1 1\u{1b}[2J"));
        assert_eq!(end.to_string(), "the TLS handshake failed: a\\nput b 1 1\\u{1b}[2J");
    }
}
