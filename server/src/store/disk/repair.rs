//! What becomes of a database that is damaged.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use imbl::Vector;
use metrics_client::Key;
use metrics_wal::{FileSystem, OsFileSystem};
use redb::{Error, ReadableDatabase};
use tracing::{error, info};

use super::{
    blocks::{Blocks, META, POINTS, SEALED, catch_panic},
    damaged::DamagedFolder,
    overlay::Overlay,
    salvage::{Salvaged, salvage},
};

/// Returns what is wrong with a database file, or `None`. The file is only read.
///
/// # Errors
///
/// If it cannot be read.
pub(super) fn find_damage(
    path: &Path,
    cache_bytes: usize,
    committed: u64,
) -> Result<Option<Error>, Error> {
    let len = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(Error::Io(io::Error::other("not a file"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(Error::Io(error)),
    };
    // A new store. If it is not new, the log says what is missing.
    if len == 0 {
        return Ok(None);
    }
    let begin = Instant::now();
    let verified = catch_panic(|| verify(path, cache_bytes, committed, len <= MAX_VERIFIED_BYTES));
    match verified {
        Ok(()) => {
            info!(bytes = len, time = ?begin.elapsed(), "blocks verified");
            Ok(None)
        }
        Err(error) if is_damage(&error) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// Returns true if a file has nothing behind its first page, as a process leaves it that is killed while it creates
/// the database.
pub(super) fn is_blank(path: &Path) -> io::Result<bool> {
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 1024 * 1024];
    let mut offset = 4096;
    loop {
        let read = OsFileSystem.read_at(&mut file, offset, &mut buffer)?;
        if buffer[..read].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        if read < buffer.len() {
            return Ok(true);
        }
        offset += read as u64;
    }
}

fn verify(path: &Path, cache_bytes: usize, committed: u64, is_thorough: bool) -> Result<(), Error> {
    let mut database = redb::Database::builder()
        .set_cache_size(cache_bytes)
        .create_with_backend(Overlay::open(path)?)?;
    if is_thorough && !database.check_integrity()? {
        return Err(Error::Corrupted("its pages do not match their checksums".into()));
    }
    let sealed = match database.begin_read()?.open_table(META) {
        Ok(meta) => meta.get(SEALED)?.map_or(0, |sealed| sealed.value()),
        // It was created, and nothing was committed.
        Err(redb::TableError::TableDoesNotExist(_)) => 0,
        Err(error) => return Err(error.into()),
    };
    if sealed < committed {
        let what = format!("it ends at entry {sealed} of the log, and was written to {committed}");
        return Err(Error::Corrupted(what));
    }
    Ok(())
}

/// Returns true if an error says that the file is damaged, and not that it cannot be read now.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        Error::Corrupted(_)
        | Error::UpgradeRequired(_)
        | Error::RepairAborted
        | Error::TableTypeMismatch { .. }
        | Error::TableIsMultimap(_)
        | Error::TypeDefinitionChanged { .. }
        | Error::TableDoesNotExist(_) => true,
        Error::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

/// Writes what is left of a damaged database to a new one, and keeps the old one in `damaged/`. If keys are
/// `known`, they keep their ids.
pub(super) fn rebuild(
    path: &Path,
    cache_bytes: usize,
    sealed: u64,
    known: Option<&Vector<Key>>,
) -> Result<Salvaged, Error> {
    let new = new_path(path);
    let dir = path.parent().unwrap_or(Path::new("."));
    let points = catch_panic(|| points(path, cache_bytes)).ok();
    let salvaged = salvage(path, &new, cache_bytes, sealed, known)?;
    let folder = DamagedFolder::new(OsFileSystem, dir);
    let kept = folder.new_path("blocks.redb")?;
    // So that the name is never missing.
    if fs::hard_link(path, &kept).is_err() {
        fs::copy(path, &kept)?;
    }
    fs::rename(&new, path)?;
    OsFileSystem.sync_dir(dir)?;
    folder.make_room();
    let Salvaged { keys, points: found, nameless } = salvaged;
    let missing = points.map(|points| points.saturating_sub(found));
    error!(
        kept = %kept.display(), keys, points = found, missing, blocks_without_key = nameless,
        "database was damaged; what was left of it is used"
    );
    Ok(salvaged)
}

/// Opens a database again after it was found damaged. If it is, what is left of it is written to a new one, with the
/// ids of `names`. Returns true then.
pub(super) fn reopen(blocks: &mut Blocks, names: &Vector<Key>) -> Result<bool, Error> {
    let mut is_rebuilt = false;
    if let Some((path, cache_bytes, sealed)) = blocks.close()
        && let Some(damage) = find_damage(path, cache_bytes, sealed)?
    {
        error!(path = %path.display(), error = &damage as &dyn std::error::Error, "blocks damaged");
        rebuild(path, cache_bytes, sealed, Some(names))?;
        is_rebuilt = true;
    }
    blocks.reopen()?;
    Ok(is_rebuilt)
}

/// Returns how many points a damaged database says that it has.
fn points(path: &Path, cache_bytes: usize) -> Result<u64, Error> {
    let database = redb::Database::builder()
        .set_cache_size(cache_bytes)
        .create_with_backend(Overlay::open(path)?)?;
    let meta = database.begin_read()?.open_table(META)?;
    Ok(meta.get(POINTS)?.map_or(0, |points| points.value()))
}

/// Returns where the new database is written.
pub(super) fn new_path(path: &Path) -> PathBuf {
    path.with_extension("redb.new")
}

/// Larger databases are not verified each time they are opened: all of the file is read.
const MAX_VERIFIED_BYTES: u64 = 1024 * 1024 * 1024;
