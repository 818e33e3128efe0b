//! Bytes that a slow peer has not taken yet, oldest first.

use std::io;

/// A queue of bytes in one contiguous buffer.
#[derive(Debug, Default)]
pub(super) struct UnsentBytes {
    bytes: Vec<u8>,
    sent: usize,
    /// The number of bytes that the socket has taken since the backlog began.
    taken: u64,
}

impl UnsentBytes {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Sent bytes are removed when they are the larger part, so that each byte is moved once.
        if self.sent >= self.len() && self.sent > 0 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.try_reserve(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The bytes to send next.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Records that the peer's socket has taken bytes from the front.
    pub(super) fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.len(), "no more is sent than there was");
        self.sent += bytes;
        self.taken += bytes as u64;
        if self.len() == 0 {
            *self = UnsentBytes::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came() {
        let mut backlog = UnsentBytes::default();
        let mut expected = Vec::new();
        let mut sent = Vec::new();
        for round in 0..100u8 {
            let piece = vec![round; usize::from(round) + 1];
            backlog.append(&piece).unwrap();
            expected.extend_from_slice(&piece);
            let take = backlog.len() / 2;
            sent.extend_from_slice(&backlog.unsent()[..take]);
            backlog.advance(take);
        }
        assert_eq!(backlog.taken(), sent.len() as u64);
        sent.extend_from_slice(backlog.unsent());
        backlog.advance(backlog.len());
        assert_eq!(sent, expected);
        assert_eq!(backlog.len(), 0);
    }

    #[test]
    fn an_empty_backlog_keeps_no_memory() {
        let mut backlog = UnsentBytes::default();
        backlog.append(&[1; 1000]).unwrap();
        backlog.advance(1000);
        assert_eq!(backlog.bytes.capacity(), 0);
    }
}
