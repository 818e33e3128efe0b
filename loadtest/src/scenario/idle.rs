//! `idle`: many connections that only ping. Measures the cost of each for the broker.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Runner, Snapshot};
use crate::cli::Idle;
use crate::codec::{self, Packet};
use crate::connector::{
    ClientSpec, Connector, Handled, HasConnector, Identity, connect_clients, count_closed, detail,
};
use crate::net::{Closed, Handler, Next};
use crate::report::{Report, histogram};
use crate::verify::Faults;

pub(super) fn run(flags: &Idle) -> Result<Report, String> {
    let connections = flags.connections as usize;
    let mut runner = Runner::new(&flags.common, connections, 0, flags.keep_alive)?;
    let spec = IdleSpec { identity: runner.identity.clone(), subscribe: flags.subscribe };
    let mut clients = IdleClients::new(spec, connections);
    let connect_started = runner.clock.now();
    connect_clients(
        &mut runner.net,
        &mut clients,
        0..connections,
        flags.common.connecting,
        runner.clock,
        &mut runner.progress,
    )?;
    let connect_seconds = (runner.clock.now() - connect_started) as f64 / 1e9;

    let interval_nanos = (flags.ping_interval * 1e9) as u64;
    let start = Snapshot::now(&runner)?;
    let connected = start.broker.as_ref().map(|sample| sample.memory);
    let until = start.nanos + (flags.seconds * 1e9) as u64;
    let mut sent = 0u64;
    loop {
        let now = runner.clock.now();
        if now >= until {
            break;
        }
        let due = |sent: u64| {
            start.nanos + (u128::from(sent) * u128::from(interval_nanos) / connections as u128) as u64
        };
        while due(sent) <= now {
            let id = (sent % connections as u64) as usize;
            clients.ping(id, due(sent));
            runner.net.send(id, codec::put_pingreq);
            sent += 1;
        }
        wait(&mut runner, &mut clients, due(sent).min(until))?;
    }
    let end = Snapshot::now(&runner)?;
    // Waits for the last answers, up to five seconds.
    let deadline = end.nanos + 5_000_000_000;
    while clients.waiting > 0 && runner.clock.now() < deadline {
        wait(&mut runner, &mut clients, deadline)?;
    }
    clients.faults.unanswered += clients.waiting;
    let idle_memory = runner.memory()?;
    let open = (0..connections).filter(|&id| runner.net.is_open(id)).count();
    for id in 0..connections {
        runner.net.send(id, codec::put_disconnect);
        runner.net.close(id);
    }
    std::thread::sleep(Duration::from_secs(1));
    let left = runner.memory()?;

    let settings = vec![
        ("connections", connections.to_string()),
        ("ping-interval", flags.ping_interval.to_string()),
        ("keep-alive", flags.keep_alive.to_string()),
        ("subscribe", flags.subscribe.to_string()),
        ("seconds", flags.seconds.to_string()),
    ];
    let mut report = Report::new("idle", [settings, flags.common.settings()].concat());
    if let (Some(before), Some(connected), Some(idle_memory), Some(left)) =
        (runner.before, connected, idle_memory, left)
    {
        let each = |memory: u64, before: u64| (memory as f64 - before as f64) / connections as f64;
        let resident = each(idle_memory.resident, before.resident);
        report.figure(
            "resident_per_connection_bytes",
            "broker memory, resident",
            resident,
            "bytes per connection",
            0,
        );
        let anonymous = each(idle_memory.anonymous, before.anonymous);
        report.figure("anonymous_per_connection_bytes", "  anonymous", anonymous, "bytes per connection", 0);
        report.broker_memory(&[
            ("broker_memory_before_kib", "broker memory, before", before),
            ("broker_memory_connected_kib", "  all connected", connected),
            ("broker_memory_held_kib", "  after the pings", idle_memory),
            ("broker_memory_left_kib", "  all disconnected", left),
        ]);
    }
    report.figure("connections", "connections kept open", open as f64, "at the end", 0);
    report.figure("join_per_second", "connecting", connections as f64 / connect_seconds, "connections/s", 0);
    end.report(&start, sent, "us per ping", &mut report);
    report.handshakes(runner.net.handshakes());
    if clients.latency.is_empty() {
        report.notes.push("no ping was answered: the run was shorter than its schedule".to_owned());
    } else {
        report.latency = Some(("scheduled PINGREQ to PINGRESP", clients.latency));
    }
    report.timeline("pings answered", runner.progress.timeline());
    report.faults = clients.faults;
    report.details = clients.details;
    Ok(report)
}

fn wait(runner: &mut Runner, clients: &mut IdleClients, until: u64) -> Result<(), String> {
    let now = runner.wait(clients, until)?;
    runner.progress.update(now, clients.answered, || {
        let (answered, waiting) = (clients.answered, clients.waiting);
        format!("idle: {answered} pings answered, {waiting} unanswered, {} faults", clients.faults.total())
    });
    Ok(())
}

struct IdleSpec {
    identity: Identity,
    subscribe: bool,
}

impl ClientSpec for IdleSpec {
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

struct IdleClients {
    spec: IdleSpec,
    connector: Connector,
    /// When the unanswered ping was due. `NO_PING` if there is none.
    due: Vec<u64>,
    waiting: u64,
    answered: u64,
    latency: Histogram<u64>,
    faults: Faults,
    details: Vec<String>,
}

const NO_PING: u64 = u64::MAX;

impl IdleClients {
    fn new(spec: IdleSpec, connections: usize) -> IdleClients {
        IdleClients {
            connector: Connector::new(spec.identity.version, connections),
            spec,
            due: vec![NO_PING; connections],
            waiting: 0,
            answered: 0,
            latency: histogram(),
            faults: Faults::default(),
            details: Vec::new(),
        }
    }

    /// Counts a ping before it is sent. An earlier unanswered ping counts as a fault.
    fn ping(&mut self, id: usize, due: u64) {
        if !self.connector.is_ready(id) {
            return;
        }
        if std::mem::replace(&mut self.due[id], due) == NO_PING {
            self.waiting += 1;
        } else {
            self.faults.unanswered += 1;
        }
    }
}

impl Handler for IdleClients {
    fn handle_connected(&mut self, id: usize, out: &mut Vec<u8>) {
        self.spec.connect(id, out);
    }

    fn handle_packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) -> Next {
        if self.connector.handle_packet(id, packet, out, &self.spec, &mut None) != Handled::NotHandshake {
            return Next::Continue;
        }
        let due = std::mem::replace(&mut self.due[id], NO_PING);
        if packet.kind() == codec::PINGRESP && packet.body.is_empty() && due != NO_PING {
            self.waiting -= 1;
            self.answered += 1;
            self.latency.saturating_record(now.saturating_sub(due));
        } else {
            self.due[id] = due;
            self.faults.protocol += 1;
            detail(&mut self.details, || {
                format!("connection {id}: unexpected packet of type {}", packet.kind())
            });
        }
        Next::Continue
    }

    fn handle_writable(&mut self, _: usize) {}

    fn handle_closed(&mut self, id: usize, why: Closed) {
        if self.connector.handle_closed(id, &why) {
            count_closed(&mut self.faults, &mut self.details, id, &why);
        }
        if std::mem::replace(&mut self.due[id], NO_PING) != NO_PING {
            self.waiting -= 1;
        }
    }
}

impl HasConnector for IdleClients {
    fn connector(&mut self) -> &mut Connector {
        &mut self.connector
    }
}
