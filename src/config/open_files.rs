//! How many connections the limit on open files allows. Raises the process's soft limit to the hard limit and
//! compares it with `limits.connections`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files that the process needs besides its connections: standard streams, log, signals, configuration.
const FILES_OF_PROCESS: u64 = 32;

/// Open files of one shard: its rings, event descriptors and timers.
const FILES_OF_SHARD: u64 = 16;

/// The numbers that open files depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// `limits.connections`; 0 for as many as fit.
    pub connections: usize,
    /// The number of shards.
    pub shards: usize,
    /// The number of addresses that every shard listens on.
    pub listeners: usize,
}

impl Wanted {
    fn reserve(&self) -> u64 {
        let shards = self.shards as u64;
        FILES_OF_PROCESS + shards * (FILES_OF_SHARD + self.listeners as u64)
    }
}

/// Raises the soft limit on open files to the hard limit and returns the new limit; `u64::MAX` if there is
/// none. If the system refuses, the soft limit does not change.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // A failure is not an error: `connections` works with the limit that remains.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The number of connections that `open_files` allows: those that are wanted, or for 0 as many as fit, at
/// most the upper bound of `limits.connections`.
///
/// Fails with a sentence for the operator if they do not fit.
pub fn connections(open_files: u64, wanted: Wanted) -> Result<usize, String> {
    let reserve = wanted.reserve();
    let room = open_files.saturating_sub(reserve);
    if wanted.connections == 0 && room > 0 {
        return Ok(usize::try_from(room).unwrap_or(usize::MAX).min(CONNECTIONS_MAX));
    }
    let connections = (wanted.connections as u64).max(1);
    if connections <= room {
        return Ok(wanted.connections);
    }
    let needed = connections.saturating_add(reserve);
    let instead = match room {
        0 => String::new(),
        room => format!(", or set limits.connections to {room} or less (0: as many as fit)"),
    };
    Err(format!(
        "limits.connections = {} needs a limit of {needed} open files, and the limit is {open_files}: raise it \
         with \"ulimit -n {needed}\" in the shell that starts midge (its hard limit counts: ulimit -Hn), with \
         \"LimitNOFILE={needed}\" in the systemd unit{instead}",
        wanted.connections,
    ))
}

/// The largest `limits.connections`.
const CONNECTIONS_MAX: usize = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(connections: usize) -> Wanted {
        Wanted { connections, shards: 2, listeners: 1 }
    }

    #[test]
    fn zero_takes_what_is_left_beside_the_reserve() {
        assert_eq!(connections(1024, wanted(0)), Ok(1024 - 32 - 2 * 17));
    }

    #[test]
    fn without_any_limit_the_largest_number_of_the_option_holds() {
        assert_eq!(connections(u64::MAX, wanted(0)), Ok(CONNECTIONS_MAX));
        assert_eq!(connections(u64::MAX, wanted(5)), Ok(5));
    }

    #[test]
    fn the_number_wanted_holds_when_it_just_fits() {
        assert_eq!(connections(1066, wanted(1000)), Ok(1000));
        assert!(connections(1065, wanted(1000)).is_err());
    }

    #[test]
    fn too_low_a_limit_is_an_error_that_says_what_to_do() {
        assert_eq!(
            connections(1024, wanted(100_000)).expect_err("too low"),
            "limits.connections = 100000 needs a limit of 100066 open files, and the limit is 1024: raise it \
             with \"ulimit -n 100066\" in the shell that starts midge (its hard limit counts: ulimit -Hn), with \
             \"LimitNOFILE=100066\" in the systemd unit, or set limits.connections to 958 or less (0: as many as \
             fit)"
        );
    }

    #[test]
    fn a_limit_below_the_reserve_is_an_error_even_when_nothing_is_asked() {
        let error = connections(20, wanted(0)).expect_err("too low");
        assert!(error.contains("67 open files") && !error.contains("or set"), "{error}");
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let limit = raise();
        assert_eq!(limit, getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    }
}
