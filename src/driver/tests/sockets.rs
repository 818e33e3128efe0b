//! One shard: data in both directions, slow and dead peers, small buffers and rings.

use std::io::{Read, Write};
use std::net::Shutdown;

use super::*;

#[test]
fn ten_mebibytes_and_single_bytes_come_back_unchanged() {
    let (socket, port) = bound();
    let server = on_shard(move || {
        Host::listening(&NetConfig::default(), socket).echo(2);
    });
    let mut client = connect(port);
    for byte in 0..100u8 {
        client.write_all(&[byte]).unwrap();
        let mut back = [0];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, [byte]);
    }
    drop(client);
    let sent = pattern(10 << 20);
    let mut client = connect(port);
    let mut writer = client.try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        for piece in copy.chunks(70_001) {
            writer.write_all(piece).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    client.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == sent);
    server.join().unwrap();
}

#[test]
fn a_turn_reaches_a_thousand_connections_with_many_ranges_in_order() {
    let (socket, port) = bound();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let mut slots = Vec::new();
        while slots.len() < 1000 {
            for event in host.turn() {
                if let IoEvent::Accepted { slot, .. } = event {
                    slots.push(slot);
                }
            }
        }
        let start = host.outbox.arena_len();
        host.outbox.arena_mut().extend_from_slice(&pattern(1000));
        for slot in slots {
            // The cases are one range, several in place, and more than are sent in place.
            let count = [1, 10, 200][slot.at() % 3];
            for index in 0..count {
                host.outbox.send(slot, Range { start: start + (index * 7) % 900, len: 5 });
            }
            host.net.close(slot);
        }
        host.settle();
    });
    let clients: Vec<TcpStream> = (0..1000).map(|_| connect(port)).collect();
    let (pattern, mut lengths) = (pattern(1000), [0; 3]);
    for mut client in clients {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        let expected: Vec<u8> = (0..bytes.len() / 5)
            .flat_map(|index| pattern[index * 7 % 900..index * 7 % 900 + 5].to_vec())
            .collect();
        assert_eq!(bytes, expected);
        lengths[[5, 50, 1000].iter().position(|&len| len == bytes.len()).unwrap()] += 1;
    }
    assert!(lengths.iter().all(|&count| count > 300), "{lengths:?}");
    server.join().unwrap();
}

#[test]
fn what_a_slow_reader_does_not_take_is_kept_in_order() {
    const PIECES: usize = 3000;
    let (socket, port) = bound();
    let (is_sent, sent) = std::sync::mpsc::channel();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let slot = host.accept();
        let all = pattern(PIECES * 5000);
        let (mut backlogged, mut drained) = (0, 0);
        let mut told = None;
        for piece in all.chunks(5000) {
            // Two ranges that are not adjacent cause a vector to be sent.
            let start = host.outbox.arena_len();
            host.outbox.arena_mut().extend_from_slice(&piece[..2000]);
            host.outbox.arena_mut().push(0);
            host.outbox.arena_mut().extend_from_slice(&piece[2000..]);
            host.outbox.send(slot, Range { start, len: 2000 });
            host.outbox.send(slot, Range { start: start + 2001, len: 3000 });
            for event in host.turn_within(Duration::ZERO) {
                match event {
                    IoEvent::Backlogged { slot: at, bytes, taken } => {
                        assert!(at == slot && bytes > 0);
                        assert_ne!(told.replace((bytes, taken)), Some((bytes, taken)), "it has changed");
                        backlogged = drained + 1;
                    }
                    IoEvent::Drained { slot: at } => {
                        assert_eq!(at, slot);
                        told = None;
                        drained += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(backlogged > 0 && host.net.backlog_bytes(slot) > 0);
        is_sent.send(()).unwrap();
        while drained < backlogged {
            for event in host.turn() {
                match event {
                    IoEvent::Backlogged { taken, .. } => assert!(taken > 0, "the peer has read"),
                    IoEvent::Drained { .. } => drained += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(host.net.backlog_bytes(slot), 0);
        host.net.close(slot);
        host.settle();
    });
    let mut client = connect(port);
    sent.recv().unwrap();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert!(bytes == pattern(PIECES * 5000));
    server.join().unwrap();
}

#[test]
fn a_backlog_has_a_bound() {
    let (socket, port) = bound();
    let server = on_shard(move || {
        let config = NetConfig { backlog_bytes_max: 1 << 20, ..NetConfig::default() };
        let mut host = Host::listening(&config, socket);
        let slot = host.accept();
        let piece = pattern(100_000);
        for _ in 0..1000 {
            host.send(slot, &piece);
            for event in host.turn_within(Duration::ZERO) {
                match event {
                    IoEvent::Backlogged { .. } => {}
                    IoEvent::Hangup { cause: SocketEnd::BacklogFull, .. } => {
                        host.net.close(slot);
                        return host.settle();
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert!(host.net.backlog_bytes(slot) < 1_200_000);
        }
        panic!("the bound was not kept");
    });
    let client = connect(port);
    server.join().unwrap();
    drop(client);
}

#[test]
fn slots_and_descriptors_come_back_after_two_thousand_connections() {
    const COUNT: usize = 2000;
    let (socket, port) = bound();
    let (round_ended, round_end) = std::sync::mpsc::channel();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let mut highest = 0;
        let mut rounds = Vec::new();
        for _ in 0..3 {
            let mut gone = 0;
            let mut peak = 0;
            while gone < COUNT || host.net.connections() > 0 {
                for event in host.turn() {
                    match event {
                        IoEvent::Accepted { slot, .. } => {
                            highest = highest.max(slot.get());
                            host.net.receive_stream(slot);
                        }
                        IoEvent::Received { slot, buffer } => {
                            let bytes = host.take(buffer);
                            host.send(slot, &bytes);
                        }
                        IoEvent::Hangup { slot, .. } => {
                            gone += 1;
                            host.net.close(slot);
                        }
                        other => panic!("{other:?}"),
                    }
                }
                peak = peak.max(host.net.connections());
            }
            assert_eq!(peak, COUNT);
            rounds.push(highest);
            round_ended.send(()).unwrap();
        }
        assert_eq!(rounds, [COUNT as u32 - 1; 3]);
        assert_eq!(host.net.slots.sockets().count(), 0);
    });
    for round in 0..3 {
        let mut clients: Vec<TcpStream> = (0..COUNT).map(|_| connect(port)).collect();
        for client in &mut clients {
            client.write_all(b"hello").unwrap();
        }
        for client in &mut clients {
            let mut back = [0; 5];
            client.read_exact(&mut back).unwrap();
        }
        let ports: Vec<u16> = clients.iter().map(|client| client.local_addr().unwrap().port()).collect();
        drop(clients);
        round_end.recv().unwrap();
        assert_eq!(open_towards(&ports, port), 0, "sockets leak in round {round}");
    }
    server.join().unwrap();
}

/// The number of connections from the server's port to one of these that wait for the server to close them
/// (`CLOSE_WAIT`) or are complete (`ESTABLISHED`).
fn open_towards(ports: &[u16], server: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |field: &str| u16::from_str_radix(field.rsplit(':').next().unwrap(), 16).unwrap();
    table
        .lines()
        .skip(1)
        .filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            port(fields[1]) == server && matches!(fields[3], "01" | "08") && ports.contains(&port(fields[2]))
        })
        .count()
}

#[test]
fn a_reset_in_the_middle_is_told_once() {
    let (socket, port) = bound();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let slot = host.accept();
        host.net.receive_stream(slot);
        let piece = pattern(200_000);
        let mut ends = 0;
        // It runs until the event has come, and for a while after.
        let (until, mut after) = (Instant::now() + PATIENCE, 0);
        while after < 50 {
            assert!(Instant::now() < until, "it is not told");
            after += ends;
            if host.net.backlog_bytes(slot) < 4 << 20 {
                host.send(slot, &piece);
            }
            for event in host.turn_within(Duration::from_millis(1)) {
                match event {
                    IoEvent::Hangup { cause, .. } => {
                        assert!(matches!(cause, SocketEnd::Reset), "{cause:?}");
                        ends += 1;
                    }
                    IoEvent::Received { buffer, .. } => host.net.give_back(buffer),
                    _ => {}
                }
            }
        }
        assert_eq!(ends, 1);
        assert_eq!(host.net.connections(), 1);
        host.net.close(slot);
        host.settle();
    });
    let mut client = connect(port);
    client.write_all(b"x").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    // Unread bytes turn the close into a reset.
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_tiny_buffer_ring_starves_nobody() {
    let (socket, port) = bound();
    let server = on_shard(move || {
        let config = NetConfig { buffers: 2, buffer_bytes: 256, ..NetConfig::default() };
        let mut host = Host::listening(&config, socket);
        host.echo(50);
        assert_eq!(host.net.buffers.available(), 2);
    });
    let clients: Vec<_> = (0..50)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = connect(port);
                for round in 0..20 {
                    let sent = pattern(1000 + round);
                    client.write_all(&sent).unwrap();
                    let mut back = vec![0; sent.len()];
                    client.read_exact(&mut back).unwrap();
                    assert_eq!(back, sent);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    server.join().unwrap();
}

#[test]
fn a_small_ring_loses_nothing_when_more_completes_than_it_holds() {
    const CLIENTS: usize = 200;
    let (socket, port) = bound();
    let (all_sent, sent) = std::sync::mpsc::channel();
    let server = on_shard(move || {
        let config = NetConfig { ring: RingSize::LEAST, ..NetConfig::default() };
        let mut host = Host::listening(&config, socket);
        // By this time at least four completions for each client wait, and the ring holds 512.
        sent.recv().unwrap();
        host.echo(CLIENTS);
    });
    let bytes = pattern(16 << 10);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(port)).collect();
    clients.iter_mut().for_each(|client| client.write_all(&bytes).unwrap());
    all_sent.send(()).unwrap();
    for client in &mut clients {
        let mut back = vec![0; bytes.len()];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, bytes);
    }
    drop(clients);
    server.join().unwrap();
}
