//! Shutdown while the store blocks.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Condvar, Mutex, mpsc},
    thread,
    time::Duration,
};

use metrics_client::Selector;
use metrics_server::{
    Limits, MemoryStore, Server, Store,
    store::{MemorySnapshot, PutBatch, StoreError},
};
use tokio::{runtime, sync::oneshot};

/// Passes only if a test hangs.
const AGES: Duration = Duration::from_secs(60);

const WORKERS: usize = 2;

/// Blocks the thread that applies a batch, which a store must not do.
struct Blocking {
    entered: mpsc::Sender<()>,
    gate: &'static Gate,
}

#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let is_open = self.is_open.lock().unwrap();
        let (mut is_open, waited) =
            self.opened.wait_timeout_while(is_open, AGES, |is_open| !*is_open).unwrap();
        // A shutdown that waits for the store finds it open.
        *is_open |= waited.timed_out();
    }
}

impl Store for Blocking {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, _: &PutBatch) -> Result<(), StoreError> {
        self.entered.send(()).unwrap();
        self.gate.wait();
        Ok(())
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        MemoryStore::new().get(selector).await
    }
}

// FAULTS S11
#[test]
fn shutdown_ends_while_the_store_blocks_all_workers() {
    let runtime =
        runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build().unwrap();
    let gate: &'static Gate = Box::leak(Box::default());
    let (enter, entered) = mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let served = runtime.block_on(async {
        let limits = Limits::default().shutdown_grace(Duration::from_millis(50));
        let server = Server::bind("127.0.0.1:0").await.unwrap().limits(limits);
        let addr = server.local_addr();
        let peers = thread::spawn(move || {
            let peers: Vec<_> = (0..WORKERS)
                .map(|_| {
                    let mut peer = TcpStream::connect(addr).unwrap();
                    peer.write_all(b"put a 1 1\n").unwrap();
                    entered.recv_timeout(AGES).unwrap();
                    peer
                })
                .collect();
            stop.send(()).unwrap();
            peers
        });
        let store = Blocking { entered: enter, gate };
        server.store(store).serve_until(async { _ = stopped.await }).await;
        // Every thread of the runtime still blocks.
        let served = !*gate.is_open.lock().unwrap();
        gate.open();
        (served, peers.join().unwrap())
    });
    assert!(served.0, "shutdown waits for the store");
    drop(runtime);
    for mut peer in served.1 {
        // Whatever the outcome of the blocked call, the connection ends.
        let _ = peer.read_to_end(&mut Vec::new());
    }
}
