//! Looks up names on a thread of its own, one at a time for each client.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use tokio::sync::watch;

use super::address::HostPort;

/// Looks names up for all connections of one client.
///
/// The system's `getaddrinfo` blocks its thread, cannot be cancelled, and takes half a minute where no
/// name server answers, which is longer than a dial may take. So a dial that begins during a look-up
/// waits for that one, and each look-up has its own thread: on the runtime's blocking pool it would take a thread
/// from other tasks of the program, and would keep the runtime from shutting down.
pub(super) struct Resolver {
    look_up: Arc<LookUp>,
    /// The last look-up that was begun.
    last: Mutex<Option<Pending>>,
}

type LookUp = dyn Fn(&HostPort) -> io::Result<Vec<SocketAddr>> + Send + Sync;

struct Pending {
    address: HostPort,
    outcome: watch::Receiver<Option<LookupOutcome>>,
}

/// What a look-up has found, or the kind and the text of its error.
type LookupOutcome = Result<Arc<[SocketAddr]>, (io::ErrorKind, Arc<str>)>;

impl Resolver {
    pub(super) fn new(
        look_up: impl Fn(&HostPort) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self { look_up: Arc::new(look_up), last: Mutex::default() }
    }

    /// Returns the addresses of a host. When the future is dropped, the look-up continues for the next dial.
    pub(super) async fn resolve(&self, address: &HostPort) -> io::Result<Arc<[SocketAddr]>> {
        if let Ok(ip) = address.host().parse::<IpAddr>() {
            return Ok([SocketAddr::new(ip, address.port())].into());
        }
        loop {
            let (mut outcome, is_same) = self.join(address)?;
            let outcome = match outcome.wait_for(Option::is_some).await {
                Ok(outcome) => Option::clone(&outcome),
                Err(_) => None,
            };
            if is_same {
                return match outcome {
                    Some(Ok(addresses)) => Ok(addresses),
                    Some(Err((kind, text))) => Err(io::Error::new(kind, &*text)),
                    None => Err(io::Error::other("the look-up of the name panicked")),
                };
            }
        }
    }

    /// Returns the running look-up, which this starts if necessary, and true if it is for
    /// `address`.
    fn join(
        &self,
        address: &HostPort,
    ) -> io::Result<(watch::Receiver<Option<LookupOutcome>>, bool)> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pending) = last.as_ref().filter(|pending| pending.is_under_way()) {
            return Ok((pending.outcome.clone(), pending.address == *address));
        }
        let (sender, outcome) = watch::channel(None);
        let (look_up, name) = (Arc::clone(&self.look_up), address.clone());
        let look_up = move || {
            let found = look_up(&name).map(Arc::from);
            sender.send_replace(Some(
                found.map_err(|error| (error.kind(), error.to_string().into())),
            ));
        };
        thread::Builder::new().name("metrics-lookup".into()).spawn(look_up).map_err(|error| {
            io::Error::new(error.kind(), format!("no thread to look the name up: {error}"))
        })?;
        *last = Some(Pending { address: address.clone(), outcome: outcome.clone() });
        Ok((outcome, true))
    }
}

impl Pending {
    fn is_under_way(&self) -> bool {
        // An error: its thread is gone.
        self.outcome.borrow().is_none() && self.outcome.has_changed().is_ok()
    }
}

/// Asks the system.
impl Default for Resolver {
    fn default() -> Self {
        Self::new(|address| (address.host(), address.port()).to_socket_addrs().map(Vec::from_iter))
    }
}

/// A clone is for another client, and waits for none of this one's look-ups.
impl Clone for Resolver {
    fn clone(&self) -> Self {
        Self { look_up: Arc::clone(&self.look_up), last: Mutex::default() }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        str::FromStr,
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
    };

    use tokio::join;
    use tokio_test::{assert_pending, task};

    use super::*;

    /// A resolver that hangs until the test answers, which dropping the answers does with an error.
    pub(in crate::client) struct Hanging {
        pub(in crate::client) begun: Arc<AtomicUsize>,
        pub(in crate::client) answers: mpsc::Sender<io::Result<Vec<SocketAddr>>>,
    }

    impl Hanging {
        pub(in crate::client) fn new() -> (Self, Resolver) {
            let begun = Arc::new(AtomicUsize::new(0));
            let (answers, questions) = mpsc::channel();
            let (count, questions) = (Arc::clone(&begun), Mutex::new(questions));
            let resolver = Resolver::new(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = questions.lock().unwrap().recv();
                answer.unwrap_or_else(|_| Err(io::Error::other("no name server answers")))
            });
            (Self { begun, answers }, resolver)
        }
    }

    fn address(text: &str) -> HostPort {
        HostPort::from_str(text).unwrap()
    }

    // FAULTS C8
    #[tokio::test]
    async fn dials_at_the_same_time_share_a_look_up_and_the_next_one_asks_again() {
        let (hanging, resolver) = Hanging::new();
        let name = address("metrics.internal:8888");
        let found = vec![SocketAddr::from(([127, 0, 0, 1], 8888))];
        for round in 1..=3 {
            let answer = async { hanging.answers.send(Ok(found.clone())).unwrap() };
            let (one, other, ()) =
                join!(biased; resolver.resolve(&name), resolver.resolve(&name), answer);
            assert_eq!((&*one.unwrap(), &*other.unwrap()), (&*found, &*found));
            assert_eq!(hanging.begun.load(Ordering::SeqCst), round);
        }
        let fail = async { drop(hanging.answers) };
        let (one, other, ()) =
            join!(biased; resolver.resolve(&name), resolver.resolve(&name), fail);
        for error in [one.unwrap_err(), other.unwrap_err()] {
            assert_eq!(error.to_string(), "no name server answers");
        }
        assert_eq!(hanging.begun.load(Ordering::SeqCst), 4);
    }

    // FAULTS C8
    #[tokio::test]
    async fn a_look_up_whose_dial_was_dropped_is_joined_by_the_next() {
        let (hanging, resolver) = Hanging::new();
        let name = address("metrics.internal:8888");
        for _ in 0..3 {
            assert_pending!(task::spawn(resolver.resolve(&name)).poll());
        }
        // The last one joins before the answer ends the look-up.
        let answer = async { hanging.answers.send(Ok(Vec::new())).unwrap() };
        let (found, ()) = join!(biased; resolver.resolve(&name), answer);
        assert!(found.unwrap().is_empty());
        assert_eq!(hanging.begun.load(Ordering::SeqCst), 1);
    }

    // FAULTS C8
    #[test]
    fn a_look_up_that_hangs_does_not_keep_the_runtime_from_ending() {
        let (hanging, resolver) = Hanging::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let name = address("metrics.internal:8888");
            assert_pending!(task::spawn(resolver.resolve(&name)).poll());
        });
        let (ending, ended) = mpsc::channel();
        thread::spawn(move || {
            drop(runtime);
            ending.send(())
        });
        let ended = ended.recv_timeout(std::time::Duration::from_secs(60));
        ended.expect("the runtime waits for the look-up");
        drop(hanging);
    }

    // FAULTS C8
    #[tokio::test]
    async fn another_name_is_looked_up_once_the_first_is_found() {
        let resolver = Resolver::new(|name| {
            Ok(vec![SocketAddr::from(([127, 0, 0, name.host().len() as u8], name.port()))])
        });
        let (short, long) = (address("a:1"), address("metrics.internal:2"));
        let (one, other) = join!(biased; resolver.resolve(&short), resolver.resolve(&long));
        assert_eq!(one.unwrap()[0].to_string(), "127.0.0.1:1");
        assert_eq!(other.unwrap()[0].to_string(), "127.0.0.16:2");
    }

    #[tokio::test]
    async fn a_look_up_that_panics_fails_its_dial_alone() {
        let calls = AtomicUsize::new(0);
        let resolver = Resolver::new(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
            0 => panic!("a resolver's bug; this message is part of the test"),
            _ => Ok(Vec::new()),
        });
        let name = address("metrics.internal:8888");
        resolver.resolve(&name).await.unwrap_err();
        assert!(resolver.resolve(&name).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_ip_address_is_not_looked_up() {
        let resolver = Resolver::new(|_| unreachable!("there is nothing to look up"));
        for ip in ["127.0.0.1:8888", "[::1]:8888"] {
            let found = resolver.resolve(&address(ip)).await.unwrap();
            assert_eq!(*found, [ip.parse().unwrap()]);
        }
    }

    #[tokio::test]
    async fn the_system_knows_this_machine() {
        let found = Resolver::default().resolve(&address("localhost:8888")).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 8888));
        assert!(!found.is_empty());
    }
}
