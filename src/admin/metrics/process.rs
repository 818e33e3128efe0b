//! What Prometheus expects of every process: time, memory, descriptors, start.

use super::{Kind, Page, number_of};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::fmt;
use std::os::unix::fs::MetadataExt;

/// Writes the metrics. One that the system does not tell is left out.
pub(super) fn write(page: &mut Page<'_>) -> fmt::Result {
    let cpu = seconds(clock_gettime(ClockId::ProcessCPUTime));
    page.fraction("process_cpu_seconds", "User and system time of the process", Kind::Counter, cpu)?;
    if let Some(bytes) = resident_bytes() {
        page.gauge("process_resident_memory_bytes", "Resident memory", bytes)?;
    }
    if let Some(open) = open_descriptors() {
        page.gauge("process_open_fds", "Descriptors that are open", open)?;
    }
    if let Some(max) = getrlimit(Resource::Nofile).current {
        page.gauge("process_max_fds", "The limit on open descriptors", max)?;
    }
    if let Some(start) = start_seconds() {
        page.fraction("process_start_time_seconds", "The start, in seconds since 1970", Kind::Gauge, start)?;
    }
    Ok(())
}

/// The processor time of a thread in seconds. `None` if the system does not tell it.
pub(in crate::admin) fn thread_seconds(thread: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    let nanos: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanos / 1e9)
}

fn seconds(time: Timespec) -> f64 {
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(number_of(rustix::param::page_size()))
}

/// Since Linux 6.2 the size of the directory is the number of its entries. To list those of a million connections
/// would keep other requests waiting.
fn open_descriptors() -> Option<u64> {
    match std::fs::metadata("/proc/self/fd").ok()?.size() {
        0 => Some(number_of(std::fs::read_dir("/proc/self/fd").ok()?.count())),
        open => Some(open),
    }
}

/// The time since the start is on the clock that goes on while the machine sleeps.
fn start_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program is in brackets and may have spaces. The start is the 22nd field.
    let ticks: f64 = text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let since_boot = ticks / rustix::param::clock_ticks_per_second() as f64;
    let age = seconds(clock_gettime(ClockId::Boottime)) - since_boot;
    Some(seconds(clock_gettime(ClockId::Realtime)) - age)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the test reads the clock")]
mod tests {
    use super::*;

    #[test]
    fn process_started_before_now_and_has_memory_and_files() {
        let now = seconds(clock_gettime(ClockId::Realtime));
        let start = start_seconds().expect("it is in /proc");
        assert!(start <= now + 1.0 && now - start < 86_400.0, "{start} {now}");
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
        let thread = u32::try_from(rustix::thread::gettid().as_raw_pid()).expect("it is positive");
        assert!(thread_seconds(thread).is_some_and(|busy| busy > 0.0), "its thread has worked");
        let open = open_descriptors().expect("it is in /proc");
        let _more: Vec<_> = (0..10).map(|_| std::fs::File::open("/dev/null")).collect();
        assert!(open_descriptors().expect("it is in /proc") >= open.min(3), "{open}");
    }
}
