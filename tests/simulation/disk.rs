//! The disk: the files of all shards, and what is left of them after a power cut.
//!
//! A file with write-through has the data of a write when the write has ended. For other files, only a sync
//! guarantees this. A write that is pending at a power cut leaves any of its blocks. A name that no sync of
//! its directory has made durable may or may not be there; among several, earlier ones are there before later
//! ones.

use crate::random::Random;
use midge::base::log_files::{FileId, FileOperation, FileResult, LogWork, WRITE_BYTES_MAX};
use midge::store::segment::BLOCK;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Default)]
pub struct Disk {
    names: BTreeMap<PathBuf, usize>,
    /// The names that the disk has for certain.
    kept_names: BTreeMap<PathBuf, usize>,
    /// Changes of names that it may not have, in order.
    renamed: Vec<Naming>,
    files: Vec<File>,
    open: Vec<Option<Open>>,
    /// Pending operations, by number.
    under_way: BTreeMap<u64, Job>,
    next_job: u64,
    /// Shards whose log finds no room, and shards for which nothing works any more.
    full: BTreeSet<usize>,
    failed: BTreeSet<usize>,
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    /// Writes that the disk may not have.
    dirty: Vec<(usize, Vec<u8>)>,
}

struct Open {
    file: usize,
    writes_through: bool,
}

struct Job {
    shard: usize,
    /// The time at which it began. A turn whose effects are still appearing may begin it later than now.
    at: u64,
    work: LogWork,
    what: What,
}

enum What {
    Operation(FileOperation),
    /// `taken`: the number of bytes that the disk takes.
    Write {
        file: FileId,
        at: usize,
        bytes: Vec<u8>,
        taken: usize,
    },
}

#[derive(Clone)]
enum Naming {
    Set(PathBuf, usize),
    Removed(PathBuf),
}

/// What a power cut has made of the pending writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    /// No write was pending.
    Idle,
    /// All of it is there, or none of it.
    Whole,
    /// Some of its blocks are there.
    Part,
}

impl Disk {
    /// Begins an operation of a shard at this time. Returns its number.
    pub fn begin(&mut self, (shard, at): (usize, u64), work: LogWork, operation: FileOperation) -> u64 {
        self.push(Job { shard, at, work, what: What::Operation(operation) })
    }

    /// Begins a write. Returns its number.
    pub fn write(
        &mut self,
        (shard, now): (usize, u64),
        (work, file): (LogWork, FileId),
        at: usize,
        bytes: Vec<u8>,
        rng: &mut Random,
    ) -> u64 {
        assert!(
            at.is_multiple_of(BLOCK) && bytes.len().is_multiple_of(BLOCK) && bytes.len() <= WRITE_BYTES_MAX
        );
        let blocks = bytes.len() / BLOCK;
        let taken = if blocks > 1 && rng.chance(50) { 1 + rng.index(blocks) } else { blocks } * BLOCK;
        self.push(Job { shard, at: now, work, what: What::Write { file, at, bytes, taken } })
    }

    fn push(&mut self, job: Job) -> u64 {
        self.next_job += 1;
        self.under_way.insert(self.next_job, job);
        self.next_job
    }

    /// The pending operations of a shard, in order.
    pub fn under_way(&self, shard: usize) -> Vec<u64> {
        self.under_way.iter().filter(|(_, job)| job.shard == shard).map(|(&number, _)| number).collect()
    }

    /// Ends an operation. `None` if it was pending before a power cut.
    pub fn finish(&mut self, number: u64) -> Option<(usize, LogWork, io::Result<FileResult>)> {
        let Job { shard, work, what, .. } = self.under_way.remove(&number)?;
        if self.failed.contains(&shard) {
            return Some((shard, work, Err(io::Error::other("the disk is broken"))));
        }
        let result = match what {
            What::Operation(operation) => self.operate(shard, operation),
            What::Write { file, at, bytes, taken } => {
                let Open { file, writes_through } = self.opened(file);
                let (file, writes_through) = (*file, *writes_through);
                let bytes = &bytes[..taken];
                if writes_through {
                    put(&mut self.files[file].bytes, at, bytes);
                } else {
                    self.files[file].dirty.push((at, bytes.to_vec()));
                }
                Ok(FileResult::Written { bytes: taken })
            }
        };
        Some((shard, work, result))
    }

    fn opened(&self, file: FileId) -> &Open {
        self.open[file.0 as usize].as_ref().expect("only open files are used")
    }

    fn operate(&mut self, shard: usize, operation: FileOperation) -> io::Result<FileResult> {
        let has_no_room = self.full.contains(&shard);
        match operation {
            FileOperation::Create { .. } | FileOperation::Allocate { .. } if has_no_room => {
                Err(io::ErrorKind::StorageFull.into())
            }
            FileOperation::Create { path, writes_through } => {
                self.files.push(File::default());
                let file = self.files.len() - 1;
                self.name(Naming::Set(path, file));
                Ok(self.open(file, writes_through))
            }
            FileOperation::Open { path, writes_through } => {
                let file = *self.names.get(&path).ok_or(io::ErrorKind::NotFound)?;
                Ok(self.open(file, writes_through))
            }
            FileOperation::Allocate { file, bytes } => {
                let file = self.opened(file).file;
                let len = usize::try_from(bytes).expect("files are small").max(self.files[file].bytes.len());
                self.files[file].bytes.resize(len, 0);
                Ok(FileResult::Done)
            }
            FileOperation::Sync { file } => {
                let file = self.opened(file).file;
                let File { bytes, dirty } = &mut self.files[file];
                dirty.drain(..).for_each(|(at, written)| put(bytes, at, &written));
                Ok(FileResult::Done)
            }
            FileOperation::Rename { from, to } => {
                let file = *self.names.get(&from).ok_or(io::ErrorKind::NotFound)?;
                self.name(Naming::Removed(from));
                self.name(Naming::Set(to, file));
                Ok(FileResult::Done)
            }
            FileOperation::SyncDirectory { .. } => {
                self.sync_names();
                Ok(FileResult::Done)
            }
            FileOperation::Remove { path } => {
                self.remove(&path);
                Ok(FileResult::Done)
            }
        }
    }

    fn open(&mut self, file: usize, writes_through: bool) -> FileResult {
        self.open.push(Some(Open { file, writes_through }));
        let number = u32::try_from(self.open.len() - 1).expect("few files are opened");
        FileResult::Opened { file: FileId(number), bytes: self.files[file].bytes.len() as u64 }
    }

    /// Closes a file. Its pending operations still end.
    pub fn close(&mut self, file: FileId) {
        let is_used = |job: &Job| match &job.what {
            What::Write { file: of, .. } => *of == file,
            What::Operation(FileOperation::Sync { file: of } | FileOperation::Allocate { file: of, .. }) => {
                *of == file
            }
            What::Operation(_) => false,
        };
        if !self.under_way.values().any(is_used) {
            self.open[file.0 as usize] = None;
        }
    }

    /// Whether the file has this name.
    pub fn is_found(&self, path: &Path, file: FileId) -> bool {
        self.names.get(path) == Some(&self.opened(file).file)
    }

    fn name(&mut self, naming: Naming) {
        apply(&mut self.names, naming.clone());
        self.renamed.push(naming);
    }

    fn sync_names(&mut self) {
        self.kept_names.clone_from(&self.names);
        self.renamed.clear();
    }

    /// Removes a file permanently.
    pub fn remove(&mut self, path: &Path) {
        if self.names.contains_key(path) {
            self.name(Naming::Removed(path.to_owned()));
        }
    }

    /// The content of a file.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let file = &self.files[*self.names.get(path)?];
        let mut bytes = file.bytes.clone();
        file.dirty.iter().for_each(|(at, written)| put(&mut bytes, *at, written));
        Some(bytes)
    }

    /// The names of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.names.keys().cloned().collect()
    }

    /// Sets whether the log of a shard finds no room.
    pub fn set_full(&mut self, shard: usize, is_full: bool) {
        if is_full {
            self.full.insert(shard);
        } else {
            self.full.remove(&shard);
        }
    }

    pub fn is_full(&self, shard: usize) -> bool {
        self.full.contains(&shard)
    }

    /// From now on every operation of a shard's log fails.
    pub fn fail(&mut self, shard: usize) {
        self.failed.insert(shard);
    }

    pub fn has_failed(&self, shard: usize) -> bool {
        self.failed.contains(&shard)
    }

    /// The machine writes all cached data of files to the disk.
    pub fn sync_all(&mut self) {
        for File { bytes, dirty } in &mut self.files {
            dirty.drain(..).for_each(|(at, written)| put(bytes, at, &written));
        }
        self.sync_names();
    }

    /// Cuts the power. Afterwards the disk works and has room.
    pub fn power_cut(&mut self, now: u64, rng: &mut Random) -> Torn {
        let (mut blocks, mut kept) = (0, 0);
        for (_, job) in std::mem::take(&mut self.under_way) {
            let What::Write { file, at, bytes, .. } = job.what else { continue };
            if self.failed.contains(&job.shard) || job.at > now {
                continue;
            }
            let file = self.opened(file).file;
            blocks += bytes.len() / BLOCK;
            kept += tear(&mut self.files[file].bytes, at, &bytes, rng);
        }
        for file in &mut self.files {
            for (at, bytes) in std::mem::take(&mut file.dirty) {
                tear(&mut file.bytes, at, &bytes, rng);
            }
        }
        let renamed = rng.index(self.renamed.len() + 1);
        for naming in self.renamed.drain(..).take(renamed) {
            apply(&mut self.kept_names, naming);
        }
        self.names.clone_from(&self.kept_names);
        self.open.clear();
        self.full.clear();
        self.failed.clear();
        match (blocks, kept) {
            (0, _) => Torn::Idle,
            (blocks, kept) if kept == 0 || kept == blocks => Torn::Whole,
            _ => Torn::Part,
        }
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, naming: Naming) {
    match naming {
        Naming::Set(path, file) => drop(names.insert(path, file)),
        Naming::Removed(path) => drop(names.remove(&path)),
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    file.resize(file.len().max(end), 0);
    file[at..end].copy_from_slice(bytes);
}

/// Puts some blocks of a write into a file. Returns how many.
fn tear(file: &mut Vec<u8>, at: usize, bytes: &[u8], rng: &mut Random) -> usize {
    let mode = rng.below(4);
    let blocks = bytes.len() / BLOCK;
    let first = rng.index(blocks + 1);
    let mut kept = 0;
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        let keeps = match mode {
            0 => false,
            1 => true,
            // A write may take a part, and the next one continues.
            2 => number < first,
            _ => rng.chance(500),
        };
        if keeps {
            put(file, at + number * BLOCK, block);
            kept += 1;
        }
    }
    kept
}
