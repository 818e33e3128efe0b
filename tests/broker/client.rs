//! A 5.0 client for most tests: it is accepted, acknowledges messages, and counts the traffic in both
//! directions.

use midge_kit::codec::{self, Encode, Kind, Packet, V5};
use midge_kit::open;
use std::net::{SocketAddr, TcpStream};

/// The traffic of one or more connections, as their clients have counted it.
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

/// A received PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) retain: bool,
}

/// A connected client.
pub(crate) struct Client {
    client: midge_kit::Client,
    /// The stream that carries its packets.
    stream: TcpStream,
    tally: Tally,
    messages: Vec<Message>,
}

impl Client {
    /// Connects and is accepted.
    pub(crate) fn connect(address: SocketAddr, id: &str, clean_start: bool, expiry_seconds: u32) -> Client {
        let (client, reason) = Client::try_connect(address, id, clean_start, expiry_seconds);
        assert_eq!(reason, 0, "CONNACK for {id}");
        client
    }

    /// Connects, and returns the reason code of the broker's answer.
    pub(crate) fn try_connect(
        address: SocketAddr,
        id: &str,
        clean_start: bool,
        expiry_seconds: u32,
    ) -> (Client, u8) {
        let connect = codec::connect(V5, id).expiry(expiry_seconds);
        Client::try_connect_with(address, if clean_start { connect } else { connect.resume() })
    }

    /// Connects with a clean session and a QoS 1 will on a topic, and is accepted.
    pub(crate) fn connect_with_will(address: SocketAddr, id: &str, topic: &str) -> Client {
        let will = codec::will(topic, "gone").qos(1);
        let (client, reason) = Client::try_connect_with(address, codec::connect(V5, id).expiry(0).will(will));
        assert_eq!(reason, 0, "CONNACK for {id}");
        client
    }

    /// The keep alive is 0, so that no PINGREQ changes the numbers.
    fn try_connect_with(address: SocketAddr, connect: codec::Connect) -> (Client, u8) {
        let stream = open(address);
        let mut client = midge_kit::Client::over(stream.try_clone().expect("a socket"), V5);
        client.client_id = String::from_utf8_lossy(&connect.client_id).into_owned();
        let mut client = Client { client, stream, tally: Tally::default(), messages: Vec::new() };
        client.send(connect);
        let connack = client.receive();
        assert_eq!(connack.kind, Kind::Connack);
        (client, connack.code)
    }

    /// Subscribes with a QoS, and is granted it.
    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) {
        let id = self.client.fresh_id();
        self.send(codec::subscribe(id).filter(filter, qos));
        let suback = self.answer(Kind::Suback, id);
        assert_eq!((&suback.codes[..], suback.properties.len()), (&[qos][..], 0), "SUBACK for {filter}");
    }

    pub(crate) fn unsubscribe(&mut self, filter: &str) {
        let id = self.client.fresh_id();
        self.send(codec::unsubscribe(id).filter(filter));
        let unsuback = self.answer(Kind::Unsuback, id);
        assert_eq!((&unsuback.codes[..], unsuback.properties.len()), (&[0][..], 0), "UNSUBACK for {filter}");
    }

    /// Publishes with QoS 0.
    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) {
        self.send_publish(codec::publish(topic, payload), retain);
    }

    /// Publishes with QoS 1, and returns the reason code of the PUBACK.
    pub(crate) fn publish_acknowledged(&mut self, topic: &str, payload: &[u8], retain: bool) -> u8 {
        let id = self.client.fresh_id();
        self.send_publish(codec::publish(topic, payload).qos1(id), retain);
        self.answer(Kind::Puback, id).code
    }

    /// The next message. Those that came before an answer are first. QoS 1 is acknowledged.
    pub(crate) fn message(&mut self) -> Message {
        while self.messages.is_empty() {
            let packet = self.receive();
            assert_eq!(packet.kind, Kind::Publish, "{packet:?}");
        }
        self.messages.remove(0)
    }

    /// Forgets the messages that came and were not taken.
    pub(crate) fn forget_messages(&mut self) {
        self.messages.clear();
    }

    /// Sends DISCONNECT, and waits until the broker has closed the connection.
    pub(crate) fn disconnect(mut self) -> Tally {
        self.send(codec::disconnect(0));
        self.client.expect_closed();
        self.tally
    }

    /// Waits for the broker to end the connection with a DISCONNECT, and nothing else.
    pub(crate) fn read_to_end(mut self) -> Tally {
        assert_eq!(self.receive().kind, Kind::Disconnect);
        self.client.expect_closed();
        self.tally
    }

    /// Waits for the broker to end the connection with a DISCONNECT: its reason code and its Server Reference.
    pub(crate) fn read_disconnect(mut self) -> (u8, Option<String>) {
        let packet = self.receive();
        assert_eq!(packet.kind, Kind::Disconnect, "{packet:?}");
        self.client.expect_closed();
        (packet.code, packet.text(0x1C).map(|text| String::from_utf8_lossy(text).into_owned()))
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("connected")
    }

    /// The underlying connection. Everything that came has been read.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn send_publish(&mut self, message: codec::Message, retain: bool) {
        self.tally.publishes_sent += 1;
        self.tally.payload_bytes_sent += message.payload.len() as u64;
        self.send(if retain { message.retain() } else { message });
    }

    fn send(&mut self, packet: impl Encode) {
        let bytes = packet.encode(V5);
        self.tally.bytes_sent += bytes.len() as u64;
        self.tally.packets_sent += 1;
        self.client.send(bytes);
    }

    /// The answer to a packet. Messages before it are kept.
    fn answer(&mut self, kind: Kind, id: u16) -> Packet {
        loop {
            let packet = self.receive();
            if packet.kind != Kind::Publish {
                assert_eq!((packet.kind, packet.id), (kind, id));
                return packet;
            }
        }
    }

    fn receive(&mut self) -> Packet {
        let packet = self.client.next_packet();
        self.tally.bytes_received += packet.bytes.len() as u64;
        self.tally.packets_received += 1;
        if packet.kind == Kind::Publish {
            self.tally.publishes_received += 1;
            self.tally.payload_bytes_received += packet.payload.len() as u64;
            let (topic, payload) = (packet.topic_text(), packet.payload.clone());
            self.messages.push(Message { topic, payload, retain: packet.retain });
            match packet.qos {
                0 => {}
                1 => self.send(codec::puback(packet.id)),
                _ => panic!("no test asks for QoS 2"),
            }
        }
        packet
    }
}
