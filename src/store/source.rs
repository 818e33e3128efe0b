//! Where the bytes of a segment come from: memory here, a file in `persistence`.

use std::convert::Infallible;
use std::ops::Range;

/// The bytes of a segment.
pub(crate) trait Source {
    /// Why they can't be read.
    type Error;

    /// How many there are.
    fn len(&self) -> usize;

    /// Those of a range of offsets, or fewer if there are no more.
    ///
    /// # Errors
    /// The source's.
    fn bytes(&mut self, range: Range<usize>) -> Result<&[u8], Self::Error>;

    /// Are all bytes of a range of offsets zeros, as far as there are any?
    ///
    /// # Errors
    /// The source's.
    fn is_zero(&mut self, range: Range<usize>) -> Result<bool, Self::Error> {
        let (mut from, to) = (range.start, range.end.min(self.len()));
        while from < to {
            let piece = self.bytes(from..to.min(from + PIECE_BYTES))?;
            if piece.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            if piece.is_empty() {
                break;
            }
            from += piece.len();
        }
        Ok(true)
    }
}

/// So much of a file is read at once.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// A segment in memory.
impl Source for &[u8] {
    type Error = Infallible;

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn bytes(&mut self, range: Range<usize>) -> Result<&[u8], Infallible> {
        let rest = self.get(range.start..).unwrap_or_default();
        Ok(&rest[..range.len().min(rest.len())])
    }
}
