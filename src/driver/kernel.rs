//! The check at start: can this kernel, under this user and in this container, do what the driver
//! needs, and if not, what has to be changed.

use std::fmt;
use std::fs;
use std::io;

use io_uring::{Probe, opcode};

use super::buffers::Buffers;
use super::ring;

/// Makes a ring as the shards will, tries what they use, and takes it down again.
pub fn check_kernel() -> Result<(), KernelProblem> {
    let limit = locked_memory_bytes_max();
    if limit.is_some_and(|limit| limit < LOCKED_BYTES_MIN) {
        return Err(KernelProblem::LockedMemory { limit_bytes: limit.unwrap_or(0) });
    }
    let ring = ring::build(8, 16).map_err(|error| explain(&error, disabled_level(), &release()))?;
    let mut buffers = Buffers::new(&ring.submitter(), 8, 4096)
        .map_err(|error| explain(&error, disabled_level(), &release()))?;
    buffers.unregister(&ring.submitter());
    // A profile may allow the setup and forbid this; glommio would panic over it.
    ring.submitter().submit().map_err(|error| explain(&error, disabled_level(), &release()))?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| explain(&error, disabled_level(), &release()))?;
    let needed =
        [opcode::MsgRingData::CODE, opcode::Send::CODE, opcode::RecvMulti::CODE, opcode::AcceptMulti::CODE];
    if needed.into_iter().all(|code| probe.is_supported(code)) {
        Ok(())
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
    /// The call is refused: a seccomp profile, most likely a container's.
    Forbidden,
    /// The kernel has no io_uring, or a profile pretends so.
    Missing {
        /// What `uname -r` says.
        release: String,
    },
    /// The kernel lacks something we need.
    TooOld {
        /// What `uname -r` says.
        release: String,
    },
    /// `RLIMIT_MEMLOCK` is too small.
    LockedMemory {
        /// The soft limit in bytes.
        limit_bytes: u64,
    },
    /// Something else.
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
            KernelProblem::LockedMemory { limit_bytes } => write!(
                f,
                "the limit of locked memory (RLIMIT_MEMLOCK) is {limit_bytes} bytes, and a shard's executor needs \
                 at least {LOCKED_BYTES_MIN}. Raise it: ulimit -l, LimitMEMLOCK= in the systemd unit, or docker \
                 run --ulimit memlock=-1",
            ),
            KernelProblem::Other(error) => write!(f, "io_uring does not work here: {error}"),
        }
    }
}

impl std::error::Error for KernelProblem {}

fn explain(error: &io::Error, disabled: Option<u8>, release: &str) -> KernelProblem {
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM | libc::EACCES), Some(level @ 1..)) => KernelProblem::Disabled { level },
        (Some(libc::EPERM | libc::EACCES), _) => KernelProblem::Forbidden,
        (Some(libc::ENOSYS), _) => KernelProblem::Missing { release: release.to_owned() },
        (Some(libc::EINVAL), _) => KernelProblem::TooOld { release: release.to_owned() },
        (Some(libc::ENOMEM), _) => {
            KernelProblem::LockedMemory { limit_bytes: locked_memory_bytes_max().unwrap_or(0) }
        }
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

/// The soft limit; none if there is no limit, or it can't be told.
fn locked_memory_bytes_max() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a writable structure of the kind the call fills.
    let told = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0;
    (told && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// What the executor insists on.
const LOCKED_BYTES_MIN: u64 = 512 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(error: i32, disabled: Option<u8>) -> KernelProblem {
        explain(&io::Error::from_raw_os_error(error), disabled, "Linux 5.15")
    }

    #[test]
    fn the_machine_that_tests_this_can_run_midge() {
        check_kernel().unwrap();
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
}
