//! Threads for work that would block a shard: password hashes, which compute for long, and requests to other
//! servers, which wait. Each kind has a lane with its own threads and its own bounded queue, so that neither
//! kind delays the other.
//!
//! Any thread may submit a piece of work and a callback, without waiting. The callback runs on a thread of
//! the pool, exactly once, even if the work fails. The threads have a lower priority than the shards and may
//! run on any processor of the process. So a flood of logins uses only the time that the shards leave.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::process::{getpid, getpriority_process, setpriority_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The size of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// The lane [`PoolLane::Hash`].
    pub hash: LaneSettings,
    /// The lane [`PoolLane::Http`].
    pub http: LaneSettings,
}

/// The size of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneSettings {
    /// The number of threads, at most [`THREADS_MAX`]. With 0 the lane accepts nothing.
    pub threads: usize,
    /// How many pieces of work may wait. Beyond that, [`Pool::submit`] returns [`NotTaken::Full`].
    pub queue_max: usize,
}

/// The kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolLane {
    /// Work that computes: password hashes, signatures.
    Hash,
    /// Work that waits for another server.
    Http,
}

/// The result of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolOutcome<T> {
    /// It has run.
    Done(T),
    /// It has panicked.
    Panicked,
    /// The pool stopped before it ran.
    Stopped,
}

/// Why a piece of work is not accepted. Its callback does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The lane's queue is full, or the lane has no threads. The login must be refused as too busy.
    Full,
    /// The pool has stopped.
    Stopped,
}

/// The largest number of threads of a lane.
pub const THREADS_MAX: usize = 256;

/// The priority of the threads. At 10 the kernel gives a thread about a tenth of a busy processor.
pub const NICE: i32 = 10;

/// Running threads and their queues. Dropping the pool stops it.
pub struct Pool {
    hash: Queue,
    http: Queue,
    stopping: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts the threads: `midge-auth-N` compute hashes, `midge-http-N` wait for servers.
    ///
    /// # Errors
    ///
    /// A thread can't be started. The threads that were started have ended again.
    pub fn start(settings: PoolSettings) -> io::Result<Pool> {
        let stopping = Arc::new(AtomicBool::new(false));
        let (hash, http) = (Queue::new(settings.hash.queue_max), Queue::new(settings.http.queue_max));
        // If a thread can't be started, dropping the pool stops the others.
        let pool = Pool { hash, http, stopping, threads: Mutex::new(Vec::new()) };
        pool.grow(PoolLane::Hash, settings.hash.threads)?;
        pool.grow(PoolLane::Http, settings.http.threads)?;
        Ok(pool)
    }

    /// Starts threads until a lane has `threads`, at most [`THREADS_MAX`]. A lane never shrinks.
    ///
    /// # Errors
    ///
    /// A thread can't be started. The threads that were started stay.
    #[allow(clippy::disallowed_methods, reason = "the pool's threads are its own")]
    pub fn grow(&self, lane: PoolLane, threads: usize) -> io::Result<()> {
        let name = match lane {
            PoolLane::Hash => "midge-auth",
            PoolLane::Http => "midge-http",
        };
        let queue = self.queue(lane);
        let processors = sched_getaffinity(Some(getpid())).ok();
        let mut all = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for number in queue.threads.load(Ordering::Relaxed)..threads.min(THREADS_MAX) {
            let (end, stopping) = (Arc::clone(&queue.end), Arc::clone(&self.stopping));
            all.push(std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                yield_to_shards(processors);
                end.work_until(&stopping);
            })?);
            queue.threads.store(number + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Submits `work`; `done` gets its result. Both run on a thread of the lane. Never waits, so a shard may
    /// call it.
    ///
    /// # Errors
    ///
    /// The lane is full or the pool has stopped. In this case neither closure runs.
    pub fn submit<T>(
        &self,
        lane: PoolLane,
        work: impl FnOnce() -> T + Send + 'static,
        done: impl FnOnce(PoolOutcome<T>) + Send + 'static,
    ) -> Result<(), NotTaken> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(NotTaken::Stopped);
        }
        let job = Job::new(move |run| {
            done(match run {
                false => PoolOutcome::Stopped,
                true => catch_unwind(AssertUnwindSafe(work)).map_or(PoolOutcome::Panicked, PoolOutcome::Done),
            });
        });
        self.queue(lane).push(job)
    }

    /// The number of threads of a lane.
    pub fn threads(&self, lane: PoolLane) -> usize {
        self.queue(lane).threads.load(Ordering::Relaxed)
    }

    /// The number of pieces of work that wait in a lane, without those that run.
    pub fn waiting(&self, lane: PoolLane) -> usize {
        self.queue(lane).waiting.load(Ordering::Relaxed)
    }

    /// Stops the pool: it accepts no more work, reports [`PoolOutcome::Stopped`] for work that waits, and
    /// waits for work that runs. A second call does nothing. A callback may call this method or drop the
    /// pool; its own thread is not waited for.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for queue in [&self.hash, &self.http] {
            queue.wake();
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let own = std::thread::current().id();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != own) {
            // A thread ends early only by a panic of its own, which has already been reported.
            let _ = thread.join();
        }
    }

    fn queue(&self, lane: PoolLane) -> &Queue {
        match lane {
            PoolLane::Hash => &self.hash,
            PoolLane::Http => &self.http,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Lowers the priority of the calling thread and lets it run on all processors of the main thread. Without
/// this, it would inherit the one processor of the shard that starts it. If the system refuses, the pool
/// still works, but competes with the shards.
fn yield_to_shards(processors: Option<CpuSet>) {
    // On Linux the priority belongs to the thread, not the process. A lower priority stays, because the
    // broker was started with it.
    if getpriority_process(None).is_ok_and(|now| now < NICE) {
        let _ = setpriority_process(None, NICE);
    }
    if let Some(processors) = processors {
        let _ = sched_setaffinity(None, &processors);
    }
}

/// The sending end of a lane. Pushing takes no lock that a thread of the pool holds while it works or waits
/// for a busy processor.
struct Queue {
    sender: SyncSender<Job>,
    waiting: Arc<AtomicUsize>,
    threads: AtomicUsize,
    end: Arc<QueueEnd>,
}

/// The receiving end of a lane. The threads of the lane take turns at it.
struct QueueEnd {
    receiver: Mutex<Receiver<Job>>,
    waiting: Arc<AtomicUsize>,
}

impl Queue {
    fn new(queue_max: usize) -> Queue {
        // With a capacity of 0, a sender would wait until a receiver is ready.
        let (sender, receiver) = sync_channel(queue_max.max(1));
        let waiting = Arc::new(AtomicUsize::new(0));
        let end = QueueEnd { receiver: Mutex::new(receiver), waiting: Arc::clone(&waiting) };
        Queue { sender, waiting, threads: AtomicUsize::new(0), end: Arc::new(end) }
    }

    fn push(&self, job: Job) -> Result<(), NotTaken> {
        if self.threads.load(Ordering::Relaxed) == 0 {
            job.forget();
            return Err(NotTaken::Full);
        }
        // It is counted before a thread can take it, so that the count never falls below zero.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.sender.try_send(job).map_err(|refused| {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let (job, cause) = match refused {
                TrySendError::Full(job) => (job, NotTaken::Full),
                TrySendError::Disconnected(job) => (job, NotTaken::Stopped),
            };
            job.forget();
            cause
        })
    }

    /// Wakes the one thread that waits for work. If the queue is full, no thread waits.
    fn wake(&self) {
        let _ = self.push(Job::new(|_| {}));
    }
}

impl QueueEnd {
    fn work_until(&self, stopping: &AtomicBool) {
        loop {
            let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
            // The others wait for the lock. A wake-up for this thread reaches all of them, one after the
            // other.
            let taken =
                if stopping.load(Ordering::SeqCst) { receiver.try_recv().ok() } else { receiver.recv().ok() };
            drop(receiver);
            let Some(job) = taken else { return };
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            if !stopping.load(Ordering::SeqCst) {
                // A panic of the callback must not end the thread or the work behind it.
                let _ = catch_unwind(AssertUnwindSafe(|| job.run()));
            } else {
                let _ = catch_unwind(AssertUnwindSafe(|| drop(job)));
            }
        }
    }
}

/// A piece of work with its callback. The callback is called even if the job is dropped before it runs.
struct Job(Option<Box<dyn FnOnce(bool) + Send>>);

impl Job {
    fn new(job: impl FnOnce(bool) + Send + 'static) -> Job {
        Job(Some(Box::new(job)))
    }

    fn run(mut self) {
        if let Some(job) = self.0.take() {
            job(true);
        }
    }

    /// Drops the job without calling its callback. The submitter gets an error instead.
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(job) = self.0.take() {
            job(false);
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the tests time what threads do")]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    fn pool(hash_threads: usize, http_threads: usize, queue_max: usize) -> Pool {
        Pool::start(PoolSettings {
            hash: LaneSettings { threads: hash_threads, queue_max },
            http: LaneSettings { threads: http_threads, queue_max },
        })
        .unwrap()
    }

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn results_come_back_through_the_callback() {
        let pool = pool(3, 1, 1000);
        let (results, taken) = channel();
        for number in 0..500_u64 {
            let results = results.clone();
            let lane = if number % 2 == 0 { PoolLane::Hash } else { PoolLane::Http };
            pool.submit(lane, move || number * 2, move |outcome| results.send(outcome).unwrap()).unwrap();
        }
        let mut sum = 0;
        for _ in 0..500 {
            match taken.recv_timeout(SOON).unwrap() {
                PoolOutcome::Done(number) => sum += number,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(sum, 499 * 500);
        assert_eq!((pool.waiting(PoolLane::Hash), pool.waiting(PoolLane::Http)), (0, 0));
    }

    #[test]
    fn a_full_lane_refuses_at_once_and_the_other_still_works() {
        let pool = pool(1, 1, 2);
        let (release, released) = channel::<()>();
        let (started, starts) = channel();
        let block = move || {
            started.send(()).unwrap();
            released.recv().ok();
        };
        pool.submit(PoolLane::Hash, block, |_| {}).unwrap();
        starts.recv_timeout(SOON).unwrap();
        let (results, taken) = channel();
        for number in 0..2 {
            let results = results.clone();
            pool.submit(PoolLane::Hash, move || number, move |outcome| results.send(outcome).unwrap())
                .unwrap();
        }
        assert_eq!(pool.waiting(PoolLane::Hash), 2);
        let refused = pool.submit(PoolLane::Hash, || (), |_| panic!("neither closure may run"));
        assert_eq!(refused, Err(NotTaken::Full));
        assert_eq!(pool.waiting(PoolLane::Hash), 2);

        let (other, others) = channel();
        pool.submit(PoolLane::Http, || (), move |_| other.send(()).unwrap()).unwrap();
        others.recv_timeout(SOON).unwrap();

        release.send(()).unwrap();
        assert_eq!(taken.recv_timeout(SOON), Ok(PoolOutcome::Done(0)));
        assert_eq!(taken.recv_timeout(SOON), Ok(PoolOutcome::Done(1)));
    }

    #[test]
    fn a_lane_without_threads_takes_nothing() {
        let pool = pool(1, 0, 4);
        assert_eq!(pool.submit(PoolLane::Http, || (), |_| panic!("must not run")), Err(NotTaken::Full));
    }

    #[test]
    fn a_panic_in_the_work_or_in_the_callback_does_not_end_the_thread() {
        let pool = pool(1, 0, 16);
        let (results, taken) = channel();
        let first = results.clone();
        pool.submit(
            PoolLane::Hash,
            || panic!("on purpose"),
            move |outcome: PoolOutcome<()>| first.send(outcome).unwrap(),
        )
        .unwrap();
        pool.submit(PoolLane::Hash, || (), |_| panic!("on purpose, in the callback")).unwrap();
        pool.submit(PoolLane::Hash, || (), move |outcome| results.send(outcome).unwrap()).unwrap();
        assert_eq!(taken.recv_timeout(SOON), Ok(PoolOutcome::Panicked));
        assert_eq!(taken.recv_timeout(SOON), Ok(PoolOutcome::Done(())));
    }

    #[test]
    fn stopping_finishes_what_runs_and_tells_what_waits() {
        let pool = Arc::new(pool(1, 2, 8));
        let (release, released) = channel::<()>();
        let (started, starts) = channel();
        let (results, taken) = channel();
        let first = results.clone();
        let block = move || {
            started.send(()).unwrap();
            released.recv().unwrap();
            1
        };
        pool.submit(PoolLane::Hash, block, move |outcome| first.send(outcome).unwrap()).unwrap();
        starts.recv_timeout(SOON).unwrap();
        let second = results.clone();
        pool.submit(PoolLane::Hash, || 2, move |outcome| second.send(outcome).unwrap()).unwrap();
        let stopper = std::thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.stop()
        });
        while !pool.stopping.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        assert_eq!(pool.submit(PoolLane::Hash, || (), |_| panic!("must not run")), Err(NotTaken::Stopped));
        release.send(()).unwrap();
        stopper.join().unwrap();
        assert_eq!(taken.try_recv(), Ok(PoolOutcome::Done(1)));
        assert_eq!(taken.try_recv(), Ok(PoolOutcome::Stopped));
        pool.stop();
    }

    #[test]
    fn a_callback_may_drop_the_pool() {
        let pool = Arc::new(pool(2, 1, 8));
        let (results, taken) = channel();
        let last = Arc::clone(&pool);
        let (go, gone) = channel::<()>();
        let work = move || gone.recv().unwrap();
        pool.submit(PoolLane::Hash, work, move |_| {
            drop(last);
            results.send(()).unwrap();
        })
        .unwrap();
        drop(pool);
        go.send(()).unwrap();
        taken.recv_timeout(SOON).unwrap();
    }

    #[test]
    fn idle_and_full_pools_of_any_size_stop() {
        for threads in [1, 2, 7] {
            for queue_max in [0, 1, 3] {
                for jobs in [0, 1, 20] {
                    let pool = pool(threads, threads, queue_max);
                    let (results, taken) = channel();
                    let mut accepted = 0;
                    for _ in 0..jobs {
                        let results = results.clone();
                        let done = move |_| results.send(()).unwrap();
                        accepted += usize::from(pool.submit(PoolLane::Hash, || (), done).is_ok());
                    }
                    drop(pool);
                    drop(results);
                    assert_eq!(taken.iter().count(), accepted, "each callback runs once");
                }
            }
        }
    }

    #[test]
    fn the_threads_are_named_and_have_a_lower_priority_and_every_processor() {
        let before = rustix::process::getpriority_process(None).unwrap();
        // The pool is started by a thread that is pinned to one processor, like a shard.
        let pinned = std::thread::spawn(|| {
            let mut one = CpuSet::new();
            one.set(rustix::thread::sched_getcpu());
            sched_setaffinity(None, &one).unwrap();
            pool(2, 1, 8)
        });
        let pool = pinned.join().unwrap();
        let (results, taken) = channel();
        for lane in [PoolLane::Hash, PoolLane::Http] {
            let results = results.clone();
            let look = || {
                let name = std::thread::current().name().unwrap().to_owned();
                let nice = rustix::process::getpriority_process(None).unwrap();
                (name, nice, sched_getaffinity(None).unwrap().count())
            };
            pool.submit(lane, look, move |outcome| results.send((lane, outcome)).unwrap()).unwrap();
        }
        let processors = sched_getaffinity(Some(getpid())).unwrap().count();
        for _ in 0..2 {
            let (lane, PoolOutcome::Done((name, nice, count))) = taken.recv_timeout(SOON).unwrap() else {
                panic!("it did not run");
            };
            assert!(
                name.starts_with(if lane == PoolLane::Hash { "midge-auth-" } else { "midge-http-" }),
                "{name}"
            );
            assert_eq!(nice, NICE.max(before));
            assert_eq!(count, processors);
        }
        assert_eq!(
            rustix::process::getpriority_process(None).unwrap(),
            before,
            "only the pool's own threads"
        );
    }
}
