//! MQTT over WebSocket: the first byte of an input says whether an accepted request comes before the rest, or
//! the rest is the request too.
//!
//! The result of a connection must not depend on how its bytes are split into reads, must be bounded by them,
//! and an answer must be well-formed. After the request, the payload, the answers and the end must be those
//! of a second implementation of the frame reader.

use midge::transport::proxy::TrustedAddresses;
use midge::transport::websocket::{
    Forwarding, WebSocket, WebSocketFailure, WebSocketProgress, WebSocketSettings,
};
use std::net::SocketAddr;

/// A request that is accepted.
const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: mqtt\r\n\r\n";
/// The largest answer to a request, in bytes.
const ANSWER_BYTES_MAX: usize = 400;
/// It is small, so that inputs exceed it.
const HEADER_BYTES_MAX: usize = 512;

/// Runs the target.
pub fn run(input: &[u8]) {
    let Some((&choice, rest)) = input.split_first() else { return };
    if choice % 2 == 1 {
        check(rest);
    } else {
        let heard = check(&[REQUEST, rest].concat());
        let answer = heard.answer.expect("the request is accepted");
        assert_eq!((heard.payload, heard.out[answer..].to_vec(), heard.end), expected(rest));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Open,
    Closed,
    Refused(u16),
    Broken(u16),
}

/// Everything that some bytes have caused.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    payload: Vec<u8>,
    out: Vec<u8>,
    /// The length of the answer to an accepted request.
    answer: Option<usize>,
    end: End,
    /// The client that a proxy has named.
    client: Option<SocketAddr>,
}

fn check(bytes: &[u8]) -> Heard {
    let heard = hear(bytes, bytes.len().max(1), None);
    assert_eq!(heard, hear(bytes, 1, None), "byte by byte");
    assert_eq!(heard, hear(bytes, 1 + bytes.len() % 13, None), "in parts");
    // Behind a proxy it is the same, or the header of the proxy is bad.
    let trusted = TrustedAddresses::parse(["10.0.0.0/8"]).expect("a network");
    let forwarded = hear(bytes, bytes.len().max(1), Some(&trusted));
    assert_eq!(forwarded, hear(bytes, 1, Some(&trusted)), "byte by byte");
    if forwarded.end != End::Refused(400) {
        assert_eq!(Heard { client: None, ..forwarded }, heard);
    }
    assert!(heard.payload.len() <= bytes.len());
    assert!(heard.out.len() <= bytes.len() + ANSWER_BYTES_MAX);
    if let End::Refused(status) = heard.end {
        assert!(heard.out.starts_with(format!("HTTP/1.1 {status} ").as_bytes()) && heard.payload.is_empty());
        assert!(heard.out.is_ascii());
    }
    heard
}

fn hear(bytes: &[u8], size: usize, trusted: Option<&TrustedAddresses>) -> Heard {
    let settings = WebSocketSettings {
        path: "/mqtt".into(),
        origins: vec!["http://a".into()],
        header_bytes_max: HEADER_BYTES_MAX,
    };
    let (mut payload, mut out, mut socket) = (Vec::new(), Vec::new(), WebSocket::new());
    let mut end = End::Open;
    let mut forwarding = trusted.map(|trusted| Forwarding { trusted, client: None });
    for read in bytes.chunks(size) {
        end = match socket.read(&settings, forwarding.as_mut(), read, &mut payload, &mut out) {
            Ok(WebSocketProgress::PeerClosed) => End::Closed,
            Ok(_) => continue,
            Err(WebSocketFailure::Upgrade { status, words }) => {
                assert!(words.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{words:?}");
                End::Refused(status)
            }
            Err(WebSocketFailure::Frame { code, .. }) => End::Broken(code),
        };
        assert!(!socket.is_open());
        break;
    }
    let answer = out.starts_with(b"HTTP/1.1 101 ").then(|| {
        let empty_line = out.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        empty_line.expect("an answer ends") + 4
    });
    let client = forwarding.and_then(|forwarding| forwarding.client);
    Heard { payload, out, answer, end, client }
}

// A second implementation of the rules of RFC 6455.

fn expected(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>, End) {
    let (mut payload, mut out, mut fragmented) = (Vec::new(), Vec::new(), false);
    while let Some(Header { first, len, mask, body }) = header(bytes) {
        let (last, opcode) = (first & 0x80 != 0, first & 0x0F);
        let is_control = opcode & 0x08 != 0;
        let broken = match opcode {
            3..=7 | 11.. => Some(1002),
            _ if first & 0x70 != 0 || len >> 63 == 1 => Some(1002),
            1 => Some(1003),
            0 if !fragmented => Some(1002),
            2 if fragmented => Some(1002),
            _ if is_control && (!last || len > 125) => Some(1002),
            _ => None,
        };
        let broken = broken.or(if mask.is_none() { Some(1002) } else { None });
        if let Some(code) = broken {
            return broken_with(payload, out, code);
        }
        let mask = mask.unwrap_or_default();
        let there = usize::try_from(len).unwrap_or(usize::MAX).min(body.len());
        let clear: Vec<u8> = (0..there).map(|at| body[at] ^ mask[at % 4]).collect();
        bytes = &body[there..];
        if !is_control {
            payload.extend(&clear);
            fragmented = !last;
            continue;
        }
        if (there as u64) < len {
            break;
        }
        match opcode {
            9 => out.extend([&[0x8A, len as u8][..], &clear].concat()),
            8 => match clear[..] {
                [] => {
                    out.extend([0x88, 0]);
                    return (payload, out, End::Closed);
                }
                [_] => return broken_with(payload, out, 1002),
                [high, low, ref reason @ ..] => {
                    match u16::from_be_bytes([high, low]) {
                        1000..=1003 | 1007..=1013 | 3000..=4999 => {}
                        _ => return broken_with(payload, out, 1002),
                    }
                    if str::from_utf8(reason).is_err() {
                        return broken_with(payload, out, 1007);
                    }
                    out.extend([0x88, 2, high, low]);
                    return (payload, out, End::Closed);
                }
            },
            _ => {}
        }
    }
    (payload, out, End::Open)
}

fn broken_with(payload: Vec<u8>, mut out: Vec<u8>, code: u16) -> (Vec<u8>, Vec<u8>, End) {
    out.extend([0x88, 2]);
    out.extend(code.to_be_bytes());
    (payload, out, End::Broken(code))
}

struct Header<'a> {
    first: u8,
    len: u64,
    mask: Option<[u8; 4]>,
    /// The bytes after the header, of this frame and of the next.
    body: &'a [u8],
}

/// The header, if it is complete.
fn header(bytes: &[u8]) -> Option<Header<'_>> {
    let (&[first, second], rest) = bytes.split_first_chunk::<2>()?;
    let (len, rest) = match second & 0x7F {
        126 => rest.split_first_chunk::<2>().map(|(len, rest)| (u16::from_be_bytes(*len).into(), rest))?,
        127 => rest.split_first_chunk::<8>().map(|(len, rest)| (u64::from_be_bytes(*len), rest))?,
        len => (len.into(), rest),
    };
    if second & 0x80 == 0 {
        return Some(Header { first, len, mask: None, body: rest });
    }
    let (mask, body) = rest.split_first_chunk::<4>()?;
    Some(Header { first, len, mask: Some(*mask), body })
}
