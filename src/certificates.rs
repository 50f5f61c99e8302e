//! Certificates and keys for TLS, given as PEM text to either end.

use std::sync::Arc;

use tokio_rustls::rustls::{
    self, InconsistentKeys, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};

/// What is wrong with something that TLS was to be made from.
///
/// `of` is the text that it was given in: the roots, the certificate chain, the private key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// There is no certificate in the PEM text.
    #[error(
        "there is no certificate in {of}: it must be the text of a PEM file, with `-----BEGIN CERTIFICATE-----`"
    )]
    NoCertificate {
        /// The text that it was given in.
        of: &'static str,
    },

    /// There is no private key in the PEM text.
    #[error(
        "there is no private key in {of}: it must be the text of a PEM file, with `-----BEGIN PRIVATE KEY-----` \
         (or `RSA` or `EC PRIVATE KEY`), and not encrypted"
    )]
    NoKey {
        /// The text that it was given in.
        of: &'static str,
    },

    /// The PEM text is damaged.
    #[error("{of}: invalid PEM text")]
    Pem {
        /// The text that was given.
        of: &'static str,
        /// What is wrong with it.
        #[source]
        cause: pem::Error,
    },

    /// A certificate cannot be used.
    #[error("certificate {number} in {of} cannot be used")]
    Certificate {
        /// The text that it was given in.
        of: &'static str,
        /// Which of the certificates there, counted from 1.
        number: usize,
        /// What is wrong with it.
        #[source]
        cause: rustls::Error,
    },

    /// The private key cannot be used.
    #[error("the private key, or the certificate that it is for, cannot be used")]
    Key(#[source] rustls::Error),

    /// The private key belongs to another certificate.
    #[error(
        "the private key does not belong to the first certificate of the chain, which must be the \
         one that it is for; those of its issuers come behind it"
    )]
    KeyMismatch,

    /// The system has no roots, or they cannot be read.
    #[error(
        "no root certificates can be read from this system: install them (the package is often \
         `ca-certificates`), name a file of them in `SSL_CERT_FILE`, or use `TlsConnector::with_root_certificates`"
    )]
    NoSystemRoots(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),

    /// The server's name is neither a host name nor an IP address.
    #[error("{name:?} is neither a host name nor an IP address")]
    ServerName {
        /// What was given.
        name: Box<str>,
    },
}

/// The cryptography that both ends use unless they are given a configuration of rustls. No default
/// of the process is looked at or set: that is for the program to decide.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates in the PEM text: one at least.
fn certificates(pem: &[u8], of: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| TlsError::Pem { of, cause })?;
    if certificates.is_empty() { Err(TlsError::NoCertificate { of }) } else { Ok(certificates) }
}

/// Parses root certificates from PEM text.
///
/// # Errors
///
/// If there is no certificate in the text, or one cannot be used.
pub fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    const OF: &str = "the roots";
    let mut roots = RootCertStore::empty();
    for (number, certificate) in (1..).zip(certificates(pem, OF)?) {
        let added = roots.add(certificate);
        added.map_err(|cause| TlsError::Certificate { of: OF, number, cause })?;
    }
    Ok(roots)
}

/// Parses a private key and the chain of certificates that belongs to it, both from PEM text.
///
/// # Errors
///
/// If one of them is missing or cannot be used, or if they do not belong together.
pub fn certified_key(
    chain_pem: &[u8],
    key_pem: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    const OF: &str = "the private key";
    let chain = certificates(chain_pem, "the certificate chain")?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|cause| match cause {
        pem::Error::NoItemsFound => TlsError::NoKey { of: OF },
        cause => TlsError::Pem { of: OF, cause },
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|cause| match cause {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::KeyMismatch,
        cause => TlsError::Key(cause),
    })
}
