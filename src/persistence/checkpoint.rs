//! The thread that merges sealed segments into the checkpoint.
//!
//! Any thread may submit segments, in the order of each shard's log. The checkpoint's thread writes their
//! changes to the checkpoint. If several segments wait, it takes several in one transaction. Then it gives
//! their files back to the logs ([`Spares`]) or removes them. While the checkpoint can't be written, the
//! segments stay, and the thread tries again every second.

use super::backup::{BackupOrder, back_up};
use super::directory::{remove, set_aside};
use super::image::Image;
use super::recovery::{damage_text, other_version};
use super::segment_file::SegmentFile;
use crate::host::{CheckpointMark, SealedSegments};
use crate::store::Spares;
use crate::store::StoreError;
use crate::store::segment::{BLOCK, Header, LogName, parse_file_name};
use crate::store::source::Source;
use crate::store::state::Changes;
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// The state of the checkpoint that the threads of the shards see.
#[derive(Debug, Default)]
struct State {
    log_bytes: AtomicU64,
}

#[derive(Debug)]
enum Job {
    Segment { path: PathBuf, bytes: u64 },
    Mark(CheckpointMark),
    Backup(BackupOrder),
    Stop,
}

/// Submits segments to the checkpoint's thread. Each shard has one.
#[derive(Clone, Debug)]
pub struct Submitter {
    sender: Sender<Job>,
    state: Arc<State>,
    spares: Spares,
}

impl Submitter {
    /// Copies the state as of a cut to a directory. The cut must be asked for after this. One that is ordered before
    /// another is done takes its place.
    pub fn back_up(&self, order: BackupOrder) {
        // If the thread has ended, the order is dropped, and whoever waits for its answer sees that.
        let _ = self.sender.send(Job::Backup(order));
    }
}

impl SealedSegments for Submitter {
    fn submit(&self, path: PathBuf, bytes: u64) {
        self.state.log_bytes.fetch_add(bytes, Ordering::Relaxed);
        // If the thread has ended, the next start finds the file.
        let _ = self.sender.send(Job::Segment { path, bytes });
    }

    /// Notes that a shard has submitted all segments that a request for a checkpoint covers. When all shards
    /// have done so, and all these segments are in the checkpoint, the thread logs a line.
    fn mark(&self, mark: CheckpointMark) {
        // If the thread has ended, the request gets no answer.
        let _ = self.sender.send(Job::Mark(mark));
    }

    fn spares(&self) -> Spares {
        self.spares.clone()
    }

    fn log_bytes(&self) -> u64 {
        self.state.log_bytes.load(Ordering::Relaxed)
    }
}

/// The handle of the thread. Dropping it ends the thread like [`Checkpoint::stop`].
#[derive(Debug)]
pub struct Checkpoint {
    submitter: Submitter,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoint {
    /// Starts the thread. `changes` are the changes of `pending`, the segments that are applied but not yet
    /// in the checkpoint. `damaged` is the directory for damaged segments, and `spares` takes the files of
    /// finished ones.
    ///
    /// # Errors
    /// [`StoreError`] if the thread can't be started.
    pub fn start(
        image: Image,
        changes: Changes,
        pending: Vec<PathBuf>,
        damaged: PathBuf,
        spares: Spares,
    ) -> Result<Checkpoint, StoreError> {
        let (sender, receiver) = channel();
        let state = Arc::new(State::default());
        let mut jobs = VecDeque::new();
        for path in pending {
            // The length of the content is not known here, so the size of the file on the disk counts.
            let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            state.log_bytes.fetch_add(bytes, Ordering::Relaxed);
            jobs.push_back(Waiting { path, bytes, written: None });
        }
        let path = image.path().to_owned();
        let worker = Worker {
            path: path.clone(),
            open: Some((image, changes)),
            applied: jobs.len(),
            jobs,
            damaged,
            spares: spares.clone(),
            state: Arc::clone(&state),
            marks: Marks::default(),
            backup: None,
            is_failing: false,
            is_stopping: false,
        };
        let thread = Builder::new()
            .name("midge-checkpoint".to_owned())
            .spawn(move || worker.run(&receiver))
            .map_err(|error| StoreError::new("can't start the thread of the checkpoint", &path, error))?;
        Ok(Checkpoint { submitter: Submitter { sender, state, spares }, thread: Some(thread) })
    }

    /// A handle for a shard.
    pub fn submitter(&self) -> Submitter {
        self.submitter.clone()
    }

    /// See [`Submitter::submit`].
    pub fn submit(&self, path: PathBuf, bytes: u64) {
        self.submitter.submit(path, bytes);
    }

    /// See [`Submitter::log_bytes`].
    pub fn log_bytes(&self) -> u64 {
        self.submitter.log_bytes()
    }

    /// Waits until everything that was submitted is in the checkpoint, and ends the thread. If a write fails
    /// at the first try, the rest is left to the next start.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        let _ = self.submitter.sender.send(Job::Stop);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the checkpoint failed");
        }
    }
}

/// A segment that is not yet in the checkpoint.
struct Waiting {
    path: PathBuf,
    /// The number of bytes that it adds to [`State::log_bytes`].
    bytes: u64,
    /// The number of bytes that were written to it, if known.
    written: Option<u64>,
}

struct Worker {
    path: PathBuf,
    /// `None` after an error: the content of the file is not known until it is opened again.
    open: Option<(Image, Changes)>,
    /// Segments that are not yet in the checkpoint, oldest first.
    jobs: VecDeque<Waiting>,
    /// The number of them that are applied.
    applied: usize,
    damaged: PathBuf,
    spares: Spares,
    state: Arc<State>,
    marks: Marks,
    backup: Option<PendingBackup>,
    /// Whether the last try failed. That failure was logged.
    is_failing: bool,
    is_stopping: bool,
}

/// A backup that waits for its cut.
struct PendingBackup {
    order: BackupOrder,
    /// When the cut is known: the number of segments that wait and belong to it.
    segments: Option<usize>,
}

/// The requests for a checkpoint that the shards have answered.
#[derive(Debug, Default)]
struct Marks {
    /// The last request that each shard has answered, by shard.
    last: BTreeMap<u16, u64>,
    shards: usize,
    reported: u64,
}

impl Marks {
    fn take(&mut self, mark: CheckpointMark) {
        self.shards = mark.shards;
        self.last.insert(mark.shard, mark.request);
    }

    /// The last request that all shards have answered.
    fn done(&self) -> u64 {
        if self.last.len() < self.shards.max(1) {
            return 0;
        }
        self.last.values().copied().min().unwrap_or_default()
    }

    /// Whether all shards have answered a request that was not yet reported. If so, it counts as reported.
    fn take_done(&mut self) -> bool {
        let done = self.done();
        std::mem::replace(&mut self.reported, done) < done
    }
}

/// The largest size of the changes that are collected for one transaction, in bytes.
pub(super) const CHANGES_BYTES_WANTED: usize = 64 << 20;
/// The delay between an error and the next try.
const RETRY: Duration = Duration::from_secs(1);

impl Worker {
    fn run(mut self, receiver: &Receiver<Job>) {
        self.serve(receiver);
        for path in self.spares.take_all() {
            discard(&path);
        }
    }

    fn serve(&mut self, receiver: &Receiver<Job>) {
        loop {
            self.take_all(receiver);
            match self.work() {
                Ok(()) => {
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("the checkpoint can be written again");
                    }
                    if self.marks.take_done() {
                        tracing::info!(
                            "the checkpoint that was asked for is written: {}",
                            self.path.display()
                        );
                    }
                }
                Err(error) => {
                    self.open = None;
                    self.applied = 0;
                    if !std::mem::replace(&mut self.is_failing, true) {
                        tracing::error!("{error}; the log grows until that works again");
                    }
                    if self.is_stopping {
                        return;
                    }
                    match receiver.recv_timeout(RETRY) {
                        Ok(job) => self.take(job),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => self.is_stopping = true,
                    }
                    continue;
                }
            }
            if self.is_stopping {
                return;
            }
            match receiver.recv() {
                Ok(job) => self.take(job),
                Err(_) => self.is_stopping = true,
            }
        }
    }

    fn take_all(&mut self, receiver: &Receiver<Job>) {
        while let Ok(job) = receiver.try_recv() {
            self.take(job);
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Segment { path, bytes } => {
                self.jobs.push_back(Waiting { path, bytes, written: Some(bytes) });
            }
            Job::Mark(mark) => {
                self.marks.take(mark);
                if let Some(backup) = &mut self.backup
                    && backup.segments.is_none()
                    && self.marks.done() >= backup.order.request
                {
                    // Segments that come later are not of the cut.
                    backup.segments = Some(self.jobs.len());
                }
            }
            Job::Backup(order) => {
                self.backup = Some(PendingBackup { order, segments: None });
            }
            Job::Stop => self.is_stopping = true,
        }
    }

    /// Writes all segments to the checkpoint.
    fn work(&mut self) -> Result<(), StoreError> {
        let (mut image, mut changes) = match self.open.take() {
            Some(open) => open,
            None => {
                let image = Image::open(&self.path)?;
                let changes = Changes::new(&image)?;
                (image, changes)
            }
        };
        loop {
            let until = self.backup.as_ref().and_then(|backup| backup.segments).unwrap_or(self.jobs.len());
            while self.applied < until && changes.bytes() < CHANGES_BYTES_WANTED {
                self.apply(&image, &mut changes, &self.jobs[self.applied])?;
                self.applied += 1;
            }
            image.commit(&mut changes)?;
            let applied = std::mem::take(&mut self.applied);
            for Waiting { path, bytes, .. } in self.jobs.drain(..applied) {
                if self.is_stopping || !has_one_name(&path) || !self.spares.give(&path) {
                    discard(&path);
                }
                self.state.log_bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            self.back_up_after(applied, &image);
            if self.jobs.is_empty() {
                self.open = Some((image, changes));
                return Ok(());
            }
        }
    }

    /// Begins the backup if the checkpoint holds exactly what its cut holds, after this many more segments.
    fn back_up_after(&mut self, applied: usize, image: &Image) {
        let Some(PendingBackup { segments: Some(left), .. }) = &mut self.backup else { return };
        *left = left.saturating_sub(applied);
        if *left > 0 {
            return;
        }
        if let Some(PendingBackup { order, .. }) = self.backup.take() {
            back_up(image.rows(), order);
        }
    }

    fn apply(&self, image: &Image, changes: &mut Changes, job: &Waiting) -> Result<(), StoreError> {
        let path = &job.path;
        let name = path.file_name().and_then(|name| name.to_str()).and_then(parse_file_name);
        if let Some((LogName { epoch, shard }, number)) = name
            && changes.has_segment(LogName { epoch, shard }, number)
        {
            return Ok(());
        }
        let mut file = SegmentFile::open(path)?;
        let block = file.bytes(0..BLOCK)?;
        if let Some(version) = Header::other_version(block) {
            return Err(other_version(path, version));
        }
        let what = match Header::decode(block) {
            None => "the header of the segment can't be read".to_owned(),
            Some(header) => {
                let replayed = changes.apply_source(image, &header, &mut file)?;
                if !replayed.gaps.is_empty() {
                    damage_text(&replayed)
                } else if let Some(written) =
                    job.written.filter(|&written| (replayed.end as u64) + BLOCK as u64 <= written)
                {
                    format!("it ends at byte {} of {written} that were written", replayed.end)
                } else {
                    return Ok(());
                }
            }
        };
        let aside = set_aside(&self.damaged, path)?;
        tracing::error!(
            "{}: {what}; changes that it held are lost; the file is now {}",
            path.display(),
            aside.display()
        );
        Ok(())
    }
}

/// A file with a second name was set aside, or an operator keeps a copy. It must stay unchanged.
fn has_one_name(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.is_file() && file.nlink() == 1)
}

/// Removes a file. If that fails, the next start finds the file and knows that it is finished.
fn discard(path: &Path) {
    if let Err(error) = remove(path) {
        tracing::warn!("{error}");
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
