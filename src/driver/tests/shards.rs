//! Parking, mail between shards, and hand-overs of connections.

use std::io::{Read, Write};

use super::*;

const ROUNDS: u64 = 30_000;

/// Answers or asks `ROUNDS` times over the mesh, and sleeps in between.
fn ping_pong(mut end: MeshEnd<u64>, asks: bool) {
    let mut host = Host::new(&NetConfig::default());
    end.set_ring(host.net.ring_fd());
    let sleeping = end.sleeping();
    let other = 1 - end.shard();
    let mut next = 0;
    let mut events = Vec::new();
    if asks {
        post(&mut end, &mut host, other, 0);
        next = 1;
    }
    // A lost wake-up would cause a park of this length.
    let patience = PATIENCE;
    while next < ROUNDS {
        let begun = Instant::now();
        let parked = host.net.park(&host.outbox, &mut events, Some(patience), &sleeping, || end.any_ready());
        parked.unwrap();
        assert!(begun.elapsed() < patience, "a wake-up was lost after {next}");
        host.net.poll(&mut events);
        events.clear();
        while let Some(item) = end.receive(other) {
            assert_eq!(item, next);
            next = item + 2;
            if item + 1 < ROUNDS {
                post(&mut end, &mut host, other, item + 1);
            }
        }
    }
    // The last answer is sent with the turn that ends here.
    host.net.flush(&host.outbox, &mut events).unwrap();
}

fn post(end: &mut MeshEnd<u64>, host: &mut Host, to: usize, item: u64) {
    end.send(to, item, 0).unwrap();
    for ring in end.wakes() {
        host.net.wake(ring);
    }
}

#[test]
fn no_wake_up_is_lost_between_shards_that_sleep() {
    let mut ends = mesh::<u64>(MeshSize { shards: 2, ring_items: 4 });
    let (second, first) = (ends.pop().unwrap(), ends.pop().unwrap());
    let asker = on_shard(move || ping_pong(first, true));
    let answerer = on_shard(move || ping_pong(second, false));
    asker.join().unwrap();
    answerer.join().unwrap();
}

/// A socket and the bytes that its first shard has read.
type HandOver = (OwnedFd, Vec<u8>);

#[test]
fn a_connection_moves_to_another_shard_with_all_its_bytes() {
    const CLIENTS: usize = 50;
    let (socket, port) = bound();
    let mut ends = mesh::<HandOver>(MeshSize { shards: 2, ring_items: 64 });
    let (mut home, mut door) = (ends.pop().unwrap(), ends.pop().unwrap());
    let first = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let mut moved = 0;
        while moved < CLIENTS {
            for event in host.turn() {
                let IoEvent::Received { slot, buffer } = event else { continue };
                let bytes = host.take(buffer);
                let socket = host.net.detach(slot).unwrap();
                door.send(1, (socket, bytes), 0).unwrap();
                for ring in door.wakes() {
                    host.net.wake(ring);
                }
                moved += 1;
            }
        }
        host.turn();
        assert_eq!(host.net.connections(), 0);
    });
    let second = on_shard(move || {
        let mut host = Host::new(&NetConfig::default());
        home.set_ring(host.net.ring_fd());
        let sleeping = home.sleeping();
        let (mut gone, mut events) = (0, Vec::new());
        while gone < CLIENTS || host.net.connections() > 0 {
            let parked = host.net.park(&host.outbox, &mut events, None, &sleeping, || home.any_ready());
            parked.unwrap();
            host.outbox.clear();
            host.net.poll(&mut events);
            while let Some((socket, bytes)) = home.receive(0) {
                let slot = host.net.adopt(socket);
                host.send(slot, &bytes);
                host.net.receive_stream(slot);
            }
            for event in std::mem::take(&mut events) {
                match event {
                    IoEvent::Received { slot, buffer } => {
                        let bytes = host.take(buffer);
                        host.send(slot, &bytes);
                    }
                    IoEvent::Hangup { slot, .. } => {
                        gone += 1;
                        host.net.close(slot);
                    }
                    _ => {}
                }
            }
        }
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client = connect(port);
                let sent = pattern(60_000 + number);
                client.write_all(&sent).unwrap();
                client.shutdown(std::net::Shutdown::Write).unwrap();
                let mut back = Vec::new();
                client.read_to_end(&mut back).unwrap();
                assert!(back == sent);
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    first.join().unwrap();
    second.join().unwrap();
}

#[test]
fn a_connection_with_an_armed_receive_stays() {
    let (socket, port) = bound();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let slot = host.accept();
        assert!(host.net.detach(slot).is_none());
        host.net.abort(slot);
        host.settle();
    });
    let mut client = connect(port);
    let mut byte = [0];
    assert!(client.read_exact(&mut byte).is_err());
    server.join().unwrap();
}
