//! A copy of the state of a running broker, as a state directory of its own.
//!
//! The copy holds the rows of the checkpoint as of a cut through the logs of all shards, so a broker can start with it as
//! after a power failure at that moment. It is verified before it counts as done.

use super::directory::StoreDirectory;
use super::image::{Image, ImageRows};
use super::tools;
use crate::store::StoreError;
use crate::store::rows::{Row, Table};
use std::path::{Path, PathBuf};
use std::thread::Builder;

/// A backup to make.
pub struct BackupOrder {
    /// The directory, which must not exist or be empty.
    pub to: PathBuf,
    /// The number of the request for a checkpoint with the cut. It is asked for after the order.
    pub request: u64,
    /// Whether the cut was given up.
    pub is_void: Box<dyn Fn() -> bool + Send>,
    /// Takes what became of it, on a thread of its own.
    pub done: Box<dyn FnOnce(Result<BackupReport, String>) + Send>,
}

impl std::fmt::Debug for BackupOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BackupOrder({})", self.to.display())
    }
}

/// A backup that was made and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// The number of rows: sessions, subscriptions, messages and so on.
    pub rows: u64,
    /// The size of the file in bytes.
    pub bytes: u64,
}

/// The size of the rows that are written in one transaction, in bytes.
const TRANSACTION_BYTES: usize = 16 << 20;

/// Copies rows on a thread of its own, so that the checkpoint goes on meanwhile.
pub(super) fn back_up(rows: ImageRows, order: BackupOrder) {
    let BackupOrder { to, request: _, is_void, done } = order;
    if is_void() {
        return done(Err("the log of a shard did not stand still in time; try again".to_owned()));
    }
    let spawned = Builder::new().name("midge-backup".to_owned()).spawn(move || {
        done(copy(&rows, &to).map_err(|error| error.to_string()));
    });
    if let Err(error) = spawned {
        // The closure is gone, and with it whoever would take the answer. It sees that.
        tracing::error!("no thread for a backup: {error}");
    }
}

/// Whether a backup can be made in a directory: it does not exist, or is empty.
///
/// # Errors
/// A sentence that says why not.
pub fn check_target(to: &Path) -> Result<(), String> {
    if !to.is_absolute() {
        return Err(format!("the directory must be an absolute path, and is {}", to.display()));
    }
    match std::fs::read_dir(to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{} can't be read: {error}", to.display())),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(format!("{} is not empty; a backup needs a directory of its own", to.display())),
        },
    }
}

fn copy(rows: &ImageRows, to: &Path) -> Result<BackupReport, StoreError> {
    let mut report = BackupReport { rows: 0, bytes: 0 };
    let path = {
        let directory = StoreDirectory::open(to)?;
        let path = directory.checkpoint();
        let mut image = Image::open(&path)?;
        let (mut waiting, mut bytes): (Vec<(Table, Row, Row)>, usize) = (Vec::new(), 0);
        rows.each(|table, key, value| {
            report.rows += 1;
            bytes += key.len() + value.len();
            waiting.push((table, Row::from_slice(key), Row::from_slice(value)));
            if bytes >= TRANSACTION_BYTES {
                bytes = 0;
                image.add(&std::mem::take(&mut waiting))?;
            }
            Ok(())
        })?;
        image.add(&waiting)?;
        path
    };
    let mut lines = Vec::new();
    if !tools::verify(to, &mut lines)? {
        let words = String::from_utf8_lossy(&lines).trim_end().replace('\n', "; ");
        return Err(StoreError::new("the backup is not sound", to, words));
    }
    let failed = |error| StoreError::new("can't read the backup", &path, error);
    report.bytes = std::fs::metadata(&path).map_err(failed)?.len();
    Ok(report)
}
