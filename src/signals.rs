//! The signals of the process. A thread of its own catches them from the start on, and never waits for
//! anything else.
//!
//! SIGTERM, SIGINT and SIGQUIT stop the broker. SIGHUP makes another thread read the configuration again.
//! SIGUSR1, SIGUSR2 and SIGRTMIN are there for scripts and operators that know mosquitto. In mosquitto they
//! save the state, print what is in memory, and reopen the log file. In midge the first makes a checkpoint,
//! the second logs the counters, and the third does nothing, because midge has no log file. Rust's runtime
//! ignores SIGPIPE from the start of the process.

use midge::broker::{Shared, counted};
use midge::control::housekeeping::HouseRequests;
use midge::driver::Bell;
use midge::host::Control;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// A handle on the thread, for the start.
pub(crate) struct Signals(Arc<Mutex<Phase>>);

enum Phase {
    /// Midge does not serve yet. The process may be ended at any point of the start.
    Starting {
        /// SIGHUP has come. Files that were read before it may be out of date.
        reload: bool,
    },
    Serving(Serving),
}

/// The parts of a serving broker that react to signals.
pub(crate) struct Serving {
    pub(crate) control: Arc<Control>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) bells: Vec<Bell>,
    pub(crate) requests: HouseRequests,
    /// The reason why nothing is kept, in words. `None` if the state is kept.
    pub(crate) unkept: Option<String>,
}

impl Signals {
    /// Starts to catch signals.
    pub(crate) fn catch() -> std::io::Result<Signals> {
        let caught = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, libc::SIGRTMIN()];
        let mut signals = signal_hook::iterator::Signals::new(caught)?;
        let phase = Arc::new(Mutex::new(Phase::Starting { reload: false }));
        let shared = Arc::clone(&phase);
        std::thread::Builder::new().name("midge-signals".into()).spawn(move || {
            for signal in signals.forever() {
                shared.lock().unwrap_or_else(PoisonError::into_inner).handle(signal);
            }
        })?;
        Ok(Signals(phase))
    }

    /// Ends the start phase.
    pub(crate) fn serve(&self, serving: Serving) {
        let mut phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Phase::Starting { reload: true } = *phase {
            serving.requests.hang_up();
        }
        *phase = Phase::Serving(serving);
    }
}

impl Phase {
    fn handle(&mut self, signal: i32) {
        match (self, signal) {
            (Phase::Starting { reload }, SIGHUP) => *reload = true,
            (_, other) if other == libc::SIGRTMIN() => {}
            (Phase::Starting { .. }, SIGUSR1 | SIGUSR2) => {}
            (Phase::Starting { .. }, _) => {
                // The start may be waiting for a file that never comes. What it has written so far is
                // complete.
                let _ = writeln!(std::io::stderr(), "midge: stopped by a signal before it served");
                std::process::exit(0);
            }
            (Phase::Serving(serving), SIGHUP) => serving.requests.hang_up(),
            (Phase::Serving(serving), SIGUSR1) => serving.checkpoint(),
            (Phase::Serving(serving), SIGUSR2) => {
                let open = serving.control.open.load(Ordering::Relaxed);
                tracing::info!(
                    "SIGUSR2: {open} connections are open; what was counted, as below $SYS/broker:"
                );
                for line in counted(&serving.shared.counters) {
                    tracing::info!("SIGUSR2: {line}");
                }
            }
            (Phase::Serving(serving), _) => serving.stop(signal),
        }
    }
}

impl Serving {
    /// Asks the shards to hand over their logs for a checkpoint. The checkpoint's thread logs when it is
    /// written.
    fn checkpoint(&self) {
        if let Some(why) = &self.unkept {
            return tracing::info!("SIGUSR1: nothing to save. {why}");
        }
        tracing::info!("SIGUSR1: a checkpoint is being made");
        self.control.checkpoints_asked.fetch_add(1, Ordering::AcqRel);
        self.bells.iter().for_each(Bell::ring);
    }

    /// The first signal stops the broker in good order, the second at once.
    fn stop(&self, signal: i32) {
        if self.control.stop.swap(true, Ordering::AcqRel) {
            std::process::exit(128 + signal);
        }
        tracing::info!(signal, "stopping: connections are being closed");
        self.bells.iter().for_each(Bell::ring);
    }
}
