//! The request that opens a WebSocket, and its answer.

use super::*;

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
