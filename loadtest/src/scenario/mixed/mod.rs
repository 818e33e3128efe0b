//! `mixed`: a fleet of devices. Devices send telemetry to a few backends and receive commands. Some
//! connections break, and the backends must receive the wills. Some devices disconnect and resume
//! their sessions later. Everything happens on a fixed schedule, independently of the broker.

mod device;
mod fleet;
mod spec;

use std::collections::VecDeque;

use self::fleet::Fleet;
use super::{Runner, Snapshot, Stall, nanos};
use crate::codec;
use crate::connector::connect_clients;
use crate::flags::Mixed;
use crate::report::Report;

pub(super) fn run(flags: &Mixed) -> Result<Report, String> {
    let (backends, devices) = (flags.backends as usize, flags.devices as usize);
    let clients = backends + 1 + devices;
    let mut runner = Runner::new(&flags.common, clients, 0, 0)?;
    let mut fleet = Fleet::new(&runner, flags);
    // The backends connect first, because they must receive everything.
    for ids in [0..backends, backends..clients] {
        connect_clients(
            &mut runner.net,
            &mut fleet,
            ids,
            flags.common.connecting,
            runner.clock,
            &mut runner.progress,
        )?;
    }
    let connected = runner.memory()?;
    fleet.running = true;
    let start = Snapshot::now(&runner)?;
    let mut schedule = FleetSchedule::new(flags, start.nanos);
    schedule.drive(&mut runner, &mut fleet, start.nanos + nanos(flags.seconds))?;
    let end = Snapshot::now(&runner)?;
    let delivered = fleet.delivered();

    let mut stall = Stall::new(runner.clock.now(), flags.stall + flags.away);
    loop {
        let is_over = stall.is_over(runner.clock.now(), fleet.progress());
        if is_over || schedule.away.is_empty() && fleet.is_drained(&runner.net) {
            break;
        }
        schedule.reconnect_due(&mut runner, &mut fleet)?;
        fleet.pump_commands(&mut runner.net);
        runner.wait(&mut fleet, u64::MAX)?;
        fleet.take_failures();
    }
    // Waits for unexpected messages.
    runner.serve_for(&mut fleet, 0.3)?;
    fleet.faults.unanswered += runner.ping_all(&mut fleet, 0..clients, flags.stall)?;
    fleet.count_missing();
    let loaded = runner.memory()?;
    end_sessions(&mut runner, &mut fleet, flags)?;
    let left = runner.memory()?;

    let settings = vec![
        ("devices", flags.devices.to_string()),
        ("backends", flags.backends.to_string()),
        ("telemetry-qos", flags.telemetry_qos.0.map(|share| share.to_string()).join(",")),
        ("telemetry-rate", flags.telemetry_rate.to_string()),
        ("command-qos", flags.command_qos.to_string()),
        ("command-rate", flags.command_rate.to_string()),
        ("drop-rate", flags.drop_rate.to_string()),
        ("reconnect-rate", flags.reconnect_rate.to_string()),
        ("away", flags.away.to_string()),
        ("payload", flags.payload.to_string()),
        ("seconds", flags.seconds.to_string()),
    ];
    let mut report = Report::new("mixed", [settings, flags.common.settings()].concat());
    end.report(&start, delivered, "us per delivery", &mut report);
    let wall_seconds = (end.nanos - start.nanos) as f64 / 1e9;
    report.figure("delivered_per_second", "delivered", delivered as f64 / wall_seconds, "messages/s", 0);
    report.timeline("deliveries", runner.progress.timeline());
    fleet.figures(&mut report);
    report.handshakes(runner.net.handshakes());
    if let (Some(before), Some(connected), Some(loaded), Some(left)) =
        (runner.before, connected, loaded, left)
    {
        report.broker_memory(&[
            ("broker_memory_before_kib", "broker memory, before", before),
            ("broker_memory_connected_kib", "  all connected", connected),
            ("broker_memory_loaded_kib", "  after the load", loaded),
            ("broker_memory_left_kib", "  all sessions ended", left),
        ]);
    }
    if schedule.lag_nanos_max > LAG_NANOS_MAX {
        let millis = schedule.lag_nanos_max / 1_000_000;
        report.notes.push(format!("the schedule was up to {millis} ms late: the harness was too busy"));
    }
    Ok(report)
}

/// If the schedule is further behind than this, a note says so.
const LAG_NANOS_MAX: u64 = 100_000_000;

/// Disconnects all clients, and ends the sessions of the devices.
fn end_sessions(runner: &mut Runner, fleet: &mut Fleet, flags: &Mixed) -> Result<(), String> {
    let (first, clients) = (fleet.first_device(), fleet.client_count());
    fleet.running = false;
    for id in 0..clients {
        runner.net.send(id, codec::put_disconnect);
        runner.net.close(id);
        fleet.mark_closed(id);
    }
    runner.serve_for(fleet, 0.3)?;
    fleet.end_sessions = true;
    let connecting = flags.common.connecting;
    connect_clients(&mut runner.net, fleet, first..clients, connecting, runner.clock, &mut runner.progress)?;
    for id in first..clients {
        runner.net.send(id, codec::put_disconnect);
        runner.net.close(id);
        fleet.mark_closed(id);
    }
    runner.serve_for(fleet, 0.3)
}

/// When each event of the run is due.
struct FleetSchedule {
    start: u64,
    devices: u64,
    telemetry: EventRate,
    commands: EventRate,
    drops: EventRate,
    reconnects: EventRate,
    away_nanos: u64,
    /// Devices that must reconnect, ordered by the time at which they do.
    away: VecDeque<(u64, usize)>,
    lag_nanos_max: u64,
}

/// A series of events at a fixed rate.
struct EventRate {
    per_second: f64,
    done: u64,
}

impl EventRate {
    fn due(&self, start: u64) -> u64 {
        if self.per_second > 0.0 {
            start + (self.done as f64 * 1e9 / self.per_second) as u64
        } else {
            u64::MAX
        }
    }

    /// The number and time of the next event, if it is due.
    fn next(&mut self, start: u64, now: u64) -> Option<(u64, u64)> {
        let due = self.due(start);
        if due > now {
            return None;
        }
        self.done += 1;
        Some((self.done - 1, due))
    }
}

impl FleetSchedule {
    fn new(flags: &Mixed, start: u64) -> FleetSchedule {
        let rate = |per_device: f64| EventRate { per_second: per_device * f64::from(flags.devices), done: 0 };
        FleetSchedule {
            start,
            devices: flags.devices.into(),
            telemetry: rate(flags.telemetry_rate),
            commands: rate(flags.command_rate),
            drops: rate(flags.drop_rate),
            reconnects: rate(flags.reconnect_rate),
            away_nanos: nanos(flags.away),
            away: VecDeque::new(),
            lag_nanos_max: 0,
        }
    }

    fn drive(&mut self, runner: &mut Runner, fleet: &mut Fleet, until: u64) -> Result<(), String> {
        loop {
            let now = runner.clock.now();
            if now >= until {
                return Ok(());
            }
            let next = self.next_due();
            self.lag_nanos_max = self.lag_nanos_max.max(now.saturating_sub(next));
            self.reconnect_due(runner, fleet)?;
            self.send_due(runner, fleet, now);
            self.break_due(runner, fleet, now);
            runner.wait(fleet, self.next_due().min(until))?;
            fleet.take_failures();
            runner.progress.update(now, fleet.delivered(), || fleet.summary());
        }
    }

    fn next_due(&self) -> u64 {
        let rates = [&self.telemetry, &self.commands, &self.drops, &self.reconnects];
        let rate = rates.map(|rate| rate.due(self.start)).into_iter().min().unwrap_or(u64::MAX);
        rate.min(self.away.front().map_or(u64::MAX, |device| device.0))
    }

    fn send_due(&mut self, runner: &mut Runner, fleet: &mut Fleet, now: u64) {
        while let Some((number, due)) = self.telemetry.next(self.start, now) {
            fleet.send_telemetry(&mut runner.net, (number % self.devices) as u32, due);
        }
        while let Some((_, due)) = self.commands.next(self.start, now) {
            fleet.queue_command(due);
        }
        fleet.pump_commands(&mut runner.net);
    }

    /// Breaks or ends the connections that are due. Skips devices that are away.
    fn break_due(&mut self, runner: &mut Runner, fleet: &mut Fleet, now: u64) {
        while let Some((number, _)) = self.drops.next(self.start, now) {
            let device = scattered(number, self.devices);
            if fleet.break_connection(&mut runner.net, device, now) {
                self.away.push_back((now + self.away_nanos, fleet.first_device() + device as usize));
            }
        }
        while let Some((number, _)) = self.reconnects.next(self.start, now) {
            fleet.disconnect(&mut runner.net, scattered(!number, self.devices), now);
        }
    }

    /// Connects the devices whose time away is over.
    fn reconnect_due(&mut self, runner: &mut Runner, fleet: &mut Fleet) -> Result<(), String> {
        let now = runner.clock.now();
        for id in fleet.disconnected.drain(..) {
            self.away.push_back((now + self.away_nanos, id));
        }
        while self.away.front().is_some_and(|device| device.0 <= now)
            && let Some((_, id)) = self.away.pop_front()
        {
            fleet.reconnect(&mut runner.net, id).map_err(|error| format!("client {id}: {error}"))?;
        }
        Ok(())
    }
}

/// The device of event `number`. Spreads events over the fleet, in the same way in every run.
fn scattered(number: u64, devices: u64) -> u32 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 % devices as u32
}
