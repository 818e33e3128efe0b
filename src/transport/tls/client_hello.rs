//! Reads from a ClientHello what rustls does not report: the longest record that the client can accept.
//!
//! rustls negotiates neither of the two extensions for this, so nothing is promised to the client. But
//! records may have any length, so a client that asks for short ones gets them.

use std::borrow::Cow;
use std::ops::Range;

/// The largest content of a record that the client of this hello wants, in bytes. The hello must be in
/// complete records.
pub(super) fn record_bytes_wanted(records: &[u8]) -> Option<usize> {
    let message = message(records);
    let content =
        |kind| extension(&message, kind).map(|extension| &message[extension][EXTENSION_HEADER_BYTES..]);
    // RFC 6066, section 4.
    let fragment = match content(MAX_FRAGMENT_LENGTH) {
        Some([code @ 1..=4]) => Some(256 << code),
        _ => None,
    };
    // RFC 8449, section 4: in TLS 1.3 the content type counts too.
    let limit = match content(RECORD_SIZE_LIMIT) {
        Some([high, low]) => Some(usize::from(u16::from_be_bytes([*high, *low])).saturating_sub(1)),
        _ => None,
    };
    fragment.into_iter().chain(limit).min()
}

/// The message in these records. It is nearly always in one record.
fn message(records: &[u8]) -> Cow<'_, [u8]> {
    if let [_, _, _, high, low, rest @ ..] = records {
        let first = rest.get(..usize::from(u16::from_be_bytes([*high, *low]))).unwrap_or(rest);
        if let [_, 0, high, low, body @ ..] = first
            && body.len() >= usize::from(u16::from_be_bytes([*high, *low]))
        {
            return Cow::Borrowed(first);
        }
    }
    content_places(records).iter().map(|place| records[*place]).collect()
}

/// The places of the handshake bytes within complete records.
pub(super) fn content_places(records: &[u8]) -> Vec<usize> {
    let mut places = Vec::with_capacity(records.len());
    let mut at = 0;
    while let Some([_, _, _, high, low]) = records.get(at..at + RECORD_HEADER_BYTES) {
        let start = at + RECORD_HEADER_BYTES;
        at = start + usize::from(u16::from_be_bytes([*high, *low]));
        places.extend(start..at.min(records.len()));
    }
    places
}

/// The place of an extension in a ClientHello (RFC 8446, section 4.1.2): its number, its length and its
/// content.
pub(super) fn extension(message: &[u8], wanted: usize) -> Option<Range<usize>> {
    let mut reader = Reader { message, at: HANDSHAKE_HEADER_BYTES + VERSION_AND_RANDOM_BYTES };
    let session = reader.number(1)?;
    reader.skip(session)?;
    let suites = reader.number(2)?;
    reader.skip(suites)?;
    let compressions = reader.number(1)?;
    reader.skip(compressions)?;
    let end = reader.number(2)? + reader.at;
    while reader.at < end {
        let start = reader.at;
        let kind = reader.number(2)?;
        let length = reader.number(2)?;
        reader.skip(length)?;
        if kind == wanted {
            return Some(start..reader.at);
        }
    }
    None
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// Reads a number of one or two bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        let read = self.message.get(self.at..self.at + bytes)?;
        self.at += bytes;
        Some(read.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.at += bytes;
        (self.at <= self.message.len()).then_some(())
    }
}

const RECORD_HEADER_BYTES: usize = 5;
const HANDSHAKE_HEADER_BYTES: usize = 4;
const VERSION_AND_RANDOM_BYTES: usize = 2 + 32;
const EXTENSION_HEADER_BYTES: usize = 4;
const MAX_FRAGMENT_LENGTH: usize = 1;
const RECORD_SIZE_LIMIT: usize = 28;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn length(bytes: usize) -> [u8; 2] {
        u16::try_from(bytes).unwrap().to_be_bytes()
    }

    /// A hello with one cipher suite, and with these extensions after one of another kind.
    pub(in super::super) fn hello_with(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let written = extensions
            .iter()
            .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &length(content.len()), content].concat());
        let extensions: Vec<u8> = [0, 23, 0, 0].into_iter().chain(written).collect();
        let body = [&[3, 3], &[7; 32][..], &[0, 0, 2, 0x13, 1, 1, 0], &length(extensions.len()), &extensions];
        let body = body.concat();
        [&[1, 0], &length(body.len())[..], &body].concat()
    }

    /// The message in records with `bytes` bytes of it each, at most 255.
    pub(in super::super) fn records(message: &[u8], bytes: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[22, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat();
        message.chunks(bytes).flat_map(record).collect()
    }

    #[test]
    fn the_shorter_of_the_two_wishes_counts_however_the_hello_is_cut() {
        const FRAGMENT: u16 = 1;
        const LIMIT: u16 = 28;
        type Case = (&'static [(u16, &'static [u8])], Option<usize>);
        let cases: [Case; 8] = [
            (&[], None),
            (&[(FRAGMENT, &[1])], Some(512)),
            (&[(FRAGMENT, &[4])], Some(4096)),
            (&[(FRAGMENT, &[5])], None),
            (&[(FRAGMENT, &[])], None),
            (&[(LIMIT, &[0x40, 0x01])], Some(16_384)),
            (&[(LIMIT, &[0x04, 0x01]), (FRAGMENT, &[2])], Some(1024)),
            (&[(FRAGMENT, &[3]), (LIMIT, &[0, 0])], Some(0)),
        ];
        for (extensions, wanted) in cases {
            let message = hello_with(extensions);
            for bytes in [1, 7, 255] {
                assert_eq!(record_bytes_wanted(&records(&message, bytes)), wanted, "{extensions:?}");
                // A hello that is cut at any place is read without a panic.
                for end in 0..message.len() {
                    record_bytes_wanted(&records(&message[..end], bytes));
                }
            }
        }
    }
}
