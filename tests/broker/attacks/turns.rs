//! Work and bytes of one turn have a budget.
//!
//! Each attack is a small version of one that once made a turn's arena exceed 4 GiB. Without the budget, the
//! broker's memory far exceeds the bound here, for a moment that its peak records.

use super::{connect, open, return_code};
use crate::Running;
use crate::doors::pki::{Authority, TlsStream};
use crate::running::PATIENCE;
use midge_kit::codec::{V5, body_of, decode, frame, string, variable};
use midge_kit::read_packet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// A CONNECT of 5.0 with flags, properties, and the bytes after the client identifier.
fn connect_5(id: &str, flags: u8, properties: &[u8], rest: &[u8]) -> Vec<u8> {
    let head =
        [b"\x00\x04MQTT\x05".as_slice(), &[flags, 0, 0], &variable(properties.len() as u32), properties];
    frame(0x10, &[head.concat(), string(id), rest.to_vec()].concat())
}

/// A connected client whose packets are read one after the other.
struct Peer<S> {
    stream: S,
}

impl<S: Read + Write> Peer<S> {
    fn enter(mut stream: S, connect: &[u8]) -> Peer<S> {
        stream.write_all(connect).expect("the broker reads");
        let mut peer = Peer { stream };
        let (head, body) = peer.packet();
        assert_eq!((head, body[1]), (0x20, 0), "it is in");
        peer
    }

    /// The first byte of the next packet, and the bytes after its length.
    fn packet(&mut self) -> (u8, Vec<u8>) {
        let packet = read_packet(&mut self.stream).expect("a packet");
        decode(&packet, V5).expect("a packet that a server may send");
        (packet[0], body_of(&packet).to_vec())
    }

    fn subscribe(&mut self, properties: &[u8], filter: &str, qos: u8) {
        let body = [b"\x00\x01".as_slice(), properties, &string(filter), &[qos]].concat();
        self.stream.write_all(&frame(0x82, &body)).expect("the broker reads");
        assert_eq!(self.packet().0, 0x90);
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the broker reads");
    }
}

fn tcp(running: &Running, connect: &[u8]) -> Peer<TcpStream> {
    let mut peer = Peer { stream: open(running.address, connect) };
    let (head, body) = peer.packet();
    assert_eq!((head, body[1]), (0x20, 0), "it is in");
    peer
}

/// Checks that other clients are served during the attack.
fn serves_others(running: &Running) {
    let mut other = running.client("other");
    other.subscribe("news", 1);
    for _ in 0..20 {
        assert_eq!(other.publish_acknowledged("news", b"x", false), 0);
        assert_eq!(other.message().topic, "news");
    }
}

const MIB: u64 = 1024;
const ONE_SHARD: &str = "[runtime]\nshards = 1\n";

#[test]
fn topic_alias_multiplied_by_subscription_identifiers_costs_no_more_than_backlogs() {
    let running = Running::start("turns-alias", ONE_SHARD);
    let mut members: Vec<_> = (0..20)
        .map(|n| {
            let mut member = tcp(&running, &connect_5(&format!("m{n}"), 2, b"", b""));
            member.subscribe(b"\x02\x0B\x01", "a/#", 0);
            member
        })
        .collect();
    let mut publisher = tcp(&running, &connect_5("publisher", 2, b"", b""));
    let topic = format!("a/{}", "x".repeat(65_500));
    publisher.send(&frame(0x30, &[string(&topic).as_slice(), b"\x03\x23\x00\x01"].concat()));
    let before = running.peak_kib();
    // These 4 KB request 670 MB.
    publisher.send(&b"\x30\x06\x00\x00\x03\x23\x00\x01".repeat(512));
    serves_others(&running);
    // Clients that read get the messages. Others get what their sockets and backlogs hold.
    for _ in 0..10 {
        assert_eq!(members[0].packet().0, 0x30);
    }
    publisher.send(&frame(0x32, &[string("a/last").as_slice(), b"\x00\x01\x00"].concat()));
    assert_eq!(publisher.packet().0, 0x40, "all that came before has been handled");
    let grown = running.peak_kib() - before;
    assert!(grown < 96 * MIB, "{grown} KiB more");
}

#[test]
fn image_at_qos_2_for_kept_sessions_is_encoded_once() {
    const SIZE: usize = 1_990_000;
    let state = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("turns-image");
    let _ = std::fs::remove_dir_all(&state);
    let rest = format!("{ONE_SHARD}[persistence]\ndirectory = {state:?}\n");
    let running = Running::start("turns-image", &rest);
    let mut members: Vec<_> = (0..60)
        .map(|n| {
            let mut member = tcp(&running, &connect_5(&format!("m{n}"), 2, b"\x11\x00\x00\x0E\x10", b""));
            member.subscribe(b"\x00", "firmware", 2);
            member
        })
        .collect();
    let mut publisher = tcp(&running, &connect_5("publisher", 2, b"", b""));
    let before = running.peak_kib();
    publisher.send(&frame(0x34, &[string("firmware"), vec![0, 1, 0], vec![7; SIZE]].concat()));
    assert_eq!(publisher.packet().0, 0x50);
    serves_others(&running);
    for member in &mut members {
        let (head, body) = member.packet();
        assert_eq!((head, body.len()), (0x34, 10 + 3 + SIZE));
    }
    let grown = running.peak_kib() - before;
    assert!(grown < 80 * MIB, "{grown} KiB more");
}

#[test]
fn image_for_many_tls_clients_is_encrypted_in_pieces() {
    const SIZE: usize = 1_990_000;
    let authority = Authority::new("turns");
    let rest = format!("{}{ONE_SHARD}", authority.server("server").rows());
    let running = Running::start("turns-tls", &rest);
    let enter = |id: &str| -> Peer<TlsStream> {
        Peer::enter(authority.open(running.address), &connect_5(id, 2, b"", b""))
    };
    let mut members: Vec<_> = (0..60)
        .map(|n| {
            let mut member = enter(&format!("m{n}"));
            member.subscribe(b"\x00", "firmware", 0);
            member
        })
        .collect();
    let mut publisher = enter("publisher");
    let before = running.peak_kib();
    publisher.send(&frame(0x32, &[string("firmware"), vec![0, 1, 0], vec![7; SIZE]].concat()));
    assert_eq!(publisher.packet().0, 0x40);
    for member in &mut members {
        let (head, body) = member.packet();
        assert_eq!((head, body.len()), (0x30, 8 + 2 + 1 + SIZE));
    }
    let grown = running.peak_kib() - before;
    assert!(grown < 80 * MIB, "{grown} KiB more");
}

#[test]
fn wills_with_long_topics_that_are_due_together_cost_no_more_than_backlogs() {
    let limits = format!("{ONE_SHARD}[limits]\nconnect_bytes_unnamed = 131072\n");
    let running = Running::start("turns-wills", &limits);
    let members: Vec<_> = (0..30)
        .map(|n| {
            let mut member = tcp(&running, &connect_5(&format!("m{n}"), 2, b"", b""));
            member.subscribe(b"\x02\x0B\x01", "gone/#", 0);
            member
        })
        .collect();
    let dying: Vec<_> = (0..100)
        .map(|n| {
            let topic = format!("gone/{n}/{}", "x".repeat(60_000));
            // The will's delay is a second, and the session outlives it.
            let will = [b"\x05\x18\x00\x00\x00\x01".to_vec(), string(&topic), vec![0, 0]].concat();
            tcp(&running, &connect_5(&format!("d{n}"), 0x0E, b"\x11\x00\x00\x0E\x10", &will))
        })
        .collect();
    // It subscribes at QoS 1, like the wills, so that none is dropped if it reads more slowly than they come.
    let mut other = running.client("other");
    other.subscribe("gone/#", 1);
    let before = running.peak_kib();
    drop(dying);
    let until = Instant::now() + PATIENCE;
    for _ in 0..100 {
        assert!(other.message().topic.starts_with("gone/") && Instant::now() < until);
    }
    let grown = running.peak_kib() - before;
    assert!(grown < 96 * MIB, "{grown} KiB more");
    drop(members);
}

#[test]
fn walks_for_nothing_through_many_retained_messages_hold_up_nobody() {
    let running = Running::start("turns-walks", ONE_SHARD);
    let mut publisher = tcp(&running, &connect_5("publisher", 2, b"", b""));
    let mut retained = Vec::new();
    for n in 0..20_000 {
        retained.extend(frame(0x31, &[string(format!("r/{n}/x")), vec![0, 1]].concat()));
    }
    publisher.send(&retained);
    publisher.send(&frame(0x32, &[string("r/last").as_slice(), b"\x00\x01\x00"].concat()));
    assert_eq!(publisher.packet().0, 0x40);
    let mut walkers: Vec<TcpStream> = (0..100)
        .map(|n| {
            let mut stream = open(running.address, &connect(&format!("w{n}"), None));
            assert_eq!(return_code(&mut stream), Some(0));
            stream
        })
        .collect();
    let subscribe = frame(0x82, &[vec![0, 1], string("+/+/nomatch"), vec![0]].concat());
    for walker in &mut walkers {
        walker.write_all(&subscribe).expect("the broker reads");
    }
    serves_others(&running);
}
