//! A disk for tests: files in a directory. The test decides when operations are carried out, and which of
//! them fail or wait. All are recorded.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::base::log_files::{
    FileDone, FileId, FileOperation, FileResult, LogFiles, LogWork, WRITE_BYTES_MAX,
};
use crate::store::segment::UNFINISHED;

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Create,
    Open,
    Preallocate,
    /// The final rename of a file that has its length.
    Name,
    /// The rename of an old segment.
    Rename,
    Write,
    Sync,
    SyncDirectory,
    Remove,
}

#[derive(Debug)]
enum Request {
    Operation(FileOperation),
    Write { file: FileId, at: u64, bytes: Vec<u8> },
}

impl Request {
    fn kind(&self) -> Kind {
        match self {
            Request::Write { .. } => Kind::Write,
            Request::Operation(operation) => match operation {
                FileOperation::Create { .. } => Kind::Create,
                FileOperation::Open { .. } => Kind::Open,
                FileOperation::Allocate { .. } => Kind::Preallocate,
                FileOperation::Sync { .. } => Kind::Sync,
                FileOperation::Rename { from, .. } if from.to_string_lossy().ends_with(UNFINISHED) => {
                    Kind::Name
                }
                FileOperation::Rename { .. } => Kind::Rename,
                FileOperation::SyncDirectory { .. } => Kind::SyncDirectory,
                FileOperation::Remove { .. } => Kind::Remove,
            },
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Disk {
    /// Operations of this kind fail with this error number.
    pub(super) failing: Option<(Kind, i32)>,
    /// The number of such operations that succeed before the others fail.
    pub(super) spared: usize,
    /// Operations of this kind do not end.
    pub(super) held: Option<Kind>,
    /// The operations that were begun.
    pub(super) begun: Vec<Kind>,
    /// By opened file: whether a write to it ends only when the disk has the data.
    pub(super) writes_through: Vec<bool>,
    /// The largest number of bytes that a write takes.
    pub(super) takes: Option<usize>,
    /// The largest number of bytes that a write reports.
    pub(super) tells: Option<usize>,
    under_way: VecDeque<(LogWork, Request)>,
    open: Vec<Option<File>>,
}

impl Disk {
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.begun.iter().filter(|&&begun| begun == kind).count()
    }

    /// The number of open files.
    pub(super) fn open_files(&self) -> usize {
        self.open.iter().flatten().count()
    }

    /// Whether any operation is in progress, including held ones.
    pub(super) fn is_busy(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Carries out the operation that ends next.
    pub(super) fn finish_one(&mut self) -> Option<FileDone> {
        let index = self.under_way.iter().position(|(_, request)| Some(request.kind()) != self.held)?;
        let (work, request) = self.under_way.remove(index)?;
        let result = match self.failing {
            Some((kind, error)) if kind == request.kind() => match self.spared.checked_sub(1) {
                Some(left) => {
                    self.spared = left;
                    self.run(request)
                }
                None => Err(io::Error::from_raw_os_error(error)),
            },
            _ => self.run(request),
        };
        Some(FileDone { work, result })
    }

    fn request(&mut self, work: LogWork, request: Request) {
        assert!(self.under_way.iter().all(|&(other, _)| other != work), "{work:?} does two things at a time");
        self.begun.push(request.kind());
        self.under_way.push_back((work, request));
    }

    fn run(&mut self, request: Request) -> io::Result<FileResult> {
        let operation = match request {
            Request::Write { file, at, bytes } => {
                let taken = self.takes.map_or(bytes.len(), |max| max.min(bytes.len()));
                self.file(file).write_all_at(&bytes[..taken], at)?;
                return Ok(FileResult::Written { bytes: self.tells.map_or(taken, |max| max.min(taken)) });
            }
            Request::Operation(operation) => operation,
        };
        match operation {
            FileOperation::Create { path, writes_through } => {
                let mut options = OpenOptions::new();
                return self
                    .opened(options.write(true).create_new(true).mode(0o600).open(path)?, writes_through);
            }
            FileOperation::Open { path, writes_through } => {
                return self.opened(OpenOptions::new().write(true).open(path)?, writes_through);
            }
            FileOperation::Allocate { file, bytes } => self.file(file).set_len(bytes)?,
            FileOperation::Sync { file } => self.file(file).sync_data()?,
            FileOperation::Rename { from, to } => fs::rename(from, to)?,
            FileOperation::SyncDirectory { path } => File::open(path)?.sync_all()?,
            FileOperation::Remove { path } => fs::remove_file(path)?,
        }
        Ok(FileResult::Done)
    }

    fn opened(&mut self, file: File, writes_through: bool) -> io::Result<FileResult> {
        let bytes = file.metadata()?.len();
        self.open.push(Some(file));
        self.writes_through.push(writes_through);
        Ok(FileResult::Opened { file: FileId(self.open.len() as u32 - 1), bytes })
    }

    fn file(&self, file: FileId) -> &File {
        self.open[file.0 as usize].as_ref().expect("the file is open")
    }
}

impl LogFiles for Disk {
    fn begin(&mut self, work: LogWork, operation: FileOperation) {
        self.request(work, Request::Operation(operation));
    }

    fn write(&mut self, work: LogWork, file: FileId, at: u64, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        assert!(bytes > 0 && bytes <= WRITE_BYTES_MAX);
        assert!(bytes.is_multiple_of(4096) && at.is_multiple_of(4096), "{bytes} bytes at {at}");
        let mut buffer = vec![0xee; bytes];
        fill(&mut buffer);
        self.request(work, Request::Write { file, at, bytes: buffer });
    }

    fn close_file(&mut self, file: FileId) {
        assert!(self.open[file.0 as usize].take().is_some(), "a file is closed once");
    }

    fn is_found(&self, path: &Path, file: FileId) -> io::Result<bool> {
        Ok(fs::metadata(path)?.ino() == self.file(file).metadata()?.ino())
    }
}
