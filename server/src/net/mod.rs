//! What every listener needs: sockets, accepting, and limits by address.

mod accept;
mod conn_limit;
mod listen;

pub(crate) use accept::{Accept, Acceptor, Listeners};
pub(crate) use conn_limit::{ConnectionPermit, PerSourceLimit, source_of};
pub(crate) use listen::listen;
