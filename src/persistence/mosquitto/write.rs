//! Writes what was taken from a database of mosquitto as the checkpoint of a new state directory, where the
//! next start finds it.

use super::{Database, ImportTerms, Takings, take};
use crate::persistence::checkpoint::CHANGES_BYTES_WANTED;
use crate::persistence::directory::{remove, rename, sync};
use crate::persistence::{Image, StoreDirectory};
use crate::store::segment::Header;
use crate::store::{ApplyError, Changes, StoreError};
use std::path::Path;

/// The header of the first start, with one shard. Nothing of it is in a log.
const HEADER: Header = Header { epoch: 1, shard: 0, shards: 1, number: 0, first_sequence: 1, seed: 0 };

/// Creates a state directory from a database. When this returns, all of it is durable. If it fails, the
/// directory contains no state.
///
/// # Errors
/// [`StoreError`] if the directory is in use, contains a state already, or can't be written.
pub fn import(path: &Path, database: &Database<'_>, terms: &ImportTerms<'_>) -> Result<Takings, StoreError> {
    let directory = StoreDirectory::open(path)?;
    let checkpoint = directory.checkpoint();
    if checkpoint.exists() || !directory.segments()?.is_empty() {
        let cause = "there is a state in it already; name an empty directory";
        return Err(StoreError::new("can't write into the state directory", directory.path(), cause));
    }
    // A file without its final name is not a state.
    let unfinished = directory.unfinished_checkpoint();
    remove(&unfinished)?;
    let takings = match write(&unfinished, database, terms) {
        Ok(takings) => takings,
        Err(error) => {
            // The first error is the one to report.
            let _ = remove(&unfinished);
            return Err(error);
        }
    };
    rename(&unfinished, &checkpoint)?;
    sync(directory.path())?;
    if let Some(parent) = directory.path().parent() {
        sync(parent)?;
    }
    Ok(takings)
}

fn write(path: &Path, database: &Database<'_>, terms: &ImportTerms<'_>) -> Result<Takings, StoreError> {
    let mut image = Image::open(path)?;
    let mut changes = Changes::new(&image)?;
    let takings = take(database, terms, &mut |frame| {
        changes.apply_frame(&image, &HEADER, frame).map_err(|error| match error {
            ApplyError::Store(error) => error,
            ApplyError::Bad(bad) => StoreError::new("can't write", path, bad),
        })?;
        if changes.bytes() > CHANGES_BYTES_WANTED { image.commit(&mut changes) } else { Ok(()) }
    })?;
    image.commit(&mut changes)?;
    Ok(takings)
}
