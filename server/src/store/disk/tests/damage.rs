//! Bits flipped, and pages zeroed, at random in blocks and log; files that are truncated, empty or missing.

use std::{collections::HashMap, fs};

use fastrand::Rng;

use super::*;

/// A folder of a store that was killed: blocks of several merges, and puts that are in the log only.
struct Sample {
    dir: TempDir,
    /// The value of each key and second; no value is ever replaced.
    sealed: HashMap<(String, i64), u64>,
    in_log: HashMap<(String, i64), u64>,
}

impl Sample {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path()).await.unwrap();
        let mut random = Rng::with_seed(7);
        let (mut sealed, mut in_log) = (HashMap::new(), HashMap::new());
        for round in 0..5 {
            // In groups, so that the log has some records.
            for group in 0..4 {
                let mut puts = PutBatch::new();
                for key in 0..60 {
                    let key = Key::new(format!("host{key}.cpu")).unwrap();
                    for second in 0..40 {
                        let timestamp = (round * 4 + group) * 40 + second;
                        let point = Point { timestamp, value: random.f64() };
                        puts.push(&key, point);
                        let rows = if round < 4 { &mut sealed } else { &mut in_log };
                        rows.insert((key.to_string(), timestamp), point.value.to_bits());
                    }
                }
                store.apply(&puts).await.unwrap();
            }
            if round < 4 {
                store.seal().await.unwrap();
            }
        }
        kill(store).await;
        Self { dir, sealed, in_log }
    }

    /// Copies the folder.
    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("log")).unwrap();
        for from in ["", "log"] {
            for file in fs::read_dir(self.dir.path().join(from)).unwrap() {
                let file = file.unwrap();
                if file.file_type().unwrap().is_file() {
                    fs::copy(file.path(), copy.path().join(from).join(file.file_name())).unwrap();
                }
            }
        }
        copy
    }

    /// Opens a damaged copy, checks that nothing is shown that was not put, and returns how many points of blocks and of
    /// the log are missing, and whether that is reported.
    async fn open_damaged(&self, dir: &Path, what: &str) -> Survivors {
        let store = match DiskStore::open(dir).await {
            Ok(store) => store,
            Err(error) => panic!("{what}: {error}: {:?}", std::error::Error::source(&error)),
        };
        let (mut sealed, mut in_log, mut failed_reads) = (0, 0, 0);
        for key in 0..60 {
            match of_key(&store, &format!("host{key}.cpu")).await {
                Ok(rows) => {
                    for (key, second, value) in rows {
                        let row = (key, second);
                        let (expected, count) = match self.sealed.get(&row) {
                            Some(expected) => (Some(expected), &mut sealed),
                            None => (self.in_log.get(&row), &mut in_log),
                        };
                        assert_eq!(expected, Some(&value), "{what}: {row:?} was not put");
                        *count += 1;
                    }
                }
                Err(_) => failed_reads += 1,
            }
        }
        let stats = store.stats();
        // It works as any other.
        put(&store, &[("new", 1, 1.5)]).await;
        store.seal().await.unwrap();
        assert_eq!(of_key(&store, "new").await.unwrap(), [row("new", 1, 1.5)], "{what}");
        store.close().await;
        let report = check(dir, |_| {}).unwrap();
        assert!(report.is_clean() || failed_reads > 0, "{what}: {:?}", report.damage);
        Survivors {
            missing_sealed: self.sealed.len() - sealed,
            missing_in_log: self.in_log.len() - in_log,
            failed_reads,
            stats,
        }
    }
}

#[derive(Debug)]
struct Survivors {
    missing_sealed: usize,
    missing_in_log: usize,
    failed_reads: usize,
    stats: DiskStats,
}

impl Survivors {
    fn is_reported(&self) -> bool {
        self.stats.rebuilt_databases > 0 || self.stats.lost_points > 0 || self.failed_reads > 0
    }
}

/// Damages a file somewhere, and says how.
fn damage(path: &Path, random: &mut Rng) -> String {
    let mut content = fs::read(path).unwrap();
    let what = match random.u8(..3) {
        0 => {
            let at = random.usize(..content.len());
            let bit = random.u8(..8);
            content[at] ^= 1 << bit;
            format!("bit {bit} of byte {at}")
        }
        1 => {
            let page = random.usize(..content.len().div_ceil(4096)) * 4096;
            let end = content.len().min(page + 4096);
            content[page..end].fill(0);
            format!("page at {page} zeroed")
        }
        _ => {
            let at = random.usize(..content.len());
            let end = content.len().min(at + 4096);
            content[at..end].fill_with(|| random.u8(..));
            format!("4096 bytes at {at} random")
        }
    };
    fs::write(path, content).unwrap();
    what
}

fn seeds() -> u64 {
    std::env::var("METRICS_TEST_SEEDS").map_or(40, |seeds| seeds.parse().unwrap())
}

#[tokio::test]
async fn damaged_blocks_cost_what_was_touched() {
    let sample = Sample::new().await;
    let (mut rebuilt, mut most) = (0, 0);
    for seed in 0..seeds() {
        let dir = sample.copy();
        let mut random = Rng::with_seed(seed);
        let what = damage(&dir.path().join("blocks.redb"), &mut random);
        let outcome = sample.open_damaged(dir.path(), &format!("seed {seed}, {what}")).await;
        assert_eq!(outcome.missing_in_log, 0, "seed {seed}, {what}: {outcome:?}");
        let missing = outcome.missing_sealed;
        assert!(missing == 0 || outcome.is_reported(), "seed {seed}, {what}: {outcome:?}");
        // Two pages of 4,096 bytes, and the blocks that end in them.
        assert!(missing <= 8 * 500, "seed {seed}, {what}: {outcome:?}");
        rebuilt += outcome.stats.rebuilt_databases;
        most = most.max(missing);
        if outcome.stats.rebuilt_databases > 0 {
            assert!(dir.path().join("damaged/000001-blocks.redb").exists());
        }
    }
    println!("{rebuilt} rebuilt, at most {most} of {} points missing", sample.sealed.len());
    assert!(rebuilt > 0);
}

#[tokio::test]
async fn strict_store_with_damaged_blocks_is_refused() {
    let sample = Sample::new().await;
    let dir = sample.copy();
    let path = dir.path().join("blocks.redb");
    let mut content = fs::read(&path).unwrap();
    content[64..320].fill(0);
    fs::write(&path, &content).unwrap();
    let error = DiskStore::builder().strict(true).open(dir.path()).await.unwrap_err();
    assert!(matches!(error, OpenError::DamagedBlocks { .. }), "{error}");
    assert!(fs::read(&path).unwrap() == content && !dir.path().join("damaged").exists());
    let outcome = sample.open_damaged(dir.path(), "no root").await;
    // The tree is gone, and every block is found.
    assert_eq!((outcome.missing_sealed, outcome.stats.rebuilt_databases), (0, 1), "{outcome:?}");
}

#[tokio::test]
async fn truncated_empty_or_missing_database_is_reported() {
    let sample = Sample::new().await;
    let len = fs::metadata(sample.dir.path().join("blocks.redb")).unwrap().len();
    for keep in [None, Some(0), Some(1), Some(4096), Some(len / 2), Some(len - 1)] {
        let dir = sample.copy();
        let path = dir.path().join("blocks.redb");
        match keep {
            None => fs::remove_file(&path).unwrap(),
            Some(keep) => {
                fs::File::options().write(true).open(&path).unwrap().set_len(keep).unwrap();
            }
        }
        let strict = DiskStore::builder().strict(true).open(dir.path()).await;
        assert!(strict.is_err(), "cut at {keep:?}");
        let outcome = sample.open_damaged(dir.path(), &format!("cut at {keep:?}")).await;
        assert_eq!(outcome.missing_in_log, 0, "cut at {keep:?}: {outcome:?}");
        assert!(outcome.is_reported(), "cut at {keep:?}: {outcome:?}");
        // It is reported once.
        let store = DiskStore::open(dir.path()).await.unwrap();
        let stats = store.stats();
        assert_eq!((stats.lost_points, stats.rebuilt_databases), (0, 0));
        kill(store).await;
    }
}

#[tokio::test]
async fn database_that_was_being_created_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blocks.redb");
    let open = || DiskStore::builder().strict(true).open(dir.path());
    open().await.unwrap().close().await;
    let header = fs::read(&path).unwrap()[..100].to_vec();
    for (header, len) in [(&header[..], 1 << 20), (&header[..40], 3 << 20), (&[], 4096), (&[], 9)] {
        let mut content = header.to_vec();
        content.resize(len, 0);
        fs::write(&path, content).unwrap();
        let store = open().await.unwrap();
        assert_eq!(store.stats().rebuilt_databases, 0);
        put(&store, &[("a", 1, 1.0)]).await;
        assert_eq!(all(&store).await, [row("a", 1, 1.0)]);
        kill(store).await;
        fs::remove_dir_all(dir.path().join("log")).unwrap();
    }
}

#[tokio::test]
async fn database_of_an_earlier_day_gets_what_was_sealed_since() {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    put(&store, &[("a", 1, 1.0)]).await;
    store.close().await;
    let path = dir.path().join("blocks.redb");
    let earlier = fs::read(&path).unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    put(&store, &[("a", 2, 2.0)]).await;
    store.close().await;
    fs::write(&path, earlier).unwrap();
    assert!(DiskStore::builder().strict(true).open(dir.path()).await.is_err());
    let store = DiskStore::open(dir.path()).await.unwrap();
    assert_eq!(all(&store).await, [row("a", 1, 1.0)]);
    assert!(store.stats().rebuilt_databases > 0, "it does not have what the log says");
    kill(store).await;
}

#[tokio::test]
async fn database_that_breaks_while_it_is_open_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = DiskStore::builder().cache_bytes(0);
    builder.options.retry_delay = Duration::from_millis(1);
    let store = builder.open(dir.path()).await.unwrap();
    // Half of the keys are in blocks only, the others in the head only.
    let keys: Vec<_> = (0..40).map(|key| format!("key{key}")).collect();
    let points = |from: usize| {
        let mut puts = PutBatch::new();
        for (index, key) in keys.iter().enumerate().skip(from).step_by(2) {
            for timestamp in 0..300 {
                let value = index as f64 + timestamp as f64 / 512.0;
                puts.push(&Key::new(key).unwrap(), Point { timestamp, value });
            }
        }
        puts
    };
    store.apply(&points(0)).await.unwrap();
    store.seal().await.unwrap();
    store.apply(&points(1)).await.unwrap();
    let path = dir.path().join("blocks.redb");
    let mut content = fs::read(&path).unwrap();
    // One page of four is left.
    for page in content.chunks_mut(4096).enumerate().skip(1).filter(|(index, _)| index % 4 > 0) {
        page.1.fill(0);
    }
    // In place: the store has the same file open.
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, &content).unwrap();
    let _ = store.seal().await;
    store.wait(|shared| (shared.totals().head_points == 0).then_some(())).await;
    let stats = store.stats();
    assert_eq!(stats.rebuilt_databases, 1, "{stats:?}");
    for (index, key) in keys.iter().enumerate() {
        let rows = of_key(&store, key).await.unwrap();
        assert!(rows.len() == 300 || (index % 2 == 0 && rows.is_empty()), "{key}");
        for (name, second, value) in rows {
            assert_eq!(f64::from_bits(value), index as f64 + second as f64 / 512.0, "{name}");
        }
    }
    store.close().await;
    let report = check(dir.path(), |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.damage);
}

#[tokio::test]
async fn damaged_log_costs_the_records_that_were_touched() {
    let sample = Sample::new().await;
    let log = |dir: &Path| {
        let segments = fs::read_dir(dir.join("log")).unwrap().map(|file| file.unwrap().path());
        segments.filter(|path| path.extension().is_some_and(|ext| ext == "log")).collect::<Vec<_>>()
    };
    for seed in 0..seeds() {
        let dir = sample.copy();
        let mut random = Rng::with_seed(seed);
        let segments = log(dir.path());
        let what = damage(&segments[random.usize(..segments.len())], &mut random);
        let outcome = sample.open_damaged(dir.path(), &format!("seed {seed}, {what}")).await;
        assert_eq!(outcome.missing_sealed, 0, "seed {seed}, {what}: {outcome:?}");
        // At most two records of a group of 2,400 puts.
        assert!(outcome.missing_in_log <= 2 * 2400, "seed {seed}, {what}: {outcome:?}");
        let lost = outcome.stats.lost_points as usize;
        // A damaged end is taken for records that were not written completely.
        assert!(
            matches!(outcome.missing_in_log - lost, 0 | 2400 | 4800),
            "seed {seed}, {what}: {outcome:?}"
        );
        assert!(lost == 0 || dir.path().join("damaged").exists(), "seed {seed}, {what}");
    }
}

/// Changes a byte of each file of the log that holds a text.
pub(super) fn damage_log(fs: &FaultyFs, text: &[u8]) {
    for (path, mut content) in fs.files() {
        let found = content.windows(text.len()).position(|window| window == text);
        if let Some(at) = found.filter(|_| path.to_string_lossy().contains("/log/")) {
            content[at] ^= 1;
            fs.put(&path, &content);
        }
    }
}

#[tokio::test]
async fn damaged_record_costs_its_points_only() {
    let disk = Disk::new();
    let store = disk.open();
    for key in ["first", "second", "third"] {
        put(&store, &[(key, 1, 1.0), (key, 2, 2.0)]).await;
    }
    kill(store).await;
    damage_log(&disk.fs, b"second");
    let error = disk.try_open(DiskStore::builder().strict(true)).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { points: 2, .. }), "{error}");
    // A refused opening ends its log, and changes nothing.
    let store = disk.open();
    assert_eq!(store.stats().lost_points, 2);
    let keys: Vec<_> = all(&store).await.into_iter().map(|(key, ..)| key).collect();
    assert_eq!(keys, ["first", "first", "third", "third"]);
    // The segment is kept when it is removed from the log.
    store.close().await;
    let files = disk.fs.files();
    let kept = Path::new("/data/damaged/000001-00000000000000000000.log");
    assert!(files.contains_key(kept), "{:?}", files.keys());
}

#[tokio::test]
async fn damaged_block_is_an_error_for_its_key_only() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &[("bad", 7, 1.0), ("bad", 8, 3.0), ("good", 7, 1.0)]).await;
    store.close().await;
    drop(store);
    damage_database(&disk.database());
    let store = disk.open();
    let error = of_key(&store, "bad").await.unwrap_err();
    assert_eq!(error.to_string(), "damaged block of bad at second 7");
    assert!(!error.is_transient());
    assert_eq!(of_key(&store, "good").await.unwrap(), [row("good", 7, 1.0)]);
    // A merge sets the block aside, and new points can be read.
    put(&store, &[("bad", 9, 2.0)]).await;
    store.seal().await.unwrap();
    assert_eq!(of_key(&store, "bad").await.unwrap(), [row("bad", 9, 2.0)]);
    assert_eq!(store.stats().damaged_blocks, 1);
    kill(store).await;
}

/// Changes the last byte of the first block.
fn damage_database(path: &Path) {
    use redb::ReadableTable as _;

    let table = redb::TableDefinition::<(u32, i64), &[u8]>::new("blocks");

    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut blocks = transaction.open_table(table).unwrap();
        let mut block = blocks.get((0, 7)).unwrap().unwrap().value().to_vec();
        *block.last_mut().unwrap() ^= 1;
        blocks.insert((0, 7), &*block).unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn puts_after_a_lost_log_are_not_taken_for_sealed() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &[("a", 1, 1.0), ("a", 2, 2.0)]).await;
    store.close().await;
    drop(store);
    let disk = Disk { fs: FaultyFs::new(), ..disk };
    let store = disk.open();
    put(&store, &[("a", 3, 3.0)]).await;
    kill(store).await;
    let rows = [row("a", 1, 1.0), row("a", 2, 2.0), row("a", 3, 3.0)];
    assert_eq!(all(&disk.open()).await, rows);
}
