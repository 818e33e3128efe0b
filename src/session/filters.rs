//! The topic filters of a session as its client has sent them, sorted. Most sessions have few, which are
//! adjacent in memory. A session with many has a tree, so that adding one moves nothing.

use crate::base::Empty;
use crate::base::steps;
use std::collections::BTreeSet;
use std::ops::Bound;

/// See the module.
#[derive(Debug, Default)]
pub struct Filters {
    form: Form,
    bytes: usize,
}

#[derive(Debug)]
enum Form {
    Few(Vec<Box<str>>),
    #[allow(
        clippy::box_collection,
        reason = "the form is no larger than the list that nearly all sessions have"
    )]
    Many(Box<BTreeSet<Box<str>>>),
}

const _: () = assert!(size_of::<Filters>() == 32);

/// From this number on, the filters are in a tree.
const FEW_MAX: usize = 256;
/// Down to this number, the tree stays. It is well below the other bound, so that a session near it does not
/// rebuild the tree again and again.
const MANY_MIN: usize = 64;

impl Empty for Filters {
    const EMPTY: &Self = &Filters { form: Form::Few(Vec::new()), bytes: 0 };
}

impl Default for Form {
    fn default() -> Form {
        Form::Few(Vec::new())
    }
}

impl Filters {
    /// Adds a filter. Returns false if it is already there.
    pub(super) fn insert(&mut self, filter: &str) -> bool {
        let inserted = self.insert_text(filter);
        self.bytes += if inserted { filter.len() } else { 0 };
        inserted
    }

    fn insert_text(&mut self, filter: &str) -> bool {
        let few = match &mut self.form {
            Form::Many(many) => return !many.contains(filter) && many.insert(filter.into()),
            Form::Few(few) => few,
        };
        let Err(at) = few.binary_search_by(|have| (**have).cmp(filter)) else { return false };
        if few.is_empty() {
            // Most devices have one filter.
            few.reserve_exact(1);
        }
        steps::walked(few.len() - at);
        few.insert(at, filter.into());
        if few.len() > FEW_MAX {
            self.form = Form::Many(Box::new(std::mem::take(few).into_iter().collect()));
        }
        true
    }

    /// Removes a filter. Returns false if there was none.
    pub(super) fn remove(&mut self, filter: &str) -> bool {
        let removed = self.remove_text(filter);
        self.bytes -= if removed { filter.len() } else { 0 };
        removed
    }

    fn remove_text(&mut self, filter: &str) -> bool {
        match &mut self.form {
            Form::Few(few) => {
                let Ok(at) = few.binary_search_by(|have| (**have).cmp(filter)) else { return false };
                steps::walked(few.len() - at);
                few.remove(at);
                if few.len() < few.capacity() / 4 {
                    few.shrink_to_fit();
                }
                true
            }
            Form::Many(many) => {
                let removed = many.remove(filter);
                if many.len() <= MANY_MIN {
                    self.form = Form::Few(std::mem::take(&mut **many).into_iter().collect());
                }
                removed
            }
        }
    }

    /// Whether exactly this filter is there.
    pub fn contains(&self, filter: &str) -> bool {
        match &self.form {
            Form::Few(few) => few.binary_search_by(|have| (**have).cmp(filter)).is_ok(),
            Form::Many(many) => many.contains(filter),
        }
    }

    /// The number of filters.
    pub fn len(&self) -> usize {
        match &self.form {
            Form::Few(few) => few.len(),
            Form::Many(many) => many.len(),
        }
    }

    /// The total length of the filters, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there are no filters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All filters, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.from(Bound::Unbounded)
    }

    /// The filters after this one, sorted.
    pub fn after(&self, filter: &str) -> impl Iterator<Item = &str> {
        self.from(Bound::Excluded(filter))
    }

    /// The filters with this prefix. They are adjacent because of the order.
    pub(super) fn beginning_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.from(Bound::Included(prefix)).take_while(move |filter| filter.starts_with(prefix))
    }

    fn from(&self, start: Bound<&str>) -> impl Iterator<Item = &str> {
        let is_before = |filter: &str| match start {
            Bound::Unbounded => false,
            Bound::Included(start) => filter < start,
            Bound::Excluded(start) => filter <= start,
        };
        let (few, many) = match &self.form {
            Form::Few(few) => (&few[few.partition_point(|filter| is_before(filter))..], None),
            Form::Many(many) => (&[][..], Some(many.range::<str, _>((start, Bound::Unbounded)))),
        };
        few.iter().chain(many.into_iter().flatten()).map(|filter| &**filter)
    }

    pub(super) fn into_vec(self) -> Vec<Box<str>> {
        match self.form {
            Form::Few(few) => few,
            Form::Many(many) => many.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names whose order differs from that of their numbers.
    fn name(number: usize) -> String {
        format!("{}/{number}", number * 7919 % 10_007)
    }

    #[test]
    fn many_filters_in_any_order_move_few_others() {
        const FILTERS: usize = 10_000;
        let mut filters = Filters::default();
        let ((), steps) = steps::of(|| {
            for number in 0..FILTERS {
                assert!(filters.insert(&name(number)) && !filters.insert(&name(number)));
            }
        });
        assert!(steps <= (FEW_MAX * FEW_MAX) as u64, "{steps} to come");
        assert_eq!(filters.len(), FILTERS);
        assert!(filters.iter().is_sorted() && filters.iter().count() == FILTERS);
        let ((), steps) = steps::of(|| {
            for number in (0..FILTERS).rev() {
                assert!(filters.contains(&name(number)));
                assert!(filters.remove(&name(number)) && !filters.remove(&name(number)));
            }
        });
        assert!(steps <= (FEW_MAX * FEW_MAX) as u64, "{steps} to go");
        assert!(matches!(&filters.form, Form::Few(few) if few.is_empty() && few.capacity() <= 4));
    }

    #[test]
    fn parts_are_found_in_either_form() {
        for others in [0, 1000] {
            let mut filters = Filters::default();
            (0..others).for_each(|number| assert!(filters.insert(&name(number))));
            for filter in ["$share/g/a", "$sharf", "$share", "$share/h/b", "a", "b"] {
                filters.insert(filter);
            }
            let shared: Vec<_> = filters.beginning_with("$share/").collect();
            assert_eq!(shared, ["$share/g/a", "$share/h/b"]);
            assert_eq!(filters.after("9999999").collect::<Vec<_>>(), ["a", "b"]);
            assert_eq!(filters.after("a").collect::<Vec<_>>(), ["b"]);
            assert_eq!(filters.after("b").count(), 0);
            let all = filters.iter().map(Box::from).collect::<Vec<Box<str>>>();
            assert_eq!(filters.into_vec(), all);
        }
    }
}
