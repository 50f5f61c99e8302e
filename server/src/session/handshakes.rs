//! Admission control for TLS handshakes.
//!
//! In a handshake the server signs: up to milliseconds of CPU time for a few bytes from a peer that need
//! not even read the answer. So signatures are made on Tokio's blocking threads, and handshakes are
//! admitted to them: one at a time for each address, in total at most half as many as the runtime has
//! worker threads, and the address that has cost least is next.

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    // CPU time, which no test pauses.
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
    task::spawn_blocking,
};
use tokio_rustls::{
    LazyConfigAcceptor,
    rustls::{ServerConfig, server::Acceptor},
    server::TlsStream,
};

use super::scheduler::Usage;
use crate::net::source_of;

/// Admits handshakes to signing. All clones of a [`TlsAcceptor`](super::TlsAcceptor) share one, also
/// in several servers.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    queue: Mutex<HandshakeQueue>,
}

#[derive(Debug, Default)]
struct HandshakeQueue {
    /// How many handshakes are admitted and not over.
    running: usize,
    /// The start tag of the latest admitted handshake, in nanoseconds of signing.
    virtual_time: u64,
    entered: u64,
    /// Only addresses with a running or waiting handshake. Hashed with a secret, since peers can choose
    /// among addresses.
    addresses: HashMap<IpAddr, Address>,
    /// The addresses with a waiting handshake and no running one.
    ready: BTreeMap<(u64, u64), IpAddr>,
}

#[derive(Debug)]
struct Address {
    /// The start tag of its next handshake, in nanoseconds of signing.
    virtual_start: u64,
    running: Option<u64>,
    /// The waiting handshakes in order of arrival.
    waiting: BTreeMap<u64, Waker>,
    /// Its key in `ready`.
    ready: Option<(u64, u64)>,
}

impl Handshakes {
    /// Does the handshake of a connection. `queued` is true while it waits for admission.
    ///
    /// # Errors
    ///
    /// If the handshake fails. The connection is returned too, unless it is broken.
    pub(super) async fn accept<Io>(
        self: &Arc<Self>,
        io: Io,
        from: IpAddr,
        config: Arc<ServerConfig>,
        usage: &Usage,
        queued: &AtomicBool,
    ) -> Result<TlsStream<Io>, (io::Error, Option<Io>)>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // A peer without a complete `ClientHello` takes no admission.
        let mut hello = LazyConfigAcceptor::new(Acceptor::default(), io);
        let hello = match Pin::new(&mut hello).await {
            Ok(hello) => hello,
            Err(error) => return Err((error, hello.take_io())),
        };
        let mut admission =
            Admission { handshakes: Arc::clone(self), source: source_of(from), id: None };
        let threads = Handle::current().metrics().num_workers();
        queued.store(true, Ordering::Relaxed);
        poll_fn(|cx| admission.poll_admitted((threads / 2).max(1), cx)).await;
        queued.store(false, Ordering::Relaxed);
        // On a worker thread it would delay other tasks.
        let signing = spawn_blocking(move || {
            let begin = Instant::now();
            (hello.into_stream(config).into_fallible(), begin.elapsed())
        });
        let (handshake, cost) = signing.await.map_err(|error| (io::Error::other(error), None))?;
        admission.end(cost);
        let micros = usize::try_from(cost.as_micros()).unwrap_or(usize::MAX);
        usage.charge(micros.saturating_mul(BYTES_PER_MICROSECOND));
        handshake.await.map_err(|(error, io)| (error, Some(io)))
    }

    fn queue(&self) -> MutexGuard<'_, HandshakeQueue> {
        // No panic can leave the queue inconsistent.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HandshakeQueue {
    /// Admits handshakes while fewer than `limit` are running. Their wakers are pushed to `wakers`.
    fn admit(&mut self, limit: usize, wakers: &mut Vec<Waker>) {
        while self.running < limit
            && let Some(((start, _), source)) = self.ready.pop_first()
        {
            let Some(address) = self.addresses.get_mut(&source) else { continue };
            address.ready = None;
            if let Some((id, waker)) = address.waiting.pop_first() {
                address.running = Some(id);
                self.running += 1;
                self.virtual_time = self.virtual_time.max(start);
                wakers.push(waker);
            }
        }
    }

    /// Updates `ready` for an address, and forgets an address without handshakes.
    fn update_ready(&mut self, source: IpAddr) {
        let Some(address) = self.addresses.get_mut(&source) else { return };
        let is_ready = address.running.is_none() && !address.waiting.is_empty();
        if is_ready && address.ready.is_none() {
            self.entered += 1;
            let key = (address.virtual_start, self.entered);
            self.ready.insert(key, source);
            address.ready = Some(key);
        } else if !is_ready && let Some(key) = address.ready.take() {
            self.ready.remove(&key);
        }
        if address.running.is_none() && address.waiting.is_empty() {
            self.addresses.remove(&source);
        }
    }
}

/// One handshake in the queue.
#[derive(Debug)]
struct Admission {
    handshakes: Arc<Handshakes>,
    source: IpAddr,
    /// `None` if it neither waits nor is running.
    id: Option<u64>,
}

impl Admission {
    /// Ready when it is admitted, while fewer than `limit` others are running.
    fn poll_admitted(&mut self, limit: usize, cx: &Context<'_>) -> Poll<()> {
        let mut wakers = Vec::new();
        let mut queue = self.handshakes.queue();
        let start = queue.virtual_time;
        if let Some(id) = self.id {
            let address = queue.addresses.get_mut(&self.source);
            if let Some(waker) = address.and_then(|address| address.waiting.get_mut(&id)) {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            return Poll::Ready(());
        }
        queue.entered += 1;
        let id = queue.entered;
        self.id = Some(id);
        let address = queue.addresses.entry(self.source).or_insert_with(|| Address {
            virtual_start: start,
            running: None,
            waiting: BTreeMap::new(),
            ready: None,
        });
        address.waiting.insert(id, cx.waker().clone());
        queue.update_ready(self.source);
        queue.admit(limit, &mut wakers);
        let is_admitted = queue.addresses.get(&self.source).is_some_and(|a| a.running == Some(id));
        drop(queue);
        if is_admitted {
            // No other was admitted: no handshake waits while there is capacity.
            return Poll::Ready(());
        }
        wakers.into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    /// Removes it from the queue after it has run for `cost`, or when it is dropped.
    fn end(&mut self, cost: Duration) {
        let Some(id) = self.id.take() else { return };
        let mut wakers = Vec::new();
        let mut queue = self.handshakes.queue();
        // The waker is dropped without the lock.
        let mut waker = None;
        if let Some(address) = queue.addresses.get_mut(&self.source) {
            if address.running == Some(id) {
                let cost = u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX);
                address.running = None;
                address.virtual_start = address.virtual_start.saturating_add(cost.max(1));
                queue.running -= 1;
            } else {
                waker = address.waiting.remove(&id);
            }
        }
        queue.update_ready(self.source);
        // If one has ended, one may begin, whatever the limit is.
        let limit = queue.running + usize::from(waker.is_none());
        queue.admit(limit, &mut wakers);
        drop(queue);
        drop(waker);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

/// What one microsecond of signing is charged as, in bytes: a thread moves 64 KiB in a little less than a
/// millisecond.
const BYTES_PER_MICROSECOND: usize = 64;

#[cfg(test)]
mod tests {
    use metrics_client::tls::provider;
    use tokio::io::{AsyncWriteExt, duplex};
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio_test::task::{self, Spawn};

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const C: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3));

    /// One handshake, and the task that waits for it.
    struct QueuedPeer {
        admission: Spawn<Admission>,
    }

    impl QueuedPeer {
        fn new(handshakes: &Arc<Handshakes>, from: IpAddr) -> Self {
            let admission =
                Admission { handshakes: Arc::clone(handshakes), source: source_of(from), id: None };
            Self { admission: task::spawn(admission) }
        }

        fn is_admitted(&mut self, limit: usize) -> bool {
            self.admission.enter(|cx, mut admission| admission.poll_admitted(limit, cx)).is_ready()
        }

        /// Returns true if it was woken since the last call of `is_admitted`.
        fn is_woken(&self) -> bool {
            self.admission.is_woken()
        }
    }

    const MILLISECOND: Duration = Duration::from_millis(1);

    // FAULTS S3
    #[test]
    fn handshakes_of_one_address_run_one_at_a_time() {
        let handshakes = Arc::default();
        let mut flood = (0..64).map(|_| QueuedPeer::new(&handshakes, A)).collect::<Vec<_>>();
        let admitted =
            flood.iter_mut().filter_map(|peer| peer.is_admitted(4).then_some(())).count();
        assert_eq!(admitted, 1);
        let mut other = QueuedPeer::new(&handshakes, B);
        assert!(other.is_admitted(4), "there is room for other addresses");
        flood[0].admission.end(MILLISECOND);
        assert!(flood[1].is_woken() && flood[1].is_admitted(4) && !flood[2].is_admitted(4));
    }

    #[test]
    fn running_handshakes_are_limited_in_total() {
        let handshakes = Arc::default();
        let [mut a, mut b, mut c] = [A, B, C].map(|from| QueuedPeer::new(&handshakes, from));
        assert!(a.is_admitted(2) && b.is_admitted(2) && !c.is_admitted(2));
        b.admission.end(MILLISECOND);
        assert!(c.is_woken() && c.is_admitted(2));
    }

    #[test]
    fn address_with_the_least_cost_is_next() {
        let handshakes = Arc::default();
        let mut flood = (0..10).map(|_| QueuedPeer::new(&handshakes, A)).collect::<Vec<_>>();
        assert!(flood[0].is_admitted(1));
        flood[1..].iter_mut().for_each(|peer| assert!(!peer.is_admitted(1)));
        flood[0].admission.end(5 * MILLISECOND);
        assert!(flood[1].is_woken() && flood[1].is_admitted(1));
        // It arrives after eight others and is next, as long as it has cost less.
        let mut honest = (0..6).map(|_| QueuedPeer::new(&handshakes, B)).collect::<Vec<_>>();
        honest.iter_mut().for_each(|peer| assert!(!peer.is_admitted(1)));
        flood[1].admission.end(5 * MILLISECOND);
        for peer in &mut honest[..5] {
            assert!(peer.is_woken() && peer.is_admitted(1));
            assert!(!flood[2].is_woken());
            peer.admission.end(MILLISECOND);
        }
    }

    #[test]
    fn dropped_handshakes_leave_the_queue_empty() {
        let handshakes = Arc::<Handshakes>::default();
        let [mut first, mut second, mut third] =
            [A, A, B].map(|from| QueuedPeer::new(&handshakes, from));
        assert!(first.is_admitted(1) && !second.is_admitted(1) && !third.is_admitted(1));
        drop(second);
        assert!(!third.is_woken());
        drop(first);
        assert!(third.is_woken() && third.is_admitted(1));
        drop(third);
        let queue = handshakes.queue();
        assert_eq!((queue.running, queue.addresses.len(), queue.ready.len()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_admission_is_told_from_a_slow_peer() {
        let own = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        let key = own.signing_key.serialize_der();
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key.try_into().unwrap());
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = "localhost".try_into().unwrap();
        let mut hello = Vec::new();
        ClientConnection::new(client.into(), name).unwrap().write_tls(&mut hello).unwrap();

        let (handshakes, config) = (Arc::<Handshakes>::default(), Arc::new(server.unwrap()));
        let mut first = QueuedPeer::new(&handshakes, A);
        assert!(first.is_admitted(1));
        for (sent, is_queued) in [(&hello[..hello.len() - 1], false), (&hello[..], true)] {
            let (mut peer, io) = duplex(16 * 1024);
            peer.write_all(sent).await.unwrap();
            let (usage, queued) = (Usage::default(), AtomicBool::new(false));
            let handshake = handshakes.accept(io, A, Arc::clone(&config), &usage, &queued);
            assert!(tokio::time::timeout(MILLISECOND, handshake).await.is_err());
            assert_eq!(queued.load(Ordering::Relaxed), is_queued);
        }
    }
}
