//! The seam between a log and the disk: what a log asks for, and how it is told what came of it.
//!
//! An operation begins with a call and ends with a [`FileDone`], which the host gives to the log.
//! The driver of a shard does the work on the shard's ring; tests bring files of their own.

use std::io;
use std::path::{Path, PathBuf};

/// What is done to files.
pub trait LogFiles {
    /// Begins an operation. Its end is told once, never during this call.
    fn begin(&mut self, work: LogWork, operation: FileOperation);

    /// Begins to write `bytes` bytes to a file, from byte `at` on: both are multiples of 4096, and `bytes` is not 0
    /// and at most [`WRITE_BYTES_MAX`]. `fill` puts them into a buffer that begins with anything. The end is told
    /// as that of the other operations, by [`FileResult::Written`].
    fn write(&mut self, work: LogWork, file: FileId, at: u64, bytes: usize, fill: impl FnOnce(&mut [u8]));

    /// Closes a file, once what was begun on it is over. Its number may be given to another file from now on.
    fn close_file(&mut self, file: FileId);

    /// Is the file the one that is found under this path?
    ///
    /// # Errors
    /// It can't be told; [`io::ErrorKind::NotFound`] if there is no file.
    fn is_found(&self, path: &Path, file: FileId) -> io::Result<bool>;
}

/// The most bytes of one write: it needs a buffer of its size, and the kernel takes no write of 2 GiB.
pub const WRITE_BYTES_MAX: usize = 8 << 20;

/// What a log does operations for, at most one at a time for each; comes back with the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogWork {
    /// The write of a batch, with what has to be done before it.
    Write,
    /// The sync that is due from time to time.
    Sync,
    /// The next segment is made.
    Segment,
    /// The log is ended.
    Close,
}

/// An open file of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(pub u32);

/// An operation on files, other than a write. What it is told to keep survives a power cut once it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOperation {
    /// Makes a file that only its owner may read, and opens it for writing past the system's cache.
    Create {
        /// Where; nothing is there.
        path: PathBuf,
        /// A write to it ends when the disk has what was written.
        writes_through: bool,
    },
    /// Opens a file as [`FileOperation::Create`] does.
    Open {
        /// Which.
        path: PathBuf,
        /// As with [`FileOperation::Create`].
        writes_through: bool,
    },
    /// Gives a file so many bytes that have a place on the disk; where that can't be had, the length.
    Allocate {
        /// Which.
        file: FileId,
        /// Its length, in bytes.
        bytes: u64,
    },
    /// The disk keeps what was written to a file.
    Sync {
        /// Which.
        file: FileId,
    },
    /// Gives a file another name.
    Rename {
        /// The path until now.
        from: PathBuf,
        /// The path from now on; a file that has it is lost.
        to: PathBuf,
    },
    /// The disk keeps the names of the files in a directory.
    SyncDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// Removes a file.
    Remove {
        /// Which.
        path: PathBuf,
    },
}

/// The end of an operation.
#[derive(Debug)]
pub struct FileDone {
    /// What it was for.
    pub work: LogWork,
    /// What came of it.
    pub result: io::Result<FileResult>,
}

/// What came of an operation that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileResult {
    /// A file is open.
    Opened {
        /// The file.
        file: FileId,
        /// Its length, in bytes.
        bytes: u64,
    },
    /// So many bytes were taken, which may be fewer than were to be written.
    Written {
        /// Their number.
        bytes: usize,
    },
    /// It is done.
    Done,
}
