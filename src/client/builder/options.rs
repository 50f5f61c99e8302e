//! Configures a client with the options of its address.

use super::{
    super::{
        address::{Options, Setting},
        connector::Connector,
    },
    ClientBuilder,
};

impl<C: Connector> ClientBuilder<C> {
    pub(super) fn options(self, options: &Options) -> Self {
        options.iter().fold(self, |builder, setting| match *setting {
            Setting::Connections(count) => builder.connections(count),
            Setting::ServerOrder(order) => builder.server_order(order),
            Setting::ConnectTimeout(limit) => builder.connect_timeout(limit),
            Setting::RequestTimeout(limit) => builder.request_timeout(limit),
            Setting::StallTimeout(limit) => builder.stall_timeout(limit),
            Setting::Pipelining(pipelining) => builder.pipelining(pipelining),
            Setting::MaxInFlight(requests) => builder.max_in_flight(requests),
            Setting::MaxBufferedBytes(bytes) => builder.max_buffered_bytes(bytes),
            Setting::MaxResponseBytes(bytes) => builder.max_response_bytes(bytes),
            Setting::WhenFull(overflow) => builder.overflow(overflow),
            Setting::Reconnect(policy) => builder.reconnect(policy),
            Setting::Retry(retry) => builder.retry(retry),
            Setting::Keepalive(_)
            | Setting::UserTimeout(_)
            | Setting::LocalAddress(_)
            | Setting::CaFile(_)
            | Setting::ClientCert(_)
            | Setting::ClientKey(_)
            | Setting::ServerName(_) => builder,
        })
    }
}
