//! What every listener needs: sockets, accepting, and limits by address.

mod accept;
mod conn_limit;
mod listen;

pub(crate) use accept::{Accept, Acceptor, Listeners};
#[cfg(feature = "tls")]
pub(crate) use conn_limit::source_of;
pub(crate) use conn_limit::{ConnectionPermit, PerSourceLimit};
pub(crate) use listen::listen;
