//! The scenarios. Each creates clients from its flags, runs them, and writes a report.

mod idle;
mod logins;
mod mixed;
mod offline;
mod retained;
mod shared;
mod slow;
mod storm;
mod throughput;
mod wildcard;

use std::time::Duration;

use crate::cli::{Common, Scenario};
use crate::connector::Identity;
use crate::net::{self, Clock, Handler, Net, Sources};
use crate::process_usage::{Memory, ProcessSample};
use crate::progress::Progress;
use crate::report::Report;
use crate::transport::TransportConfig;

/// Runs the scenario of the command line.
///
/// # Errors
/// The run fails: no broker, a refused CONNECT, too few open files.
pub(crate) fn run(scenario: &Scenario) -> Result<Report, String> {
    match scenario {
        Scenario::FanOut(flags) => throughput::fan_out(flags),
        Scenario::Pairs(flags) => throughput::pairs(flags),
        Scenario::FanIn(flags) => throughput::fan_in(flags),
        Scenario::Idle(flags) => idle::run(flags),
        Scenario::Storm(flags) => storm::run(flags),
        Scenario::Logins(flags) => logins::run(flags),
        Scenario::Wildcard(flags) => wildcard::run(flags),
        Scenario::Shared(flags) => shared::run(flags),
        Scenario::Retained(flags) => retained::run(flags),
        Scenario::Offline(flags) => offline::run(flags),
        Scenario::Slow(flags) => slow::run(flags),
        Scenario::Mixed(flags) => mixed::run(flags),
    }
}

/// The common state of every scenario.
struct Runner {
    clock: Clock,
    net: Net,
    progress: Progress,
    identity: Identity,
    /// Distinguishes this run from others in topics, client identifiers and payloads.
    run: u32,
    broker_pid: Option<u32>,
    /// Memory of the broker before any connection.
    before: Option<Memory>,
}

impl Runner {
    /// Pins the thread and prepares for `connections` sockets, with at least `sources_min` source
    /// addresses if the flag does not set their number.
    fn new(
        common: &Common,
        connections: usize,
        sources_min: usize,
        keep_alive_seconds: u16,
    ) -> Result<Runner, String> {
        if let Some(cpu) = common.cpu {
            net::pin(&[cpu]).map_err(|error| format!("--cpu {cpu}: {error}"))?;
        }
        /// Standard streams, the epoll set, files under `/proc`.
        const OTHER_FILES: u64 = 32;
        let files = net::raise_open_files();
        if connections as u64 + OTHER_FILES > files {
            return Err(format!(
                "{connections} connections need more open files than this process may have ({files}): \
                 raise the hard limit (ulimit -Hn), or divide the connections among several processes"
            ));
        }
        let target = common.target()?;
        let mut addresses = common.source_addresses(target, connections)?;
        if common.sources.is_none() && addresses.len() < sources_min && net::is_loopback_v4(target) {
            addresses = Sources::loopback(sources_min);
        }
        let clock = Clock::start();
        let run = run_number();
        let sources = Sources::new(addresses, run);
        let transport = TransportConfig::new(&common.transport, &common.host, common.port)?;
        let net = Net::new(target, sources, transport, clock).map_err(|error| error.to_string())?;
        let identity = Identity {
            version: common.version(),
            prefix: format!("lt{run:08x}-"),
            keep_alive_seconds,
            username: common.username.clone(),
            password: common.password.clone(),
        };
        let mut runner = Runner {
            clock,
            net,
            progress: Progress::new(common.quiet, common.broker_pid),
            identity,
            run,
            broker_pid: common.broker_pid,
            before: None,
        };
        runner.before = runner.broker_sample()?.map(|sample| sample.memory);
        Ok(runner)
    }

    fn broker_sample(&self) -> Result<Option<ProcessSample>, String> {
        let sample = |pid| ProcessSample::of(pid).map_err(|error| format!("--broker-pid {pid}: {error}"));
        self.broker_pid.map(sample).transpose()
    }

    fn own_sample(&self) -> Result<ProcessSample, String> {
        ProcessSample::own().map_err(|error| format!("/proc/self: {error}"))
    }

    /// Waits for events until `until`, at most a tenth of a second. Returns the time at which the
    /// wait began.
    fn wait(&mut self, handler: &mut impl Handler, until: u64) -> Result<u64, String> {
        const WAIT_NANOS_MAX: u64 = 100_000_000;
        let now = self.clock.now();
        let timeout = Duration::from_nanos(until.saturating_sub(now).min(WAIT_NANOS_MAX));
        self.net.poll(timeout, handler).map_err(|error| error.to_string())?;
        Ok(now)
    }

    /// Handles events for a while in which none is expected.
    fn serve_for(&mut self, handler: &mut impl Handler, seconds: f64) -> Result<(), String> {
        let until = self.clock.now() + nanos(seconds);
        while self.clock.now() < until {
            self.wait(handler, until)?;
        }
        Ok(())
    }

    /// Sends a PINGREQ on each of these connections, and handles events until all are answered.
    /// After that, unexpected messages have arrived too, even on a busy machine. Returns the number
    /// of connections without an answer after `seconds`.
    fn ping_all(
        &mut self,
        handler: &mut impl Handler,
        ids: std::ops::Range<usize>,
        seconds: f64,
    ) -> Result<u64, String> {
        ids.clone().for_each(|id| self.net.send_ping(id));
        let until = self.clock.now() + nanos(seconds);
        let mut silent = ids.start;
        // Each id is passed only once, because an answered connection stays answered.
        while let Some(id) = (silent..ids.end).find(|&id| self.net.awaits_pingresp(id)) {
            silent = id;
            if self.clock.now() >= until {
                return Ok((silent..ids.end).filter(|&id| self.net.awaits_pingresp(id)).count() as u64);
            }
            self.wait(handler, until)?;
        }
        Ok(0)
    }

    fn memory(&self) -> Result<Option<Memory>, String> {
        Ok(self.broker_sample()?.map(|sample| sample.memory))
    }
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// Reports how much the memory of the broker grew for each of `count` things.
fn memory_each(
    report: &mut Report,
    key: &'static str,
    label: &'static str,
    unit: &'static str,
    grown: (Option<Memory>, Option<Memory>),
    count: u64,
) {
    if let (Some(before), Some(after)) = grown {
        let bytes = after.resident as f64 - before.resident as f64;
        report.figure(key, label, bytes / count.max(1) as f64, unit, 0);
    }
}

/// Detects that a run makes no progress.
struct Stall {
    seen: u64,
    nanos: u64,
    limit_nanos: u64,
}

impl Stall {
    fn new(now: u64, seconds: f64) -> Stall {
        Stall { seen: 0, nanos: now, limit_nanos: nanos(seconds) }
    }

    /// Whether `count`, which grows with all progress, has not changed for too long.
    fn is_over(&mut self, now: u64, count: u64) -> bool {
        if count != self.seen {
            (self.seen, self.nanos) = (count, now);
        }
        now.saturating_sub(self.nanos) > self.limit_nanos
    }
}

/// A number that differs from run to run. Its quality does not matter.
fn run_number() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (since.as_micros() as u32).rotate_left(8) ^ std::process::id()
}

/// CPU time at one moment, of the harness and, if its process is known, of the broker.
struct Snapshot {
    nanos: u64,
    broker: Option<ProcessSample>,
    own: ProcessSample,
}

impl Snapshot {
    fn now(runner: &Runner) -> Result<Snapshot, String> {
        Ok(Snapshot { nanos: runner.clock.now(), broker: runner.broker_sample()?, own: runner.own_sample()? })
    }

    /// Reports the CPU time since `earlier` for `work` units of work, the main figure first.
    fn report(&self, earlier: &Snapshot, work: u64, per: &'static str, report: &mut Report) {
        report.measured = Some((earlier.nanos, self.nanos));
        let wall_seconds = (self.nanos - earlier.nanos) as f64 / 1e9;
        if let (Some(after), Some(before)) = (&self.broker, &earlier.broker) {
            report.broker_cpu(&after.since(before), work, wall_seconds, per);
        }
        report.own_cpu(&self.own.since(&earlier.own), work, wall_seconds, per);
    }
}
