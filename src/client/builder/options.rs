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
        let reconnect = options.iter().find_map(|setting| match *setting {
            Setting::Reconnect(policy) => Some(policy),
            _ => None,
        });
        let max_attempts = options.iter().find_map(|setting| match *setting {
            Setting::MaxAttempts(attempts) => Some(attempts),
            _ => None,
        });
        let reconnect = reconnect.unwrap_or_default().max_attempts(max_attempts);
        options.iter().fold(self.reconnect(reconnect), |builder, setting| match *setting {
            Setting::MaxConnections(count) => builder.max_connections(count),
            Setting::ServerOrder(order) => builder.server_order(order),
            Setting::ConnectTimeout(limit) => builder.connect_timeout(limit),
            Setting::RequestTimeout(limit) => builder.request_timeout(limit),
            Setting::StallTimeout(limit) => builder.stall_timeout(limit),
            Setting::Pipelining(pipelining) => builder.pipelining(pipelining),
            Setting::MaxInFlight(requests) => builder.max_in_flight(requests),
            Setting::MaxBufferedBytes(bytes) => builder.max_buffered_bytes(bytes),
            Setting::MaxResponseBytes(bytes) => builder.max_response_bytes(bytes),
            Setting::WhenFull(when_full) => builder.when_full(when_full),
            Setting::MaxLifetime(limit) => builder.max_lifetime(limit),
            Setting::IdleTimeout(limit) => builder.idle_timeout(limit),
            Setting::ResendUnacknowledged(resend) => builder.resend_unacknowledged(resend),
            Setting::Reconnect(_)
            | Setting::MaxAttempts(_)
            | Setting::Keepalive(_)
            | Setting::UserTimeout(_)
            | Setting::LocalAddress(_)
            | Setting::CaFile(_)
            | Setting::ClientCert(_)
            | Setting::ClientKey(_)
            | Setting::ServerName(_) => builder,
        })
    }
}
