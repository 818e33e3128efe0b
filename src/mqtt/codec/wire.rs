//! The fixed header, variable byte integers and strings: the primitives of both directions.
//!
//! Bytes of a connection become frames and borrowed fields. In the other direction, the `put_*` functions
//! append to the caller's buffer. Implements chapters 1.5 and 2.1 of the standard.

use super::{DecodeError, Fault, PacketId, ProtocolVersion};

/// The largest packet in bytes that the wire format can express: a remaining length of 268,435,455 after a
/// fixed header of five bytes. An encoder must not exceed it.
pub const PACKET_BYTES_LIMIT: usize = 1 + 4 + VARINT_MAX as usize;

/// The largest variable byte integer.
pub(super) const VARINT_MAX: u32 = 268_435_455;

/// One complete packet, split into its first byte and its body.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Packet type and flags.
    pub first_byte: u8,
    /// Everything after the fixed header.
    pub body: &'a [u8],
    /// The length of fixed header and body, in bytes.
    pub total_len: usize,
}

/// The result of framing the bytes read so far.
#[derive(Debug)]
pub enum Framing<'a> {
    /// More bytes are needed. The packet has at least this many in total.
    Incomplete {
        /// A lower bound of the packet's length in bytes, with the header.
        total_len: usize,
    },
    /// A complete packet.
    Whole(Frame<'a>),
}

/// Finds the first packet in `bytes`.
///
/// `packet_bytes_max` includes the fixed header. The length is checked as soon as it can be read, so an
/// oversized packet is refused before its body arrives. The forbidden packet type 0 is refused at the first
/// byte.
///
/// # Errors
/// Malformed for a fifth length byte, PacketTooLarge above the maximum, Protocol for type 0.
pub fn frame(bytes: &[u8], packet_bytes_max: usize) -> Result<Framing<'_>, DecodeError> {
    let Some((&first_byte, rest)) = bytes.split_first() else {
        return Ok(Framing::Incomplete { total_len: 2 });
    };
    if first_byte >> 4 == packet_type::RESERVED {
        return Err(DecodeError::protocol("packet type 0"));
    }
    let (mut length, mut length_bytes, mut ended) = (0, 0, false);
    for &byte in rest.iter().take(4) {
        length |= usize::from(byte & 0x7F) << (7 * length_bytes);
        length_bytes += 1;
        ended = byte & 0x80 == 0;
        if ended {
            break;
        }
    }
    if !ended && length_bytes == 4 {
        // Section 1.5.5: refused without waiting for a fifth byte.
        return Err(DecodeError::malformed("remaining length of more than four bytes"));
    }
    let header_len = 1 + length_bytes;
    let total_len = header_len + usize::from(!ended) + length;
    if total_len > packet_bytes_max {
        // [MQTT5-3.2.2-15]
        return Err(DecodeError { fault: Fault::PacketTooLarge, cause: "packet above the maximum size" });
    }
    match bytes.get(header_len..total_len) {
        Some(body) if ended => Ok(Framing::Whole(Frame { first_byte, body, total_len })),
        _ => Ok(Framing::Incomplete { total_len }),
    }
}

/// The packet types: the upper half of the first byte.
pub(super) mod packet_type {
    pub(in crate::mqtt::codec) const RESERVED: u8 = 0;
    pub(in crate::mqtt::codec) const CONNECT: u8 = 1;
    pub(in crate::mqtt::codec) const CONNACK: u8 = 2;
    pub(in crate::mqtt::codec) const PUBLISH: u8 = 3;
    pub(in crate::mqtt::codec) const PUBACK: u8 = 4;
    pub(in crate::mqtt::codec) const PUBREC: u8 = 5;
    pub(in crate::mqtt::codec) const PUBREL: u8 = 6;
    pub(in crate::mqtt::codec) const PUBCOMP: u8 = 7;
    pub(in crate::mqtt::codec) const SUBSCRIBE: u8 = 8;
    pub(in crate::mqtt::codec) const SUBACK: u8 = 9;
    pub(in crate::mqtt::codec) const UNSUBSCRIBE: u8 = 10;
    pub(in crate::mqtt::codec) const UNSUBACK: u8 = 11;
    pub(in crate::mqtt::codec) const PINGREQ: u8 = 12;
    pub(in crate::mqtt::codec) const PINGRESP: u8 = 13;
    pub(in crate::mqtt::codec) const DISCONNECT: u8 = 14;
    pub(in crate::mqtt::codec) const AUTH: u8 = 15;
}

impl Frame<'_> {
    pub(super) fn packet_type(&self) -> u8 {
        self.first_byte >> 4
    }

    pub(super) fn flags(&self) -> u8 {
        self.first_byte & 0x0F
    }

    /// Refuses flag bits other than `expected`. 3.1 does not check unused bits, and allows DUP on SUBSCRIBE,
    /// UNSUBSCRIBE and PUBREL (`[MQTT311 §3.1-g]` `[MQTT311 §3.1-h]`).
    pub(super) fn check_flags(&self, version: ProtocolVersion, expected: u8) -> Result<(), DecodeError> {
        if version > ProtocolVersion::V31 && self.flags() != expected {
            // [MQTT5-2.1.3-1] [MQTT311-2.2.2-2]
            return Err(DecodeError::malformed("reserved flag bits of the fixed header"));
        }
        Ok(())
    }

    /// Refuses a padded remaining length in 5.0. 3.x has no such rule, and padding is harmless.
    /// `[MQTT5-1.5.5-1]`
    pub(super) fn check_length(&self, version: ProtocolVersion) -> Result<(), DecodeError> {
        if version == ProtocolVersion::V5 && self.total_len != packet_len(self.body.len()) {
            return Err(DecodeError::malformed("remaining length not in its shortest form"));
        }
        Ok(())
    }
}

/// Reads fields from the front of a body. Every method fails with Malformed if the bytes end too early.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldReader<'a> {
    rest: &'a [u8],
}

impl<'a> FieldReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> FieldReader<'a> {
        FieldReader { rest: bytes }
    }

    /// The bytes that have not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads a variable byte integer in its shortest form. `[MQTT5-1.5.5-1]`
    pub(super) fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for position in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << (7 * position);
            if byte & 0x80 == 0 {
                if byte == 0 && position > 0 {
                    return Err(DecodeError::malformed("variable byte integer not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(DecodeError::malformed("variable byte integer of more than four bytes"))
    }

    /// Reads binary data: a length of two bytes, then as many bytes.
    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// Reads a well-formed string, which may contain U+0000. It is for fields that `crate::topic` checks
    /// afterwards.
    pub(super) fn utf8(&mut self) -> Result<&'a str, DecodeError> {
        // [MQTT5-1.5.4-1] [MQTT311-1.5.3-1]; a byte order mark stays [MQTT5-1.5.4-3].
        std::str::from_utf8(self.binary()?).map_err(|_| DecodeError::malformed("string is not UTF-8"))
    }

    /// Reads a string that follows section 1.5.4.
    pub(super) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let text = self.utf8()?;
        if text.as_bytes().contains(&0) {
            // [MQTT5-1.5.4-2] [MQTT311-1.5.3-2]
            return Err(DecodeError::malformed("U+0000 in a string"));
        }
        Ok(text)
    }

    /// Reads a string that is a name: it may have neither control characters nor non-characters.
    pub(super) fn plain_text(&mut self) -> Result<&'a str, DecodeError> {
        let text = self.utf8()?;
        if !is_plain(text) {
            return Err(DecodeError::malformed("control character or non-character"));
        }
        Ok(text)
    }

    pub(super) fn packet_id(&mut self, if_zero: DecodeError) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(if_zero)
    }

    /// Checks that the packet ends here.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(DecodeError::malformed("bytes after the last field")) }
    }
}

const CUT_SHORT: DecodeError = DecodeError::malformed("packet ends inside a field");

/// Whether the text has no control character (U+0000 to 001F, 007F to 009F) and no non-character.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..0x7F).contains(&byte)) || text.chars().all(is_plain_char)
}

fn is_plain_char(c: char) -> bool {
    let code = u32::from(c);
    !c.is_control() && code & 0xFFFE != 0xFFFE && !(0xFDD0..=0xFDEF).contains(&code)
}

/// Takes encoded bytes: a buffer, or a `Counter` that measures first.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts the bytes that would be written.
#[derive(Default)]
pub(super) struct ByteCounter(pub(super) usize);

impl Sink for ByteCounter {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Appends binary data or a string: a length of two bytes, then the bytes. The caller must have checked that
/// there are at most 65,535.
pub(super) fn put_binary(out: &mut impl Sink, bytes: &[u8]) {
    debug_assert!(bytes.len() <= usize::from(u16::MAX), "a field is longer than its length can say");
    out.put(&(bytes.len() as u16).to_be_bytes());
    out.put(bytes);
}

/// Appends an integer in its shortest form. `[MQTT5-1.5.5-1]`
pub(super) fn put_varint(out: &mut Vec<u8>, value: usize) {
    debug_assert!(value <= VARINT_MAX as usize, "a length is larger than four bytes can say");
    let mut value = value;
    while value > 0x7F {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The number of bytes that `put_varint` appends.
pub(super) const fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// The length in bytes of a packet whose body has `remaining_len`.
pub(super) const fn packet_len(remaining_len: usize) -> usize {
    1 + varint_len(remaining_len) + remaining_len
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(bytes: &[u8], packet_bytes_max: usize) -> Fault {
        frame(bytes, packet_bytes_max).expect_err("must be refused").fault
    }

    fn missing(bytes: &[u8]) -> usize {
        match frame(bytes, PACKET_BYTES_LIMIT).expect("no fault yet") {
            Framing::Incomplete { total_len } => total_len,
            Framing::Whole(_) => panic!("not whole"),
        }
    }

    // [MQTT5-4.2.0-1] [MQTT311-7.1.1-1]
    #[test]
    fn a_packet_is_found_only_once_its_last_byte_is_there() {
        let bytes = [0x30, 0x03, 0x00, 0x01, b'a', 0xC0, 0x00];
        for cut in 0..5 {
            assert_eq!(missing(&bytes[..cut]), if cut < 2 { 2 } else { 5 });
        }
        for cut in 5..=7 {
            let Ok(Framing::Whole(found)) = frame(&bytes[..cut], 5) else { panic!("whole") };
            assert_eq!((found.first_byte, found.body, found.total_len), (0x30, &bytes[2..5], 5));
        }
    }

    // Section 1.5.5 of 5.0, 2.2.3 of 3.1.1
    #[test]
    fn a_fourth_length_byte_that_goes_on_is_malformed_at_once() {
        assert_eq!(missing(&[0x30, 0xFF, 0xFF, 0xFF]), 5 + 0x1F_FFFF);
        assert_eq!(fault(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], PACKET_BYTES_LIMIT), Fault::Malformed);
        assert_eq!(missing(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]), PACKET_BYTES_LIMIT);
    }

    // [MQTT5-3.2.2-15]
    #[test]
    fn size_counts_the_fixed_header_and_is_judged_before_the_body_comes() {
        assert_eq!(fault(&[0x30, 0x0A], 11), Fault::PacketTooLarge);
        assert_eq!(fault(&[0x30, 0xFF], 100), Fault::PacketTooLarge);
        assert!(matches!(frame(&[0x30, 0x0A], 12), Ok(Framing::Incomplete { total_len: 12 })));
    }

    #[test]
    fn packet_type_zero_is_refused_at_its_first_byte() {
        assert_eq!(fault(&[0x00], 100), Fault::Protocol);
        assert_eq!(fault(&[0x0A, 0xC0], 100), Fault::Protocol);
    }

    // [MQTT5-1.5.5-1]
    #[test]
    fn variable_byte_integers_are_minimal_both_ways() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (268_435_455, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value as usize);
            assert_eq!(out, bytes);
            assert_eq!(varint_len(value as usize), bytes.len());
            assert_eq!(FieldReader::new(bytes).varint(), Ok(value));
        }
        for bytes in [&[0x80, 0x00][..], &[0xFF, 0x80, 0x00], &[0x80, 0x80, 0x80, 0x80, 0x01], &[0x80]] {
            assert_eq!(FieldReader::new(bytes).varint().map_err(|e| e.fault), Err(Fault::Malformed));
        }
    }

    // [MQTT5-1.5.4-1] [MQTT5-1.5.4-2] [MQTT5-1.5.4-3] [MQTT311-1.5.3-1] [MQTT311-1.5.3-3]
    #[test]
    fn strings_are_utf8_without_nul_and_keep_a_byte_order_mark() {
        let read = |bytes: &[u8]| {
            let mut field = Vec::new();
            put_binary(&mut field, bytes);
            FieldReader::new(&field).text().map(str::to_owned).map_err(|e| e.fault)
        };
        assert_eq!(read(b"\xEF\xBB\xBFa"), Ok("\u{FEFF}a".to_owned()));
        assert_eq!(read("A\u{2A6D4}".as_bytes()), Ok("A\u{2A6D4}".to_owned()));
        assert_eq!(read(b""), Ok(String::new()));
        for bad in [&b"\xED\xA0\x80"[..], b"\xED\xBF\xBF", b"\xC0\xAF", b"\xF5\x80\x80\x80", b"\xC3", b"\0"] {
            assert_eq!(read(bad), Err(Fault::Malformed));
        }
        assert_eq!(FieldReader::new(&[0, 2, b'a']).text().map_err(|e| e.fault), Err(Fault::Malformed));
    }

    // Section 1.5.4
    #[test]
    fn names_hold_neither_control_characters_nor_non_characters() {
        for good in ["", "a b~", "é", "\u{A0}", "\u{FFFD}", "\u{FDF0}", "\u{10FFFD}"] {
            assert!(is_plain(good), "{good:?}");
        }
        for bad in
            ["\0", "\u{1}", "a\u{1F}", "\u{7F}", "é\u{80}", "\u{9F}", "\u{FDD0}", "\u{FFFF}", "\u{10FFFE}"]
        {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
