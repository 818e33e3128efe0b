//! Closing: the data that are still sent, and how long that may take.

use std::io::{Read, Write};

use super::*;

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
                        // Much data has arrived by then, and none of it is read before the close.
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
    // Closes a connection with a backlog. Returns how long that took.
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
