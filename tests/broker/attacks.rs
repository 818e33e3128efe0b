//! Hostile clients: the damage that they can do is bounded, and other clients are still served.
//!
//! Other kinds of attacks are tested with their subjects: bounds of parsers in `tests/fuzz`, deep topics,
//! reserved topics and wills in `tests/conformance`, access lists with injected names in the unit tests of
//! `policy::acl`, failed reloads and borrowed names of certificates in `doors`, passwords in the log in
//! `logins`.

mod absent;
mod inflight;
mod log;
mod logins;
mod memory;
mod stuck;
mod turns;
mod wills;

use crate::Running;
use crate::client::Client;
use crate::logins::passwords;
use crate::running::PATIENCE;
use midge_kit::codec::{self, Encode, V311};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A CONNECT of 3.1.1 with a clean session.
fn connect(id: &str, login: Option<(&str, &str)>) -> Vec<u8> {
    let connect = codec::connect(V311, id);
    match login {
        Some((user, password)) => connect.user(user).password(password),
        None => connect,
    }
    .encode(V311)
}

fn open(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(2 * PATIENCE)).expect("a socket option");
    stream.write_all(bytes).expect("the broker reads");
    stream
}

/// The return code of CONNACK. `None` if the connection was closed without one.
fn return_code(stream: &mut TcpStream) -> Option<u8> {
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).ok().map(|()| connack[3])
}

#[test]
fn who_asks_for_all_retained_messages_again_and_again_and_does_not_read_costs_a_bound() {
    const MESSAGES: usize = 4000;
    const ATTACKERS: usize = 20;
    let running = Running::start("amplification", "[runtime]\nshards = 2\n");
    let mut publisher = running.client("publisher");
    for number in 0..MESSAGES {
        publisher.publish(&format!("retained/{number}"), &[b'x'; 1000], true);
    }
    assert!(publisher.publish_acknowledged("last", b"x", true) < 0x80);
    let before = running.memory_kib();
    let subscribe = b"\x82\x06\x00\x01\x00\x01#\x00";
    let mut attackers: Vec<TcpStream> = (0..ATTACKERS)
        .map(|number| {
            let mut stream = open(running.address, &connect(&format!("attacker{number}"), None));
            assert_eq!(return_code(&mut stream), Some(0));
            stream
        })
        .collect();
    // Each of the 50 would cause 4 MB.
    for _ in 0..50 {
        for stream in &mut attackers {
            stream.write_all(subscribe).expect("what the broker does not read waits in the sockets");
        }
    }
    // Others are served at the same time. Each answer shows that the shards have had a turn.
    let mut other = running.client("other");
    other.subscribe("news", 1);
    for _ in 0..200 {
        assert_eq!(publisher.publish_acknowledged("news", b"x", false), 0);
        other.message();
    }
    let grown = running.memory_kib().saturating_sub(before);
    // The bound is limits.backlog_bytes for each, and the same again for bytes on their way.
    assert!(grown < ATTACKERS as u64 * 2048 + 8192, "{grown} KiB more");
}

#[test]
fn what_comes_before_connect_is_whole_costs_a_bound_and_has_an_end() {
    let rest = "[limits]\nhandshakes = 40\nconnect_seconds = 5\nconnect_bytes_unnamed = 131072\n\
                [runtime]\nshards = 2\n";
    let running = Running::start("handshakes", rest);
    let before = running.memory_kib();
    // This is a CONNECT of 100,000 bytes without its last byte.
    let mut half = b"\x10\xA0\x8D\x06\x00\x04MQTT\x04\x02\x00\x00".to_vec();
    half.resize(100_003, b'x');
    let mut half_open: Vec<TcpStream> = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(running.address).expect("it listens");
        // Most connections are closed while they write.
        let _ = stream.write_all(&half);
        half_open.push(stream);
    }
    let grown = running.memory_kib().saturating_sub(before);
    assert!(grown < 40 * 2 * 100 + 8192, "{grown} KiB more");
    running.line("the bound", |line| line.contains("limits.handshakes"));
    running.line("their end", |line| line.contains("no CONNECT within limits.connect_seconds"));
    let until = Instant::now() + PATIENCE;
    while return_code(&mut open(running.address, &connect("honest", None))) != Some(0) {
        assert!(Instant::now() < until, "nobody gets in any more");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn wrong_password_takes_no_session_over_and_of_a_crowd_one_client_is_left() {
    let users = passwords("attacks-passwords", &[("alice", "wonder")]);
    // Many hashes take long on a busy machine.
    let rest = format!(
        "allow_anonymous = false\n[runtime]\nshards = 2\n[auth]\npassword_file = {users:?}\n\
         [limits]\nconnect_seconds = 600\n"
    );
    let running = Running::start("takeover", &rest);
    let good = connect("meter", Some(("alice", "wonder")));
    let mut owner = open(running.address, &good);
    assert_eq!(return_code(&mut owner), Some(0));
    for _ in 0..5 {
        let mut thief = open(running.address, &connect("meter", Some(("alice", "wrong"))));
        assert_eq!(return_code(&mut thief), Some(5));
    }
    owner.write_all(b"\xC0\x00").expect("it is still in");
    let mut pong = [0; 2];
    owner.read_exact(&mut pong).expect("it is still in");
    assert_eq!(pong, [0xD0, 0]);

    let crowd: Vec<TcpStream> = (0..24).map(|_| open(running.address, &good)).collect();
    let mut living = Vec::new();
    for mut stream in crowd {
        assert_eq!(return_code(&mut stream), Some(0), "each is in, until the next one comes");
        living.push(stream);
    }
    // All have their CONNACK, so all takeovers have happened: the replaced connections are closed.
    let mut answers = 0;
    for stream in &mut living {
        let asked = stream.write_all(b"\xC0\x00").is_ok();
        answers += u32::from(asked && stream.read_exact(&mut pong).is_ok());
    }
    assert_eq!(answers, 1);
    assert_eq!(owner.read(&mut pong).unwrap_or(0), 0, "the first one is out");
}

#[test]
fn login_that_waits_for_its_check_holds_up_nobody() {
    // One hash takes long, and many clients want it checked at once.
    let users = passwords("attacks-slow", &[("alice", "wonder")]);
    let rest = format!(
        "allow_anonymous = true\n[runtime]\nshards = 1\n[auth]\npassword_file = {users:?}\n\
             [gate]\ndelay_milliseconds = 0\n"
    );
    let running = Running::start("slow-logins", &rest);
    let mut other: Client = running.client("other");
    other.subscribe("a", 1);
    let flood: Vec<TcpStream> = (0..200)
        .map(|number| open(running.address, &connect(&format!("flood{number}"), Some(("alice", "guess")))))
        .collect();
    for _ in 0..50 {
        assert_eq!(other.publish_acknowledged("a", b"x", false), 0);
        other.message();
    }
    // Others were served while these waited: the last of them has no answer yet, or was refused like all.
    for mut stream in flood {
        assert!(matches!(return_code(&mut stream), Some(5 | 3)));
    }
}
