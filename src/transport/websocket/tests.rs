//! Conversations with a client, split at every possible place.

mod client;
mod frames;
mod upgrade;

use super::*;
use crate::base::Random;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// The number of mutated conversations. The fuzz target of the same name tries more.
const MUTATIONS: usize = 20_000;

/// The request in section 1.2 of RFC 6455, for MQTT.
const LINES: [&str; 7] = [
    "GET /mqtt HTTP/1.1",
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: mqtt",
    "Sec-WebSocket-Version: 13",
];

const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

fn settings() -> WebSocketSettings {
    WebSocketSettings {
        path: "/mqtt".into(),
        origins: vec!["https://panel.example".into(), "http://localhost:8080".into()],
        ..WebSocketSettings::default()
    }
}

fn request() -> Vec<u8> {
    lines(&LINES)
}

fn lines(lines: &[&str]) -> Vec<u8> {
    (lines.join("\r\n") + "\r\n\r\n").into_bytes()
}

/// The request in which `line` replaces the line of the same name.
fn with(line: &str) -> Vec<u8> {
    let name = line.split_once(':').expect("a header line").0;
    let replaced = LINES.map(|old| if old.starts_with(name) { line } else { old });
    assert_ne!(replaced, LINES, "no line to replace");
    lines(&replaced)
}

/// The request without this header.
fn without(name: &str) -> Vec<u8> {
    let left: Vec<&str> = LINES.into_iter().filter(|line| !line.starts_with(name)).collect();
    assert_eq!(left.len(), LINES.len() - 1);
    lines(&left)
}

/// The request with one more line.
fn and(line: &str) -> Vec<u8> {
    lines(&[&LINES[..], &[line]].concat())
}

/// The request with another first line.
fn first(line: &str) -> Vec<u8> {
    lines(&[&[line], &LINES[1..]].concat())
}

/// A frame from a client.
fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match body.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(body.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// Everything that some bytes have caused.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    payload: Vec<u8>,
    out: Vec<u8>,
    end: Result<WebSocketProgress, WebSocketFailure>,
    established: usize,
}

fn hear<'a>(settings: &WebSocketSettings, reads: impl IntoIterator<Item = &'a [u8]>) -> Heard {
    let mut socket = WebSocket::new();
    let (mut payload, mut out) = (Vec::new(), Vec::new());
    let mut established = 0;
    let mut end = Ok(WebSocketProgress::Handshaking);
    for read in reads {
        end = socket.read(settings, None, read, &mut payload, &mut out);
        established += usize::from(end == Ok(WebSocketProgress::Established));
        if end.is_err() {
            assert!(!socket.is_open() && socket.pending.capacity() == 0);
            let lens = (payload.len(), out.len());
            assert_eq!(
                socket.read(settings, None, b"more", &mut payload, &mut out),
                Ok(WebSocketProgress::PeerClosed)
            );
            socket.close(1000, &mut out);
            assert_eq!(lens, (payload.len(), out.len()), "nothing comes of a connection that has failed");
            break;
        }
    }
    Heard { payload, out, end, established }
}

/// Reads the bytes at once, and byte by byte. The results must be the same, except for when the connection is
/// established.
#[track_caller]
fn conversation(bytes: &[u8]) -> Heard {
    let whole = hear(&settings(), [bytes]);
    same(&whole, hear(&settings(), bytes.chunks(1)));
    whole
}

#[track_caller]
fn same(whole: &Heard, parts: Heard) {
    let settled = |end: &Result<WebSocketProgress, _>| match end {
        Ok(WebSocketProgress::Established) => Ok(WebSocketProgress::Open),
        end => end.clone(),
    };
    assert_eq!(settled(&whole.end), settled(&parts.end));
    assert_eq!(whole.payload, parts.payload);
    assert_eq!(whole.out, parts.out);
}

/// A conversation that uses every feature.
fn everything() -> Vec<u8> {
    let sent = [
        and("Origin: https://panel.example"),
        frame(0x82, b"\x10\x0C\x00\x04MQTT\x05\x02"),
        frame(0x89, b"are you there?"),
        frame(0x02, &[b'x'; 130]),
        frame(0x00, b""),
        frame(0x8A, b"unasked"),
        frame(0x80, b"end"),
        frame(0x82, b""),
        frame(0x88, b"\x03\xE8bye"),
        b"behind".to_vec(),
    ];
    sent.concat()
}

// [MQTT311-§6#3] [PITFALL-53]
#[test]
fn a_conversation_is_the_same_at_every_two_cuts() {
    let sent = everything();
    let whole = hear(&settings(), [&sent[..]]);
    assert_eq!(whole.end, Ok(WebSocketProgress::PeerClosed));
    assert!(whole.payload.ends_with(b"xxxend") && whole.out.ends_with(b"there?\x88\x02\x03\xE8"));
    for first in 0..sent.len() {
        same(&whole, hear(&settings(), [&sent[..first], &sent[first..]]));
        for second in (first..sent.len()).step_by(13) {
            same(&whole, hear(&settings(), [&sent[..first], &sent[first..second], &sent[second..]]));
        }
    }
}

#[test]
fn mutated_conversations_are_the_same_in_one_read_and_byte_by_byte() {
    let sent = everything();
    let frames_at = and("Origin: https://panel.example").len();
    let mut random = Random::new(1);
    let mut below = |end: usize| random.index(end);
    for round in 0..MUTATIONS {
        let mut mutated = sent.clone();
        for _ in 0..=below(3) {
            // Most changes are in the frames, because few requests survive a change.
            let from = if round % 4 == 0 { 0 } else { frames_at.min(mutated.len()) };
            let at = from + below(mutated.len() - from + 1);
            match below(4) {
                0 => mutated.truncate(at),
                1 => drop(mutated.splice(at..at, [below(256) as u8])),
                2 if at < mutated.len() => drop(mutated.remove(at)),
                _ if at < mutated.len() => mutated[at] ^= 1 << below(8),
                _ => {}
            }
        }
        let whole = hear(&settings(), [&mutated[..]]);
        assert!(whole.payload.len() <= mutated.len() && whole.out.len() <= mutated.len() + 400);
        same(&whole, hear(&settings(), mutated.chunks(1)));
    }
}
