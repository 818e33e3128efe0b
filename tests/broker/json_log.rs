//! `[log] format = "json"`: the lines that a log collector reads.

use crate::Running;
use crate::logins::{file, passwords};
use midge_kit::codec::{frame, string};
use serde_json::{Map, Value};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Quotes, a backslash and a letter of two bytes, which a faulty formatter gets wrong first.
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

/// The only object with this message about this client.
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
    // There is one session at most, so that a second client is refused.
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
    // This is a second CONNECT. [MQTT5-3.1.0-2]
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

/// A number in an object.
fn number(object: &Map<String, Value>, key: &str) -> u64 {
    object.get(key).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number {key} in {object:?}"))
}

#[test]
fn what_was_refused_is_told_with_who_what_and_the_rule() {
    let acl = file(
        "json-acl.toml",
        "[[rules]]\neveryone = true\nallow = [\"all\"]\ntopics = [\"open/#\"]\n\n\
         [[rules]]\neveryone = true\ndeny = [\"all\"]\ntopics = [\"open/secret/#\"]\n",
    );
    let users = passwords("json-passwords", &[("alice", "wonder")]);
    let rest = format!(
        "allow_anonymous = true\n[runtime]\nshards = 2\n[log]\nformat = \"json\"\n[auth]\npassword_file = {users:?}\n\
         [acl]\nfile = {acl:?}\n[limits]\nconnections = 2\n"
    );
    let mut running = Running::start("json-why", &rest);
    // A CONNECT with a user name and a password.
    let connect = |id: &str, password: &str| {
        let head = [&string("MQTT")[..], &[5, 0xC2, 0, 60, 0]].concat();
        let body = [head, string(id), string("alice"), string(password)].concat();
        let mut stream = TcpStream::connect(running.address).expect("it listens");
        stream.write_all(&frame(0x10, &body)).expect("a socket takes it");
        stream
    };
    let mut stream = connect("burglar", "guessed");
    running.line("the wrong login", |line| line.contains("connect refused"));
    let _ = stream.read_to_end(&mut Vec::new());
    drop(stream);

    let mut stream = connect("wonder", "wonder");
    stream.read_exact(&mut [0; 2]).expect("a CONNACK");
    for filter in ["closed/#", "open/secret/1"] {
        let body = [&[0, 7, 0][..], &string(filter), &[0]].concat();
        stream.write_all(&frame(0x82, &body)).expect("a socket takes it");
        running.line("a filter", |line| line.contains("subscribe refused") && line.contains(filter));
    }
    let mut publisher = running.client("publisher");
    assert_eq!(publisher.publish_acknowledged("open/secret/2", b"x", false), 0x87);
    assert_eq!(publisher.publish_acknowledged("closed/2", b"x", false), 0x87);
    let _third = TcpStream::connect(running.address).expect("it listens");
    running.line("the bound", |line| line.contains("limit reached") && line.contains("limits.connections"));
    publisher.disconnect();
    running.signal("-TERM");
    assert_eq!(running.wait(), 0);

    let objects = objects(&running);
    let address = "127.0.0.1:0";
    let refused = the_only(&objects, "connect refused", "burglar");
    assert_eq!((text(refused, "user"), text(refused, "listener")), ("alice", address));
    assert_eq!(number(refused, "reason_code"), 0x87);
    let about = |message: &str, topic: &str| {
        let fits = |object: &&Map<String, Value>| {
            text(object, "message") == message && object.get("topic").is_some_and(|have| have == topic)
        };
        let found: Vec<_> = objects.iter().filter(fits).collect();
        assert_eq!(found.len(), 1, "{message} {topic} in {objects:#?}");
        assert_eq!(number(found[0], "reason_code"), 0x87);
        found[0]
    };
    let (acl, none) = (acl.display().to_string(), format!("{}: no rule allows it", acl.display()));
    for (topic, rule) in [("closed/#", &none), ("open/secret/1", &format!("{acl}:6"))] {
        let refused = about("subscribe refused", topic);
        assert_eq!((text(refused, "user"), text(refused, "client")), ("alice", "wonder"));
        assert_eq!(text(refused, "rule"), rule);
    }
    for (topic, rule) in [("closed/2", &none), ("open/secret/2", &format!("{acl}:6"))] {
        let refused = about("publish refused", topic);
        assert_eq!((text(refused, "client"), text(refused, "rule")), ("publisher", rule.as_str()));
    }
    let full =
        objects.iter().find(|object| object.get("limit").is_some_and(|limit| limit == "limits.connections"));
    let full = full.expect("the bound is told");
    assert!(text(full, "peer").starts_with("127.0.0.1:") && text(full, "listener") == address, "{full:?}");
    let gone = the_only(&objects, "client disconnected", "publisher");
    assert_eq!((number(gone, "queued"), number(gone, "reason_code")), (0, 0));
    assert!(number(gone, "seconds") < 600 && text(gone, "listener") == address, "{gone:?}");
}

#[test]
fn what_went_over_a_connection_is_told_at_its_end() {
    // With two shards, some connections move to the home of their client identifier.
    for shards in [1, 2] {
        let rest = format!("[runtime]\nshards = {shards}\n[log]\nformat = \"json\"\n");
        let mut running = Running::start(&format!("json-traffic-{shards}"), &rest);
        let mut tallies = Vec::new();
        for id in ["one", "two", "three", "four"] {
            let mut client = running.client(id);
            client.subscribe(id, 1);
            for payload in [&b"x"[..], &[b'y'; 10_000]] {
                client.publish_acknowledged(id, payload, false);
                client.publish("elsewhere", payload, false);
                client.message();
            }
            tallies.push((id, client.disconnect()));
        }
        // The same slots are used again, and earlier connections must not count. This one leaves without
        // DISCONNECT.
        let silent = running.client("silent");
        tallies.push(("silent", silent.tally()));
        drop(silent);
        running
            .line("it has gone", |line| line.contains("client disconnected") && line.contains("\"silent\""));
        running.signal("-TERM");
        assert_eq!(running.wait(), 0);
        let objects = objects(&running);
        for (id, tally) in tallies {
            let gone = the_only(&objects, "client disconnected", id);
            let told = ["messages_in", "bytes_in", "messages_out", "bytes_out"].map(|key| number(gone, key));
            let seen =
                [tally.publishes_sent, tally.bytes_sent, tally.publishes_received, tally.bytes_received];
            assert_eq!(told, seen, "{id} with {shards} shards");
        }
    }
}

/// The only object with this message about this client and topic.
fn about<'a>(
    objects: &'a [Map<String, Value>],
    message: &str,
    client: &str,
    topic: &str,
) -> &'a Map<String, Value> {
    let fits = |object: &&Map<String, Value>| {
        [("message", message), ("client", client), ("topic", topic)]
            .iter()
            .all(|(key, value)| object.get(*key).is_some_and(|have| have == value))
    };
    let found: Vec<_> = objects.iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "{message} {client} {topic} in {objects:#?}");
    found[0]
}

#[test]
fn at_debug_subscriptions_are_told_and_what_each_publish_matched() {
    let rest = "[runtime]\nshards = 2\n[log]\nformat = \"json\"\nlevel = \"debug\"\n";
    let mut running = Running::start("json-debug", rest);
    let mut subscribers: Vec<_> = (0..6).map(|at| running.client(&format!("sub{at}"))).collect();
    for subscriber in &mut subscribers {
        subscriber.subscribe("home/+", 1);
    }
    subscribers[0].subscribe("$share/group/home/door", 0);
    let mut publisher = running.client("publisher");
    assert_eq!(publisher.publish_acknowledged("home/door", b"open", false), 0);
    assert_eq!(publisher.publish_acknowledged("nobody/listens", b"lost", false), 0x10);
    for (at, subscriber) in subscribers.iter_mut().enumerate() {
        // The first subscriber is also the group.
        for _ in 0..if at == 0 { 2 } else { 1 } {
            assert_eq!(subscriber.message().payload, b"open");
        }
    }
    subscribers[0].unsubscribe("home/+");
    for client in subscribers.into_iter().chain([publisher]) {
        client.disconnect();
    }
    running.signal("-TERM");
    assert_eq!(running.wait(), 0);
    let objects = objects(&running);
    let made = about(&objects, "subscribed", "sub0", "home/+");
    assert_eq!((text(made, "level"), number(made, "qos")), ("DEBUG", 1));
    assert_eq!((text(made, "retain_handling"), made["no_local"].as_bool()), ("always", Some(false)));
    assert_eq!(made["is_new"].as_bool(), Some(true));
    about(&objects, "subscribed", "sub0", "$share/group/home/door");
    // They end by UNSUBSCRIBE, and with the session.
    about(&objects, "subscription ended", "sub0", "home/+");
    about(&objects, "subscription ended", "sub5", "home/+");

    let nobody = about(&objects, "publish matched", "publisher", "nobody/listens");
    assert_eq!((number(nobody, "subscribers"), number(nobody, "groups")), (0, 0));
    about(&objects, "publish matched", "publisher", "home/door");
    let all = objects.iter().filter(|object| {
        object.get("message").is_some_and(|have| have == "publish matched")
            && object.get("topic").is_some_and(|have| have == "home/door")
    });
    let told: Vec<_> = all.map(|object| (number(object, "subscribers"), number(object, "groups"))).collect();
    assert_eq!(told.iter().map(|(subscribers, _)| subscribers).sum::<u64>(), 6, "{told:?}");
    assert_eq!(told.iter().map(|(_, groups)| groups).sum::<u64>(), 1, "{told:?}");
}

#[test]
fn a_storm_is_told_in_one_line_a_second_with_counts_by_cause() {
    const CLIENTS: usize = 400;
    let rest = "[runtime]\nshards = 1\n[log]\nformat = \"json\"\nstorm_summary = true\n";
    let mut running = Running::start("json-storm", rest);
    for at in 0..CLIENTS {
        drop(running.client(&format!("c{at}")));
    }
    running.signal("-TERM");
    assert_eq!(running.wait(), 0);
    let objects = objects(&running);
    for (kind, causes) in [
        ("client connected", &["new session"][..]),
        (
            "client disconnected",
            &["closed without DISCONNECT", "reset by the client", "server shutting down"],
        ),
    ] {
        let single = objects.iter().filter(|object| text(object, "message") == kind).count();
        let wanted = format!("log lines were left out: {kind}");
        let mut summed = 0;
        for line in objects.iter().filter(|object| text(object, "message") == wanted) {
            let mut counted = 0;
            for cause in text(line, "causes").split(", ") {
                let (word, count) = cause.rsplit_once(": ").expect("a count");
                assert!(causes.contains(&word), "{line:?}");
                counted += count.parse::<u64>().expect("a number");
            }
            assert_eq!(counted, number(line, "lines"));
            summed += counted;
        }
        assert_eq!(single as u64 + summed, CLIENTS as u64, "{kind}: {single} and {summed}");
    }
}
