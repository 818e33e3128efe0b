//! The directory of the store: what lies where, and that one process only uses it.
//!
//! ```text
//! DIR/lock               held as long as a process uses the directory
//! DIR/checkpoint.redb    the rows of the last checkpoint
//! DIR/log/               segments of the shards' logs that are not in the checkpoint yet
//! DIR/damaged/           what could not be read, set aside
//! ```
//!
//! Files can be read by their owner alone: they hold what clients send to each other.

use crate::store::StoreError;
use crate::store::segment::{LogName, UNFINISHED, file_name, parse_file_name};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A segment in the log directory, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// Epoch.
    pub epoch: u64,
    /// Shard.
    pub shard: u16,
    /// Number in the shard's log.
    pub number: u64,
}

/// The directory of a store, locked for this process until it is dropped.
#[derive(Debug)]
pub struct StoreDirectory {
    path: PathBuf,
    _lock: File,
}

impl StoreDirectory {
    /// Opens the directory, or makes it if there is none, and locks it.
    ///
    /// # Errors
    /// [`StoreError`] if another process uses it, or it can't be made or written to.
    pub fn open(path: &Path) -> Result<StoreDirectory, StoreError> {
        make(path)?;
        // A reader of the messages wants to find it, and not every file operation takes a relative path.
        let path = &fs::canonicalize(path)
            .map_err(|error| StoreError::new("can't find the state directory", path, error))?;
        let lock_path = path.join("lock");
        let lock = new_file(&lock_path)
            .map_err(|error| StoreError::new("can't write to the state directory", path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let cause = "another midge, or one of its tools, uses it";
                return Err(StoreError::new("can't use the state directory", path, cause));
            }
            Err(TryLockError::Error(error)) => {
                return Err(StoreError::new("can't lock the state directory", path, error));
            }
        }
        let directory = StoreDirectory { path: path.to_owned(), _lock: lock };
        make(&directory.log())?;
        make(&directory.damaged())?;
        // The lock file may be there though nothing else can be written.
        let probe = directory.log().join("probe");
        new_file(&probe)
            .and_then(|_| fs::remove_file(&probe))
            .map_err(|error| StoreError::new("can't write to the state directory", path, error))?;
        Ok(directory)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the segments.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The directory of what could not be read.
    pub fn damaged(&self) -> PathBuf {
        self.path.join("damaged")
    }

    /// The file of the checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.redb")
    }

    /// A new checkpoint that has not taken the place of a damaged one yet.
    pub(super) fn unfinished_checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.redb.new")
    }

    /// The file of a segment.
    pub fn segment_path(&self, epoch: u64, shard: u16, number: u64) -> PathBuf {
        self.log().join(file_name(LogName { epoch, shard }, number))
    }

    /// The segments there are, in the order in which they are applied. Files with other names are none.
    ///
    /// # Errors
    /// [`StoreError`] if the directory can't be read.
    pub fn segments(&self) -> Result<Vec<SegmentName>, StoreError> {
        segments_in(&self.log())
    }

    /// Files that were to become segments, and have not got their length.
    ///
    /// # Errors
    /// [`StoreError`] if the directory can't be read.
    pub(super) fn unfinished(&self) -> Result<Vec<PathBuf>, StoreError> {
        let log = self.log();
        let failed = |error| StoreError::new("can't read the state directory", &log, error);
        let mut unfinished = Vec::new();
        for entry in fs::read_dir(&log).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name.to_str().and_then(|name| parse_file_name(name.strip_suffix(UNFINISHED)?)).is_some() {
                unfinished.push(log.join(name));
            }
        }
        Ok(unfinished)
    }

    /// The highest epoch that a file, damaged or not, is named after; 0: none.
    pub(super) fn highest_epoch(&self) -> Result<u64, StoreError> {
        let damaged = segments_in(&self.damaged())?;
        Ok(self.segments()?.iter().chain(&damaged).map(|segment| segment.epoch).max().unwrap_or(0))
    }

    /// Puts a second name of a file among what could not be read, and returns it. The first one stays.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<PathBuf, StoreError> {
        set_aside(&self.damaged(), path)
    }
}

/// As [`StoreDirectory::set_aside`].
pub(super) fn set_aside(damaged: &Path, path: &Path) -> Result<PathBuf, StoreError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for copy in 0..=COPIES_MAX {
        let aside = damaged.join(if copy == 0 { name.to_string() } else { format!("{name}.{copy}") });
        match fs::hard_link(path, &aside) {
            Ok(()) => return sync(damaged).map(|()| aside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StoreError::new("can't set aside the damaged file", path, error)),
        }
    }
    Err(StoreError::new("can't set aside the damaged file", path, "there are too many of that name already"))
}

/// Removes a file; one that is not there is removed.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::new("can't remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Gives a file another name, whatever had it before.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| StoreError::new("can't rename", from, error))
}

/// Makes what was done to the names in a directory last.
pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| StoreError::new("can't write to the state directory", path, error))
}

/// Opens a file for reading and writing that only its owner may read; makes it if it is not there.
pub(super) fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn make(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| StoreError::new("can't make the state directory", path, error))
}

fn segments_in(path: &Path) -> Result<Vec<SegmentName>, StoreError> {
    let failed = |error| StoreError::new("can't read the state directory", path, error);
    let mut segments = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some((LogName { epoch, shard }, number)) = name.to_str().and_then(parse_file_name) {
            segments.push(SegmentName { epoch, shard, number });
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Damaged files of one name that are kept.
const COPIES_MAX: usize = 1000;

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
