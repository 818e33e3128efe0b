//! The signals of the process: a thread of its own catches them from the start on, and never waits for anything else.
//!
//! SIGTERM, SIGINT and SIGQUIT stop, SIGHUP has the configuration read again by another thread. SIGUSR1, SIGUSR2 and
//! SIGRTMIN are what scripts and people who know mosquitto send. There they save, print what is in memory, and open the
//! log file anew; here the first makes a checkpoint, the second writes the counters to the log, and the third does
//! nothing, as midge has no log file. SIGPIPE is ignored from the start of the process on, by Rust's own code.

use midge::broker::{Shared, counted};
use midge::control::housekeeping::ReloadRequests;
use midge::driver::Bell;
use midge::host::Control;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// The thread, as the start sees it.
pub(crate) struct Signals(Arc<Mutex<Phase>>);

enum Phase {
    /// Nothing is served yet, and whatever the start waits for can be left as it is.
    Starting {
        /// SIGHUP has come: what was read before it may be old.
        reload: bool,
    },
    Serving(Serving),
}

/// What a broker that serves is told of signals with.
pub(crate) struct Serving {
    pub(crate) control: Arc<Control>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) bells: Vec<Bell>,
    pub(crate) requests: ReloadRequests,
    /// Nothing is kept, in words.
    pub(crate) unkept: Option<String>,
}

impl Signals {
    /// Catches signals from now on.
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

    /// The start is over.
    pub(crate) fn serve(&self, serving: Serving) {
        let mut phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Phase::Starting { reload: true } = *phase {
            serving.requests.reload();
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
                // The start may wait for a file that never comes. What it has written so far is good as it is.
                let _ = writeln!(std::io::stderr(), "midge: stopped by a signal before it served");
                std::process::exit(0);
            }
            (Phase::Serving(serving), SIGHUP) => serving.requests.reload(),
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
    /// Asks the shards for what their logs have. The thread of the checkpoint says when it is written.
    fn checkpoint(&self) {
        if let Some(why) = &self.unkept {
            return tracing::info!("SIGUSR1: nothing to save. {why}");
        }
        tracing::info!("SIGUSR1: a checkpoint is being made");
        self.control.checkpoints_asked.fetch_add(1, Ordering::AcqRel);
        self.bells.iter().for_each(Bell::ring);
    }

    /// The first signal stops in good order, the second at once.
    fn stop(&self, signal: i32) {
        if self.control.stop.swap(true, Ordering::AcqRel) {
            std::process::exit(128 + signal);
        }
        tracing::info!(signal, "stopping: connections are being closed");
        self.bells.iter().for_each(Bell::ring);
    }
}
