//! The client side of RFC 6455, as far as MQTT needs it: one request, binary frames in both
//! directions, and answers to pings. Like the codec, it shares no code with a broker, so that it
//! checks the broker against the standard.

use std::sync::Arc;

use crate::net::Closed;

/// The WebSocket of one connection.
pub(super) struct WebSocket {
    request: Arc<[u8]>,
    state: State,
    /// The beginning of an incomplete response, header or control frame.
    partial: Vec<u8>,
    /// Number of payload bytes of the current frame that have not arrived.
    missing: u64,
    /// The current message has more frames.
    fragmented: bool,
    mask: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    /// The request is sent.
    Requested,
    Open,
    Closed,
}

/// RFC 6455, section 4.1, requires a random nonce, so that a cache cannot answer. There is no cache
/// between a load test and its broker. The example of section 1.3 and its answer avoid the need for
/// SHA-1.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const KEY_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A longer response is refused.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;
const CONTROL_BYTES_MAX: u64 = 125;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Parses the value of the flag.
pub(super) fn path(text: &str) -> Result<String, String> {
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.starts_with('/') && is_plain(text) {
        Ok(text.to_owned())
    } else {
        Err("must be a path that begins with /".to_owned())
    }
}

/// The request that opens a WebSocket for MQTT. [MQTT5-6.0.0-3]
pub(super) fn request(path: &str, host: &str, port: u16) -> Vec<u8> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

impl WebSocket {
    pub(super) fn new(request: Arc<[u8]>) -> WebSocket {
        WebSocket {
            request,
            state: State::New,
            partial: Vec::new(),
            missing: 0,
            fragmented: false,
            mask: 0x9e37_79b9,
        }
    }

    pub(super) fn is_requested(&self) -> bool {
        self.state != State::New
    }

    pub(super) fn is_established(&self) -> bool {
        self.state == State::Open
    }

    pub(super) fn start(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request);
        self.state = State::Requested;
    }

    /// Handles received bytes: the response first, then frames, whose data is appended to `mqtt`.
    /// Returns whether the broker has closed the WebSocket.
    pub(super) fn receive(
        &mut self,
        received: &[u8],
        mqtt: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<bool, Closed> {
        let joined;
        let mut bytes = received;
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(received);
            joined = std::mem::take(&mut self.partial);
            bytes = &joined;
        }
        if self.state == State::Requested {
            match check_response(bytes)? {
                Some(used) => {
                    self.state = State::Open;
                    bytes = &bytes[used..];
                }
                None if bytes.len() > RESPONSE_BYTES_MAX => return Err(refused("the response is too long")),
                None => {}
            }
        }
        while self.state == State::Open {
            if self.missing > 0 {
                let count = bytes.len().min(usize::try_from(self.missing).unwrap_or(usize::MAX));
                mqtt.extend_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                self.missing -= count as u64;
            }
            match self.frame(bytes, out).map_err(Closed::Malformed)? {
                Some(used) => bytes = &bytes[used..],
                None => break,
            }
        }
        if self.state != State::Closed {
            self.partial.extend_from_slice(bytes);
        }
        Ok(self.state == State::Closed)
    }

    /// Handles a frame header, or a whole control frame. Returns its length in bytes, or `None` if
    /// it is incomplete.
    fn frame(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, &'static str> {
        let Some(header) = Header::read(bytes) else { return Ok(None) };
        if header.first & 0x70 != 0 {
            return Err("frame with a reserved bit");
        }
        if header.masked {
            return Err("masked frame from the broker");
        }
        let (is_last, opcode) = (header.first & 0x80 != 0, header.first & 0x0f);
        if opcode >= CLOSE {
            if !is_last || header.len > CONTROL_BYTES_MAX {
                return Err("control frame that is fragmented or too long");
            }
            let end = header.size + header.len as usize;
            let Some(body) = bytes.get(header.size..end) else { return Ok(None) };
            match opcode {
                CLOSE => self.state = State::Closed,
                PING => self.put(PONG, body, out),
                PONG => {}
                _ => return Err("frame of an unknown type"),
            }
            return Ok(Some(end));
        }
        match (opcode, self.fragmented) {
            (CONTINUATION, true) | (BINARY, false) => {}
            // [MQTT5-6.0.0-1]
            (TEXT, _) => return Err("MQTT in a text frame"),
            (CONTINUATION, false) => return Err("continuation frame without a message"),
            (BINARY, true) => return Err("new message inside a fragmented message"),
            _ => return Err("frame of an unknown type"),
        }
        self.fragmented = !is_last;
        self.missing = header.len;
        Ok(Some(header.size))
    }

    /// Appends `mqtt` in one frame. [MQTT5-6.0.0-1]
    pub(super) fn send(&mut self, mqtt: &[u8], out: &mut Vec<u8>) {
        self.put(BINARY, mqtt, out);
    }

    /// Appends a Close frame with the status "normal closure".
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        self.put(CLOSE, &1000u16.to_be_bytes(), out);
    }

    fn put(&mut self, opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
        out.push(0x80 | opcode);
        match payload.len() {
            len @ ..=125 => out.push(0x80 | len as u8),
            len @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        // Masks should be unpredictable to protect intermediaries. There are none here.
        self.mask = self.mask.wrapping_mul(0x9e37_79b1).wrapping_add(1);
        let mask = self.mask.to_ne_bytes();
        out.extend_from_slice(&mask);
        let start = out.len();
        out.extend_from_slice(payload);
        let (words, rest) = out[start..].as_chunks_mut::<8>();
        let key = u64::from(self.mask) << 32 | u64::from(self.mask);
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ key).to_ne_bytes();
        }
        for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= key;
        }
    }
}

struct Header {
    first: u8,
    masked: bool,
    /// Length of the payload in bytes.
    len: u64,
    /// Length of the header in bytes.
    size: usize,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Header> {
        let &[first, second, ref rest @ ..] = bytes else { return None };
        let (len, size) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), 10),
            len => (u64::from(len), 2),
        };
        Some(Header { first, masked: second & 0x80 != 0, len, size })
    }
}

/// Checks the response. Returns its length, or `None` if it is incomplete.
fn check_response(bytes: &[u8]) -> Result<Option<usize>, Closed> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 101") {
        return Err(refused(status));
    }
    let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let has = |name: &str, wanted: &str, exact: bool| {
        let mut values = fields.iter().filter(|field| field.0.eq_ignore_ascii_case(name));
        values.any(|(_, value)| match value.trim() {
            value if exact => value == wanted,
            value => value.eq_ignore_ascii_case(wanted),
        })
    };
    match () {
        () if !has("Upgrade", "websocket", false) || !has("Connection", "upgrade", false) => {
            Err(Closed::Malformed("WebSocket response without Upgrade"))
        }
        () if !has("Sec-WebSocket-Accept", KEY_ACCEPT, true) => {
            Err(Closed::Malformed("WebSocket response to another key"))
        }
        // [MQTT5-6.0.0-4]
        () if !has("Sec-WebSocket-Protocol", "mqtt", true) => {
            Err(Closed::Malformed("WebSocket response without the subprotocol mqtt"))
        }
        () => Ok(Some(end + 4)),
    }
}

fn refused(what: &str) -> Closed {
    Closed::Peer(format!("WebSocket refused: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: Upgrade\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

    fn requested() -> WebSocket {
        let mut socket = WebSocket::new(request("/mqtt", "::1", 8080).into());
        socket.start(&mut Vec::new());
        socket
    }

    /// Receives `bytes` in two reads, split at `cut`. Returns the data, the answers, and whether it
    /// closed.
    fn read_in_two(bytes: &[u8], cut: usize) -> Result<(Vec<u8>, Vec<u8>, bool), Closed> {
        let (mut socket, mut mqtt, mut out) = (requested(), Vec::new(), Vec::new());
        let all = [RESPONSE.as_bytes(), bytes].concat();
        let mut closed = socket.receive(&all[..cut], &mut mqtt, &mut out)?;
        closed |= socket.receive(&all[cut..], &mut mqtt, &mut out)?;
        Ok((mqtt, out, closed))
    }

    #[test]
    fn frames_are_read_across_any_split() {
        let long = [7; 300];
        // A message in two frames with a ping between them, a long message, a Close, and ignored
        // bytes.
        let mut bytes = b"\x02\x02ab\x89\x01!\x80\x01c\x82\x7e\x01\x2c".to_vec();
        bytes.extend_from_slice(&long);
        bytes.extend_from_slice(b"\x88\x02\x03\xe8junk");
        for cut in 0..RESPONSE.len() + bytes.len() {
            let (mqtt, out, closed) = read_in_two(&bytes, cut).unwrap();
            assert_eq!(mqtt, [&b"abc"[..], &long].concat(), "{cut}");
            assert!(closed && out.len() == 7 && out[0] == 0x8a && out[1] == 0x81, "{cut}: {out:?}");
        }
    }

    #[test]
    fn invalid_frames_and_responses_are_rejected() {
        for bytes in [
            &b"\x82\x80abcd"[..],
            b"\x81\x01a",
            b"\xc2\x01a",
            b"\x80\x01a",
            b"\x02\x01a\x82\x01b",
            b"\x09\x00",
        ] {
            let read = read_in_two(bytes, 20);
            assert!(matches!(read, Err(Closed::Malformed(_))), "{bytes:?}: {read:?}");
        }
        for (from, to) in
            [("mqtt", "mqttv3.1"), ("xOo=", "xOO="), ("upgrade: WebSocket", "x: y"), ("101", "403")]
        {
            let response = RESPONSE.replace(from, to);
            assert!(
                requested().receive(response.as_bytes(), &mut Vec::new(), &mut Vec::new()).is_err(),
                "{response}"
            );
        }
    }

    #[test]
    fn sent_frames_are_masked_and_have_the_right_length() {
        for len in [0, 1, 5, 7, 8, 15, 125, 126, 65_535, 65_536] {
            let mqtt: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let mut out = Vec::new();
            requested().send(&mqtt, &mut out);
            let header = Header::read(&out).unwrap();
            assert!(header.masked && header.len == len as u64 && header.first == 0x82);
            let (mask, body) = out[header.size..].split_first_chunk::<4>().unwrap();
            let plain: Vec<u8> = body.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            assert!(plain == mqtt && *mask != [0; 4], "{len}");
        }
    }
}
