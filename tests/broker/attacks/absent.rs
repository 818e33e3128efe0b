//! An absent or full subscriber, and what its publishers see.

use super::{connect, open, return_code};
use crate::Running;
use crate::client::Client;
use std::io::{Read, Write};
use std::net::TcpStream;

/// A publisher of 3.1.1, byte by byte.
struct Publisher(TcpStream);

impl Publisher {
    fn connect(running: &Running) -> Publisher {
        let mut stream = open(running.address, &connect("publisher", None));
        assert_eq!(return_code(&mut stream), Some(0));
        Publisher(stream)
    }

    /// Goes through the whole flow of a QoS; any other answer, or the end of the connection, fails.
    fn publish(&mut self, topic: &str, id: u8, qos: u8, payload: &str) {
        let length = u8::try_from(topic.len() + payload.len() + 4).expect("short");
        let mut packet = vec![0x30 | qos << 1, length, 0, u8::try_from(topic.len()).expect("short")];
        packet.extend(topic.as_bytes());
        packet.extend([0, id]);
        packet.extend(payload.as_bytes());
        self.0.write_all(&packet).expect("the connection stays");
        if qos == 1 {
            return self.expect([0x40, 2, 0, id]);
        }
        self.expect([0x50, 2, 0, id]);
        self.0.write_all(&[0x62, 2, 0, id]).expect("the connection stays");
        self.expect([0x70, 2, 0, id]);
    }

    fn expect(&mut self, answer: [u8; 4]) {
        let mut got = [0; 4];
        self.0.read_exact(&mut got).expect("an acknowledgement, and no end of the connection");
        assert_eq!(got, answer);
    }
}

/// A session that is subscribed and away.
fn absent(running: &Running) {
    let mut away = Client::connect(running.address, "away", false, 3600);
    away.subscribe("fleet/#", 1);
    away.disconnect();
}

fn payloads(client: &mut Client, count: usize) -> Vec<String> {
    (0..count).map(|_| String::from_utf8(client.message().payload).expect("UTF-8")).collect()
}

fn numbers(range: std::ops::Range<u8>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn a_3x_publisher_is_acknowledged_and_stays_while_one_session_is_away_and_full() {
    for (shards, policy) in [(1, ""), (2, ""), (2, "refuse")] {
        for qos in [1, 2] {
            let option = if policy.is_empty() {
                String::new()
            } else {
                format!("session_queue_policy = {policy:?}\n")
            };
            let rest =
                format!("[runtime]\nshards = {shards}\n[limits]\nsession_queue_messages = 3\n{option}");
            let running = Running::start(&format!("absent-{shards}-{policy}-{qos}"), &rest);
            absent(&running);
            let mut live = running.client("live");
            live.subscribe("fleet/#", 1);
            let mut publisher = Publisher::connect(&running);
            for number in 1..=12 {
                publisher.publish("fleet/state", number, qos, &number.to_string());
            }
            assert_eq!(payloads(&mut live, 12), numbers(1..13), "each once");
            // Behind all of them.
            assert_eq!(
                live.publish_acknowledged("fleet/end", b"end", false) & 0x7F,
                if policy.is_empty() { 0 } else { 0x17 }
            );
            assert_eq!(payloads(&mut live, 1), ["end"]);
            let lines = running.lines();
            let about = |line: &&String| line.contains("client=\"away\"") && line.contains("limit reached");
            let told: Vec<&String> = lines.iter().filter(about).collect();
            assert!(told.len() == 1 && told[0].contains("limits.session_queue_messages"), "{lines:#?}");
            let gone = |line: &String| line.contains("client disconnected") && line.contains("\"publisher\"");
            assert!(!lines.iter().any(gone), "{lines:#?}");
            let mut away = Client::connect(running.address, "away", false, 3600);
            let kept = if policy.is_empty() { ["11", "12", "end"] } else { ["1", "2", "3"] };
            assert_eq!(payloads(&mut away, 3), kept);
        }
    }
}

#[test]
fn a_5_0_publisher_is_told_what_a_full_queue_refuses_and_stays() {
    let rest =
        "[runtime]\nshards = 2\n[limits]\nsession_queue_messages = 3\nsession_queue_policy = \"refuse\"\n";
    let running = Running::start("absent-told", rest);
    absent(&running);
    let mut live = running.client("live");
    live.subscribe("fleet/#", 1);
    let mut publisher = running.client("publisher");
    for number in 1..=12 {
        let code = publisher.publish_acknowledged("fleet/state", number.to_string().as_bytes(), false);
        assert_eq!(code, if number <= 3 { 0 } else { 0x97 }, "message {number}");
    }
    assert_eq!(payloads(&mut live, 12), numbers(1..13), "the others have it, whatever the publisher is told");
    let mut away = Client::connect(running.address, "away", false, 3600);
    assert_eq!(payloads(&mut away, 3), numbers(1..4));
    assert_eq!(publisher.publish_acknowledged("fleet/state", b"13", false), 0);
}
