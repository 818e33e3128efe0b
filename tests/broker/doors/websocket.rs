//! WebSocket, frame by frame over a raw socket, with and without TLS.

use super::pki::Authority;
use super::wire::{self, CONNACK, SUBACK, connect, publish, subscribe};
use crate::Running;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

pub(crate) const LISTENER: &str = "protocol = \"websocket\"\nwebsocket_path = \"/mqtt\"\n\
                        websocket_origins = [\"https://example.org\"]\n";

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
/// Added to the opcode of a frame that is continued by others.
const NOT_FINAL: u8 = 0x40;

/// The header of the answer to a request. The key is that of RFC 6455, section 1.3.
fn ask(stream: &mut (impl Read + Write), path: &str, origin: &str) -> String {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nOrigin: {origin}\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the broker reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

/// Opens the WebSocket, before any MQTT.
pub(crate) fn upgrade(stream: &mut (impl Read + Write)) {
    let head = ask(stream, "/mqtt", "https://example.org");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    assert!(head.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{head}");
}

#[test]
fn cookies_of_single_sign_on_fit_into_the_request_and_an_option_says_how_many() {
    let ask = |address, cookie: usize| {
        let cookie = format!("https://example.org\r\nCookie: s={}", "c".repeat(cookie));
        ask(&mut wire::open(address), "/mqtt", &cookie)
    };
    let usual = Running::start("doors-cookies", LISTENER);
    assert!(ask(usual.address, 12_000).starts_with("HTTP/1.1 101 "));
    assert!(ask(usual.address, 17_000).starts_with("HTTP/1.1 431 "));
    let large = Running::start("doors-more-cookies", &format!("{LISTENER}websocket_header_bytes = 65536\n"));
    assert!(ask(large.address, 64_000).starts_with("HTTP/1.1 101 "));
    assert!(ask(large.address, 66_000).starts_with("HTTP/1.1 431 "));
}

fn open(address: SocketAddr) -> TcpStream {
    let mut stream = wire::open(address);
    upgrade(&mut stream);
    stream
}

/// A masked client frame.
pub(super) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let is_final = opcode & NOT_FINAL == 0;
    let mut frame = vec![opcode & 0x0F | if is_final { 0x80 } else { 0 }];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(len).expect("short").to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

pub(crate) fn binary(payload: &[u8]) -> Vec<u8> {
    frame(BINARY, payload)
}

/// The next frame: opcode and payload.
fn read_frame(stream: &mut impl Read) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a frame");
    assert!(head[0] & 0x80 != 0 && head[1] & 0x80 == 0, "a whole frame, not masked: {head:?}");
    let mut len = usize::from(head[1]);
    if len == 126 {
        let mut long = [0; 2];
        stream.read_exact(&mut long).expect("a length");
        len = usize::from(u16::from_be_bytes(long));
    }
    assert_ne!(len, 127, "no test sends so much");
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload).expect("the whole frame");
    (head[0] & 0x0F, payload)
}

/// Reads as many MQTT bytes as expected, from any number of binary frames.
pub(super) fn expect(stream: &mut impl Read, expected: &[u8]) {
    let mut got = Vec::new();
    while got.len() < expected.len() {
        let (opcode, payload) = read_frame(stream);
        assert_eq!(opcode, BINARY);
        got.extend(payload);
    }
    assert_eq!(got, expected);
}

#[test]
fn wrong_path_and_wrong_origin_are_answered_and_told() {
    let running = Running::start("doors-ws-refused", LISTENER);
    for (path, origin, status) in [
        ("/", "https://example.org", "404"),
        ("/mqtt", "https://evil.example", "403"),
        ("/mqtt", "null", "403"),
    ] {
        let mut stream = wire::open(running.address);
        let head = ask(&mut stream, path, origin);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        wire::rest(&mut stream);
        let peer = stream.local_addr().expect("bound").to_string();
        let line = running.line("the refusal", |line| line.contains(&peer));
        assert!(line.contains(&format!("the WebSocket upgrade is refused with {status}")), "{line}");
    }
}

#[test]
fn mqtt_and_tls_without_websocket_are_told() {
    let running = Running::start("doors-ws-wrong", LISTENER);
    for (bytes, words) in [
        (connect("plain"), "the client speaks MQTT without WebSocket"),
        (b"\x16\x03\x01\x00\x05".to_vec(), "the client speaks TLS, and this listener does not"),
    ] {
        let mut stream = wire::open(running.address);
        stream.write_all(&bytes).expect("a socket takes it");
        wire::rest(&mut stream);
        running.line(words, |line| line.contains(words));
    }
}

#[test]
fn text_frame_is_closed_with_1003() {
    let running = Running::start("doors-ws-text", LISTENER);
    for is_in in [false, true] {
        let mut stream = open(running.address);
        if is_in {
            stream.write_all(&binary(&connect("text"))).expect("the broker reads");
            expect(&mut stream, &CONNACK);
        }
        stream.write_all(&frame(TEXT, b"hello")).expect("the broker reads");
        let (opcode, payload) = read_frame(&mut stream);
        // [MQTT5-6.0.0-1]
        assert_eq!((opcode, &payload[..2]), (CLOSE, &1003_u16.to_be_bytes()[..]));
        assert_eq!(wire::rest(&mut stream), b"");
        let peer = stream.local_addr().expect("bound").to_string();
        running.line("the frame", |line| line.contains("WebSocket closed with 1003") && line.contains(&peer));
    }
}

#[test]
fn frames_and_packets_have_nothing_to_do_with_each_other() {
    for shards in [1, 2] {
        let rest = format!("{LISTENER}[runtime]\nshards = {shards}\n");
        let running = Running::start(&format!("doors-ws-frames{shards}"), &rest);
        for number in 0..4 {
            let mut stream = open(running.address);
            // Two packets are in one frame. They move together if the client's home is another shard.
            let mut first = connect(&format!("frames{number}"));
            first.extend(subscribe("t"));
            stream.write_all(&binary(&first)).expect("the broker reads");
            expect(&mut stream, &[&CONNACK[..], &SUBACK].concat());

            // One packet is split into three frames of one message, and over several messages, byte by byte.
            // [MQTT5-6.0.0-2]
            let packet = publish("t", b"in parts");
            let (start, rest) = packet.split_at(1);
            let (middle, end) = rest.split_at(5);
            for part in [frame(BINARY | NOT_FINAL, start), frame(NOT_FINAL, middle), frame(0, end)] {
                stream.write_all(&part).expect("the broker reads");
            }
            expect(&mut stream, &packet);
            for byte in &packet {
                stream.write_all(&binary(&[*byte])).expect("the broker reads");
            }
            expect(&mut stream, &packet);

            // A frame arrives in several parts.
            for piece in binary(&publish("t", &[7; 300])).chunks(50) {
                stream.write_all(piece).expect("the broker reads");
                stream.flush().expect("a socket");
            }
            expect(&mut stream, &publish("t", &[7; 300]));
        }
    }
}

#[test]
fn goodbye_is_said_in_each_layer() {
    let authority = Authority::new("ws-tls");
    let rest = format!("{LISTENER}{}[runtime]\nshards = 2\n", authority.server("server").rows());
    let running = Running::start("doors-ws-tls", &rest);
    for number in 0..4 {
        let mut stream = authority.open(running.address);
        upgrade(&mut stream);
        let mut first = connect(&format!("both{number}"));
        first.extend(subscribe("both"));
        stream.write_all(&binary(&first)).expect("the broker reads");
        expect(&mut stream, &[&CONNACK[..], &SUBACK].concat());
        stream.write_all(&binary(&publish("both", b"x"))).expect("the broker reads");
        expect(&mut stream, &publish("both", b"x"));

        // This is DISCONNECT.
        stream.write_all(&binary(&[0xE0, 0])).expect("the broker reads");
        let (opcode, payload) = read_frame(&mut stream);
        assert_eq!((opcode, &payload[..2]), (CLOSE, &1000_u16.to_be_bytes()[..]));
        // rustls reports an end without close_notify as an error.
        assert_eq!(stream.read(&mut [0; 1]).expect("close_notify"), 0);
    }
}
