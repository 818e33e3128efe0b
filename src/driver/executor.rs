//! The threads of the shards: each has an executor and a [`Net`], and is pinned to a processor. All of them
//! get their kernel resources before the first one begins, so that a missing resource ends the start before
//! any client can connect.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::kernel::{explain_start, make_patiently};
use super::{Net, NetConfig};
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use rustix::thread::CpuSet;

/// Creates the executors and nets of `count` shards, each on a thread named `midge-shard-N` that is pinned to
/// one of `processors`. If there are more shards than processors, shards share them. If `processors` is
/// `None`, the system places the threads.
///
/// # Errors
/// A thread, an executor or a net can't be created. The others end.
pub fn prepare_shards(count: usize, processors: Option<&[usize]>, net: &NetConfig) -> io::Result<Prepared> {
    let (done, made) = channel();
    let mut threads = Vec::with_capacity(count);
    for shard in 0..count {
        let placement = match processors {
            Some(processors) => Placement::Fixed(processors[shard % processors.len()]),
            None => Placement::Unbound,
        };
        let (net, done) = (net.clone(), done.clone());
        let (begin, begun) = channel();
        let thread = std::thread::Builder::new().name(format!("midge-shard-{shard}"));
        let thread = thread.spawn(move || {
            let _guard = AbortOnPanic { shard };
            let made = make_shard(placement, &net);
            let made = made.map_err(|error| (shard, explain_start(error, count, net.ring)));
            run_shard(made, &done, &begun);
        })?;
        threads.push(Thread { thread, begin });
    }
    drop(done);
    for _ in 0..count {
        match made.recv() {
            Ok(Ok(())) => {}
            Ok(Err((shard, error))) => {
                return Err(io::Error::new(error.kind(), format!("shard {shard} can't start: {error}")));
            }
            // A panic ends the process, so each thread has answered.
            Err(_) => return Err(io::Error::other("a shard can't start")),
        }
    }
    Ok(Prepared { threads })
}

/// Shards that wait for their work. Dropping this ends them.
#[derive(Debug)]
pub struct Prepared {
    threads: Vec<Thread>,
}

impl Prepared {
    /// Each shard calls `start` with its number and its net, on its own thread.
    ///
    /// A shard that panics ends the process, because a broker can't work without one of its shards.
    pub fn start(self, start: impl Fn(usize, Net) + Send + Clone + 'static) -> Shards {
        let threads = self.threads.into_iter().enumerate().map(|(shard, thread)| {
            let start = start.clone();
            // If the thread has gone, it has panicked, and the process is ending.
            let _ = thread.begin.send(Box::new(move |net| start(shard, net)));
            thread.thread
        });
        Shards { threads: threads.collect() }
    }
}

/// The running shards.
#[derive(Debug)]
pub struct Shards {
    threads: Vec<JoinHandle<()>>,
}

impl Shards {
    /// Waits until all shards have ended.
    pub fn join(self) {
        for thread in self.threads {
            thread.join().unwrap_or_else(|_| std::process::abort());
        }
    }
}

#[derive(Debug)]
struct Thread {
    thread: JoinHandle<()>,
    begin: Sender<Begin>,
}

/// Runs a shard on its thread.
type Begin = Box<dyn FnOnce(Net) + Send>;

type Made = Result<(LocalExecutor, Net), (usize, io::Error)>;

/// Reports whether the shard could be created, waits until it may begin, and runs it.
fn run_shard(made: Made, done: &Sender<Result<(), (usize, io::Error)>>, begun: &Receiver<Begin>) {
    let (executor, net) = match made {
        Ok(made) => made,
        Err(error) => {
            let _ = done.send(Err(error));
            return;
        }
    };
    if done.send(Ok(())).is_err() {
        return;
    }
    if let Ok(begin) = begun.recv() {
        executor.run(async move { begin(net) });
    }
}

fn make_shard(placement: Placement, config: &NetConfig) -> io::Result<(LocalExecutor, Net)> {
    let executor = make_executor(placement)?;
    Ok((executor, Net::new(config)?))
}

/// Creates an executor without registered buffers.
///
/// The executor registers a buffer with each of its three rings. For every shard these count as locked
/// memory, and they bring no speed, because a log writes from buffers of its own. So the registrations are
/// removed, and the executor's buffers must not be used for files (see clippy.toml).
pub(super) fn make_executor(placement: Placement) -> io::Result<LocalExecutor> {
    // Executors are created one at a time, so that no other thread loses a registration that it still needs.
    static MAKING: Mutex<()> = Mutex::new(());
    make_patiently(|| {
        let _one_at_a_time = MAKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let builder = LocalExecutorBuilder::new(placement.clone()).io_memory(IO_MEMORY_BYTES);
        let executor = builder.ring_depth(RING_DEPTH).make().map_err(io::Error::from)?;
        for ring in rings()? {
            unregister_buffers(ring);
        }
        Ok(executor)
    })
}

/// The rings of this process.
fn rings() -> io::Result<Vec<RawFd>> {
    let mut rings = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // A descriptor that was closed in the meantime is skipped.
        let is_ring = fs::read_link(entry.path()).is_ok_and(|of| of.as_os_str() == "anon_inode:[io_uring]");
        if let (true, Some(fd)) = (is_ring, entry.file_name().to_str().and_then(|name| name.parse().ok())) {
            rings.push(fd);
        }
    }
    Ok(rings)
}

/// Removes the registered buffers of a ring. The call fails if there are none, and for the rings of other
/// threads, which only those may use.
fn unregister_buffers(ring: RawFd) {
    const UNREGISTER_BUFFERS: libc::c_uint = 1;
    // SAFETY: the call takes no memory. It only makes the kernel forget our buffers. A later operation with
    // such a buffer would fail, and there is none.
    unsafe { libc::syscall(libc::SYS_io_uring_register, ring, UNREGISTER_BUFFERS, 0_usize, 0) };
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

/// The processors that this process may run on, at least one, in order.
///
/// # Errors
/// The kernel does not report them, or there is none.
pub fn processors() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&processor| set.is_set(processor)).collect();
    if processors.is_empty() {
        return Err(io::Error::other("no processor is left to this process"));
    }
    Ok(processors)
}

/// The executor's memory for file reads and writes. It is the smallest amount that the executor accepts. It
/// is never used.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// The entries of the executor's own rings. They get no operations: everything of a shard goes through its
/// [`Net`].
pub(super) const RING_DEPTH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn each_shard_runs_once_on_its_own_named_thread() {
        static RAN: AtomicUsize = AtomicUsize::new(0);
        let shards = prepare_shards(3, Some(&processors().unwrap()), &NetConfig::default()).unwrap();
        let shards = shards.start(|shard, _net| {
            assert_eq!(std::thread::current().name(), Some(format!("midge-shard-{shard}").as_str()));
            RAN.fetch_add(1 << (8 * shard), Ordering::Relaxed);
        });
        shards.join();
        assert_eq!(RAN.load(Ordering::Relaxed), 0x01_01_01);
    }

    #[test]
    fn a_panic_in_a_shard_ends_the_process() {
        const MARK: &str = "MIDGE_TEST_SHARD_PANICS";
        if std::env::var_os(MARK).is_some() {
            let shards = prepare_shards(1, None, &NetConfig::default()).unwrap();
            shards.start(|_, _| panic!("on purpose")).join();
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
