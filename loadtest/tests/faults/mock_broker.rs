//! A mock broker that can inject one kind of fault. It has one thread per connection, blocking
//! sockets, and only as much of MQTT as the harness uses. It counts the injected faults, so that a
//! test can compare the count of the harness.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The fault of every `FAULT_INTERVAL`-th delivery, or of every such packet of the named type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Drop,
    Repeat,
    RepeatWithDup,
    /// The same identifier twice before PUBREL.
    RepeatId,
    Swap,
    FlipPayloadBit,
    FlipTopicBit,
    CutPayload,
    SetDup,
    SetRetain,
    LowerQos,
    Misroute,
    ForgetPuback,
    WrongPuback,
    ForgetPubrel,
    CloseSubscriber,
    SendGarbage,
    RefuseConnect,
    RefuseSubscribe,
    ForgetPing,
    ForgetConnack,
    /// Sends a message of a shared subscription to a second member too.
    RepeatInGroup,
    LoseRetained,
    RepeatRetained,
    ForgetRetainFlag,
    /// Keeps a retained message that was cleared.
    KeepCleared,
    /// Drops a message for an offline session.
    LoseQueued,
    /// Sends an acknowledged message again when its session is resumed.
    RepeatAcknowledged,
    /// Drops the session when its client reconnects.
    LoseSession,
    DropWill,
    RepeatWill,
    WillOnDisconnect,
}

impl Fault {
    /// Whether the fault applies to the delivery of a message to its subscriber.
    fn affects_delivery(self) -> bool {
        matches!(
            self,
            Fault::Drop
                | Fault::Repeat
                | Fault::RepeatWithDup
                | Fault::RepeatId
                | Fault::Swap
                | Fault::FlipPayloadBit
                | Fault::FlipTopicBit
                | Fault::CutPayload
                | Fault::SetDup
                | Fault::SetRetain
                | Fault::LowerQos
                | Fault::CloseSubscriber
                | Fault::SendGarbage
        )
    }
}

/// A prime number, so that it shares no divisor with the number of subscribers.
const FAULT_INTERVAL: u64 = 37;

pub(crate) struct MockBroker {
    pub(crate) port: u16,
    state: Arc<State>,
}

struct State {
    fault: Fault,
    subscribers: Mutex<Vec<Arc<Subscriber>>>,
    deliveries: AtomicU64,
    /// Number of injected faults.
    injected: AtomicU64,
    pings: AtomicU64,
    connects: AtomicU64,
    turns: AtomicU64,
    sessions: Mutex<HashMap<Vec<u8>, Arc<Mutex<Outbound>>>>,
    retained: Mutex<BTreeMap<Vec<u8>, Retained>>,
}

/// QoS and payload.
type Retained = (u8, Vec<u8>);

struct Subscriber {
    client: Vec<u8>,
    group: Option<Vec<u8>>,
    filter: Vec<u8>,
    version: u8,
    qos: u8,
    to: Arc<Mutex<Outbound>>,
}

/// What is sent to a client.
#[derive(Default)]
struct Outbound {
    /// `None` while the client is offline.
    stream: Option<TcpStream>,
    /// Number of connections of the session.
    connection: u64,
    /// The session outlives its connections, and stores unacknowledged messages.
    keep_session: bool,
    unacknowledged: Vec<Unacknowledged>,
    last_id: u16,
    /// A message that is sent after the next one.
    delayed: Option<Vec<u8>>,
}

struct Unacknowledged {
    id: [u8; 2],
    packet: Vec<u8>,
    sent: bool,
}

/// The client of a connection.
struct ConnectedClient {
    name: Vec<u8>,
    version: u8,
    clean: bool,
    will: Option<(Vec<u8>, Vec<u8>, u8)>,
    to: Arc<Mutex<Outbound>>,
    connection: u64,
}

/// A client that does not read for this long is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

impl MockBroker {
    pub(crate) fn start(fault: Fault) -> MockBroker {
        MockBroker::start_at(fault, 0)
    }

    /// Listens on `port`. 0 lets the kernel choose.
    pub(crate) fn start_at(fault: Fault, port: u16) -> MockBroker {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            fault,
            subscribers: Mutex::default(),
            deliveries: AtomicU64::new(0),
            injected: AtomicU64::new(0),
            pings: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            sessions: Mutex::default(),
            retained: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || {
                    // A closed connection is not an error of the mock broker.
                    let _ = state.serve(stream);
                });
            }
        });
        MockBroker { port, state }
    }

    /// Number of injected faults.
    pub(crate) fn injected(&self) -> u64 {
        self.state.injected.load(SeqCst)
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let (_, body) = read_packet(&mut stream)?;
        let mut client = self.client(&body);
        if !self.connect(&mut stream, &client)? {
            client.will = None;
            self.end(&stream, client);
            return Ok(());
        }
        // Every end, including an error, ends the connection as MQTT requires.
        let ended = self.serve_client(&mut stream, &client);
        if matches!(ended, Ok(())) && !(self.fault == Fault::WillOnDisconnect && self.inject(&self.pings)) {
            client.will = None;
        }
        self.end(&stream, client);
        ended
    }

    /// Serves a client until DISCONNECT, which is `Ok`.
    fn serve_client(&self, stream: &mut TcpStream, client: &ConnectedClient) -> std::io::Result<()> {
        loop {
            let (first, body) = read_packet(stream)?;
            match first >> 4 {
                3 => self.publish(stream, client.version, first, &body)?,
                4 => self.acknowledged(client, [body[0], body[1]]),
                5 if self.fault == Fault::ForgetPubrel && self.inject(&self.pings) => {}
                5 => {
                    self.acknowledged(client, [body[0], body[1]]);
                    client.to.lock().unwrap().write(&[0x62, 2, body[0], body[1]]);
                }
                6 => stream.write_all(&[0x70, 2, body[0], body[1]])?,
                8 => self.subscribe(client, &body),
                12 if self.fault == Fault::ForgetPing && self.inject(&self.pings) => {}
                12 => stream.write_all(&[0xd0, 0])?,
                14 => return Ok(()),
                _ => {}
            }
        }
    }

    /// Decodes a CONNECT, and finds or creates its session.
    fn client(&self, body: &[u8]) -> ConnectedClient {
        let (version, flags) = (body[6], body[7]);
        let mut rest = &body[10..];
        let skip_properties = |rest: &mut &[u8]| {
            if version == 5 {
                *rest = &rest[1 + usize::from(rest[0])..];
            }
        };
        skip_properties(&mut rest);
        let name = take_text(&mut rest);
        let will = (flags & 4 != 0).then(|| {
            skip_properties(&mut rest);
            (take_text(&mut rest), take_text(&mut rest), flags >> 3 & 3)
        });
        let clean = flags & 2 != 0;
        let lost = !clean
            && self.fault == Fault::LoseSession
            && self.has_session(&name)
            && self.inject(&self.connects);
        if clean || lost {
            self.remove_session(&name);
        }
        let to = Arc::clone(self.sessions.lock().unwrap().entry(name.clone()).or_default());
        let mut outgoing = to.lock().unwrap();
        outgoing.keep_session = !clean;
        outgoing.connection += 1;
        // `connect` gives the stream: nothing may be sent before CONNACK. [MQTT311-3.2.0-1]
        outgoing.stream = None;
        let connection = outgoing.connection;
        drop(outgoing);
        ConnectedClient { name, version, clean, will, to, connection }
    }

    fn has_session(&self, name: &[u8]) -> bool {
        self.sessions.lock().unwrap().contains_key(name)
    }

    fn remove_session(&self, name: &[u8]) {
        self.sessions.lock().unwrap().remove(name);
        self.subscribers.lock().unwrap().retain(|subscriber| subscriber.client != name);
    }

    /// Answers a CONNECT, and resends the unacknowledged messages. Returns whether the connection
    /// stays open: a refused client is disconnected. [MQTT311-3.2.2-5] [MQTT5-3.2.2-7]
    fn connect(&self, stream: &mut TcpStream, client: &ConnectedClient) -> std::io::Result<bool> {
        let tail: &[u8] = if client.version == 5 { &[0] } else { &[] };
        let bad =
            matches!(self.fault, Fault::RefuseConnect | Fault::ForgetConnack) && self.inject(&self.connects);
        if self.fault == Fault::ForgetConnack && bad {
            // The connection stays open without an answer.
            return Ok(true);
        }
        let mut outgoing = client.to.lock().unwrap();
        // A refusal says that no session is present. [MQTT311-3.2.2-4] [MQTT5-3.2.2-6]
        let (code, present) = (if bad { 5 } else { 0 }, u8::from(!bad && outgoing.connection > 1));
        let mut answer = vec![0x20, 2 + tail.len() as u8, present, code];
        answer.extend_from_slice(tail);
        stream.write_all(&answer)?;
        if bad {
            return Ok(false);
        }
        for message in &mut outgoing.unacknowledged {
            message.packet[0] |= u8::from(message.sent) << 3;
            message.sent = true;
            stream.write_all(&message.packet)?;
        }
        outgoing.stream = Some(stream.try_clone()?);
        Ok(true)
    }

    fn end(&self, stream: &TcpStream, client: ConnectedClient) {
        let mut outgoing = client.to.lock().unwrap();
        let is_last = outgoing.connection == client.connection;
        if is_last {
            outgoing.stream = None;
        }
        drop(outgoing);
        if is_last && client.clean {
            self.remove_session(&client.name);
        }
        if let Some((topic, payload, qos)) = client.will {
            let is_bad =
                matches!(self.fault, Fault::DropWill | Fault::RepeatWill) && self.inject(&self.pings);
            let times = if !is_bad {
                1
            } else if self.fault == Fault::DropWill {
                0
            } else {
                2
            };
            (0..times).for_each(|_| self.distribute(&topic, &payload, qos));
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn acknowledged(&self, client: &ConnectedClient, id: [u8; 2]) {
        if self.fault == Fault::RepeatAcknowledged && self.inject(&self.pings) {
            return;
        }
        client.to.lock().unwrap().unacknowledged.retain(|message| message.id != id);
    }

    fn subscribe(&self, client: &ConnectedClient, body: &[u8]) {
        let version = client.version;
        let mut rest = &body[if version == 5 { 3 } else { 2 }..];
        let mut codes = Vec::new();
        let mut retained = Vec::new();
        while !rest.is_empty() {
            let filter = take_text(&mut rest);
            let qos = rest[0];
            rest = &rest[1..];
            codes.push(if self.fault == Fault::RefuseSubscribe { 0x80 } else { qos });
            let mut subscriber = Subscriber {
                client: client.name.clone(),
                group: None,
                filter,
                version,
                qos,
                to: Arc::clone(&client.to),
            };
            if let Some(shared) = subscriber.filter.strip_prefix(b"$share/") {
                let slash = shared.iter().position(|&byte| byte == b'/').unwrap();
                (subscriber.group, subscriber.filter) =
                    (Some(shared[..slash].to_vec()), shared[slash + 1..].to_vec());
            } else {
                retained.push((subscriber.filter.clone(), qos));
            }
            self.subscribers.lock().unwrap().push(Arc::new(subscriber));
        }
        let mut answer = vec![0x90, (codes.len() + if version == 5 { 3 } else { 2 }) as u8, body[0], body[1]];
        answer.extend_from_slice(if version == 5 { &[0] } else { &[] });
        answer.extend(codes);
        client.to.lock().unwrap().write(&answer);
        for (filter, qos) in retained {
            self.replay(client, &filter, qos);
        }
    }

    /// Sends the retained messages of a new subscription.
    fn replay(&self, client: &ConnectedClient, filter: &[u8], granted: u8) {
        let retained = self.retained.lock().unwrap().clone();
        for (topic, (qos, payload)) in retained.iter().filter(|message| matches(filter, message.0)) {
            let first = 0x31 | (*qos).min(granted) << 1;
            let affects_replay =
                matches!(self.fault, Fault::LoseRetained | Fault::RepeatRetained | Fault::ForgetRetainFlag);
            let fault = if affects_replay && self.inject(&self.turns) { self.fault } else { Fault::None };
            let mut to = client.to.lock().unwrap();
            match fault {
                Fault::LoseRetained => {}
                Fault::ForgetRetainFlag => to.send(client.version, first & !1, topic, payload),
                _ => to.send(client.version, first, topic, payload),
            }
            if fault == Fault::RepeatRetained {
                to.send(client.version, first, topic, payload);
            }
        }
    }

    fn publish(&self, stream: &mut TcpStream, version: u8, first: u8, body: &[u8]) -> std::io::Result<()> {
        let qos = first >> 1 & 3;
        let length = usize::from(body[0]) << 8 | usize::from(body[1]);
        let topic = &body[2..2 + length];
        let mut rest = &body[2 + length..];
        if qos > 0 {
            let id = [rest[0], rest[1]];
            rest = &rest[2..];
            let bad =
                matches!(self.fault, Fault::ForgetPuback | Fault::WrongPuback) && self.inject(&self.pings);
            match self.fault {
                Fault::ForgetPuback if bad => {}
                Fault::WrongPuback if bad => {
                    stream.write_all(&[0x40, 2, id[0], id[1], 0x40, 2, id[0], id[1]])?;
                }
                _ => stream.write_all(&[if qos == 1 { 0x40 } else { 0x50 }, 2, id[0], id[1]])?,
            }
        }
        let payload = &rest[usize::from(version == 5)..];
        if first & 1 != 0 {
            self.retain(topic, qos, payload);
        }
        self.distribute(topic, payload, qos);
        Ok(())
    }

    fn retain(&self, topic: &[u8], qos: u8, payload: &[u8]) {
        let mut retained = self.retained.lock().unwrap();
        if !payload.is_empty() {
            retained.insert(topic.to_vec(), (qos, payload.to_vec()));
        } else if !(self.fault == Fault::KeepCleared && self.inject(&self.turns)) {
            retained.remove(topic);
        }
    }

    fn distribute(&self, topic: &[u8], payload: &[u8], qos: u8) {
        let subscribers = self.subscribers.lock().unwrap().clone();
        // Sent first, so that it is in its socket before the harness has all expected messages.
        if self.fault == Fault::Misroute && self.inject(&self.deliveries) {
            let asked = |client: &[u8]| {
                subscribers.iter().any(|other| other.client == client && matches(&other.filter, topic))
            };
            if let Some(wrong) = subscribers.iter().find(|subscriber| !asked(&subscriber.client)) {
                wrong.to.lock().unwrap().send(wrong.version, 0x30 | qos << 1, topic, payload);
            }
        }
        let matching = subscribers.iter().filter(|subscriber| matches(&subscriber.filter, topic));
        let (members, others): (Vec<_>, Vec<_>) = matching.partition(|subscriber| subscriber.group.is_some());
        for subscriber in others {
            self.deliver(subscriber, qos.min(subscriber.qos), topic, payload);
        }
        // The harness has at most one group.
        if !members.is_empty() {
            let turn = self.turns.fetch_add(1, SeqCst) as usize;
            let times = 1 + usize::from(self.fault == Fault::RepeatInGroup && self.inject(&self.pings));
            for member in (turn..turn + times).map(|at| members[at % members.len()]) {
                self.deliver(member, qos.min(member.qos), topic, payload);
            }
        }
    }

    fn deliver(&self, subscriber: &Subscriber, qos: u8, topic: &[u8], payload: &[u8]) {
        let mut to = subscriber.to.lock().unwrap();
        let first = 0x30 | qos << 1;
        let version = subscriber.version;
        if self.fault == Fault::LoseQueued && to.stream.is_none() && self.inject(&self.deliveries) {
            return;
        }
        if !self.fault.affects_delivery() || !self.inject(&self.deliveries) {
            to.send(version, first, topic, payload);
            if let Some(delayed) = to.delayed.take() {
                self.injected.fetch_add(1, SeqCst);
                to.write(&delayed);
            }
            return;
        }
        match self.fault {
            Fault::Drop => {}
            Fault::Repeat | Fault::RepeatWithDup => {
                to.send(version, first, topic, payload);
                let dup = if self.fault == Fault::RepeatWithDup { 8 } else { 0 };
                to.send(version, first | dup, topic, payload);
            }
            Fault::RepeatId => {
                to.send(version, first, topic, payload);
                to.last_id -= 1;
                to.send(version, first, topic, payload);
            }
            Fault::Swap => {
                // Counted only when the next message was sent first.
                self.injected.fetch_sub(1, SeqCst);
                let delayed = to.encode(version, first, topic, payload);
                if let Some(earlier) = to.delayed.replace(delayed) {
                    to.write(&earlier);
                }
            }
            Fault::FlipPayloadBit => {
                let mut payload = payload.to_vec();
                *payload.last_mut().unwrap() ^= 1;
                to.send(version, first, topic, &payload);
            }
            Fault::FlipTopicBit => {
                let mut topic = topic.to_vec();
                *topic.last_mut().unwrap() ^= 1;
                to.send(version, first, &topic, payload);
            }
            Fault::CutPayload => to.send(version, first, topic, &payload[1..]),
            Fault::SetDup => to.send(version, first | 8, topic, payload),
            Fault::SetRetain => to.send(version, first | 1, topic, payload),
            Fault::LowerQos => to.send(version, 0x30, topic, payload),
            Fault::CloseSubscriber => {
                let _ = to.stream.as_ref().map(|stream| stream.shutdown(Shutdown::Both));
            }
            Fault::SendGarbage => {
                to.write(&[0x30, 0xff, 0xff, 0xff, 0xff, 0xff]);
            }
            _ => to.send(version, first, topic, payload),
        }
    }

    /// Whether a fault is due, by `counter`. Counts it as injected.
    fn inject(&self, counter: &AtomicU64) -> bool {
        let due =
            self.fault != Fault::None && counter.fetch_add(1, SeqCst) % FAULT_INTERVAL == FAULT_INTERVAL - 1;
        if due {
            self.injected.fetch_add(1, SeqCst);
        }
        due
    }
}

impl Outbound {
    fn send(&mut self, version: u8, first: u8, topic: &[u8], payload: &[u8]) {
        let packet = self.encode(version, first, topic, payload);
        self.write(&packet);
        if self.keep_session && first & 6 != 0 {
            let (id, sent) = (self.last_id.to_be_bytes(), self.stream.is_some());
            self.unacknowledged.push(Unacknowledged { id, packet, sent });
        }
    }

    /// Sends nothing to an offline client. Disconnects a client that does not read.
    fn write(&mut self, bytes: &[u8]) {
        if let Some(stream) = &mut self.stream
            && stream.write_all(bytes).is_err()
        {
            let _ = stream.shutdown(Shutdown::Both);
            self.stream = None;
        }
    }

    fn encode(&mut self, version: u8, first: u8, topic: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut body = (topic.len() as u16).to_be_bytes().to_vec();
        body.extend_from_slice(topic);
        if first & 6 != 0 {
            self.last_id = self.last_id % u16::MAX + 1;
            body.extend_from_slice(&self.last_id.to_be_bytes());
        }
        if version == 5 {
            body.push(0);
        }
        body.extend_from_slice(payload);
        let mut packet = vec![first];
        let mut length = body.len();
        while length > 127 {
            packet.push(length as u8 | 128);
            length >>= 7;
        }
        packet.push(length as u8);
        packet.extend(body);
        packet
    }
}

fn take_text(bytes: &mut &[u8]) -> Vec<u8> {
    let length = usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
    let text = bytes[2..2 + length].to_vec();
    *bytes = &bytes[2 + length..];
    text
}

/// Matches whole levels, with `+` for one level and `#` for all remaining levels.
fn matches(filter: &[u8], topic: &[u8]) -> bool {
    let (mut filter, mut topic) = (filter.split(|byte| *byte == b'/'), topic.split(|byte| *byte == b'/'));
    loop {
        match (filter.next(), topic.next()) {
            (None, None) | (Some(b"#"), _) => return true,
            (Some(b"+"), Some(_)) => {}
            (Some(left), Some(right)) if left == right => {}
            _ => return false,
        }
    }
}

fn read_packet(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let first = byte[0];
    let (mut length, mut shift) = (0usize, 0);
    loop {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 127) << shift;
        shift += 7;
        if byte[0] < 128 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((first, body))
}
