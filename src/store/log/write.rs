//! The write of a batch. It is one write if the batch is not long and the disk takes all of it. Otherwise
//! more writes follow for the rest. The header of a segment goes before the first batch in its own write:
//! after an unfinished write the disk may have any of its blocks, and frames without their header would look
//! like damage.

use std::io;
use std::path::Path;

use crate::base::log_files::{FileId, FileResult, LogFiles, LogWork, WRITE_BYTES_MAX};
use crate::store::segment::BLOCK;

/// The data that is written to a position in a file: the header of a segment if it is the first, then frames,
/// then zeros to the end of the block.
#[derive(Debug)]
pub(super) struct Write {
    file: FileId,
    at: usize,
    header: Option<Box<[u8; BLOCK]>>,
    frames: Vec<u8>,
    /// The number of bytes written, in whole blocks.
    done: usize,
}

impl Write {
    pub(super) fn new(file: FileId, at: usize, header: Option<Box<[u8; BLOCK]>>, frames: Vec<u8>) -> Write {
        Write { file, at, header, frames, done: 0 }
    }

    /// The length in bytes, a multiple of [`BLOCK`].
    pub(super) fn bytes(&self) -> usize {
        self.header_bytes().len() + self.frames.len().next_multiple_of(BLOCK)
    }

    /// Begins to write the rest.
    pub(super) fn begin(&self, files: &mut impl LogFiles) {
        let bytes = match self.done < self.header_bytes().len() {
            true => self.header_bytes().len() - self.done,
            false => (self.bytes() - self.done).min(WRITE_BYTES_MAX),
        };
        let at = (self.at + self.done) as u64;
        let parts = [self.header_bytes(), &self.frames];
        files.write(LogWork::Write, self.file, at, bytes, |buffer| fill(buffer, parts, self.done));
    }

    /// Takes the result of a write, and returns whether everything is written. If not, [`Write::begin`] must
    /// be called again.
    ///
    /// # Errors
    /// The error of the disk, or that it takes nothing more.
    pub(super) fn handle_done(&mut self, result: io::Result<FileResult>, path: &Path) -> io::Result<bool> {
        let written = match result {
            Ok(FileResult::Written { bytes }) => bytes,
            Ok(_) => 0,
            Err(error) => return Err(super::explain("write", path, error)),
        };
        // A partial block is written again.
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

/// Copies the bytes from offset `from` of the concatenated parts, and then zeros.
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
