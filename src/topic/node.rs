//! A node of the trie: one cache line.

use super::entry::Entry;
use super::subscribers::ListSlot;
use std::num::NonZeroU32;

/// The levels with which several filters begin.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Node {
    /// Its levels after those of its parent, and the subscribers of the filter that ends here.
    pub(super) head: Entry,
    /// The subscribers of the filter that continues with `#`.
    pub(super) below: ListSlot,
    /// The child that begins with `+`.
    pub(super) plus: Option<Link>,
    /// One of the other children.
    pub(super) child: Option<Link>,
    pub(super) child_tag: u32,
    /// The number of further children, which are in the table.
    pub(super) children_in_table: u32,
    /// Its own number.
    pub(super) number: u32,
}

const _: () = assert!(size_of::<Node>() == 64);

impl Node {
    pub(super) fn new(parent: u32, text: &[u8]) -> Node {
        Node { head: Entry::new(parent, text, ListSlot::default()), ..Node::default() }
    }

    pub(super) fn has_named_child(&self) -> bool {
        self.child.is_some() || self.children_in_table > 0
    }

    pub(super) fn is_needed(&self) -> bool {
        self.plus.is_some()
            || self.has_named_child()
            || !self.head.list().is_empty()
            || !self.below.is_empty()
    }
}

/// The number of a node or of a leaf. An optional link also takes four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link(
    /// Twice the number, plus one for a leaf, with all bits inverted.
    NonZeroU32,
);

/// The target of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linked {
    Node(u32),
    Leaf(u32),
}

impl Link {
    pub(super) fn new(linked: Linked) -> Link {
        let (number, bit) = match linked {
            Linked::Node(number) => (number, 0),
            Linked::Leaf(number) => (number, 1),
        };
        let inverted = Some(number)
            .filter(|number| *number < NUMBERS)
            .and_then(|number| NonZeroU32::new(!(number << 1 | bit)));
        Link(inverted.expect("memory ends long before two billion values of 32 bytes and more"))
    }

    pub(super) fn linked(self) -> Linked {
        let raw = !self.0.get();
        if raw & 1 == 0 { Linked::Node(raw >> 1) } else { Linked::Leaf(raw >> 1) }
    }
}

const NUMBERS: u32 = u32::MAX >> 1;
