//! An absent subscriber or one with a full queue, and the answers to its publishers.

use super::{connect, open, return_code};
use crate::Running;
use crate::client::Client;
use crate::running::{can_mount, config_file, midge, run};
use midge_kit::codec::{self, Encode, V5, V311, decode};
use midge_kit::read_packet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// A publisher of 3.1.1, byte by byte.
struct Publisher(TcpStream);

impl Publisher {
    fn connect(running: &Running) -> Publisher {
        let mut stream = open(running.address, &connect("publisher", None));
        assert_eq!(return_code(&mut stream), Some(0));
        Publisher(stream)
    }

    /// Completes the exchange of a QoS. Another answer, or the end of the connection, is a failure.
    fn publish(&mut self, topic: &str, id: u8, qos: u8, payload: &str) {
        let message = codec::publish(topic, payload).qos(qos, id.into()).encode(V311);
        self.0.write_all(&message).expect("the connection stays");
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

/// Creates a session that is subscribed and offline.
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
            // This comes after all of them.
            assert_eq!(
                live.publish_acknowledged("fleet/end", b"end", false) & 0x7F,
                if policy.is_empty() { 0 } else { 0x17 }
            );
            assert_eq!(payloads(&mut live, 1), ["end"]);
            let about = |line: &str| line.contains("client=\"away\"") && line.contains("limit reached");
            running.line("the full queue", about);
            let lines = running.lines();
            let told: Vec<&String> = lines.iter().filter(|line| about(line)).collect();
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

/// The User Properties of CONNACK that tell a client what its session has lost. The client leaves without
/// DISCONNECT.
fn told(running: &Running, id: &str) -> [Option<u32>; 2] {
    let connect = codec::connect(V5, id).resume().expiry(0xFFFF);
    let mut stream = open(running.address, &connect.encode(V5));
    let connack = read_packet(&mut stream).expect("CONNACK");
    let connack = decode(&connack, V5).expect("CONNACK");
    assert!(connack.session_present && connack.code == 0, "the session is there");
    ["midge-dropped", "midge-expired"].map(|name| {
        let pairs = connack.pairs();
        let value = pairs.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok())
    })
}

#[test]
fn what_a_session_has_lost_is_known_after_kill_9_and_told_once() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("absent-ledger");
    let _ = std::fs::remove_dir_all(&directory);
    let rest = |shards| {
        format!(
            "[runtime]\nshards = {shards}\n[limits]\nsession_queue_messages = 3\n[persistence]\ndirectory = {directory:?}\n"
        )
    };
    let mut running = Running::start("absent-ledger", &rest(2));
    absent(&running);
    let mut publisher = running.client("publisher");
    for number in 1..=12 {
        assert_eq!(publisher.publish_acknowledged("fleet/state", number.to_string().as_bytes(), false), 0);
    }
    running.kill();
    let dump = run(midge().args(["store", "dump"]).arg(&directory));
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    let is_told = |line: &str| {
        line.starts_with("lost ") && line.contains(" queue_full=9 expired=0 too_large=0 withdrawn=0 ")
    };
    assert!(dump.lines().any(is_told), "{dump}");
    let verify = run(midge().args(["store", "verify"]).arg(&directory));
    assert_eq!(verify.status.code(), Some(0), "{}", String::from_utf8_lossy(&verify.stdout));

    let mut running = Running::start("absent-ledger", &rest(1));
    assert_eq!(told(&running, "away"), [Some(9), None]);
    let line = running
        .line("the losses", |line| line.contains("the client is back, and the session has lost messages"));
    assert!(line.contains("client=\"away\"") && line.contains("queue_full=9"), "{line}");
    assert_eq!(told(&running, "away"), [None, None]);
    running.kill();
    let mut running = Running::start("absent-ledger", &rest(2));
    assert_eq!(told(&running, "away"), [None, None]);
    let mut away = Client::connect(running.address, "away", false, 3600);
    assert_eq!(payloads(&mut away, 3), ["10", "11", "12"]);
    running.kill();
}

#[test]
fn what_expired_for_an_absent_session_is_told_to_it() {
    let running = Running::start("absent-expired", "[runtime]\nshards = 2\n");
    absent(&running);
    let mut publisher = running.client("publisher").into_stream();
    // It has a Message Expiry Interval of one second.
    publisher
        .write_all(b"\x32\x13\x00\x07fleet/x\x00\x01\x05\x02\x00\x00\x00\x01hi")
        .expect("the broker reads");
    let mut puback = [0; 4];
    publisher.read_exact(&mut puback).expect("PUBACK");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(told(&running, "away"), [None, Some(1)]);
    assert_eq!(told(&running, "away"), [None, None]);
}

/// A separate file system in memory, with a file that fills it until the test removes the file.
#[test]
fn a_3x_publisher_whose_messages_must_be_kept_waits_for_room_on_a_full_disk_and_is_not_closed() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("absent-full");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("a folder of ours");
    if !can_mount(&directory) {
        return;
    }
    let text = format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n[runtime]\nshards = 2\n[persistence]\ndirectory = {:?}\nsegment_bytes = 1048576\n",
        directory.join("state")
    );
    let go = directory.with_extension("go");
    let _ = std::fs::remove_file(&go);
    let script = format!(
        "mount -t tmpfs -o size=24m tmpfs {0} || exit 1\n\
         head -c 16m /dev/zero > {0}/filler\n\
         (while [ ! -e {0}.go ]; do sleep 0.05; done; rm {0}/filler) &\n\
         exec {1} --config {2}",
        directory.display(),
        env!("CARGO_BIN_EXE_midge"),
        config_file("absent-full", &text).display()
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["-rm", "sh", "-c", &script]);
    let running = Running::start_command(command).expect("it starts");
    absent(&running);
    let mut live = running.client("live");
    live.subscribe("fleet/#", 0);
    let mut filler = running.client("filler");
    let payload = vec![7; 100_000];
    let (mut stored, mut refused) = (0, 0);
    // The checkpoint frees space for a while, until it has merged the whole log. Both shards must have none,
    // so the topics alternate between them.
    for topic in 0.. {
        if refused == 40 {
            break;
        }
        if filler.publish_acknowledged(&format!("r/{topic}"), &payload, true) == 0x97 {
            refused += 1;
            std::thread::sleep(Duration::from_millis(50));
        } else {
            (stored, refused) = (stored + 1, 0);
        }
        assert!(stored < 1000, "the disk never filled");
    }
    // The refusals have used up the log lines of this second.
    std::thread::sleep(Duration::from_millis(1100));
    let mut publisher = open(running.address, &connect("publisher", None));
    assert_eq!(return_code(&mut publisher), Some(0));
    for (head, id) in [(0x32, 1), (0x34, 2)] {
        publisher
            .write_all(&[&[head, 13, 0, 7], b"fleet/x".as_slice(), &[0, id], b"hi"].concat())
            .expect("it is read");
    }
    running
        .line("the wait", |line| line.contains("client=\"publisher\"") && line.contains("3.x has no code"));
    // Others are served, and nobody has the message, not even subscribers that need no disk.
    assert_eq!(filler.publish_acknowledged("other", b"x", false), 0x10);
    let mut early = [0; 1];
    publisher.set_nonblocking(true).expect("a socket option");
    assert!(publisher.read(&mut early).is_err(), "no acknowledgement, and no end");
    publisher.set_nonblocking(false).expect("a socket option");
    std::fs::write(&go, "").expect("a file of ours");
    let mut answers = [0; 8];
    publisher.read_exact(&mut answers).expect("both are acknowledged once there is room");
    assert_eq!(answers, [0x40, 2, 0, 1, 0x50, 2, 0, 2]);
    assert_eq!(payloads(&mut live, 2), ["hi", "hi"]);
    let mut away = Client::connect(running.address, "away", false, 3600);
    assert_eq!(payloads(&mut away, 2), ["hi", "hi"]);
    let _ = std::fs::remove_file(&go);
}
