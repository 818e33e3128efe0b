//! `storm`: connect, CONNACK, DISCONNECT, close, repeatedly, as fast as the broker answers or at a
//! fixed rate.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Runner, Snapshot};
use crate::cli::Storm;
use crate::codec::{self, Packet};
use crate::connector::{Identity, count_closed, detail};
use crate::net::{Clock, Closed, Handler, Net, Next};
use crate::report::{Report, histogram};
use crate::verify::Faults;

/// Ports of closed connections are not usable for a while, so a run needs several addresses.
pub(super) const SOURCES: usize = 16;
/// A connection without CONNACK after this time counts as unanswered.
const TIMEOUT_NANOS: u64 = 5_000_000_000;

/// If the schedule ends further behind than this, a note says so.
const BEHIND_SECONDS_MAX: f64 = 0.1;

pub(super) fn run(flags: &Storm) -> Result<Report, String> {
    let slots = flags.concurrency as usize;
    let mut runner = Runner::new(&flags.common, slots, SOURCES, 60)?;
    let mut connections = ShortConnections::new(runner.identity.clone(), 0, slots);
    let schedule = flags.rate.map(|per_second| ConnectSchedule { start: runner.clock.now(), per_second });

    let warm = runner.clock.now() + (flags.warm_up * 1e9) as u64;
    drive(&mut runner, &mut connections, schedule, warm, "warming up")?;
    let start = Snapshot::now(&runner)?;
    let (accepted, handshakes) = (connections.accepted, runner.net.handshakes().clone());
    connections.recording = true;
    drive(&mut runner, &mut connections, schedule, start.nanos + (flags.seconds * 1e9) as u64, "measuring")?;
    let end = Snapshot::now(&runner)?;
    connections.recording = false;
    let accepted = connections.accepted - accepted;
    let handshakes = runner.net.handshakes().since(&handshakes);
    let behind = schedule.map_or(0, |schedule| schedule.due(end.nanos).saturating_sub(connections.started));

    let deadline = end.nanos + TIMEOUT_NANOS;
    while connections.free.len() < slots && runner.clock.now() < deadline {
        wait(&mut runner, &mut connections, deadline, "draining")?;
    }
    connections.faults.unanswered += (slots - connections.free.len()) as u64;
    if runner.broker_pid.is_some() {
        std::thread::sleep(Duration::from_secs(1));
    }
    let left = runner.memory()?;

    let mut settings = vec![("concurrency", slots.to_string())];
    if let Some(rate) = flags.rate {
        settings.push(("rate", rate.to_string()));
    }
    settings.push(("warm-up", flags.warm_up.to_string()));
    settings.push(("seconds", flags.seconds.to_string()));
    let mut report = Report::new("storm", [settings, flags.common.settings()].concat());
    let wall_seconds = (end.nanos - start.nanos) as f64 / 1e9;
    end.report(&start, accepted, "us per connection", &mut report);
    report.figure("connections_per_second", "connected", accepted as f64 / wall_seconds, "connections/s", 0);
    report.handshakes(&handshakes);
    report.figure("accepted", "connected and answered", connections.accepted as f64, "connections in all", 0);
    if let (Some(before), Some(left)) = (runner.before, left) {
        report.broker_memory(&[
            ("broker_memory_before_kib", "broker memory, before", before),
            ("broker_memory_left_kib", "  a second after", left),
        ]);
    }
    if behind > 0 {
        report.figure("behind_schedule", "behind schedule", behind as f64, "connections at the end", 0);
    }
    if flags.rate.is_some_and(|rate| behind as f64 > rate * BEHIND_SECONDS_MAX) {
        report
            .notes
            .push("--rate was not reached: the broker was too slow, or --concurrency too low".to_owned());
    }
    if connections.latency.is_empty() {
        report.notes.push("nothing was connected in the measured time".to_owned());
    } else {
        let of = if flags.rate.is_some() { "scheduled time to CONNACK" } else { "connect to CONNACK" };
        report.latency = Some((of, connections.latency));
    }
    report.timeline("connections", runner.progress.timeline());
    report.faults = connections.faults;
    report.details = connections.details;
    Ok(report)
}

/// When connections are due.
#[derive(Clone, Copy)]
pub(super) struct ConnectSchedule {
    pub(super) start: u64,
    pub(super) per_second: f64,
}

impl ConnectSchedule {
    /// When connection `number` is due.
    fn time(&self, number: u64) -> u64 {
        self.start + (number as f64 * 1e9 / self.per_second) as u64
    }

    /// The number of connections that are due by `now`.
    pub(super) fn due(&self, now: u64) -> u64 {
        ((now - self.start) as f64 * self.per_second / 1e9) as u64
    }
}

fn drive(
    runner: &mut Runner,
    connections: &mut ShortConnections,
    schedule: Option<ConnectSchedule>,
    until: u64,
    what: &str,
) -> Result<(), String> {
    while runner.clock.now() < until {
        let wake = connections.open_due(&mut runner.net, runner.clock, schedule)?;
        wait(runner, connections, wake.min(until), what)?;
    }
    Ok(())
}

fn wait(
    runner: &mut Runner,
    connections: &mut ShortConnections,
    until: u64,
    what: &str,
) -> Result<(), String> {
    let now = runner.wait(connections, until)?;
    runner.progress.update(now, connections.accepted, || {
        format!("{what}: {} connected, {} faults", connections.accepted, connections.faults.total())
    });
    Ok(())
}

/// Connections that are opened, answered, and closed.
pub(super) struct ShortConnections {
    /// The connection number of slot 0.
    first: usize,
    identity: Identity,
    /// Slots without a connection.
    pub(super) free: Vec<usize>,
    /// Per slot, the time from which the latency of its connection counts.
    started_nanos: Vec<u64>,
    /// Per slot, the number of its connection, which is part of the client identifier.
    number: Vec<u64>,
    pub(super) started: u64,
    pub(super) accepted: u64,
    pub(super) recording: bool,
    pub(super) latency: Histogram<u64>,
    pub(super) faults: Faults,
    pub(super) details: Vec<String>,
}

impl ShortConnections {
    pub(super) fn new(identity: Identity, first: usize, slots: usize) -> ShortConnections {
        ShortConnections {
            first,
            identity,
            free: (0..slots).collect(),
            started_nanos: vec![0; slots],
            number: vec![0; slots],
            started: 0,
            accepted: 0,
            recording: false,
            latency: histogram(),
            faults: Faults::default(),
            details: Vec::new(),
        }
    }

    /// Opens the connections that are due, as far as there are free slots. Returns when the next
    /// one is due.
    ///
    /// # Errors
    /// A socket fails to open.
    pub(super) fn open_due(
        &mut self,
        net: &mut Net,
        clock: Clock,
        schedule: Option<ConnectSchedule>,
    ) -> Result<u64, String> {
        let now = clock.now();
        while let Some(&slot) = self.free.last() {
            let start = match schedule {
                None => clock.now(),
                Some(schedule) => schedule.time(self.started),
            };
            if start > now && schedule.is_some() {
                return Ok(start);
            }
            let opened = net.open(self.first + slot);
            opened.map_err(|error| format!("connection {}: {error}", self.started))?;
            self.free.pop();
            self.started_nanos[slot] = start;
            self.number[slot] = self.started;
            self.started += 1;
        }
        Ok(u64::MAX)
    }

    fn accept(&mut self, slot: usize, now: u64, packet: Packet<'_>) {
        match codec::connack(self.identity.version, packet) {
            _ if packet.kind() != codec::CONNACK => {
                self.faults.protocol += 1;
                detail(&mut self.details, || {
                    format!("CONNECT answered by a packet of type {}", packet.kind())
                });
            }
            Ok(connack) if connack.code == 0 => {
                if connack.session_present {
                    // A clean session must not be present already. [MQTT5-3.2.2-2]
                    // [MQTT311-3.2.2-1]
                    self.faults.protocol += 1;
                    detail(&mut self.details, || "Session Present on a clean session".to_owned());
                }
                self.accepted += 1;
                if self.recording {
                    self.latency.saturating_record(now.saturating_sub(self.started_nanos[slot]));
                }
            }
            Ok(connack) => {
                self.faults.refused += 1;
                let why = codec::connack_code(connack.code);
                detail(&mut self.details, || format!("CONNECT refused with code {}: {why}", connack.code));
            }
            Err(malformed) => {
                self.faults.protocol += 1;
                detail(&mut self.details, || malformed.to_string());
            }
        }
    }
}

impl Handler for ShortConnections {
    fn handle_connected(&mut self, id: usize, out: &mut Vec<u8>) {
        let number = self.number[id - self.first];
        self.identity.put_connect(out, &format!("c{number}"));
    }

    fn handle_packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) -> Next {
        let slot = id - self.first;
        self.accept(slot, now, packet);
        codec::put_disconnect(out);
        self.free.push(slot);
        Next::Close
    }

    fn handle_writable(&mut self, _: usize) {}

    fn handle_closed(&mut self, id: usize, why: Closed) {
        count_closed(&mut self.faults, &mut self.details, id, &why);
        self.free.push(id - self.first);
    }
}
