//! `idle`: many connections that do nothing but ping, and what each of them costs the broker.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Moment, Stage};
use crate::cli::Idle;
use crate::fleet::{Fleet, Identity, Joins, Offered, Roster, count_closed, detail, join};
use crate::net::{Closed, Handler, Next};
use crate::report::{Report, histogram};
use crate::verify::Faults;
use crate::wire::{self, Packet};

pub(super) fn run(flags: &Idle) -> Result<Report, String> {
    let connections = flags.connections as usize;
    let mut stage = Stage::set(&flags.common, connections, 0, flags.keep_alive)?;
    let devices = Devices { identity: stage.identity.clone(), subscribe: flags.subscribe };
    let mut idle = Pings::new(devices, connections);
    let joining = stage.clock.now();
    join(
        &mut stage.net,
        &mut idle,
        0..connections,
        flags.common.connecting,
        stage.clock,
        &mut stage.progress,
    )?;
    let join_seconds = (stage.clock.now() - joining) as f64 / 1e9;

    let interval_nanos = (flags.ping_interval * 1e9) as u64;
    let start = Moment::now(&stage)?;
    let connected = start.broker.as_ref().map(|sample| sample.memory);
    let until = start.nanos + (flags.seconds * 1e9) as u64;
    let mut sent = 0u64;
    loop {
        let now = stage.clock.now();
        if now >= until {
            break;
        }
        let due = |sent: u64| {
            start.nanos + (u128::from(sent) * u128::from(interval_nanos) / connections as u128) as u64
        };
        while due(sent) <= now {
            let id = (sent % connections as u64) as usize;
            idle.ping(id, due(sent));
            stage.net.send(id, wire::put_pingreq);
            sent += 1;
        }
        wait(&mut stage, &mut idle, due(sent).min(until))?;
    }
    let end = Moment::now(&stage)?;
    // The last answers: as long as a broker that is alive can take.
    let patience = end.nanos + 5_000_000_000;
    while idle.waiting > 0 && stage.clock.now() < patience {
        wait(&mut stage, &mut idle, patience)?;
    }
    idle.faults.unanswered += idle.waiting;
    let held = stage.memory()?;
    let open = (0..connections).filter(|&id| stage.net.is_open(id)).count();
    for id in 0..connections {
        stage.net.send(id, wire::put_disconnect);
        stage.net.close(id);
    }
    std::thread::sleep(Duration::from_secs(1));
    let left = stage.memory()?;

    let settings = vec![
        ("connections", connections.to_string()),
        ("ping-interval", flags.ping_interval.to_string()),
        ("keep-alive", flags.keep_alive.to_string()),
        ("subscribe", flags.subscribe.to_string()),
        ("seconds", flags.seconds.to_string()),
    ];
    let mut report = Report::new("idle", [settings, flags.common.settings()].concat());
    if let (Some(before), Some(connected), Some(held), Some(left)) = (stage.before, connected, held, left) {
        let each = |memory: u64, before: u64| (memory as f64 - before as f64) / connections as f64;
        let resident = each(held.resident, before.resident);
        report.figure(
            "resident_per_connection_bytes",
            "broker memory, resident",
            resident,
            "bytes per connection",
            0,
        );
        let anonymous = each(held.anonymous, before.anonymous);
        report.figure(
            "anonymous_per_connection_bytes",
            "  of it anonymous",
            anonymous,
            "bytes per connection",
            0,
        );
        report.broker_memory(&[
            ("broker_memory_before_kib", "broker memory, before", before),
            ("broker_memory_connected_kib", "  all connected", connected),
            ("broker_memory_held_kib", "  after the pings", held),
            ("broker_memory_left_kib", "  all disconnected", left),
        ]);
    }
    report.figure("connections", "connections held", open as f64, "at the end", 0);
    report.figure("join_per_second", "connecting", connections as f64 / join_seconds, "connections/s", 0);
    end.report(&start, sent, "us per ping", &mut report);
    report.handshakes(stage.net.handshakes());
    if idle.latency.is_empty() {
        report.notes.push("no ping was answered: the run was shorter than its schedule".to_owned());
    } else {
        report.latency = Some(("scheduled PINGREQ to PINGRESP", idle.latency));
    }
    report.course("pings answered", stage.progress.timeline());
    report.faults = idle.faults;
    report.details = idle.details;
    Ok(report)
}

fn wait(stage: &mut Stage, idle: &mut Pings, until: u64) -> Result<(), String> {
    let now = stage.wait(idle, until)?;
    stage.progress.turn(now, idle.answered, || {
        let (answered, waiting) = (idle.answered, idle.waiting);
        format!("idle: {answered} pings answered, {waiting} waited for, {} faults", idle.faults.total())
    });
    Ok(())
}

struct Devices {
    identity: Identity,
    subscribe: bool,
}

impl Roster for Devices {
    fn connect(&self, id: usize, out: &mut Vec<u8>) {
        self.identity.put_connect(out, &format!("i{id}"));
    }

    fn filters(&self, id: usize, from: usize) -> Vec<String> {
        if self.subscribe && from == 0 {
            vec![format!("lt/{}/command/{id}", self.identity.prefix)]
        } else {
            Vec::new()
        }
    }

    fn subscribe_qos(&self) -> u8 {
        1
    }
}

struct Pings {
    devices: Devices,
    fleet: Fleet,
    /// When the ping that waits for its answer was due; `NOTHING` if none does.
    due: Vec<u64>,
    waiting: u64,
    answered: u64,
    latency: Histogram<u64>,
    faults: Faults,
    details: Vec<String>,
}

const NOTHING: u64 = u64::MAX;

impl Pings {
    fn new(devices: Devices, connections: usize) -> Pings {
        Pings {
            fleet: Fleet::new(devices.identity.version, connections),
            devices,
            due: vec![NOTHING; connections],
            waiting: 0,
            answered: 0,
            latency: histogram(),
            faults: Faults::default(),
            details: Vec::new(),
        }
    }

    /// Counts a ping that is about to be sent; one that is still waited for will not come.
    fn ping(&mut self, id: usize, due: u64) {
        if !self.fleet.is_ready(id) {
            return;
        }
        if std::mem::replace(&mut self.due[id], due) == NOTHING {
            self.waiting += 1;
        } else {
            self.faults.unanswered += 1;
        }
    }
}

impl Handler for Pings {
    fn connected(&mut self, id: usize, out: &mut Vec<u8>) {
        self.devices.connect(id, out);
    }

    fn packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) -> Next {
        if self.fleet.offer(id, packet, out, &self.devices, &mut None) != Offered::NotMine {
            return Next::Continue;
        }
        let due = std::mem::replace(&mut self.due[id], NOTHING);
        if packet.kind() == wire::PINGRESP && packet.body.is_empty() && due != NOTHING {
            self.waiting -= 1;
            self.answered += 1;
            self.latency.saturating_record(now.saturating_sub(due));
        } else {
            self.due[id] = due;
            self.faults.protocol += 1;
            detail(&mut self.details, || {
                format!("connection {id}: packet of type {} unasked for", packet.kind())
            });
        }
        Next::Continue
    }

    fn writable(&mut self, _: usize) {}

    fn closed(&mut self, id: usize, why: Closed) {
        if self.fleet.closed(id, &why) {
            count_closed(&mut self.faults, &mut self.details, id, &why);
        }
        if std::mem::replace(&mut self.due[id], NOTHING) != NOTHING {
            self.waiting -= 1;
        }
    }
}

impl Joins for Pings {
    fn fleet(&mut self) -> &mut Fleet {
        &mut self.fleet
    }
}
