//! The threads of the shards: one executor each, pinned to a processor.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use super::kernel::{explain_start, make_patiently};
use glommio::{LocalExecutorBuilder, Placement};

/// Starts `count` shards. Each runs the future that `start` makes for its number, on a thread of its
/// own named `midge-shard-N`, pinned to one of `processors`; shards share them when there are more
/// shards than processors. Without any the system places the threads.
///
/// A shard that panics ends the process: half a broker is worse than none.
pub fn start_shards<S, F>(count: usize, processors: Option<&[usize]>, start: S) -> io::Result<Shards>
where
    S: Fn(usize) -> F + Send + Clone + 'static,
    F: Future<Output = ()>,
{
    let shards = count;
    let mut threads = Vec::with_capacity(count);
    for shard in 0..count {
        let start = start.clone();
        let placement = match processors {
            Some(processors) => Placement::Fixed(processors[shard % processors.len()]),
            None => Placement::Unbound,
        };
        let thread = std::thread::Builder::new().name(format!("midge-shard-{shard}"));
        threads.push(thread.spawn(move || run_shard(shard, shards, placement, start))?);
    }
    Ok(Shards { threads })
}

/// The running shards.
#[derive(Debug)]
pub struct Shards {
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Shards {
    /// Waits until every shard's future has ended; an executor that could not start is an error.
    pub fn join(self) -> io::Result<()> {
        let mut result = Ok(());
        for thread in self.threads {
            let ended = thread.join().unwrap_or_else(|_| std::process::abort());
            result = result.and(ended);
        }
        result
    }
}

fn run_shard<S, F>(shard: usize, shards: usize, placement: Placement, start: S) -> io::Result<()>
where
    S: Fn(usize) -> F,
    F: Future<Output = ()>,
{
    let _guard = AbortOnPanic { shard };
    let builder =
        || LocalExecutorBuilder::new(placement.clone()).io_memory(IO_MEMORY_BYTES).ring_depth(RING_DEPTH);
    let executor = make_patiently(|| builder().make().map_err(io::Error::from)).map_err(|error| {
        let error = explain_start(error, shards);
        io::Error::other(format!("shard {shard} can't start its executor: {error}"))
    })?;
    executor.run(start(shard));
    Ok(())
}

struct AbortOnPanic {
    shard: usize,
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("shard {} panicked; the broker stops", self.shard);
            std::process::abort();
        }
    }
}

/// The processors this process may run on, at least one, in order.
///
/// # Errors
/// The kernel does not say, or there is none.
pub fn processors() -> io::Result<Vec<usize>> {
    // SAFETY: all-zero is a valid, empty processor set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is writable and of the stated size.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let count = libc::CPU_SETSIZE as usize;
    // SAFETY: the index is below the size of the set.
    let processors: Vec<usize> = (0..count).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect();
    if processors.is_empty() {
        return Err(io::Error::other("no processor is left to this process"));
    }
    Ok(processors)
}

/// Pinned memory for the executor's file reads and writes, beside what a log brings itself.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// Entries of the executor's own rings, which serve timers and files only.
const RING_DEPTH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn each_shard_runs_once_on_its_own_named_thread() {
        static RAN: AtomicUsize = AtomicUsize::new(0);
        let shards = start_shards(3, Some(&processors().unwrap()), |shard| async move {
            assert_eq!(std::thread::current().name(), Some(format!("midge-shard-{shard}").as_str()));
            RAN.fetch_add(1 << (8 * shard), Ordering::Relaxed);
        });
        shards.unwrap().join().unwrap();
        assert_eq!(RAN.load(Ordering::Relaxed), 0x01_01_01);
    }

    #[test]
    fn a_panic_in_a_shard_ends_the_process() {
        const MARK: &str = "MIDGE_TEST_SHARD_PANICS";
        if std::env::var_os(MARK).is_some() {
            let shards = start_shards(1, None, |_| async { panic!("on purpose") });
            shards.unwrap().join().unwrap();
            return;
        }
        let test = "driver::executor::tests::a_panic_in_a_shard_ends_the_process";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(MARK, "1")
            .output()
            .unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(output.status.signal(), Some(libc::SIGABRT));
        assert!(String::from_utf8_lossy(&output.stderr).contains("shard 0 panicked"));
    }
}
