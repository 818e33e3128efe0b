//! Errors of the store, in the words for an operator.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// An error with the files of the store.
#[derive(Debug)]
pub struct StoreError {
    /// The action that failed, without a full stop: "can't create the state directory".
    pub what: String,
    /// The file or directory.
    pub path: PathBuf,
    /// The cause.
    pub cause: Box<dyn Error + Send + Sync>,
}

impl StoreError {
    /// An error of the file or directory at `path`.
    pub fn new(
        what: impl Into<String>,
        path: &Path,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> StoreError {
        StoreError { what: what.into(), path: path.to_owned(), cause: cause.into() }
    }
}

impl StoreError {
    /// A file is intact, but has a version that this midge does not read.
    pub fn other_version(path: &Path, version: u64, read: RangeInclusive<u64>) -> StoreError {
        let (oldest, newest) = read.into_inner();
        let read = if oldest == newest {
            format!("version {newest}")
        } else {
            format!("versions {oldest} and {newest}")
        };
        let cause = format!(
            "another midge wrote it, in format version {version}; this one reads {read}. Nothing was set aside: start \
             the midge that wrote it, or give this one another directory"
        );
        StoreError::new("can't read", path, cause)
    }

    /// Whether the reader of the output has closed it.
    pub fn is_broken_pipe(&self) -> bool {
        let cause = self.cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// Reading bytes in memory never fails.
impl From<Infallible> for StoreError {
    fn from(never: Infallible) -> StoreError {
        match never {}
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.what, self.path.display(), self.cause)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}
