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

use super::client_hello::{content_places, extension};

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
        let extension =
            extension(&message, SERVER_NAME).filter(|extension| extension.len() <= EXTENSION_BYTES_MAX)?;
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
const SERVER_NAME: usize = 0;
/// Of those for private use (RFC 8447, section 7): nobody has given it a meaning.
const UNKNOWN_EXTENSION: [u8; 2] = [0xff, 0x7f];

#[cfg(test)]
mod tests {
    use super::super::client_hello::tests::{hello_with, length, records};
    use super::*;

    fn hello(name: &[u8]) -> Vec<u8> {
        let names = [&[0], &length(name.len())[..], name].concat();
        let list = [&length(names.len())[..], &names].concat();
        hello_with(&[(0, &list)])
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
