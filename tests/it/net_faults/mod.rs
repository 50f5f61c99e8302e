//! Faults of real sockets, real networks and real processes.
//!
//! What the caller sees of each, and what can have happened to the data, is the table in the
//! README's "What is promised".

use std::{io, net::SocketAddr, time::Duration};

use metrics_client::{
    ClientBuilder, Delivery, Error, MetricsClient,
    client::{Pipelining, ReconnectPolicy},
    error::ConnectionError,
};
use tokio::time;

use crate::peer::with_timeout;

mod fd_exhaustion;
mod misbehaving_peers;
mod netns;
mod packet_loss;
mod server_process;
mod suspended_server;

/// Longer than any wait of a test but one for ever.
const HANG: Duration = Duration::from_secs(30);

/// How long a call may take where it is to fail.
const SHORT: Duration = Duration::from_millis(300);

/// A client with short timeouts: a call ends first, then its connection, and a reconnect follows soon.
fn builder(address: SocketAddr) -> ClientBuilder {
    MetricsClient::builder(address)
        .pipelining(Pipelining::On)
        .request_timeout(SHORT)
        .stall_timeout(2 * SHORT)
        .reconnect(ReconnectPolicy::backoff(Duration::from_millis(5), Duration::from_millis(50)))
}

/// Puts until it works, and says how many attempts failed.
async fn works_again(client: &MetricsClient) -> usize {
    let mut failures = 0;
    with_timeout(async {
        while let Err(error) = client.put_at("again", 1.0, 1).await {
            assert!(error.is_retryable(), "{error:?}");
            failures += 1;
            time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    failures
}

/// Whether there was no answer in time, and the request had been sent.
fn is_late(error: &Error) -> bool {
    matches!(error, Error::Timeout { delivery: Delivery::Unknown, .. })
}

/// Whether the connection was reset after the request had been sent.
fn is_reset(error: &Error) -> bool {
    match error {
        Error::Connection { source: fault, delivery: Delivery::Unknown, .. } => match &**fault {
            ConnectionError::Io(error) => error.kind() == io::ErrorKind::ConnectionReset,
            _ => false,
        },
        _ => false,
    }
}
