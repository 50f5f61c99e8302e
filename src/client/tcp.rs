//! Connections over TCP.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{self, Instant},
};

use super::{
    address::{Address, HostPort},
    connector::Connector,
    durations::MAX_DURATION,
    resolver::Resolver,
};
use crate::error::InvalidAddress;

/// Connects over TCP: looks the name up for each connection and tries every address that it finds.
///
/// The addresses are tried in order. The next attempt begins when the one before has failed or has run for
/// 250 milliseconds (RFC 8305, section 5), or less if the
/// [connect timeout](crate::ClientBuilder::connect_timeout) is too short for all of them. The first one that
/// connects is used.
///
/// Names are looked up by the system, one at a time for each client: connections that are made
/// during a look-up share it. A look-up has its own thread, so one that hangs costs the
/// process one thread for each client. It blocks no thread of the runtime, and does not keep the runtime from
/// shutting down.
///
/// Each connection has `TCP_NODELAY`, so that a request leaves at once; keepalive, so that an idle
/// connection whose peer has vanished is detected; and on Linux `TCP_USER_TIMEOUT`, which does the same for one
/// with unacknowledged bytes.
#[derive(Clone, Debug)]
pub struct TcpConnector {
    keepalive: Duration,
    user_timeout: Option<Duration>,
    local_address: Option<IpAddr>,
    resolver: Resolver,
}

/// What Linux takes for `TCP_KEEPIDLE` and `TCP_KEEPINTVL`, in whole seconds (`MAX_TCP_KEEPIDLE`).
const KEEPALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);

/// What Linux takes for `TCP_USER_TIMEOUT`: milliseconds in an `int`, of which 0 switches it off.
const USER_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_millis(i32::MAX as u64);

impl TcpConnector {
    /// Returns the connector with all settings at their defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets after how long without traffic the first keepalive probe is sent, and how long
    /// after that the next one: from 1 second to 32,767 seconds, in whole seconds, which is what
    /// Linux takes. Default: 30 seconds.
    #[must_use]
    pub fn keepalive(mut self, interval: Duration) -> Self {
        self.keepalive = clamp(interval, KEEPALIVE);
        self
    }

    /// Sets how long sent bytes may stay unacknowledged by the peer's kernel before the connection
    /// is closed (`TCP_USER_TIMEOUT`, RFC 5482), on Linux: from 1 millisecond to 2,147,483,647, which
    /// are 24 days and 20 hours; `None` leaves it to the system. Default: 20 seconds.
    #[must_use]
    pub fn user_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.user_timeout = limit.into().map(|limit| clamp(limit, USER_TIMEOUT));
        self
    }

    /// Sets the IP address of this host from which connections are made. Servers are then connected to at addresses of
    /// the same family only. Default: `None`, which leaves the choice to the system.
    #[must_use]
    pub fn local_address(mut self, address: impl Into<Option<IpAddr>>) -> Self {
        self.local_address = address.into();
        self
    }

    /// Connects to a host and port, also for a connector on top of this one.
    pub(super) async fn connect_to(
        &self,
        target: &HostPort,
        limit: Duration,
    ) -> io::Result<TcpStream> {
        let deadline = Instant::now() + limit.min(MAX_DURATION);
        let found = self.resolver.resolve(target).await?;
        let local = self.local_address;
        let addresses = match local {
            None => found,
            Some(local) => {
                found.iter().filter(|found| found.is_ipv4() == local.is_ipv4()).copied().collect()
            }
        };
        let stream = connect_to_any(&addresses, deadline, move |address| async move {
            let stream = connect_from(local, address).await?;
            if is_self_connected(&stream) { Err(connection_refused()) } else { Ok(stream) }
        })
        .await?;
        self.configure(&stream)?;
        Ok(stream)
    }

    /// Rejects an IP address that cannot be reached from the local address.
    fn check_host(&self, target: &HostPort) -> Result<(), &'static str> {
        match (self.local_address, target.host().parse::<IpAddr>()) {
            (Some(local), Ok(ip)) if local.is_ipv4() != ip.is_ipv4() => {
                Err("its IP address is of another family than the local address")
            }
            _ => Ok(()),
        }
    }

    fn configure(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new().with_time(self.keepalive).with_interval(self.keepalive);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        if let Some(limit) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(limit))?;
        }
        Ok(())
    }
}

impl Default for TcpConnector {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_secs(30),
            user_timeout: Some(Duration::from_secs(20)),
            local_address: None,
            resolver: Resolver::default(),
        }
    }
}

impl Connector for TcpConnector {
    type Io = TcpStream;

    async fn connect(&self, address: &Address) -> io::Result<TcpStream> {
        self.connect_within(address, MAX_DURATION).await
    }

    async fn connect_within(&self, address: &Address, limit: Duration) -> io::Result<TcpStream> {
        let target = address
            .require_host_port()
            .map_err(|invalid| io::Error::new(io::ErrorKind::InvalidInput, invalid))?;
        self.connect_to(target, limit).await
    }

    fn check_address(&self, address: &Address) -> Result<(), InvalidAddress> {
        let target = address.require_host_port()?;
        self.check_host(target).map_err(|reason| {
            address.invalid(reason, "one of the family of the connector's local address here")
        })
    }

    /// Has the connection reset. Otherwise the kernel would send the unacknowledged bytes for as long as the user
    /// timeout lasts, although the connection is closed.
    fn abort(&self, io: &TcpStream) {
        // Fails only if the connection is gone.
        let _ = SockRef::from(io).set_linger(Some(Duration::ZERO));
    }
}

/// Tries the addresses in order, each once those before it have had their share of the time
/// until `deadline`, and returns the first connection.
async fn connect_to_any<Io, Attempt>(
    addresses: &[SocketAddr],
    deadline: Instant,
    attempt: impl Fn(SocketAddr) -> Attempt,
) -> io::Result<Io>
where
    Io: Send + 'static,
    Attempt: Future<Output = io::Result<Io>> + Send + 'static,
{
    let mut untried = addresses.iter();
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        let wait = match untried.next() {
            Some(&address) => {
                attempts.spawn(attempt(address));
                let left = deadline.saturating_duration_since(Instant::now());
                let sharing = u32::try_from(1 + untried.len()).unwrap_or(u32::MAX);
                CONNECTION_ATTEMPT_DELAY.min(left / sharing)
            }
            None if attempts.is_empty() => return Err(failure),
            None => Duration::MAX,
        };
        // Those that are still under way when one has succeeded are ended with the set.
        match time::timeout(wait, attempts.join_next()).await {
            Ok(Some(Ok(Ok(io)))) => return Ok(io),
            Ok(Some(Ok(Err(error)))) => failure = error,
            Ok(Some(Err(ended))) => failure = ended.into(),
            Ok(None) | Err(_) => {}
        }
    }
}

async fn connect_from(local: Option<IpAddr>, address: SocketAddr) -> io::Result<TcpStream> {
    let Some(local) = local else {
        return TcpStream::connect(address).await;
    };
    let socket = if local.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(local, 0))?;
    socket.connect(address).await
}

/// Returns `value`, or the end of `range` that is nearest to it.
fn clamp(value: Duration, range: RangeInclusive<Duration>) -> Duration {
    value.clamp(*range.start(), *range.end())
}

/// Returns true if a connection leads to itself. A client that connects to a port of this host on which no server
/// listens may get the same port for its own end, and then TCP opens it from both sides at once (RFC 9293,
/// section 3.5). There would be no response, and the server could not bind its port again.
fn is_self_connected(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

fn connection_refused() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, "no server listens on the port")
}

/// How long an attempt at one address runs alone before the next one begins too (RFC 8305, section 5), unless that
/// is more than its share of the time.
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{Mutex, atomic::Ordering},
    };

    use super::{super::resolver::tests::Hanging, *};
    use crate::{
        client::MetricsClient,
        error::{Delivery, Error},
    };

    /// Dials `addresses` with so much time, where only the last one answers, and returns when each of
    /// them was tried.
    async fn tried(addresses: usize, limit: Duration) -> Vec<Duration> {
        let addresses: Vec<_> =
            (1..=addresses as u16).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        let last = addresses[addresses.len() - 1];
        let (start, tried) = (Instant::now(), Mutex::new(Vec::new()));
        let dial = connect_to_any(&addresses, start + limit, |address| {
            tried.lock().unwrap().push(start.elapsed());
            async move { if address == last { Ok(address) } else { pending().await } }
        });
        assert_eq!(time::timeout(limit, dial).await.unwrap().unwrap(), last);
        tried.into_inner().unwrap()
    }

    // FAULTS C16
    #[tokio::test(start_paused = true)]
    async fn the_attempts_share_the_time_that_there_is() {
        let millis = Duration::from_millis;
        assert_eq!(tried(2, millis(100)).await, [millis(0), millis(50)]);
        assert_eq!(tried(3, millis(5000)).await, [millis(0), millis(250), millis(500)]);
        let many = tried(100, millis(5000)).await;
        assert_eq!((many.len(), many[1], many[99]), (100, millis(50), millis(4950)));
    }

    // FAULTS C16
    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_at_once_when_one_fails() {
        let addresses = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let start = Instant::now();
        let dial = connect_to_any(&addresses, start + MAX_DURATION, |address| async move {
            if address.port() == 2 { Ok(()) } else { Err(connection_refused()) }
        });
        dial.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    // FAULTS C8
    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_hangs_takes_one_thread_of_a_client() {
        let (hanging, resolver) = Hanging::new();
        let connector = TcpConnector { resolver, ..TcpConnector::default() };
        let builder = MetricsClient::builder("metrics.internal:8888").connector(connector);
        let client = builder.max_connections(16).connect_lazy().unwrap();
        let mut calls = JoinSet::new();
        for key in 0..64 {
            let client = client.clone();
            calls.spawn(async move {
                for _ in 0..100 {
                    let error = client.put(format!("k{key}"), 1.0).await.unwrap_err();
                    assert_eq!(error.delivery(), Delivery::NotSent);
                    let error = client.stream("*").await.unwrap_err();
                    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
                }
            });
        }
        // As a guard's client, or a probe's connection.
        #[cfg(feature = "reporter")]
        client.detached_clone().unwrap().put("k", 1.0).await.unwrap_err();
        calls.join_all().await;
        // The thread may not even have begun: time is paused, and takes no time.
        assert!(hanging.begun.load(Ordering::SeqCst) <= 1);
    }

    // FAULTS C5
    #[tokio::test]
    async fn every_duration_of_a_socket_option_is_one_that_the_system_takes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let day = Duration::from_secs(24 * 60 * 60);
        for limit in [
            Some(Duration::ZERO),
            Some(Duration::from_nanos(1)),
            Some(24 * day),
            Some(25 * day),
            Some(50 * day),
            Some(Duration::MAX),
            None,
        ] {
            let connector = TcpConnector::default()
                .user_timeout(limit)
                .keepalive(limit.unwrap_or(Duration::from_millis(1999)));
            let stream = connector.connect(&address).await.unwrap();
            let socket = SockRef::from(&stream);
            #[cfg(target_os = "linux")]
            assert_eq!(
                socket.tcp_user_timeout().unwrap().filter(|set| !set.is_zero()),
                limit.map(|limit| clamp(limit, USER_TIMEOUT))
            );
            assert!(KEEPALIVE.contains(&socket.tcp_keepalive_time().unwrap()));
        }
    }
}
