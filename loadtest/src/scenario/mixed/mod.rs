//! `mixed`: a fleet of devices as a broker meets it. Telemetry goes up to a few backends, commands
//! come down to each device; connections break and the backends must see the wills; devices leave
//! and come back to their sessions. Everything happens on a schedule, whatever the broker does.

mod cast;
mod crew;
mod device;

use std::collections::VecDeque;

use self::crew::Crew;
use super::{Moment, Stage, Stall, nanos};
use crate::flags::Mixed;
use crate::fleet::join;
use crate::report::Report;
use crate::wire;

pub(super) fn run(flags: &Mixed) -> Result<Report, String> {
    let (backends, devices) = (flags.backends as usize, flags.devices as usize);
    let clients = backends + 1 + devices;
    let mut stage = Stage::set(&flags.common, clients, 0, 0)?;
    let mut crew = Crew::new(&stage, flags);
    // Backends first: they are to see everything.
    for ids in [0..backends, backends..clients] {
        join(&mut stage.net, &mut crew, ids, flags.common.connecting, stage.clock, &mut stage.progress)?;
    }
    let connected = stage.memory()?;
    crew.running = true;
    let start = Moment::now(&stage)?;
    let mut plan = Schedule::new(flags, start.nanos);
    plan.drive(&mut stage, &mut crew, start.nanos + nanos(flags.seconds))?;
    let end = Moment::now(&stage)?;
    let delivered = crew.delivered();

    let mut stall = Stall::new(stage.clock.now(), flags.stall + flags.away);
    loop {
        let is_over = stall.is_over(stage.clock.now(), crew.progress());
        if is_over || plan.away.is_empty() && crew.is_drained(&stage.net) {
            break;
        }
        plan.bring_back(&mut stage, &mut crew)?;
        crew.pump_commands(&mut stage.net);
        stage.wait(&mut crew, u64::MAX)?;
        crew.take_failures();
    }
    // What comes although it should not.
    stage.rest(&mut crew, 0.3)?;
    crew.faults.unanswered += stage.look_again(&mut crew, 0..clients, flags.stall)?;
    crew.settle();
    let loaded = stage.memory()?;
    end_sessions(&mut stage, &mut crew, flags)?;
    let left = stage.memory()?;

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
    report.course("deliveries", stage.progress.timeline());
    crew.figures(&mut report);
    report.handshakes(stage.net.handshakes());
    if let (Some(before), Some(connected), Some(loaded), Some(left)) = (stage.before, connected, loaded, left)
    {
        report.broker_memory(&[
            ("broker_memory_before_kib", "broker memory, before", before),
            ("broker_memory_connected_kib", "  all connected", connected),
            ("broker_memory_loaded_kib", "  after the load", loaded),
            ("broker_memory_left_kib", "  all sessions ended", left),
        ]);
    }
    if plan.lag_nanos_max > LAG_NANOS_MAX {
        let millis = plan.lag_nanos_max / 1_000_000;
        report.notes.push(format!("the schedule was kept only to {millis} ms: the harness was too busy"));
    }
    Ok(report)
}

/// A schedule that is further behind than this was not kept.
const LAG_NANOS_MAX: u64 = 100_000_000;

/// Disconnects everyone, and takes the sessions of the devices away.
fn end_sessions(stage: &mut Stage, crew: &mut Crew, flags: &Mixed) -> Result<(), String> {
    let (first, clients) = (crew.first_device(), crew.client_count());
    crew.running = false;
    for id in 0..clients {
        stage.net.send(id, wire::put_disconnect);
        stage.net.close(id);
        crew.part(id);
    }
    stage.rest(crew, 0.3)?;
    crew.end_sessions = true;
    let connecting = flags.common.connecting;
    join(&mut stage.net, crew, first..clients, connecting, stage.clock, &mut stage.progress)?;
    for id in first..clients {
        stage.net.send(id, wire::put_disconnect);
        stage.net.close(id);
        crew.part(id);
    }
    stage.rest(crew, 0.3)
}

/// What is to happen when.
struct Schedule {
    start: u64,
    devices: u64,
    telemetry: Beat,
    commands: Beat,
    drops: Beat,
    reconnects: Beat,
    away_nanos: u64,
    /// Devices that are to come back, by the time at which they do.
    away: VecDeque<(u64, usize)>,
    lag_nanos_max: u64,
}

/// Events at a fixed rate.
struct Beat {
    per_second: f64,
    done: u64,
}

impl Beat {
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

impl Schedule {
    fn new(flags: &Mixed, start: u64) -> Schedule {
        let beat = |per_device: f64| Beat { per_second: per_device * f64::from(flags.devices), done: 0 };
        Schedule {
            start,
            devices: flags.devices.into(),
            telemetry: beat(flags.telemetry_rate),
            commands: beat(flags.command_rate),
            drops: beat(flags.drop_rate),
            reconnects: beat(flags.reconnect_rate),
            away_nanos: nanos(flags.away),
            away: VecDeque::new(),
            lag_nanos_max: 0,
        }
    }

    fn drive(&mut self, stage: &mut Stage, crew: &mut Crew, until: u64) -> Result<(), String> {
        loop {
            let now = stage.clock.now();
            if now >= until {
                return Ok(());
            }
            let next = self.next_due();
            self.lag_nanos_max = self.lag_nanos_max.max(now.saturating_sub(next));
            self.bring_back(stage, crew)?;
            self.send_due(stage, crew, now);
            self.break_due(stage, crew, now);
            stage.wait(crew, self.next_due().min(until))?;
            crew.take_failures();
            stage.progress.turn(now, crew.delivered(), || crew.summary());
        }
    }

    fn next_due(&self) -> u64 {
        let beats = [&self.telemetry, &self.commands, &self.drops, &self.reconnects];
        let beat = beats.map(|beat| beat.due(self.start)).into_iter().min().unwrap_or(u64::MAX);
        beat.min(self.away.front().map_or(u64::MAX, |device| device.0))
    }

    fn send_due(&mut self, stage: &mut Stage, crew: &mut Crew, now: u64) {
        while let Some((number, due)) = self.telemetry.next(self.start, now) {
            crew.send_telemetry(&mut stage.net, (number % self.devices) as u32, due);
        }
        while let Some((_, due)) = self.commands.next(self.start, now) {
            crew.order(due);
        }
        crew.pump_commands(&mut stage.net);
    }

    /// Breaks and ends the connections whose turn it is; a device that is away is passed over.
    fn break_due(&mut self, stage: &mut Stage, crew: &mut Crew, now: u64) {
        while let Some((number, _)) = self.drops.next(self.start, now) {
            let device = scattered(number, self.devices);
            if crew.break_off(&mut stage.net, device, now) {
                self.away.push_back((now + self.away_nanos, crew.first_device() + device as usize));
            }
        }
        while let Some((number, _)) = self.reconnects.next(self.start, now) {
            crew.say_goodbye(&mut stage.net, scattered(!number, self.devices), now);
        }
    }

    /// Connects the devices that were away for long enough.
    fn bring_back(&mut self, stage: &mut Stage, crew: &mut Crew) -> Result<(), String> {
        let now = stage.clock.now();
        for id in crew.departed.drain(..) {
            self.away.push_back((now + self.away_nanos, id));
        }
        while self.away.front().is_some_and(|device| device.0 <= now)
            && let Some((_, id)) = self.away.pop_front()
        {
            crew.come_back(&mut stage.net, id).map_err(|error| format!("client {id}: {error}"))?;
        }
        Ok(())
    }
}

/// A device for event `number`: all over the fleet, but the same in every run.
fn scattered(number: u64, devices: u64) -> u32 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 % devices as u32
}
