//! The write of a batch: in one go, if it is not long, and if the disk takes all of it. What a write leaves is written
//! by the next one. The header of a segment goes before the first batch, in a write of its own: of one that was not
//! finished the disk may have any blocks, and frames without their header would look like damage.

use std::io;
use std::path::Path;

use crate::base::log_files::{FileId, FileResult, LogFiles, LogWork, WRITE_BYTES_MAX};
use crate::store::segment::BLOCK;

/// What is written to a place of a file: the header of a segment, if it is the first, then frames, then zeros to the
/// end of the block.
#[derive(Debug)]
pub(super) struct Write {
    file: FileId,
    at: usize,
    header: Option<Box<[u8; BLOCK]>>,
    frames: Vec<u8>,
    /// Whole blocks of it that are written, in bytes.
    done: usize,
}

impl Write {
    pub(super) fn new(file: FileId, at: usize, header: Option<Box<[u8; BLOCK]>>, frames: Vec<u8>) -> Write {
        Write { file, at, header, frames, done: 0 }
    }

    /// Its length in bytes, a multiple of [`BLOCK`].
    pub(super) fn bytes(&self) -> usize {
        self.header_bytes().len() + self.frames.len().next_multiple_of(BLOCK)
    }

    /// Begins to write what is left.
    pub(super) fn begin(&self, files: &mut impl LogFiles) {
        let bytes = match self.done < self.header_bytes().len() {
            true => self.header_bytes().len() - self.done,
            false => (self.bytes() - self.done).min(WRITE_BYTES_MAX),
        };
        let at = (self.at + self.done) as u64;
        let parts = [self.header_bytes(), &self.frames];
        files.write(LogWork::Write, self.file, at, bytes, |buffer| fill(buffer, parts, self.done));
    }

    /// Is all of it written? If not, it has to be gone on with.
    ///
    /// # Errors
    /// The disk's, or it takes nothing more.
    pub(super) fn handle_done(&mut self, result: io::Result<FileResult>, path: &Path) -> io::Result<bool> {
        let written = match result {
            Ok(FileResult::Written { bytes }) => bytes,
            Ok(_) => 0,
            Err(error) => return Err(super::explain("write", path, error)),
        };
        // The part of a block is written again.
        let taken = written / BLOCK * BLOCK;
        let rest = self.bytes() - self.done;
        if taken == 0 || taken > rest {
            let (path, at) = (path.display(), self.at + self.done);
            let cause = format!("{path} took {written} of {rest} bytes from byte {at}");
            return Err(io::Error::new(io::ErrorKind::WriteZero, cause));
        }
        self.done += taken;
        Ok(taken == rest)
    }

    fn header_bytes(&self) -> &[u8] {
        self.header.as_deref().map_or(&[], |header| header.as_slice())
    }
}

/// Copies what stands from byte `from` on in the parts, one behind the other, and zeros behind it.
fn fill(mut buffer: &mut [u8], parts: [&[u8]; 2], mut from: usize) {
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
