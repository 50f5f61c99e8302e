//! Opens the listening sockets of a server.

use std::{collections::HashSet, io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket, ToSocketAddrs, lookup_host};

/// Listens on every address that `addr` resolves to and that this machine has; at least one. Port 0 selects
/// a free port, the same for all of them.
pub(crate) async fn listen(addr: impl ToSocketAddrs) -> io::Result<Vec<TcpListener>> {
    let mut addrs: Vec<_> = lookup_host(addr).await?.collect();
    let mut seen = HashSet::new();
    addrs.retain(|&addr| seen.insert(addr));
    let mut attempts = 0;
    loop {
        match listen_on_all(&addrs) {
            // The port that was free at one address is in use at another.
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && attempts < MAX_PORT_ATTEMPTS
                    && addrs.iter().all(|addr| addr.port() == 0) =>
            {
                attempts += 1;
            }
            listeners => return listeners,
        }
    }
}

/// Listens on all addresses that this machine has, on one port for those with port 0.
fn listen_on_all(addrs: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on");
    let mut free_port = 0;
    for &(mut addr) in addrs {
        if addr.port() == 0 {
            addr.set_port(free_port);
        }
        match listen_on(addr) {
            Ok(listener) => {
                if addr.port() == 0 {
                    free_port = listener.local_addr()?.port();
                }
                listeners.push(listener);
            }
            Err(error) if is_absent(&error) => failure = error,
            Err(error) => return Err(error),
        }
    }
    if listeners.is_empty() { Err(failure) } else { Ok(listeners) }
}

/// Returns true if the machine does not have the address, or no addresses of its family.
fn is_absent(error: &io::Error) -> bool {
    // `EAFNOSUPPORT`, which has no `ErrorKind`.
    const EAFNOSUPPORT: [i32; 3] = [97, 47, 10047];
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error().is_some_and(|code| EAFNOSUPPORT.contains(&code))
}

/// How often another free port is tried if the first one is in use at another address.
const MAX_PORT_ATTEMPTS: u32 = 16;

fn listen_on(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Otherwise a restart would have to wait for connections in TIME_WAIT. On Windows the same option
    // would let two servers share a port.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// The listen backlog: the default maximum of Linux (`net.core.somaxconn`), so that thousands of clients
/// can reconnect at once.
const BACKLOG: u32 = 4096;
