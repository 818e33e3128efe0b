//! Converts the files of earlier runs to what the shards of this run start with.
//!
//! The recovery reads the checkpoint, and then all segments that are not in it, epoch by epoch. At the end of
//! each epoch, the open intents are carried to their targets. A torn end is cut off. Damaged files are set
//! aside and reported, and everything that can be read is used.

use super::chain::Chain;
use super::checkpoint::{CHANGES_BYTES_WANTED, Checkpoint};
use super::directory::{SegmentName, StoreDirectory, remove, rename, sync};
use super::image::{Image, ImageError};
use super::salvage::salvage;
use super::segment_file::SegmentFile;
use crate::base::SHARDS_MAX;
use crate::store::Spares;
use crate::store::replay::Replayed;
use crate::store::segment::{self, BLOCK, Header, LogName};
use crate::store::source::Source;
use crate::store::state::Changes;
use crate::store::{ClockReading, LogClock, Restored, RestoredCounts, StoreError};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The result of a recovery.
#[derive(Debug)]
pub struct Recovery {
    /// The epoch of this start, for its logs. It is higher than any before it.
    pub epoch: u64,
    /// The state that each shard starts with.
    pub parts: Vec<Restored>,
    /// What was found.
    pub report: RecoveryReport,
    /// The clock of the log.
    pub clock: LogClock,
    /// The thread that takes the segments of the logs.
    pub checkpoint: Checkpoint,
}

/// The findings of a recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The counts of what was restored.
    pub restored: RestoredCounts,
    /// The number of segments that were not in the checkpoint.
    pub segments: u64,
    /// The number of frames in them.
    pub frames: u64,
    /// The number of bytes in them.
    pub bytes: u64,
    /// Segments that end in an unfinished batch, as happens when a process is killed, each with its path and
    /// offset.
    pub torn: Vec<(PathBuf, usize)>,
    /// The number of QoS 2 messages that were in transit between shards.
    pub intents: u64,
    /// The number of records that refer to something that does not exist. It is 0 unless there is damage.
    pub ignored: u64,
    /// The number of rows of the checkpoint that could not be used.
    pub bad_rows: u64,
    /// The damage that was found.
    pub damage: Vec<Damage>,
    /// Whether the checkpoint has lost the list of the segments that it contains.
    pub(super) has_lost_meta: bool,
}

/// Something that could not be read. Its `Display` text is a sentence for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The path where the file was found.
    pub path: PathBuf,
    /// The path where it is now, if it was set aside.
    pub aside: Option<PathBuf>,
    /// What is wrong with it.
    pub what: String,
    /// What this means for clients.
    pub means: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path.display(), self.what, self.means)?;
        match &self.aside {
            Some(aside) => write!(f, "; the file is now {}", aside.display()),
            None => Ok(()),
        }
    }
}

const MEANS_RECORDS: &str = "changes to sessions, queued and retained messages that it held are lost";
const MEANS_CHECKPOINT: &str =
    "sessions, queued and retained messages that were in the part that can't be read are lost";
const MEANS_NOTHING: &str = "nothing is lost, but the disk may be failing";

/// Reads everything, and starts the checkpoint's thread. `shards` and `seed` are those of this run. `now` was
/// read at the zero of its clock. Without it nothing expires here, and the broker must decide.
///
/// # Errors
/// [`StoreError`] if files can't be read or written, or have a version that this midge does not read. The
/// version error comes before anything is changed. Damage is no error.
pub fn recover(
    directory: &StoreDirectory,
    shards: usize,
    seed: u64,
    now: Option<ClockReading>,
) -> Result<Recovery, StoreError> {
    refuse_other_versions(directory)?;
    let mut report = RecoveryReport::default();
    let mut image = open_image(directory, &mut report)?;
    let found = report.clone();
    match recover_from(directory, &mut image, shards, seed, now, report, true) {
        Ok(recovered) => recovered.finish(directory, image, shards),
        // The disk may be full. A broker with enough memory for the unwritten changes must start anyway.
        Err(Interrupted::Commit(_)) => {
            drop(image);
            image = Image::open(&directory.checkpoint())?;
            match recover_from(directory, &mut image, shards, seed, now, found, false) {
                Ok(recovered) => recovered.finish(directory, image, shards),
                Err(Interrupted::Commit(error) | Interrupted::Other(error)) => Err(error),
            }
        }
        Err(Interrupted::Other(error)) => Err(error),
    }
}

/// A log of another version is no damage: setting it aside would lose messages that were acknowledged. All
/// headers are checked before the first segment is applied, so that nothing is lost for the midge that wrote
/// it.
fn refuse_other_versions(directory: &StoreDirectory) -> Result<(), StoreError> {
    for name in directory.segments()? {
        let path = directory.segment_path(name.epoch, name.shard, name.number);
        if let Some(version) = Header::other_version(SegmentFile::open(&path)?.bytes(0..BLOCK)?) {
            return Err(other_version(&path, version));
        }
    }
    Ok(())
}

/// The error for a segment of a version that this midge does not read.
pub(super) fn other_version(path: &Path, version: u32) -> StoreError {
    let (oldest, newest) = segment::VERSIONS.into_inner();
    StoreError::other_version(path, version.into(), oldest.into()..=newest.into())
}

/// Why a recovery was interrupted.
enum Interrupted {
    /// Changes could not be written to the checkpoint early. They can still be written later.
    Commit(StoreError),
    Other(StoreError),
}

impl From<StoreError> for Interrupted {
    fn from(error: StoreError) -> Interrupted {
        Interrupted::Other(error)
    }
}

/// The state that results from the files of earlier runs.
struct Recovered {
    changes: Changes,
    parts: Vec<Restored>,
    report: RecoveryReport,
    /// The epoch of this run.
    epoch: u64,
    clock: LogClock,
    /// Segments whose changes are not in the checkpoint.
    pending: Vec<PathBuf>,
}

/// Reads the files. With `commits`, changes that take much memory are committed to the checkpoint early.
fn recover_from(
    directory: &StoreDirectory,
    image: &mut Image,
    shards: usize,
    seed: u64,
    now: Option<ClockReading>,
    mut report: RecoveryReport,
    commits: bool,
) -> Result<Recovered, Interrupted> {
    let epoch = directory.highest_epoch()?;
    let mut tail = Tail::new(directory, Changes::new(image)?, report.has_lost_meta);
    for name in directory.segments()? {
        tail.apply(image, &name, &mut report)?;
        if commits && tail.changes.bytes() > CHANGES_BYTES_WANTED {
            image.commit(&mut tail.changes).map_err(Interrupted::Commit)?;
            tail.are_kept();
        }
    }
    tail.resolve(image, &mut report)?;
    let Tail { mut changes, applied, idle, damaged, .. } = tail;
    let clock = now.map_or_else(LogClock::default, |now| changes.log_clock(now));
    let (parts, restored) = changes.restore(image, shards, seed, clock.wall)?;
    report.restored = restored;
    report.ignored = changes.ignored();
    report.bad_rows = changes.bad_rows();
    let epoch = epoch.max(changes.meta().epoch) + 1;

    // A file that was set aside keeps its first name until its changes are kept elsewhere.
    let (mut pending, mut done) = (applied, idle);
    if !damaged.is_empty() || report.intents > 0 || report.bad_rows > 0 {
        image.commit(&mut changes)?;
        done.append(&mut pending);
    }
    done.extend(damaged);
    done.extend(directory.unfinished()?);
    for path in &done {
        remove(path)?;
    }
    sync(&directory.log())?;
    Ok(Recovered { changes, parts, report, epoch, clock, pending })
}

impl Recovered {
    fn finish(self, directory: &StoreDirectory, image: Image, shards: usize) -> Result<Recovery, StoreError> {
        let Recovered { changes, parts, report, epoch, clock, pending } = self;
        let spares = Spares::new(epoch, shards);
        let checkpoint = Checkpoint::start(image, changes, pending, directory.damaged(), spares)?;
        Ok(Recovery { epoch, parts, report, clock, checkpoint })
    }
}

/// Opens the checkpoint. If that is not possible, creates a new one with the rows that can be read.
fn open_image(directory: &StoreDirectory, report: &mut RecoveryReport) -> Result<Image, StoreError> {
    let path = directory.checkpoint();
    let error = match Image::open(&path) {
        Ok(image) => return Ok(image),
        Err(ImageError::Other(error)) => return Err(error),
        Err(ImageError::Damaged(error)) => error,
    };
    // The damaged file keeps its name until everything that can be read of it is elsewhere.
    let unfinished = directory.unfinished_checkpoint();
    remove(&unfinished)?;
    let mut image = Image::open(&unfinished)?;
    let salvaged = salvage(&path, &mut image);
    drop(image);
    let salvaged = match salvaged {
        Ok(salvaged) => salvaged,
        // It may have another version. Then it is not damaged.
        Err(error) => {
            remove(&unfinished)?;
            return Err(error);
        }
    };
    let aside = directory.set_aside(&path)?;
    rename(&unfinished, &path)?;
    sync(directory.path())?;
    report.has_lost_meta = !salvaged.has_meta;
    report.damage.push(Damage {
        path: path.clone(),
        aside: Some(aside),
        what: format!("{}; {salvaged}", error.cause),
        means: if salvaged.tally.lost == 0 && salvaged.has_meta { MEANS_NOTHING } else { MEANS_CHECKPOINT },
    });
    Ok(Image::open(&path)?)
}

/// The segments that are not in the checkpoint.
pub(super) struct Tail<'a> {
    directory: &'a StoreDirectory,
    pub(super) changes: Changes,
    chain: Chain,
    /// Files whose changes are not in the checkpoint.
    applied: Vec<PathBuf>,
    /// Files that contain nothing that is missing from the checkpoint.
    idle: Vec<PathBuf>,
    /// Files that were set aside.
    damaged: Vec<PathBuf>,
    /// The last segment of each shard, if it ends in an unfinished batch.
    torn: BTreeMap<u16, PathBuf>,
    /// Whether damaged files are set aside. A tool that only reads does not set them aside.
    pub(super) sets_aside: bool,
}

/// What the file of a segment contains.
pub(super) enum SegmentKind {
    /// Nothing was ever written to it. It was created for later.
    Unused,
    /// Its name differs from its header: it contained another segment and was kept for a later one.
    Spare,
    /// It is a segment.
    Segment(Header),
    /// It has no readable header.
    NoHeader,
    /// Its header is intact, but has a version that this midge does not read.
    OtherVersion(u32),
}

pub(super) fn kind_of<S: Source>(name: &SegmentName, source: &mut S) -> Result<SegmentKind, S::Error> {
    let block = source.bytes(0..BLOCK)?;
    if let Some(version) = Header::other_version(block) {
        return Ok(SegmentKind::OtherVersion(version));
    }
    Ok(match Header::decode(block) {
        // The header becomes durable before any frame.
        None if source.is_zero(BLOCK..usize::MAX)? => SegmentKind::Unused,
        None => SegmentKind::NoHeader,
        Some(header) if !(1..=SHARDS_MAX).contains(&usize::from(header.shards)) => SegmentKind::NoHeader,
        Some(header)
            if (header.epoch, header.shard, header.number) != (name.epoch, name.shard, name.number) =>
        {
            SegmentKind::Spare
        }
        Some(header) => SegmentKind::Segment(header),
    })
}

impl<'a> Tail<'a> {
    pub(super) fn new(directory: &'a StoreDirectory, changes: Changes, has_lost_image: bool) -> Tail<'a> {
        Tail {
            directory,
            chain: Chain::new(changes.meta(), has_lost_image),
            changes,
            applied: Vec::new(),
            idle: Vec::new(),
            damaged: Vec::new(),
            torn: BTreeMap::new(),
            sets_aside: true,
        }
    }

    /// Applies the next segment.
    pub(super) fn apply(
        &mut self,
        image: &Image,
        name: &SegmentName,
        report: &mut RecoveryReport,
    ) -> Result<(), StoreError> {
        let path = self.directory.segment_path(name.epoch, name.shard, name.number);
        let log = LogName { epoch: name.epoch, shard: name.shard };
        if self.changes.has_segment(log, name.number) {
            self.idle.push(path);
            return Ok(());
        }
        let mut file = SegmentFile::open(&path)?;
        let kind = kind_of(name, &mut file)?;
        if let Some((number, what)) = self.chain.fault_at(name, &kind, file.len()) {
            let path = self.directory.segment_path(name.epoch, name.shard, number);
            report.damage.push(Damage { path, aside: None, what, means: MEANS_RECORDS });
        }
        match kind {
            SegmentKind::Unused | SegmentKind::Spare => {
                self.idle.push(path);
                Ok(())
            }
            SegmentKind::OtherVersion(version) => Err(other_version(&path, version)),
            SegmentKind::NoHeader => {
                let what = "the header of the segment can't be read".to_owned();
                self.report_damage(path, what, report)
            }
            SegmentKind::Segment(header) => self.apply_segment(image, &header, path, &mut file, report),
        }
    }

    fn apply_segment(
        &mut self,
        image: &Image,
        header: &Header,
        path: PathBuf,
        file: &mut SegmentFile,
        report: &mut RecoveryReport,
    ) -> Result<(), StoreError> {
        if header.epoch > self.changes.meta().epoch {
            self.resolve(image, report)?;
        }
        let missing = self.chain.missing_before(header);
        let replayed = self.changes.apply_source(image, header, file)?;
        self.chain.pass(header, replayed.last_sequence.max(header.first_sequence.saturating_sub(1)));
        report.segments += 1;
        report.frames += replayed.frames;
        report.bytes += replayed.end as u64;
        if let (Some(what), true) = (missing, replayed.frames > 0) {
            if let Some(torn) = self.torn.remove(&header.shard) {
                // The supposed end of the log was not its end.
                report.torn.retain(|(path, _)| *path != torn);
                self.applied.retain(|path| *path != torn);
                self.report_damage(torn, what, report)?;
            } else {
                report.damage.push(Damage { path: path.clone(), aside: None, what, means: MEANS_RECORDS });
            }
        }
        self.keep(path, header, &replayed, report)
    }

    fn keep(
        &mut self,
        path: PathBuf,
        header: &Header,
        replayed: &Replayed,
        report: &mut RecoveryReport,
    ) -> Result<(), StoreError> {
        self.torn.remove(&header.shard);
        if replayed.gaps.is_empty() {
            if replayed.torn {
                report.torn.push((path.clone(), replayed.end));
                self.torn.insert(header.shard, path.clone());
            }
            self.applied.push(path);
            return Ok(());
        }
        self.report_damage(path, damage_text(replayed), report)
    }

    fn report_damage(
        &mut self,
        path: PathBuf,
        what: String,
        report: &mut RecoveryReport,
    ) -> Result<(), StoreError> {
        let aside = if self.sets_aside { Some(self.directory.set_aside(&path)?) } else { None };
        report.damage.push(Damage { path: path.clone(), aside, what, means: MEANS_RECORDS });
        self.damaged.push(path);
        Ok(())
    }

    /// Notes that all changes so far are in the checkpoint.
    fn are_kept(&mut self) {
        self.idle.append(&mut self.applied);
    }

    /// Ends the epoch.
    pub(super) fn resolve(&mut self, image: &Image, report: &mut RecoveryReport) -> Result<(), StoreError> {
        self.torn.clear();
        report.intents += self.changes.resolve_intents(image)? as u64;
        Ok(())
    }
}

/// Describes the gaps of a segment.
pub(super) fn damage_text(replayed: &Replayed) -> String {
    let gaps: Vec<String> = replayed
        .gaps
        .iter()
        .map(|gap| format!("{} from byte {} to {}", gap.what, gap.from, gap.to))
        .collect();
    gaps.join(", ")
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
pub(super) mod tests;
