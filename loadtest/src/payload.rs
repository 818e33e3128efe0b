//! The content of a message, by which its receiver verifies it: run, publisher, stream, sequence
//! number, time, a pattern, and a checksum over all of them and the topic.
//!
//! Layout, little-endian: run 4, publisher 4, stream 4, sequence 4, time 8, checksum 8, then the
//! pattern up to the wanted size. A *stream* is the messages of one publisher to one topic.

/// The smallest payload that holds a stamp, in bytes.
pub(crate) const STAMP_LEN: usize = 32;

const CHECKSUM: std::ops::Range<usize> = 24..32;

/// The part of a payload that differs from message to message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Distinguishes the messages of this run from those that an earlier run left in the broker.
    pub(crate) run: u32,
    pub(crate) publisher: u32,
    pub(crate) stream: u32,
    /// Counts from 0 in each stream.
    pub(crate) sequence: u32,
    /// When it was sent, or was due: nanoseconds since the start of the run.
    pub(crate) sent_nanos: u64,
}

/// Appends a payload of `size` bytes. `size` is at least [`STAMP_LEN`].
#[inline]
pub(crate) fn put(out: &mut Vec<u8>, topic: &[u8], size: usize, stamp: &Stamp) {
    let start = out.len();
    out.extend_from_slice(&stamp.run.to_le_bytes());
    out.extend_from_slice(&stamp.publisher.to_le_bytes());
    out.extend_from_slice(&stamp.stream.to_le_bytes());
    out.extend_from_slice(&stamp.sequence.to_le_bytes());
    out.extend_from_slice(&stamp.sent_nanos.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    let mut word = u64::from(stamp.stream) << 32 | u64::from(stamp.sequence);
    let mut left = size - STAMP_LEN;
    while left > 0 {
        word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x2545_f491_4f6c_dd1d);
        let take = left.min(8);
        out.extend_from_slice(&word.to_le_bytes()[..take]);
        left -= take;
    }
    let sum = checksum(&out[start..], topic);
    out[start + CHECKSUM.start..start + CHECKSUM.end].copy_from_slice(&sum.to_le_bytes());
}

/// The stamp of a payload that arrived on `topic`, or `None` if a bit of either is wrong.
#[inline]
pub(crate) fn read(payload: &[u8], topic: &[u8]) -> Option<Stamp> {
    let (head, _) = payload.split_first_chunk::<STAMP_LEN>()?;
    if word(&head[CHECKSUM]) != checksum(payload, topic) {
        return None;
    }
    let (first, second) = (word(&head[0..8]), word(&head[8..16]));
    Some(Stamp {
        run: first as u32,
        publisher: (first >> 32) as u32,
        stream: second as u32,
        sequence: (second >> 32) as u32,
        sent_nanos: word(&head[16..24]),
    })
}

/// The checksum of the topic and of the payload except the checksum itself. It runs for every
/// delivery, so it takes sixteen bytes at a time.
#[inline]
fn checksum(payload: &[u8], topic: &[u8]) -> u64 {
    let seed = (topic.len() as u64) << 40 ^ payload.len() as u64;
    let topic = absorb(seed ^ 0x243f_6a88_85a3_08d3, topic);
    let head = absorb(topic, &payload[..CHECKSUM.start]);
    absorb(head, &payload[CHECKSUM.end..])
}

#[inline]
fn absorb(mut sum: u64, bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<16>();
    for pair in pairs {
        sum = fold(sum ^ word(&pair[..8]), word(&pair[8..]) ^ 0x1319_8a2e_0370_7344);
    }
    if rest.is_empty() {
        return sum;
    }
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    fold(sum ^ word(&last[..8]), word(&last[8..]) ^ 0xa409_3822_299f_31d0)
}

#[inline]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    // Adding `left` keeps its bits if `right` happens to be zero.
    (product as u64 ^ (product >> 64) as u64).wrapping_add(left.rotate_left(23))
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("every caller passes eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 9, publisher: 3, stream: 70_000, sequence: 5, sent_nanos: 1 << 40 };

    #[test]
    fn stamp_round_trips_at_every_payload_size() {
        for size in STAMP_LEN..STAMP_LEN + 70 {
            let mut out = vec![1, 2, 3];
            put(&mut out, b"a/topic", size, &STAMP);
            assert_eq!(out.len(), 3 + size);
            assert_eq!(read(&out[3..], b"a/topic"), Some(STAMP));
        }
    }

    #[test]
    fn flipped_bits_truncation_and_other_topics_are_detected() {
        let mut out = Vec::new();
        put(&mut out, b"a/topic", 75, &STAMP);
        for bit in 0..out.len() * 8 {
            out[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&out, b"a/topic"), None, "bit {bit}");
            out[bit / 8] ^= 1 << (bit % 8);
        }
        for cut in 0..out.len() {
            assert_eq!(read(&out[..cut], b"a/topic"), None);
        }
        assert_eq!(read(&out, b"a/topid"), None);
        assert_eq!(read(&out, b"a/topic/"), None);
        out.push(0);
        assert_eq!(read(&out, b"a/topic"), None);
    }
}
