//! Copies the readable rows of a checkpoint that its library does not open any more into a new checkpoint.
//!
//! The input is a damaged file. The output is an intact file with the rows that are left. Rows that refer to
//! lost rows are copied, and the recovery drops them. The exception is messages: those that no delivery
//! refers to are left out, and the references to the others are counted again.

mod pages;

use self::pages::{Pages, Reference, Tally, root_of};
use super::image::{Image, other_version};
use crate::store::StoreError;
use crate::store::rows::{self, DeliveryRow, META_KEY, Meta, Presence, RetainedRow, Row, SessionRow, Table};
use crate::store::state::by_number;
use ahash::RandomState;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;

/// The result of reading a damaged checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Salvaged {
    pub(super) rows: u64,
    /// Whether the summary is among the rows.
    pub(super) has_meta: bool,
    pub(super) tally: Tally,
}

impl fmt::Display for Salvaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { pages, mended, lost } = self.tally;
        if pages == 0 {
            return f.write_str("nothing of it can be read");
        }
        write!(f, "{} rows in {pages} pages can be read", self.rows)?;
        if mended > 0 {
            write!(f, ", {mended} of them after a flipped bit was mended")?;
        }
        match lost {
            0 => f.write_str(", and none is lost"),
            _ => write!(f, ", and {lost} pages with all that they lead to can not"),
        }
    }
}

/// The approximate size of the transactions in which rows are written.
const BATCH_BYTES: usize = 16 << 20;

/// Reads the damaged file, and writes the readable rows to a new one.
///
/// # Errors
/// [`StoreError`] if the damaged file can't be opened or has another version, or if the new one can't be
/// written.
pub(super) fn salvage(from: &Path, into: &mut Image) -> Result<Salvaged, StoreError> {
    let mut writer = Writer { image: into, rows: Vec::new(), bytes: 0 };
    let mut meta = None;
    let mut derived = Meta::default();
    let mut counts: HashMap<u64, u32, RandomState> = by_number();
    let salvaged = read(from, |table, key, value| {
        raise(&mut derived, table, key, value);
        match table {
            Table::Meta => {
                meta = meta.take().or_else(|| Meta::decode(value).ok());
                return Ok(());
            }
            // The references are counted again.
            Table::Counts => return Ok(()),
            Table::Deliveries => {
                let Ok(row) = DeliveryRow::decode(value) else { return Ok(()) };
                *counts.entry(row.message.get()).or_default() += 1;
            }
            Table::Messages => {
                let number = rows::raw_number_at(key, 0).unwrap_or(0);
                match counts.get(&number) {
                    None => return Ok(()),
                    Some(1) => {}
                    Some(count) => writer.write(Table::Counts, key, &count.to_le_bytes())?,
                }
            }
            _ => {}
        }
        writer.write(table, key, value)
    })?;
    if salvaged.rows > 0 {
        let mut value = Vec::new();
        meta.unwrap_or(derived).encode(&mut value);
        writer.write(Table::Meta, META_KEY, &value)?;
    }
    writer.flush()?;
    Ok(salvaged)
}

/// Reads a damaged file only to see what can be read.
///
/// # Errors
/// [`StoreError`] if it can't be opened or has another version.
pub(super) fn look(from: &Path) -> Result<Salvaged, StoreError> {
    read(from, |_, _, _| Ok(()))
}

/// Passes on the rows, table by table. Deliveries come before the messages that they refer to. A file of
/// another version causes an error before any row of the tables after the summary, because its content is
/// unknown here.
fn read(
    from: &Path,
    mut each: impl FnMut(Table, &[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<Salvaged, StoreError> {
    let cant_read = |error: io::Error| StoreError::new("can't read the damaged checkpoint", from, error);
    let mut salvaged = Salvaged::default();
    if let Some(format) = Pages::other_format(from).map_err(cant_read)? {
        let read = u64::from(pages::VERSION);
        return Err(StoreError::other_version(from, format.into(), read..=read));
    }
    let Some((mut pages, list)) = Pages::open(from).map_err(cant_read)? else { return Ok(salvaged) };
    let mut roots: [Option<Reference>; Table::ALL.len()] = Default::default();
    let listed = pages.walk(list, |name, definition| {
        if let Some(table) = Table::ALL.into_iter().find(|table| table.name().as_bytes() == name) {
            roots[table as usize] = root_of(definition);
        }
        Ok(())
    });
    listed.map_err(cant_read)?;
    for table in Table::ALL {
        let Some(root) = roots[table as usize] else { continue };
        let mut failed = None;
        let walked = pages.walk(root, |key, value| {
            salvaged.rows += 1;
            if let (Table::Meta, Some(version)) = (table, Meta::other_version(value)) {
                failed = Some(other_version(from, version));
                return Err(io::Error::other("stopped"));
            }
            salvaged.has_meta |= table == Table::Meta && Meta::decode(value).is_ok();
            each(table, key, value).map_err(|error| {
                failed = Some(error);
                io::Error::other("stopped")
            })
        });
        match failed {
            Some(error) => return Err(error),
            None => walked.map_err(cant_read)?,
        }
    }
    salvaged.tally = pages.tally;
    Ok(salvaged)
}

/// Derives the summary from the rows, in case the summary is lost. No number may be used twice, and no
/// segment may be applied that is older than a row.
fn raise(meta: &mut Meta, table: Table, key: &[u8], value: &[u8]) {
    let first = rows::raw_number_at(key, 0).unwrap_or(0);
    match table {
        Table::Meta => {}
        Table::Retained => {
            let stamp = RetainedRow::decode(key, value).ok().map(|row| row.stamp);
            meta.last_stamp = meta.last_stamp.max(stamp);
        }
        Table::Deliveries => {
            let message = DeliveryRow::decode(value).map_or(0, |row| row.message.get());
            let number = rows::raw_number_at(key, 8).unwrap_or(0);
            meta.highest = meta.highest.max(first).max(number).max(message);
        }
        Table::Sessions => {
            if let Ok(SessionRow { presence: Presence::Connected { epoch }, .. }) = SessionRow::decode(value)
            {
                meta.epoch = meta.epoch.max(epoch);
            }
            meta.highest = meta.highest.max(first);
        }
        _ => meta.highest = meta.highest.max(first),
    }
}

/// Collects rows for the new file.
struct Writer<'a> {
    image: &'a mut Image,
    rows: Vec<(Table, Row, Row)>,
    bytes: usize,
}

impl Writer<'_> {
    fn write(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.bytes += key.len() + value.len();
        self.rows.push((table, Row::from_slice(key), Row::from_slice(value)));
        if self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        self.image.add(&std::mem::take(&mut self.rows))
    }
}

#[cfg(test)]
#[path = "salvage_tests.rs"]
mod tests;
