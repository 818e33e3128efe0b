//! The interface between a log and the disk: the operations that a log requests, and their results.
//!
//! An operation begins with a call and ends with a [`FileDone`], which the host gives to the log. The driver
//! of a shard does the work on the shard's ring. Tests have files of their own.

use std::io;
use std::path::{Path, PathBuf};

/// Operations on files.
pub trait LogFiles {
    /// Begins an operation. Its result is reported once, never during this call.
    fn begin(&mut self, work: LogWork, operation: FileOperation);

    /// Begins to write `bytes` bytes to a file at the byte `at`. Both are multiples of 4096. `bytes` is not 0
    /// and at most [`WRITE_BYTES_MAX`]. `fill` puts the bytes into a buffer with arbitrary content. The
    /// result is reported like that of other operations, as [`FileResult::Written`].
    fn write(&mut self, work: LogWork, file: FileId, at: u64, bytes: usize, fill: impl FnOnce(&mut [u8]));

    /// Closes a file after its pending operations. Its number may be given to another file from now on.
    fn close_file(&mut self, file: FileId);

    /// Whether this path leads to the file.
    ///
    /// # Errors
    /// It can't be determined. [`io::ErrorKind::NotFound`] if there is no file at the path.
    fn is_found(&self, path: &Path, file: FileId) -> io::Result<bool>;
}

/// The largest write, in bytes. A write needs a buffer of its size, and the kernel does not accept a write of
/// 2 GiB.
pub const WRITE_BYTES_MAX: usize = 8 << 20;

/// The purpose of an operation. A log has at most one operation for each at a time. It is returned with the
/// result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogWork {
    /// The write of a batch, and everything that must be done before it.
    Write,
    /// The periodic sync.
    Sync,
    /// The creation of the next segment.
    Segment,
    /// The end of the log.
    Close,
}

/// An open file of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(pub u32);

/// An operation on files, other than a write. After it has ended, its effect survives a power failure where
/// that is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOperation {
    /// Creates a file that only its owner may read, and opens it for writes that bypass the system's cache.
    Create {
        /// The path. No file is there.
        path: PathBuf,
        /// Whether a write to the file ends only when the data is on the disk.
        writes_through: bool,
    },
    /// Opens a file in the same way as [`FileOperation::Create`].
    Open {
        /// The path.
        path: PathBuf,
        /// The same as in [`FileOperation::Create`].
        writes_through: bool,
    },
    /// Allocates bytes of a file on the disk. If that is not possible, it only sets the length.
    Allocate {
        /// The file.
        file: FileId,
        /// The length in bytes.
        bytes: u64,
    },
    /// Flushes everything that was written to a file to the disk.
    Sync {
        /// The file.
        file: FileId,
    },
    /// Renames a file.
    Rename {
        /// The old path.
        from: PathBuf,
        /// The new path. An existing file at this path is replaced.
        to: PathBuf,
    },
    /// Flushes the file names of a directory to the disk.
    SyncDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// Removes a file.
    Remove {
        /// The path.
        path: PathBuf,
    },
}

/// The result of an operation.
#[derive(Debug)]
pub struct FileDone {
    /// The purpose of the operation.
    pub work: LogWork,
    /// The result.
    pub result: io::Result<FileResult>,
}

/// The result of a successful operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileResult {
    /// A file was opened.
    Opened {
        /// The file.
        file: FileId,
        /// The length of the file, in bytes.
        bytes: u64,
    },
    /// Bytes were written. They may be fewer than requested.
    Written {
        /// The number of bytes.
        bytes: usize,
    },
    /// Another operation is done.
    Done,
}
