//! Sources of a segment's bytes: memory here, a file in `persistence`.

use std::convert::Infallible;
use std::ops::Range;

/// The bytes of a segment.
pub(crate) trait Source {
    /// The error of reading.
    type Error;

    /// The number of bytes.
    fn len(&self) -> usize;

    /// The bytes of a range of offsets. Fewer if the source ends.
    ///
    /// # Errors
    /// The error of the source.
    fn bytes(&mut self, range: Range<usize>) -> Result<&[u8], Self::Error>;

    /// Whether all bytes of a range of offsets are zeros. The range may extend beyond the end.
    ///
    /// # Errors
    /// The error of the source.
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

/// The number of bytes that are read from a file at once.
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
