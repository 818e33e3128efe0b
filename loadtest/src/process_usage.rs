//! The CPU time and memory of a process, as the kernel counts them under `/proc`.
//!
//! `/proc/PID/stat` counts all threads, including ended ones, and separates user from system time,
//! but in ticks of 10 ms. `/proc/PID/task/*/schedstat` has the time of the scheduler in
//! nanoseconds, but only for living threads. The total comes from the second file if the set of
//! threads did not change. The ratio of user to system time comes from the first.

use std::{fs, io};

/// CPU time of a process since its start, and its memory at that moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessSample {
    user_ticks: u64,
    system_ticks: u64,
    threads: Vec<Thread>,
    pub(crate) memory: Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Thread {
    id: u32,
    running_nanos: u64,
    /// Ready to run, but without a CPU.
    waiting_nanos: u64,
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Resident pages of all kinds.
    pub(crate) resident: u64,
    /// Resident pages without a file behind them: heap and stacks.
    pub(crate) anonymous: u64,
}

/// CPU time between two samples.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuUsage {
    /// User and system time together, in seconds.
    pub(crate) total_seconds: f64,
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    /// Seconds in which threads were ready to run but had no CPU.
    pub(crate) starved_seconds: f64,
}

/// `USER_HZ`: the unit of `/proc/PID/stat` on every Linux architecture that this program supports.
const TICKS_PER_SECOND: f64 = 100.0;

impl ProcessSample {
    /// # Errors
    /// The process is gone or not visible.
    pub(crate) fn of(pid: u32) -> io::Result<ProcessSample> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name of the command may contain spaces and brackets, so the fields are counted after
        // it.
        let fields = stat.rsplit_once(')').map_or("", |split| split.1);
        let ticks = |at: usize| fields.split_ascii_whitespace().nth(at)?.parse().ok();
        let (Some(user_ticks), Some(system_ticks)) = (ticks(11), ticks(12)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/PID/stat"));
        };
        Ok(ProcessSample { user_ticks, system_ticks, threads: threads(pid), memory: Memory::of(pid)? })
    }

    pub(crate) fn own() -> io::Result<ProcessSample> {
        ProcessSample::of(std::process::id())
    }

    /// The CPU time from `earlier` to this sample of the same process.
    pub(crate) fn since(&self, earlier: &ProcessSample) -> CpuUsage {
        let user = self.user_ticks.saturating_sub(earlier.user_ticks) as f64 / TICKS_PER_SECOND;
        let system = self.system_ticks.saturating_sub(earlier.system_ticks) as f64 / TICKS_PER_SECOND;
        let same = self.threads.len() == earlier.threads.len()
            && self.threads.iter().zip(&earlier.threads).all(|(new, old)| new.id == old.id);
        let sum = |sample: &ProcessSample, of: fn(&Thread) -> u64| sample.threads.iter().map(of).sum::<u64>();
        let grown = |of| sum(self, of).saturating_sub(sum(earlier, of)) as f64 / 1e9;
        let exact = grown(|thread| thread.running_nanos);
        let total = if same && exact > 0.0 { exact } else { user + system };
        let user_share = if user + system > 0.0 { user / (user + system) } else { 0.0 };
        CpuUsage {
            total_seconds: total,
            user_seconds: total * user_share,
            system_seconds: total * (1.0 - user_share),
            starved_seconds: if same { grown(|thread| thread.waiting_nanos) } else { 0.0 },
        }
    }
}

impl Memory {
    pub(crate) fn of(pid: u32) -> io::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
        };
        let resident = bytes("VmRSS:").unwrap_or(0);
        Ok(Memory { resident, anonymous: bytes("RssAnon:").unwrap_or(resident) })
    }
}

/// CPU time of the living threads of a process, in nanoseconds. `None` if the process is gone.
pub(crate) fn running_nanos(pid: u32) -> Option<u64> {
    let threads = threads(pid);
    (!threads.is_empty()).then(|| threads.iter().map(|thread| thread.running_nanos).sum())
}

/// CPU time of the calling thread, in nanoseconds.
pub(crate) fn own_thread_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The threads of a process. Threads that end meanwhile are left out.
fn threads(pid: u32) -> Vec<Thread> {
    let Ok(folder) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut threads: Vec<Thread> = folder
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let id = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("schedstat")).ok()?;
            let mut fields = text.split_ascii_whitespace().map_while(|field| field.parse().ok());
            Some(Thread { id, running_nanos: fields.next()?, waiting_nanos: fields.next()? })
        })
        .collect();
    threads.sort_unstable();
    threads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_grows_with_work_and_memory_is_known() {
        let before = ProcessSample::own().unwrap();
        let mut sum = 0u64;
        // The work is counted in steps, not in time, so that the test passes on a slow machine too.
        for step in 0..200_000_000u64 {
            sum = std::hint::black_box(sum ^ step);
        }
        let after = ProcessSample::own().unwrap();
        let used = after.since(&before);
        assert!(used.total_seconds > 0.0, "{used:?}");
        assert!(after.memory.resident >= after.memory.anonymous && after.memory.anonymous > 0);
    }
}
