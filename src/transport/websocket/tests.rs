//! Conversations with a client, at every place they can be cut.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::Rc;

use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Bytes, Error, Message};

use super::*;
use crate::base::Random;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// How many mutated conversations are tried; the fuzz target of the same name tries more.
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

/// The request with the line that begins like `line` replaced by it.
fn with(line: &str) -> Vec<u8> {
    let name = line.split_once(':').expect("a header line").0;
    let replaced = LINES.map(|old| if old.starts_with(name) { line } else { old });
    assert_ne!(replaced, LINES, "no line to replace");
    lines(&replaced)
}

/// The request without the header.
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

/// A frame of a client.
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

/// All that came of some bytes.
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
        end = socket.read(settings, read, &mut payload, &mut out);
        established += usize::from(end == Ok(WebSocketProgress::Established));
        if end.is_err() {
            assert!(!socket.is_open() && socket.pending.capacity() == 0);
            let lens = (payload.len(), out.len());
            assert_eq!(
                socket.read(settings, b"more", &mut payload, &mut out),
                Ok(WebSocketProgress::PeerClosed)
            );
            socket.close(1000, &mut out);
            assert_eq!(lens, (payload.len(), out.len()), "nothing comes of a connection that has failed");
            break;
        }
    }
    Heard { payload, out, end, established }
}

/// In one read, and byte by byte: which must be the same but for when it is established.
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

#[track_caller]
fn accepted(request: impl AsRef<[u8]>) {
    let heard = conversation(request.as_ref());
    assert_eq!(heard.end, Ok(WebSocketProgress::Established));
    assert_eq!(String::from_utf8_lossy(&heard.out), ACCEPTED);
}

#[track_caller]
fn refused(request: impl AsRef<[u8]>, expected: u16, says: &str) -> String {
    let heard = conversation(request.as_ref());
    let Err(WebSocketFailure::Upgrade { status, words }) = heard.end else {
        panic!("{:?} is not refused", heard.end);
    };
    assert_eq!(status, expected, "{words}");
    assert!(words.contains(says), "{words}");
    assert!(words.bytes().all(|byte| matches!(byte, b' '..=b'~')) && words.len() < 400, "{words:?}");
    let answer = String::from_utf8(heard.out).expect("an answer is text");
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains("\r\nConnection: close"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a body");
    assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())) && body.len() < 100, "{answer}");
    answer
}

/// What comes of frames behind a request that is accepted: without the answer to it.
#[track_caller]
fn frames(frames: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Result<WebSocketProgress, WebSocketFailure>) {
    let mut heard = conversation(&[&request(), &frames.concat()[..]].concat());
    let out = heard.out.split_off(ACCEPTED.len());
    (heard.payload, out, heard.end)
}

#[track_caller]
fn broken(sent: &[&[u8]], expected: u16, says: &str) {
    let (_, out, end) = frames(sent);
    let Err(WebSocketFailure::Frame { code, words }) = end else {
        panic!("{end:?} is no failure");
    };
    assert_eq!(code, expected, "{words}");
    assert!(words.contains(says), "{words}");
    assert!(out.ends_with(&[&[0x88, 2][..], &code.to_be_bytes()].concat()), "{out:02X?}");
}

#[test]
fn the_upgrade_of_the_rfc_is_accepted() {
    accepted(request());
    accepted(String::from_utf8(request()).expect("text").replace("\r\n", "\n"));
}

#[test]
fn header_names_and_tokens_are_read_in_any_case_and_as_lists() {
    accepted(String::from_utf8(request()).expect("text").replace("Upgrade", "uPGRADE"));
    accepted(with("Upgrade: h2c, WebSocket"));
    accepted(with("Connection: keep-alive, Upgrade"));
    accepted(with("Connection:keep-alive ,\t upgrade ,"));
    accepted(lines(&[&LINES[..3], &["Connection: keep-alive"], &LINES[3..]].concat()));
}

#[test]
fn an_extension_that_is_offered_is_ignored_and_a_forwarded_address_too() {
    accepted(and("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"));
    accepted(and("X-Forwarded-For: 192.0.2.7"));
}

// [MQTT5-6.0.0-4] [MQTT311-6.0.0-4]
// [PITFALL-53]
#[test]
fn the_answer_names_mqtt_wherever_it_stands_among_the_offered() {
    accepted(with("Sec-WebSocket-Protocol: foo, mqtt"));
    accepted(with("Sec-WebSocket-Protocol: mqttv3.1, mqtt"));
    accepted(lines(&[&LINES[..5], &["Sec-WebSocket-Protocol: mqttv3.1"], &LINES[5..]].concat()));
}

// [MQTT311-§6#4]
#[test]
fn a_client_of_mqtt_3_1_is_answered_with_the_name_it_offers() {
    let heard = conversation(&with("Sec-WebSocket-Protocol: mqttv3.1"));
    assert_eq!(heard.end, Ok(WebSocketProgress::Established));
    assert!(heard.out.ends_with(b"Sec-WebSocket-Protocol: mqttv3.1\r\n\r\n"));
}

// [MQTT5-6.0.0-3] [MQTT311-6.0.0-3]
#[test]
fn a_client_that_does_not_offer_mqtt_is_refused() {
    refused(without("Sec-WebSocket-Protocol"), 400, "does not offer the subprotocol mqtt");
    for offered in ["MQTT", "mqttv3.11", "mqtt5", "mq", "", "chat, superchat", "mqtt mqtt"] {
        refused(with(&format!("Sec-WebSocket-Protocol: {offered}")), 400, "the subprotocol mqtt");
    }
}

// [MQTT5-§6] [MQTT311-§6]
#[test]
fn the_query_is_no_part_of_the_path_and_another_path_is_not_found() {
    accepted(first("GET /mqtt?token=a HTTP/1.1"));
    accepted(first("GET http://server.example.com/mqtt HTTP/1.1"));
    accepted(first("GET ws://server.example.com:80/mqtt?a HTTP/1.1"));
    for path in ["/", "/mqtt/", "/MQTT", "/mqt", "*", "mqtt", "http://mqtt", "/?/mqtt", "/a://b/mqtt"] {
        refused(first(&format!("GET {path} HTTP/1.1")), 404, "nothing is served under this path");
    }
    let any = WebSocketSettings::default();
    assert_eq!(hear(&any, [&first("GET /any HTTP/1.1")[..]]).end, Ok(WebSocketProgress::Established));
}

#[test]
fn a_page_of_another_origin_is_forbidden() {
    accepted(and("Origin: https://panel.example"));
    accepted(and("Origin: HTTP://localhost:8080"));
    for origin in ["https://panel.example.evil", "http://panel.example", "null", "", "https://panel.exampl"] {
        refused(and(&format!("Origin: {origin}")), 403, "this origin");
    }
    let any = WebSocketSettings::default();
    assert_eq!(hear(&any, [&and("Origin: null")[..]]).end, Ok(WebSocketProgress::Established));
}

#[test]
fn another_version_of_websocket_is_told_the_one_that_is_served() {
    for request in [with("Sec-WebSocket-Version: 8"), without("Sec-WebSocket-Version")] {
        let answer = refused(request, 426, "not 13");
        assert!(answer.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{answer}");
    }
}

#[test]
fn requests_that_break_the_rules_are_bad() {
    refused(first("POST /mqtt HTTP/1.1"), 400, "the method is not GET: \"POST\"");
    refused(first("GET /mqtt HTTP/1.0"), 400, "not HTTP/1.1");
    refused(first("GET /mqtt HTTP/2.0"), 400, "not HTTP");
    refused(first("GET /mqtt"), 400, "not HTTP");
    refused(without("Host"), 400, "no header Host");
    refused(without("Upgrade"), 400, "Upgrade does not ask for websocket");
    refused(with("Upgrade: websockets"), 400, "Upgrade does not ask for websocket");
    refused(without("Connection"), 400, "does not list Upgrade");
    refused(with("Connection: close"), 400, "does not list Upgrade");
    refused(without("Sec-WebSocket-Key"), 400, "16 bytes in base64");
    for key in [
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25==",
        "dGhlIHNhbXBsZSBub25jZQQQ==",
        "!GhlIHNhbXBsZSBub25jZQ==",
    ] {
        refused(with(&format!("Sec-WebSocket-Key: {key}")), 400, "16 bytes in base64");
    }
    for twice in ["Host: a", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"] {
        refused(and(twice), 400, "a header is there twice");
    }
    refused(and("Transfer-Encoding: chunked"), 400, "has a body");
    refused(and("Content-Length: 5"), 400, "has a body");
    accepted(and("Content-Length: 0"));
    refused(and("no header"), 400, "not HTTP");
}

#[test]
fn what_is_not_http_is_refused_with_its_first_byte() {
    refused(b"\x10", 400, "MQTT without WebSocket");
    refused(b"\x16\x03\x01", 400, "TLS");
    refused(b"\r\n", 400, "does not speak HTTP");
    refused(b"get", 400, "does not speak HTTP");
}

#[test]
fn the_words_of_a_failure_escape_and_cut_what_the_peer_wrote() {
    let mut origin = and("Origin: X");
    let at = origin.iter().rposition(|byte| *byte == b'X').expect("the origin");
    origin.splice(at..=at, [b"\xFF\x9B31m\t\"".as_slice(), &[b'a'; 500]].concat());
    let Err(WebSocketFailure::Upgrade { words, .. }) = hear(&settings(), [&origin[..]]).end else {
        panic!("the origin is served");
    };
    assert!(words.contains("\"\\xff\\x9b31m\\t\\\"aaa") && words.ends_with("a\"..."), "{words}");
    let shown = WebSocketFailure::Upgrade { status: 403, words: "no".into() }.to_string();
    assert_eq!(shown, "the WebSocket upgrade is refused with 403: no");
}

#[test]
fn a_request_above_its_bounds_is_too_large() {
    let padded = |len: usize| {
        let bare = and("X: ").len();
        let request = and(&format!("X: {}", "a".repeat(len - bare)));
        assert_eq!(request.len(), len);
        request
    };
    accepted(padded(HEADER_BYTES_MAX_DEFAULT));
    refused(padded(HEADER_BYTES_MAX_DEFAULT + 1), 431, "too large: more than 16384 bytes");
    refused(padded(HEADER_BYTES_MAX_DEFAULT + 2), 431, "too large");
    refused(padded(3 * HEADER_BYTES_MAX_DEFAULT), 431, "too large");
    refused([b'A'; HEADER_BYTES_MAX_DEFAULT + 1], 431, "too large");
    assert_eq!(
        hear(&settings(), [&[b'A'; HEADER_BYTES_MAX_DEFAULT][..]]).end,
        Ok(WebSocketProgress::Handshaking)
    );
    let many = |count: usize| lines(&[&LINES[..], &vec!["X: a"; count]].concat());
    accepted(many(64 - 6));
    refused(many(64 - 5), 431, "more than 64 header lines");
}

#[test]
fn frames_behind_the_request_are_read_with_it() {
    let (payload, out, end) = frames(&[&frame(0x82, b"\x10\x00")]);
    assert_eq!(
        (&payload[..], &out[..], end),
        (&b"\x10\x00"[..], &b""[..], Ok(WebSocketProgress::Established))
    );
    let huge = vec![7; 3 * HEADER_BYTES_MAX_DEFAULT];
    assert_eq!(frames(&[&frame(0x82, &huge)]).0, huge, "the bound of the request is not theirs");
}

// [MQTT5-6.0.0-2] [MQTT311-6.0.0-2]
// [MQTT311-§6#3] [PITFALL-53]
#[test]
fn payload_is_one_stream_however_it_is_framed() {
    let message: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    for size in [1, 2, 3, 125, 126, 127, 0xFFFF, 0x1_0000, 70_000] {
        let framed: Vec<u8> = message.chunks(size).flat_map(|part| frame(0x82, part)).collect();
        let sent = [request(), framed].concat();
        for read in [1, 7, 4096, sent.len()] {
            let heard = hear(&settings(), sent.chunks(read));
            assert_eq!((heard.payload == message, heard.established), (true, 1), "{size} in {read}");
        }
    }
}

// [PITFALL-53]
#[test]
fn empty_and_fragmented_frames_pass_with_control_frames_among_them() {
    let (payload, out, end) = frames(&[
        &frame(0x82, b""),
        &frame(0x02, b"ab"),
        &frame(0x89, b"ping"),
        &frame(0x00, b""),
        &frame(0x8A, b"unasked"),
        &frame(0x00, b"cde"),
        &frame(0x80, b""),
        &frame(0x02, b""),
        &frame(0x80, b"f"),
    ]);
    assert_eq!(payload, b"abcdef");
    assert_eq!(out, b"\x8A\x04ping");
    assert_eq!(end, Ok(WebSocketProgress::Established));
}

// [MQTT5-§6] [MQTT311-§6#2]
#[test]
fn a_ping_is_answered_with_its_payload() {
    let longest = [7; 125];
    assert_eq!(frames(&[&frame(0x89, &longest)]).1, [&[0x8A, 125][..], &longest].concat());
    assert_eq!(frames(&[&frame(0x89, b"")]).1, [0x8A, 0]);
    let long_header = [&[0x89, 0xFF, 0, 0, 0, 0, 0, 0, 0, 125, 0, 0, 0, 0][..], &longest].concat();
    assert_eq!(long_header.len(), FRAME_UNIT_BYTES_MAX);
    assert_eq!(frames(&[&long_header]).1, [&[0x8A, 125][..], &longest].concat());
}

// [MQTT5-6.0.0-1] [MQTT311-6.0.0-1]
#[test]
fn a_text_frame_closes_the_connection() {
    broken(&[&frame(0x82, b"a"), &frame(0x81, b"\x10\x00")], 1003, "text");
    broken(&[&frame(0x01, b"")], 1003, "text");
}

// [MQTT311-§6#2]
#[test]
fn frames_that_break_the_rules_close_the_connection() {
    broken(&[b"\x82\x01a"], 1002, "not masked");
    broken(&[b"\x89\x00"], 1002, "not masked");
    for bit in [0x40, 0x20, 0x10] {
        broken(&[&frame(0x82 | bit, b"a")], 1002, "reserved bit");
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        broken(&[&frame(0x80 | opcode, b"a")], 1002, "unknown");
    }
    broken(&[&frame(0x80, b"a")], 1002, "nothing to continue");
    broken(&[&frame(0x02, b"a"), &frame(0x80, b"b"), &frame(0x80, b"c")], 1002, "nothing to continue");
    broken(&[&frame(0x02, b"a"), &frame(0x82, b"b")], 1002, "begins before");
    for control in [0x08, 0x09, 0x0A] {
        broken(&[&frame(control, b"")], 1002, "fragmented");
        broken(&[&frame(0x80 | control, &[0; 126])], 1002, "more than 125");
    }
    broken(&[&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]], 1002, "top bit");
    broken(&[&[0x89, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4]], 1002, "top bit");
}

#[test]
fn what_came_before_a_broken_frame_is_there() {
    let (payload, out, _) = frames(&[&frame(0x82, b"abc"), &frame(0x89, b"p"), b"\x82\x01a"]);
    assert_eq!((&payload[..], &out[..]), (&b"abc"[..], &b"\x8A\x01p\x88\x02\x03\xEA"[..]));
}

#[test]
fn a_frame_of_any_length_is_streamed() {
    let mut socket = opened();
    let (mut payload, mut out) = (Vec::new(), Vec::new());
    let header = [&[0x82, 0xFF][..], &(i64::MAX as u64).to_be_bytes(), &MASK].concat();
    socket.read(&settings(), &header, &mut payload, &mut out).expect("the longest frame");
    for _ in 0..10 {
        socket.read(&settings(), &[0; 1001], &mut payload, &mut out).expect("its payload");
    }
    assert_eq!(payload, MASK.into_iter().cycle().take(10_010).collect::<Vec<u8>>());
    assert_eq!(socket.pending.capacity(), 0);
}

fn opened() -> WebSocket {
    let mut socket = WebSocket::new();
    assert_eq!(
        socket.read(&settings(), &request(), &mut vec![], &mut vec![]),
        Ok(WebSocketProgress::Established)
    );
    socket
}

// [MQTT5-§6] [MQTT311-§6#2]
#[test]
fn a_close_is_answered_with_its_code_and_nothing_behind_it_is_read() {
    for (body, echo) in [
        (&b""[..], &b"\x88\x00"[..]),
        (b"\x03\xE8", b"\x88\x02\x03\xE8"),
        (b"\x03\xE9going away", b"\x88\x02\x03\xE9"),
        (b"\x0F\xA0\xC3\xB6", b"\x88\x02\x0F\xA0"),
    ] {
        let (payload, out, end) =
            frames(&[&frame(0x82, b"a"), &frame(0x88, body), &frame(0x82, b"b"), b"\xFF\xFF"]);
        assert_eq!((&payload[..], &out[..], end), (&b"a"[..], echo, Ok(WebSocketProgress::PeerClosed)));
    }
}

#[test]
fn a_close_that_breaks_the_rules_is_answered_with_what_is_wrong() {
    broken(&[&frame(0x88, b"\x03")], 1002, "cut");
    for code in [0_u16, 999, 1005, 1006, 1015, 2000, 5000, 65535] {
        broken(&[&frame(0x88, &code.to_be_bytes())], 1002, "not one that may be sent");
    }
    broken(&[&frame(0x88, b"\x03\xE8\xFF")], 1007, "UTF-8");
}

#[test]
fn our_close_is_sent_once_and_waits_for_the_peers() {
    let (mut payload, mut out) = (Vec::new(), Vec::new());
    let mut early = WebSocket::new();
    early.close(1001, &mut out);
    assert!(out.is_empty() && !early.is_open(), "there is nobody to understand it");

    let mut socket = opened();
    assert!(socket.is_open());
    socket.close(1001, &mut out);
    socket.close(1000, &mut out);
    assert!(!socket.is_open());
    assert_eq!(out, b"\x88\x02\x03\xE9");
    let late = [frame(0x82, b"late"), frame(0x89, b"p"), frame(0x02, &[1; 300])].concat();
    assert_eq!(socket.read(&settings(), &late, &mut payload, &mut out), Ok(WebSocketProgress::Open));
    let close = frame(0x88, b"\x03\xE9");
    assert_eq!(socket.read(&settings(), &close, &mut payload, &mut out), Ok(WebSocketProgress::PeerClosed));
    assert_eq!((payload.len(), out.len()), (0, 4), "a Close is the last that is sent");

    let mut socket = opened();
    socket.close(1001, &mut out);
    let close = frame(0x88, b"");
    assert_eq!(socket.read(&settings(), &close, &mut payload, &mut out), Ok(WebSocketProgress::PeerClosed));
    assert_eq!((payload.len(), out.len()), (0, 8), "nor is an empty one answered");
}

#[test]
fn a_frame_of_ours_is_final_binary_and_unmasked() {
    for (len, header) in [
        (0, &b"\x82\x00"[..]),
        (125, b"\x82\x7D"),
        (126, b"\x82\x7E\x00\x7E"),
        (0xFFFF, b"\x82\x7E\xFF\xFF"),
        (0x1_0000, b"\x82\x7F\x00\x00\x00\x00\x00\x01\x00\x00"),
    ] {
        let mut out = b"ahead".to_vec();
        opened().write_header(len, &mut out);
        assert_eq!(out, [b"ahead", header].concat());
    }
}

#[test]
fn an_open_connection_that_waits_owns_no_heap() {
    let mut socket = WebSocket::new();
    let sent = [request(), frame(0x82, b"abcdef"), frame(0x89, b"ping")].concat();
    for read in sent.chunks(9) {
        socket.read(&settings(), read, &mut vec![], &mut vec![]).expect("all is well");
    }
    assert_eq!(socket.pending.capacity(), 0);
    assert!(size_of::<WebSocket>() <= 64);
}

/// A conversation with everything in it.
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
            // Most of them in the frames: few requests survive a change.
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

/// Both ends of a connection in memory, as the client of tungstenite sees it.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<(VecDeque<u8>, VecDeque<u8>)>>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.borrow_mut().1.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The server's side: MQTT bytes are echoed in one frame for each read, in reads of seven bytes.
struct Echo {
    wire: Wire,
    socket: WebSocket,
    last: WebSocketProgress,
}

impl Echo {
    fn turn(&mut self) {
        let sent: Vec<u8> = self.wire.0.borrow_mut().0.drain(..).collect();
        for read in sent.chunks(7) {
            let (mut payload, mut out) = (Vec::new(), Vec::new());
            self.last =
                self.socket.read(&settings(), read, &mut payload, &mut out).expect("tungstenite is right");
            if !payload.is_empty() && self.socket.is_open() {
                self.socket.write_header(payload.len(), &mut out);
                out.append(&mut payload);
            }
            self.wire.0.borrow_mut().1.extend(out);
        }
    }
}

#[test]
fn the_client_of_tungstenite_is_served() {
    let mut request = "ws://localhost/mqtt".into_client_request().expect("an address");
    let mqtt = tungstenite::http::HeaderValue::from_static("mqtt");
    request.headers_mut().insert("Sec-WebSocket-Protocol", mqtt);
    let wire = Wire::default();
    let mut echo =
        Echo { wire: wire.clone(), socket: WebSocket::new(), last: WebSocketProgress::Handshaking };

    let mut shaking = ClientHandshake::start(wire, request, None).expect("a request");
    let (mut client, response) = loop {
        match shaking.handshake() {
            Ok(done) => break done,
            Err(HandshakeError::Interrupted(rest)) => shaking = rest,
            Err(failure) => panic!("{failure}"),
        }
        echo.turn();
    };
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");

    let sent: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    client.send(Message::Binary(sent.clone().into())).expect("sent");
    client.send(Message::Ping(Bytes::from_static(b"ping"))).expect("sent");
    echo.turn();
    let (mut echoed, mut pongs) = (Vec::new(), 0);
    while let Ok(message) = client.read() {
        match message {
            Message::Binary(part) => echoed.extend_from_slice(&part),
            Message::Pong(body) => pongs += usize::from(&body[..] == b"ping"),
            other => panic!("{other:?}"),
        }
    }
    assert!(echoed == sent && pongs == 1);

    let bye = CloseFrame { code: CloseCode::Away, reason: "".into() };
    client.close(Some(bye.clone())).expect("sent");
    echo.turn();
    assert_eq!(echo.last, WebSocketProgress::PeerClosed);
    assert_eq!(client.read().expect("the echo"), Message::Close(Some(bye)));
    assert!(matches!(client.read(), Err(Error::ConnectionClosed | Error::Io(_))));
}
