//! TLS for the peers of a [`Server`](crate::Server).

pub use metrics_client::tls::TlsError;

pub use crate::session::TlsAcceptor;
