//! The directory of the store: its layout, and the lock that keeps it to one process.
//!
//! ```text
//! DIR/lock               locked while a process uses the directory
//! DIR/checkpoint.redb    the rows of the last checkpoint
//! DIR/log/               segments of the shards' logs that are not yet in the checkpoint
//! DIR/damaged/           files that could not be read, set aside
//! ```
//!
//! Only the owner can read the files, because they contain the messages of clients.

use crate::store::StoreError;
use crate::store::segment::{LogName, UNFINISHED, file_name, parse_file_name};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A segment in the log directory, identified by its file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// The epoch.
    pub epoch: u64,
    /// The shard.
    pub shard: u16,
    /// The number in the shard's log.
    pub number: u64,
}

/// The directory of a store, locked for this process until it is dropped.
#[derive(Debug)]
pub struct StoreDirectory {
    path: PathBuf,
    _lock: File,
}

impl StoreDirectory {
    /// Opens and locks the directory. Creates it if it does not exist.
    ///
    /// # Errors
    /// [`StoreError`] if another process uses it, or it can't be created or written to.
    pub fn open(path: &Path) -> Result<StoreDirectory, StoreError> {
        make(path)?;
        // Messages must give a path that a reader can find, and not every file operation accepts a relative
        // path.
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
        // The lock file may exist although nothing else can be written.
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

    /// The directory of files that could not be read.
    pub fn damaged(&self) -> PathBuf {
        self.path.join("damaged")
    }

    /// The file of the checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.redb")
    }

    /// The file of a new checkpoint that has not yet replaced a damaged one.
    pub(super) fn unfinished_checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.redb.new")
    }

    /// The file of a segment.
    pub fn segment_path(&self, epoch: u64, shard: u16, number: u64) -> PathBuf {
        self.log().join(file_name(LogName { epoch, shard }, number))
    }

    /// The segments that exist, in the order in which they are applied. Files with other names are ignored.
    ///
    /// # Errors
    /// [`StoreError`] if the directory can't be read.
    pub fn segments(&self) -> Result<Vec<SegmentName>, StoreError> {
        segments_in(&self.log())
    }

    /// Files that were to become segments and have not got their length.
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

    /// The highest epoch in the name of a file, damaged or not. 0 if there is none.
    pub(super) fn highest_epoch(&self) -> Result<u64, StoreError> {
        let damaged = segments_in(&self.damaged())?;
        Ok(self.segments()?.iter().chain(&damaged).map(|segment| segment.epoch).max().unwrap_or(0))
    }

    /// Gives a file a second name in the directory of damaged files, and returns that name. The first name
    /// stays.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<PathBuf, StoreError> {
        set_aside(&self.damaged(), path)
    }
}

/// See [`StoreDirectory::set_aside`].
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

/// Removes a file. It is no error if the file does not exist.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::new("can't remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Renames a file and replaces any file that has the new name.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| StoreError::new("can't rename", from, error))
}

/// Makes changes to the names in a directory durable.
pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| StoreError::new("can't write to the state directory", path, error))
}

/// Opens a file for reading and writing. Creates it, readable only by its owner, if it does not exist.
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

/// The number of damaged files with the same name that are kept.
const COPIES_MAX: usize = 1000;

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
