//! Which TLS handshakes go on now.
//!
//! A handshake makes the server sign something: up to milliseconds of one thread, for a few bytes of a
//! peer that need never read the answer. So signing is done off the runtime's threads, and handshakes are
//! admitted to it: those of one address one at a time, those of all at most half as many at once as the
//! runtime has threads, and next is the address that has cost least.

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    // That of the processor, which no test pauses.
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

use super::{conn_limit::source_of, scheduler::Usage};

/// Admits handshakes to signing. It is one for all clones of a [`TlsAcceptor`](super::TlsAcceptor), also
/// where several servers use it.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// How many are admitted and not over.
    running: usize,
    /// When the latest began, in nanoseconds of work.
    now: u64,
    entered: u64,
    /// Only those with one that runs or waits. Hashed with a secret, since peers have some choice
    /// in their addresses.
    addresses: HashMap<IpAddr, Address>,
    /// The addresses that have one which waits, and none that runs.
    ready: BTreeMap<(u64, u64), IpAddr>,
}

#[derive(Debug)]
struct Address {
    /// When its next one begins, in nanoseconds of work.
    start: u64,
    running: Option<u64>,
    /// Those that wait, in the order in which they came.
    waiting: BTreeMap<u64, Waker>,
    /// Where it is among the ready ones.
    ready: Option<(u64, u64)>,
}

impl Handshakes {
    /// Makes TLS of a connection. Where it fails, the connection is handed back, if it still is one.
    pub(super) async fn accept<Io>(
        self: &Arc<Self>,
        io: Io,
        from: IpAddr,
        config: Arc<ServerConfig>,
        work: &Usage,
    ) -> Result<TlsStream<Io>, (io::Error, Option<Io>)>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // A peer that sends no `ClientHello`, or half of one, keeps no other waiting.
        let mut hello = LazyConfigAcceptor::new(Acceptor::default(), io);
        let hello = match Pin::new(&mut hello).await {
            Ok(hello) => hello,
            Err(error) => return Err((error, hello.take_io())),
        };
        let mut admission =
            Admission { handshakes: Arc::clone(self), source: source_of(from), id: None };
        let threads = Handle::current().metrics().num_workers();
        poll_fn(|cx| admission.poll_admitted((threads / 2).max(1), cx)).await;
        // Not here: a worker that signs holds up every task that it alone can run.
        let signing = spawn_blocking(move || {
            let begin = Instant::now();
            (hello.into_stream(config).into_fallible(), begin.elapsed())
        });
        let (handshake, cost) = signing.await.map_err(|error| (io::Error::other(error), None))?;
        admission.end(cost);
        let micros = usize::try_from(cost.as_micros()).unwrap_or(usize::MAX);
        work.add(micros.saturating_mul(BYTES_A_MICROSECOND));
        handshake.await.map_err(|(error, io)| (error, Some(io)))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics between two changes that belong together.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Admits what may be admitted now. Who is to be woken goes to `wakers`.
    fn admit(&mut self, limit: usize, wakers: &mut Vec<Waker>) {
        while self.running < limit
            && let Some(((start, _), source)) = self.ready.pop_first()
        {
            let Some(address) = self.addresses.get_mut(&source) else { continue };
            address.ready = None;
            if let Some((id, waker)) = address.waiting.pop_first() {
                address.running = Some(id);
                self.running += 1;
                self.now = self.now.max(start);
                wakers.push(waker);
            }
        }
    }

    /// Keeps an address among the ready ones if it is one of them, and no address without any.
    fn settle(&mut self, source: IpAddr) {
        let Some(address) = self.addresses.get_mut(&source) else { return };
        let is_ready = address.running.is_none() && !address.waiting.is_empty();
        if is_ready && address.ready.is_none() {
            self.entered += 1;
            let place = (address.start, self.entered);
            self.ready.insert(place, source);
            address.ready = Some(place);
        } else if !is_ready && let Some(place) = address.ready.take() {
            self.ready.remove(&place);
        }
        if address.running.is_none() && address.waiting.is_empty() {
            self.addresses.remove(&source);
        }
    }
}

/// The place of one handshake.
#[derive(Debug)]
struct Admission {
    handshakes: Arc<Handshakes>,
    source: IpAddr,
    /// `None` if it neither waits nor runs.
    id: Option<u64>,
}

impl Admission {
    /// Ready when it may run, beside fewer than `limit` others.
    fn poll_admitted(&mut self, limit: usize, cx: &Context<'_>) -> Poll<()> {
        let mut wakers = Vec::new();
        let mut queue = self.handshakes.queue();
        let start = queue.now;
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
            start,
            running: None,
            waiting: BTreeMap::new(),
            ready: None,
        });
        address.waiting.insert(id, cx.waker().clone());
        queue.settle(self.source);
        queue.admit(limit, &mut wakers);
        let is_admitted = queue.addresses.get(&self.source).is_some_and(|a| a.running == Some(id));
        drop(queue);
        if is_admitted {
            // No other can have been: as long as there was room, no handshake waited.
            return Poll::Ready(());
        }
        wakers.into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    /// It has run, or does not want to any more.
    fn end(&mut self, cost: Duration) {
        let Some(id) = self.id.take() else { return };
        let mut wakers = Vec::new();
        let mut queue = self.handshakes.queue();
        // Dropped without the lock.
        let mut left = None;
        if let Some(address) = queue.addresses.get_mut(&self.source) {
            if address.running == Some(id) {
                let cost = u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX);
                address.running = None;
                address.start = address.start.saturating_add(cost.max(1));
                queue.running -= 1;
            } else {
                left = address.waiting.remove(&id);
            }
        }
        queue.settle(self.source);
        // One has ended, so at most one begins, whatever the limit is.
        let limit = queue.running + usize::from(left.is_none());
        queue.admit(limit, &mut wakers);
        drop(queue);
        drop(left);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

/// What a microsecond of a handshake counts for in turns, in bytes: with a turn of 64 KiB a thread is busy
/// for some less than a millisecond.
const BYTES_A_MICROSECOND: usize = 64;

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        task::Wake,
    };

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const C: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3));

    #[derive(Default)]
    struct Bell(AtomicBool);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A peer's handshake.
    struct Peer {
        admission: Admission,
        bell: Arc<Bell>,
    }

    impl Peer {
        fn new(handshakes: &Arc<Handshakes>, from: IpAddr) -> Self {
            let admission =
                Admission { handshakes: Arc::clone(handshakes), source: source_of(from), id: None };
            Self { admission, bell: Arc::default() }
        }

        fn is_admitted(&mut self, limit: usize) -> bool {
            let waker = Arc::clone(&self.bell).into();
            self.admission.poll_admitted(limit, &Context::from_waker(&waker)).is_ready()
        }

        fn was_woken(&self) -> bool {
            self.bell.0.swap(false, Ordering::Relaxed)
        }
    }

    const MILLISECOND: Duration = Duration::from_millis(1);

    // FAULTS S3
    #[test]
    fn an_address_has_one_handshake_at_a_time() {
        let handshakes = Arc::default();
        let mut flood = (0..64).map(|_| Peer::new(&handshakes, A)).collect::<Vec<_>>();
        let admitted =
            flood.iter_mut().filter_map(|peer| peer.is_admitted(4).then_some(())).count();
        assert_eq!(admitted, 1);
        let mut other = Peer::new(&handshakes, B);
        assert!(other.is_admitted(4), "there is room for other addresses");
        flood[0].admission.end(MILLISECOND);
        assert!(flood[1].was_woken() && flood[1].is_admitted(4) && !flood[2].is_admitted(4));
    }

    #[test]
    fn all_addresses_have_so_many_at_once() {
        let handshakes = Arc::default();
        let [mut a, mut b, mut c] = [A, B, C].map(|from| Peer::new(&handshakes, from));
        assert!(a.is_admitted(2) && b.is_admitted(2) && !c.is_admitted(2));
        b.admission.end(MILLISECOND);
        assert!(c.was_woken() && c.is_admitted(2));
    }

    #[test]
    fn the_address_that_has_cost_least_is_next() {
        let handshakes = Arc::default();
        let mut flood = (0..10).map(|_| Peer::new(&handshakes, A)).collect::<Vec<_>>();
        assert!(flood[0].is_admitted(1));
        flood[1..].iter_mut().for_each(|peer| assert!(!peer.is_admitted(1)));
        flood[0].admission.end(5 * MILLISECOND);
        assert!(flood[1].was_woken() && flood[1].is_admitted(1));
        // It comes behind eight others, and is next all the same: as often as it costs less.
        let mut honest = (0..6).map(|_| Peer::new(&handshakes, B)).collect::<Vec<_>>();
        honest.iter_mut().for_each(|peer| assert!(!peer.is_admitted(1)));
        flood[1].admission.end(5 * MILLISECOND);
        for peer in &mut honest[..5] {
            assert!(peer.was_woken() && peer.is_admitted(1));
            assert!(!flood[2].was_woken());
            peer.admission.end(MILLISECOND);
        }
    }

    #[test]
    fn who_leaves_leaves_nothing_behind() {
        let handshakes = Arc::<Handshakes>::default();
        let [mut first, mut second, mut third] = [A, A, B].map(|from| Peer::new(&handshakes, from));
        assert!(first.is_admitted(1) && !second.is_admitted(1) && !third.is_admitted(1));
        drop(second);
        assert!(!third.was_woken());
        drop(first);
        assert!(third.was_woken() && third.is_admitted(1));
        drop(third);
        let queue = handshakes.queue();
        assert_eq!((queue.running, queue.addresses.len(), queue.ready.len()), (0, 0, 0));
    }
}
