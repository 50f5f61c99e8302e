//! The store on disk: in this process, and as a server.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::Arc,
};

use metrics_client::{Key, Point, Selector};
use metrics_server::{
    Store,
    store::{DiskStore, PutBatch, Snapshot},
};
use tokio::{runtime::Runtime, task::JoinSet};

use super::Database;
use crate::{Outcome, allocated_bytes_of, load, peer::Peer};

/// A store in this process.
pub(super) struct Embedded {
    runtime: Runtime,
    store: Arc<DiskStore>,
    dir: PathBuf,
}

impl Embedded {
    pub(super) fn open(dir: &Path) -> Outcome<Self> {
        let runtime = Runtime::new()?;
        let store = Arc::new(runtime.block_on(DiskStore::open(dir))?);
        Ok(Self { runtime, store, dir: dir.into() })
    }

    fn read(&self, selector: &Selector) -> Outcome<usize> {
        self.runtime.block_on(async {
            let mut snapshot = self.store.get(selector).await?;
            let mut points = 0;
            while let Some(block) = snapshot.next_block().await? {
                points += block.points.len();
            }
            Ok(points)
        })
    }
}

fn batch_of(puts: &[(Key, Point)]) -> PutBatch {
    let mut batch = PutBatch::new();
    puts.iter().for_each(|(key, point)| batch.push(key, *point));
    batch
}

impl Database for Embedded {
    fn name(&self) -> &'static str {
        "`DiskStore`"
    }

    fn put(&mut self, batch: &[(Key, Point)]) -> Outcome {
        Ok(self.runtime.block_on(self.store.apply(&batch_of(batch)))?)
    }

    fn put_by_many(&mut self, batches: Vec<Vec<Vec<(Key, Point)>>>) -> Outcome {
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for batches in batches {
                let store = Arc::clone(&self.store);
                tasks.spawn(async move {
                    for batch in batches {
                        store.apply(&batch_of(&batch)).await?;
                    }
                    Ok::<_, metrics_server::store::StoreError>(())
                });
            }
            while let Some(task) = tasks.join_next().await {
                task??;
            }
            Ok(())
        })
    }

    fn settle(&mut self) -> Outcome<u64> {
        self.runtime.block_on(self.store.close());
        let bytes = allocated_bytes_of(&self.dir)?;
        self.store = Arc::new(self.runtime.block_on(DiskStore::open(&self.dir))?);
        Ok(bytes)
    }

    fn scan(&mut self) -> Outcome<usize> {
        self.read(&Selector::All)
    }

    fn get(&mut self, key: &Key) -> Outcome<usize> {
        self.read(&Selector::Key(key.clone()))
    }
}

/// A server with a store, in a process of its own.
pub(super) struct Served {
    /// `None` while it is restarted.
    peer: Option<Peer>,
    connection: TcpStream,
    dir: PathBuf,
}

impl Served {
    pub(super) fn open(dir: &Path) -> Outcome<Self> {
        let peer = Peer::disk(dir)?;
        let connection = connect(&peer)?;
        Ok(Self { peer: Some(peer), connection, dir: dir.into() })
    }

    fn peer(&self) -> &Peer {
        self.peer.as_ref().expect("it runs between the calls")
    }

    /// Sends a `get`, and returns how many records the answer has.
    fn read(&mut self, request: &str) -> Outcome<usize> {
        self.connection.write_all(request.as_bytes())?;
        let mut block = vec![0; 256 * 1024];
        let (mut lines, mut last) = (0, [0; 2]);
        while last != *b"\n\n" {
            let len = self.connection.read(&mut block)?;
            match &block[..len] {
                [] => return Err("the answer is incomplete".into()),
                [.., one, other] => last = [*one, *other],
                [one] => last = [last[1], *one],
            }
            lines += block[..len].iter().filter(|&&byte| byte == b'\n').count();
        }
        // Without the first line and the last, which is empty.
        Ok(lines - 2)
    }
}

fn connect(peer: &Peer) -> Outcome<TcpStream> {
    let connection = TcpStream::connect(peer.addr())?;
    connection.set_nodelay(true)?;
    Ok(connection)
}

fn put_lines(puts: &[(Key, Point)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, point) in puts {
        writeln!(text, "put {key} {} {}", point.value, point.timestamp).expect("memory takes it");
    }
    text
}

/// Sends a batch and waits for its answers.
fn exchange(mut connection: &TcpStream, puts: &[(Key, Point)]) -> Outcome {
    connection.write_all(&put_lines(puts))?;
    let mut answers = vec![0; puts.len() * 4];
    connection.read_exact(&mut answers)?;
    let is_ok = answers.chunks_exact(4).all(|answer| answer == b"ok\n\n");
    if is_ok { Ok(()) } else { Err("a put was refused".into()) }
}

impl Database for Served {
    fn name(&self) -> &'static str {
        "`metrics-server`"
    }

    fn put(&mut self, batch: &[(Key, Point)]) -> Outcome {
        exchange(&self.connection, batch)
    }

    fn put_by_many(&mut self, batches: Vec<Vec<Vec<(Key, Point)>>>) -> Outcome {
        let writers = batches.into_iter().map(|batches| {
            let texts =
                batches.into_iter().map(|batch| (put_lines(&batch), b"ok\n\n".repeat(batch.len())));
            texts.collect()
        });
        load::exchange_by_many(self.peer().addr(), writers.collect(), |answers, expected| {
            (answers.len() >= expected.len()).then_some(answers == expected)
        })
    }

    fn settle(&mut self) -> Outcome<u64> {
        self.peer.take().expect("it runs between the calls").stop()?;
        let bytes = allocated_bytes_of(&self.dir)?;
        let peer = Peer::disk(&self.dir)?;
        self.connection = connect(&peer)?;
        self.peer = Some(peer);
        Ok(bytes)
    }

    fn scan(&mut self) -> Outcome<usize> {
        self.read("get *\n")
    }

    fn get(&mut self, key: &Key) -> Outcome<usize> {
        self.read(&format!("get {key}\n"))
    }
}
