//! Creates the files of segments durably, and classifies the errors of that.
//!
//! A file is created under a temporary name, gets its length, and then its final name. If there is an old
//! segment of the same log, its file is reused: its blocks were written before, which saves the file system
//! work on each write. Old frames in it are not mistaken for frames of the new segment, see
//! [`crate::store::segment`].

use std::io;
use std::path::{Path, PathBuf};

use super::{explain, gone, is_gone};
use crate::base::log_files::{FileId, FileOperation, FileResult, LogFiles, LogWork};
use crate::store::Spares;
use crate::store::segment::UNFINISHED;

/// The beginning of a segment: its number, and the sequence of its first frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentStart {
    pub(super) number: u64,
    pub(super) first_sequence: u64,
}

/// A segment that is open for writing.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: FileId,
    pub(super) path: PathBuf,
    /// The number of bytes that are allocated on the disk.
    pub(super) bytes_max: usize,
}

/// The reason why there is no new segment.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may work later.
    NoRoom(io::Error),
    /// The disk lost data that it should have kept. From now on its content is unknown.
    NotKept(io::Error),
}

impl Trouble {
    /// Classifies the error of a file that can't be created. If its directory is gone, no later attempt can
    /// succeed.
    fn of(error: io::Error) -> Trouble {
        if is_gone(&error) { Trouble::NotKept(gone(error.to_string())) } else { Trouble::NoRoom(error) }
    }

    pub(super) fn into_cause(self) -> io::Error {
        match self {
            Trouble::NoRoom(cause) | Trouble::NotKept(cause) => cause,
        }
    }
}

/// The requested file.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) path: PathBuf,
    /// The length.
    pub(super) bytes: usize,
    pub(super) writes_through: bool,
    /// The files of old segments.
    pub(super) spares: Spares,
    pub(super) shard: u16,
}

/// The result of creating a segment.
#[derive(Debug)]
pub(super) struct Made {
    /// The segment. If extending it failed, it has its old length.
    pub(super) segment: Option<Segment>,
    pub(super) trouble: Option<Trouble>,
}

/// A segment that is being created or extended. One operation of [`LogWork::Segment`] is in progress.
#[derive(Debug)]
pub(super) struct Making(Box<Inner>);

#[derive(Debug)]
struct Inner {
    order: Order,
    /// Whether an earlier attempt has failed, which may have left a file.
    is_retry: bool,
    step: Step,
}

/// The operation that is in progress.
#[derive(Debug)]
enum Step {
    /// Syncs the previous segment. The path is for the error.
    SyncCurrent(PathBuf),
    ClearUnfinished,
    ClearPath,
    OpenOld(PathBuf),
    RenameOld(PathBuf, FileId),
    KeepOldName(FileId),
    RemoveOld,
    Create,
    Allocate(FileId),
    RemoveUnfinished(Trouble),
    Sync(FileId),
    Rename(FileId),
    KeepName(FileId),
    /// Frees the reserves of other logs to make room for the next attempt.
    RemoveReserve(Vec<PathBuf>, Trouble),
    Grow(Segment, usize),
}

impl Making {
    pub(super) fn begin(order: Order, is_retry: bool, files: &mut impl LogFiles) -> Making {
        let mut inner = Inner { order, is_retry, step: Step::Create };
        inner.clear_or_open(files);
        Making(Box::new(inner))
    }

    /// As [`Making::begin`], but after the previous segment is synced.
    pub(super) fn begin_after_sync(
        order: Order,
        is_retry: bool,
        before: (FileId, &Path),
        files: &mut impl LogFiles,
    ) -> Making {
        let (file, path) = before;
        let mut inner = Inner { order, is_retry, step: Step::Create };
        inner.go(Step::SyncCurrent(path.to_owned()), FileOperation::Sync { file }, files);
        Making(Box::new(inner))
    }

    /// Extends a segment.
    pub(super) fn grow(segment: Segment, order: Order, bytes: usize, files: &mut impl LogFiles) -> Making {
        let mut inner = Inner { order, is_retry: false, step: Step::Create };
        let allocate = FileOperation::Allocate { file: segment.file, bytes: bytes as u64 };
        inner.go(Step::Grow(segment, bytes), allocate, files);
        Making(Box::new(inner))
    }

    /// Takes the result of the operation, and begins the next one if there is one.
    ///
    /// # Errors
    /// If the segment is not finished, the rest of its creation.
    pub(super) fn handle_done(
        mut self,
        result: io::Result<FileResult>,
        files: &mut impl LogFiles,
    ) -> Result<Made, Making> {
        match self.0.handle_done(result, files) {
            Some(made) => Ok(made),
            None => Err(self),
        }
    }
}

impl Inner {
    fn go(&mut self, step: Step, operation: FileOperation, files: &mut impl LogFiles) {
        self.step = step;
        files.begin(LogWork::Segment, operation);
    }

    fn handle_done(&mut self, result: io::Result<FileResult>, files: &mut impl LogFiles) -> Option<Made> {
        match std::mem::replace(&mut self.step, Step::Create) {
            Step::SyncCurrent(path) => match result {
                Ok(_) => self.clear_or_open(files),
                Err(error) => return Some(without(Trouble::NotKept(explain("sync", &path, error)))),
            },
            Step::ClearUnfinished => self.remove(Step::ClearPath, self.order.path.clone(), files),
            Step::ClearPath => self.open_old(files),
            Step::OpenOld(old) => self.opened_old(old, result, files),
            Step::RenameOld(old, file) => self.renamed_old(old, file, result, files),
            Step::KeepOldName(file) => return Some(self.kept_name(file, result, files)),
            // If the file can't be removed, the next start finds it and knows that it is finished.
            Step::RemoveOld => self.create(files),
            Step::Create => return self.created(result, files),
            Step::Allocate(file) => self.allocated(file, result, files),
            Step::RemoveUnfinished(trouble) => return self.remove_reserve(trouble, files),
            Step::Sync(file) => return self.synced(file, result, files),
            Step::Rename(file) => return self.renamed(file, result, files),
            Step::KeepName(file) => {
                let made = self.kept_name(file, result, files);
                return match made.trouble {
                    Some(trouble) => self.remove_reserve(trouble, files),
                    None => Some(made),
                };
            }
            Step::RemoveReserve(left, trouble) => return self.remove_next(left, trouble, files),
            Step::Grow(segment, bytes) => return Some(grown(segment, bytes, result)),
        }
        None
    }

    /// Removes files that an earlier attempt may have left.
    fn clear_or_open(&mut self, files: &mut impl LogFiles) {
        if self.is_retry {
            self.remove(Step::ClearUnfinished, self.unfinished(), files);
        } else {
            self.open_old(files);
        }
    }

    fn open_old(&mut self, files: &mut impl LogFiles) {
        let Some(old) = self.order.spares.take(self.order.shard) else { return self.create(files) };
        let open = FileOperation::Open { path: old.clone(), writes_through: self.order.writes_through };
        self.go(Step::OpenOld(old), open, files);
    }

    fn opened_old(&mut self, old: PathBuf, result: io::Result<FileResult>, files: &mut impl LogFiles) {
        match result {
            Ok(FileResult::Opened { file, bytes }) if bytes == self.order.bytes as u64 => {
                let rename = FileOperation::Rename { from: old.clone(), to: self.order.path.clone() };
                self.go(Step::RenameOld(old, file), rename, files);
            }
            Ok(FileResult::Opened { file, .. }) => {
                files.close_file(file);
                self.remove(Step::RemoveOld, old, files);
            }
            _ => self.remove(Step::RemoveOld, old, files),
        }
    }

    fn renamed_old(
        &mut self,
        old: PathBuf,
        file: FileId,
        result: io::Result<FileResult>,
        files: &mut impl LogFiles,
    ) {
        if result.is_ok() {
            // Without this sync, it could reappear under its old name with new data.
            self.go(Step::KeepOldName(file), self.sync_directory(), files);
        } else {
            files.close_file(file);
            self.remove(Step::RemoveOld, old, files);
        }
    }

    fn create(&mut self, files: &mut impl LogFiles) {
        let writes_through = self.order.writes_through;
        self.go(Step::Create, FileOperation::Create { path: self.unfinished(), writes_through }, files);
    }

    fn created(&mut self, result: io::Result<FileResult>, files: &mut impl LogFiles) -> Option<Made> {
        match result {
            Ok(FileResult::Opened { file, .. }) => {
                let bytes = self.order.bytes as u64;
                self.go(Step::Allocate(file), FileOperation::Allocate { file, bytes }, files);
                None
            }
            Ok(_) => unreachable!("a file that is created is open"),
            Err(error) => {
                let error = explain("create", &self.unfinished(), error);
                let trouble = if error.kind() == io::ErrorKind::InvalidInput {
                    let advice =
                        "the file system of persistence.directory must support direct I/O (O_DIRECT)";
                    Trouble::NoRoom(io::Error::new(error.kind(), format!("{error}: {advice}")))
                } else {
                    Trouble::of(error)
                };
                self.remove_reserve(trouble, files)
            }
        }
    }

    fn allocated(&mut self, file: FileId, result: io::Result<FileResult>, files: &mut impl LogFiles) {
        match result {
            Ok(_) => self.go(Step::Sync(file), FileOperation::Sync { file }, files),
            Err(error) => {
                let trouble = Trouble::NoRoom(explain("preallocate", &self.unfinished(), error));
                files.close_file(file);
                self.remove(Step::RemoveUnfinished(trouble), self.unfinished(), files);
            }
        }
    }

    fn synced(
        &mut self,
        file: FileId,
        result: io::Result<FileResult>,
        files: &mut impl LogFiles,
    ) -> Option<Made> {
        match result {
            Ok(_) => {
                // The file gets its name after its length.
                let rename = FileOperation::Rename { from: self.unfinished(), to: self.order.path.clone() };
                self.go(Step::Rename(file), rename, files);
                None
            }
            Err(error) => {
                files.close_file(file);
                let trouble = Trouble::NotKept(explain("sync", &self.unfinished(), error));
                self.remove_reserve(trouble, files)
            }
        }
    }

    fn renamed(
        &mut self,
        file: FileId,
        result: io::Result<FileResult>,
        files: &mut impl LogFiles,
    ) -> Option<Made> {
        match result {
            Ok(_) => {
                self.go(Step::KeepName(file), self.sync_directory(), files);
                None
            }
            Err(error) => {
                files.close_file(file);
                self.remove_reserve(Trouble::of(explain("rename", &self.unfinished(), error)), files)
            }
        }
    }

    fn kept_name(&mut self, file: FileId, result: io::Result<FileResult>, files: &mut impl LogFiles) -> Made {
        match result {
            Ok(_) => {
                let (path, bytes_max) = (self.order.path.clone(), self.order.bytes);
                Made { segment: Some(Segment { file, path, bytes_max }), trouble: None }
            }
            Err(error) => {
                files.close_file(file);
                without(Trouble::NotKept(explain("sync", self.directory(), error)))
            }
        }
    }

    fn remove_reserve(&mut self, trouble: Trouble, files: &mut impl LogFiles) -> Option<Made> {
        let left = self.order.spares.take_all();
        self.remove_next(left, trouble, files)
    }

    fn remove_next(
        &mut self,
        mut left: Vec<PathBuf>,
        trouble: Trouble,
        files: &mut impl LogFiles,
    ) -> Option<Made> {
        let Some(path) = left.pop() else { return Some(without(trouble)) };
        self.remove(Step::RemoveReserve(left, trouble), path, files);
        None
    }

    fn remove(&mut self, step: Step, path: PathBuf, files: &mut impl LogFiles) {
        self.go(step, FileOperation::Remove { path }, files);
    }

    /// After a power failure, a file is found only if its directory was synced.
    fn sync_directory(&self) -> FileOperation {
        FileOperation::SyncDirectory { path: self.directory().to_owned() }
    }

    fn directory(&self) -> &Path {
        self.order.path.parent().unwrap_or(Path::new("."))
    }

    /// The temporary name of the file until it has its length.
    fn unfinished(&self) -> PathBuf {
        let mut name = self.order.path.as_os_str().to_owned();
        name.push(UNFINISHED);
        name.into()
    }
}

fn without(trouble: Trouble) -> Made {
    Made { segment: None, trouble: Some(trouble) }
}

fn grown(mut segment: Segment, bytes: usize, result: io::Result<FileResult>) -> Made {
    let trouble = match result {
        Ok(_) => {
            segment.bytes_max = bytes;
            None
        }
        Err(error) => Some(Trouble::NoRoom(explain("preallocate", &segment.path, error))),
    };
    Made { segment: Some(segment), trouble }
}
