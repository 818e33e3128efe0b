//! The disk: the files of all shards' logs in memory, and the restoration of their state at a start.
//!
//! An operation takes effect, permanently, at the moment when it ends. Before that it has no effect.

use midge::base::log_files::{FileDone, FileId, FileOperation, FileResult, LogWork};
use midge::base::{ClockReading, Time};
use midge::host::{CheckpointMark, SealedSegments};
use midge::store::segment::{Header, LogName, parse_file_name};
use midge::store::{Changes, MemoryBase, Restored, Spares, Wall};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

/// The time of the first start of a broker, in milliseconds since 1970.
const BEGIN_MILLIS: u64 = 1_800_000_000_000;

/// Files, and the operations on them.
#[derive(Default)]
pub struct Disk {
    names: BTreeMap<PathBuf, u32>,
    /// A file that has lost its name may still be open.
    files: Vec<File>,
    /// By shard.
    under_way: Vec<VecDeque<(LogWork, Work)>>,
    done: Vec<VecDeque<FileDone>>,
    stuck: Vec<usize>,
}

/// A file. Zeros follow its bytes up to its end.
#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    len: u64,
}

enum Work {
    Operation(FileOperation),
    Write { file: FileId, at: u64, bytes: Vec<u8> },
}

impl Disk {
    /// Starts for this number of shards, without pending operations.
    pub fn begin_shards(&mut self, shards: usize) {
        self.under_way = (0..shards).map(|_| VecDeque::new()).collect();
        self.done = (0..shards).map(|_| VecDeque::new()).collect();
        self.stuck.clear();
    }

    pub fn begin(&mut self, shard: usize, work: LogWork, operation: FileOperation) {
        self.under_way[shard].push_back((work, Work::Operation(operation)));
    }

    pub fn write(&mut self, shard: usize, work: LogWork, file: FileId, at: u64, bytes: Vec<u8>) {
        self.under_way[shard].push_back((work, Work::Write { file, at, bytes }));
    }

    /// From now on, no operation of this shard ends until [`Disk::unstick`].
    pub fn stick(&mut self, shard: usize) {
        self.stuck.push(shard);
    }

    pub fn unstick(&mut self, shard: usize) {
        self.stuck.retain(|&stuck| stuck != shard);
    }

    /// Whether an operation has ended, or [`Disk::finish`] would end one.
    pub fn is_ready(&self, shard: usize) -> bool {
        !self.done[shard].is_empty() || (!self.under_way[shard].is_empty() && !self.stuck.contains(&shard))
    }

    /// Ends the operations that a shard has begun.
    pub fn finish(&mut self, shard: usize) {
        if self.stuck.contains(&shard) {
            return;
        }
        while let Some((work, what)) = self.under_way[shard].pop_front() {
            let result = self.carry_out(what);
            self.done[shard].push_back(FileDone { work, result });
        }
    }

    pub fn next_done(&mut self, shard: usize) -> Option<FileDone> {
        self.done[shard].pop_front()
    }

    pub fn is_found(&self, path: &Path, file: FileId) -> io::Result<bool> {
        Ok(self.find(path)? == file.0)
    }

    /// Takes all segments from the disk, in the order in which each shard has written them.
    fn take_segments(&mut self) -> Vec<(LogName, Vec<u8>)> {
        let mut files = std::mem::take(&mut self.files);
        let segments = std::mem::take(&mut self.names).into_iter().filter_map(|(path, file)| {
            let (name, _) = parse_file_name(path.file_name()?.to_str()?)?;
            Some((name, std::mem::take(&mut files[file as usize].bytes)))
        });
        segments.collect()
    }

    fn carry_out(&mut self, work: Work) -> io::Result<FileResult> {
        match work {
            Work::Write { file, at, bytes } => {
                let file = &mut self.files[file.0 as usize];
                let (from, to) = (at as usize, at as usize + bytes.len());
                file.bytes.resize(file.bytes.len().max(to), 0);
                file.bytes[from..to].copy_from_slice(&bytes);
                file.len = file.len.max(to as u64);
                return Ok(FileResult::Written { bytes: bytes.len() });
            }
            Work::Operation(FileOperation::Create { path, .. }) => {
                let file = u32::try_from(self.files.len()).expect("files are numbered by 32 bits");
                assert_eq!(self.names.insert(path, file), None, "nothing is where a file is created");
                self.files.push(File::default());
                return Ok(FileResult::Opened { file: FileId(file), bytes: 0 });
            }
            Work::Operation(FileOperation::Open { path, .. }) => {
                let file = self.find(&path)?;
                return Ok(FileResult::Opened { file: FileId(file), bytes: self.files[file as usize].len });
            }
            Work::Operation(FileOperation::Allocate { file, bytes }) => {
                self.files[file.0 as usize].len = bytes;
            }
            Work::Operation(FileOperation::Rename { from, to }) => {
                let file = self.find(&from)?;
                self.names.remove(&from);
                self.names.insert(to, file);
            }
            Work::Operation(FileOperation::Remove { path }) => {
                self.find(&path)?;
                self.names.remove(&path);
            }
            Work::Operation(FileOperation::Sync { .. } | FileOperation::SyncDirectory { .. }) => {}
        }
        Ok(FileResult::Done)
    }

    fn find(&self, path: &Path) -> io::Result<u32> {
        self.names.get(path).copied().ok_or(io::ErrorKind::NotFound.into())
    }
}

/// The state that a broker with a disk starts from.
pub struct Store {
    /// The rows of earlier runs.
    rows: MemoryBase,
    /// The epoch of the current run.
    epoch: u64,
    wall: Wall,
}

impl Store {
    /// The state at the first run.
    pub fn new() -> Store {
        Store { rows: MemoryBase::default(), epoch: 1, wall: Wall { zero_millis: BEGIN_MILLIS } }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn wall(&self) -> Wall {
        self.wall
    }

    /// Begins the next run with this number of shards. Returns what each of them starts with. `reading` has
    /// the clocks at the zero of the run's own clock.
    pub fn start_again(
        &mut self,
        disk: &mut Disk,
        shards: usize,
        seed: u64,
        reading: ClockReading,
    ) -> Vec<Restored> {
        let mut changes = Changes::new(&self.rows).expect("rows in memory");
        for (name, bytes) in disk.take_segments() {
            // The next segment exists before anything is written to it.
            let Some(header) = Header::decode(&bytes) else { continue };
            assert_eq!((name, seed), (LogName { epoch: header.epoch, shard: header.shard }, header.seed));
            let replayed = changes.apply_segment(&self.rows, &header, &bytes).expect("rows in memory");
            assert_eq!(replayed.gaps, []);
        }
        changes.resolve_intents(&self.rows).expect("rows in memory");
        assert_eq!(changes.ignored(), 0, "records name what is there");
        self.wall = changes.log_clock(reading).wall;
        let (parts, _) = changes.restore(&self.rows, shards, seed, self.wall).expect("rows in memory");
        self.rows.commit(&mut changes);
        self.epoch += 1;
        parts
    }
}

/// Leaves full segments where they are, so that the next start reads them.
pub struct Unhurried;

impl SealedSegments for Unhurried {
    fn submit(&self, _: PathBuf, _: u64) {}

    fn mark(&self, _: CheckpointMark) {}

    fn log_bytes(&self) -> u64 {
        0
    }

    fn spares(&self) -> Spares {
        Spares::default()
    }
}

/// The clocks of the machine.
#[derive(Clone, Copy)]
pub struct Clocks {
    /// The true time at the zero of the broker's clock, in milliseconds since 1970.
    zero_millis: u64,
    /// The error of the wall clock.
    wrong_millis: i64,
    boot: u64,
    booted_at_millis: u64,
}

impl Clocks {
    pub fn new() -> Clocks {
        Clocks { zero_millis: BEGIN_MILLIS, wrong_millis: 0, boot: 1, booted_at_millis: BEGIN_MILLIS - 1000 }
    }

    pub fn reading(&self, now: Time) -> ClockReading {
        let millis = self.zero_millis + now.as_millis();
        ClockReading {
            wall_millis: millis.saturating_add_signed(self.wrong_millis),
            boot: self.boot,
            boot_millis: millis - self.booted_at_millis,
        }
    }

    /// Sets the wall clock by a step.
    pub fn set_wall_clock(&mut self, step_millis: i64) {
        self.wrong_millis += step_millis;
    }

    /// A broker is up and then down for these times. In the meantime the machine is restarted, or continues
    /// to run.
    pub fn pass(&mut self, up_millis: u64, down_millis: u64, machine_starts: bool) {
        self.zero_millis += up_millis + down_millis;
        if machine_starts {
            self.boot += 1;
            self.booted_at_millis = self.zero_millis - 500.min(down_millis);
        }
    }
}
