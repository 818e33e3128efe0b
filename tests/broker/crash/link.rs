//! One connection of a client that must live with the broker's sudden end: every failure is a value.

pub(super) use crate::running::PATIENCE;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Publish { id: u16, qos: u8, dup: bool, retain: bool, topic: String, payload: Vec<u8> },
    Puback { id: u16, reason: u8 },
    Pubrec { id: u16, reason: u8 },
    Pubrel { id: u16 },
    Pubcomp { id: u16 },
    Suback { id: u16, reason: u8 },
    Unsuback { id: u16, reason: u8 },
}

pub(super) struct Link {
    stream: TcpStream,
    /// What came and is not a whole packet yet.
    bytes: Vec<u8>,
}

impl Link {
    /// Connects without Clean Start, for a session that outlives the connection; says whether there was one.
    pub(super) fn resume(address: SocketAddr, id: &str) -> io::Result<(Link, bool)> {
        Link::connect(address, id, 0, 3600)
    }

    /// Connects for a session that ends with the connection.
    pub(super) fn visit(address: SocketAddr, id: &str) -> io::Result<Link> {
        Ok(Link::connect(address, id, 2, 0)?.0)
    }

    fn connect(address: SocketAddr, id: &str, flags: u8, expiry_seconds: u32) -> io::Result<(Link, bool)> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut link = Link { stream, bytes: Vec::new() };
        let mut body = b"\x00\x04MQTT\x05".to_vec();
        body.extend([flags, 0, 0, 5, 0x11]);
        body.extend(expiry_seconds.to_be_bytes());
        string(&mut body, id);
        link.send(0x10, &body)?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some((head, body)) = link.packet(Duration::from_millis(100))? {
                return match (head, &body[..]) {
                    (0x20, [flags, 0, ..]) => Ok((link, flags & 1 == 1)),
                    _ => Err(broken(format!("CONNACK, not {head:#x} {body:?}"))),
                };
            }
            if Instant::now() > until {
                return Err(broken("no CONNACK came"));
            }
        }
    }

    pub(super) fn publish(&mut self, head: u8, id: u16, topic: &str, payload: &str) -> io::Result<()> {
        let mut body = Vec::new();
        string(&mut body, topic);
        body.extend(id.to_be_bytes());
        body.push(0);
        body.extend(payload.as_bytes());
        self.send(0x30 | head, &body)
    }

    /// Sends an acknowledgement: a head and a packet identifier.
    pub(super) fn acknowledge(&mut self, head: u8, id: u16) -> io::Result<()> {
        self.send(head, &id.to_be_bytes())
    }

    pub(super) fn subscribe(&mut self, id: u16, filter: &str, qos: u8) -> io::Result<()> {
        let mut body = id.to_be_bytes().to_vec();
        body.push(0);
        string(&mut body, filter);
        body.push(qos);
        self.send(0x82, &body)
    }

    pub(super) fn unsubscribe(&mut self, id: u16, filter: &str) -> io::Result<()> {
        let mut body = id.to_be_bytes().to_vec();
        body.push(0);
        string(&mut body, filter);
        self.send(0xA2, &body)
    }

    /// The next packet, or none within `patience`.
    pub(super) fn receive(&mut self, patience: Duration) -> io::Result<Option<Packet>> {
        let Some((head, body)) = self.packet(patience)? else { return Ok(None) };
        match read(head, &body) {
            Some(packet) => Ok(Some(packet)),
            None => Err(broken(format!("{head:#x} {body:?} came"))),
        }
    }

    fn send(&mut self, head: u8, body: &[u8]) -> io::Result<()> {
        assert!(body.len() < 128, "a length of one byte");
        let mut packet = vec![head, body.len() as u8];
        packet.extend(body);
        self.stream.write_all(&packet)
    }

    fn packet(&mut self, patience: Duration) -> io::Result<Option<(u8, Vec<u8>)>> {
        let until = Instant::now() + patience;
        loop {
            if let [head, length, rest @ ..] = &self.bytes[..] {
                if *length > 127 {
                    return Err(broken("a packet longer than the test sends"));
                }
                if let Some(body) = rest.get(..usize::from(*length)) {
                    let packet = (*head, body.to_vec());
                    self.bytes.drain(..2 + usize::from(*length));
                    return Ok(Some(packet));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.bytes.extend(&bytes[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn read(head: u8, body: &[u8]) -> Option<Packet> {
    let id = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let reason = body.get(2).copied().unwrap_or(0);
    Some(match head {
        0x40 => Packet::Puback { id: id(0)?, reason },
        0x50 => Packet::Pubrec { id: id(0)?, reason },
        0x62 => Packet::Pubrel { id: id(0)? },
        0x70 => Packet::Pubcomp { id: id(0)? },
        // After the identifier come properties, none, and one reason code.
        0x90 => Packet::Suback { id: id(0)?, reason: *body.get(3)? },
        0xB0 => Packet::Unsuback { id: id(0)?, reason: *body.get(3)? },
        _ if head >> 4 == 3 && matches!(head >> 1 & 3, 1 | 2) => {
            let topic_ends = 2 + usize::from(id(0)?);
            let topic = String::from_utf8(body.get(2..topic_ends)?.to_vec()).ok()?;
            let properties = usize::from(*body.get(topic_ends + 2)?);
            Packet::Publish {
                id: id(topic_ends)?,
                qos: head >> 1 & 3,
                dup: head & 8 != 0,
                retain: head & 1 != 0,
                topic,
                payload: body.get(topic_ends + 3 + properties..)?.to_vec(),
            }
        }
        _ => return None,
    })
}

/// The broker broke a rule: unlike the end of a connection, this is never the kill's doing.
pub(super) fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.into())
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
    out.extend(text.as_bytes());
}
