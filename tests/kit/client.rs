//! One client on one connection. It sends bytes, reads complete packets with a deadline, and checks each of
//! them against the standard. If an expectation fails, it shows the end of the conversation.

use crate::codec::Kind::*;
use crate::codec::*;
use crate::link::{Frames, Heard, Link, Next, PATIENCE};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The number of packets that a failure shows.
const SHOWN_PACKETS_MAX: usize = 24;
/// The number of bytes that a failure shows of each packet.
const SHOWN_BYTES_MAX: usize = 64;

/// A client that works with bytes.
pub struct Client {
    frames: Frames,
    /// The version in which its packets are written and read.
    pub version: Version,
    /// The client identifier. It is only used in the messages of failures.
    pub client_id: String,
    /// The CONNACK that has accepted the client, if there was one.
    pub connack: Option<Packet>,
    /// Whether the broker is not midge. An end with an unexpected reason code is then reported but is not a
    /// failure.
    pub tolerates_codes: bool,
    /// Whether messages with QoS 1 are acknowledged when they arrive, even if they are examined later.
    pub acknowledges_at_once: bool,
    /// Packets that were read during the search for another one.
    pending: Vec<Packet>,
    /// The last packets of the conversation.
    transcript: VecDeque<Spoken>,
    packet_bytes_max: usize,
    alias_maximum: u16,
    aliases: HashMap<u16, Vec<u8>>,
    next_id: u16,
    largest: u32,
}

/// A packet of the conversation, or its beginning.
struct Spoken {
    direction: &'static str,
    beginning: Vec<u8>,
    bytes: usize,
}

impl Client {
    /// A client on a new connection.
    pub fn over(link: impl Link + 'static, version: Version) -> Self {
        Self {
            frames: Frames::over(link),
            version,
            client_id: String::new(),
            connack: None,
            tolerates_codes: false,
            acknowledges_at_once: false,
            pending: Vec::new(),
            transcript: VecDeque::new(),
            packet_bytes_max: usize::MAX,
            alias_maximum: 0,
            aliases: HashMap::new(),
            next_id: 100,
            largest: 0,
        }
    }

    /// Sets the limits that the reader checks the broker's packets against, from the announcements in our
    /// CONNECT.
    pub fn announced(&mut self, connect: &Connect) {
        for property in &connect.properties {
            match property[..] {
                [MAXIMUM_PACKET_SIZE, a, b, c, d] => {
                    self.packet_bytes_max = u32::from_be_bytes([a, b, c, d]) as usize;
                }
                [TOPIC_ALIAS_MAXIMUM, a, b] => self.alias_maximum = u16::from_be_bytes([a, b]),
                _ => {}
            }
        }
    }

    /// Sends a packet, or bytes in the byte language. If the other side has closed, the next read reports it.
    pub fn send(&mut self, what: impl Encode) {
        let bytes = what.encode(self.version);
        self.note("->", &bytes);
        let _ = self.frames.link().send(&bytes);
    }

    /// Sends several packets in one write.
    pub fn send_all(&mut self, packets: &[&dyn Encode]) {
        let bytes: Vec<u8> = packets.iter().flat_map(|packet| packet.encode(self.version)).collect();
        self.send(bytes);
    }

    /// Ends the sending direction. Reading continues.
    pub fn finish(&mut self) {
        self.frames.link().finish();
    }

    /// Closes the connection without DISCONNECT, as a lost device does.
    pub fn vanish(mut self) {
        self.frames.link().vanish();
    }

    /// Sends DISCONNECT 0x00 and waits for the broker to close the connection.
    pub fn leave(mut self) {
        self.send(disconnect(0));
        self.pending.clear();
        let end = self.frames.now() + PATIENCE;
        while !matches!(self.next_within(end.saturating_sub(self.frames.now())), Next::Closed) {
            if self.frames.now() > end {
                self.fail("the broker to close after DISCONNECT");
            }
        }
    }

    /// The length of the largest packet received so far, in bytes.
    pub fn largest_packet(&self) -> u32 {
        self.largest
    }

    /// A new packet identifier.
    pub fn fresh_id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    /// The next packet or event, in the order of the connection.
    pub fn next_within(&mut self, time: Duration) -> Next<Box<Packet>> {
        if !self.pending.is_empty() {
            return Next::Packet(Box::new(self.pending.remove(0)));
        }
        self.next_from_link(time)
    }

    fn next_from_link(&mut self, time: Duration) -> Next<Box<Packet>> {
        match self.frames.next_within(time) {
            Ok(Next::Packet(bytes)) => Next::Packet(Box::new(self.judged(&bytes))),
            Ok(Next::Closed) if !self.frames.rest().is_empty() => self.fail("whole packets before the end"),
            Ok(Next::Closed) => Next::Closed,
            Ok(Next::Nothing) => Next::Nothing,
            Err(breach) => self.fail(&format!("no breach: {breach}")),
        }
    }

    /// The next bytes, not decoded. It is for answers to clients of an unknown version.
    pub fn next_raw(&mut self) -> Next<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.frames.link().receive(&mut bytes, PATIENCE) {
            Heard::Bytes => {
                self.note("<-", &bytes);
                Next::Packet(bytes)
            }
            Heard::Closed => Next::Closed,
            Heard::Nothing => self.fail("the end"),
        }
    }

    fn judged(&mut self, bytes: &[u8]) -> Packet {
        self.note("<-", bytes);
        self.largest = self.largest.max(bytes.len() as u32);
        let mut read = match decode(bytes, self.version) {
            Ok(packet) => packet,
            Err(breach) => self.fail(&format!("no breach: {breach}")),
        };
        self.check_limits(&mut read);
        if self.acknowledges_at_once && read.kind == Publish && read.qos == 1 {
            self.send(puback(read.id));
        }
        read
    }

    /// Checks [MQTT5-3.1.2-24], [MQTT5-3.1.2-26] and [MQTT5-3.3.2-11] for every packet, and resolves topic
    /// aliases.
    fn check_limits(&mut self, read: &mut Packet) {
        if read.bytes.len() > self.packet_bytes_max {
            self.fail("no packet above our Maximum Packet Size");
        }
        if self.connack.is_none() && !matches!(read.kind, Connack | Auth) {
            self.fail("CONNACK or AUTH as the first packet");
        }
        if read.kind == Connack && read.code == 0 {
            if self.connack.is_some() {
                self.fail("one CONNACK");
            }
            self.connack = Some(read.clone());
        }
        let Some(alias) = read.number(TOPIC_ALIAS).map(|alias| alias as u16) else { return };
        if read.kind != Publish {
            return;
        }
        if alias > self.alias_maximum {
            self.fail("no alias above our Topic Alias Maximum");
        }
        if !read.topic.is_empty() {
            self.aliases.insert(alias, read.topic.clone());
        }
        match self.aliases.get(&alias) {
            Some(topic) => read.topic = topic.clone(),
            None => self.fail("an alias that was bound on this connection"),
        }
    }

    /// The next packet of any kind.
    pub fn next_packet(&mut self) -> Packet {
        match self.next_within(PATIENCE) {
            Next::Packet(packet) => *packet,
            Next::Closed => self.fail("a packet, not the end"),
            Next::Nothing => self.fail("a packet in time"),
        }
    }

    /// The next packet must be of this kind.
    pub fn expect(&mut self, kind: Kind) -> Packet {
        let packet = self.next_packet();
        if packet.kind != kind {
            self.fail(&format!("{kind:?}"));
        }
        packet
    }

    /// The first packet of this kind. Other packets before it are kept for later.
    pub fn find(&mut self, kind: Kind) -> Packet {
        self.find_within(kind, PATIENCE).unwrap_or_else(|| self.fail(&format!("{kind:?}")))
    }

    /// The same, if the packet comes within `time`. Over loopback the limit is five times as long, because
    /// the machine may be busy.
    pub fn find_within(&mut self, kind: Kind, time: Duration) -> Option<Packet> {
        let time = if self.frames.is_virtual() { time } else { 5 * time };
        if let Some(read) = self.find_read(kind) {
            return Some(read);
        }
        let end = self.frames.now() + time;
        loop {
            match self.next_from_link(end.saturating_sub(self.frames.now())) {
                Next::Packet(packet) if packet.kind == kind => return Some(*packet),
                Next::Packet(packet) => self.pending.push(*packet),
                Next::Closed | Next::Nothing => return None,
            }
        }
    }

    /// The first packet of this kind among those that were read during the search for another one.
    pub fn find_read(&mut self, kind: Kind) -> Option<Packet> {
        let at = self.pending.iter().position(|packet| packet.kind == kind)?;
        Some(self.pending.remove(at))
    }

    /// Expects the acknowledgement of `kind` for `id`. Returns its code.
    pub fn expect_ack(&mut self, kind: Kind, id: u16) -> u8 {
        let ack = self.find(kind);
        if ack.id != id {
            self.fail(&format!("{kind:?} of {id}"));
        }
        ack.code
    }

    /// The next PUBLISH. It must have this topic and payload. It is not acknowledged.
    pub fn expect_message(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> Packet {
        let message = self.find(Publish);
        if message.topic != topic.as_bytes() || message.payload != payload.as_ref() {
            self.fail(&format!("{:?} on {topic}", String::from_utf8_lossy(payload.as_ref())));
        }
        message
    }

    /// A live message with this payload. If it was published directly after a SUBSCRIBE, it may come as a
    /// retained message before, because the query for those may still be running.
    pub fn expect_live(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> Packet {
        loop {
            let message = self.expect_message(topic, &payload);
            if !message.retain {
                return message;
            }
            self.acknowledge(&message);
        }
    }

    /// Expects that nothing arrives for this time, and that nothing is unread.
    pub fn expect_nothing_for(&mut self, milliseconds: u64) {
        match self.next_within(Duration::from_millis(milliseconds)) {
            Next::Nothing => {}
            other => self.fail(&format!("nothing, not {other:?}")),
        }
    }

    /// Expects that nothing arrives before the answer to a PINGREQ, nor for a moment after it.
    pub fn expect_nothing(&mut self) {
        self.ping();
        self.expect_nothing_for(200);
    }

    /// Expects the end of the connection, without any byte before it.
    pub fn expect_closed(&mut self) {
        match self.next_within(PATIENCE) {
            Next::Closed => {}
            other => self.fail(&format!("the end, not {other:?}")),
        }
    }

    /// Reads everything until the end of the connection.
    pub fn expect_end(&mut self) -> Vec<Packet> {
        let mut last = Vec::new();
        loop {
            match self.next_within(PATIENCE) {
                Next::Packet(packet) => last.push(*packet),
                Next::Closed => return last,
                Next::Nothing => self.fail("the end"),
            }
        }
    }

    /// Expects the end of the connection. A 5.0 client must get a DISCONNECT with one of these codes before
    /// it, an older client nothing.
    pub fn expect_disconnect(&mut self, codes: &[u8]) {
        self.expect_end_with(Disconnect, codes, self.version != V5);
    }

    /// Expects a CONNACK with one of these codes and the end of the connection. An older client may get only
    /// the end.
    pub fn expect_refused(&mut self, codes: &[u8]) {
        self.expect_end_with(Connack, codes, self.version != V5);
    }

    fn expect_end_with(&mut self, kind: Kind, codes: &[u8], bare: bool) {
        let last = self.expect_end();
        let (fitting, tolerable) = match &last[..] {
            [] => (bare, true),
            [packet] if packet.kind == kind => (codes.contains(&packet.code), packet.code >= 0x80),
            _ => (false, false),
        };
        if fitting {
            return;
        }
        let wanted = format!("{kind:?} with one of {codes:02X?} and the end");
        if !self.tolerates_codes || !tolerable {
            self.fail(&wanted);
        }
        println!("DEVIATES: {:?} expected {wanted}\n{}", self.client_id, self.tail());
    }

    /// Checks that the connection works: PINGREQ is answered.
    pub fn ping(&mut self) {
        self.send(pingreq());
        self.find(Pingresp);
    }

    /// Subscribes to one filter. Returns the code.
    pub fn subscribe(&mut self, filter: impl AsRef<[u8]>, options: u8) -> u8 {
        let id = self.fresh_id();
        self.request(subscribe(id).filter(filter, options), Suback)[0]
    }

    /// Sends SUBSCRIBE or UNSUBSCRIBE. Returns the codes of the answer.
    pub fn request(&mut self, packet: impl Encode, answer: Kind) -> Vec<u8> {
        self.send(packet);
        self.find(answer).codes
    }

    /// Publishes a message and completes the exchange of its QoS. Returns the code of PUBACK or PUBREC. For
    /// QoS 0, the answer to a PINGREQ shows that the broker has read the message, so that later actions of
    /// other clients come after it.
    pub fn publish(&mut self, message: Message) -> u8 {
        self.send(message.clone());
        match message.qos {
            0 => {
                self.ping();
                0
            }
            1 => self.expect_ack(Puback, message.id),
            _ => {
                let code = self.expect_ack(Pubrec, message.id);
                if code < 0x80 {
                    self.send(pubrel(message.id));
                    self.expect_ack(Pubcomp, message.id);
                }
                code
            }
        }
    }

    /// Completes the receiver's exchange for a message.
    pub fn acknowledge(&mut self, message: &Packet) {
        match message.qos {
            0 => {}
            1 => self.send(puback(message.id)),
            _ => {
                self.send(pubrec(message.id));
                self.expect_ack(Pubrel, message.id);
                self.send(pubcomp(message.id));
            }
        }
    }

    /// Sends only the first answer of the receiver's exchange: PUBACK or PUBREC.
    pub fn acknowledge_without_waiting(&mut self, message: &Packet) {
        match message.qos {
            0 => {}
            1 => self.send(puback(message.id)),
            _ => self.send(pubrec(message.id)),
        }
    }

    /// Acknowledges the next `count` messages. Returns their payloads.
    pub fn collect(&mut self, count: usize) -> Vec<String> {
        let mut payloads = Vec::new();
        for _ in 0..count {
            let message = self.find(Publish);
            self.acknowledge(&message);
            payloads.push(message.payload_text());
        }
        payloads
    }

    fn note(&mut self, direction: &'static str, bytes: &[u8]) {
        if self.transcript.len() == SHOWN_PACKETS_MAX {
            self.transcript.pop_front();
        }
        let beginning = bytes[..bytes.len().min(SHOWN_BYTES_MAX)].to_vec();
        self.transcript.push_back(Spoken { direction, beginning, bytes: bytes.len() });
    }

    fn tail(&self) -> String {
        let lines = self.transcript.iter().map(|Spoken { direction, beginning, bytes }| {
            let shown: Vec<String> = beginning.iter().map(|byte| format!("{byte:02X}")).collect();
            let cut = if *bytes > beginning.len() { format!(" … {bytes} bytes") } else { String::new() };
            format!("  {direction} {}{cut}", shown.join(" "))
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Fails with the expectation and the conversation.
    ///
    /// # Panics
    /// Always.
    pub fn fail(&self, wanted: &str) -> ! {
        panic!(
            "{:?} client {:?} expected {wanted}; the conversation:\n{}",
            self.version,
            self.client_id,
            self.tail()
        )
    }
}
