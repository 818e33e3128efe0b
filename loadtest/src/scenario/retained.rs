//! `retained`: stores many retained messages. Then subscribers connect one after the other, and
//! each waits for all messages. Finally the messages are cleared, and one more subscriber verifies
//! this.

use hdrhistogram::Histogram;

use super::{Runner, Snapshot, Stall, memory_each};
use crate::bulk_publisher::BulkPublisher;
use crate::codec::{self, Packet, Publish, PublishHead, Version};
use crate::connector::{
    ClientSpec, Connector, Handled, HasConnector, Identity, connect_clients, count_closed, detail,
};
use crate::flags::Retained;
use crate::inbox::Inbox;
use crate::net::{Closed, Handler, Next};
use crate::payload::{self, Stamp};
use crate::report::{Report, histogram};
use crate::verify::{Arrival, Faults, Stream};

/// Time in which the broker completes its work and unexpected messages arrive, in seconds.
const SETTLE_SECONDS: f64 = 0.3;

pub(super) fn run(flags: &Retained) -> Result<Report, String> {
    let mut runner = Runner::new(&flags.common, flags.subscribers as usize + 2, 0, 0)?;
    let mut clients = RetainedClients::new(&runner, flags);
    connect(&mut runner, &mut clients, flags, 0)?;
    let settings = vec![
        ("messages", flags.messages.to_string()),
        ("subscribers", flags.subscribers.to_string()),
        ("qos", flags.qos.to_string()),
        ("payload", flags.payload.to_string()),
        ("window", flags.window.to_string()),
    ];
    let mut report = Report::new("retained", [settings, flags.common.settings()].concat());

    let empty = Snapshot::now(&runner)?;
    publish_all(&mut runner, &mut clients, flags, Job::Store)?;
    let stored = Snapshot::now(&runner)?;
    runner.serve_for(&mut clients, SETTLE_SECONDS)?;
    let memory = runner.memory()?;

    let start = Snapshot::now(&runner)?;
    let mut replay_nanos = 0;
    for reader in 1..=flags.subscribers as usize {
        connect(&mut runner, &mut clients, flags, reader)?;
        replay_nanos += read_all(&mut runner, &mut clients, flags, reader)?;
    }
    let end = Snapshot::now(&runner)?;

    end.report(&start, clients.delivered, "us per delivery", &mut report);
    let messages = f64::from(flags.messages);
    let store_seconds = (stored.nanos - empty.nanos) as f64 / 1e9;
    report.figure("stored_per_second", "stored", messages / store_seconds, "messages/s", 0);
    if let (Some(before), Some(after)) = (&empty.broker, &stored.broker) {
        let micros = after.since(before).total_seconds * 1e6 / messages;
        report.figure("store_cpu_us", "  broker CPU", micros, "us per message", 3);
    }
    let grown = (empty.broker.map(|sample| sample.memory), memory);
    memory_each(
        &mut report,
        "retained_bytes",
        "  broker memory",
        "bytes per message",
        grown,
        flags.messages.into(),
    );
    let rate = clients.delivered as f64 * 1e9 / replay_nanos.max(1) as f64;
    report.figure("delivered_per_second", "delivered", rate, "messages/s, while waited for", 0);
    report.figure("delivered", "delivered and verified", clients.delivered as f64, "messages in all", 0);
    if flags.keep {
        report.notes.push(format!("the messages remain in the broker, below {}", clients.spec.prefix));
    } else {
        clear(&mut runner, &mut clients, flags)?;
    }
    runner.net.send(0, codec::put_disconnect);
    runner.net.close(0);
    runner.serve_for(&mut clients, SETTLE_SECONDS)?;
    report.handshakes(runner.net.handshakes());
    if let (Some(before), Some(stored), Some(left)) = (runner.before, memory, runner.memory()?) {
        report.broker_memory(&[
            ("broker_memory_before_kib", "broker memory, before", before),
            ("broker_memory_stored_kib", "  all stored", stored),
            ("broker_memory_left_kib", "  at the end", left),
        ]);
    }
    if clients.replay_latency.is_empty() {
        report.notes.push("no subscriber received all messages".to_owned());
    } else {
        report.latency = Some(("SUBSCRIBE to the last retained message", clients.replay_latency));
    }
    report.faults = clients.faults;
    report.details = clients.details;
    Ok(report)
}

fn connect(
    runner: &mut Runner,
    clients: &mut RetainedClients,
    flags: &Retained,
    id: usize,
) -> Result<(), String> {
    connect_clients(
        &mut runner.net,
        clients,
        id..id + 1,
        flags.common.connecting,
        runner.clock,
        &mut runner.progress,
    )
}

/// Publishes one message to each topic, and waits until all are acknowledged.
fn publish_all(
    runner: &mut Runner,
    clients: &mut RetainedClients,
    flags: &Retained,
    job: Job,
) -> Result<(), String> {
    // At QoS 0 there would be no sign that clearing is complete.
    let qos = if job == Job::Clear { flags.qos.max(1) } else { flags.qos };
    let mut publisher = BulkPublisher::new(0, qos, usize::from(flags.window.min(clients.receive_maximum)));
    publisher.allow(flags.messages.into());
    let mut stall = Stall::new(runner.clock.now(), flags.stall);
    clients.publisher = Some(publisher);
    loop {
        let (version, now) = (clients.version, runner.clock.now());
        let (spec, run) = (&clients.spec, clients.run);
        let publisher = clients.publisher.as_mut().expect("set above, and taken only after this loop");
        publisher.pump(&mut runner.net, |number, id, out| {
            let topic = spec.topic(number);
            let payload_len = if job == Job::Clear { 0 } else { flags.payload };
            let topic = topic.as_bytes();
            let head = PublishHead { topic, qos, dup: false, retain: true, id, payload_len };
            codec::put_publish(out, version, &head);
            if job == Job::Store {
                let stamp = Stamp { run, publisher: 0, stream: number as u32, sequence: 0, sent_nanos: now };
                payload::put(out, topic, payload_len, &stamp);
            }
        });
        let (sent, waiting) = (publisher.sent, publisher.in_flight());
        if publisher.is_done(&runner.net) || stall.is_over(now, 2 * sent - waiting) {
            clients.faults.unanswered += waiting;
            // A message that the broker refused is not lost.
            clients.refused += publisher.refused;
            break;
        }
        runner.wait(clients, u64::MAX)?;
        runner.progress.print_line(now, || format!("{job:?}: {sent} sent"));
    }
    // At QoS 0, the answer to a PINGREQ shows that the broker has read everything before it.
    clients.pingresps = 0;
    runner.net.send(0, codec::put_pingreq);
    let deadline = runner.clock.now() + super::nanos(flags.stall);
    while clients.pingresps == 0 && runner.clock.now() < deadline {
        runner.wait(clients, deadline)?;
    }
    clients.faults.unanswered += u64::from(clients.pingresps == 0);
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Store,
    Clear,
}

/// Subscribes a reader and waits for all messages. Returns the time that it took, in nanoseconds.
fn read_all(
    runner: &mut Runner,
    clients: &mut RetainedClients,
    flags: &Retained,
    reader: usize,
) -> Result<u64, String> {
    clients.start_reader(reader);
    let started = runner.clock.now();
    let filter = format!("{}/#", clients.spec.prefix);
    let (version, qos) = (clients.version, flags.qos);
    runner.net.send(reader, |out| codec::put_subscribe(out, version, 1, [filter.as_str()].into_iter(), qos));
    let mut stall = Stall::new(started, flags.stall);
    loop {
        let now = runner.clock.now();
        let waiting = clients.inbox.unreleased();
        let is_done = clients.received == flags.messages && clients.granted && waiting == 0;
        // Each message is progress when it arrives and, at QoS 2, when it is released.
        let is_over = stall.is_over(now, 2 * u64::from(clients.received) - waiting);
        if is_done || is_over || !runner.net.is_open(reader) {
            break;
        }
        runner.wait(clients, u64::MAX)?;
        runner.progress.print_line(now, || format!("subscriber {reader} has {}", clients.received));
    }
    let last = clients.last_nanos.max(started);
    if clients.received == flags.messages {
        clients.replay_latency.saturating_record(last - started);
    }
    clients.faults.unanswered += runner.ping_all(clients, reader..reader + 1, flags.stall)?;
    clients.finish_reader(reader, flags.messages);
    disconnect(runner, clients, reader);
    Ok(last - started)
}

fn clear(runner: &mut Runner, clients: &mut RetainedClients, flags: &Retained) -> Result<(), String> {
    publish_all(runner, clients, flags, Job::Clear)?;
    runner.serve_for(clients, SETTLE_SECONDS)?;
    let checker = flags.subscribers as usize + 1;
    connect(runner, clients, flags, checker)?;
    clients.start_reader(checker);
    clients.cleared = true;
    let filter = format!("{}/#", clients.spec.prefix);
    let (version, qos) = (clients.version, flags.qos);
    runner.net.send(checker, |out| codec::put_subscribe(out, version, 1, [filter.as_str()].into_iter(), qos));
    clients.faults.unanswered += runner.ping_all(clients, checker..checker + 1, flags.stall)?;
    disconnect(runner, clients, checker);
    Ok(())
}

fn disconnect(runner: &mut Runner, clients: &mut RetainedClients, id: usize) {
    if runner.net.is_open(id) {
        runner.net.send(id, codec::put_disconnect);
        runner.net.close(id);
        clients.connector.mark_down(id);
    }
}

/// Client 0 publishes. The others subscribe after their handshake, because the SUBSCRIBE is timed.
struct RetainedSpec {
    identity: Identity,
    prefix: String,
}

impl RetainedSpec {
    fn topic(&self, number: u64) -> String {
        // A hundred topics per level, like a tree of devices and their properties.
        format!("{}/{}/{}", self.prefix, number / 100, number % 100)
    }
}

impl ClientSpec for RetainedSpec {
    fn connect(&self, id: usize, out: &mut Vec<u8>) {
        self.identity.put_connect(out, &format!("r{id}"));
    }

    fn filters(&self, _: usize, _: usize) -> Vec<String> {
        Vec::new()
    }

    fn subscribe_qos(&self) -> u8 {
        0
    }
}

struct RetainedClients {
    version: Version,
    run: u32,
    qos: u8,
    spec: RetainedSpec,
    connector: Connector,
    publisher: Option<BulkPublisher>,
    receive_maximum: u16,
    pingresps: u32,
    /// Messages that the broker refused to store.
    refused: u64,
    /// The current reader.
    reader: usize,
    inbox: Inbox,
    granted: bool,
    /// All messages were cleared, so every message is a fault.
    cleared: bool,
    /// One stream per message.
    seen: Vec<Stream>,
    received: u32,
    last_nanos: u64,
    delivered: u64,
    replay_latency: Histogram<u64>,
    faults: Faults,
    details: Vec<String>,
}

impl RetainedClients {
    fn new(runner: &Runner, flags: &Retained) -> RetainedClients {
        let identity = runner.identity.clone();
        RetainedClients {
            version: identity.version,
            run: runner.run,
            qos: flags.qos,
            connector: Connector::new(identity.version, flags.subscribers as usize + 2),
            spec: RetainedSpec { identity, prefix: format!("lt/{:08x}/retained", runner.run) },
            publisher: None,
            receive_maximum: u16::MAX,
            pingresps: 0,
            refused: 0,
            reader: 0,
            inbox: Inbox::default(),
            granted: false,
            cleared: false,
            seen: vec![Stream::default(); flags.messages as usize],
            received: 0,
            last_nanos: 0,
            delivered: 0,
            replay_latency: histogram(),
            faults: Faults::default(),
            details: Vec::new(),
        }
    }

    fn start_reader(&mut self, reader: usize) {
        self.reader = reader;
        self.inbox = Inbox::default();
        self.granted = false;
        self.seen.fill(Stream::default());
        (self.received, self.last_nanos) = (0, 0);
    }

    /// Counts what a reader did not get.
    fn finish_reader(&mut self, reader: usize, messages: u32) {
        let lost = u64::from(messages - self.received).saturating_sub(self.refused);
        self.faults.lost += lost;
        if lost > 0 {
            let first = self.seen.iter().position(|stream| stream.missing(1) > 0).unwrap_or(0);
            detail(&mut self.details, || {
                format!("subscriber {reader} misses {lost} messages; the first is number {first}")
            });
        }
        self.faults.unanswered += self.inbox.unreleased() + u64::from(!self.granted);
    }

    fn handle_publish(&mut self, id: usize, now: u64, publish: &Publish<'_>, out: &mut Vec<u8>) {
        if !self.inbox.receive(publish, out) {
            self.faults.duplicate += 1;
            return;
        }
        if self.cleared {
            self.faults.duplicate += 1;
            return detail(&mut self.details, || {
                "a retained message arrived after it was cleared".to_owned()
            });
        }
        let stamp = payload::read(publish.payload, publish.topic).filter(|stamp| stamp.run == self.run);
        let Some(stream) = stamp.and_then(|stamp| self.seen.get_mut(stamp.stream as usize)) else {
            self.faults.corrupt += 1;
            return detail(&mut self.details, || format!("subscriber {id}: payload or topic was changed"));
        };
        if !matches!(stream.arrive(0), Arrival::First { .. }) {
            self.faults.duplicate += 1;
            return;
        }
        self.faults.qos += u64::from(publish.qos != self.qos);
        self.faults.retain_flag += u64::from(!publish.retain);
        self.faults.dup_flag += u64::from(publish.dup);
        self.received += 1;
        self.delivered += 1;
        self.last_nanos = now;
    }

    fn protocol_fault(&mut self, id: usize, why: &str) {
        self.faults.protocol += 1;
        detail(&mut self.details, || format!("client {id}: {why}"));
    }
}

impl Handler for RetainedClients {
    fn handle_connected(&mut self, id: usize, out: &mut Vec<u8>) {
        self.spec.connect(id, out);
    }

    fn handle_packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) -> Next {
        let mut accepted = None;
        if self.connector.handle_packet(id, packet, out, &self.spec, &mut accepted) != Handled::NotHandshake {
            if let (0, Some(connack)) = (id, accepted) {
                self.receive_maximum = connack.receive_maximum;
            }
            return Next::Continue;
        }
        match packet.kind() {
            codec::PUBLISH if id == self.reader && id > 0 => match codec::publish(self.version, packet) {
                Ok(publish) => self.handle_publish(id, now, &publish, out),
                Err(malformed) => self.protocol_fault(id, malformed.0),
            },
            codec::PUBREL if id > 0 => {
                if let Err(why) = self.inbox.release(packet, out) {
                    self.protocol_fault(id, why);
                }
            }
            codec::SUBACK if id > 0 => match codec::suback(self.version, packet) {
                Ok((_, &[code])) if code == self.qos => self.granted = true,
                _ => {
                    self.faults.refused += 1;
                    self.granted = true;
                    detail(&mut self.details, || format!("subscriber {id}: SUBSCRIBE was not granted"));
                }
            },
            codec::PINGRESP if id == 0 => self.pingresps += 1,
            codec::DISCONNECT => {
                let reason = packet.body.first().copied().unwrap_or(0);
                detail(&mut self.details, || format!("client {id}: DISCONNECT with reason {reason:#04x}"));
            }
            _ => {
                let (faults, details) = (&mut self.faults, &mut self.details);
                let publisher = self.publisher.as_mut().filter(|_| id == 0);
                if !publisher.is_some_and(|publisher| publisher.handle_ack(packet, out, faults, details)) {
                    self.protocol_fault(id, "unexpected packet");
                }
            }
        }
        Next::Continue
    }

    fn handle_writable(&mut self, _: usize) {}

    fn handle_closed(&mut self, id: usize, why: Closed) {
        if self.connector.handle_closed(id, &why) {
            count_closed(&mut self.faults, &mut self.details, id, &why);
        }
    }
}

impl HasConnector for RetainedClients {
    fn connector(&mut self) -> &mut Connector {
        &mut self.connector
    }
}
