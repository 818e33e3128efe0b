//! Wills of clients whose permission was withdrawn, and wills across a restart.

use super::open;
use crate::Running;
use midge_kit::codec::{self, Encode, Kind, V5, decode};
use midge_kit::read_packet;
use std::net::TcpStream;
use std::path::Path;

/// The rules that allow alice a topic, besides those for everyone.
fn rules(topic: &str) -> String {
    format!(
        "default = \"deny\"\n\
         [[rules]]\neveryone = true\nallow = [\"read\"]\ntopics = [\"#\"]\n\
         [[rules]]\nclients = [\"marker\"]\nallow = [\"publish\"]\ntopics = [\"#\"]\n\
         [[rules]]\nclients = [\"alice\", \"bob\"]\nallow = [\"publish\"]\ntopics = [\"{topic}\"]\n"
    )
}

/// A CONNECT of 5.0 with a session that is kept and a retained will to w/CLIENT, published after this delay.
fn connect_with_will(running: &Running, client: &str, delay_seconds: u8) -> TcpStream {
    let will = codec::will(format!("w/{client}"), "gone").qos(1).retain().delay(delay_seconds.into());
    let connect = codec::connect(V5, client).resume().expiry(0xFFFF).will(will);
    let mut stream = open(running.address, &connect.encode(V5));
    let connack = read_packet(&mut stream).expect("CONNACK");
    let connack = decode(&connack, V5).expect("CONNACK");
    assert_eq!((connack.kind, connack.code), (Kind::Connack, 0), "CONNACK for {client}");
    stream
}

#[test]
fn a_will_is_not_published_once_its_topic_was_taken_back() {
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attacks-wills-acl.toml");
    std::fs::write(&list, rules("w/#")).expect("a file of ours");
    let rest = format!("[runtime]\nshards = 2\n[acl]\nfile = {list:?}\n");
    let running = Running::start("attacks-wills", &rest);
    let mut watcher = running.client("watcher");
    watcher.subscribe("w/#", 1);
    let clients = [("alice", 0), ("bob", 1)].map(|(name, delay)| connect_with_will(&running, name, delay));
    // The client still has its permission.
    drop(clients);
    let mut published = [watcher.message(), watcher.message()].map(|message| message.topic);
    published.sort();
    assert_eq!(published, ["w/alice", "w/bob"]);

    let clients = [("alice", 0), ("bob", 1)].map(|(name, delay)| connect_with_will(&running, name, delay));
    let mut marker = running.client("marker");
    for topic in ["w/alice", "w/bob"] {
        assert_eq!(marker.publish_acknowledged(topic, b"", true), 0);
        assert_eq!(watcher.message().payload, b"", "what the first wills have left is gone");
    }
    std::fs::write(&list, rules("other")).expect("a file of ours");
    running.hang_up();
    running.line("the new rules", |line| line.contains("read again"));
    drop(clients);
    for client in ["alice", "bob"] {
        running.line("the will", |line| {
            line.contains("publish refused") && line.contains(client) && line.contains("publish its will")
        });
    }
    let mut late = running.client("late");
    late.subscribe("w/#", 0);
    // This comes after everything that was published.
    assert_eq!(marker.publish_acknowledged("w/end", b"end", false), 0);
    assert_eq!((watcher.message().topic, late.message().topic), ("w/end".into(), "w/end".into()));
}

#[test]
fn a_will_that_comes_due_after_a_restart_obeys_the_rules_of_that_start() {
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attacks-wills-restart-acl.toml");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attacks-wills-restart");
    let _ = std::fs::remove_dir_all(&directory);
    let rest =
        format!("[runtime]\nshards = 2\n[acl]\nfile = {list:?}\n[persistence]\ndirectory = {directory:?}\n");
    std::fs::write(&list, rules("w/#")).expect("a file of ours");
    let mut running = Running::start("attacks-wills-restart", &rest);
    let clients = ["alice", "bob"].map(|name| connect_with_will(&running, name, 1));
    running.kill();
    drop(clients);
    // Of the two, only bob may still publish.
    let kept = rules("w/#").replace("\"alice\", ", "");
    std::fs::write(&list, kept).expect("a file of ours");
    let running = Running::start("attacks-wills-restart", &rest);
    running.line("the will of alice", |line| {
        line.contains("publish refused") && line.contains("alice") && line.contains("publish its will")
    });
    let mut watcher = running.client("watcher");
    watcher.subscribe("w/bob", 0);
    assert_eq!(watcher.message().payload, b"gone");
    watcher.subscribe("w/alice", 0);
    let mut marker = running.client("marker");
    assert_eq!(marker.publish_acknowledged("w/alice", b"end", false), 0);
    assert_eq!(watcher.message().payload, b"end", "nothing is retained for alice");
}
