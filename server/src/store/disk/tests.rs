//! The store on disk: against a model, on disks that fail, and after losses of power.

use std::{collections::BTreeMap, io, sync::Mutex, time::SystemTime};

use metrics_client::Point;
use metrics_wal::testing::{Fault, FaultyFs, Operation};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{Limits, serve_connection, store::Snapshot};

mod damage;
mod fairness;
mod limits;
mod model;
mod operations;
mod reads;
mod trouble;

/// The file of the database, in memory. Clones are the same file.
#[derive(Clone, Debug, Default)]
pub(super) struct FaultyFile(Arc<Mutex<FileState>>);

#[derive(Debug, Default)]
struct FileState {
    content: Vec<u8>,
    failing: FailingIo,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum FailingIo {
    #[default]
    Nothing,
    /// The disk is full: the file cannot grow.
    Growth,
    /// The disk is broken.
    Writes,
}

impl FaultyFile {
    fn set(&self, failing: FailingIo) {
        self.0.lock().unwrap().failing = failing;
    }

    fn write_with(&self, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.failing == FailingIo::Writes {
            return Err(io::ErrorKind::Other.into());
        }
        write(&mut state.content);
        Ok(())
    }
}

impl redb::StorageBackend for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().content.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        out.copy_from_slice(&self.0.lock().unwrap().content[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        if state.failing == FailingIo::Growth && len > state.content.len() as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        drop(state);
        self.write_with(|content| content.resize(len as usize, 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.write_with(|_| {})
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = offset as usize;
        self.write_with(|content| content[offset..offset + data.len()].copy_from_slice(data))
    }
}

type Row = (String, i64, u64);

/// A disk, on which stores are opened.
struct Disk {
    fs: FaultyFs,
    dir: TempDir,
}

impl Disk {
    fn new() -> Self {
        Self { fs: FaultyFs::new(), dir: tempfile::tempdir().unwrap() }
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join(open::DATABASE)
    }

    fn try_open(&self, builder: DiskStoreBuilder) -> Result<DiskStore, OpenError> {
        let database = Database::File(self.database());
        builder.open_on(self.fs.clone(), Path::new("/data"), database)
    }

    fn open(&self) -> DiskStore {
        self.try_open(DiskStore::builder()).unwrap()
    }
}

fn batch(rows: &[(&str, i64, f64)]) -> PutBatch {
    let mut puts = PutBatch::new();
    for &(key, timestamp, value) in rows {
        puts.push(&Key::new(key).unwrap(), Point { timestamp, value });
    }
    puts
}

async fn put(store: &DiskStore, rows: &[(&str, i64, f64)]) {
    store.apply(&batch(rows)).await.unwrap();
}

async fn read(mut snapshot: impl Snapshot) -> Result<Vec<Row>, StoreError> {
    let mut rows = Vec::new();
    while let Some(block) = snapshot.next_block().await? {
        assert!(!block.points.is_empty());
        let row = |point: &Point| (block.key.to_string(), point.timestamp, point.value.to_bits());
        rows.extend(block.points.iter().map(row));
    }
    Ok(rows)
}

async fn all(store: &DiskStore) -> Vec<Row> {
    read(store.get(&Selector::All).await.unwrap()).await.unwrap()
}

async fn of_key(store: &DiskStore, key: &str) -> Result<Vec<Row>, StoreError> {
    read(store.get(&Selector::Key(Key::new(key).unwrap())).await.unwrap()).await
}

/// Ends a store as a killed process does: nothing is sealed.
async fn kill(store: DiskStore) {
    store.end(Closing::WithoutSeal).await;
}

fn row(key: &str, second: i64, value: f64) -> Row {
    (key.into(), second, value.to_bits())
}

#[tokio::test]
async fn acknowledged_puts_survive_close_and_kill() {
    let dir = tempfile::tempdir().unwrap();
    let rows = [row("b", 1, 0.5), row("b", 2, 2.5), row("a", -7, -0.0)];
    let store = DiskStore::open(dir.path()).await.unwrap();
    put(&store, &[("b", 2, 1.5), ("a", -7, -0.0), ("b", 1, 0.5), ("b", 2, 2.5)]).await;
    assert_eq!(all(&store).await, rows);
    kill(store).await;
    let store = DiskStore::open(dir.path()).await.unwrap();
    assert_eq!(all(&store).await, rows);
    assert_eq!((store.stats().head_points, store.stats().block_points), (4, 0));
    store.close().await;
    assert!(store.get(&Selector::All).await.unwrap_err().is_transient());
    assert!(store.apply(&batch(&[("a", 1, 1.0)])).await.unwrap_err().is_transient());
    let store = DiskStore::open(dir.path()).await.unwrap();
    assert_eq!((store.stats().head_points, store.stats().block_points), (0, 3));
    assert_eq!(all(&store).await, rows);
}

/// Puts until the disk fails at each of its operations, and reopens it.
#[tokio::test]
async fn power_loss_at_any_operation_loses_no_acknowledged_put() {
    for fault in 0.. {
        let disk = Disk::new();
        let mut acknowledged = 0;
        disk.fs.set_fault(Fault::Killed { from: fault });
        if let Ok(store) = disk.try_open(DiskStore::builder()) {
            for second in 0..4 {
                if store.apply(&batch(&[("a", second, 0.5)])).await.is_err() {
                    break;
                }
                acknowledged = second + 1;
                if second == 2 {
                    let _ = store.seal().await;
                }
            }
            kill(store).await;
        }
        let was_killed = disk.fs.is_killed();
        disk.fs.set_fault(Fault::None);
        disk.fs.lose_power();
        let store = disk.open();
        let rows = all(&store).await;
        let expected: Vec<_> = (0..rows.len() as i64).map(|second| row("a", second, 0.5)).collect();
        assert_eq!(rows, expected);
        assert!(rows.len() as i64 >= acknowledged, "{acknowledged} acknowledged, fault {fault}");
        kill(store).await;
        if !was_killed {
            assert!(fault > 20, "the faults were reached");
            return;
        }
    }
}

/// Lets one operation fail, each in turn; a write leaves some of its bytes.
#[tokio::test]
async fn failure_of_any_operation_loses_no_acknowledged_put() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for operation in 0.. {
            let disk = Disk::new();
            disk.fs.set_fault(Fault::At { operation, kind });
            let store = match disk.try_open(DiskStore::builder()) {
                Ok(store) => store,
                Err(_) => disk.open(),
            };
            for second in 0..4 {
                let puts = batch(&[("a", second, 0.5)]);
                if let Err(error) = store.apply(&puts).await {
                    assert!(error.is_transient(), "{error}");
                    store.apply(&puts).await.unwrap();
                }
                if second == 2 {
                    let _ = store.seal().await;
                }
            }
            let rows: Vec<_> = (0..4).map(|second| row("a", second, 0.5)).collect();
            assert_eq!(all(&store).await, rows);
            kill(store).await;
            let is_over = disk.fs.operations() <= operation;
            disk.fs.set_fault(Fault::None);
            disk.fs.lose_power();
            let store = disk.open();
            assert_eq!(all(&store).await, rows, "{kind}, operation {operation}");
            kill(store).await;
            if is_over {
                assert!(operation > 20, "the faults were reached");
                break;
            }
        }
    }
}

#[tokio::test]
async fn full_disk_is_transient_and_over_when_there_is_space() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &[("a", 1, 1.0)]).await;
    let used: usize = disk.fs.files().values().map(Vec::len).sum();
    disk.fs.set_capacity(Some(used + 10));
    // More than the log is filled with zeros.
    let many: Vec<_> = (0..10_000).map(|second| ("b", second, 2.0)).collect();
    for _ in 0..3 {
        let error = store.apply(&batch(&many)).await.unwrap_err();
        assert!(error.is_transient());
        assert_eq!(error.to_string(), "disk full");
    }
    assert_eq!(all(&store).await, [row("a", 1, 1.0)]);
    disk.fs.set_capacity(None);
    put(&store, &[("a", 3, 3.0)]).await;
    let rows = [row("a", 1, 1.0), row("a", 3, 3.0)];
    assert_eq!(all(&store).await, rows);
    kill(store).await;
    disk.fs.lose_power();
    assert_eq!(all(&disk.open()).await, rows);
}

#[tokio::test]
async fn failed_sync_moves_the_batch_to_a_new_segment() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &[("a", 1, 1.0)]).await;
    let failures = Arc::new(Mutex::new(1));
    let left = Arc::clone(&failures);
    disk.fs.set_hook(move |operation, path| {
        let mut left = left.lock().unwrap();
        if operation == Operation::Sync && path.to_string_lossy().contains("/log/") && *left > 0 {
            *left -= 1;
            return Err(io::ErrorKind::Other.into());
        }
        Ok(())
    });
    put(&store, &[("a", 2, 2.0)]).await;
    *failures.lock().unwrap() = 2;
    assert!(store.apply(&batch(&[("a", 3, 3.0)])).await.unwrap_err().is_transient());
    put(&store, &[("a", 4, 4.0)]).await;
    kill(store).await;
    disk.fs.lose_power();
    assert_eq!(all(&disk.open()).await, [row("a", 1, 1.0), row("a", 2, 2.0), row("a", 4, 4.0)]);
}

/// Lets syncs of the log wait until the gate is opened.
struct Gate {
    /// How many syncs may pass.
    allowed: Arc<(Mutex<u64>, std::sync::Condvar)>,
    entered: tokio::sync::mpsc::UnboundedReceiver<()>,
}

impl Gate {
    fn close(fs: &FaultyFs) -> Self {
        let allowed = Arc::new((Mutex::new(0), std::sync::Condvar::new()));
        let (enter, entered) = tokio::sync::mpsc::unbounded_channel();
        let gate = Arc::clone(&allowed);
        fs.set_hook(move |operation, path| {
            if operation == Operation::Sync && path.to_string_lossy().contains("/log/") {
                let _ = enter.send(());
                let (allowed, changed) = &*gate;
                let allowed = allowed.lock().unwrap();
                *changed.wait_while(allowed, |allowed| *allowed == 0).unwrap() -= 1;
            }
            Ok(())
        });
        Self { allowed, entered }
    }

    /// Lets one sync pass, and waits for the next.
    async fn step(&mut self) {
        *self.allowed.0.lock().unwrap() += 1;
        self.allowed.1.notify_all();
        self.entered.recv().await.unwrap();
    }

    fn open(&self) {
        *self.allowed.0.lock().unwrap() = u64::MAX;
        self.allowed.1.notify_all();
    }
}

#[tokio::test]
async fn one_sync_serves_all_that_wait_and_blocks_no_read() {
    let disk = Disk::new();
    let store = Arc::new(disk.open());
    put(&store, &[("a", 0, 0.0)]).await;
    let syncs = store.stats().syncs;
    let mut gate = Gate::close(&disk.fs);
    let apply = |second| {
        let store = Arc::clone(&store);
        async move { store.apply(&batch(&[("a", second, 0.0)])).await }
    };
    let first = tokio::spawn(apply(1));
    gate.entered.recv().await.unwrap();
    let others: Vec<_> = (2..100).map(|second| tokio::spawn(apply(second))).collect();
    // Lets each of them queue its batch.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    // Unsynced points are not visible, and reads do not wait.
    assert_eq!(all(&store).await, [row("a", 0, 0.0)]);
    gate.open();
    for apply in [first].into_iter().chain(others) {
        apply.await.unwrap().unwrap();
    }
    assert_eq!(store.stats().syncs - syncs, 2);
    assert_eq!(all(&store).await.len(), 100);
}

#[tokio::test]
async fn dropped_put_is_applied_or_not() {
    let disk = Disk::new();
    let store = disk.open();
    let mut gate = Gate::close(&disk.fs);
    let first = batch(&[("a", 1, 0.0)]);
    {
        let mut apply = Box::pin(store.apply(&first));
        assert!(futures_util::poll!(&mut apply).is_pending());
        gate.entered.recv().await.unwrap();
        // While it is synced, another is queued and dropped before it is written.
        let second = batch(&[("a", 2, 0.0)]);
        let mut dropped = Box::pin(store.apply(&second));
        assert!(futures_util::poll!(&mut dropped).is_pending());
        drop(dropped);
        gate.open();
        apply.await.unwrap();
    }
    put(&store, &[("a", 3, 0.0)]).await;
    // The second is written if it is in the record of the third.
    let mut rows = all(&store).await;
    rows.retain(|row| row.1 != 2);
    assert_eq!(rows, [row("a", 1, 0.0), row("a", 3, 0.0)]);
}

#[tokio::test]
async fn slow_sync_holds_up_no_other_connection() {
    let disk = Disk::new();
    let store = Arc::new(disk.open());
    put(&store, &[("a", 0, 0.5)]).await;
    let mut gate = Gate::close(&disk.fs);
    let connect = || {
        let (peer, io) = tokio::io::duplex(1024);
        tokio::spawn(serve_connection(io, Arc::clone(&store), Limits::default()));
        peer
    };
    let (mut writer, mut reader) = (connect(), connect());
    writer.write_all(b"put a 1.5 1\n").await.unwrap();
    gate.entered.recv().await.unwrap();
    for _ in 0..3 {
        reader.write_all(b"get a\n").await.unwrap();
        let mut answer = [0; 11];
        reader.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ok\na 0.5 0\n");
        reader.read_exact(&mut answer[..1]).await.unwrap();
    }
    let mut answer = [0; 4];
    let mut acknowledged = Box::pin(writer.read_exact(&mut answer));
    assert!(futures_util::poll!(&mut acknowledged).is_pending());
    gate.open();
    acknowledged.await.unwrap();
    assert_eq!(&answer, b"ok\n\n");
}

#[tokio::test]
async fn second_store_on_a_folder_is_refused_with_the_pid() {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    let error = DiskStore::open(dir.path()).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { pid: Some(pid), .. } if pid == std::process::id()));
    store.close().await;
    DiskStore::open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn folder_of_another_format_is_refused() {
    for (content, is_newer) in [("metrics 2\n", true), ("recipes\n", false)] {
        let disk = Disk::new();
        disk.fs.put("/data/FORMAT", content.as_bytes());
        let error = disk.try_open(DiskStore::builder()).unwrap_err();
        assert_eq!(matches!(error, OpenError::NewerVersion { .. }), is_newer, "{error}");
        assert_eq!(matches!(error, OpenError::NotAStore { .. }), !is_newer, "{error}");
        assert_eq!(disk.fs.files()[Path::new("/data/FORMAT")], content.as_bytes());
    }
    let disk = Disk::new();
    disk.fs.put("/data/letters.txt", b"");
    let error = disk.try_open(DiskStore::builder()).unwrap_err();
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
}

#[tokio::test]
async fn last_point_is_the_newer_put_of_its_second() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &[("a", 5, 1.0), ("a", 4, 1.0)]).await;
    store.seal().await.unwrap();
    let last = async |key: &str| store.last(&Key::new(key).unwrap()).await.unwrap();
    assert_eq!(last("a").await, Some(Point::new(1.0, 5)));
    put(&store, &[("a", 3, 2.0)]).await;
    assert_eq!(last("a").await, Some(Point::new(1.0, 5)));
    put(&store, &[("a", 5, 2.0), ("b", 1, 3.0)]).await;
    assert_eq!(last("a").await, Some(Point::new(2.0, 5)));
    assert_eq!((last("b").await, last("c").await), (Some(Point::new(3.0, 1)), None));
    kill(store).await;
}

#[tokio::test]
async fn closing_leaves_no_free_space_in_the_file() {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    // Each seal makes the last block of each key longer.
    for begin in (0..400).step_by(50) {
        let mut puts = PutBatch::new();
        for key in 0..400 {
            let key = Key::new(format!("key.{key}")).unwrap();
            let points = (begin..begin + 50).map(|at| Point::new((at * 7919 % 1009) as f64, at));
            points.for_each(|point| puts.push(&key, point));
        }
        store.apply(&puts).await.unwrap();
        store.seal().await.unwrap();
    }
    store.close().await;
    let path = dir.path().join(open::DATABASE);
    let closed = std::fs::metadata(&path).unwrap().len();
    redb::Database::open(&path).unwrap().compact().unwrap();
    let compacted = std::fs::metadata(&path).unwrap().len();
    assert!(
        closed <= compacted + compacted / 10,
        "{closed} bytes, {compacted} when compacted again"
    );
}

#[tokio::test]
async fn head_is_sealed_in_the_background_when_it_is_large() {
    let disk = Disk::new();
    let store = disk.try_open(DiskStore::builder().max_head_points(100)).unwrap();
    for second in 0..1000 {
        put(&store, &[("a", second, 0.5)]).await;
    }
    store.seal().await.unwrap();
    let stats = store.stats();
    assert!(stats.seals >= 2, "{stats:?}");
    assert_eq!((stats.block_points, stats.head_points), (1000, 0));
    assert_eq!(all(&store).await.len(), 1000);
    kill(store).await;
}

/// Opens a store whose blocks are in `file`, and retries soon.
fn open_with(disk: &Disk, file: &FaultyFile, max_head_points: usize) -> DiskStore {
    let mut builder = DiskStore::builder().max_head_points(max_head_points);
    builder.options.retry_delay = Duration::from_millis(1);
    let database = Database::Double(file.clone());
    builder.open_on(disk.fs.clone(), Path::new("/data"), database).unwrap()
}

async fn wait_for_failed_seals(store: &DiskStore, count: u64) {
    let failed = |shared: &Shared| shared.counters.failed_seals.get();
    let target = failed(&store.shared) + count;
    store.wait(|shared| (failed(shared) >= target).then_some(())).await;
}

#[tokio::test]
async fn blocks_that_cannot_be_written_are_retried() {
    let (disk, file) = (Disk::new(), FaultyFile::default());
    let store = open_with(&disk, &file, 10);
    put(&store, &[("a", 0, 0.0)]).await;
    store.seal().await.unwrap();
    file.set(FailingIo::Writes);
    put(&store, &[("a", 1, 0.0)]).await;
    assert!(store.seal().await.unwrap_err().is_transient());
    // Puts work until the head is full.
    let mut stored = 2;
    let error = loop {
        match store.apply(&batch(&[("a", stored, 0.0)])).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_transient());
    assert_eq!(stored, 22);
    // The sealer retries by itself, and puts work again.
    wait_for_failed_seals(&store, 2).await;
    file.set(FailingIo::Nothing);
    store.wait(|shared| (shared.totals().head_points == 0).then_some(())).await;
    assert_eq!((store.stats().block_points, all(&store).await.len()), (22, 22));
    put(&store, &[("a", 100, 0.0)]).await;
    file.set(FailingIo::Writes);
    assert!(store.seal().await.is_err());
    kill(store).await;

    // The log has what is not in blocks.
    file.set(FailingIo::Nothing);
    let store = open_with(&disk, &file, 10);
    assert_eq!(all(&store).await.len(), 23);
    kill(store).await;
}

#[tokio::test]
async fn full_disk_under_the_blocks_fails_no_read() {
    let (disk, file) = (Disk::new(), FaultyFile::default());
    let store = open_with(&disk, &file, 10_000_000);
    let many: Vec<_> = (0..40_000).map(|second| ("many", second, 0.5)).collect();
    put(&store, &many).await;
    store.seal().await.unwrap();
    file.set(FailingIo::Growth);
    let mut snapshot = store.get(&Selector::All).await.unwrap();
    let first = snapshot.next_block().await.unwrap().unwrap().points.len();
    // Nothing that can be compressed.
    let mut random = fastrand::Rng::with_seed(1);
    let more: Vec<_> = (0..600_000).map(|second| ("more", second, random.f64())).collect();
    put(&store, &more).await;
    assert!(store.seal().await.unwrap_err().is_transient());
    // Each retry closes the database and opens it again.
    wait_for_failed_seals(&store, 3).await;
    assert_eq!(first + read(snapshot).await.unwrap().len(), 40_000);
    assert_eq!(all(&store).await.len(), 640_000);
    file.set(FailingIo::Nothing);
    store.wait(|shared| (shared.totals().head_points == 0).then_some(())).await;
    assert_eq!(all(&store).await.len(), 640_000);
    kill(store).await;
}

#[tokio::test]
async fn late_sync_does_not_delay_the_answer() {
    for fsync in [Fsync::Every(Duration::from_secs(3600)), Fsync::Never] {
        let disk = Disk::new();
        let store = disk.try_open(DiskStore::builder().fsync(fsync)).unwrap();
        let gate = Gate::close(&disk.fs);
        put(&store, &[("a", 1, 1.0)]).await;
        assert_eq!(store.stats().syncs, 0);
        gate.open();
        store.close().await;
        drop(store);
        disk.fs.lose_power();
        assert_eq!(all(&disk.open()).await, [row("a", 1, 1.0)]);
    }
}

#[tokio::test]
async fn large_batch_is_split_into_records() {
    let disk = Disk::new();
    let store = disk.open();
    // More than the longest record of the log.
    let rows: Vec<_> = (0..1_200_000).map(|second| ("a", second, 0.5)).collect();
    put(&store, &rows).await;
    kill(store).await;
    let store = disk.open();
    assert_eq!(store.stats().head_points + store.stats().block_points, 1_200_000);
    kill(store).await;
}
