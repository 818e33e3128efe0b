//! The check at the start: whether the kernel, with this user and in this container, supports what the driver
//! needs. If not, it reports what must be changed.

use std::fmt;
use std::fs;
use std::io;
use std::time::Duration;

use io_uring::{Probe, opcode};

use super::buffers::Buffers;
use super::locked;
use super::ring::{self, RingEntries, RingSize};

/// Creates a ring like those of the shards, tries the operations that they use, and closes it. Returns how
/// large the rings of `shards` shards may be.
pub fn check_kernel(shards: usize) -> Result<RingSize, KernelProblem> {
    let explain = |error: io::Error| explain(&error, disabled_level(), &release(), shards, RingSize::LEAST);
    let ring = ring::build(RingEntries::TRIAL).map_err(explain)?;
    let mut buffers = Buffers::new(&ring.submitter(), 8, 4096).map_err(explain)?;
    buffers.unregister(&ring.submitter());
    // A seccomp profile may allow the setup and forbid this. glommio would panic.
    ring.submitter().submit().map_err(explain)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(explain)?;
    let size = locked::choose(&ring, shards)?;
    let needed = [
        opcode::MsgRingData::CODE,
        opcode::Send::CODE,
        opcode::RecvMulti::CODE,
        opcode::AcceptMulti::CODE,
        opcode::Write::CODE,
        opcode::OpenAt::CODE,
        opcode::Fallocate::CODE,
        opcode::Fsync::CODE,
        opcode::RenameAt::CODE,
        opcode::UnlinkAt::CODE,
    ];
    if needed.into_iter().all(|code| probe.is_supported(code)) {
        Ok(size)
    } else {
        Err(KernelProblem::TooOld { release: release() })
    }
}

/// Why midge can't run here, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelProblem {
    /// `kernel.io_uring_disabled` is 1 or 2.
    Disabled {
        /// The value of the setting.
        level: u8,
    },
    /// The call is refused, most likely by a container's seccomp profile.
    Forbidden,
    /// The kernel has no io_uring, or a profile hides it.
    Missing {
        /// The output of `uname -r`.
        release: String,
    },
    /// The kernel lacks a required feature.
    TooOld {
        /// The output of `uname -r`.
        release: String,
    },
    /// `RLIMIT_MEMLOCK` is too small.
    LockedMemory {
        /// The limit in bytes. `None` if there is no limit, and memory is short for another reason.
        limit_bytes: Option<u64>,
        /// The required number of bytes.
        needed_bytes: u64,
        /// The number of shards that need it.
        shards: usize,
    },
    /// Another error.
    Other(String),
}

impl fmt::Display for KernelProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelProblem::Disabled { level: 1 } => f.write_str(
                "io_uring is closed to this user: the setting kernel.io_uring_disabled is 1. Set it to 0 \
                 (sysctl -w kernel.io_uring_disabled=0), or put midge's group into kernel.io_uring_group",
            ),
            KernelProblem::Disabled { level } => write!(
                f,
                "io_uring is switched off: the setting kernel.io_uring_disabled is {level}. Set it to 0: \
                 sysctl -w kernel.io_uring_disabled=0",
            ),
            KernelProblem::Forbidden => f.write_str(
                "the system forbids io_uring to this process, most likely by the container's seccomp profile. \
                 Allow io_uring_setup, io_uring_enter and io_uring_register in it (docker run \
                 --security-opt seccomp=…)",
            ),
            KernelProblem::Missing { release } => write!(
                f,
                "this kernel ({release}) has no io_uring, or a seccomp profile hides it. midge needs Linux 6.1 \
                 or later",
            ),
            KernelProblem::TooOld { release } => write!(
                f,
                "this kernel ({release}) is too old: midge needs Linux 6.1 or later (ring wake-ups are of 5.18, \
                 receive buffer rings of 5.19, single issuer and multishot receive of 6.0, deferred task work of \
                 6.1)",
            ),
            KernelProblem::LockedMemory { limit_bytes: Some(limit_bytes), needed_bytes, shards } => write!(
                f,
                "the limit of locked memory (RLIMIT_MEMLOCK) is {limit_bytes} bytes, and {shards} shards need \
                 {needed_bytes}; what other programs of this user have locked counts too. Raise it (ulimit -l {}, \
                 LimitMEMLOCK= in the systemd unit, docker run --ulimit memlock=-1), or lower runtime.shards",
                needed_bytes.div_ceil(1024),
            ),
            KernelProblem::LockedMemory { limit_bytes: None, needed_bytes, shards } => write!(
                f,
                "the kernel has no memory for the rings of {shards} shards, which are {needed_bytes} bytes; \
                 RLIMIT_MEMLOCK is no limit here, so look at the memory of the machine and of the container",
            ),
            KernelProblem::Other(error) => write!(f, "io_uring does not work here: {error}"),
        }
    }
}

impl std::error::Error for KernelProblem {}

fn explain(
    error: &io::Error,
    disabled: Option<u8>,
    release: &str,
    shards: usize,
    size: RingSize,
) -> KernelProblem {
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM | libc::EACCES), Some(level @ 1..)) => KernelProblem::Disabled { level },
        (Some(libc::EPERM | libc::EACCES), _) => KernelProblem::Forbidden,
        (Some(libc::ENOSYS), _) => KernelProblem::Missing { release: release.to_owned() },
        (Some(libc::EINVAL), _) => KernelProblem::TooOld { release: release.to_owned() },
        (Some(libc::ENOMEM), _) => KernelProblem::LockedMemory {
            limit_bytes: locked::soft(),
            needed_bytes: locked::needed_bytes(size, shards),
            shards,
        },
        _ => KernelProblem::Other(error.to_string()),
    }
}

fn disabled_level() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

/// Explains why a shard could not start if memory is short. The limit counts what all programs of a user have
/// locked, and another one may have taken the memory since the check at the start.
pub(super) fn explain_start(error: io::Error, shards: usize, size: RingSize) -> io::Error {
    if error.raw_os_error() == Some(libc::ENOMEM) {
        io::Error::other(format!("{error}: {}", explain(&error, None, "", shards, size)))
    } else {
        error
    }
}

/// Creates a resource that needs pages of the kernel. On a machine whose free memory is full of cached files,
/// these may be short for a moment. The kernel refuses at once, so this tries again a little later.
pub(super) fn make_patiently<T>(mut make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..SHORT_TRIES {
        match make() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => std::thread::sleep(SHORT_PAUSE),
            made => return made,
        }
    }
    make()
}

/// One second in total.
const SHORT_TRIES: usize = 21;
const SHORT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(error: i32, disabled: Option<u8>) -> KernelProblem {
        explain(&io::Error::from_raw_os_error(error), disabled, "Linux 5.15", 3, RingSize::LEAST)
    }

    #[test]
    fn what_the_kernel_has_no_pages_for_is_tried_again_for_a_while_and_nothing_else_is() {
        let tries = |error: i32, until: usize| {
            let mut tries = 0;
            let made = make_patiently(|| {
                tries += 1;
                if tries < until { Err(io::Error::from_raw_os_error(error)) } else { Ok(()) }
            });
            (made.is_ok(), tries)
        };
        assert_eq!(tries(libc::ENOMEM, 3), (true, 3));
        assert_eq!(tries(libc::ENOMEM, usize::MAX), (false, SHORT_TRIES));
        assert_eq!(tries(libc::EPERM, 3), (false, 1));
    }

    #[test]
    fn the_machine_that_tests_this_can_run_midge() {
        check_kernel(1).unwrap();
    }

    #[test]
    fn each_refusal_is_told_apart() {
        assert_eq!(explained(libc::EPERM, Some(2)), KernelProblem::Disabled { level: 2 });
        assert_eq!(explained(libc::EPERM, Some(0)), KernelProblem::Forbidden);
        assert_eq!(explained(libc::EPERM, None), KernelProblem::Forbidden);
        assert!(matches!(explained(libc::ENOSYS, None), KernelProblem::Missing { .. }));
        assert!(matches!(explained(libc::EINVAL, None), KernelProblem::TooOld { .. }));
        assert!(matches!(explained(libc::ENOMEM, None), KernelProblem::LockedMemory { .. }));
        assert!(matches!(explained(libc::EIO, None), KernelProblem::Other(_)));
    }

    #[test]
    fn each_problem_says_what_to_do() {
        let texts = [
            (explained(libc::EPERM, Some(1)), "kernel.io_uring_group"),
            (explained(libc::EPERM, Some(2)), "sysctl -w kernel.io_uring_disabled=0"),
            (explained(libc::EPERM, None), "seccomp"),
            (explained(libc::EINVAL, None), "6.1"),
            (explained(libc::ENOMEM, None), "RLIMIT_MEMLOCK"),
        ];
        for (problem, text) in texts {
            assert!(problem.to_string().contains(text), "{problem}");
        }
    }

    #[test]
    fn too_little_locked_memory_is_told_with_limit_and_need() {
        let text_of = |limit_bytes| {
            KernelProblem::LockedMemory { limit_bytes, needed_bytes: 19_267_584, shards: 24 }.to_string()
        };
        let words = text_of(Some(8 << 20));
        for word in ["RLIMIT_MEMLOCK", "8388608 bytes", "24 shards need 19267584", "ulimit -l 18816"] {
            assert!(words.contains(word), "{word} in {words}");
        }
        assert!(text_of(None).contains("24 shards"));
        let short = explain_start(io::Error::from_raw_os_error(libc::ENOMEM), 24, RingSize::FULL).to_string();
        assert!(short.contains("os error 12") && short.contains("24 shards"), "{short}");
        let other = explain_start(io::Error::from_raw_os_error(libc::EIO), 24, RingSize::FULL);
        assert_eq!(other.raw_os_error(), Some(libc::EIO));
    }
}
