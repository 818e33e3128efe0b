//! A small MQTT 5.0 client over a blocking socket that counts what goes each way: written out byte
//! by byte, so that it shares no mistake with the broker.

use crate::running::PATIENCE;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// What went over one or more connections, as their clients saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) packets_sent: u64,
    pub(crate) packets_received: u64,
    pub(crate) publishes_sent: u64,
    pub(crate) publishes_received: u64,
    pub(crate) payload_bytes_sent: u64,
    pub(crate) payload_bytes_received: u64,
}

impl std::ops::Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally {
            bytes_sent: self.bytes_sent + other.bytes_sent,
            bytes_received: self.bytes_received + other.bytes_received,
            packets_sent: self.packets_sent + other.packets_sent,
            packets_received: self.packets_received + other.packets_received,
            publishes_sent: self.publishes_sent + other.publishes_sent,
            publishes_received: self.publishes_received + other.publishes_received,
            payload_bytes_sent: self.payload_bytes_sent + other.payload_bytes_sent,
            payload_bytes_received: self.payload_bytes_received + other.payload_bytes_received,
        }
    }
}

/// A PUBLISH that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) retain: bool,
}

/// A client that is in.
pub(crate) struct Client {
    stream: TcpStream,
    tally: Tally,
    messages: Vec<Message>,
    packet_id: u16,
}

impl Client {
    /// Connects, and is let in.
    pub(crate) fn connect(address: SocketAddr, id: &str, clean_start: bool, expiry_seconds: u32) -> Client {
        let (client, reason) = Client::try_connect(address, id, clean_start, expiry_seconds);
        assert_eq!(reason, 0, "CONNACK for {id}");
        client
    }

    /// Connects, and says with which reason code the broker answered.
    pub(crate) fn try_connect(
        address: SocketAddr,
        id: &str,
        clean_start: bool,
        expiry_seconds: u32,
    ) -> (Client, u8) {
        let mut payload = Vec::new();
        string(&mut payload, id);
        Client::try_connect_with(address, u8::from(clean_start) << 1, expiry_seconds, &payload)
    }

    /// With a clean session and a will of QoS 1 on a topic, and is let in.
    pub(crate) fn connect_with_will(address: SocketAddr, id: &str, topic: &str) -> Client {
        let mut payload = Vec::new();
        string(&mut payload, id);
        payload.push(0);
        string(&mut payload, topic);
        string(&mut payload, "gone");
        let (client, reason) = Client::try_connect_with(address, 0b1110, 0, &payload);
        assert_eq!(reason, 0, "CONNACK for {id}");
        client
    }

    fn try_connect_with(address: SocketAddr, flags: u8, expiry_seconds: u32, payload: &[u8]) -> (Client, u8) {
        let until = Instant::now() + PATIENCE;
        let stream = loop {
            match TcpStream::connect(address) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        let mut client = Client { stream, tally: Tally::default(), messages: Vec::new(), packet_id: 0 };
        let mut body = b"\x00\x04MQTT\x05".to_vec();
        // Keep alive 0: no PINGREQ blurs the figures.
        body.extend([flags, 0, 0, 5, 0x11]);
        body.extend(expiry_seconds.to_be_bytes());
        body.extend(payload);
        client.send(0x10, &body);
        let (head, body) = client.receive();
        assert_eq!(head, 0x20, "CONNACK");
        (client, body[1])
    }

    /// Subscribes at a QoS, and is granted it.
    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) {
        let id = self.next_packet_id();
        let mut body = id.to_vec();
        body.push(0);
        string(&mut body, filter);
        body.push(qos);
        self.send(0x82, &body);
        assert_eq!(self.answer(0x90, id), [0, qos], "SUBACK for {filter}");
    }

    pub(crate) fn unsubscribe(&mut self, filter: &str) {
        let id = self.next_packet_id();
        let mut body = id.to_vec();
        body.push(0);
        string(&mut body, filter);
        self.send(0xA2, &body);
        assert_eq!(self.answer(0xB0, id), [0, 0], "UNSUBACK for {filter}");
    }

    /// Publishes with QoS 0.
    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) {
        let mut body = Vec::new();
        string(&mut body, topic);
        body.push(0);
        self.send_publish(0x30 | u8::from(retain), body, payload);
    }

    /// Publishes with QoS 1, and returns the reason code of the PUBACK.
    pub(crate) fn publish_acknowledged(&mut self, topic: &str, payload: &[u8], retain: bool) -> u8 {
        let id = self.next_packet_id();
        let mut body = Vec::new();
        string(&mut body, topic);
        body.extend(id);
        body.push(0);
        self.send_publish(0x32 | u8::from(retain), body, payload);
        self.answer(0x40, id).first().copied().unwrap_or(0)
    }

    /// The next message, those that came before an answer first. QoS 1 is acknowledged.
    pub(crate) fn message(&mut self) -> Message {
        while self.messages.is_empty() {
            let (head, body) = self.receive();
            assert_eq!(head >> 4, 3, "a PUBLISH, not {head:#x} {body:?}");
        }
        self.messages.remove(0)
    }

    /// Messages that came and that no one has asked for.
    pub(crate) fn forget_messages(&mut self) {
        self.messages.clear();
    }

    /// Says goodbye, and waits until the broker has closed.
    pub(crate) fn disconnect(mut self) -> Tally {
        self.send(0xE0, &[]);
        assert_eq!(self.rest(), b"", "nothing comes after DISCONNECT");
        self.tally
    }

    /// The broker ends the connection: with a DISCONNECT, and no more.
    pub(crate) fn read_to_end(mut self) -> Tally {
        let (head, _) = self.receive();
        assert_eq!(head, 0xE0);
        assert_eq!(self.rest(), b"", "nothing comes after DISCONNECT");
        self.tally
    }

    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection stays open: {error}"),
        }
        rest
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("connected")
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn next_packet_id(&mut self) -> [u8; 2] {
        self.packet_id += 1;
        self.packet_id.to_be_bytes()
    }

    fn send_publish(&mut self, head: u8, mut body: Vec<u8>, payload: &[u8]) {
        body.extend(payload);
        self.tally.publishes_sent += 1;
        self.tally.payload_bytes_sent += payload.len() as u64;
        self.send(head, &body);
    }

    fn send(&mut self, head: u8, body: &[u8]) {
        let packet = packet(head, body);
        self.stream.write_all(&packet).expect("the broker reads");
        self.tally.bytes_sent += packet.len() as u64;
        self.tally.packets_sent += 1;
    }

    /// What follows the packet identifier in an answer; messages that come before it are kept.
    fn answer(&mut self, head: u8, id: [u8; 2]) -> Vec<u8> {
        loop {
            let (got, body) = self.receive();
            if got >> 4 != 3 {
                assert_eq!((got, &body[..2]), (head, &id[..]));
                return body[2..].to_vec();
            }
        }
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let (head, body) = read_packet(&mut self.stream);
        self.tally.bytes_received += packet(head, &body).len() as u64;
        self.tally.packets_received += 1;
        if head >> 4 == 3 {
            self.take_publish(head, &body);
        }
        (head, body)
    }

    fn take_publish(&mut self, head: u8, body: &[u8]) {
        let topic_ends = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..topic_ends].to_vec()).expect("UTF-8");
        let qos = head >> 1 & 3;
        let properties = topic_ends + if qos > 0 { 2 } else { 0 };
        assert!(body[properties] < 128, "short properties");
        let payload = body[properties + 1 + usize::from(body[properties])..].to_vec();
        self.tally.publishes_received += 1;
        self.tally.payload_bytes_received += payload.len() as u64;
        self.messages.push(Message { topic, payload, retain: head & 1 == 1 });
        match qos {
            0 => {}
            1 => self.send(0x40, &body[topic_ends..properties]),
            _ => panic!("no test asks for QoS 2"),
        }
    }
}

/// The next packet: its first byte, and what follows its length.
pub(crate) fn read_packet(stream: &mut impl Read) -> (u8, Vec<u8>) {
    let mut byte = || {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a packet");
        byte[0]
    };
    let head = byte();
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = byte();
        length |= usize::from(byte & 127) << shift;
        shift += 7;
        if byte < 128 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("the whole packet");
    (head, body)
}

/// A packet, as bytes.
pub(crate) fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![head];
    let mut length = body.len();
    while length > 127 {
        packet.push((length % 128) as u8 | 128);
        length /= 128;
    }
    packet.push(length as u8);
    packet.extend(body);
    packet
}

/// A text with its length before it.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).expect("short").to_be_bytes(), text.as_bytes()].concat()
}

/// The same, at the end of a packet's body.
pub(crate) fn string(out: &mut Vec<u8>, string: &str) {
    out.extend(text(string));
}
