//! The interface between the state and the storage that contains its rows.

use super::StoreError;
use super::rows::{Row, Table};
use super::state::Changes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Rows in the order of their keys.
pub trait Base {
    /// The value at a key.
    ///
    /// # Errors
    /// [`StoreError`] if it can't be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, StoreError>;

    /// Whether there is a row at this key.
    ///
    /// # Errors
    /// [`StoreError`] if it can't be read.
    fn contains(&self, table: Table, key: &[u8]) -> Result<bool, StoreError>;

    /// Passes on all rows from a key on. With `until`, ends before that key.
    ///
    /// # Errors
    /// [`StoreError`] if they can't be read.
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError>;
}

/// Rows in memory, for tests and the simulator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryBase {
    tables: [BTreeMap<Row, Row>; Table::ALL.len()],
}

impl MemoryBase {
    /// Applies the changes. Afterwards `changes` is empty.
    pub fn commit(&mut self, changes: &mut Changes) {
        changes.each_changed(|table, key, value| {
            let rows = &mut self.tables[table as usize];
            match value {
                Some(value) => rows.insert(Row::from_slice(key), Row::from_slice(value)),
                None => rows.remove(key),
            };
        });
        changes.clear();
    }
}

impl Base for MemoryBase {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, StoreError> {
        Ok(self.tables[table as usize].get(key).cloned())
    }

    fn contains(&self, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.tables[table as usize].contains_key(key))
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        for (key, value) in self.tables[table as usize].range::<[u8], _>(bounds(from, until)) {
            each(key, value);
        }
        Ok(())
    }
}

/// A range from a key on that ends before another.
pub(crate) fn bounds<'a>(from: &'a [u8], until: Option<&'a [u8]>) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(from), until.map_or(Bound::Unbounded, Bound::Excluded))
}
