//! From the files of earlier runs to what the shards of this run start with.
//!
//! The checkpoint, then all segments that are not in it, epoch by epoch; at the end of each epoch the
//! intents that were open are brought to their targets. A torn end is cut. What is damaged is set aside and
//! told, and everything that can be read is used.

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

/// What a start has.
#[derive(Debug)]
pub struct Recovery {
    /// The number of this start, for its logs: higher than any before it.
    pub epoch: u64,
    /// What each shard starts with.
    pub parts: Vec<Restored>,
    /// What was found.
    pub report: RecoveryReport,
    /// The log's clock.
    pub clock: LogClock,
    /// Takes the segments of the logs over.
    pub checkpoint: Checkpoint,
}

/// What a recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// What was restored.
    pub restored: RestoredCounts,
    /// Segments that were not in the checkpoint.
    pub segments: u64,
    /// Frames in them.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Segments that ended in an unfinished batch, as happens when a process is killed: path and offset.
    pub torn: Vec<(PathBuf, usize)>,
    /// QoS 2 messages that were on their way between shards.
    pub intents: u64,
    /// Records that named what was not there; there are none without damage.
    pub ignored: u64,
    /// Rows of the checkpoint that could not be used.
    pub bad_rows: u64,
    /// What was damaged.
    pub damage: Vec<Damage>,
    /// The checkpoint does not tell any more which segments it has.
    pub(super) has_lost_meta: bool,
}

/// Something that could not be read. Displayed, it is a sentence for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, where it was found.
    pub path: PathBuf,
    /// Where it is now, if it was set aside.
    pub aside: Option<PathBuf>,
    /// What is wrong with it.
    pub what: String,
    /// What that means for clients.
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

/// Reads everything, and starts the checkpoint's thread. `shards` and `seed` are those of this run. `now` was read at
/// the zero of its clock; without it nothing has expired, which is for a broker to tell.
///
/// # Errors
/// [`StoreError`] if files can't be read or written, or are of a version that this midge does not read; the latter
/// before anything is changed. Damage is none.
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
        // A full disk must not keep a broker from starting that has the memory for what is not written.
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

/// A log of another version is no damage: setting it aside would lose what was acknowledged. All headers are looked at
/// before the first segment is applied, so that everything is still there for the midge that wrote it.
fn refuse_other_versions(directory: &StoreDirectory) -> Result<(), StoreError> {
    for name in directory.segments()? {
        let path = directory.segment_path(name.epoch, name.shard, name.number);
        if let Some(version) = Header::other_version(SegmentFile::open(&path)?.bytes(0..BLOCK)?) {
            return Err(other_version(&path, version));
        }
    }
    Ok(())
}

/// Of a segment of a version that this midge does not read.
pub(super) fn other_version(path: &Path, version: u32) -> StoreError {
    let (oldest, newest) = segment::VERSIONS.into_inner();
    StoreError::other_version(path, version.into(), oldest.into()..=newest.into())
}

/// Why a recovery has not come to its end.
enum Interrupted {
    /// Changes could not be written to the checkpoint, though they need not have been.
    Commit(StoreError),
    Other(StoreError),
}

impl From<StoreError> for Interrupted {
    fn from(error: StoreError) -> Interrupted {
        Interrupted::Other(error)
    }
}

/// What the files of earlier runs have come to.
struct Recovered {
    changes: Changes,
    parts: Vec<Restored>,
    report: RecoveryReport,
    /// Of this run.
    epoch: u64,
    clock: LogClock,
    /// Segments whose changes are not in the checkpoint.
    pending: Vec<PathBuf>,
}

/// `commits`: changes that take much memory go to the checkpoint at once.
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

    // What was set aside keeps its first name until its changes are kept elsewhere.
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

/// Opens the checkpoint; or, if it can't be opened, a new one with what can be read of it.
fn open_image(directory: &StoreDirectory, report: &mut RecoveryReport) -> Result<Image, StoreError> {
    let path = directory.checkpoint();
    let error = match Image::open(&path) {
        Ok(image) => return Ok(image),
        Err(ImageError::Other(error)) => return Err(error),
        Err(ImageError::Damaged(error)) => error,
    };
    // The damaged one keeps its name until all that can be read of it is elsewhere.
    let unfinished = directory.unfinished_checkpoint();
    remove(&unfinished)?;
    let mut image = Image::open(&unfinished)?;
    let salvaged = salvage(&path, &mut image);
    drop(image);
    let salvaged = match salvaged {
        Ok(salvaged) => salvaged,
        // It may be of another version: then it is not damaged.
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
    /// Files that hold nothing that is not in the checkpoint.
    idle: Vec<PathBuf>,
    /// Files that were set aside.
    damaged: Vec<PathBuf>,
    /// Shard → the last segment, if an unfinished batch ends it.
    torn: BTreeMap<u16, PathBuf>,
    /// Are damaged files set aside? A tool that only looks does not.
    pub(super) sets_aside: bool,
}

/// What a segment's file is.
pub(super) enum SegmentKind {
    /// Nothing was ever written to it: it was made for later.
    Unused,
    /// Its name is not its header's: it was another segment once, and was kept for a later one.
    Spare,
    /// It is a segment.
    Segment(Header),
    /// It has no header that can be read.
    NoHeader,
    /// Its header is sound, but of a version that this midge does not read.
    OtherVersion(u32),
}

pub(super) fn kind_of<S: Source>(name: &SegmentName, source: &mut S) -> Result<SegmentKind, S::Error> {
    let block = source.bytes(0..BLOCK)?;
    if let Some(version) = Header::other_version(block) {
        return Ok(SegmentKind::OtherVersion(version));
    }
    Ok(match Header::decode(block) {
        // The header is durable before any frame is.
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
                // What seemed to be the end was none.
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
        self.report_damage(path, told(replayed), report)
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

    /// All changes so far are in the checkpoint.
    fn are_kept(&mut self) {
        self.idle.append(&mut self.applied);
    }

    /// The epoch is over.
    pub(super) fn resolve(&mut self, image: &Image, report: &mut RecoveryReport) -> Result<(), StoreError> {
        self.torn.clear();
        report.intents += self.changes.resolve_intents(image)? as u64;
        Ok(())
    }
}

/// The gaps of a segment in words.
pub(super) fn told(replayed: &Replayed) -> String {
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
