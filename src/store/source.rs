//! Where the bytes of a segment come from: memory here, a file in `persistence`.

use std::convert::Infallible;

/// The bytes of a segment.
pub(crate) trait Source {
    /// Why they can't be read.
    type Error;

    /// How many there are.
    fn len(&self) -> usize;

    /// Those from an offset on, so many of them, or fewer if there are no more.
    ///
    /// # Errors
    /// The source's.
    fn bytes(&mut self, from: usize, len: usize) -> Result<&[u8], Self::Error>;

    /// Are all bytes from an offset on, until another or the end, zeros?
    ///
    /// # Errors
    /// The source's.
    fn is_zero(&mut self, mut from: usize, to: usize) -> Result<bool, Self::Error> {
        while from < to.min(self.len()) {
            let piece = self.bytes(from, PIECE_BYTES.min(to - from))?;
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

    fn bytes(&mut self, from: usize, len: usize) -> Result<&[u8], Infallible> {
        let rest = self.get(from..).unwrap_or_default();
        Ok(&rest[..len.min(rest.len())])
    }
}
