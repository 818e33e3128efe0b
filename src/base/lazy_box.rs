//! A collection that is usually empty.

use std::collections::VecDeque;
use std::ops::Deref;

/// A collection in a box that is allocated when the first element is added, so that an empty one takes eight
/// bytes. Reading without a box sees an empty collection. A caller that writes chooses whether the box is
/// allocated.
#[derive(Debug)]
pub struct LazyBox<C>(Option<Box<C>>);

impl<C: Empty> LazyBox<C> {
    /// The collection, for adding an element. Allocates the box if there is none.
    pub fn filled(&mut self) -> &mut C {
        self.0.get_or_insert_default()
    }

    /// The collection, for changing or removing elements. `None` if there is no box.
    pub fn existing(&mut self) -> Option<&mut C> {
        self.0.as_deref_mut()
    }

    /// Takes the collection out and frees the box.
    pub fn take(&mut self) -> C {
        self.0.take().map_or_else(C::default, |boxed| *boxed)
    }
}

impl<C: Empty> Deref for LazyBox<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.0.as_deref().unwrap_or(C::EMPTY)
    }
}

impl<C> Default for LazyBox<C> {
    fn default() -> LazyBox<C> {
        LazyBox(None)
    }
}

/// A collection with a static empty value, which stands for a missing box.
pub trait Empty: Default + 'static {
    /// An empty collection.
    const EMPTY: &Self;
}

impl<T: 'static> Empty for Vec<T> {
    const EMPTY: &Self = &Vec::new();
}

impl<T: 'static> Empty for VecDeque<T> {
    const EMPTY: &Self = &VecDeque::new();
}

const _: () = assert!(size_of::<LazyBox<Vec<u8>>>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_box_only_while_something_was_put_in() {
        let mut list = LazyBox::<Vec<u32>>::default();
        assert!(list.is_empty() && list.existing().is_none());
        list.filled().push(7);
        assert_eq!(list.existing().map(|list| list.len()), Some(1));
        assert_eq!(list.take(), [7]);
        assert!(list.is_empty() && list.existing().is_none());
    }
}
