//! The files of a log, on the shard's ring. Each operation is one entry of the ring. Its completion ends the
//! same wait as the completions of sockets.
//!
//! Files are written with direct I/O, from memory that the driver owns until the write is finished. With
//! `writes_through` they have `O_DSYNC`: the write itself ends when the data is on the disk, which takes one
//! operation instead of two. Plain system calls are only used for what the kernel knows without the disk.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use io_uring::{opcode, squeue, types};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstat, fstatfs, ftruncate};

use super::Net;
use super::buffers::MemoryMapping;
use super::ring::{Op, RingCompletion, Tag, Wait};
use crate::base::log_files::{
    FileDone, FileId, FileOperation, FileResult, LogFiles, LogWork, WRITE_BYTES_MAX,
};

/// The files of a shard.
#[derive(Default)]
pub(super) struct Files {
    open: Vec<Option<Rc<OwnedFd>>>,
    /// Pending operations, indexed by the index in the operation's tag.
    under_way: Vec<Option<UnderWay>>,
    done: VecDeque<FileDone>,
    /// The buffer of the last write, for the next one.
    buffer: Option<MemoryMapping>,
}

/// An operation that the kernel has, and the memory that it refers to.
struct UnderWay {
    work: LogWork,
    operation: Operation,
}

#[expect(dead_code, reason = "some fields only keep alive what the kernel reads")]
enum Operation {
    Open { path: CString },
    Allocate { file: Rc<OwnedFd>, bytes: u64 },
    Sync { file: Rc<OwnedFd> },
    Rename { from: CString, to: CString },
    Remove { path: CString },
    Write { file: Rc<OwnedFd>, buffer: MemoryMapping },
}

impl Files {
    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    pub(super) fn give_memory_back(&mut self) {
        self.buffer = None;
        self.under_way.truncate(self.under_way.iter().rposition(Option::is_some).map_or(0, |last| last + 1));
        self.under_way.shrink_to_fit();
        self.done.shrink_to_fit();
    }

    /// Leaks the memory that the kernel may still read. It is called at the end of the ring, which its
    /// operations may outlive.
    pub(super) fn abandon(&mut self) {
        std::mem::take(&mut self.under_way).into_iter().for_each(std::mem::forget);
    }

    fn file(&self, file: FileId) -> io::Result<Rc<OwnedFd>> {
        let open = self.open.get(file.0 as usize).and_then(Option::as_ref);
        open.map(Rc::clone).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn add(&mut self, file: OwnedFd) -> FileId {
        let index = free_place(&mut self.open);
        self.open[index] = Some(Rc::new(file));
        FileId(index as u32)
    }

    /// A buffer with the alignment that direct I/O needs, and at least this length.
    fn take_buffer(&mut self, bytes: usize) -> io::Result<MemoryMapping> {
        match self.buffer.take() {
            Some(buffer) if buffer.bytes() >= bytes => Ok(buffer),
            _ => MemoryMapping::new(bytes.next_power_of_two().max(BUFFER_BYTES_MIN)),
        }
    }

    fn return_buffer(&mut self, buffer: MemoryMapping) {
        if buffer.bytes() <= BUFFER_KEPT_BYTES_MAX {
            self.buffer = Some(buffer);
        }
    }

    fn conclude(&mut self, operation: Operation, result: i32) -> io::Result<FileResult> {
        let outcome = u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        match operation {
            Operation::Open { .. } => {
                let fd = outcome? as i32;
                // SAFETY: the kernel has just opened it for this operation, and nothing else uses it.
                let file = unsafe { OwnedFd::from_raw_fd(fd) };
                let bytes = set_direct(&file)?;
                Ok(FileResult::Opened { file: self.add(file), bytes })
            }
            Operation::Allocate { file, bytes } => match outcome {
                // If a file system can't reserve space, a write reports it when there is none.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    ftruncate(&*file, bytes)?;
                    Ok(FileResult::Done)
                }
                result => result.map(|_| FileResult::Done),
            },
            Operation::Write { buffer, .. } => {
                self.return_buffer(buffer);
                Ok(FileResult::Written { bytes: outcome? as usize })
            }
            Operation::Sync { .. } | Operation::Rename { .. } | Operation::Remove { .. } => {
                outcome.map(|_| FileResult::Done)
            }
        }
    }
}

impl LogFiles for Net {
    fn begin(&mut self, work: LogWork, operation: FileOperation) {
        match self.prepare(operation) {
            Ok((operation, entry)) => self.queue_file(work, operation, entry),
            Err(error) => self.files.done.push_back(FileDone { work, result: Err(error) }),
        }
    }

    fn write(&mut self, work: LogWork, file: FileId, at: u64, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        assert!(bytes > 0 && bytes <= WRITE_BYTES_MAX, "{bytes} bytes can't be written at once");
        let had = self.files.file(file).and_then(|file| Ok((file, self.files.take_buffer(bytes)?)));
        match had {
            Ok((file, mut buffer)) => {
                fill(&mut buffer.as_mut_slice()[..bytes]);
                let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), buffer.start(), bytes as u32);
                let entry = entry.offset(at).build();
                self.queue_file(work, Operation::Write { file, buffer }, entry);
            }
            Err(error) => self.files.done.push_back(FileDone { work, result: Err(error) }),
        }
    }

    fn close_file(&mut self, file: FileId) {
        // Everything that was written is synced, or need not be, so closing reports nothing new. Pending
        // operations hold the file too.
        if let Some(open) = self.files.open.get_mut(file.0 as usize) {
            *open = None;
        }
    }

    fn is_found(&self, path: &Path, file: FileId) -> io::Result<bool> {
        let ours = fstat(&*self.files.file(file)?)?;
        let found = std::fs::metadata(path)?;
        Ok((found.dev(), found.ino()) == (ours.st_dev, ours.st_ino))
    }
}

impl Net {
    /// The next finished operation on files, in the order of their ends. Makes no system call.
    pub fn next_file_done(&mut self) -> Option<FileDone> {
        self.ring.reap();
        while let Some(completion) = self.ring.next_of_file() {
            self.conclude_file(completion);
        }
        self.files.done.pop_front()
    }

    /// Blocks until an operation on files may have finished, at most for `patience`. It is for the start and
    /// the end of a shard, when there is nothing else to do.
    ///
    /// # Errors
    /// The ring's error. The shard must end.
    pub fn await_files(&mut self, patience: Duration) -> io::Result<()> {
        self.ring.reap();
        if !self.has_file_done() {
            self.enter(Wait::Until(Some(patience)));
        }
        self.health()
    }

    pub(super) fn has_file_done(&self) -> bool {
        self.ring.has_of_file() || self.files.has_done()
    }

    fn conclude_file(&mut self, completion: RingCompletion) {
        let index = completion.tag.index as usize;
        let Some(under_way) = self.files.under_way.get_mut(index).and_then(Option::take) else { return };
        let UnderWay { work, operation } = under_way;
        let result = self.files.conclude(operation, completion.result);
        self.files.done.push_back(FileDone { work, result });
    }

    /// The ring entry of an operation, and the owner of the memory that the entry refers to.
    fn prepare(&self, operation: FileOperation) -> io::Result<(Operation, squeue::Entry)> {
        let here = types::Fd(libc::AT_FDCWD);
        Ok(match operation {
            FileOperation::Create { path, writes_through } => {
                open_entry(path, libc::O_CREAT | libc::O_EXCL, writes_through)?
            }
            FileOperation::Open { path, writes_through } => open_entry(path, 0, writes_through)?,
            FileOperation::Allocate { file, bytes } => {
                let file = self.files.file(file)?;
                let entry = opcode::Fallocate::new(types::Fd(file.as_raw_fd()), bytes).build();
                (Operation::Allocate { file, bytes }, entry)
            }
            FileOperation::Sync { file } => {
                let file = self.files.file(file)?;
                let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd()));
                (Operation::Sync { file }, entry.flags(types::FsyncFlags::DATASYNC).build())
            }
            FileOperation::SyncDirectory { path } => {
                let directory = Rc::new(OwnedFd::from(File::open(path)?));
                let entry = opcode::Fsync::new(types::Fd(directory.as_raw_fd())).build();
                (Operation::Sync { file: directory }, entry)
            }
            FileOperation::Rename { from, to } => {
                let (from, to) = (text(from)?, text(to)?);
                let entry = opcode::RenameAt::new(here, from.as_ptr(), here, to.as_ptr()).build();
                (Operation::Rename { from, to }, entry)
            }
            FileOperation::Remove { path } => {
                let path = text(path)?;
                let entry = opcode::UnlinkAt::new(here, path.as_ptr()).build();
                (Operation::Remove { path }, entry)
            }
        })
    }

    /// Queues an operation. The entry's pointers refer to memory in `operation`, on the heap or in a mapping,
    /// which stays there until the completion.
    fn queue_file(&mut self, work: LogWork, operation: Operation, entry: squeue::Entry) {
        let index = free_place(&mut self.files.under_way);
        self.files.under_way[index] = Some(UnderWay { work, operation });
        self.push(Tag { op: Op::File, generation: 0, index: index as u32 }, entry);
    }
}

/// The first free place. If there is none, it is added.
fn free_place<T>(places: &mut Vec<Option<T>>) -> usize {
    places.iter().position(Option::is_none).unwrap_or_else(|| {
        places.push(None);
        places.len() - 1
    })
}

fn open_entry(path: PathBuf, flags: i32, writes_through: bool) -> io::Result<(Operation, squeue::Entry)> {
    let path = text(path)?;
    let through = if writes_through { libc::O_DSYNC } else { 0 };
    let entry = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr())
        .flags(libc::O_WRONLY | libc::O_CLOEXEC | flags | through)
        .mode(0o600)
        .build();
    Ok((Operation::Open { path }, entry))
}

/// Makes writes to a file bypass the system's cache, unless the file is in memory anyway. Returns the file's
/// length.
fn set_direct(file: &OwnedFd) -> io::Result<u64> {
    if fstatfs(file)?.f_type != libc::TMPFS_MAGIC {
        fcntl_setfl(file, fcntl_getfl(file)? | OFlags::DIRECT)?;
    }
    Ok(u64::try_from(fstat(file)?.st_size).unwrap_or_default())
}

fn text(path: PathBuf) -> io::Result<CString> {
    CString::new(path.into_os_string().into_vec()).map_err(io::Error::from)
}

/// The smallest buffer, in bytes. Most writes are short.
const BUFFER_BYTES_MIN: usize = 64 << 10;

/// The longest buffer that is kept for the next write, in bytes.
const BUFFER_KEPT_BYTES_MAX: usize = 1 << 20;
