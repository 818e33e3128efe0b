//! The files of a log: what is done to them, and what it means when that fails.
//!
//! Files are opened for writing only: glommio tries a read to find out whether it may busy-poll for
//! completions, and a log must not. With [`SyncPolicy::Always`] they are opened with `O_DSYNC`: the write
//! itself ends when the disk has it, which takes one operation instead of two.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{Directory, DmaFile, OpenOptions};

use crate::settings::SyncPolicy;
use crate::store::segment::{BLOCK, UNFINISHED};

/// A longer batch is written piece by piece: the kernel takes no write of 2 GiB, and each needs a buffer of its
/// size.
const WRITE_BYTES_MAX: usize = 8 << 20;

/// A segment that is open for writing. Clones share the file.
#[derive(Clone, Debug)]
pub(super) struct SegmentFile {
    file: Rc<DmaFile>,
    pub(super) path: PathBuf,
    /// Bytes that have a place on the disk.
    pub(super) bytes_max: usize,
}

/// Why there is no new segment.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may work later.
    NoRoom(io::Error),
    /// The disk did not keep what it was told to keep: what it keeps at all is unknown from now on.
    NotKept(io::Error),
}

impl Trouble {
    /// Of a file that can't be had. Without its directory it never will.
    fn of(error: io::Error) -> Trouble {
        if is_gone(&error) { Trouble::NotKept(gone(error.to_string())) } else { Trouble::NoRoom(error) }
    }

    pub(super) fn into_cause(self) -> io::Error {
        match self {
            Trouble::NoRoom(cause) | Trouble::NotKept(cause) => cause,
        }
    }
}

/// What is done to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Preallocate,
    Rename,
    Write,
    Sync,
    SyncDirectory,
    Remove,
}

/// The disk; that of the tests fails on demand.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) twin: Rc<super::tests::Twin>,
}

impl Disk {
    /// Makes a file of `bytes` bytes that is sure to stay, for a segment that begins later. It gets its name when
    /// it has its length.
    pub(super) async fn create(
        &self,
        path: PathBuf,
        bytes: usize,
        policy: SyncPolicy,
    ) -> Result<SegmentFile, Trouble> {
        let unfinished = unfinished(&path);
        let created = self.open_new(&unfinished, policy).await?;
        let mut segment = SegmentFile { file: Rc::new(created), path: unfinished, bytes_max: 0 };
        if let Err(error) = self.allocate(&mut segment, bytes).await {
            let path = segment.path.clone();
            self.close(segment).await;
            let _ = self.remove(&path).await;
            return Err(Trouble::NoRoom(error));
        }
        self.sync(&segment).await.map_err(Trouble::NotKept)?;
        if let Err(error) = glommio::io::rename(&segment.path, &path).await {
            let error = explain("rename", &segment.path, error);
            self.close(segment).await;
            return Err(Trouble::of(error));
        }
        segment.path = path;
        self.sync_directory(&segment.path).await.map_err(Trouble::NotKept)?;
        Ok(segment)
    }

    /// Removes what an attempt to make a file may have left.
    pub(super) async fn clear(&self, path: &Path) {
        let _ = self.remove(&unfinished(path)).await;
        let _ = self.remove(path).await;
    }

    /// Is the file still the one that is found by its name? What is written to it else is lost with the process.
    pub(super) fn look_for(segment: &SegmentFile) -> io::Result<()> {
        let found = std::fs::metadata(&segment.path).map(|metadata| metadata.ino());
        let cause = match found {
            Ok(inode) if inode == segment.file.inode() => return Ok(()),
            Ok(_) => "it is another file".to_owned(),
            Err(error) if is_gone(&error) => error.to_string(),
            // That nothing can be told of it is no reason to end the log.
            Err(_) => return Ok(()),
        };
        Err(gone(format!("can't find {}: {cause}", segment.path.display())))
    }

    /// Makes an old segment of the same log the file of a later one; none if it isn't of this size. Its blocks are written
    /// to already, which saves the file system the work of noting so at each write. What stands in them is
    /// not taken for the new segment's, see [`crate::store::segment`].
    pub(super) async fn reuse(
        &self,
        old: &Path,
        path: PathBuf,
        bytes: usize,
        policy: SyncPolicy,
    ) -> Result<Option<SegmentFile>, Trouble> {
        self.before(Operation::Rename).await.map_err(Trouble::NoRoom)?;
        let file = open_options(policy).dma_open(old).await;
        let file = file.map_err(|error| Trouble::NoRoom(explain("open", old, error)))?;
        if file.file_size().await.ok() != Some(bytes as u64) {
            let _ = file.close().await;
            return Ok(None);
        }
        if let Err(error) = glommio::io::rename(old, &path).await {
            let _ = file.close().await;
            return Err(Trouble::NoRoom(explain("rename", old, error)));
        }
        // Else it could come back under its old name with what is written to it from now on.
        self.sync_directory(&path).await.map_err(Trouble::NotKept)?;
        Ok(Some(SegmentFile { file: Rc::new(file), path, bytes_max: bytes }))
    }

    /// Gives a file so many bytes on the disk.
    pub(super) async fn allocate(&self, segment: &mut SegmentFile, bytes: usize) -> io::Result<()> {
        self.before(Operation::Preallocate).await?;
        match segment.file.pre_allocate(bytes as u64, false).await {
            Ok(()) => {}
            Err(error) => {
                let error = explain("preallocate", &segment.path, error);
                // A file system that can't reserve room says so when a write finds none.
                if error.kind() != io::ErrorKind::Unsupported {
                    return Err(error);
                }
                let extended = segment.file.truncate(bytes as u64).await;
                extended.map_err(|error| explain("extend", &segment.path, error))?;
            }
        }
        segment.bytes_max = bytes;
        Ok(())
    }

    /// Writes the parts, one behind the other, and zeros to the end of the last block: in one go, if it is not
    /// long, and if the kernel takes all of it. What a write leaves is written by the next one; there is an error
    /// if a write takes nothing.
    pub(super) async fn write(&self, segment: &SegmentFile, at: usize, parts: &[&[u8]]) -> io::Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let wanted = bytes.next_multiple_of(BLOCK);
        let mut done = 0;
        while done < wanted {
            // Not one of the executor's buffers, whose registration it has lost: see [`super::super::executor`].
            let mut buffer =
                glommio::allocate_dma_buffer_global(self.takes((wanted - done).min(WRITE_BYTES_MAX)));
            fill(buffer.as_bytes_mut(), parts, done);
            self.before(Operation::Write).await?;
            let written = segment.file.write_at(buffer, (at + done) as u64).await;
            let written = written.map_err(|error| explain("write", &segment.path, error))?;
            let written = self.tells(written);
            // The part of a block is written again.
            let taken = written / BLOCK * BLOCK;
            if taken == 0 {
                let (path, rest) = (segment.path.display(), wanted - done);
                let cause = format!("{path} took {written} of {rest} bytes from byte {}", at + done);
                return Err(io::Error::new(io::ErrorKind::WriteZero, cause));
            }
            done += taken;
        }
        Ok(())
    }

    /// Ends when the disk has all that was written.
    pub(super) async fn sync(&self, segment: &SegmentFile) -> io::Result<()> {
        self.before(Operation::Sync).await?;
        segment.file.fdatasync().await.map_err(|error| explain("sync", &segment.path, error))
    }

    pub(super) async fn close(&self, segment: SegmentFile) {
        // What was written is synced or not meant to be: closing tells nothing new.
        let _ = segment.file.close_rc().await;
    }

    pub(super) async fn remove(&self, path: &Path) -> io::Result<()> {
        self.before(Operation::Remove).await?;
        glommio::io::remove(path).await.map_err(|error| explain("remove", path, error))
    }

    async fn open_new(&self, path: &Path, policy: SyncPolicy) -> Result<DmaFile, Trouble> {
        self.before(Operation::Create).await.map_err(Trouble::NoRoom)?;
        let opened = open_options(policy).create_new(true).dma_open(path).await;
        opened.map_err(|error| {
            let error = explain("create", path, error);
            if error.kind() != io::ErrorKind::InvalidInput {
                return Trouble::of(error);
            }
            let advice = "the file system of persistence.directory must support direct I/O (O_DIRECT)";
            Trouble::NoRoom(io::Error::new(error.kind(), format!("{error}: {advice}")))
        })
    }

    /// A file is found after a power cut only if its directory was synced.
    async fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.before(Operation::SyncDirectory).await?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let told = async {
            let opened = Directory::open(directory).await?;
            let synced = opened.sync().await;
            opened.close().await?;
            synced
        };
        told.await.map_err(|error| explain("sync", directory, error))
    }

    /// Of so many bytes, those that the next write takes.
    #[cfg(test)]
    fn takes(&self, bytes: usize) -> usize {
        self.twin.takes(bytes)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the tests' twin takes less")]
    fn takes(&self, bytes: usize) -> usize {
        bytes
    }

    /// Of so many bytes that a write took, those that it says it took.
    #[cfg(test)]
    fn tells(&self, written: usize) -> usize {
        self.twin.tells(written)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the tests' twin tells less")]
    fn tells(&self, written: usize) -> usize {
        written
    }

    #[cfg(test)]
    async fn before(&self, operation: Operation) -> io::Result<()> {
        self.twin.before(operation).await
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_async, reason = "the tests' twin waits here")]
    async fn before(&self, _: Operation) -> io::Result<()> {
        Ok(())
    }
}

/// The name of a file that has not its length yet.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The error of a log whose directory is gone, by which it is known.
fn gone(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what)
}

/// Copies what stands from byte `from` on in the parts, and zeros behind it.
fn fill(mut buffer: &mut [u8], parts: &[&[u8]], mut from: usize) {
    for part in parts {
        let passed = from.min(part.len());
        from -= passed;
        let part = &part[passed..];
        let len = part.len().min(buffer.len());
        let (head, rest) = buffer.split_at_mut(len);
        head.copy_from_slice(&part[..len]);
        buffer = rest;
    }
    buffer.fill(0);
}

fn open_options(policy: SyncPolicy) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if policy == SyncPolicy::Always {
        options.custom_flags(libc::O_DSYNC);
    }
    options
}

fn explain(doing: &str, path: &Path, error: GlommioError<()>) -> io::Error {
    let error = match error {
        GlommioError::EnhancedIoError { source, .. } => source,
        other => io::Error::from(other),
    };
    io::Error::new(error.kind(), format!("can't {doing} {}: {error}", path.display()))
}
