//! The data that a search needs about a filter, or about several with the same beginning. It takes half a
//! cache line.
//!
//! A single entry is a leaf of the trie: one filter, with its text after that of its parent, and its
//! subscribers. With links to children it is the head of a node.

use super::slab::NONE;
use super::subscribers::ListSlot;
use std::fmt;

/// A text of one or more levels below a parent, with the subscribers of the filter that ends with it.
#[repr(align(32))]
pub(super) enum Entry {
    Short { parent: u32, list: ListSlot, shape: Shape, len: u8, text: [u8; SHORT_MAX] },
    Long { parent: u32, list: ListSlot, shape: Shape, text: Box<[u8]> },
}

// Two entries fit into a cache line, and none crosses a line.
const _: () = assert!(size_of::<Entry>() == 32);

/// Facts about a text that a search would otherwise have to count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// The number of levels. It is correct for texts of up to 255 bytes, and only used for these.
    levels: u8,
    /// The bytes before the first wildcard, or `PLAIN` if there is none.
    plain: u8,
}

impl Entry {
    /// `parent` is the number of a node. A text of more than 255 bytes must be one level without a wildcard.
    pub(super) fn new(parent: u32, text: &[u8], list: ListSlot) -> Entry {
        let shape = Shape::of(text);
        if text.len() > SHORT_MAX {
            return Entry::Long { parent, list, shape, text: text.into() };
        }
        let mut short = [0; SHORT_MAX];
        short[..text.len()].copy_from_slice(text);
        Entry::Short { parent, list, shape, len: text.len() as u8, text: short }
    }

    pub(super) fn parent(&self) -> u32 {
        match self {
            Entry::Short { parent, .. } | Entry::Long { parent, .. } => *parent,
        }
    }

    pub(super) fn list(&self) -> &ListSlot {
        match self {
            Entry::Short { list, .. } | Entry::Long { list, .. } => list,
        }
    }

    pub(super) fn list_mut(&mut self) -> &mut ListSlot {
        match self {
            Entry::Short { list, .. } | Entry::Long { list, .. } => list,
        }
    }

    pub(super) fn text(&self) -> &[u8] {
        match self {
            Entry::Short { len, text, .. } => &text[..usize::from(*len).min(SHORT_MAX)],
            Entry::Long { text, .. } => text,
        }
    }

    /// The first level of its text.
    pub(super) fn level(&self) -> &[u8] {
        first_level(self.text()).0
    }

    /// Compares its text with the rest of a topic name.
    pub(super) fn compare(&self, topic: Topic<'_>) -> Compared {
        let (shape, text, begins_alike) = match self {
            Entry::Short { shape, len, text, .. } => {
                let plain = shape.plain.min(*len);
                let differences = (u128::from_le_bytes(*text) ^ topic.first) & mask(plain);
                (shape, &text[..usize::from(*len).min(SHORT_MAX)], differences == 0)
            }
            Entry::Long { shape, text, .. } => {
                let plain = text.len().min(shape.plain.into());
                (shape, &**text, topic.rest.starts_with(&text[..plain]))
            }
        };
        if begins_alike && let Some(levels) = compare_from_wildcard(*shape, text, topic.rest) {
            return levels;
        }
        compare(text, topic.rest)
    }
}

impl Shape {
    fn of(text: &[u8]) -> Shape {
        let slashes = text.iter().filter(|&&byte| byte == b'/').count();
        let plain = text.iter().position(|byte| matches!(byte, b'+' | b'#'));
        let plain = plain.map_or(PLAIN, |plain| plain.try_into().unwrap_or(PLAIN - 1));
        Shape { levels: u8::try_from(slashes + 1).unwrap_or(u8::MAX), plain }
    }
}

/// The rest of a topic name, and its first bytes, padded with zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Topic<'a> {
    rest: &'a [u8],
    first: u128,
}

impl Topic<'_> {
    pub(super) fn new(rest: &[u8]) -> Topic<'_> {
        let first = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut padded = [0; SHORT_MAX];
            padded[..rest.len()].copy_from_slice(rest);
            padded
        });
        Topic { rest, first: u128::from_le_bytes(first) }
    }
}

/// A mask for the lowest `bytes` of a number.
fn mask(bytes: u8) -> u128 {
    match bytes {
        0 => 0,
        bytes => u128::MAX >> (128 - 8 * u32::from(bytes.min(16))),
    }
}

/// Compares a text whose bytes before the first wildcard equal those of the topic name. `None` if it does not
/// match.
fn compare_from_wildcard(shape: Shape, text: &[u8], topic: &[u8]) -> Option<Compared> {
    let levels = u32::from(shape.levels);
    if shape.plain == PLAIN {
        return match topic.get(text.len()) {
            Some(b'/') => Some(Compared::Beginning(levels)),
            None if topic.len() == text.len() => Some(Compared::Whole(levels)),
            _ => None,
        };
    }
    let plain = usize::from(shape.plain);
    let (wildcards, topic) = (text.get(plain..)?, topic.get(plain..)?);
    if wildcards == b"#" {
        return Some(Compared::UpToHash(levels - 1));
    }
    match compare(wildcards, topic) {
        Compared::Whole(_) => Some(Compared::Whole(levels)),
        Compared::Beginning(_) => Some(Compared::Beginning(levels)),
        Compared::UpToHash(_) => Some(Compared::UpToHash(levels - 1)),
        Compared::Differs(_) | Compared::TopicEnds(_) => None,
    }
}

impl Default for Entry {
    fn default() -> Entry {
        Entry::new(NONE, b"", ListSlot::default())
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("text", &String::from_utf8_lossy(self.text())).finish_non_exhaustive()
    }
}

/// The first level of a text, and the text after its `/`.
pub(super) fn first_level(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match level_end(text) {
        Some(end) => (&text[..end], Some(&text[end + 1..])),
        None => (text, None),
    }
}

/// The position of the first `/`.
fn level_end(text: &[u8]) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    // Levels are short. For them, eight bytes at a time are faster than a search made for long texts.
    let (words, rest) = text.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let differences = u64::from_le_bytes(*word) ^ (LOW * u64::from(b'/'));
        // The lowest set bit belongs to the first byte that is zero.
        let zeros = differences.wrapping_sub(LOW) & !differences & HIGH;
        if zeros != 0 {
            return Some(at * 8 + zeros.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|&byte| byte == b'/').map(|at| words.len() * 8 + at)
}

/// The length of the levels that two texts have in common at their beginning, without the last `/`. `None` if
/// the first levels differ.
pub(super) fn common_levels(one: &[u8], other: &[u8]) -> Option<usize> {
    let bytes = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let ends = |text: &[u8], at: usize| text.get(at).is_none_or(|&byte| byte == b'/');
    if ends(one, bytes) && ends(other, bytes) {
        return Some(bytes);
    }
    one[..bytes].iter().rposition(|&byte| byte == b'/')
}

/// The result of comparing the text of an entry with the rest of a topic name. The number is that of the
/// levels of the text that match, without `#`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// All levels match, and the topic name has no more.
    Whole(u32),
    /// All levels match, and the topic name has more.
    Beginning(u32),
    /// All levels before a `#` match.
    UpToHash(u32),
    /// The next level differs.
    Differs(u32),
    /// The topic name has no next level.
    TopicEnds(u32),
}

/// Compares a text, which may have wildcards, with the rest of a topic name.
fn compare(mut text: &[u8], mut topic: &[u8]) -> Compared {
    let mut levels = 0;
    loop {
        let (wanted, name) = match text.first() {
            // A wildcard fills its level.
            Some(b'+') => (1, level_end(topic).unwrap_or(topic.len())),
            _ => {
                let end = level_end(text).unwrap_or(text.len());
                if !topic.starts_with(&text[..end]) || topic.get(end).is_some_and(|&byte| byte != b'/') {
                    return Compared::Differs(levels);
                }
                (end, end)
            }
        };
        levels += 1;
        match (text.get(wanted + 1..), topic.get(name + 1..)) {
            (Some(b"#"), _) => return Compared::UpToHash(levels),
            (None, None) => return Compared::Whole(levels),
            (None, Some(_)) => return Compared::Beginning(levels),
            (Some(_), None) => return Compared::TopicEnds(levels),
            (Some(further), Some(after)) => (text, topic) = (further, after),
        }
    }
}

/// The length of a text that needs no heap, in bytes.
const SHORT_MAX: usize = 16;
const PLAIN: u8 = u8::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_texts_short_or_long() {
        for (level, rest) in
            [("", ""), ("", "/+"), ("pump", ""), ("a-level-of-sixte", ""), ("a-level-of-sixte", "/+/x/#")]
        {
            let text = format!("{level}{rest}");
            let entry = Entry::new(7, text.as_bytes(), ListSlot::default());
            assert_eq!((entry.parent(), entry.text(), entry.level()), (7, text.as_bytes(), level.as_bytes()));
            assert!(entry.list().is_empty());
        }
    }

    #[test]
    fn only_whole_levels_are_common() {
        for (one, other, common) in [
            ("a", "a", Some(1)),
            ("a", "b", None),
            ("a", "ab", None),
            ("a/b", "a", Some(1)),
            ("a/b", "a/bc", Some(1)),
            ("a/b/c", "a/b/d", Some(3)),
            ("", "", Some(0)),
            ("", "/x", Some(0)),
            ("/x", "/y", Some(0)),
            ("//", "//x", Some(1)),
            ("", "x", None),
        ] {
            assert_eq!(common_levels(one.as_bytes(), other.as_bytes()), common, "{one:?} {other:?}");
            assert_eq!(common_levels(other.as_bytes(), one.as_bytes()), common, "{other:?} {one:?}");
        }
    }

    #[test]
    fn the_first_slash_ends_the_first_level() {
        for length in 0..40 {
            let mut text = vec![b'.'; length];
            assert_eq!(level_end(&text), None);
            for slash in (0..length).rev() {
                text[slash] = b'/';
                assert_eq!(level_end(&text), Some(slash), "{length}");
            }
            for (at, byte) in text.iter_mut().enumerate() {
                *byte = [b'/' + 1, b'/' - 1, 0, 0xAF, 0x80][at % 5];
            }
            assert_eq!(level_end(&text), None);
        }
    }

    #[test]
    fn texts_are_compared_level_by_level() {
        use Compared::{Beginning, Differs, TopicEnds, UpToHash, Whole};
        for (text, topic, compared) in [
            ("a", "a", Whole(1)),
            ("a", "ab", Differs(0)),
            ("ab", "a", Differs(0)),
            ("a", "a/b", Beginning(1)),
            ("a/+", "a/b", Whole(2)),
            ("a/+", "a/", Whole(2)),
            ("a/+", "a", TopicEnds(1)),
            ("+/b/#", "a/b", UpToHash(2)),
            ("+/b/#", "a/b/c/d", UpToHash(2)),
            ("+/b/#", "a/c/b", Differs(1)),
            ("", "", Whole(1)),
            ("/", "/", Whole(2)),
            ("/", "", TopicEnds(1)),
        ] {
            assert_eq!(compare(text.as_bytes(), topic.as_bytes()), compared, "{text:?} {topic:?}");
            let entry = Entry::new(1, text.as_bytes(), ListSlot::default());
            assert_eq!(entry.compare(Topic::new(topic.as_bytes())), compared, "{text:?} {topic:?}");
        }
    }
}
