//! How much memory the system allows the process: the machine's memory, the limit of the cgroup, or that of
//! `ulimit -v`.

use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::path::{Path, PathBuf};

/// What bounds the memory of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySource {
    /// The installed memory.
    Machine,
    /// A cgroup, such as that of a container or a systemd unit.
    Cgroup,
    /// The limit on address space.
    AddressSpace,
}

impl fmt::Display for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MemorySource::Machine => "the machine has",
            MemorySource::Cgroup => "the cgroup allows",
            MemorySource::AddressSpace => "\"ulimit -v\" allows",
        })
    }
}

/// The smallest of all bounds, in bytes. `None` if the system gives none.
#[allow(clippy::disallowed_methods, reason = "reads what the kernel tells of the process, once at the start")]
pub fn allowed() -> Option<(usize, MemorySource)> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory_total(&text));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let cgroup = limit_files(&groups)
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<usize>().ok())
        .min();
    let address_space = getrlimit(Resource::As).current.and_then(|bytes| usize::try_from(bytes).ok());
    [
        machine.map(|bytes| (bytes, MemorySource::Machine)),
        cgroup.map(|bytes| (bytes, MemorySource::Cgroup)),
        address_space.map(|bytes| (bytes, MemorySource::AddressSpace)),
    ]
    .into_iter()
    .flatten()
    .min_by_key(|(bytes, _)| *bytes)
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn memory_total(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// The files that may hold the limits of the cgroups in `/proc/self/cgroup`, versions 1 and 2, and of their
/// parents. Inside a container the name may be the host's name for the cgroup. In that case the limit is at
/// the root.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, names): (&str, &[&str]) = if controllers.is_empty() {
            ("/sys/fs/cgroup", &["memory.max", "memory.high"])
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", &["memory.limit_in_bytes"])
        } else {
            continue;
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            files.extend(names.iter().map(|name| Path::new(root).join(group).join(name)));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_of_the_machine_is_in_kib() {
        assert_eq!(memory_total("MemTotal:       24574968 kB\nMemFree: 1 kB\n"), Some(24_574_968 * 1024));
        assert_eq!(memory_total("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn limits_of_a_cgroup_and_of_those_above_it_are_looked_for() {
        let shown = |groups| {
            let files = limit_files(groups);
            files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            shown("0::/a/b\n"),
            "/sys/fs/cgroup/a/b/memory.max /sys/fs/cgroup/a/b/memory.high /sys/fs/cgroup/a/memory.max \
             /sys/fs/cgroup/a/memory.high /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.high"
        );
        assert_eq!(
            shown("5:cpu,memory:/x\n2:cpuset:/y\n"),
            "/sys/fs/cgroup/memory/x/memory.limit_in_bytes /sys/fs/cgroup/memory/memory.limit_in_bytes"
        );
    }
}
