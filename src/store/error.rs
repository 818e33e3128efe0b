//! What goes wrong with the store, told to an operator.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Something about the files of the store that stops what was to be done with them.
#[derive(Debug)]
pub struct StoreError {
    /// What can't be done, without a full stop: "can't create the state directory".
    pub what: String,
    /// The file or directory.
    pub path: PathBuf,
    /// Why.
    pub cause: Box<dyn Error + Send + Sync>,
}

impl StoreError {
    /// An error of something at `path`.
    pub fn new(
        what: impl Into<String>,
        path: &Path,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> StoreError {
        StoreError { what: what.into(), path: path.to_owned(), cause: cause.into() }
    }
}

impl StoreError {
    /// A file is sound, but of a version that this midge does not read.
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

    /// Has the reader of an output closed it?
    pub fn is_broken_pipe(&self) -> bool {
        let cause = self.cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// Bytes in memory can always be read.
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
