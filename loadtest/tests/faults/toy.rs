//! A toy broker with one vice: a thread per connection, blocking sockets, no more of MQTT than the
//! harness uses. It keeps count of what it did wrong, so that the harness's count can be compared.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What the toy does wrong with every `EVERY`-th delivery, or with the packet that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vice {
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
    /// A message for a group to a second member as well.
    RepeatInGroup,
    LoseRetained,
    RepeatRetained,
    ForgetRetainFlag,
    /// A retained message stays although it was cleared.
    KeepCleared,
    /// A message for a session that is away.
    LoseQueued,
    /// A message that was acknowledged, when its session comes back.
    RepeatAcknowledged,
    /// The session, when its client comes back.
    LoseSession,
    DropWill,
    RepeatWill,
    WillOnDisconnect,
}

impl Vice {
    /// Whether it is indulged on the way to a subscriber that is owed the message.
    fn is_of_a_delivery(self) -> bool {
        matches!(
            self,
            Vice::Drop
                | Vice::Repeat
                | Vice::RepeatWithDup
                | Vice::RepeatId
                | Vice::Swap
                | Vice::FlipPayloadBit
                | Vice::FlipTopicBit
                | Vice::CutPayload
                | Vice::SetDup
                | Vice::SetRetain
                | Vice::LowerQos
                | Vice::CloseSubscriber
                | Vice::SendGarbage
        )
    }
}

/// Prime, so that it does not beat with the number of subscribers.
const EVERY: u64 = 37;

pub(crate) struct Toy {
    pub(crate) port: u16,
    state: Arc<State>,
}

struct State {
    vice: Vice,
    subscribers: Mutex<Vec<Arc<Subscriber>>>,
    deliveries: AtomicU64,
    /// How often the vice was indulged.
    done: AtomicU64,
    pings: AtomicU64,
    connects: AtomicU64,
    turns: AtomicU64,
    sessions: Mutex<HashMap<Vec<u8>, Arc<Mutex<Outgoing>>>>,
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
    to: Arc<Mutex<Outgoing>>,
}

/// The way to a client.
#[derive(Default)]
struct Outgoing {
    /// `None` while the client is away.
    stream: Option<TcpStream>,
    /// Counts the connections of the session.
    connection: u64,
    /// The session outlives its connections: what is not acknowledged waits in `kept`.
    keep: bool,
    kept: Vec<Kept>,
    last_id: u16,
    /// Held back to be sent after its successor.
    held: Option<Vec<u8>>,
}

struct Kept {
    id: [u8; 2],
    packet: Vec<u8>,
    sent: bool,
}

/// Who speaks on a connection.
struct Client {
    name: Vec<u8>,
    version: u8,
    clean: bool,
    will: Option<(Vec<u8>, Vec<u8>, u8)>,
    to: Arc<Mutex<Outgoing>>,
    connection: u64,
}

/// A client that does not take its messages for so long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

impl Toy {
    pub(crate) fn start(vice: Vice) -> Toy {
        Toy::start_at(vice, 0)
    }

    /// On a port of the caller's choice; 0 leaves it to the kernel.
    pub(crate) fn start_at(vice: Vice, port: u16) -> Toy {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            vice,
            subscribers: Mutex::default(),
            deliveries: AtomicU64::new(0),
            done: AtomicU64::new(0),
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
                    // A client that is gone is no error of the toy.
                    let _ = state.serve(stream);
                });
            }
        });
        Toy { port, state }
    }

    /// How often the vice was indulged.
    pub(crate) fn done(&self) -> u64 {
        self.state.done.load(SeqCst)
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let (_, body) = read_packet(&mut stream)?;
        let mut client = self.client(&stream, &body)?;
        if !self.connect(&mut stream, &client)? {
            return Ok(());
        }
        // Whatever ends it, an error included, ends the connection as MQTT has it.
        let ended = self.serve_client(&mut stream, &client);
        if matches!(ended, Ok(())) && !(self.vice == Vice::WillOnDisconnect && self.nth(&self.pings)) {
            client.will = None;
        }
        self.end(&stream, client);
        ended
    }

    /// Until DISCONNECT, which is `Ok`.
    fn serve_client(&self, stream: &mut TcpStream, client: &Client) -> std::io::Result<()> {
        loop {
            let (first, body) = read_packet(stream)?;
            match first >> 4 {
                3 => self.publish(stream, client.version, first, &body)?,
                4 => self.acknowledged(client, [body[0], body[1]]),
                5 if self.vice == Vice::ForgetPubrel && self.nth(&self.pings) => {}
                5 => {
                    self.acknowledged(client, [body[0], body[1]]);
                    client.to.lock().unwrap().write(&[0x62, 2, body[0], body[1]]);
                }
                6 => stream.write_all(&[0x70, 2, body[0], body[1]])?,
                8 => self.subscribe(client, &body),
                12 if self.vice == Vice::ForgetPing && self.nth(&self.pings) => {}
                12 => stream.write_all(&[0xd0, 0])?,
                14 => return Ok(()),
                _ => {}
            }
        }
    }

    /// Reads a CONNECT, and finds or makes its session.
    fn client(&self, stream: &TcpStream, body: &[u8]) -> std::io::Result<Client> {
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
        let lost = !clean && self.vice == Vice::LoseSession && self.knows(&name) && self.nth(&self.connects);
        if clean || lost {
            self.forget(&name);
        }
        let to = Arc::clone(self.sessions.lock().unwrap().entry(name.clone()).or_default());
        let mut outgoing = to.lock().unwrap();
        outgoing.keep = !clean;
        outgoing.connection += 1;
        outgoing.stream = Some(stream.try_clone()?);
        let connection = outgoing.connection;
        drop(outgoing);
        Ok(Client { name, version, clean, will, to, connection })
    }

    fn knows(&self, name: &[u8]) -> bool {
        self.sessions.lock().unwrap().contains_key(name)
    }

    fn forget(&self, name: &[u8]) {
        self.sessions.lock().unwrap().remove(name);
        self.subscribers.lock().unwrap().retain(|subscriber| subscriber.client != name);
    }

    /// Answers a CONNECT and sends again what the session keeps. Whether the client is in.
    fn connect(&self, stream: &mut TcpStream, client: &Client) -> std::io::Result<bool> {
        let tail: &[u8] = if client.version == 5 { &[0] } else { &[] };
        let bad = matches!(self.vice, Vice::RefuseConnect | Vice::ForgetConnack) && self.nth(&self.connects);
        if self.vice == Vice::ForgetConnack && bad {
            // Silent, but not gone.
            return Ok(true);
        }
        let mut outgoing = client.to.lock().unwrap();
        let (code, present) = (if bad { 5 } else { 0 }, u8::from(outgoing.connection > 1));
        let mut answer = vec![0x20, 2 + tail.len() as u8, present, code];
        answer.extend_from_slice(tail);
        stream.write_all(&answer)?;
        for kept in &mut outgoing.kept {
            kept.packet[0] |= u8::from(kept.sent) << 3;
            kept.sent = true;
            stream.write_all(&kept.packet)?;
        }
        Ok(true)
    }

    fn end(&self, stream: &TcpStream, client: Client) {
        let mut outgoing = client.to.lock().unwrap();
        let is_last = outgoing.connection == client.connection;
        if is_last {
            outgoing.stream = None;
        }
        drop(outgoing);
        if is_last && client.clean {
            self.forget(&client.name);
        }
        if let Some((topic, payload, qos)) = client.will {
            let is_bad = matches!(self.vice, Vice::DropWill | Vice::RepeatWill) && self.nth(&self.pings);
            let times = if !is_bad {
                1
            } else if self.vice == Vice::DropWill {
                0
            } else {
                2
            };
            (0..times).for_each(|_| self.distribute(&topic, &payload, qos));
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn acknowledged(&self, client: &Client, id: [u8; 2]) {
        if self.vice == Vice::RepeatAcknowledged && self.nth(&self.pings) {
            return;
        }
        client.to.lock().unwrap().kept.retain(|kept| kept.id != id);
    }

    fn subscribe(&self, client: &Client, body: &[u8]) {
        let version = client.version;
        let mut rest = &body[if version == 5 { 3 } else { 2 }..];
        let mut codes = Vec::new();
        let mut retained = Vec::new();
        while !rest.is_empty() {
            let filter = take_text(&mut rest);
            let qos = rest[0];
            rest = &rest[1..];
            codes.push(if self.vice == Vice::RefuseSubscribe { 0x80 } else { qos });
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

    /// The retained messages of a new subscription.
    fn replay(&self, client: &Client, filter: &[u8], granted: u8) {
        let retained = self.retained.lock().unwrap().clone();
        for (topic, (qos, payload)) in retained.iter().filter(|message| matches(filter, message.0)) {
            let first = 0x31 | (*qos).min(granted) << 1;
            let is_of_replays =
                matches!(self.vice, Vice::LoseRetained | Vice::RepeatRetained | Vice::ForgetRetainFlag);
            let vice = if is_of_replays && self.nth(&self.turns) { self.vice } else { Vice::None };
            let mut to = client.to.lock().unwrap();
            match vice {
                Vice::LoseRetained => {}
                Vice::ForgetRetainFlag => to.send(client.version, first & !1, topic, payload),
                _ => to.send(client.version, first, topic, payload),
            }
            if vice == Vice::RepeatRetained {
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
            let bad = matches!(self.vice, Vice::ForgetPuback | Vice::WrongPuback) && self.nth(&self.pings);
            match self.vice {
                Vice::ForgetPuback if bad => {}
                Vice::WrongPuback if bad => {
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
        } else if !(self.vice == Vice::KeepCleared && self.nth(&self.turns)) {
            retained.remove(topic);
        }
    }

    fn distribute(&self, topic: &[u8], payload: &[u8], qos: u8) {
        let subscribers = self.subscribers.lock().unwrap().clone();
        // First, so that it lies in its socket before the harness has all that it waits for.
        if self.vice == Vice::Misroute && self.nth(&self.deliveries) {
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
        // One group at most, as the harness has it.
        if !members.is_empty() {
            let turn = self.turns.fetch_add(1, SeqCst) as usize;
            let times = 1 + usize::from(self.vice == Vice::RepeatInGroup && self.nth(&self.pings));
            for member in (turn..turn + times).map(|at| members[at % members.len()]) {
                self.deliver(member, qos.min(member.qos), topic, payload);
            }
        }
    }

    fn deliver(&self, subscriber: &Subscriber, qos: u8, topic: &[u8], payload: &[u8]) {
        let mut to = subscriber.to.lock().unwrap();
        let first = 0x30 | qos << 1;
        let version = subscriber.version;
        if self.vice == Vice::LoseQueued && to.stream.is_none() && self.nth(&self.deliveries) {
            return;
        }
        if !self.vice.is_of_a_delivery() || !self.nth(&self.deliveries) {
            to.send(version, first, topic, payload);
            if let Some(held) = to.held.take() {
                self.done.fetch_add(1, SeqCst);
                to.write(&held);
            }
            return;
        }
        match self.vice {
            Vice::Drop => {}
            Vice::Repeat | Vice::RepeatWithDup => {
                to.send(version, first, topic, payload);
                let dup = if self.vice == Vice::RepeatWithDup { 8 } else { 0 };
                to.send(version, first | dup, topic, payload);
            }
            Vice::RepeatId => {
                to.send(version, first, topic, payload);
                to.last_id -= 1;
                to.send(version, first, topic, payload);
            }
            Vice::Swap => {
                // Counted only once the successor has gone ahead.
                self.done.fetch_sub(1, SeqCst);
                let held = to.encode(version, first, topic, payload);
                if let Some(earlier) = to.held.replace(held) {
                    to.write(&earlier);
                }
            }
            Vice::FlipPayloadBit => {
                let mut payload = payload.to_vec();
                *payload.last_mut().unwrap() ^= 1;
                to.send(version, first, topic, &payload);
            }
            Vice::FlipTopicBit => {
                let mut topic = topic.to_vec();
                *topic.last_mut().unwrap() ^= 1;
                to.send(version, first, &topic, payload);
            }
            Vice::CutPayload => to.send(version, first, topic, &payload[1..]),
            Vice::SetDup => to.send(version, first | 8, topic, payload),
            Vice::SetRetain => to.send(version, first | 1, topic, payload),
            Vice::LowerQos => to.send(version, 0x30, topic, payload),
            Vice::CloseSubscriber => {
                let _ = to.stream.as_ref().map(|stream| stream.shutdown(Shutdown::Both));
            }
            Vice::SendGarbage => {
                to.write(&[0x30, 0xff, 0xff, 0xff, 0xff, 0xff]);
            }
            _ => to.send(version, first, topic, payload),
        }
    }

    /// Whether the vice is due, by `counter`; counts it as done.
    fn nth(&self, counter: &AtomicU64) -> bool {
        let due = self.vice != Vice::None && counter.fetch_add(1, SeqCst) % EVERY == EVERY - 1;
        if due {
            self.done.fetch_add(1, SeqCst);
        }
        due
    }
}

impl Outgoing {
    fn send(&mut self, version: u8, first: u8, topic: &[u8], payload: &[u8]) {
        let packet = self.encode(version, first, topic, payload);
        self.write(&packet);
        if self.keep && first & 6 != 0 {
            let (id, sent) = (self.last_id.to_be_bytes(), self.stream.is_some());
            self.kept.push(Kept { id, packet, sent });
        }
    }

    /// A client that is gone gets nothing, and one that takes nothing is cut off.
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

/// Whole levels, with `+` for one of them and `#` for all that are left.
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
