//! The layers between a client's MQTT and its socket: the header of a load balancer, and WebSocket. TLS, which is
//! between them, is in the module `tls`.

use crate::random::Random;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// The layers that the clients of a run use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    pub proxy: bool,
    pub tls: bool,
    pub websocket: bool,
}

impl Layers {
    /// This is not drawn, so that the other actions of a seed do not change.
    pub fn of(seed: u64) -> Layers {
        let number = seed / 11 % 6;
        Layers {
            proxy: number == 4 || number == 5,
            tls: seed / 17 % 6 == 2,
            websocket: number == 3 || number == 5,
        }
    }
}

/// The load balancer that all connections come from, if there is one.
pub const BALANCER: ([u8; 4], u16) = ([192, 0, 2, 1], 4000);

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: mqtt\r\n\r\n";

/// The header for a client with this address.
pub fn proxy_header(peer: SocketAddr) -> Vec<u8> {
    let (ip, port) = (peer.ip(), peer.port());
    format!("PROXY TCP4 {ip} 192.0.2.2 {port} 1883\r\n").into_bytes()
}

/// The client's end.
#[derive(Default)]
pub struct Wire {
    websocket: bool,
    /// The bytes before the first message.
    preface: Vec<u8>,
    /// The number of wrapped bytes, with the layers.
    raw: u64,
    /// The parts that are MQTT: the start in the raw bytes, the length, and the number of MQTT bytes before
    /// it.
    pieces: VecDeque<(u64, u64, u64)>,
    mqtt: u64,
}

impl Wire {
    /// The wire begins with the header, if there is one.
    pub fn new(layers: Layers, header: Vec<u8>) -> Wire {
        let mut preface = header;
        if layers.websocket {
            preface.extend_from_slice(REQUEST);
        }
        Wire { websocket: layers.websocket, preface, ..Wire::default() }
    }

    /// The raw bytes for these MQTT bytes.
    pub fn wrap(&mut self, mqtt: &[u8], rng: &mut Random) -> Vec<u8> {
        let mut raw = std::mem::take(&mut self.preface);
        if !self.websocket {
            self.put(mqtt, &mut raw);
        } else {
            // Sometimes a message has two frames, with a ping between them.
            let cut = if rng.chance(100) { rng.index(mqtt.len() + 1) } else { mqtt.len() };
            let (first, rest) = mqtt.split_at(cut);
            self.frame(if rest.is_empty() { 0x82 } else { 0x02 }, first, rng, &mut raw);
            if !rest.is_empty() {
                if rng.chance(500) {
                    let at = self.mqtt;
                    self.frame(0x89, b"", rng, &mut raw);
                    debug_assert_eq!(self.mqtt, at);
                }
                self.frame(0x80, rest, rng, &mut raw);
            }
        }
        self.raw += raw.len() as u64;
        raw
    }

    fn frame(&mut self, opcode: u8, payload: &[u8], rng: &mut Random, raw: &mut Vec<u8>) {
        raw.push(opcode);
        match payload.len() {
            len @ ..126 => raw.push(0x80 | len as u8),
            len @ ..0x1_0000 => {
                raw.push(0x80 | 126);
                raw.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                raw.push(0x80 | 127);
                raw.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        let mask = (rng.below(1 << 32) as u32).to_be_bytes();
        raw.extend_from_slice(&mask);
        let masked: Vec<u8> =
            payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        self.put(&masked, raw);
    }

    fn put(&mut self, bytes: &[u8], raw: &mut Vec<u8>) {
        let at = self.raw + raw.len() as u64;
        self.pieces.push_back((at, bytes.len() as u64, self.mqtt));
        self.mqtt += bytes.len() as u64;
        raw.extend_from_slice(bytes);
    }

    /// The number of MQTT bytes in the first `raw` bytes.
    pub fn mqtt_in(&self, raw: u64) -> u64 {
        let piece = self.pieces.iter().rev().find(|&&(at, ..)| at <= raw);
        piece.map_or(0, |&(at, len, before)| before + len.min(raw - at))
    }

    /// Forgets positions before `raw`. They are not queried any more.
    pub fn forget(&mut self, raw: u64) {
        while self.pieces.len() > 1 && self.pieces[1].0 <= raw {
            self.pieces.pop_front();
        }
    }
}

/// Removes the layers from what the broker sends.
#[derive(Default)]
pub struct Unwrap {
    websocket: bool,
    has_response: bool,
    held: Vec<u8>,
}

impl Unwrap {
    pub fn new(layers: Layers) -> Unwrap {
        Unwrap { websocket: layers.websocket, ..Unwrap::default() }
    }

    /// The MQTT in the next bytes.
    pub fn take(&mut self, raw: &[u8]) -> Result<Vec<u8>, String> {
        if !self.websocket {
            return Ok(raw.to_vec());
        }
        self.held.extend_from_slice(raw);
        if !self.has_response {
            let end = self.held.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else { return Ok(Vec::new()) };
            if !self.held.starts_with(b"HTTP/1.1 101 ") {
                return Err(format!("the upgrade is answered by {:?}", String::from_utf8_lossy(&self.held)));
            }
            self.held.drain(..end + 4);
            self.has_response = true;
        }
        let mut mqtt = Vec::new();
        while let Some((opcode, head, len)) = self.header()? {
            if self.held.len() < head + len {
                break;
            }
            let payload = self.held[head..head + len].to_vec();
            self.held.drain(..head + len);
            match opcode {
                0x82 => mqtt.extend_from_slice(&payload),
                // These are Close and Pong.
                0x88 | 0x8A => {}
                other => return Err(format!("a frame of the broker begins with {other:02X}")),
            }
        }
        Ok(mqtt)
    }

    /// The first byte of the next frame, the length of its header, and the length of its payload.
    fn header(&self) -> Result<Option<(u8, usize, usize)>, String> {
        let [opcode, short, rest @ ..] = &self.held[..] else { return Ok(None) };
        Ok(match (short, rest) {
            (128.., _) => return Err("the broker masks".into()),
            (126, [high, low, ..]) => Some((*opcode, 4, usize::from(u16::from_be_bytes([*high, *low])))),
            (127, bytes) => {
                bytes.first_chunk::<8>().map(|len| (*opcode, 10, u64::from_be_bytes(*len) as usize))
            }
            (126, _) => None,
            (len, _) => Some((*opcode, 2, usize::from(*len))),
        })
    }
}
