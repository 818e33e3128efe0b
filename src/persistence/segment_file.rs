//! A segment in a file that is read in pieces.
//!
//! A segment may be larger than the memory of the machine. A [`SegmentFile`] keeps one piece of it in memory,
//! or the requested frame if that is longer.

use crate::store::StoreError;
use crate::store::source::{PIECE_BYTES, Source};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A segment in a file.
#[derive(Debug)]
pub(super) struct SegmentFile {
    file: File,
    path: PathBuf,
    len: usize,
    /// Begins with a piece of it.
    buffer: Vec<u8>,
    piece_from: usize,
    piece_len: usize,
}

impl SegmentFile {
    pub(super) fn open(path: &Path) -> Result<SegmentFile, StoreError> {
        let open = || {
            let file = File::open(path)?;
            let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
            Ok((file, len))
        };
        let (file, len) = open().map_err(|error| cant_read(path, error))?;
        Ok(SegmentFile { file, path: path.to_owned(), len, buffer: Vec::new(), piece_from: 0, piece_len: 0 })
    }

    /// Reads the piece with this range of offsets.
    fn read(&mut self, range: Range<usize>) -> io::Result<()> {
        let (from, len) = (range.start, range.len());
        (self.piece_from, self.piece_len) = (from, 0);
        if self.buffer.len() > 2 * PIECE_BYTES {
            // It was made for a long frame.
            self.buffer = Vec::new();
        }
        if self.buffer.len() < len {
            self.buffer.reserve_exact(len - self.buffer.len());
            self.buffer.resize(len, 0);
        }
        while self.piece_len < len {
            let at = (from + self.piece_len) as u64;
            match self.file.read_at(&mut self.buffer[self.piece_len..len], at) {
                // It has become shorter.
                Ok(0) => break,
                Ok(read) => self.piece_len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.piece_len = 0;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl Source for SegmentFile {
    type Error = StoreError;

    fn len(&self) -> usize {
        self.len
    }

    fn bytes(&mut self, range: Range<usize>) -> Result<&[u8], StoreError> {
        let from = range.start;
        let len = range.len().min(self.len.saturating_sub(from));
        let is_there = from >= self.piece_from && from + len <= self.piece_from + self.piece_len;
        if !is_there {
            let wanted = len.max(PIECE_BYTES).min(self.len - from.min(self.len));
            self.read(from..from + wanted).map_err(|error| cant_read(&self.path, error))?;
        }
        let rest = self.buffer[..self.piece_len].get(from - self.piece_from..).unwrap_or_default();
        Ok(&rest[..len.min(rest.len())])
    }
}

fn cant_read(path: &Path, error: io::Error) -> StoreError {
    StoreError::new("can't read the segment", path, error)
}

#[cfg(test)]
mod tests {
    use super::super::recovery::tests::Scratch;
    use super::*;
    use crate::base::Random;
    use std::fs;

    #[test]
    fn a_file_gives_the_bytes_that_memory_gives_and_keeps_a_piece() {
        let scratch = Scratch::new();
        let path = scratch.open().log().join("segment");
        let bytes: Vec<u8> = (0..5 * PIECE_BYTES + 77).map(|at| (at / 253) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let mut file = SegmentFile::open(&path).unwrap();
        let mut memory = &bytes[..];
        assert_eq!(file.len(), bytes.len());
        let mut random = Random::new(1);
        for _ in 0..2000 {
            let from = random.index(bytes.len() + 10);
            let len = if random.index(16) == 0 { 3 * PIECE_BYTES } else { random.index(9000) };
            let range = from..from + len;
            assert_eq!(file.bytes(range.clone()).unwrap(), memory.bytes(range).unwrap(), "{from} {len}");
            assert!(file.buffer.capacity() <= 3 * PIECE_BYTES);
        }
        assert!(!file.is_zero(0..bytes.len()).unwrap() && file.is_zero(0..253).unwrap());
    }

    #[test]
    fn a_file_that_becomes_shorter_is_read_to_its_end() {
        let scratch = Scratch::new();
        let path = scratch.open().log().join("segment");
        fs::write(&path, vec![1; 3 * PIECE_BYTES]).unwrap();
        let mut file = SegmentFile::open(&path).unwrap();
        fs::write(&path, vec![1; 100]).unwrap();
        assert_eq!(file.bytes(50..150).unwrap(), [1; 50]);
        assert_eq!(file.bytes(2 * PIECE_BYTES..2 * PIECE_BYTES + 100).unwrap(), [0; 0]);
        assert!(file.is_zero(2 * PIECE_BYTES..3 * PIECE_BYTES).unwrap());
    }
}
