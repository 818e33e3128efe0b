//! The level names that wildcard filters use, each kept once, counted by the trie nodes that
//! bear it.

use super::slab::Slab;
use super::table::{Keys, Table};
use smallvec::SmallVec;

/// Level name → number, while any node bears the name.
#[derive(Debug)]
pub(super) struct LevelNames {
    by_text: Table<u32>,
    names: Slab<LevelName>,
}

#[derive(Debug, Default)]
struct LevelName {
    /// Most level names are short and need no heap.
    text: SmallVec<[u8; 16]>,
    bearers: u32,
}

const _: () = assert!(size_of::<LevelName>() == 32);

impl LevelNames {
    pub(super) fn new() -> LevelNames {
        LevelNames { by_text: Table::new(), names: Slab::new() }
    }

    /// The number of a name that some node bears.
    pub(super) fn find(&self, keys: &Keys, text: &str) -> Option<u32> {
        let is_it = |number: &u32| *self.names[*number].text == *text.as_bytes();
        self.by_text.find(keys.text(text.as_bytes()), is_it).copied()
    }

    /// The number of a name for one more bearer.
    pub(super) fn acquire(&mut self, keys: &Keys, text: &str) -> u32 {
        if let Some(number) = self.find(keys, text) {
            self.names[number].bearers += 1;
            return number;
        }
        let text = text.as_bytes();
        let number = self.names.insert(LevelName { text: SmallVec::from_slice(text), bearers: 1 });
        let names = &self.names;
        self.by_text.insert(keys.text(text), number, |number| keys.text(&names[*number].text));
        number
    }

    /// One bearer less; the name goes with the last.
    pub(super) fn release(&mut self, keys: &Keys, number: u32) {
        let name = &mut self.names[number];
        name.bearers -= 1;
        if name.bearers > 0 {
            return;
        }
        let names = &self.names;
        let hash = keys.text(&names[number].text);
        let removed =
            self.by_text.remove(hash, |other| *other == number, |other| keys.text(&names[*other].text));
        debug_assert!(removed.is_some(), "a name is in the table as long as in the slab");
        self.names.remove(number);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_until_its_last_bearer_goes() {
        let keys = Keys::new(3);
        let mut names = LevelNames::new();
        let long = "a level name of more than sixteen bytes";
        let (short_number, long_number) = (names.acquire(&keys, ""), names.acquire(&keys, long));
        assert_ne!(short_number, long_number);
        assert_eq!(names.acquire(&keys, long), long_number);
        names.release(&keys, long_number);
        assert_eq!(names.find(&keys, long), Some(long_number));
        names.release(&keys, long_number);
        assert_eq!(names.find(&keys, long), None);
        assert_eq!(names.find(&keys, ""), Some(short_number));
        names.release(&keys, short_number);
        assert_eq!((names.len(), names.by_text.capacity()), (0, 0));
    }
}
