//! Locked memory: how much of it the rings of the shards need, and how large they may be.
//!
//! The kernel lets a user lock `RLIMIT_MEMLOCK` bytes in all programs together, usually 8 MiB. From Linux
//! 6.14 on, rings and rings of buffers count as locked memory. On older kernels only registered buffers
//! count. Nothing counts for a process with `CAP_IPC_LOCK`. midge makes the rings smaller before it refuses
//! to start: the smallest ones of 128 shards fit into 8 MiB. [`super::executor`] removes registered buffers.

use std::io;
use std::time::Duration;

use io_uring::IoUring;
use rustix::param::page_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::NetConfig;
use super::buffers::{MemoryMapping, entries_bytes};
use super::executor::RING_DEPTH;
use super::kernel::KernelProblem;
use super::ring::{self, RingEntries, RingSize};

/// Chooses the largest rings that `shards` shards may have. If possible, half of the limit stays free for
/// memory of a killed broker that the kernel has not taken back yet. Only rings that suffice for all but the
/// largest turns may take that much. Larger ones take a sixteenth at most, because a user may run many
/// brokers, as our tests do.
pub(super) fn choose(probe: &IoUring, shards: usize) -> Result<RingSize, KernelProblem> {
    let Some(limit) = raised() else { return Ok(RingSize::FULL) };
    let short = |needed_bytes| KernelProblem::LockedMemory { limit_bytes: Some(limit), needed_bytes, shards };
    if limit < EXECUTOR_BYTES_MIN {
        // The executor requires this much, even if nothing counts.
        return Err(short(EXECUTOR_BYTES_MIN));
    }
    if !rings_count() {
        return Ok(RingSize::FULL);
    }
    let needed = |size| needed_bytes(size, shards);
    let least = needed(RingSize::LEAST).max(EXECUTOR_BYTES_MIN);
    if limit < least {
        return Err(short(least));
    }
    let wanted = wanted(limit, needed);
    // Other programs of the user may use up the limit, or a broker that was killed a moment ago.
    for tries in 0..ROOM_TRIES {
        let smaller = RingSize::all().skip_while(|&size| size != wanted);
        let tried = if tries < WANTED_TRIES { 1 } else { usize::MAX };
        if let Some(size) = smaller.take(tried).find(|&size| is_free(probe, needed(size))) {
            return Ok(size);
        }
        std::thread::sleep(ROOM_PAUSE);
    }
    Err(short(least))
}

fn wanted(limit: u64, needed: impl Fn(RingSize) -> u64) -> RingSize {
    let is_modest = |size: &RingSize| {
        let part = if size.submissions() <= RingSize::GOOD.submissions() { 2 } else { 16 };
        needed(*size) * part <= limit
    };
    RingSize::all().find(is_modest).unwrap_or(RingSize::LEAST)
}

/// The bytes that `shards` shards lock with rings of this size, on a kernel that counts rings.
pub(super) fn needed_bytes(size: RingSize, shards: usize) -> u64 {
    needed_with_pages(size, shards, page_size() as u64)
}

fn needed_with_pages(size: RingSize, shards: usize, page: u64) -> u64 {
    let pages = |bytes: u64| bytes.next_multiple_of(page);
    let ring = |entries: RingEntries| {
        let (submissions, completions) = (u64::from(entries.submissions), u64::from(entries.completions));
        pages(submissions * SUBMISSION_BYTES)
            + pages(RING_HEADER_BYTES + completions * COMPLETION_BYTES + submissions * INDEX_BYTES)
    };
    let own = ring(size.entries());
    let depth = RING_DEPTH as u32;
    let executor = EXECUTOR_RINGS * ring(RingEntries { submissions: depth, completions: 2 * depth });
    let buffers = pages(entries_bytes(NetConfig::default().buffers) as u64);
    (own + executor + buffers) * shards as u64 + START_BYTES
}

/// The soft limit, raised as far as possible. `None` if there is no limit.
fn raised() -> Option<u64> {
    let limit = limit();
    if limit.current != limit.maximum {
        set_limit(Rlimit { current: limit.maximum, ..limit });
    }
    soft()
}

/// The soft limit in bytes. `None` if there is no limit.
pub(super) fn soft() -> Option<u64> {
    limit().current
}

/// Whether rings count as locked memory, for this process and kernel. It tries to create one with a limit of
/// 0.
fn rings_count() -> bool {
    let limit = limit();
    set_limit(Rlimit { current: Some(0), maximum: limit.maximum });
    let made = ring::build(RingEntries::TRIAL);
    set_limit(limit);
    made.is_err_and(|error| error.raw_os_error() == Some(libc::ENOMEM))
}

/// Whether this many bytes can be locked at the moment. It registers a few pages many times as buffers of a
/// ring. These count at once, and stop counting when they are unregistered.
fn is_free(probe: &IoUring, bytes: u64) -> bool {
    let Ok(memory) = MemoryMapping::new(PROBE_BYTES) else { return false };
    memory.use_small_pages();
    let count = (bytes as usize).div_ceil(PROBE_BYTES).min(PROBES_MAX);
    let buffer = libc::iovec { iov_base: memory.start().cast(), iov_len: PROBE_BYTES };
    let buffers = vec![buffer; count];
    // SAFETY: the mapping outlives the registration, which ends below or has failed. No operation uses its
    // buffers, so nothing is written to it.
    let registered = unsafe { probe.submitter().register_buffers(&buffers) };
    match registered {
        Ok(()) => probe.submitter().unregister_buffers().is_ok(),
        Err(error) => !is_short(&error),
    }
}

fn is_short(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOMEM)
}

fn limit() -> Rlimit {
    getrlimit(Resource::Memlock)
}

fn set_limit(limit: Rlimit) {
    // A failure shows when the limit is read again.
    let _ = setrlimit(Resource::Memlock, limit);
}

/// The smallest limit that the executor accepts, in bytes.
const EXECUTOR_BYTES_MIN: u64 = 512 << 10;
/// The number of rings of a shard's executor.
const EXECUTOR_RINGS: u64 = 3;
/// The memory that the start itself locks for a moment: the rings with which it checks the kernel.
const START_BYTES: u64 = 64 << 10;

// The sizes of the kernel's structures of a ring.
const SUBMISSION_BYTES: u64 = 64;
const COMPLETION_BYTES: u64 = 16;
const INDEX_BYTES: u64 = 4;
const RING_HEADER_BYTES: u64 = 512;

const PROBE_BYTES: usize = 64 << 10;
/// The largest number of buffers that the kernel accepts.
const PROBES_MAX: usize = 1 << 14;

/// How often the wanted rings are tried, for a second in total. After that, smaller ones are tried too.
const WANTED_TRIES: usize = 20;
/// How often rings are tried, for ten seconds in total.
const ROOM_TRIES: usize = 200;
const ROOM_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_rings_of_all_shards_fit_the_usual_limit() {
        const USUAL_LIMIT: u64 = 8 << 20;
        assert!(
            needed_with_pages(RingSize::LEAST, crate::base::SHARDS_MAX, 4096) <= USUAL_LIMIT - (256 << 10)
        );
        let wanted = |limit, shards| wanted(limit, |size| needed_with_pages(size, shards, 4096));
        assert_eq!(
            [2, 32, 64, 128].map(|shards| wanted(USUAL_LIMIT, shards).submissions()),
            [1024, 512, 128, 128]
        );
        assert_eq!(wanted(8 * USUAL_LIMIT, 4), RingSize::FULL);
        // This is the number of brokers that our tests run at a time.
        assert!(24 * needed_with_pages(RingSize::GOOD, 2, 4096) <= USUAL_LIMIT);
    }

    #[test]
    fn what_is_free_can_be_asked_for_again_and_again() {
        let probe = ring::build(RingEntries::TRIAL).unwrap();
        for _ in 0..3 {
            assert!(is_free(&probe, 100_000));
        }
    }
}
