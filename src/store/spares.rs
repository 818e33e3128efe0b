//! Files of segments that are in the checkpoint, for reuse by the logs.
//!
//! A file that was written before takes writes faster than a new one, because the file system need not note
//! for each block that it now contains data. So the checkpoint returns the files of finished segments, and
//! each log creates its next segments from them.
//!
//! A file goes back only to the log that wrote it, in the run that wrote it. So it contains only frames of
//! that log with lower sequences than all new frames. They are never mistaken for frames of the new segment
//! ([`crate::store::segment`]), whatever a crash leaves of a write.

use crate::store::segment::{LogName, parse_file_name};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The largest number of files that wait for a log. Further ones are removed.
const SPARES_MAX: usize = 2;

/// The files. Clones share them. Unused files keep their old names, so that the next start knows that they
/// are not needed.
#[derive(Clone, Debug, Default)]
pub struct Spares {
    epoch: u64,
    /// By shard.
    lists: Arc<Mutex<Vec<Vec<PathBuf>>>>,
}

impl Spares {
    /// Creates the list for the logs of a run.
    pub fn new(epoch: u64, shards: usize) -> Spares {
        Spares { epoch, lists: Arc::new(Mutex::new(vec![Vec::new(); shards])) }
    }

    /// Takes the file of a segment whose changes are durable elsewhere. The file must have no other name.
    /// Returns `false` if it is not wanted and must be removed.
    pub fn give(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(parse_file_name);
        let Some((LogName { shard, .. }, _)) = name.filter(|(name, _)| name.epoch == self.epoch) else {
            return false;
        };
        let mut lists = self.lists();
        match lists.get_mut(usize::from(shard)) {
            Some(list) if list.len() < SPARES_MAX => {
                list.push(path.to_owned());
                true
            }
            _ => false,
        }
    }

    /// A file for the next segment of a shard's log, if there is one.
    pub fn take(&self, shard: u16) -> Option<PathBuf> {
        self.lists().get_mut(usize::from(shard))?.pop()
    }

    /// The files of all logs, for removal: when there is no room, or at the end.
    pub fn take_all(&self) -> Vec<PathBuf> {
        self.lists().iter_mut().flat_map(std::mem::take).collect()
    }

    fn lists(&self) -> MutexGuard<'_, Vec<Vec<PathBuf>>> {
        // No list is ever left half-changed.
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::segment::file_name;

    #[test]
    fn a_file_goes_back_to_the_log_that_wrote_it_and_no_more_than_are_wanted() {
        let file = |epoch, shard, number| Path::new("log").join(file_name(LogName { epoch, shard }, number));
        let spares = Spares::new(7, 2);
        assert!(!spares.give(&file(6, 0, 0)), "of an earlier run");
        assert!(!spares.give(&file(7, 2, 0)), "of a shard that is not there");
        assert!(!spares.give(Path::new("log/probe")), "no segment");
        let given: Vec<bool> = (0..3).map(|number| spares.give(&file(7, 1, number))).collect();
        assert_eq!(given, [true, true, false]);
        assert_eq!(spares.take(0), None);
        assert_eq!(spares.take(1), Some(file(7, 1, 1)));
        assert!(spares.give(&file(7, 0, 0)));
        assert_eq!(spares.take_all().len(), 2);
        assert_eq!((spares.take(1), spares.take(9), spares.take_all().len()), (None, None, 0));
    }
}
