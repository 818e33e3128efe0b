//! The checkpoint: rows in one file that survives a crash at any point.
//!
//! The file's checksums are checked whenever it is opened. Without this check, the library below would trust
//! the file, and a flipped bit could cause a panic or a wrong row later.

use super::directory::new_file;
use crate::store::StoreError;
use crate::store::base::{Base, bounds};
use crate::store::rows::{META_KEY, META_VERSIONS, Meta, Row, Table};
use crate::store::state::Changes;
use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase, StorageError, TableDefinition,
    TableError,
};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The reason why an image could not be opened.
#[derive(Debug)]
pub enum ImageError {
    /// The file is not a checkpoint, or it is damaged. Another try won't help.
    Damaged(StoreError),
    /// The file may be intact, but it can't be opened or has another version.
    Other(StoreError),
}

impl From<ImageError> for StoreError {
    fn from(error: ImageError) -> StoreError {
        let (ImageError::Damaged(error) | ImageError::Other(error)) = error;
        error
    }
}

/// The open checkpoint file.
pub struct Image {
    path: PathBuf,
    /// The tables as of the last commit, in the order of [`Table::ALL`].
    tables: Vec<Rows>,
    database: Database,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({})", self.path.display())
    }
}

/// The size of the file's cache in memory, in bytes.
const CACHE_BYTES: usize = 64 << 20;

impl Image {
    /// Opens the file, or creates it, and reads all of it once.
    ///
    /// # Errors
    /// [`ImageError`], which shows whether it would help to set the file aside.
    pub fn open(path: &Path) -> Result<Image, ImageError> {
        new_file(path).map_err(|error| ImageError::Other(cant_open(path, error)))?;
        // A file that is wrong in a way that the library did not expect counts as damaged. It must not keep
        // the broker from starting.
        catch_unwind(AssertUnwindSafe(|| Image::open_trusting(path))).unwrap_or_else(|_| {
            let cause = "it is damaged in a way that was not expected";
            Err(ImageError::Damaged(cant_open(path, cause)))
        })
    }

    fn open_trusting(path: &Path) -> Result<Image, ImageError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let database = builder.create(path).map_err(|error| database_error(path, error))?;
        let mut image = Image { path: path.to_owned(), tables: Vec::new(), database };
        if !image.open_tables()? {
            image.make_tables()?;
            image.open_tables()?;
        }
        let meta = image.get(Table::Meta, META_KEY).map_err(ImageError::Damaged)?;
        if let Some(version) = meta.as_deref().and_then(Meta::other_version) {
            return Err(ImageError::Other(other_version(path, version)));
        }
        if let Some(Err(bad)) = meta.map(|value| Meta::decode(&value)) {
            return Err(ImageError::Damaged(cant_open(path, bad)));
        }
        Ok(image)
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The rows of the last commit. They stay as they are while others are committed.
    pub(super) fn rows(&self) -> ImageRows {
        let transaction = self.database.begin_read().map_err(redb::Error::from);
        let tables = transaction.and_then(|transaction| {
            let tables = Table::ALL.into_iter().map(|table| transaction.open_table(definition(table)));
            tables.collect::<Result<Vec<Rows>, TableError>>().map_err(redb::Error::from)
        });
        ImageRows { path: self.path.clone(), tables: tables.map_err(|error| error.to_string()) }
    }

    /// Commits all changes or none. Afterwards `changes` is empty.
    ///
    /// # Errors
    /// [`StoreError`] if they could not be written. Then it is not known whether they are in the file: open
    /// the file again, and build the changes again.
    pub fn commit(&mut self, changes: &mut Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        // Pages that are being read are not overwritten.
        self.tables.clear();
        self.write(changes)
            .map_err(|error| StoreError::new("can't write the checkpoint", &self.path, error))?;
        changes.clear();
        self.open_tables().map(drop).map_err(StoreError::from)
    }

    /// Adds all rows or none.
    ///
    /// # Errors
    /// See [`Image::commit`].
    pub(super) fn add(&mut self, rows: &[(Table, Row, Row)]) -> Result<(), StoreError> {
        self.tables.clear();
        self.transact(|write| rows.iter().for_each(|(table, key, value)| write(*table, key, Some(value))))
            .map_err(|error| StoreError::new("can't write the checkpoint", &self.path, error))?;
        self.open_tables().map(drop).map_err(StoreError::from)
    }

    fn write(&self, changes: &Changes) -> Result<(), redb::Error> {
        self.transact(|write| changes.each_changed(write))
    }

    /// Writes the rows that it is given, and removes those without a value, in one transaction.
    fn transact(
        &self,
        each: impl FnOnce(&mut dyn FnMut(Table, &[u8], Option<&[u8]>)),
    ) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        // Without this, the library would treat a flipped bit as an unfinished commit and go back to the
        // commit before.
        transaction.set_two_phase_commit(true);
        {
            let mut tables = Vec::with_capacity(Table::ALL.len());
            for table in Table::ALL {
                tables.push(transaction.open_table(definition(table))?);
            }
            let mut result = Ok(());
            each(&mut |table, key, value| {
                if result.is_ok() {
                    let table = &mut tables[table as usize];
                    result = match value {
                        Some(value) => table.insert(key, value).map(drop),
                        None => table.remove(key).map(drop),
                    };
                }
            });
            result?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Returns `false` if there are no tables yet.
    fn open_tables(&mut self) -> Result<bool, ImageError> {
        let failed = |error: redb::Error| ImageError::Other(cant_open(&self.path, error));
        let transaction = self.database.begin_read().map_err(|error| failed(error.into()))?;
        let mut tables = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            match transaction.open_table(definition(table)) {
                Ok(table) => tables.push(table),
                Err(TableError::TableDoesNotExist(_)) => return Ok(false),
                Err(TableError::Storage(error)) => return Err(storage_error(&self.path, error)),
                Err(error) => return Err(ImageError::Damaged(cant_open(&self.path, error))),
            }
        }
        self.tables = tables;
        Ok(true)
    }

    fn make_tables(&self) -> Result<(), ImageError> {
        let make = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_two_phase_commit(true);
            for table in Table::ALL {
                transaction.open_table(definition(table))?;
            }
            Ok(transaction.commit()?)
        };
        make().map_err(|error| ImageError::Other(cant_open(&self.path, error)))
    }

    fn table(&self, table: Table) -> Result<&Rows, StoreError> {
        let missing = || cant_read(&self.path, "a write to it failed");
        self.tables.get(table as usize).ok_or_else(missing)
    }
}

/// The rows of a checkpoint as of one commit.
pub(super) struct ImageRows {
    path: PathBuf,
    tables: Result<Vec<Rows>, String>,
}

impl ImageRows {
    /// Calls back with each row of each table.
    ///
    /// # Errors
    /// [`StoreError`] if they can't be read, or the first error of the callback.
    pub(super) fn each(
        &self,
        mut each: impl FnMut(Table, &[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let tables = self.tables.as_ref().map_err(|words| cant_read(&self.path, words.as_str()))?;
        for (table, rows) in Table::ALL.into_iter().zip(tables) {
            let range = rows.range::<&[u8]>(..).map_err(|error| cant_read(&self.path, error))?;
            for row in range {
                let (key, value) = row.map_err(|error| cant_read(&self.path, error))?;
                each(table, key.value(), value.value())?;
            }
        }
        Ok(())
    }
}

impl Base for Image {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, StoreError> {
        let value = self.table(table)?.get(key).map_err(|error| cant_read(&self.path, error))?;
        Ok(value.map(|value| Row::from_slice(value.value())))
    }

    fn contains(&self, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        let value = self.table(table)?.get(key).map_err(|error| cant_read(&self.path, error))?;
        Ok(value.is_some())
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        let failed = |error: StorageError| cant_read(&self.path, error);
        for row in self.table(table)?.range::<&[u8]>(bounds(from, until)).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            each(key.value(), value.value());
        }
        Ok(())
    }
}

fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

fn database_error(path: &Path, error: DatabaseError) -> ImageError {
    match error {
        DatabaseError::Storage(error) => storage_error(path, error),
        DatabaseError::DatabaseAlreadyOpen => ImageError::Other(cant_open(path, error)),
        error => ImageError::Damaged(cant_open(path, error)),
    }
}

fn storage_error(path: &Path, error: StorageError) -> ImageError {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    let is_damage = match &error {
        StorageError::Corrupted(_) => true,
        StorageError::Io(error) => matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof),
        _ => false,
    };
    let error = cant_open(path, error);
    if is_damage { ImageError::Damaged(error) } else { ImageError::Other(error) }
}

/// The error for rows of a version that this midge does not read.
pub(super) fn other_version(path: &Path, version: u8) -> StoreError {
    let (oldest, newest) = META_VERSIONS.into_inner();
    StoreError::other_version(path, version.into(), oldest.into()..=newest.into())
}

fn cant_open(path: &Path, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::new("can't open the checkpoint", path, cause)
}

fn cant_read(path: &Path, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::new("can't read the checkpoint", path, cause)
}

#[cfg(test)]
mod tests {
    use super::super::recovery::tests::{Scratch, WALL};
    use super::*;
    use crate::store::state::tests::{Frames, HEADER, Model, body, described};
    use crate::store::{Record, check_rows};

    #[test]
    fn random_records_are_kept_over_many_checkpoints_and_openings() {
        for seed in 0..6 {
            let scratch = Scratch::new();
            let path = scratch.open().checkpoint();
            let (mut frames, mut model) = (Frames::new(1000 + seed), Model::default());
            let mut image = Image::open(&path).unwrap();
            let mut changes = Changes::new(&image).unwrap();
            for turn in 0..80 {
                let records = frames.next_frame();
                model.apply_frame(turn, &records);
                changes.apply_frame(&image, &HEADER, &body(turn, &records)).unwrap();
                if turn % 7 == seed {
                    image.commit(&mut changes).unwrap();
                    assert_eq!(check_rows(&image).unwrap(), [] as [String; 0], "seed {seed}");
                }
                if turn % 21 == seed {
                    drop(image);
                    image = Image::open(&path).unwrap();
                    changes = Changes::new(&image).unwrap();
                }
            }
            let (parts, _) = changes.restore(&image, 3, 9, WALL).unwrap();
            assert_eq!(described(&parts), model.described(), "seed {seed}");
        }
    }

    /// A file of an earlier version has fewer tables.
    #[test]
    fn a_file_without_a_table_gets_it_and_keeps_its_rows() {
        let scratch = Scratch::new();
        let path = scratch.open().checkpoint();
        let (mut frames, mut model) = (Frames::new(3), Model::default());
        let mut image = Image::open(&path).unwrap();
        let mut changes = Changes::new(&image).unwrap();
        for turn in 0..80 {
            let mut records = frames.next_frame();
            records.retain(|record| !matches!(record, Record::Lost { .. } | Record::LossesTold { .. }));
            model.apply_frame(turn, &records);
            changes.apply_frame(&image, &HEADER, &body(turn, &records)).unwrap();
        }
        image.commit(&mut changes).unwrap();
        drop(image);
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        assert!(transaction.delete_table(definition(Table::Losses)).unwrap());
        transaction.commit().unwrap();
        drop(database);
        let image = Image::open(&path).unwrap();
        let (parts, _) = Changes::new(&image).unwrap().restore(&image, 3, 9, WALL).unwrap();
        assert_eq!(described(&parts), model.described());
        assert_eq!(check_rows(&image).unwrap(), [] as [String; 0]);
    }

    #[test]
    fn a_file_that_is_open_is_no_damaged_one() {
        let scratch = Scratch::new();
        let path = scratch.open().checkpoint();
        let _image = Image::open(&path).unwrap();
        assert!(matches!(Image::open(&path), Err(ImageError::Other(_))));
    }
}
