//! [`Statsd`]: receives datagrams on a thread of its own, so that nothing else delays it.

use std::{
    fs, io,
    net::{SocketAddr, UdpSocket as StdUdpSocket},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

use metrics_client::{codec::Escaped, internal::log_limit::LogLimiter};
use socket2::SockRef;
use tokio::{net::UdpSocket, runtime, sync::oneshot};

use super::{Aggregates, Aggregator, StatsdSettings, StatsdStats};

/// A listener for StatsD, over UDP, a Unix socket or both. Dropping it closes the sockets.
#[derive(Debug)]
pub struct Statsd {
    shared: Arc<ListenerShared>,
    udp_addr: Option<SocketAddr>,
    /// Counts drops, on Linux.
    udp: Option<StdUdpSocket>,
    unix: Option<PathBuf>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct ListenerShared {
    aggregator: Mutex<Aggregator>,
    begin: Instant,
    invalid_lines: LogLimiter,
}

/// The longest datagram of UDP has 65,507 bytes.
const BUFFER_BYTES: usize = 64 * 1024;

impl Statsd {
    /// Listens from now on. A Unix socket that no process listens on any more is replaced, and any user may send to the
    /// new one.
    ///
    /// # Errors
    ///
    /// Returns an error that names the address or the path if it cannot be listened on.
    pub fn start(settings: StatsdSettings) -> io::Result<Self> {
        let udp = settings.udp.map(|address| {
            bind_udp(address, settings.receive_buffer).map_err(|error| named(&address, &error))
        });
        let udp = udp.transpose()?;
        let udp_addr = udp.as_ref().map(StdUdpSocket::local_addr).transpose()?;
        let for_thread = udp.as_ref().map(StdUdpSocket::try_clone).transpose()?;
        let unix = settings.unix.as_deref().map(|path| {
            unix::bind(path, settings.receive_buffer)
                .map_err(|error| named(&path.display(), &error))
        });
        let unix_socket = unix.transpose()?;
        let unix = settings.unix.clone();
        let shared = Arc::new(ListenerShared {
            aggregator: Mutex::new(Aggregator::new(settings)),
            begin: Instant::now(),
            invalid_lines: LogLimiter::new(),
        });
        let (stop, stopped) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (udp_socket, unix_socket) = {
            let _entered = runtime.enter();
            let udp = for_thread.map(UdpSocket::from_std).transpose()?;
            (udp, unix_socket.map(unix::with_runtime).transpose()?)
        };
        let receive = {
            let shared = Arc::clone(&shared);
            move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        () = receive_udp(udp_socket.as_ref(), &shared) => {}
                        () = unix::receive(unix_socket.as_ref(), &shared) => {}
                    }
                });
                if let Some(Ok(socket)) = udp_socket.map(UdpSocket::into_std) {
                    drain(LAST_BATCH, &shared, &mut vec![0; BUFFER_BYTES], |buffer| {
                        socket.recv(buffer)
                    });
                }
                if let Some(socket) = unix_socket {
                    unix::receive_rest(socket, &shared);
                }
            }
        };
        let thread = thread::Builder::new().name("statsd".into()).spawn(receive)?;
        Ok(Self { shared, udp_addr, udp, unix, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the address for UDP.
    #[must_use]
    pub fn udp_addr(&self) -> Option<SocketAddr> {
        self.udp_addr
    }

    /// Returns the counters.
    #[must_use]
    pub fn stats(&self) -> StatsdStats {
        let dropped = self.udp.as_ref().and_then(drops).unwrap_or_default();
        StatsdStats { dropped, ..self.shared.aggregator().stats() }
    }

    /// Receives what has arrived, and no more. Waits for the thread to do that.
    pub(crate) fn stop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // If it has panicked, its panic hook has said so.
            let _ = thread.join();
        }
    }

    /// Takes what was reported since the last time.
    pub(crate) fn take(&self) -> Aggregates {
        let now = self.shared.begin.elapsed();
        self.shared.aggregator().take(now)
    }
}

impl Drop for Statsd {
    fn drop(&mut self) {
        self.stop();
        if let Some(path) = &self.unix {
            // It may be gone.
            let _ = fs::remove_file(path);
        }
    }
}

impl ListenerShared {
    fn aggregator(&self) -> MutexGuard<'_, Aggregator> {
        // A series that was not finished has less in it.
        self.aggregator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&self, packet: &[u8]) {
        // What is not complete may be another number.
        let is_truncated = packet.len() == BUFFER_BYTES;
        let end = packet.iter().rposition(|&byte| byte == b'\n').filter(|_| is_truncated);
        let bad = {
            let mut aggregator = self.aggregator();
            if is_truncated {
                aggregator.note_truncated();
            }
            aggregator.receive(&packet[..end.unwrap_or(packet.len())], self.begin.elapsed())
        };
        if let Some(bad) = bad
            && self.invalid_lines.should_log()
        {
            let line = String::from_utf8_lossy(bad.line);
            let suppressed = self.invalid_lines.take_suppressed();
            tracing::warn!(line = %Escaped(&line), error = %bad.reason, suppressed, "invalid line of StatsD");
        }
    }
}

fn bind_udp(address: SocketAddr, receive_buffer: usize) -> io::Result<StdUdpSocket> {
    let socket = StdUdpSocket::bind(address)?;
    // The system sets less if it allows no more.
    SockRef::from(&socket).set_recv_buffer_size(receive_buffer)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn named(address: &dyn std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{address}: {error}"))
}

/// How many datagrams are received before other work of the thread.
const BATCH: usize = 256;

/// The most datagrams that are received after the end: as many as wait in a socket.
const LAST_BATCH: usize = 100_000;

/// Receives until there is no datagram, at most `limit` of them.
fn drain(
    limit: usize,
    shared: &ListenerShared,
    buffer: &mut [u8],
    mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>,
) {
    for _ in 0..limit {
        let Ok(len) = receive(buffer) else { return };
        shared.receive(&buffer[..len]);
    }
}

async fn receive_udp(socket: Option<&UdpSocket>, shared: &ListenerShared) {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut buffer = vec![0; BUFFER_BYTES];
    // It fails only when the runtime ends.
    while socket.readable().await.is_ok() {
        drain(BATCH, shared, &mut buffer, |buffer| socket.try_recv(buffer));
    }
}

#[cfg(unix)]
mod unix {
    //! Datagrams over a Unix socket.

    use std::{os::unix::fs::PermissionsExt, os::unix::net::UnixDatagram as StdUnixDatagram};

    use tokio::net::UnixDatagram;

    use super::*;

    pub(super) type Socket = StdUnixDatagram;

    pub(super) fn bind(path: &Path, receive_buffer: usize) -> io::Result<Socket> {
        let socket = match StdUnixDatagram::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let probe = StdUnixDatagram::unbound()?;
                match probe.connect(path) {
                    Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                        fs::remove_file(path)?;
                        StdUnixDatagram::bind(path)?
                    }
                    _ => return Err(error),
                }
            }
            bound => bound?,
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        SockRef::from(&socket).set_recv_buffer_size(receive_buffer)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Makes it a socket of the runtime.
    pub(super) fn with_runtime(socket: Socket) -> io::Result<UnixDatagram> {
        UnixDatagram::from_std(socket)
    }

    pub(super) async fn receive(socket: Option<&UnixDatagram>, shared: &ListenerShared) {
        let Some(socket) = socket else { return std::future::pending().await };
        let mut buffer = vec![0; BUFFER_BYTES];
        // It fails only when the runtime ends.
        while socket.readable().await.is_ok() {
            drain(BATCH, shared, &mut buffer, |buffer| socket.try_recv(buffer));
        }
    }

    /// Receives what has arrived.
    pub(super) fn receive_rest(socket: UnixDatagram, shared: &ListenerShared) {
        if let Ok(socket) = socket.into_std() {
            drain(LAST_BATCH, shared, &mut vec![0; BUFFER_BYTES], |buffer| socket.recv(buffer));
        }
    }
}

#[cfg(not(unix))]
mod unix {
    //! There are no Unix sockets for datagrams here.

    use super::*;

    pub(super) enum Socket {}

    pub(super) fn bind(_: &Path, _: usize) -> io::Result<Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn with_runtime(socket: Socket) -> io::Result<Socket> {
        match socket {}
    }

    pub(super) async fn receive(_: Option<&Socket>, _: &ListenerShared) {
        std::future::pending().await
    }

    pub(super) fn receive_rest(socket: Socket, _: &ListenerShared) {
        match socket {}
    }
}

/// Returns how many datagrams the system has dropped because the socket's buffer was full.
#[cfg(target_os = "linux")]
fn drops(socket: &StdUdpSocket) -> Option<u64> {
    let inode = rustix::fs::fstat(socket).ok()?.st_ino.to_string();
    ["/proc/net/udp", "/proc/net/udp6"].into_iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        table.lines().find_map(|line| {
            let mut fields = line.split_whitespace();
            (fields.nth(9) == Some(&inode)).then(|| fields.nth(2)?.parse().ok())?
        })
    })
}

#[cfg(not(target_os = "linux"))]
fn drops(_: &StdUdpSocket) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests;
