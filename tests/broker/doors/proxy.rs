//! The PROXY header: the address that the log shows, and the treatment of connections with a bad header or
//! none.

use super::pki::{Authority, open_with};
use super::wire::{self, CONNACK, connect, expect};
use crate::Running;
use std::io::Write;

const TRUSTED: &str = "proxy_trusted = [\"127.0.0.0/8\"]\nallow_anonymous = true\n[runtime]\nshards = 2\n";

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 4242 1883\r\n";

fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x21".to_vec();
    header.extend(36_u16.to_be_bytes());
    header.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    header.extend([0; 16]);
    header.extend(4242_u16.to_be_bytes());
    header.extend(1883_u16.to_be_bytes());
    header
}

#[test]
fn trusted_header_gives_the_log_the_address_of_the_client() {
    let running = Running::start("doors-proxy", TRUSTED);
    for (version, header, peer) in
        [("one", V1.to_vec(), "peer=203.0.113.7:4242"), ("two", v2(), "peer=[2001:db8::7]:4242")]
    {
        // The names are for both shards, so the address moves along. The header comes alone, or with CONNECT
        // after it.
        for number in 0..4 {
            let id = format!("{version}{number}");
            let mut stream = wire::open(running.address);
            if number % 2 == 0 {
                stream.write_all(&header[..9]).expect("the broker reads");
                stream.write_all(&header[9..]).expect("the broker reads");
                stream.write_all(&connect(&id)).expect("the broker reads");
            } else {
                stream.write_all(&[header.as_slice(), &connect(&id)].concat()).expect("the broker reads");
            }
            expect(&mut stream, &CONNACK);
            drop(stream);
            for words in ["client connected", "client disconnected"] {
                let line = running.line(words, |line| line.contains(words) && line.contains(&id));
                assert!(line.contains(peer), "{line}");
            }
        }
    }
}

#[test]
fn header_stands_before_tls() {
    let authority = Authority::new("proxy");
    let rest = format!("{}{TRUSTED}", authority.server("server").rows());
    let running = Running::start("doors-proxy-tls", &rest);
    for number in 0..4 {
        let id = format!("tls{number}");
        let mut stream = open_with(&authority.trusting(), running.address);
        stream.sock.write_all(V1).expect("the broker reads");
        stream.write_all(&connect(&id)).expect("the broker reads");
        expect(&mut stream, &CONNACK);
        let line = running.line(&id, |line| line.contains("client connected") && line.contains(&id));
        assert!(line.contains("peer=203.0.113.7:4242"), "{line}");
    }
}

#[test]
fn where_nobody_here_is_trusted_mqtt_comes_as_it_is_and_a_header_is_an_error() {
    let running =
        Running::start("doors-proxy-untrusted", "proxy_trusted = [\"10.0.0.0/8\"]\nallow_anonymous = true\n");
    let mut stream = wire::open(running.address);
    stream.write_all(&connect("direct")).expect("the broker reads");
    expect(&mut stream, &CONNACK);
    let peer = format!("peer={}", stream.local_addr().expect("bound"));
    running.line("who came", |line| line.contains("client connected") && line.contains(&peer));

    let mut forger = wire::open(running.address);
    forger.write_all(&[V1, &connect("forger")].concat()).expect("a socket takes it");
    assert_eq!(wire::rest(&mut forger), b"");
    let peer = format!("peer={}", forger.local_addr().expect("bound"));
    running.line("the forger", |line| line.contains("before a session began") && line.contains(&peer));
    assert!(!running.lines().concat().contains("203.0.113.7"));
}

#[test]
fn bad_or_missing_header_of_a_trusted_address_is_closed_with_words() {
    let running = Running::start("doors-proxy-bad", TRUSTED);
    let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 120]].concat();
    for bytes in [&b"PROXY TCP4 203.0.113.999 192.0.2.1 4242 1883\r\n"[..], &long, &connect("none")] {
        let mut stream = wire::open(running.address);
        stream.write_all(bytes).expect("a socket takes it");
        assert_eq!(wire::rest(&mut stream), b"");
        let peer = stream.local_addr().expect("bound").to_string();
        let line = running.line("the header", |line| line.contains(&peer));
        assert!(line.contains("PROXY header refused"), "{line}");
    }
}
