//! Peers that go while their connection is not being read, or while they read nothing.

use std::io::{Read, Write};
use std::net::Shutdown;

use super::*;

/// Runs turns until the connection is hung up. Returns the cause and the number of turns.
fn hangup(host: &mut Host) -> (SocketEnd, usize) {
    let until = Instant::now() + PATIENCE;
    let mut turns = 0;
    while Instant::now() < until {
        turns += 1;
        for event in host.turn() {
            match event {
                IoEvent::Hangup { cause, .. } => return (cause, turns),
                IoEvent::Received { slot, buffer } => host.net.hold(slot, buffer, 0),
                _ => {}
            }
        }
    }
    panic!("the peer's going is not noticed");
}

/// Sends until the peer's socket is full.
fn fill(host: &mut Host, slot: ConnectionSlot) {
    let piece = pattern(100_000);
    // This is a little more than the sockets can hold.
    for _ in 0..200 {
        host.send(slot, &piece);
        host.turn_within(Duration::ZERO);
        if host.net.backlog_bytes(slot) > 1 << 20 {
            return;
        }
    }
    panic!("the socket takes everything");
}

/// The result of a peer's end for a connection that is paused and has held bytes.
fn paused(fills: bool, leave: impl FnOnce(TcpStream) + Send + 'static) -> SocketEnd {
    let (socket, port) = bound();
    let (is_paused, paused) = std::sync::mpsc::channel();
    let (is_held, held) = std::sync::mpsc::channel();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let slot = host.accept();
        host.net.receive_stream(slot);
        if fills {
            fill(&mut host, slot);
        }
        host.net.pause(slot);
        is_paused.send(()).unwrap();
        let until = Instant::now() + PATIENCE;
        while host.net.slots.get(slot).unwrap().extra.as_ref().is_none_or(|extra| extra.held.is_empty()) {
            assert!(Instant::now() < until, "nothing comes");
            for event in host.turn() {
                assert!(matches!(event, IoEvent::Backlogged { .. }), "{event:?}");
            }
        }
        for _ in 0..3 {
            host.turn();
        }
        is_held.send(()).unwrap();
        let (cause, _) = hangup(&mut host);
        assert!(!host.net.hold_hangup(slot, cause), "it is to be handled now, whatever is held");
        host.net.close(slot);
        host.settle();
        assert_eq!(host.net.buffers.lent(), 0);
        cause
    });
    let mut client = connect(port);
    paused.recv().unwrap();
    client.write_all(b"held").unwrap();
    held.recv().unwrap();
    leave(client);
    server.join().unwrap()
}

/// Closing with unread bytes causes a reset.
fn reset(client: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&client);
    // SAFETY: the option's value is a live `linger` of the given size.
    let set = unsafe {
        let len = size_of::<libc::linger>() as libc::socklen_t;
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), len)
    };
    assert_eq!(set, 0);
    drop(client);
}

#[test]
fn a_reset_is_told_at_once_though_reading_is_paused_and_bytes_are_held() {
    assert_eq!(paused(false, reset), SocketEnd::Reset);
}

#[test]
fn a_reset_is_told_though_a_backlog_waits_for_the_peer_too() {
    assert_eq!(paused(true, reset), SocketEnd::Reset);
    // The client closes with unread bytes.
    assert_eq!(paused(true, drop), SocketEnd::Reset);
}

#[test]
fn a_peer_that_closes_its_side_and_takes_nothing_has_gone() {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let cause = paused(true, move |client| {
        client.shutdown(Shutdown::Write).unwrap();
        std::thread::spawn(move || {
            let _ = ended.recv();
            drop(client);
        });
    });
    assert_eq!(cause, SocketEnd::EndOfStream);
    drop(end);
}

#[test]
fn the_end_of_stream_waits_behind_the_bytes_that_a_pause_holds() {
    let (socket, port) = bound();
    let (is_told, told) = std::sync::mpsc::channel();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let slot = host.accept();
        host.net.receive_stream(slot);
        host.net.pause(slot);
        is_told.send(()).unwrap();
        for _ in 0..10 {
            assert!(host.turn().is_empty(), "nothing is told before the pause is over");
        }
        host.net.resume(slot);
        let mut bytes = Vec::new();
        loop {
            for event in host.turn() {
                match event {
                    IoEvent::Received { buffer, .. } => bytes.extend(host.take(buffer)),
                    IoEvent::Hangup { slot, cause: SocketEnd::EndOfStream } => {
                        assert_eq!(bytes, b"the last words");
                        host.net.close(slot);
                        return host.settle();
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    let mut client = connect(port);
    told.recv().unwrap();
    client.write_all(b"the last words").unwrap();
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_half_closed_peer_that_does_not_read_costs_no_spinning() {
    let (socket, port) = bound();
    let (is_full, full) = std::sync::mpsc::channel();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let slot = host.accept();
        host.net.receive_stream(slot);
        fill(&mut host, slot);
        is_full.send(()).unwrap();
        // The owner would end it in the same way. The rest lingers.
        let (cause, _) = hangup(&mut host);
        assert_eq!(cause, SocketEnd::EndOfStream);
        host.net.close(slot);
        let mut turns = 0;
        while host.net.connections() > 0 {
            host.turn_within(Duration::from_secs(1));
            turns += 1;
        }
        assert!(turns < 1000, "{turns} turns within the time of a linger");
    });
    let client = connect(port);
    full.recv().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    server.join().unwrap();
    drop(client);
}

#[test]
fn a_half_closed_peer_that_reads_gets_all_of_it() {
    const LEN: usize = 12 << 20;
    let (socket, port) = bound();
    let server = on_shard(move || {
        let config = NetConfig { linger: PATIENCE, ..NetConfig::default() };
        let mut host = Host::listening(&config, socket);
        let slot = host.accept();
        host.net.receive_stream(slot);
        host.send(slot, &pattern(LEN));
        let (cause, _) = hangup(&mut host);
        assert_eq!(cause, SocketEnd::EndOfStream);
        host.net.close(slot);
        host.settle();
    });
    let mut client = connect(port);
    client.shutdown(Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert!(bytes == pattern(LEN));
    server.join().unwrap();
}

#[test]
fn a_turn_says_nothing_of_backlogs_that_neither_grow_nor_shrink() {
    const PEERS: usize = 20;
    let (socket, port) = bound();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let mut slots = Vec::new();
        while slots.len() < PEERS {
            for event in host.turn() {
                if let IoEvent::Accepted { slot, .. } = event {
                    slots.push(slot);
                }
            }
        }
        for &slot in &slots {
            fill(&mut host, slot);
        }
        // The sockets may still take some bytes.
        let (until, mut quiet) = (Instant::now() + PATIENCE, 0);
        while quiet < 10 {
            assert!(Instant::now() < until, "it never falls silent");
            quiet = if host.turn().is_empty() { quiet + 1 } else { 0 };
        }
        host.send(slots[7], b"more");
        let events = host.turn();
        let told =
            |event: &IoEvent<Buffer>| matches!(event, IoEvent::Backlogged { slot, .. } if *slot == slots[7]);
        assert!(events.len() == 1 && told(&events[0]), "{events:?}");
        for slot in slots {
            host.net.abort(slot);
        }
        host.settle();
    });
    let peers: Vec<TcpStream> = (0..PEERS).map(|_| connect(port)).collect();
    server.join().unwrap();
    drop(peers);
}
