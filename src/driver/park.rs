//! Waiting: in the net ring while nothing else can wake the shard, through the executor while
//! something awaits a timer, a file or a thread there.
//!
//! The fast way blocks in the ring with the system call that submits the turn's batch; the executor
//! does not run meanwhile, which is right only while nothing awaits it. [`Outstanding`] counts what
//! does. The slow way has the ring write to an event counter and awaits its read in the executor.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use glommio::Task;
use glommio::io::BufferedFile;
use glommio::timer::Timer;
use rustix::event::{EventfdFlags, eventfd};

use super::ring::{Ring, Wait};
use super::{Event, Net, Sleeping};
use crate::broker::outbox::Outbox;

/// Counts what awaits the executor of a shard. Everything that does, other than the driver, holds a
/// [`Guard`] for as long, from before its first await: without it, it does not run while the shard
/// waits for the net.
#[derive(Clone, Debug, Default)]
pub struct Outstanding {
    shared: Rc<Shared>,
}

impl Outstanding {
    /// Nothing is outstanding.
    pub fn new() -> Outstanding {
        Outstanding::default()
    }

    /// Counts one more, until the guard is dropped. The drop ends a park, so that the owner sees
    /// the result.
    pub fn enter(&self) -> Guard {
        self.shared.count.set(self.shared.count.get() + 1);
        Guard { outstanding: self.clone() }
    }

    /// How many guards there are.
    pub fn count(&self) -> usize {
        self.shared.count.get()
    }

    /// Ends the park that is under way, or the next one: a result is there, though its task goes on.
    pub fn notify(&self) {
        self.shared.notified.set(true);
        let waker = self.shared.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn take_notified(&self) -> bool {
        self.shared.notified.replace(false)
    }
}

/// One thing that awaits the executor.
#[derive(Debug)]
#[must_use = "what is outstanding counts until the guard is dropped"]
pub struct Guard {
    outstanding: Outstanding,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.outstanding.shared.count.set(self.outstanding.shared.count.get() - 1);
        self.outstanding.notify();
    }
}

#[derive(Debug, Default)]
struct Shared {
    count: Cell<usize>,
    notified: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// What parking through the executor needs.
pub(super) struct Parking {
    /// The ring's event counter, until the first park through the executor.
    counter: Option<OwnedFd>,
    /// Reads the counter from then on.
    watch: Option<Task<()>>,
    executor_seen: Option<Instant>,
}

impl Parking {
    pub(super) fn new(ring: &mut Ring) -> io::Result<Parking> {
        // Blocking mode: the executor's read must wait, not fail.
        let counter = eventfd(0, EventfdFlags::CLOEXEC)?;
        ring.attach_eventfd(counter.try_clone()?)?;
        Ok(Parking { counter: Some(counter), watch: None, executor_seen: None })
    }

    /// Has a task read the counter and end the park each time. The driver does not read it itself: an
    /// operation of the executor keeps one more waker each time it is polled and not ready, and a task
    /// with 32,767 of them ends the process.
    fn watch_counter(&mut self, outstanding: &Outstanding) {
        let Some(counter) = self.counter.take() else { return };
        // SAFETY: the descriptor is ours, and the file takes it over.
        let counter = unsafe { BufferedFile::from_raw_fd(counter.into_raw_fd()) };
        let outstanding = outstanding.clone();
        self.watch = Some(glommio::spawn_local(async move {
            while counter.read_at(0, size_of::<u64>()).await.is_ok() {
                outstanding.notify();
            }
        }));
    }
}

impl Net {
    /// Ends a turn: sends the outbox (see [`Net::flush`]) and waits for a completion, for the
    /// deadline, for `ready`, or for a drop among `outstanding`. Returns at once if there is
    /// something to poll, or something in `events`. It may return for no visible reason.
    ///
    /// `ready` tells whether mail from other shards is there; it is asked again after `sleeping` is
    /// set. It must be false once the owner has taken the mail.
    pub async fn park(
        &mut self,
        outbox: &Outbox,
        events: &mut Vec<Event>,
        deadline: Option<Duration>,
        outstanding: &Outstanding,
        sleeping: &Sleeping,
        ready: impl Fn() -> bool,
    ) -> io::Result<()> {
        self.refill();
        // A long batch goes out before we claim to sleep, so that nobody wakes us in vain; and a
        // close needs its last sends done.
        let early = outbox.touched().len() > BATCH_BEFORE_SLEEP || self.has_unsettled();
        if early {
            self.flush(outbox, events)?;
        }
        if self.is_busy() || !events.is_empty() || deadline == Some(Duration::ZERO) {
            if !early {
                self.flush(outbox, events)?;
            }
            // The deferred work runs in the poll that follows.
            return self.visit_executor(outstanding).await;
        }
        sleeping.set(true);
        let result = if ready() || outstanding.take_notified() {
            if early { Ok(()) } else { self.flush(outbox, events) }
        } else if outstanding.count() == 0 {
            self.park_in_ring(outbox, early, events, deadline)
        } else {
            self.park_in_executor(outbox, early, events, deadline, outstanding, &ready).await
        };
        sleeping.set(false);
        result
    }

    /// True when the next poll has something to do.
    fn is_busy(&mut self) -> bool {
        self.ring.has_waiting()
            || self.has_file_done()
            || self.ring.has_deferred()
            || !self.resumed.is_empty()
    }

    fn park_in_ring(
        &mut self,
        outbox: &Outbox,
        early: bool,
        events: &mut Vec<Event>,
        deadline: Option<Duration>,
    ) -> io::Result<()> {
        if !early {
            self.queue_sends(outbox, events);
        }
        let wait = if events.is_empty() { Wait::Until(self.soonest(deadline)) } else { Wait::Reap };
        self.enter(wait);
        self.settle_if(!early, outbox, events);
        self.health()
    }

    fn settle_if(&mut self, queued: bool, outbox: &Outbox, events: &mut Vec<Event>) {
        if queued {
            self.settle(outbox, events);
        }
    }

    async fn park_in_executor(
        &mut self,
        outbox: &Outbox,
        early: bool,
        events: &mut Vec<Event>,
        deadline: Option<Duration>,
        outstanding: &Outstanding,
        ready: &impl Fn() -> bool,
    ) -> io::Result<()> {
        if !early {
            self.queue_sends(outbox, events);
        }
        if self.ring.queued() > 0 {
            self.enter(Wait::Reap);
        }
        self.settle_if(!early, outbox, events);
        self.health()?;
        if self.ring.queued() > 0 {
            self.enter(Wait::Reap);
        }
        self.ring.enable_eventfd();
        // The kernel looks at the flag after it has posted: one of us sees the other.
        fence(Ordering::SeqCst);
        if self.is_busy() || !events.is_empty() {
            self.ring.disable_eventfd();
            return self.visit_executor(outstanding).await;
        }
        self.parking.watch_counter(outstanding);
        let mut timer = self.soonest(deadline).map(Timer::new);
        std::future::poll_fn(|context| {
            *outstanding.shared.waker.borrow_mut() = Some(context.waker().clone());
            let due = timer.as_mut().is_some_and(|timer| Pin::new(timer).poll(context).is_ready());
            if due || outstanding.take_notified() || ready() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        outstanding.shared.waker.borrow_mut().take();
        self.ring.disable_eventfd();
        self.parking.executor_seen = Some(Instant::now());
        self.health()
    }

    /// Lets the executor run when something awaits it and it has not run for a while. Only a task
    /// that is pending lets it reach its own ring: one that wakes itself, or a timer that is due
    /// already, does not.
    async fn visit_executor(&mut self, outstanding: &Outstanding) -> io::Result<()> {
        if outstanding.count() > 0 && !outstanding.take_notified() {
            let now = Instant::now();
            let seen = self.parking.executor_seen.get_or_insert(now);
            if now.saturating_duration_since(*seen) >= EXECUTOR_PATIENCE {
                Timer::new(VISIT).await;
                self.parking.executor_seen = Some(Instant::now());
            }
        }
        self.health()
    }

    fn soonest(&self, deadline: Option<Duration>) -> Option<Duration> {
        [deadline, self.patience()].into_iter().flatten().min()
    }
}

/// Sends that may go out in the same system call that waits.
const BATCH_BEFORE_SLEEP: usize = 16;

/// A busy shard lets its executor run at least so often, while something awaits it.
const EXECUTOR_PATIENCE: Duration = Duration::from_micros(50);

/// Long enough not to be due before it is awaited, short enough to be due when the executor looks.
const VISIT: Duration = Duration::from_micros(2);
