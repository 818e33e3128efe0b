//! A toy broker with one vice: a thread per connection, blocking sockets, no more of MQTT than the
//! harness uses. It keeps count of what it did wrong, so that the harness's count can be compared.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

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
}

impl Vice {
    /// Whether it is indulged on the way to a subscriber that is owed the message.
    fn is_of_a_delivery(self) -> bool {
        !matches!(
            self,
            Vice::None
                | Vice::Misroute
                | Vice::ForgetPuback
                | Vice::WrongPuback
                | Vice::ForgetPubrel
                | Vice::RefuseConnect
                | Vice::RefuseSubscribe
                | Vice::ForgetPing
                | Vice::ForgetConnack
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
}

struct Subscriber {
    filter: Vec<u8>,
    version: u8,
    qos: u8,
    to: Mutex<Outgoing>,
}

struct Outgoing {
    stream: TcpStream,
    last_id: u16,
    /// Held back to be sent after its successor.
    held: Option<Vec<u8>>,
}

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
        let mut version = 4;
        loop {
            let (first, body) = read_packet(&mut stream)?;
            match first >> 4 {
                1 => {
                    version = body[6];
                    self.connect(&mut stream, version)?;
                }
                3 => self.publish(&mut stream, version, first, &body)?,
                5 if self.vice == Vice::ForgetPubrel && self.nth(&self.pings) => {}
                5 => stream.write_all(&[0x62, 2, body[0], body[1]])?,
                6 => stream.write_all(&[0x70, 2, body[0], body[1]])?,
                8 => self.subscribe(&mut stream, version, &body)?,
                12 if self.vice == Vice::ForgetPing && self.nth(&self.pings) => {}
                12 => stream.write_all(&[0xd0, 0])?,
                14 => return Ok(()),
                _ => {}
            }
        }
    }

    fn connect(&self, stream: &mut TcpStream, version: u8) -> std::io::Result<()> {
        let tail: &[u8] = if version == 5 { &[0] } else { &[] };
        let bad = matches!(self.vice, Vice::RefuseConnect | Vice::ForgetConnack) && self.nth(&self.connects);
        match self.vice {
            Vice::ForgetConnack if bad => return Ok(()),
            Vice::RefuseConnect if bad => stream.write_all(&[0x20, 2 + tail.len() as u8, 0, 5])?,
            _ => stream.write_all(&[0x20, 2 + tail.len() as u8, 0, 0])?,
        }
        stream.write_all(tail)
    }

    fn subscribe(&self, stream: &mut TcpStream, version: u8, body: &[u8]) -> std::io::Result<()> {
        let mut rest = &body[if version == 5 { 3 } else { 2 }..];
        let mut codes = Vec::new();
        while !rest.is_empty() {
            let length = usize::from(rest[0]) << 8 | usize::from(rest[1]);
            let (filter, qos) = (rest[2..2 + length].to_vec(), rest[2 + length]);
            rest = &rest[3 + length..];
            codes.push(if self.vice == Vice::RefuseSubscribe { 0x80 } else { qos });
            let to = Mutex::new(Outgoing { stream: stream.try_clone()?, last_id: 0, held: None });
            self.subscribers.lock().unwrap().push(Arc::new(Subscriber { filter, version, qos, to }));
        }
        let mut answer = vec![0x90, (codes.len() + if version == 5 { 3 } else { 2 }) as u8, body[0], body[1]];
        answer.extend_from_slice(if version == 5 { &[0] } else { &[] });
        answer.extend(codes);
        stream.write_all(&answer)
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
        let subscribers = self.subscribers.lock().unwrap().clone();
        for subscriber in subscribers.iter().filter(|subscriber| matches(&subscriber.filter, topic)) {
            self.deliver(subscriber, qos.min(subscriber.qos), topic, payload);
        }
        if self.vice == Vice::Misroute && self.nth(&self.deliveries) {
            let wrong = subscribers.iter().find(|subscriber| !matches(&subscriber.filter, topic));
            let _ = wrong
                .map(|wrong| wrong.to.lock().unwrap().send(wrong.version, 0x30 | qos << 1, topic, payload));
        }
        Ok(())
    }

    fn deliver(&self, subscriber: &Subscriber, qos: u8, topic: &[u8], payload: &[u8]) {
        let mut to = subscriber.to.lock().unwrap();
        let first = 0x30 | qos << 1;
        let version = subscriber.version;
        if !self.vice.is_of_a_delivery() || !self.nth(&self.deliveries) {
            to.send(version, first, topic, payload);
            if let Some(held) = to.held.take() {
                self.done.fetch_add(1, SeqCst);
                let _ = to.stream.write_all(&held);
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
                    let _ = to.stream.write_all(&earlier);
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
                let _ = to.stream.shutdown(std::net::Shutdown::Both);
            }
            Vice::SendGarbage => {
                let _ = to.stream.write_all(&[0x30, 0xff, 0xff, 0xff, 0xff, 0xff]);
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
        // A subscriber that is gone gets nothing.
        let _ = self.stream.write_all(&packet);
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

/// Whole levels, with `+` for one of them: what the scenarios subscribe to.
fn matches(filter: &[u8], topic: &[u8]) -> bool {
    let (mut filter, mut topic) = (filter.split(|byte| *byte == b'/'), topic.split(|byte| *byte == b'/'));
    loop {
        match (filter.next(), topic.next()) {
            (None, None) => return true,
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
