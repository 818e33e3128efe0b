//! The rows of [`Changes`]: changed rows take precedence over those of the base.

use super::StoreError;
use super::base::{Base, bounds};
use super::rows::{Row, Table};
use super::state::Changes;

impl Changes {
    pub(crate) fn may_be_in_base(&self, table: Table, key: &[u8]) -> bool {
        table.born(key) <= self.base_meta.highest
    }

    /// The value at a key.
    pub(crate) fn row(&self, base: &dyn Base, table: Table, key: &[u8]) -> Result<Option<Row>, StoreError> {
        match self.tables[table as usize].get(key) {
            Some(value) => Ok(value.clone()),
            None if self.may_be_in_base(table, key) => base.get(table, key),
            None => Ok(None),
        }
    }

    pub(crate) fn has_row(&self, base: &dyn Base, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        match self.tables[table as usize].get(key) {
            Some(value) => Ok(value.is_some()),
            None if self.may_be_in_base(table, key) => base.contains(table, key),
            None => Ok(false),
        }
    }

    /// Returns the earlier change, if there was one: a value, or `None` for a removed row.
    pub(crate) fn set(
        &mut self,
        table: Table,
        key: &[u8],
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Option<Option<Row>> {
        self.buffer.clear();
        encode(&mut self.buffer);
        self.bytes += key.len() + self.buffer.len() + ROW_BYTES;
        let value = Row::from_slice(&self.buffer);
        self.tables[table as usize].insert(Row::from_slice(key), Some(value))
    }

    /// The number of changed rows of a table.
    pub(crate) fn changed(&self, table: Table) -> usize {
        self.tables[table as usize].len()
    }

    pub(crate) fn remove(&mut self, table: Table, key: &[u8]) {
        if self.may_be_in_base(table, key) {
            self.bytes += key.len() + ROW_BYTES;
            self.tables[table as usize].insert(Row::from_slice(key), None);
        } else {
            self.tables[table as usize].remove(key);
        }
    }

    /// Passes on all rows from a key on and before another, changed or not, in the order of their keys.
    ///
    /// # Errors
    /// [`StoreError`] if the base can't be read.
    pub fn scan(
        &self,
        base: &dyn Base,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        let mut mine = self.tables[table as usize].range::<[u8], _>(bounds(from, until)).peekable();
        base.scan(table, from, until, &mut |key, value| {
            while let Some((key, value)) = mine.next_if(|(mine, _)| mine.as_slice() < key) {
                if let Some(value) = value {
                    each(key, value);
                }
            }
            match mine.next_if(|(mine, _)| mine.as_slice() == key) {
                Some((_, Some(changed))) => each(key, changed),
                Some((_, None)) => {}
                None => each(key, value),
            }
        })?;
        for (key, value) in mine {
            if let Some(value) = value {
                each(key, value);
            }
        }
        Ok(())
    }

    pub(crate) fn bad_row(&mut self) {
        self.bad_rows += 1;
    }
}

/// The memory of a changed row in addition to its bytes.
const ROW_BYTES: usize = 64;
