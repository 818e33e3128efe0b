//! Server names (RFC 6066, section 3) that are no DNS names: with a port, in brackets, with a blank. Devices send them,
//! other brokers don't mind, and rustls refuses the client. Here they count as none.
//!
//! rustls is shown such a hello with the number of that extension changed to one that it does not know, and passes
//! over it. Both sides must hash the same hello, or the handshake fails: so the hashes of the handshake get the bytes
//! that the client has sent ([`Restoring`]), while the connection at hand is worked on. Nothing else of the hello is
//! touched, and nothing at all in one whose name rustls takes.

use std::borrow::Cow;
use std::cell::RefCell;

use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};

/// The extension as the client has sent it.
#[derive(Clone)]
pub(super) struct Unreadable {
    sent: Vec<u8>,
    shown: Vec<u8>,
}

impl Unreadable {
    /// Changes the hello that these records have, if it has a server name.
    pub(super) fn hide(records: &mut [u8]) -> Option<Unreadable> {
        let places = content_places(records);
        let message: Vec<u8> = places.iter().map(|place| records[*place]).collect();
        let extension = server_name(&message).filter(|extension| extension.len() <= EXTENSION_BYTES_MAX)?;
        for (place, byte) in places[extension.start..].iter().zip(UNKNOWN_EXTENSION) {
            records[*place] = byte;
        }
        let sent = message[extension].to_vec();
        let shown = [&UNKNOWN_EXTENSION, &sent[UNKNOWN_EXTENSION.len()..]].concat();
        Some(Unreadable { sent, shown })
    }

    /// Changes a second hello, which a client sends that is asked for another key exchange group.
    pub(super) fn hide_again(&self, records: &mut [u8]) {
        if let Some(start) = find(records, &self.sent) {
            records[start..start + UNKNOWN_EXTENSION.len()].copy_from_slice(&UNKNOWN_EXTENSION);
        }
    }

    /// Does something during which hashes and [`restored`] get what the client has sent.
    pub(super) fn restoring<R>(&self, act: impl FnOnce() -> R) -> R {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                AT_HAND.with_borrow_mut(|at_hand| *at_hand = None);
            }
        }
        AT_HAND.with_borrow_mut(|at_hand| *at_hand = Some(self.clone()));
        let _reset = Reset;
        act()
    }
}

thread_local! {
    /// Of the connection that this thread works on right now, if it has such a name.
    static AT_HAND: RefCell<Option<Unreadable>> = const { RefCell::new(None) };
}

/// Messages of a handshake as they were sent.
pub(super) fn restored(messages: &[u8]) -> Cow<'_, [u8]> {
    AT_HAND.with_borrow(|at_hand| {
        let Some(at_hand) = at_hand else { return Cow::Borrowed(messages) };
        let Some(start) = find(messages, &at_hand.shown) else { return Cow::Borrowed(messages) };
        let mut restored = messages.to_vec();
        restored[start..start + at_hand.sent.len()].copy_from_slice(&at_hand.sent);
        Cow::Owned(restored)
    })
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Where the bytes of the handshake lie in whole records of it.
fn content_places(records: &[u8]) -> Vec<usize> {
    let mut places = Vec::with_capacity(records.len());
    let mut at = 0;
    while let Some([_, _, _, high, low]) = records.get(at..at + RECORD_HEADER_BYTES) {
        let start = at + RECORD_HEADER_BYTES;
        at = start + usize::from(u16::from_be_bytes([*high, *low]));
        places.extend(start..at.min(records.len()));
    }
    places
}

/// Where the extension is in a ClientHello (RFC 8446, section 4.1.2): its number, its length and its content.
fn server_name(message: &[u8]) -> Option<std::ops::Range<usize>> {
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
        if kind == SERVER_NAME {
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
    /// Of one byte or two.
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

/// A hash that gets [`restored`] bytes.
pub(super) struct Restoring(pub(super) &'static dyn Hash);

struct RestoringContext(Box<dyn Context>);

impl Hash for Restoring {
    fn start(&self) -> Box<dyn Context> {
        Box::new(RestoringContext(self.0.start()))
    }

    fn hash(&self, data: &[u8]) -> Output {
        self.0.hash(&restored(data))
    }

    fn output_len(&self) -> usize {
        self.0.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm()
    }
}

impl Context for RestoringContext {
    fn fork_finish(&self) -> Output {
        self.0.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(RestoringContext(self.0.fork()))
    }

    fn finish(self: Box<Self>) -> Output {
        self.0.finish()
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(&restored(data));
    }
}

/// So long may the extension be: a name has 255 bytes at most, and it is searched for in all of the handshake.
const EXTENSION_BYTES_MAX: usize = 512;
const RECORD_HEADER_BYTES: usize = 5;
const HANDSHAKE_HEADER_BYTES: usize = 4;
const VERSION_AND_RANDOM_BYTES: usize = 2 + 32;
const SERVER_NAME: usize = 0;
/// Of those for private use (RFC 8447, section 7): nobody has given it a meaning.
const UNKNOWN_EXTENSION: [u8; 2] = [0xff, 0x7f];

#[cfg(test)]
mod tests {
    use super::*;

    /// A hello with one cipher suite, one extension of another kind, and a server name of these bytes.
    fn hello(name: &[u8]) -> Vec<u8> {
        let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
        let names = [&[0], &length(name.len())[..], name].concat();
        let list = [&length(names.len())[..], &names].concat();
        let server_name = [&[0, 0], &length(list.len())[..], &list].concat();
        let extensions = [&[0, 23, 0, 0], &server_name[..]].concat();
        let body = [&[3, 3], &[7; 32][..], &[0, 0, 2, 0x13, 1, 1, 0], &length(extensions.len()), &extensions];
        let body = body.concat();
        [&[1, 0], &length(body.len())[..], &body].concat()
    }

    fn records(message: &[u8], bytes: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[22, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat();
        message.chunks(bytes).flat_map(record).collect()
    }

    #[test]
    fn what_is_shown_differs_in_one_number_and_what_is_hashed_in_none() {
        let message = hello(b"foo bar");
        for bytes in [1, 2, 3, 50, 200] {
            let mut shown = records(&message, bytes);
            let sent = shown.clone();
            let unreadable = Unreadable::hide(&mut shown).unwrap();
            assert_eq!(shown.iter().zip(&sent).filter(|(one, other)| one != other).count(), 2);
            let content: Vec<u8> = content_places(&shown).iter().map(|place| shown[*place]).collect();
            assert_eq!(unreadable.restoring(|| restored(&content).into_owned()), message, "{bytes}");
            // Of no other connection.
            assert_eq!(restored(&content), content);
        }
    }

    #[test]
    fn a_hello_that_is_cut_or_has_no_short_name_stays_as_it_is() {
        let message = hello(b"foo bar");
        for end in 0..message.len() {
            let mut cut = records(&message[..end], 200);
            let sent = cut.clone();
            assert!(Unreadable::hide(&mut cut).is_none(), "{end}");
            assert_eq!(cut, sent);
        }
        let long = hello(&[b'a'; EXTENSION_BYTES_MAX]);
        assert!(Unreadable::hide(&mut records(&long, 255)).is_none());
    }
}
