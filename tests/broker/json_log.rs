//! `[log] format = "json"`: what a log collector reads.

use crate::Running;
use serde_json::{Map, Value};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Quotes, a backslash and a letter of two bytes: what a formatter gets wrong first.
const AWKWARD: &str = "lamp \"7\" \\ é";

fn objects(running: &Running) -> Vec<Map<String, Value>> {
    running
        .lines()
        .iter()
        .map(|line| match serde_json::from_str(line) {
            Ok(Value::Object(object)) => object,
            other => panic!("not an object: {line}: {other:?}"),
        })
        .collect()
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_else(|| panic!("no text {key} in {object:?}"))
}

/// The one object with this message about this client.
fn the_only<'a>(objects: &'a [Map<String, Value>], message: &str, client: &str) -> &'a Map<String, Value> {
    let found: Vec<_> = objects
        .iter()
        .filter(|object| {
            object.get("message").is_some_and(|have| have == message)
                && object.get("client").is_some_and(|have| have == client)
        })
        .collect();
    assert_eq!(found.len(), 1, "{message} of {client} in {objects:#?}");
    found[0]
}

#[test]
fn each_event_is_one_json_object_on_a_line_with_level_client_and_cause() {
    // One session at a time, so that a second client is refused.
    let rest = "[runtime]\nshards = 1\n[log]\nformat = \"json\"\n[limits]\nsessions = 1\n";
    let mut running = Running::start("json", rest);

    let awkward = running.client(AWKWARD);
    let peer = awkward.local_address().to_string();
    let (_, reason) = crate::client::Client::try_connect(running.address, "second", true, 0);
    assert_eq!(reason, 0x89);
    let mut stranger = TcpStream::connect(running.address).expect("it listens");
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("a socket takes it");
    let _ = stranger.read_to_end(&mut Vec::new());
    awkward.disconnect();

    drop(running.client("gone"));
    running.line("who went away", |line| line.contains("disconnected") && line.contains("\"gone\""));

    let mut breaks = running.client("breaks").into_stream();
    // A second CONNECT. [MQTT5-3.1.0-2]
    breaks.write_all(b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c").expect("a socket takes it");
    breaks.read_to_end(&mut Vec::new()).expect("the broker closes");

    let mut stays = running.client("stays").into_stream();
    running.signal("-TERM");
    stays.read_to_end(&mut Vec::new()).expect("the broker closes");
    drop(stays);
    assert_eq!(running.wait(), 0);

    let objects = objects(&running);
    for object in &objects {
        assert!(text(object, "timestamp").ends_with('Z'), "{object:?}");
        assert!(["INFO", "WARN"].contains(&text(object, "level")), "{object:?}");
        assert!(!text(object, "message").is_empty(), "{object:?}");
    }

    let connected = the_only(&objects, "client connected", AWKWARD);
    assert_eq!(text(connected, "level"), "INFO");
    assert_eq!(text(connected, "peer"), peer);
    assert_eq!(text(connected, "protocol"), "5.0");
    assert_eq!(connected["clean_start"], Value::Bool(true));
    assert_eq!(connected["session_present"], Value::Bool(false));
    assert!(connected["keep_alive_seconds"].is_u64() && connected["session_expiry_seconds"].is_u64());

    for (client, cause) in [(AWKWARD, "(0x00)"), ("gone", "clos"), ("breaks", "(0x82)"), ("stays", "(0x8B)")]
    {
        let disconnected = the_only(&objects, "client disconnected", client);
        assert_eq!(text(disconnected, "level"), "INFO");
        assert!(text(disconnected, "cause").contains(cause), "{disconnected:?}");
        assert!(text(disconnected, "peer").starts_with("127.0.0.1:"), "{disconnected:?}");
    }

    let refused = the_only(&objects, "connect refused", "second");
    assert_eq!(text(refused, "level"), "INFO");
    assert!(text(refused, "cause").contains("limits.sessions is reached (0x89)"), "{refused:?}");

    let limit = objects.iter().find(|object| object.contains_key("limit")).expect("the limit is named");
    assert_eq!((text(limit, "level"), text(limit, "limit")), ("WARN", "limits.sessions"));
    let stranger = objects
        .iter()
        .find(|object| text(object, "message") == "connection ended before a session began")
        .expect("who is no client is named too");
    assert!(!text(stranger, "cause").is_empty() && text(stranger, "peer").starts_with("127.0.0.1:"));
}
