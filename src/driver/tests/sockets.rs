//! One shard: data both ways, slow and dead peers, pauses, closes.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;

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
            // One range, several in place, and more than are sent in place.
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
            // Two ranges that do not touch, so that a vector is sent.
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

/// Connections from the server's port to one of these that wait for the server to close them
/// (`CLOSE_WAIT`) or are whole (`ESTABLISHED`).
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
        // Until it has come, and a while after.
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
    // Unread bytes make the close a reset.
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_pause_holds_what_comes_and_a_resume_delivers_it_first() {
    const LEN: usize = 6 << 20;
    let (socket, port) = bound();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let slot = host.accept();
        host.net.receive_stream(slot);
        let mut bytes = Vec::new();
        let mut step = 0u32;
        let mut held_max = 0;
        let mut ended = false;
        while !ended {
            step += 1;
            match step % 7 {
                3 => host.net.pause(slot),
                6 => host.net.resume(slot),
                _ => {}
            }
            for event in host.turn_within(Duration::from_millis(2)) {
                match event {
                    IoEvent::Received { slot, buffer } if host.net.is_held(slot) => {
                        host.net.hold(slot, buffer, 0)
                    }
                    IoEvent::Received { buffer, .. } if step.is_multiple_of(5) => {
                        // Pauses with a part of the buffer in hand.
                        let half = buffer.len() / 2;
                        bytes.extend_from_slice(&host.net.bytes(&buffer)[..half]);
                        host.net.pause(slot);
                        host.net.hold(slot, buffer, half);
                    }
                    IoEvent::Received { buffer, .. } => bytes.extend(host.take(buffer)),
                    IoEvent::Hangup { slot, cause } if host.net.hold_hangup(slot, cause) => {}
                    IoEvent::Hangup { cause: SocketEnd::EndOfStream, .. } => ended = true,
                    other => panic!("{other:?}"),
                }
            }
            let held = host.net.slots.get(slot).unwrap().extra.as_ref().map_or(0, |extra| extra.held.len());
            held_max = held_max.max(held);
        }
        assert!(bytes == pattern(LEN), "{} of {LEN}", bytes.len());
        assert!(held_max > 0 && held_max < 2 << 20, "{held_max} bytes were held");
        host.net.close(slot);
        host.settle();
        assert_eq!(host.net.buffers.lent(), 0);
    });
    let mut client = connect(port);
    client.write_all(&pattern(LEN)).unwrap();
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_stream_survives_that_memory_is_given_back_in_its_midst() {
    const LEN: usize = 8 << 20;
    let (socket, port) = bound();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let slot = host.accept();
        host.net.receive_stream(slot);
        let mut bytes = Vec::new();
        while bytes.len() < LEN {
            for event in host.turn() {
                match event {
                    IoEvent::Received { buffer, .. } => bytes.extend(host.take(buffer)),
                    other => panic!("{other:?}"),
                }
                // In the midst of a turn too: what is lent keeps its bytes.
                host.net.give_memory_back();
            }
        }
        assert!(bytes == pattern(LEN));
        host.net.close(slot);
        host.settle();
        assert_eq!(host.net.buffers.lent(), 0);
    });
    let mut client = connect(port);
    client.write_all(&pattern(LEN)).unwrap();
    server.join().unwrap();
}

#[test]
fn a_paused_connection_stops_its_sender() {
    let (socket, port) = bound();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let slot = host.accept();
        host.net.receive_stream(slot);
        host.net.pause(slot);
        let held = |host: &Host| {
            host.net.slots.get(slot).unwrap().extra.as_ref().map_or(0, |extra| extra.held.len())
        };
        let until = Instant::now() + PATIENCE;
        while held(&host) == 0 {
            assert!(Instant::now() < until && host.turn().is_empty());
        }
        let until = Instant::now() + Duration::from_millis(400);
        while Instant::now() < until {
            assert!(host.turn().is_empty());
        }
        let held = held(&host);
        host.net.abort(slot);
        host.settle();
        held
    });
    let mut client = connect(port);
    client.write_all(&[7; 20 << 20]).unwrap_err();
    let held = server.join().unwrap();
    assert!(held <= 512 << 10, "{held} bytes were held");
}

#[test]
fn the_last_bytes_of_a_close_arrive_though_the_peer_was_still_sending() {
    let (socket, port) = bound();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let mut closed = 0;
        while closed < 20 || host.net.connections() > 0 {
            for event in host.turn() {
                match event {
                    IoEvent::Accepted { slot, .. } => {
                        // Much has come in by then, and nothing of it is read before the close.
                        std::thread::sleep(Duration::from_millis(5));
                        host.send(slot, b"goodbye");
                        host.net.close(slot);
                        closed += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    for _ in 0..20 {
        let mut client = connect(port);
        client.write_all(&pattern(300_000)).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        client.write_all(&pattern(100_000)).unwrap();
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"goodbye");
    }
    server.join().unwrap();
}

#[test]
fn a_backlog_is_sent_before_a_close_and_its_time_is_bounded() {
    // Closes a connection with a backlog; how long that took.
    let close = |linger: Duration| {
        let (socket, port) = bound();
        let server = on_shard(move || {
            let mut host = Host::listening(&NetConfig { linger, ..NetConfig::default() }, socket);
            let slot = host.accept();
            host.net.receive_stream(slot);
            host.send(slot, &pattern(12 << 20));
            host.net.close(slot);
            let begun = Instant::now();
            host.settle();
            begun.elapsed()
        });
        (connect(port), server)
    };
    let (mut reader, server) = close(2 * PATIENCE);
    std::thread::sleep(Duration::from_millis(100));
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert!(bytes == pattern(12 << 20));
    drop(reader);
    assert!(server.join().unwrap() < PATIENCE, "it waits no longer than its peer needs");
    let (idler, server) = close(Duration::from_millis(600));
    let elapsed = server.join().unwrap();
    assert!((Duration::from_millis(500)..PATIENCE).contains(&elapsed), "{elapsed:?}");
    drop(idler);
}

#[test]
fn a_peer_that_never_stops_sending_is_cut_off_after_a_close() {
    let (socket, port) = bound();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let slot = host.accept();
        host.net.receive_stream(slot);
        host.net.close(slot);
        host.settle();
    });
    let mut client = connect(port);
    let piece = [1; 65536];
    while client.write_all(&piece).is_ok() {}
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
        // Four completions and more for each client wait by then, and the ring holds 512.
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

#[test]
fn a_stopped_listener_refuses_and_connections_go_on() {
    let (socket, port) = bound();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let slot = host.accept();
        host.net.stop_listening();
        for _ in 0..3 {
            host.turn();
        }
        host.send(slot, b"closed");
        host.net.receive_stream(slot);
        host.settle();
    });
    let mut client = connect(port);
    let mut word = [0; 6];
    client.read_exact(&mut word).unwrap();
    assert!(TcpStream::connect(address(port)).is_err());
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_watched_descriptor_is_told_each_time() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let server = on_shard(move || {
        let mut reader = reader;
        let mut host = Host::new(&NetConfig::default());
        host.net.watch(reader.try_clone().unwrap().into(), 42);
        let mut seen = 0;
        while seen < 3 {
            for event in host.turn() {
                assert!(matches!(event, IoEvent::Readable { token: 42 }));
                let mut byte = [0];
                reader.read_exact(&mut byte).unwrap();
                seen += 1;
            }
        }
    });
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(30));
        writer.write_all(b"!").unwrap();
    }
    server.join().unwrap();
}

#[test]
fn a_lack_of_descriptors_pauses_the_listener_and_no_more() {
    const MARK: &str = "MIDGE_TEST_DESCRIPTORS";
    if std::env::var_os(MARK).is_none() {
        // The limit is the process's, so the test has one of its own.
        let test = "driver::tests::sockets::a_lack_of_descriptors_pauses_the_listener_and_no_more";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(MARK, "1")
            .status()
            .unwrap();
        return assert!(status.success());
    }
    let (socket, port) = bound();
    let clients: Vec<TcpStream> = (0..10).map(|_| connect(port)).collect();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let free = std::fs::File::open("/dev/null").unwrap();
        limit_descriptors(free.as_raw_fd() as u64 + 4);
        let (mut accepted, mut failed, mut turns) = (0, 0, 0);
        let begun = Instant::now();
        while failed < 4 {
            assert!(begun.elapsed() < PATIENCE, "{failed} tries");
            turns += 1;
            for event in host.turn() {
                match event {
                    IoEvent::Accepted { .. } => accepted += 1,
                    IoEvent::AcceptFailed { listener: 7, error: libc::EMFILE } => failed += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        let millis = begun.elapsed().as_millis();
        // There is a pause of 100 ms before each try but the first, and no spinning meanwhile.
        assert!(accepted < 10 && millis >= 290 && turns < 30 + millis / 10, "{accepted} {millis} {turns}");
        limit_descriptors(1000);
        while accepted < 10 {
            accepted += host.turn().len();
        }
    });
    server.join().unwrap();
    drop(clients);
}

fn limit_descriptors(count: u64) {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: 20_000 };
    // SAFETY: the limit is a live structure of the kind the call reads.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

/// Of a connection of this process, as the kernel has it.
fn option(descriptor: i32, level: i32, name: i32) -> i32 {
    let (mut value, mut length) = (-1_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the option's value and its length are live integers.
    let result =
        unsafe { libc::getsockopt(descriptor, level, name, (&raw mut value).cast(), &raw mut length) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    value
}

#[test]
fn accepted_sockets_notice_that_their_peer_has_vanished() {
    const TCP: i32 = libc::IPPROTO_TCP;
    let settings = [
        (600, 900, 60),
        (100, 200, 20),
        (1, 2, 1),
        (600, 60, 60),
        (32_767, 86_400, 60),
        (1, 0, 60),
        (0, 7, 0),
        (0, 0, 0),
    ];
    for (keepalive_seconds, user_timeout_seconds, interval) in settings {
        let options = BindOptions { keepalive_seconds, user_timeout_seconds, ..BindOptions::default() };
        let socket = bind(address(0), &options).unwrap();
        let port = local_address(&socket).unwrap().port();
        let server = on_shard(move || {
            let mut host = Host::listening(&NetConfig::default(), socket);
            let slot = host.accept();
            let descriptor = host.net.slots.sockets().next().unwrap();
            let is_on = option(descriptor, libc::SOL_SOCKET, libc::SO_KEEPALIVE);
            assert_eq!(is_on, i32::from(keepalive_seconds > 0));
            if keepalive_seconds > 0 {
                assert_eq!(option(descriptor, TCP, libc::TCP_KEEPIDLE), keepalive_seconds as i32);
                assert_eq!(option(descriptor, TCP, libc::TCP_KEEPINTVL), interval);
                assert_eq!(option(descriptor, TCP, libc::TCP_KEEPCNT), 5);
            }
            assert_eq!(option(descriptor, TCP, libc::TCP_USER_TIMEOUT), user_timeout_seconds as i32 * 1000);
            assert_eq!(option(descriptor, TCP, libc::TCP_NODELAY), 1);
            host.net.close(slot);
        });
        let client = connect(port);
        server.join().unwrap();
        drop(client);
    }
}
