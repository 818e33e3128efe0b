//! The shard's io_uring, with one batch of submissions and one collection of completions per turn.
//!
//! Completions of sends go to a list of their own, because they are handled directly after the enter that has
//! caused them. Those of files have a list too, because a turn begins with them. All others wait here in
//! order until the driver handles them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, squeue};

use crate::base::ConnectionSlot;

/// A completion as the kernel has posted it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingCompletion {
    pub(super) tag: Tag,
    pub(super) result: i32,
    pub(super) flags: u32,
}

/// The purpose of an operation: the upper byte of its user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    Receive = 1,
    Send,
    Writable,
    Accept,
    Watch,
    Wake,
    Woken,
    Cancel,
    Gone,
    File,
}

/// The user data: operation, generation of the slot (24 bits), index of what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) op: Op,
    pub(super) generation: u32,
    /// The index of a connection, a listener, a file or a watch. Each operation has its own table.
    pub(super) index: u32,
}

impl Tag {
    /// The connection of an operation on a connection.
    pub(super) fn slot(self) -> ConnectionSlot {
        ConnectionSlot::new(self.index)
    }

    pub(super) fn pack(self) -> u64 {
        (self.op as u64) << 56 | u64::from(self.generation & GENERATION_MASK) << 32 | u64::from(self.index)
    }

    fn unpack(data: u64) -> Option<Tag> {
        let op = match data >> 56 {
            1 => Op::Receive,
            2 => Op::Send,
            3 => Op::Writable,
            4 => Op::Accept,
            5 => Op::Watch,
            6 => Op::Wake,
            7 => Op::Woken,
            8 => Op::Cancel,
            9 => Op::Gone,
            10 => Op::File,
            _ => return None,
        };
        Some(Tag { op, generation: (data >> 32) as u32 & GENERATION_MASK, index: data as u32 })
    }
}

/// What an enter does besides submitting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing: the sends run, and deferred completions stay where they are.
    Never,
    /// It runs the deferred work, without blocking.
    Reap,
    /// It blocks until a completion comes, at most for this duration.
    Until(Option<Duration>),
}

pub(super) struct Ring {
    ring: IoUring,
    waiting: VecDeque<RingCompletion>,
    sends: Vec<RingCompletion>,
    of_files: VecDeque<RingCompletion>,
}

/// The sizes of a ring's queues.
#[derive(Clone, Copy)]
pub(super) struct RingEntries {
    pub(super) submissions: u32,
    pub(super) completions: u32,
}

impl RingEntries {
    /// The sizes for a ring that only tests what the kernel supports.
    pub(super) const TRIAL: RingEntries = RingEntries { submissions: 8, completions: 16 };
}

/// The size of a ring: room for 128 to 4096 operations, a power of two, and for four times as many
/// completions. Operations without room go into another batch, completions into a list of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSize {
    submissions: u32,
}

impl RingSize {
    /// The size of a ring, unless the limit of locked memory is too small for it.
    pub const FULL: RingSize = RingSize { submissions: 4096 };
    /// Enough for all but the largest turns, which enter the kernel more than once.
    pub(super) const GOOD: RingSize = RingSize { submissions: 512 };
    pub(super) const LEAST: RingSize = RingSize { submissions: 128 };

    /// All sizes, from the largest to the smallest.
    pub(super) fn all() -> impl Iterator<Item = RingSize> {
        let halved = |size: &RingSize| Some(RingSize { submissions: size.submissions / 2 });
        std::iter::successors(Some(RingSize::FULL), halved)
            .take_while(|size| size.submissions >= RingSize::LEAST.submissions)
    }

    /// The number of operations that can wait to be submitted to the kernel.
    pub fn submissions(self) -> u32 {
        self.submissions
    }

    pub(super) fn entries(self) -> RingEntries {
        RingEntries { submissions: self.submissions, completions: self.submissions * 4 }
    }
}

impl Ring {
    pub(super) fn new(size: RingSize) -> io::Result<Ring> {
        let ring = build(size.entries())?;
        Ok(Ring { ring, waiting: VecDeque::new(), sends: Vec::new(), of_files: VecDeque::new() })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// Queues an operation. Enters the kernel if the queue is full.
    ///
    /// # Safety
    /// The entry's pointers must stay valid until the kernel no longer needs them. For sends this is the end
    /// of the next [`Ring::enter`], because they run inline.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.enter(Wait::Never)?;
        }
        // SAFETY: the caller promises that the entry's pointers stay valid.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))
    }

    pub(super) fn queued(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// Submits all queued operations, and collects completions.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let mut wait = wait;
        for _ in 0..ENTER_TRIES_MAX {
            let refused = match self.enter_once(wait) {
                Ok(()) => false,
                Err(error) => match error.raw_os_error() {
                    Some(libc::ETIME | libc::EINTR) => false,
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => true,
                    _ => return Err(error),
                },
            };
            self.reap();
            let overflown = self.ring.submission().cq_overflow();
            if self.queued() == 0 && !overflown {
                return Ok(());
            }
            // A completion that found no room may be the result of a send, so it must be fetched.
            wait = if refused || overflown { Wait::Reap } else { Wait::Never };
        }
        Err(io::Error::other("the kernel does not take the shard's operations"))
    }

    fn enter_once(&mut self, wait: Wait) -> io::Result<()> {
        let queued = self.queued() as u32;
        let submitter = self.ring.submitter();
        match wait {
            Wait::Never => {
                // SAFETY: no argument is passed, and the pointers of the queued entries are valid as promised
                // to `push`.
                unsafe { submitter.enter::<()>(queued, 0, 0, None) }.map(drop)
            }
            Wait::Reap => {
                // SAFETY: as above.
                unsafe { submitter.enter::<()>(queued, 0, EnterFlags::GETEVENTS.bits(), None) }.map(drop)
            }
            Wait::Until(None) => submitter.submit_and_wait(1).map(drop),
            Wait::Until(Some(timeout)) => {
                let timeout = Timespec::from(timeout);
                let arguments = SubmitArgs::new().timespec(&timeout);
                submitter.submit_with_args(1, &arguments).map(drop)
            }
        }
    }

    /// Moves the completions that the kernel has posted to our lists. Makes no system call.
    pub(super) fn reap(&mut self) {
        for entry in self.ring.completion() {
            let Some(tag) = Tag::unpack(entry.user_data()) else { continue };
            let completion = RingCompletion { tag, result: entry.result(), flags: entry.flags() };
            match tag.op {
                Op::Send => self.sends.push(completion),
                Op::File => self.of_files.push_back(completion),
                _ => self.waiting.push_back(completion),
            }
        }
    }

    pub(super) fn next(&mut self) -> Option<RingCompletion> {
        self.waiting.pop_front()
    }

    /// The next completion of an operation on files.
    pub(super) fn next_of_file(&mut self) -> Option<RingCompletion> {
        self.of_files.pop_front()
    }

    /// Whether a completion of an operation on files is collected and not handled yet.
    pub(super) fn has_of_file(&self) -> bool {
        !self.of_files.is_empty()
    }

    /// Whether a completion of a socket waits to be handled, or any completion is not collected yet. It does
    /// not consider deferred work.
    pub(super) fn has_waiting(&mut self) -> bool {
        !self.waiting.is_empty() || !self.ring.completion().is_empty()
    }

    /// Whether the kernel has deferred work, or completions that found no room.
    pub(super) fn has_deferred(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// The sends that were incomplete or failed in the enters since the last call.
    pub(super) fn take_sends(&mut self) -> Vec<RingCompletion> {
        std::mem::take(&mut self.sends)
    }

    /// Returns the list of [`Ring::take_sends`], so that its memory is reused.
    pub(super) fn return_sends(&mut self, mut sends: Vec<RingCompletion>) {
        sends.clear();
        if self.sends.is_empty() {
            self.sends = sends;
        }
    }

    pub(super) fn give_memory_back(&mut self) {
        self.waiting.shrink_to_fit();
        self.sends.shrink_to_fit();
        self.of_files.shrink_to_fit();
    }
}

/// Builds a ring with the flags that the driver needs. [`super::kernel`] tests them too.
pub(super) fn build(entries: RingEntries) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(entries.completions)
        .build(entries.submissions)
}

pub(super) fn more(flags: u32) -> bool {
    cqueue::more(flags)
}

pub(super) fn buffer_of(flags: u32) -> Option<u16> {
    cqueue::buffer_select(flags)
}

/// Generations count modulo this.
pub(super) const GENERATION_MASK: u32 = 0x00ff_ffff;

/// The kernel refuses a batch only while it lacks memory. After this many refusals the shard ends.
const ENTER_TRIES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::opcode;

    #[test]
    fn a_tag_survives_packing() {
        let tag = Tag { op: Op::Cancel, generation: GENERATION_MASK, index: u32::MAX };
        assert_eq!(Tag::unpack(tag.pack()), Some(tag));
        assert_eq!(Tag::unpack(0), None);
        assert_eq!(Tag::unpack(11 << 56), None);
    }

    #[test]
    fn more_operations_than_the_queue_holds_all_complete() {
        for size in RingSize::all() {
            all_complete(size);
        }
    }

    fn all_complete(size: RingSize) {
        let mut ring = Ring::new(size).unwrap();
        let count = size.entries().completions * 2 + 17;
        for index in 0..count {
            let tag = Tag { op: Op::Watch, generation: 0, index };
            let entry = opcode::Nop::new().build().user_data(tag.pack());
            // SAFETY: a no-op points to nothing.
            unsafe { ring.push(&entry) }.unwrap();
        }
        ring.enter(Wait::Reap).unwrap();
        for index in 0..count {
            assert_eq!(ring.next().unwrap().tag.index, index);
        }
        assert!(ring.next().is_none());
    }

    #[test]
    fn a_wait_ends_at_its_timeout() {
        let mut ring = Ring::new(RingSize::FULL).unwrap();
        ring.enter(Wait::Until(Some(Duration::from_millis(5)))).unwrap();
        assert!(!ring.has_waiting());
    }
}
