//! Writes what was taken of a database of mosquitto where the next start finds it: as the checkpoint of a new state
//! directory.

use super::{Database, ImportTerms, Takings, take};
use crate::persistence::checkpoint::CHANGES_BYTES_WANTED;
use crate::persistence::directory::{remove, rename, sync};
use crate::persistence::{Image, StoreDirectory};
use crate::store::segment::Header;
use crate::store::{ApplyError, Changes, StoreError};
use std::path::Path;

/// The first start, of one shard: nothing of it is in a log.
const HEADER: Header = Header { epoch: 1, shard: 0, shards: 1, number: 0, first_sequence: 1, seed: 0 };

/// Makes a state directory of a database. When it returns, all of it is durable; when it fails, the directory has no
/// state.
///
/// # Errors
/// [`StoreError`] if the directory is in use or has a state already, or can't be written.
pub fn import(path: &Path, database: &Database<'_>, terms: &ImportTerms<'_>) -> Result<Takings, StoreError> {
    let directory = StoreDirectory::open(path)?;
    let checkpoint = directory.checkpoint();
    if checkpoint.exists() || !directory.segments()?.is_empty() {
        let cause = "there is a state in it already; name an empty directory";
        return Err(StoreError::new("can't write into the state directory", directory.path(), cause));
    }
    // What has no name of its own yet is no state.
    let unfinished = directory.unfinished_checkpoint();
    remove(&unfinished)?;
    let takings = match write(&unfinished, database, terms) {
        Ok(takings) => takings,
        Err(error) => {
            // The error that matters is the first.
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
