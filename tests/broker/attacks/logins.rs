//! Guessed passwords and incomplete handshakes: other clients can still log in.
//!
//! A load balancer's header gives the addresses, so one machine is enough for many of them.

use super::{connect, return_code};
use crate::Running;
use crate::listeners::second_address;
use crate::logins::file;
use crate::running::PATIENCE;
use midge::auth::hash::{Argon2Cost, Scheme};
use midge::auth::password_edit::{Create, set_password};
use midge_kit::codec::{self, Encode, V5};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Instant;

const BALANCED: &str = "proxy_trusted = [\"127.0.0.0/8\"]\nallow_anonymous = false\n";

/// A connection of a client with this address.
fn open_from(balanced: SocketAddr, address: &str, bytes: &[u8]) -> TcpStream {
    let header = format!("PROXY TCP4 {address} 192.0.2.1 4242 1883\r\n").into_bytes();
    let mut stream = TcpStream::connect(balanced).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    // The connection may already be closed.
    let _ = stream.write_all(&[header, bytes.to_vec()].concat());
    stream
}

/// Whether the broker has answered or closed the connection.
fn is_answered(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket option");
    let read = stream.read(&mut [0; 4]);
    !matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// A password file with a hash that takes long, even if this program is fast.
fn slow_passwords(name: &str) -> PathBuf {
    let path = file(name, "");
    let cost = Argon2Cost { memory_kib: 16 * 1024, passes: 1, lanes: 1 };
    set_password(&path, "alice", b"wonder", Scheme::Argon2id(cost), Create::No).expect("a line is added");
    path
}

#[test]
fn logins_of_an_address_that_guesses_do_not_stand_before_those_of_others() {
    let users = slow_passwords("attacks-fair");
    for shards in [1, 2] {
        let rest = format!(
            "{BALANCED}[runtime]\nshards = {shards}\n[auth]\npassword_file = {users:?}\n\
             [limits]\nconnect_seconds = 600\n[gate]\ndelay_milliseconds = 0\n"
        );
        let running = Running::start(&format!("fair-logins{shards}"), &rest);
        let mut numbers = 0..2000;
        let mut guesses: Vec<TcpStream> = Vec::new();
        for round in 0..4 {
            // However fast it hashes, enough of them wait when the valid login comes.
            guesses.retain_mut(|stream| !is_answered(stream));
            let more: Vec<usize> = numbers.by_ref().take(200 - guesses.len()).collect();
            for number in more {
                let guess = connect(&format!("guess{number}"), Some(("alice", "guess")));
                guesses.push(open_from(running.address, "203.0.113.9", &guess));
            }
            guesses.retain_mut(|stream| !is_answered(stream));
            let waiting = guesses.len();
            let good = connect(&format!("good{round}"), Some(("alice", "wonder")));
            assert_eq!(return_code(&mut open_from(running.address, "203.0.113.1", &good)), Some(0));
            guesses.retain_mut(|stream| !is_answered(stream));
            // In a single queue, all of them would have come first.
            let first = waiting - guesses.len();
            assert!(waiting < 40 || first < waiting / 2, "{first} of {waiting} guesses came first");
        }
    }
}

#[test]
fn nothing_is_hashed_for_an_address_while_its_refusals_wait() {
    let users = slow_passwords("attacks-held");
    let rest = format!(
        "{BALANCED}[runtime]\nshards = 2\n[auth]\npassword_file = {users:?}\n[limits]\nconnect_seconds = 12\n\
         [gate]\nfailures_before_delay = 0\ndelay_milliseconds = 60000\ndelay_milliseconds_max = 60000\n"
    );
    let running = Running::start("held-logins", &rest);
    let guess = |number: usize| connect(&format!("guess{number}"), Some(("alice", "guess")));
    let _first = open_from(running.address, "203.0.113.9", &guess(0));
    running.line("the first", |line| line.contains("connect refused") && line.contains("guess0"));
    let before = running.cpu_ticks();
    let mut held: Vec<TcpStream> =
        (1..300).map(|number| open_from(running.address, "203.0.113.9", &guess(number))).collect();
    // This also holds for a correct password.
    let mut right = open_from(running.address, "203.0.113.9", &connect("right", Some(("alice", "wonder"))));
    // Another address is not affected.
    let good = connect("good", Some(("alice", "wonder")));
    assert_eq!(return_code(&mut open_from(running.address, "203.0.113.1", &good)), Some(0));
    for stream in held.iter_mut().chain([&mut right]) {
        assert_eq!(return_code(stream), Some(3), "they may try again, after limits.connect_seconds");
    }
    // 300 hashes of 16 MiB would have taken some seconds of computation.
    let refused = running.lines().iter().filter(|line| line.contains("wrong password")).count();
    assert_eq!(refused, 1, "{} ticks", running.cpu_ticks() - before);
}

#[test]
fn device_with_an_old_password_does_not_lock_out_the_others_behind_its_router() {
    let users = slow_passwords("attacks-router");
    let rest = format!(
        "{BALANCED}[runtime]\nshards = 2\n[auth]\npassword_file = {users:?}\n[limits]\nconnect_seconds = 600\n\
         [gate]\nfailures_before_delay = 0\ndelay_milliseconds = 200\ndelay_milliseconds_max = 200\n"
    );
    let running = Running::start("router", &rest);
    let until = Instant::now() + 5 * PATIENCE;
    for round in 0..6 {
        // The device has been wrong before, and waits again with several connections.
        let old: Vec<TcpStream> = (0..4)
            .map(|number| {
                open_from(
                    running.address,
                    "203.0.113.9",
                    &connect(&format!("old{number}"), Some(("alice", "old"))),
                )
            })
            .collect();
        let good = connect(&format!("good{round}"), Some(("alice", "wonder")));
        assert_eq!(return_code(&mut open_from(running.address, "203.0.113.9", &good)), Some(0));
        for mut stream in old {
            assert_eq!(return_code(&mut stream), Some(5));
        }
        assert!(Instant::now() < until, "{round} rounds");
    }
}

/// A CONNECT of 16,000 bytes without its last bytes.
fn half_connect() -> Vec<u8> {
    let mut half = b"\x10\x80\x7D\x00\x04MQTT\x04\x02\x00\x00".to_vec();
    half.resize(15_000, b'x');
    half
}

/// The newest value of a topic below `$SYS/broker/`, read from an address with free places.
fn figure(balanced: SocketAddr, topic: &str) -> u64 {
    let mut stream = open_from(balanced, "198.51.100.200", &connect("figures", None));
    assert_eq!(return_code(&mut stream), Some(0));
    let filter = format!("$SYS/broker/{topic}");
    let mut subscribe = vec![0x82, u8::try_from(filter.len() + 5).expect("short"), 0, 1, 0];
    subscribe.push(u8::try_from(filter.len()).expect("short"));
    subscribe.extend(filter.as_bytes());
    subscribe.push(0);
    stream.write_all(&subscribe).expect("the broker reads");
    // A SUBACK, and then one short PUBLISH.
    let mut suback = [0; 5];
    stream.read_exact(&mut suback).expect("SUBACK");
    let mut head = [0; 4];
    stream.read_exact(&mut head).expect("a PUBLISH");
    let mut rest = vec![0; usize::from(head[1]) - 2];
    stream.read_exact(&mut rest).expect("a PUBLISH");
    std::str::from_utf8(&rest[filter.len()..]).expect("text").parse().expect("a number")
}

#[test]
fn half_connects_of_one_address_leave_room_for_all_others() {
    for shards in [1, 2] {
        // The attacker connects directly, the others through a load balancer.
        let rest = format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\nproxy_trusted = [\"127.0.0.0/8\"]\n\
             allow_anonymous = true\n[runtime]\nshards = {shards}\n\
             [limits]\nhandshakes = 200\nhandshakes_per_address = 20\nconnect_seconds = 600\n\
             [sys]\ninterval_seconds = 1\n[gate]\nexempt = [\"198.51.100.7\"]\n"
        );
        let running = Running::start(&format!("half-connects{shards}"), &rest);
        let balanced = second_address(&running);
        let mut half_open = Vec::new();
        for _ in 0..400 {
            let mut stream = TcpStream::connect(running.address).expect("it listens");
            // Most connections are closed before.
            let _ = stream.write_all(&half_connect());
            half_open.push(stream);
        }
        let line = running.line("the limit", |line| line.contains("limits.handshakes_per_address"));
        assert!(line.contains("127.0.0.1/32"), "{line}");
        for number in 0..30 {
            let client = connect(&format!("good{number}"), None);
            let address = format!("198.51.100.{}", 10 + number);
            assert_eq!(return_code(&mut open_from(balanced, &address, &client)), Some(0), "{number}");
        }
        let count = |words: &str| running.lines().iter().filter(|line| line.contains(words)).count();
        assert_eq!(count("limits.handshakes_per_address"), 1, "one line for a flood");
        assert_eq!(count("limit=\"limits.handshakes\""), 0);
        // 20 stay: ten on each of two shards, if both have accepted the same number.
        let until = Instant::now() + PATIENCE;
        while figure(balanced, "limits/handshakes_per_address") < 380 {
            assert!(Instant::now() < until, "{}", figure(balanced, "limits/handshakes_per_address"));
        }
        // An exempt address has no share, and each connection that goes frees a place.
        let mut exempt: Vec<TcpStream> =
            (0..60).map(|_| open_from(balanced, "198.51.100.7", &half_connect())).collect();
        drop(half_open);
        let until = Instant::now() + PATIENCE;
        while return_code(&mut open_or_not(&running, &connect("back", None))) != Some(0) {
            assert!(Instant::now() < until, "its places are not given back");
        }
        assert_eq!(exempt.iter_mut().filter_map(|stream| is_answered(stream).then_some(())).count(), 0);
    }
}

/// A connection that may already be closed.
fn open_or_not(running: &Running, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(running.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    let _ = stream.write_all(bytes);
    stream
}

#[test]
fn load_balancer_is_not_one_address() {
    let rest = "proxy_trusted = [\"127.0.0.0/8\"]\nallow_anonymous = true\n[runtime]\nshards = 1\n\
                [limits]\nhandshakes_per_address = 2\nconnect_seconds = 600\n";
    let running = Running::start("half-balancer", rest);
    // These are the balancer's own connections, which have named no client yet, and one of each of many
    // clients.
    let mut open: Vec<TcpStream> =
        (0..10).map(|_| TcpStream::connect(running.address).expect("it listens")).collect();
    open.extend(
        (0..30).map(|number| open_from(running.address, &format!("203.0.113.{number}"), &half_connect())),
    );
    assert_eq!(return_code(&mut open_from(running.address, "203.0.113.99", &connect("c", None))), Some(0));
    assert!(!running.lines().iter().any(|line| line.contains("limits.handshakes_per_address")));
    assert_eq!(open.iter_mut().filter_map(|stream| is_answered(stream).then_some(())).count(), 0);
}

#[test]
fn connect_of_a_client_without_a_name_is_small() {
    let running = Running::start("small-connect", "[runtime]\nshards = 2\n[sys]\ninterval_seconds = 1\n");
    let with_will =
        |id: &str, bytes: usize| codec::connect(V5, id).will(codec::will("w", vec![b'x'; bytes])).encode(V5);
    let small = with_will("small", 16_300);
    let mut stream = super::open(running.address, &small);
    assert_eq!(return_code(&mut stream), Some(0), "{} bytes", small.len());
    let large = with_will("large", 17_000);
    let mut stream = TcpStream::connect(running.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    // This part is enough for the version. The rest is not waited for.
    stream.write_all(&large[..100]).expect("the broker reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it is closed");
    assert_eq!(answer.get(3), Some(&0x95), "{answer:?}");
    running.line("the limit", |line| line.contains("CONNECT above limits.connect_bytes_unnamed"));
}
