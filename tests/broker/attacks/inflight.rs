//! Packet identifiers and inflight windows at their bounds: what one client accumulates must not slow down
//! others, and its memory is freed when it goes.

use super::{connect, open, return_code};
use crate::Running;
use crate::running::PATIENCE;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A connected client of 3.1.1 with clean session 1.
fn client(address: SocketAddr, id: &str) -> TcpStream {
    let mut stream = open(address, &connect(id, None));
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    assert_eq!(return_code(&mut stream), Some(0), "{id}");
    stream
}

/// The same with clean session 0.
fn kept_client(address: SocketAddr, id: &str) -> TcpStream {
    let mut packet = connect(id, None);
    packet[9] = 0;
    let mut stream = open(address, &packet);
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    assert_eq!(return_code(&mut stream), Some(0), "{id}");
    stream
}

/// A PUBLISH of 3.1.1 to `q`, seven bytes long.
fn publish(head: u8, id: u16) -> [u8; 7] {
    let [high, low] = id.to_be_bytes();
    [head, 5, 0, 1, b'q', high, low]
}

fn read(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    stream.read_exact(&mut read).expect("the broker answers");
    read
}

/// Checks that the broker answers this client.
fn assert_served(stream: &mut TcpStream) {
    stream.write_all(b"\xC0\x00").expect("the broker reads");
    assert_eq!(read(stream, 2), b"\xD0\x00");
}

/// Sends PUBLISH packets with these identifiers, some hundreds at a time, and reads an answer of four bytes
/// for each.
fn exchange(stream: &mut TcpStream, head: u8, ids: impl Iterator<Item = u16>) {
    let ids: Vec<u16> = ids.collect();
    for some in ids.chunks(500) {
        let bytes: Vec<u8> = some.iter().flat_map(|&id| publish(head, id)).collect();
        stream.write_all(&bytes).expect("the broker reads");
        read(stream, some.len() * 4);
    }
}

#[test]
fn client_that_acknowledges_nothing_stops_no_shard_when_all_its_identifiers_are_in_use() {
    let rest = "[limits]\ninflight_messages = 65535\n[runtime]\nshards = 1\n";
    let running = Running::start("identifiers", rest);
    let mut subscriber = client(running.address, "subscriber");
    subscriber.write_all(b"\x82\x06\x00\x01\x00\x01q\x01").expect("the broker reads");
    assert_eq!(read(&mut subscriber, 5), b"\x90\x03\x00\x01\x01");
    // The subscriber must read, or its messages would wait before they get identifiers.
    let mut reading = subscriber.try_clone().expect("a second handle");
    let reader = std::thread::spawn(move || read(&mut reading, 65_535 * 7).len());
    let mut publisher = client(running.address, "publisher");
    exchange(&mut publisher, 0x32, 1..=65_535);
    assert_eq!(reader.join().expect("it reads"), 65_535 * 7);

    // This message waits for an identifier, and expires after a second.
    let mut expiring = running.client("expiring").into_stream();
    expiring.write_all(b"\x32\x0B\x00\x01q\x00\x01\x05\x02\x00\x00\x00\x01").expect("the broker reads");
    assert_eq!(read(&mut expiring, 4), b"\x40\x02\x00\x01");
    std::thread::sleep(Duration::from_millis(2500));
    exchange(&mut publisher, 0x32, 1..=3);
    assert_served(&mut publisher);
    // The next message gets the identifier that is free again.
    subscriber.write_all(b"\x40\x02\x12\x34").expect("the broker reads");
    assert_eq!(read(&mut subscriber, 7), publish(0x32, 0x1234));
}

#[test]
fn repeats_of_a_client_that_holds_thousands_of_identifiers_cost_what_those_of_others_do() {
    const REPEATS: usize = 20_000;
    let running = Running::start("held", "[runtime]\nshards = 1\n");
    // The broker's time for the repeats, in hundredths of a second, while `held` identifiers are held.
    let cost = |held: u16| {
        let mut client = client(running.address, &format!("holds{held}"));
        exchange(&mut client, 0x34, 1..=held);
        let before = running.cpu_ticks();
        exchange(&mut client, 0x3C, std::iter::repeat_n(held, REPEATS));
        running.cpu_ticks() - before
    };
    let (few, many) = (cost(10), cost(7900));
    // A search through all of them would cost hundreds of times as much.
    assert!(many <= 10 * few + 50, "{few} hundredths of a second with 10 held, {many} with 7900");
}

#[test]
fn client_of_3x_that_releases_nothing_is_disconnected_at_a_bound_and_goes_on_when_it_is_back() {
    let running = Running::start("unreleased", "[runtime]\nshards = 1\n");
    let mut other = client(running.address, "other");
    let mut hoarder = kept_client(running.address, "hoarder");
    exchange(&mut hoarder, 0x34, 1..=8000);
    assert_served(&mut hoarder);
    hoarder.write_all(&publish(0x34, 8001)).expect("the broker reads");
    assert_eq!(hoarder.read(&mut [0; 16]).unwrap_or(0), 0, "it is closed");
    running.line("the bound", |line| line.contains("hoarder") && line.contains("protocol.receive_maximum"));
    assert_served(&mut other);
    let mut hoarder = kept_client(running.address, "hoarder");
    let releases: Vec<u8> = (1..=8000_u16).flat_map(|id| [[0x62, 2], id.to_be_bytes()].concat()).collect();
    hoarder.write_all(&releases).expect("the broker reads");
    read(&mut hoarder, 8000 * 4);
    exchange(&mut hoarder, 0x3C, 8001..=16_000);
    assert_served(&mut hoarder);
}

#[test]
fn memory_of_one_clients_filters_comes_back_when_it_has_gone() {
    const FILTERS: usize = 3000;
    let rest = "[limits]\nsubscription_bytes_per_client = 100000000\n[runtime]\nshards = 2\n";
    let running = Running::start("filters", rest);
    let mut other = client(running.address, "other");
    assert_served(&mut other);
    let before = running.memory_kib();
    let mut greedy = client(running.address, "greedy");
    for at in 0..FILTERS {
        // The filters have different levels and a wildcard, so each is on every shard.
        let filter = format!("{at}/{:x<8000}/+", at);
        let length = filter.len() + 5;
        let mut packet = vec![0x82, (length % 128) as u8 | 128, (length / 128) as u8, 0, 1];
        packet.extend(u16::try_from(filter.len()).expect("short").to_be_bytes());
        packet.extend(filter.as_bytes());
        packet.push(0);
        greedy.write_all(&packet).expect("the broker reads");
        assert_eq!(read(&mut greedy, 5)[4], 0, "granted");
    }
    let most = running.memory_kib();
    assert!(most > before + 40_000, "{before} KiB, then {most}");
    greedy.write_all(b"\xE0\x00").expect("the broker reads");
    drop(greedy);
    let until = Instant::now() + PATIENCE;
    while running.memory_kib() > before + (most - before) / 4 {
        assert!(Instant::now() < until, "{before} KiB, then {most}, and still {}", running.memory_kib());
        // Memory is freed in a turn, and a broker without events has one for this too.
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_served(&mut other);
}

#[test]
fn lines_about_clients_that_come_and_go_have_a_bound() {
    const CLIENTS: usize = 1500;
    let running = Running::start("come-and-go", "[runtime]\nshards = 1\n");
    let began = Instant::now();
    for number in 0..CLIENTS {
        drop(client(running.address, &format!("c{number}")));
    }
    let mut last = client(running.address, "last");
    assert_served(&mut last);
    let count = |words: &str| running.lines().iter().filter(|line| line.contains(words)).count();
    let told = ["client connected", "client disconnected"].map(|words| (words, count(words)));
    let seconds = began.elapsed().as_secs() as usize + 2;
    for (words, lines) in told {
        assert!(lines <= 52 * seconds, "{lines} times {words} in {seconds} seconds");
    }
    if CLIENTS > 60 * seconds {
        // It is reported after the second is over, even if nothing more happens.
        running.line("what was left out", |line| line.contains("log lines were left out: client connected"));
    }
}
