//! The store of a broker across its starts: the checkpoint in memory, which takes the sealed segments, and
//! the restoration from it and from the segments that it does not have yet. Damage must not occur.

use crate::disk::Disk;
use crate::random::Random;
use midge::host::{CheckpointMark, SealedSegments};
use midge::store::segment::{BLOCK, Header, LogName, parse_file_name};
use midge::store::{Changes, ClockReading, MemoryBase, Restored, Spares, StoreError, Wall};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub struct Store {
    base: MemoryBase,
    queue: Arc<Mutex<Queue>>,
}

/// Segments on their way to the checkpoint.
struct Queue {
    sealed: VecDeque<Sealed>,
    spares: Spares,
}

struct Sealed {
    path: PathBuf,
    /// The number of bytes that were written to it, if known.
    written: Option<u64>,
}

/// A shard's handle on the checkpoint.
pub struct Submitter(Arc<Mutex<Queue>>);

/// The result of a recovery.
pub struct Recovered {
    pub parts: Vec<Restored>,
    pub wall: Wall,
    pub intents: usize,
    pub sessions: usize,
    pub deliveries: usize,
}

/// The directory of the segments.
pub const DIRECTORY: &str = "log";

impl SealedSegments for Submitter {
    fn submit(&self, path: PathBuf, bytes: u64) {
        lock(&self.0).sealed.push_back(Sealed { path, written: Some(bytes) });
    }

    fn mark(&self, _mark: CheckpointMark) {}

    fn log_bytes(&self) -> u64 {
        lock(&self.0).sealed.iter().filter_map(|sealed| sealed.written).sum()
    }

    fn spares(&self) -> Spares {
        lock(&self.0).spares.clone()
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// The store for the first run, with this number of shards.
    pub fn new(epoch: u64, shards: usize) -> Store {
        let queue = Queue { sealed: VecDeque::new(), spares: Spares::new(epoch, shards) };
        Store { base: MemoryBase::default(), queue: Arc::new(Mutex::new(queue)) }
    }

    pub fn submitter(&self) -> Submitter {
        Submitter(Arc::clone(&self.queue))
    }

    /// Whether segments wait.
    pub fn has_sealed(&self) -> bool {
        !lock(&self.queue).sealed.is_empty()
    }

    /// Merges all waiting segments into the checkpoint, and returns their files.
    pub fn work(&mut self, disk: &mut Disk) -> Result<(), String> {
        let (sealed, spares) = {
            let mut queue = lock(&self.queue);
            (std::mem::take(&mut queue.sealed), queue.spares.clone())
        };
        let mut changes = Changes::new(&self.base).map_err(failed)?;
        for Sealed { path, written } in &sealed {
            let (name, number) = name_of(path).ok_or("a sealed segment with another name")?;
            if changes.has_segment(name, number) {
                continue;
            }
            let bytes = disk.read(path).ok_or_else(|| format!("{} is gone", path.display()))?;
            let header = Header::decode(&bytes).ok_or("a sealed segment without a header")?;
            let replayed = changes.apply_segment(&self.base, &header, &bytes).map_err(failed)?;
            if !replayed.gaps.is_empty() {
                return Err(format!("checkpoint: a sealed segment has gaps: {:?}", replayed.gaps));
            }
            if let Some(written) = written.filter(|&written| (replayed.end + BLOCK) as u64 <= written) {
                return Err(format!("checkpoint: a segment ends at {} of {written} bytes", replayed.end));
            }
        }
        self.base.commit(&mut changes);
        for Sealed { path, .. } in sealed {
            if !spares.give(&path) {
                disk.remove(&path);
            }
        }
        Ok(())
    }

    /// Recovers for a start with this number of shards, with the run of the broker, its seed, and the clocks.
    pub fn recover(
        &mut self,
        disk: &mut Disk,
        (epoch, shards, seed): (u64, usize, u64),
        now: ClockReading,
        rng: &mut Random,
    ) -> Result<Recovered, String> {
        if rng.chance(100) {
            // The power is cut again, at any point of the recovery.
            self.try_to_recover(disk, (shards, seed), now, rng.chance(500))?;
        }
        let commits = rng.chance(500);
        let (recovered, pending) = self.try_to_recover(disk, (shards, seed), now, commits)?;
        let sealed = match commits || recovered.intents > 0 {
            true => VecDeque::new(),
            false => pending.into_iter().map(|path| Sealed { path, written: None }).collect(),
        };
        let is_pending = |path: &Path| sealed.iter().any(|sealed: &Sealed| sealed.path == path);
        for path in disk.paths().into_iter().filter(|path| !is_pending(path)) {
            disk.remove(&path);
        }
        self.queue = Arc::new(Mutex::new(Queue { sealed, spares: Spares::new(epoch, shards) }));
        Ok(recovered)
    }

    /// The restored state, and the segments that it comes from. With `commits` it is in the checkpoint
    /// afterwards.
    fn try_to_recover(
        &mut self,
        disk: &Disk,
        (shards, seed): (usize, u64),
        now: ClockReading,
        commits: bool,
    ) -> Result<(Recovered, Vec<PathBuf>), String> {
        let mut changes = Changes::new(&self.base).map_err(failed)?;
        let mut segments: Vec<_> = disk
            .paths()
            .into_iter()
            .filter_map(|path| {
                name_of(&path).map(|(LogName { epoch, shard }, number)| (epoch, shard, number, path))
            })
            .collect();
        segments.sort();
        let (mut intents, mut applied, mut last) = (0, Vec::new(), BTreeMap::new());
        for (epoch, shard, number, path) in segments {
            if changes.has_segment(LogName { epoch, shard }, number) {
                continue;
            }
            let bytes = disk.read(&path).unwrap_or_default();
            let Some(header) = bytes.get(..BLOCK).and_then(Header::decode) else {
                if bytes.iter().any(|&byte| byte != 0) {
                    return Err(format!("recovery: {} has no header", path.display()));
                }
                continue;
            };
            if (header.epoch, header.shard, header.number) != (epoch, shard, number) {
                // The file was another segment before, and nothing is in it yet.
                continue;
            }
            if header.epoch > changes.meta().epoch {
                intents += changes.resolve_intents(&self.base).map_err(failed)?;
            }
            let replayed = changes.apply_segment(&self.base, &header, &bytes).map_err(failed)?;
            if !replayed.gaps.is_empty() {
                return Err(format!("recovery: a power cut looks like damage: {:?}", replayed.gaps));
            }
            let before = last.insert((epoch, shard), replayed.last_sequence.max(header.first_sequence - 1));
            if before.is_some_and(|before| replayed.frames > 0 && before + 1 != header.first_sequence) {
                return Err(format!("recovery: records before {} are missing", path.display()));
            }
            applied.push(path);
        }
        intents += changes.resolve_intents(&self.base).map_err(failed)?;
        if changes.ignored() > 0 || changes.bad_rows() > 0 {
            let (ignored, bad) = (changes.ignored(), changes.bad_rows());
            return Err(format!("recovery: {ignored} records name what is not there, {bad} rows are bad"));
        }
        let wall = changes.log_clock(now).wall;
        let (parts, _) = changes.restore(&self.base, shards, seed, wall).map_err(failed)?;
        if intents > 0 || commits {
            self.base.commit(&mut changes);
        }
        let sessions = parts.iter().map(|part| part.sessions.len()).sum();
        let deliveries =
            parts.iter().flat_map(|part| &part.sessions).map(|session| session.deliveries.len()).sum();
        Ok((Recovered { parts, wall, intents, sessions, deliveries }, applied))
    }
}

fn name_of(path: &Path) -> Option<(LogName, u64)> {
    path.file_name().and_then(|name| name.to_str()).and_then(parse_file_name)
}

fn failed(error: StoreError) -> String {
    format!("the store failed: {error}")
}
