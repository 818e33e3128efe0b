//! The clients of the fleet, and the checks of all messages that they receive. The clients are
//! numbered: backends, the command publisher, devices.

mod figures;

use std::collections::VecDeque;
use std::io;

use hdrhistogram::Histogram;

use super::device::{Device, DeviceState};
use super::spec::{COMMAND_PUBLISHER, FleetSpec, WILL_QOS};
use crate::bulk_publisher::BulkPublisher;
use crate::codec::{self, Connack, Packet, Publish, PublishHead};
use crate::connector::{ClientSpec, Connector, Handled, HasConnector, count_closed, detail};
use crate::flags::Mixed;
use crate::inbox::Inbox;
use crate::net::{Clock, Closed, Handler, Net, Next};
use crate::payload::{self, Stamp};
use crate::report::histogram;
use crate::scenario::Runner;
use crate::verify::{Arrival, Faults, Stream};

/// The devices, the backends and the command publisher.
pub(super) struct Fleet {
    /// The run is in progress. Before and after it, the connections are only open.
    pub(super) running: bool,
    /// CONNECT ends the sessions of the devices instead of resuming them.
    pub(super) end_sessions: bool,
    /// Devices whose connection the broker has closed after DISCONNECT, and which must reconnect.
    pub(super) disconnected: Vec<usize>,
    spec: FleetSpec,
    connector: Connector,
    clock: Clock,
    backends: Vec<Backend>,
    command_publisher: BulkPublisher,
    /// When the commands that are not sent yet were due.
    commands_due: VecDeque<u64>,
    commands_queued: u64,
    telemetry_due: u64,
    telemetry_sent: u64,
    disconnects: u64,
    telemetry: MessageStats,
    commands: MessageStats,
    wills: MessageStats,
    redelivered: u64,
    doubtful: u64,
    pub(super) faults: Faults,
    details: Vec<String>,
}

#[derive(Default)]
struct Backend {
    inbox: Inbox,
    /// One stream per device.
    telemetry: Vec<Stream>,
    wills: Vec<Stream>,
}

/// Messages of one kind that arrived, and their latency.
struct MessageStats {
    delivered: u64,
    latency: Histogram<u64>,
}

impl MessageStats {
    fn new() -> MessageStats {
        MessageStats { delivered: 0, latency: histogram() }
    }

    fn count(&mut self, took_nanos: u64) {
        self.delivered += 1;
        self.latency.saturating_record(took_nanos);
    }
}

/// Maximum number of unacknowledged commands.
const COMMANDS_IN_FLIGHT_MAX: usize = 4096;
/// A connection that the broker has not closed for this long after DISCONNECT counts as a fault.
const CLOSE_WAIT_NANOS_MAX: u64 = 5_000_000_000;

impl Fleet {
    pub(super) fn new(runner: &Runner, flags: &Mixed) -> Fleet {
        let (identity, count) = (runner.identity.clone(), flags.devices as usize);
        let backends = flags.backends as usize;
        let backend = || Backend {
            inbox: Inbox::default(),
            telemetry: vec![Stream::default(); count],
            wills: vec![Stream::default(); count],
        };
        Fleet {
            running: false,
            end_sessions: false,
            disconnected: Vec::new(),
            connector: Connector::new(identity.version, backends + 1 + count),
            spec: FleetSpec {
                identity,
                prefix: format!("lt/{:08x}", runner.run),
                run: runner.run,
                payload: flags.payload,
                command_qos: flags.command_qos,
                backends,
                devices: (0..flags.devices).map(|at| Device::new(flags.telemetry_qos.qos(at))).collect(),
                end_sessions: false,
            },
            clock: runner.clock,
            backends: (0..backends).map(|_| backend()).collect(),
            command_publisher: BulkPublisher::new(backends, flags.command_qos, COMMANDS_IN_FLIGHT_MAX),
            commands_due: VecDeque::new(),
            commands_queued: 0,
            telemetry_due: 0,
            telemetry_sent: 0,
            disconnects: 0,
            telemetry: MessageStats::new(),
            commands: MessageStats::new(),
            wills: MessageStats::new(),
            redelivered: 0,
            doubtful: 0,
            faults: Faults::default(),
            details: Vec::new(),
        }
    }

    pub(super) fn first_device(&self) -> usize {
        self.spec.backends + 1
    }

    pub(super) fn client_count(&self) -> usize {
        self.first_device() + self.spec.devices.len()
    }

    /// Number of deliveries of all kinds.
    pub(super) fn delivered(&self) -> u64 {
        self.telemetry.delivered + self.commands.delivered + self.wills.delivered
    }

    /// Grows whenever an expected event has happened.
    pub(super) fn progress(&self) -> u64 {
        self.delivered() + self.redelivered + self.command_publisher.sent
    }

    /// Sends the telemetry of a device that is due. Sends nothing while the device is away.
    pub(super) fn send_telemetry(&mut self, net: &mut Net, number: u32, due: u64) {
        self.telemetry_due += 1;
        let id = self.first_device() + number as usize;
        let device = &mut self.spec.devices[number as usize];
        if device.state != DeviceState::Up {
            return;
        }
        let (sequence, qos) = (device.sent, device.qos);
        let packet_id = if qos == 0 { Some(0) } else { device.add_pending(sequence, due) };
        let Some(packet_id) = packet_id else { return };
        device.sent += 1;
        self.telemetry_sent += 1;
        net.send(id, |out| self.spec.put_telemetry(out, number, (packet_id, sequence), due, false));
    }

    /// Queues a command that is due.
    pub(super) fn queue_command(&mut self, due: u64) {
        self.commands_due.push_back(due);
        self.commands_queued += 1;
        self.command_publisher.allow(self.commands_queued);
    }

    /// Sends the commands that are due, to all devices in turn, whether they are connected or not.
    pub(super) fn pump_commands(&mut self, net: &mut Net) {
        let (spec, commands_due) = (&self.spec, &mut self.commands_due);
        let devices = spec.devices.len() as u64;
        self.command_publisher.pump(net, |number, id, out| {
            let (device, sequence) = ((number % devices) as u32, (number / devices) as u32);
            let sent_nanos = commands_due.pop_front().expect("as many due times as messages were allowed");
            let topic = spec.command_topic(device);
            let (qos, payload_len) = (spec.command_qos, spec.payload);
            let head =
                PublishHead { topic: topic.as_bytes(), qos, dup: false, retain: false, id, payload_len };
            codec::put_publish(out, spec.identity.version, &head);
            let stamp =
                Stamp { run: spec.run, publisher: COMMAND_PUBLISHER, stream: device, sequence, sent_nanos };
            payload::put(out, topic.as_bytes(), payload_len, &stamp);
        });
    }

    /// Breaks the connection of a device. Returns whether it had one.
    pub(super) fn break_connection(&mut self, net: &mut Net, number: u32, now: u64) -> bool {
        let id = self.first_device() + number as usize;
        let device = &mut self.spec.devices[number as usize];
        if device.state != DeviceState::Up {
            return false;
        }
        if device.qos == 0 {
            let seen = self.backends.iter().map(|backend| backend.telemetry[number as usize].next());
            device.in_doubt.extend(seen.min().unwrap_or(0)..device.sent);
        }
        device.state = DeviceState::Away;
        device.breaks += 1;
        device.broke_nanos = now;
        net.abort(id);
        self.connector.mark_down(id);
        true
    }

    /// Ends the connection of a device with DISCONNECT. The broker closes it, because closing it
    /// here with unread bytes would be a reset, which loses telemetry in flight.
    pub(super) fn disconnect(&mut self, net: &mut Net, number: u32, now: u64) {
        let id = self.first_device() + number as usize;
        let device = &mut self.spec.devices[number as usize];
        if device.state == DeviceState::Up {
            device.state = DeviceState::Leaving { since: now };
            self.disconnects += 1;
            net.send(id, codec::put_disconnect);
        }
    }

    /// Connects a device again.
    pub(super) fn reconnect(&mut self, net: &mut Net, id: usize) -> io::Result<()> {
        self.connector.open(net, id)
    }

    /// The scenario has closed this client for good.
    pub(super) fn mark_closed(&mut self, id: usize) {
        self.connector.mark_down(id);
        if let Some(device) = self.device_of(id) {
            device.state = DeviceState::Away;
            device.pending.clear();
        }
    }

    /// Counts the devices that failed to reconnect.
    pub(super) fn take_failures(&mut self) {
        if let Some(why) = self.connector.take_failure() {
            self.faults.refused += 1;
            detail(&mut self.details, || why);
        }
    }

    /// Whether every client has received all its messages and all acknowledgements.
    pub(super) fn is_drained(&self, net: &Net) -> bool {
        let devices = self.spec.devices.iter().enumerate();
        self.command_publisher.is_done(net)
            && devices.into_iter().all(|(at, device)| {
                device.state == DeviceState::Up
                    && device.pending.is_empty()
                    && device.inbox.unreleased() == 0
                    && device.commands.missing(self.commands_sent(at)) == 0
                    && self.backends.iter().all(|backend| {
                        let telemetry = &backend.telemetry[at];
                        backend.wills[at].missing(device.breaks) == 0
                            && telemetry.missing(device.sent) == telemetry.missing_among(&device.in_doubt)
                    })
            })
    }

    /// Number of commands that were sent to device `at`. The devices get commands in turn.
    fn commands_sent(&self, at: usize) -> u32 {
        let (sent, devices) = (self.command_publisher.sent, self.spec.devices.len() as u64);
        (sent / devices) as u32 + u32::from((at as u64) < sent % devices)
    }

    /// Counts what is missing at the end.
    pub(super) fn count_missing(&mut self) {
        let waiting = self.command_publisher.in_flight();
        self.faults.unanswered += waiting;
        if waiting > 0 {
            detail(&mut self.details, || format!("command publisher waits for {waiting} acknowledgements"));
        }
        let mut commands_lost = 0;
        for at in 0..self.spec.devices.len() {
            let sent = self.commands_sent(at);
            let device = &self.spec.devices[at];
            commands_lost += device.commands.missing(sent);
            self.faults.unanswered += device.pending.len() as u64 + device.inbox.unreleased();
            if matches!(device.state, DeviceState::Leaving { since } if self.clock.now() > since + CLOSE_WAIT_NANOS_MAX)
            {
                self.faults.unanswered += 1;
                detail(&mut self.details, || format!("device {at}: not closed after DISCONNECT"));
            }
            for (name, backend) in self.backends.iter().enumerate() {
                let wills = backend.wills[at].missing(device.breaks);
                let missing = backend.telemetry[at].missing(device.sent);
                let doubtful = backend.telemetry[at].missing_among(&device.in_doubt);
                self.doubtful += doubtful;
                self.faults.lost += wills + missing - doubtful;
                if wills + missing > doubtful {
                    detail(&mut self.details, || {
                        let missing = missing - doubtful;
                        format!("backend {name} misses {missing} messages and {wills} wills of device {at}")
                    });
                }
            }
        }
        let lost = commands_lost.saturating_sub(self.command_publisher.refused);
        self.faults.lost += lost;
        if lost > 0 {
            detail(&mut self.details, || format!("{lost} commands never arrived at their devices"));
        }
        for backend in &self.backends {
            self.faults.unanswered += backend.inbox.unreleased();
        }
    }

    fn device_of(&mut self, id: usize) -> Option<&mut Device> {
        let first = self.first_device();
        self.spec.devices.get_mut(id.checked_sub(first)?)
    }

    fn protocol_fault(&mut self, id: usize, why: &str) {
        self.faults.protocol += 1;
        detail(&mut self.details, || format!("client {id}: {why}"));
    }

    /// The stamp of a message, if the message is intact and of this run.
    fn stamp(&mut self, id: usize, publish: &Publish<'_>) -> Option<Stamp> {
        let run = self.spec.run;
        let stamp = payload::read(publish.payload, publish.topic).filter(|stamp| stamp.run == run);
        if stamp.is_none() {
            self.faults.corrupt += 1;
            detail(&mut self.details, || format!("client {id}: payload or topic was changed"));
        }
        stamp
    }

    /// Handles telemetry or a will at a backend.
    fn handle_backend_publish(&mut self, id: usize, now: u64, publish: &Publish<'_>, out: &mut Vec<u8>) {
        if !self.backends[id].inbox.receive(publish, out) {
            self.faults.duplicate += 1;
            return;
        }
        let Some(stamp) = self.stamp(id, publish) else { return };
        let number = stamp.publisher as usize;
        let Some(device) = self.spec.devices.get(number) else {
            self.faults.misrouted += 1;
            return;
        };
        let backend = &mut self.backends[id];
        let is_will = stamp.stream as usize >= self.spec.devices.len();
        let (stream, qos) = match is_will {
            true => (&mut backend.wills[number], WILL_QOS),
            false => (&mut backend.telemetry[number], device.qos),
        };
        self.faults.qos += u64::from(publish.qos != qos);
        self.faults.retain_flag += u64::from(publish.retain);
        // The connection of a backend never breaks, so nothing is resent to it.
        self.faults.dup_flag += u64::from(publish.dup);
        if is_will && stamp.sequence >= device.breaks {
            self.faults.misrouted += 1;
            return detail(&mut self.details, || {
                format!("backend {id}: will of device {number}, whose connection did not break")
            });
        }
        match stream.arrive(stamp.sequence) {
            Arrival::First { .. } if is_will => self.wills.count(now.saturating_sub(device.broke_nanos)),
            Arrival::First { .. } => self.telemetry.count(now.saturating_sub(stamp.sent_nanos)),
            Arrival::Late => {
                self.faults.reordered += 1;
                let kind = if is_will { &mut self.wills } else { &mut self.telemetry };
                kind.delivered += 1;
            }
            // The device did not know that its message had arrived, and resent it.
            Arrival::Duplicate if !is_will && qos == 1 && device.resent.contains(&stamp.sequence) => {
                self.redelivered += 1;
            }
            Arrival::Duplicate => {
                self.faults.duplicate += 1;
                detail(&mut self.details, || {
                    let what = if is_will { "will" } else { "message" };
                    format!("backend {id}: {what} {} of device {number} arrived again", stamp.sequence)
                });
            }
        }
    }

    /// Handles a command at a device.
    fn handle_device_publish(&mut self, number: usize, now: u64, publish: &Publish<'_>, out: &mut Vec<u8>) {
        let device = &mut self.spec.devices[number];
        let was_away = device.connections > 1;
        if !device.inbox.receive(publish, out) {
            // The PUBREC of the first delivery was lost with the connection.
            let legal = was_away && publish.dup;
            *(if legal { &mut self.redelivered } else { &mut self.faults.duplicate }) += 1;
            return;
        }
        let id = self.first_device() + number;
        let Some(stamp) = self.stamp(id, publish) else { return };
        if stamp.publisher != COMMAND_PUBLISHER || stamp.stream as usize != number {
            self.faults.misrouted += 1;
            return;
        }
        let device = &mut self.spec.devices[number];
        self.faults.qos += u64::from(publish.qos != self.spec.command_qos);
        self.faults.retain_flag += u64::from(publish.retain);
        match device.commands.arrive(stamp.sequence) {
            Arrival::First { .. } => {
                self.faults.dup_flag += u64::from(publish.dup && !was_away);
                // The latency of a command that waited for its device would be the time that the
                // device was away.
                if stamp.sent_nanos >= device.up_since {
                    self.commands.count(now - stamp.sent_nanos);
                } else {
                    self.commands.delivered += 1;
                }
            }
            Arrival::Late => {
                self.faults.reordered += 1;
                self.commands.delivered += 1;
            }
            Arrival::Duplicate if publish.qos == 1 && publish.dup && was_away => self.redelivered += 1,
            Arrival::Duplicate => {
                self.faults.duplicate += 1;
                detail(&mut self.details, || {
                    format!("device {number}: command {} arrived again", stamp.sequence)
                });
            }
        }
    }

    /// Handles the CONNACK of a device, and checks that its session is still present.
    fn handle_connack(&mut self, id: usize, connack: Connack, now: u64) {
        let (first, running) = (self.first_device(), self.running);
        let Some(number) = id.checked_sub(first) else {
            if id == self.spec.backends {
                self.command_publisher.set_receive_maximum(connack.receive_maximum);
            }
            return;
        };
        let device = &mut self.spec.devices[number];
        device.connections += 1;
        device.up_since = now;
        if running && !connack.session_present {
            device.pending.clear();
            self.protocol_fault(id, "the session is not present");
        }
    }

    /// Resends what the last connection left unacknowledged. [MQTT5-4.4.0-1]
    fn resend(&mut self, number: usize, out: &mut Vec<u8>) {
        let device = &mut self.spec.devices[number];
        device.state = DeviceState::Up;
        let pending = std::mem::take(&mut device.pending);
        let again = pending.iter().filter(|pending| !pending.received).map(|pending| pending.sequence);
        device.resent.extend(again);
        for message in &pending {
            if message.received {
                codec::put_ack(out, codec::PUBREL, message.id);
            } else {
                let what = (message.id, message.sequence);
                self.spec.put_telemetry(out, number as u32, what, message.sent_nanos, true);
            }
        }
        self.spec.devices[number].pending = pending;
    }

    fn handle_device_packet(&mut self, number: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) {
        let id = self.first_device() + number;
        match packet.kind() {
            codec::PUBLISH => match codec::publish(self.spec.identity.version, packet) {
                Ok(publish) => self.handle_device_publish(number, now, &publish, out),
                Err(malformed) => self.protocol_fault(id, malformed.0),
            },
            codec::PUBREL => {
                let device = &mut self.spec.devices[number];
                let was_away = device.connections > 1;
                if let Err(why) = device.inbox.release(packet, out)
                    // The PUBCOMP may have been lost with a connection.
                    && !was_away
                {
                    self.protocol_fault(id, why);
                }
            }
            kind @ (codec::PUBACK | codec::PUBREC | codec::PUBCOMP) => match codec::ack(packet) {
                Ok((packet_id, reason)) => {
                    let failed = reason >= 0x80;
                    self.faults.refused += u64::from(failed);
                    if !self.spec.devices[number].handle_ack(kind, packet_id, failed, out) {
                        self.protocol_fault(id, "acknowledgement that matches nothing in flight");
                    }
                }
                Err(malformed) => self.protocol_fault(id, malformed.0),
            },
            _ => self.protocol_fault(id, "unexpected packet"),
        }
    }

    fn handle_backend_packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) {
        match packet.kind() {
            codec::PUBLISH => match codec::publish(self.spec.identity.version, packet) {
                Ok(publish) => self.handle_backend_publish(id, now, &publish, out),
                Err(malformed) => self.protocol_fault(id, malformed.0),
            },
            codec::PUBREL => {
                if let Err(why) = self.backends[id].inbox.release(packet, out) {
                    self.protocol_fault(id, why);
                }
            }
            _ => self.protocol_fault(id, "unexpected packet"),
        }
    }
}

impl Handler for Fleet {
    fn handle_connected(&mut self, id: usize, out: &mut Vec<u8>) {
        self.spec.end_sessions = self.end_sessions;
        self.spec.connect(id, out);
    }

    fn handle_packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) -> Next {
        let number = id.checked_sub(self.first_device());
        if number.is_some_and(|number| matches!(self.spec.devices[number].state, DeviceState::Leaving { .. }))
        {
            // A client must not answer after DISCONNECT. The broker keeps the message for the
            // session.
            return Next::Continue;
        }
        if !self.connector.is_ready(id) {
            if packet.kind() == codec::CONNACK
                && let Ok(connack) = codec::connack(self.spec.identity.version, packet)
                && connack.code == 0
            {
                self.handle_connack(id, connack, now);
            }
            match self.connector.handle_packet(id, packet, out, &self.spec, &mut None) {
                Handled::NotHandshake => {}
                Handled::Ready => {
                    if let Some(number) = number {
                        self.resend(number, out);
                    }
                    return Next::Continue;
                }
                Handled::Consumed => return Next::Continue,
            }
        }
        match number {
            Some(number) => self.handle_device_packet(number, now, packet, out),
            None if id < self.spec.backends => self.handle_backend_packet(id, now, packet, out),
            None => {
                if !self.command_publisher.handle_ack(packet, out, &mut self.faults, &mut self.details) {
                    self.protocol_fault(id, "unexpected packet");
                }
            }
        }
        Next::Continue
    }

    fn handle_writable(&mut self, _: usize) {}

    fn handle_closed(&mut self, id: usize, why: Closed) {
        if let Some(device) = self.device_of(id) {
            if matches!(device.state, DeviceState::Leaving { .. }) {
                device.state = DeviceState::Away;
                self.connector.mark_down(id);
                self.disconnected.push(id);
                return;
            }
            device.state = DeviceState::Away;
        }
        if self.connector.handle_closed(id, &why) {
            count_closed(&mut self.faults, &mut self.details, id, &why);
        }
    }
}

impl HasConnector for Fleet {
    fn connector(&mut self) -> &mut Connector {
        &mut self.connector
    }
}
