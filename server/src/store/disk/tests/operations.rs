//! Checks, backups and deletions.

use std::{collections::BTreeSet, fs};

use super::{damage::damage_log, model::Model, *};

fn check(disk: &Disk) -> CheckReport {
    check::check_on(disk.fs.clone(), Path::new("/data"), &disk.database(), |_| {}).unwrap()
}

fn delete(disk: &Disk, keys: &str, seconds: RangeInclusive<i64>, is_preview: bool) -> Deleted {
    let deletion = Deletion::new(KeyPattern::new(keys)).seconds(seconds);
    let dir = Path::new("/data");
    deletion.run_on(disk.fs.clone(), dir, &disk.database(), is_preview, |_| {}).unwrap()
}

/// The points of a key, enough for several blocks.
fn many(key: &'static str, count: i64) -> Vec<(&'static str, i64, f64)> {
    (0..count).map(|second| (key, second, second as f64 / 4.0)).collect()
}

/// Changes a byte of a file.
fn damage(path: &Path, at: usize) {
    let mut content = fs::read(path).unwrap();
    content[at] ^= 1;
    fs::write(path, content).unwrap();
}

#[tokio::test]
async fn check_of_an_intact_store_reports_nothing() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &many("a", 1200)).await;
    put(&store, &[("b", 1, 0.5)]).await;
    store.seal().await.unwrap();
    put(&store, &[("c", 1, 0.5), ("a", 7, 0.5)]).await;
    let error = check::check_on(disk.fs.clone(), Path::new("/data"), &disk.database(), |_| {});
    assert!(matches!(error.unwrap_err(), OpenError::InUse { .. }));
    kill(store).await;
    let report = check(&disk);
    assert!(report.is_clean(), "{:?}", report.damage);
    assert_eq!((report.keys, report.block_points, report.blocks), (2, 1201, 4));
    assert_eq!((report.records, report.log_points), (1, 2));
    assert!(report.log_bytes > 0 && report.block_bytes > 0 && report.damaged_bytes == 0);
    // An incomplete record is no damage.
    for (path, mut content) in disk.fs.files() {
        if path.to_string_lossy().ends_with(".log") {
            content.extend([7; 20]);
            disk.fs.put(&path, &content);
        }
    }
    let report = check(&disk);
    assert!(report.is_clean() && report.torn_bytes >= 20, "{report:?}");
    kill(disk.open()).await;
}

#[tokio::test]
async fn check_names_what_is_damaged_and_changes_nothing() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &many("bad", 1200)).await;
    put(&store, &many("good", 1200)).await;
    store.seal().await.unwrap();
    for key in ["first", "second", "third"] {
        put(&store, &[(key, 1, 1.0), (key, 2, 2.0)]).await;
    }
    kill(store).await;
    drop_block(&disk.database(), 0, 500, |block| *block.last_mut().unwrap() ^= 1);
    damage_log(&disk.fs, b"second");
    let (files, database) = (disk.fs.files(), fs::read(disk.database()).unwrap());
    let mut last = Progress::default();
    let dir = Path::new("/data");
    let report = check::check_on(disk.fs.clone(), dir, &disk.database(), |progress| {
        assert!(progress.done >= last.done && progress.done <= progress.total);
        last = progress;
    });
    let report = report.unwrap();
    assert_eq!(last.done, last.total);
    let said: Vec<_> = report.damage.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(said[0], "blocks.redb, key bad, second 500: damaged block");
    assert!(said[1].starts_with("log/"), "{said:?}");
    assert!(said[1].ends_with("bytes hold no valid record"), "{said:?}");
    assert!(said[2].contains("2 puts from number 2402 on are missing"), "{said:?}");
    assert_eq!((report.block_points, report.log_points), (1900, 4));
    assert!(disk.fs.files() == files && fs::read(disk.database()).unwrap() == database);

    // A page that does not match its checksum.
    let (found, _) = database.iter().enumerate().rfind(|&(_, byte)| *byte != 0).unwrap();
    damage(&disk.database(), found);
    let report = check(&disk);
    assert!(report.damage.iter().any(|damage| damage.file == Path::new("blocks.redb")));
    fs::remove_file(disk.database()).unwrap();
    assert_eq!(check(&disk).damage[0].to_string(), "blocks.redb: the file is missing or empty");
}

/// Changes a block.
fn drop_block(path: &Path, id: u32, first: i64, change: impl Fn(&mut Vec<u8>)) {
    use redb::ReadableTable as _;

    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(blocks::BLOCKS).unwrap();
        let mut block = table.get((id, first)).unwrap().unwrap().value().to_vec();
        change(&mut block);
        table.insert((id, first), &*block).unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn check_refuses_what_is_no_store() {
    let parent = tempfile::tempdir().unwrap();
    let (missing, file) = (parent.path().join("missing"), parent.path().join("file"));
    fs::write(&file, b"").unwrap();
    for dir in [&missing, parent.path(), &file] {
        let error = super::check(dir, |_| {}).unwrap_err();
        assert!(matches!(error, OpenError::NotAStore { .. } | OpenError::Io { .. }), "{error}");
        assert!(Deletion::new(KeyPattern::new("*")).run(dir, |_| {}).is_err());
    }
    assert!(!missing.exists());
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn backup_is_one_moment_while_puts_go_on() {
    let disk = Disk::new();
    let store = Arc::new(disk.open());
    put(&store, &many("z", 1200)).await;
    put(&store, &many("a", 40_000)).await;
    store.seal().await.unwrap();
    // Replaced, in the head, and new keys.
    put(&store, &[("z", 3, -1.0), ("m", 1, 1.0), ("b", 2, 2.0)]).await;
    let before = all(&store).await;
    let is_done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, is_done) = (Arc::clone(&store), Arc::clone(&is_done));
        async move {
            let mut second = 0;
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                // Two keys in one batch: a moment has both or none.
                put(&store, &[("w1", second, 0.5), ("w2", second, 0.5)]).await;
                second += 1;
            }
            second
        }
    });
    let dir = disk.dir.path().join("backup");
    let mut keys = Vec::new();
    for number in 0..3 {
        let acknowledged = of_key(&store, "w2").await.unwrap().len();
        let dir = dir.join(number.to_string());
        let done = Arc::new(Mutex::new(Progress::default()));
        let progress = Arc::clone(&done);
        let backup = store.backup_with_progress(&dir, move |now| *progress.lock().unwrap() = now);
        let backup = backup.await.unwrap();
        assert!(done.lock().unwrap().done >= 4 && backup.damaged.is_empty());
        let copy = DiskStore::open(&dir).await.unwrap();
        assert_eq!((copy.stats().head_points, copy.stats().block_points), (0, backup.points));
        let (one, two) = (of_key(&copy, "w1").await.unwrap(), of_key(&copy, "w2").await.unwrap());
        assert_eq!(one.len(), two.len());
        assert!(one.len() >= acknowledged);
        let expected: Vec<_> = (0..one.len() as i64).map(|second| row("w1", second, 0.5)).collect();
        assert_eq!(one, expected);
        let mut rows = all(&copy).await;
        rows.retain(|(key, ..)| !key.starts_with('w'));
        assert_eq!(rows, before);
        keys = copy.keys(&KeyPattern::new("*")).await.unwrap();
        // It is a store.
        put(&copy, &[("new", 1, 1.0)]).await;
        copy.close().await;
        assert!(super::check(&dir, |_| {}).unwrap().is_clean());
    }
    is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0);
    let keys: Vec<_> = keys.iter().map(Key::as_str).collect();
    assert_eq!(keys, ["z", "a", "m", "b", "w1", "w2"]);
    // Nothing else is there.
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
    store.end(Closing::WithoutSeal).await;
    assert!(matches!(store.backup(dir.join("closed")).await, Err(BackupError::Store(_))));
}

#[tokio::test]
async fn failed_backup_leaves_no_folder() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &[("a", 1, 1.0)]).await;
    let dir = disk.dir.path().join("backup");
    // Something is put into the destination at the same time.
    let other = dir.clone();
    let backup = store.backup_with_progress(&dir, move |_| {
        fs::create_dir_all(other.join("other")).unwrap();
    });
    let error = backup.await.unwrap_err();
    assert!(matches!(error, BackupError::Io { .. }), "{error}");
    assert_eq!(fs::read_dir(disk.dir.path()).unwrap().count(), 2, "backup and blocks.redb");
    let error = store.backup(&dir).await.unwrap_err();
    assert!(matches!(error, BackupError::Exists { .. }), "{error}");
    fs::remove_dir(dir.join("other")).unwrap();

    // What a killed process has left is replaced, what another one writes is not.
    let partial = disk.dir.path().join("backup.partial");
    fs::create_dir_all(&partial).unwrap();
    fs::write(partial.join("blocks.redb"), b"half").unwrap();
    let writer = BackupWriter::create(&dir).unwrap();
    assert!(matches!(store.backup(&dir).await, Err(BackupError::InUse { .. })));
    assert!(matches!(DiskStore::open(&partial).await, Err(OpenError::InUse { .. })));
    drop(writer);
    assert!(!partial.exists());
    assert_eq!(store.backup(&dir).await.unwrap().points, 1);

    // A backup whose caller leaves.
    let other = disk.dir.path().join("other");
    let (started, start) = std::sync::mpsc::channel();
    let mut backup = Box::pin(store.backup_with_progress(&other, move |_| {
        let _ = started.send(());
    }));
    assert!(futures_util::poll!(&mut backup).is_pending());
    start.recv().unwrap();
    drop(backup);
    kill(store).await;
    assert!(!other.exists() || super::check(&other, |_| {}).unwrap().is_clean());
}

#[tokio::test]
async fn backup_names_damaged_blocks_and_has_the_rest() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &many("bad", 1200)).await;
    put(&store, &[("good", 1, 1.0)]).await;
    store.close().await;
    drop_block(&disk.database(), 0, 500, |block| *block.last_mut().unwrap() ^= 1);
    let store = disk.open();
    let dir = disk.dir.path().join("backup");
    let backup = store.backup(&dir).await.unwrap();
    assert_eq!(backup.damaged, [(Key::new("bad").unwrap(), 500)]);
    assert_eq!((backup.keys, backup.points), (2, 701));
    let copy = DiskStore::open(&dir).await.unwrap();
    assert_eq!(all(&copy).await.len(), 701);
    kill(store).await;
}

#[tokio::test]
async fn old_points_are_not_in_a_backup() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &[("a", now - 5000, 1.0), ("a", now, 2.0), ("b", 1, 1.0)]).await;
    store.close().await;
    let builder = DiskStore::builder().keep(Duration::from_secs(3600));
    let store = disk.try_open(builder).unwrap();
    let dir = disk.dir.path().join("backup");
    store.backup(&dir).await.unwrap();
    assert_eq!(all(&DiskStore::open(&dir).await.unwrap()).await, [row("a", now, 2.0)]);
    kill(store).await;
}

#[test]
fn pushed_points_are_a_backup_in_their_order() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new/backup");
    let mut backup = BackupWriter::create(&dir).unwrap();
    let key = |name| Key::new(name).unwrap();
    let point = |value, second| Point::new(value, second);
    backup.push(&key("z"), &[point(1.0, 5), point(2.0, 6)]).unwrap();
    backup.push(&key("a"), &[point(3.0, 1)]).unwrap();
    backup.push(&key("z"), &[point(4.0, 5), point(5.0, 1)]).unwrap();
    backup.push(&key("none"), &[]).unwrap();
    let outcome = backup.finish().unwrap();
    assert_eq!((outcome.keys, outcome.points), (2, 4));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let rows = runtime.block_on(async { all(&DiskStore::open(&dir).await.unwrap()).await });
    let expected = [row("z", 1, 5.0), row("z", 5, 4.0), row("z", 6, 2.0), row("a", 1, 3.0)];
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn deleted_points_are_gone_from_the_files() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &many("keep", 1200)).await;
    put(&store, &many("secret.a", 700)).await;
    store.seal().await.unwrap();
    put(&store, &[("secret.b", 5, 1.0), ("last", 1, 1.0), ("secret.a", 9999, 1.0)]).await;
    kill(store).await;
    let preview = delete(&disk, "secret.*", i64::MIN..=i64::MAX, true);
    assert_eq!((preview.points, preview.keys, preview.empty_keys), (702, 2, 2));
    assert_eq!(delete(&disk, "secret.*", i64::MIN..=i64::MAX, false), preview);
    let content = fs::read(disk.database()).unwrap();
    assert!(!content.windows(6).any(|window| window == b"secret"), "no name is left");
    for content in disk.fs.files().values() {
        assert!(!content.windows(6).any(|window| window == b"secret"), "no name is left");
    }
    let nothing = delete(&disk, "secret.*", i64::MIN..=i64::MAX, false);
    assert_eq!(nothing, Deleted::default());
    assert!(check(&disk).is_clean());
    let store = disk.open();
    let keys = store.keys(&KeyPattern::new("*")).await.unwrap();
    assert_eq!(keys.iter().map(Key::as_str).collect::<Vec<_>>(), ["keep", "last"]);
    assert_eq!(all(&store).await.len(), 1201);
    // A range of seconds of one key.
    kill(store).await;
    let some = delete(&disk, "keep", 100..=899, false);
    assert_eq!((some.points, some.keys, some.empty_keys), (800, 1, 0));
    let store = disk.open();
    assert_eq!(of_key(&store, "keep").await.unwrap().len(), 400);
    put(&store, &[("keep", 500, 7.0)]).await;
    store.seal().await.unwrap();
    assert_eq!(all(&store).await.len(), 402);
    kill(store).await;
    assert!(check(&disk).is_clean());
    assert!(!repair::new_path(&disk.database()).exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn backups_and_deletions_match_the_model(
        puts in prop::collection::vec(
            (0..4u8, -2000i64..2000, prop_oneof![1..4i64, 100..1500i64], 1i64..4, any::<bool>()),
            1..12,
        ),
        deletions in prop::collection::vec((0..5u8, -2500i64..2500, 0i64..2000), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let disk = Disk::new();
            let store = disk.open();
            let mut model = Model::default();
            for (value, (key, from, count, step, seals)) in puts.into_iter().enumerate() {
                let key = format!("key.{key}");
                let mut batch = PutBatch::new();
                for index in 0..count {
                    let point = Point { timestamp: from + index * step, value: value as f64 };
                    batch.push(&Key::new(&key).unwrap(), point);
                    model.put(&key, point);
                }
                store.apply(&batch).await.unwrap();
                if seals {
                    store.seal().await.unwrap();
                }
            }
            let dir = disk.dir.path().join("backup");
            store.backup(&dir).await.unwrap();
            kill(store).await;
            let copy = DiskStore::open(&dir).await.unwrap();
            assert_eq!(all(&copy).await, model.rows(None, i64::MIN..=i64::MAX));
            kill(copy).await;
            assert!(check(&disk).is_clean() && super::check(&dir, |_| {}).unwrap().is_clean());

            for (key, from, len) in deletions {
                let pattern = if key == 4 { "*".into() } else { format!("key.{key}") };
                let seconds = from..=from + len;
                let deleted = delete(&disk, &pattern, seconds.clone(), false);
                let (mut points, mut keys) = (0, BTreeSet::new());
                for (key, series) in &mut model.0 {
                    let before = series.len();
                    if pattern == "*" || *key == pattern {
                        series.retain(|second, _| !seconds.contains(second));
                    }
                    if series.len() < before {
                        points += before - series.len();
                        keys.insert(key.clone());
                    }
                }
                model.0.retain(|(_, series)| !series.is_empty());
                assert_eq!((deleted.points, deleted.keys), (points as u64, keys.len() as u64));
            }
            let store = disk.open();
            assert_eq!(all(&store).await, model.rows(None, i64::MIN..=i64::MAX));
            let keys = store.keys(&KeyPattern::new("*")).await.unwrap();
            assert!(keys.iter().map(Key::as_str).eq(model.0.iter().map(|(key, _)| key.as_str())));
            kill(store).await;
            assert!(check(&disk).is_clean());
        });
    }
}
