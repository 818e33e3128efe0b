//! `offline`: sessions subscribe and disconnect; messages are queued for them; they reconnect and
//! catch up. Then they reconnect once more, to verify that acknowledged messages do not come again.

use hdrhistogram::Histogram;

use super::{Runner, Snapshot, Stall, memory_each};
use crate::bulk_publisher::BulkPublisher;
use crate::codec::{self, Packet, Publish, PublishHead, Version};
use crate::connector::{
    ClientSpec, Connector, Handled, HasConnector, Identity, connect_clients, count_closed, detail,
};
use crate::flags::Offline;
use crate::inbox::Inbox;
use crate::net::{Clock, Closed, Handler, Next};
use crate::payload::{self, Stamp};
use crate::report::{Report, histogram};
use crate::verify::{Arrival, Faults, Stream};

/// Time in which the broker notices the end of a connection and unexpected messages arrive, in
/// seconds.
const SETTLE_SECONDS: f64 = 0.3;

pub(super) fn run(flags: &Offline) -> Result<Report, String> {
    let sessions = flags.sessions as usize;
    let mut runner = Runner::new(&flags.common, sessions + 1, 0, 0)?;
    let mut clients = OfflineClients::new(&runner, flags);
    let all_sessions = 0..sessions;
    connect(&mut runner, &mut clients, flags, all_sessions.clone(), ConnectRound::Subscribe)?;
    disconnect(&mut runner, &mut clients, all_sessions.clone())?;

    connect(&mut runner, &mut clients, flags, sessions..sessions + 1, ConnectRound::Subscribe)?;
    let empty = Snapshot::now(&runner)?;
    publish_all(&mut runner, &mut clients, flags)?;
    let filled = Snapshot::now(&runner)?;

    let start = Snapshot::now(&runner)?;
    connect(&mut runner, &mut clients, flags, all_sessions.clone(), ConnectRound::CatchUp)?;
    let mut stall = Stall::new(runner.clock.now(), flags.stall);
    loop {
        // If a session disconnected before its QoS 2 messages were released, it would legally get
        // them again.
        let waiting: u64 = clients.sessions.iter().map(|session| session.inbox.unreleased()).sum();
        let is_over = stall.is_over(runner.clock.now(), 2 * clients.delivered - waiting);
        if is_over || clients.caught_up == sessions && waiting == 0 {
            break;
        }
        let now = runner.wait(&mut clients, u64::MAX)?;
        runner
            .progress
            .update(now, clients.delivered, || format!("catching up: {} delivered", clients.delivered));
    }
    let end = Snapshot::now(&runner)?;
    clients.faults.unanswered += runner.ping_all(&mut clients, all_sessions.clone(), flags.stall)?;
    disconnect(&mut runner, &mut clients, all_sessions.clone())?;

    connect(&mut runner, &mut clients, flags, all_sessions.clone(), ConnectRound::Verify)?;
    clients.faults.unanswered += runner.ping_all(&mut clients, all_sessions.clone(), flags.stall)?;
    disconnect(&mut runner, &mut clients, all_sessions.clone())?;
    clients.count_missing(flags);
    connect(&mut runner, &mut clients, flags, all_sessions.clone(), ConnectRound::EndSession)?;
    disconnect(&mut runner, &mut clients, 0..sessions + 1)?;
    let left = runner.memory()?;

    let settings = vec![
        ("sessions", flags.sessions.to_string()),
        ("messages", flags.messages.to_string()),
        ("qos", flags.qos.to_string()),
        ("payload", flags.payload.to_string()),
        ("window", flags.window.to_string()),
    ];
    let mut report = Report::new("offline", [settings, flags.common.settings()].concat());
    end.report(&start, clients.delivered, "us per delivery", &mut report);
    let queued = u64::from(flags.sessions) * u64::from(flags.messages);
    let seconds = (filled.nanos - empty.nanos) as f64 / 1e9;
    report.figure("queued_per_second", "queued while offline", queued as f64 / seconds, "messages/s", 0);
    if let (Some(before), Some(after)) = (&empty.broker, &filled.broker) {
        let micros = after.since(before).total_seconds * 1e6 / queued as f64;
        report.figure("queue_cpu_us", "  broker CPU", micros, "us per message", 3);
    }
    let [empty, filled] = [empty, filled].map(|moment| moment.broker.map(|sample| sample.memory));
    memory_each(&mut report, "queued_bytes", "  broker memory", "bytes per message", (empty, filled), queued);
    let caught_up =
        clients.delivered as f64 * 1e9 / (clients.last_nanos.max(start.nanos + 1) - start.nanos) as f64;
    report.figure("delivered_per_second", "delivered after reconnect", caught_up, "messages/s", 0);
    report.figure("delivered", "delivered and verified", clients.delivered as f64, "messages in all", 0);
    report.figure("queued_lost", "lost without a refusal", clients.faults.lost as f64, "messages", 0);
    report.figure("queued_refused", "refused by the broker", clients.refused as f64, "messages", 0);
    report.handshakes(runner.net.handshakes());
    if let (Some(before), Some(filled), Some(left)) = (runner.before, filled, left) {
        report.broker_memory(&[
            ("broker_memory_before_kib", "broker memory, before", before),
            ("broker_memory_filled_kib", "  all queued", filled),
            ("broker_memory_left_kib", "  all sessions ended", left),
        ]);
    }
    if clients.faults.lost + clients.refused > 0 {
        report.notes.push(format!(
            "the broker kept {} of {} messages for each session on average: see its limit on queued messages",
            clients.delivered / u64::from(flags.sessions),
            flags.messages
        ));
    }
    if clients.latency.is_empty() {
        report.notes.push("no session received a message".to_owned());
    } else {
        report.latency = Some(("CONNECT to the last message of a session", clients.latency));
    }
    report.timeline("deliveries", runner.progress.timeline());
    report.faults = clients.faults;
    report.details = clients.details;
    Ok(report)
}

fn connect(
    runner: &mut Runner,
    clients: &mut OfflineClients,
    flags: &Offline,
    ids: std::ops::Range<usize>,
    round: ConnectRound,
) -> Result<(), String> {
    clients.spec.round = round;
    connect_clients(
        &mut runner.net,
        clients,
        ids,
        flags.common.connecting,
        runner.clock,
        &mut runner.progress,
    )
}

/// Disconnects clients, and gives the broker time to notice it.
fn disconnect(
    runner: &mut Runner,
    clients: &mut OfflineClients,
    ids: std::ops::Range<usize>,
) -> Result<(), String> {
    for id in ids {
        if runner.net.is_open(id) {
            runner.net.send(id, codec::put_disconnect);
            runner.net.close(id);
            clients.connector.mark_down(id);
        }
    }
    runner.serve_for(clients, SETTLE_SECONDS)
}

/// Publishes all messages, to the sessions in turn, and waits until they are acknowledged.
fn publish_all(runner: &mut Runner, clients: &mut OfflineClients, flags: &Offline) -> Result<(), String> {
    let sessions = u64::from(flags.sessions);
    let mut stall = Stall::new(runner.clock.now(), flags.stall);
    clients.publisher.allow(sessions * u64::from(flags.messages));
    loop {
        let now = runner.clock.now();
        let (run, spec) = (clients.run, &clients.spec);
        clients.publisher.pump(&mut runner.net, |number, id, out| {
            let (session, sequence) = ((number % sessions) as u32, (number / sessions) as u32);
            let (topic, payload_len) = (spec.topic(session as usize), flags.payload);
            let topic = topic.as_bytes();
            let head = PublishHead { topic, qos: flags.qos, dup: false, retain: false, id, payload_len };
            codec::put_publish(out, spec.identity.version, &head);
            let stamp = Stamp { run, publisher: 0, stream: session, sequence, sent_nanos: now };
            payload::put(out, topic, payload_len, &stamp);
        });
        let (sent, waiting) = (clients.publisher.sent, clients.publisher.in_flight());
        if clients.publisher.is_done(&runner.net) {
            break;
        }
        if stall.is_over(now, 2 * sent - waiting) {
            clients.faults.unanswered += waiting;
            detail(&mut clients.details, || format!("publisher waits for {waiting} acknowledgements"));
            break;
        }
        runner.wait(clients, u64::MAX)?;
        runner.progress.print_line(now, || format!("queueing: {sent} sent"));
    }
    clients.refused = clients.publisher.refused;
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectRound {
    /// The clients subscribe.
    Subscribe,
    /// The clients get the queued messages.
    CatchUp,
    /// The clients get nothing.
    Verify,
    /// The clients end their sessions.
    EndSession,
}

/// The sessions, followed by the publisher.
struct OfflineSpec {
    identity: Identity,
    prefix: String,
    qos: u8,
    count: usize,
    round: ConnectRound,
}

impl OfflineSpec {
    fn topic(&self, session: usize) -> String {
        format!("{}/{session}", self.prefix)
    }
}

impl ClientSpec for OfflineSpec {
    fn connect(&self, id: usize, out: &mut Vec<u8>) {
        let name = format!("o{id}");
        if id == self.count || self.round == ConnectRound::EndSession {
            self.identity.put_connect(out, &name);
        } else {
            self.identity.put_resume(out, &name, None);
        }
    }

    fn filters(&self, id: usize, from: usize) -> Vec<String> {
        let subscribes = id < self.count && from == 0 && self.round == ConnectRound::Subscribe;
        if subscribes { vec![self.topic(id)] } else { Vec::new() }
    }

    fn subscribe_qos(&self) -> u8 {
        self.qos
    }
}

struct OfflineClients {
    run: u32,
    version: Version,
    clock: Clock,
    messages: u32,
    spec: OfflineSpec,
    connector: Connector,
    publisher: BulkPublisher,
    refused: u64,
    sessions: Vec<Session>,
    caught_up: usize,
    delivered: u64,
    last_nanos: u64,
    latency: Histogram<u64>,
    faults: Faults,
    details: Vec<String>,
}

#[derive(Default)]
struct Session {
    inbox: Inbox,
    stream: Stream,
    /// When its last CONNECT was sent.
    connect_nanos: u64,
    /// When its last message arrived.
    last_nanos: u64,
    /// Number of messages that arrived.
    received: u32,
}

impl OfflineClients {
    fn new(runner: &Runner, flags: &Offline) -> OfflineClients {
        let (identity, count) = (runner.identity.clone(), flags.sessions as usize);
        OfflineClients {
            run: runner.run,
            version: identity.version,
            clock: runner.clock,
            messages: flags.messages,
            connector: Connector::new(identity.version, count + 1),
            spec: OfflineSpec {
                identity,
                prefix: format!("lt/{:08x}/offline", runner.run),
                qos: flags.qos,
                count,
                round: ConnectRound::Subscribe,
            },
            publisher: BulkPublisher::new(count, flags.qos, usize::from(flags.window)),
            refused: 0,
            sessions: (0..count).map(|_| Session::default()).collect(),
            caught_up: 0,
            delivered: 0,
            last_nanos: 0,
            latency: histogram(),
            faults: Faults::default(),
            details: Vec::new(),
        }
    }

    /// Counts what is missing, and records the time of each session.
    fn count_missing(&mut self, flags: &Offline) {
        let mut missing = 0;
        for (at, session) in self.sessions.iter().enumerate() {
            let lost = session.stream.missing(flags.messages);
            missing += lost;
            if let Some((first, run)) = session.stream.first_missing(flags.messages) {
                let newest = first + run == flags.messages;
                let which = if newest { ", the newest" } else { "" };
                let of = flags.messages;
                detail(&mut self.details, || {
                    format!(
                        "session {at} misses {lost} of {of} messages: first {run} from number {first}{which}"
                    )
                });
            }
            self.faults.unanswered += session.inbox.unreleased();
            if session.received > 0 {
                self.latency.saturating_record(session.last_nanos - session.connect_nanos);
            }
        }
        // A refused message is not lost, because the publisher knows about it.
        self.faults.lost += missing.saturating_sub(self.refused);
    }

    fn check_session_present(&mut self, id: usize, session_present: bool) {
        if id == self.spec.count {
            return;
        }
        let expected = matches!(self.spec.round, ConnectRound::CatchUp | ConnectRound::Verify);
        if session_present != expected {
            self.protocol_fault(
                id,
                if expected { "the session is not present" } else { "Session Present on a new session" },
            );
        }
    }

    fn handle_publish(&mut self, id: usize, now: u64, publish: &Publish<'_>, out: &mut Vec<u8>) {
        let session = &mut self.sessions[id];
        if !session.inbox.receive(publish, out) {
            self.faults.duplicate += 1;
            return;
        }
        let stamp = payload::read(publish.payload, publish.topic).filter(|stamp| stamp.run == self.run);
        let Some(stamp) = stamp else {
            self.faults.corrupt += 1;
            return detail(&mut self.details, || format!("session {id}: payload or topic was changed"));
        };
        if stamp.stream as usize != id {
            self.faults.misrouted += 1;
            return;
        }
        match session.stream.arrive(stamp.sequence) {
            Arrival::First { .. } => {}
            Arrival::Late => self.faults.reordered += 1,
            // Every acknowledgement reached the broker before the connection ended.
            Arrival::Duplicate => {
                self.faults.duplicate += 1;
                return detail(&mut self.details, || {
                    format!(
                        "session {id}: message {} arrived again after it was acknowledged",
                        stamp.sequence
                    )
                });
            }
        }
        // The message was never sent to this session before, so it must not have DUP.
        self.faults.dup_flag += u64::from(publish.dup);
        self.faults.retain_flag += u64::from(publish.retain);
        self.faults.qos += u64::from(publish.qos != self.spec.qos);
        self.delivered += 1;
        session.received += 1;
        session.last_nanos = now;
        self.last_nanos = now;
        self.caught_up += usize::from(session.received == self.messages);
    }

    fn protocol_fault(&mut self, id: usize, why: &str) {
        self.faults.protocol += 1;
        detail(&mut self.details, || format!("client {id}: {why}"));
    }
}

impl Handler for OfflineClients {
    fn handle_connected(&mut self, id: usize, out: &mut Vec<u8>) {
        if let (ConnectRound::CatchUp, Some(session)) = (self.spec.round, self.sessions.get_mut(id)) {
            session.connect_nanos = self.clock.now();
        }
        self.spec.connect(id, out);
    }

    fn handle_packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) -> Next {
        let mut accepted = None;
        let handled = self.connector.handle_packet(id, packet, out, &self.spec, &mut accepted);
        if let Some(connack) = accepted {
            self.check_session_present(id, connack.session_present);
            if id == self.spec.count {
                self.publisher.set_receive_maximum(connack.receive_maximum);
            }
        }
        if handled != Handled::NotHandshake {
            return Next::Continue;
        }
        if id == self.spec.count {
            if !self.publisher.handle_ack(packet, out, &mut self.faults, &mut self.details) {
                self.protocol_fault(id, "unexpected packet");
            }
            return Next::Continue;
        }
        match packet.kind() {
            codec::PUBLISH => match codec::publish(self.version, packet) {
                Ok(publish) => self.handle_publish(id, now, &publish, out),
                Err(malformed) => self.protocol_fault(id, malformed.0),
            },
            codec::PUBREL => {
                if let Err(why) = self.sessions[id].inbox.release(packet, out) {
                    self.protocol_fault(id, why);
                }
            }
            _ => self.protocol_fault(id, "unexpected packet"),
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

impl HasConnector for OfflineClients {
    fn connector(&mut self) -> &mut Connector {
        &mut self.connector
    }
}
