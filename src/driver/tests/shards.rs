//! Parking beside the executor, mail between shards, and hand-overs.

use std::cell::Cell;
use std::io::{Read, Write};
use std::rc::Rc;

use super::*;

const ROUNDS: u64 = 30_000;

/// Answers or asks `ROUNDS` times over the mesh, sleeping in between.
async fn ping_pong(mut end: MeshEnd<u64>, asks: bool, busy_executor: bool) {
    let mut host = Host::new(&NetConfig::default());
    end.set_ring(host.net.ring_fd());
    let sleeping = end.sleeping();
    let other = 1 - end.shard();
    let guard = busy_executor.then(|| host.outstanding.enter());
    let mut next = 0;
    let mut events = Vec::new();
    if asks {
        post(&mut end, &mut host, other, 0);
        next = 1;
    }
    // A lost wake-up shows as a park of this length.
    let patience = PATIENCE;
    while next < ROUNDS {
        let parked =
            host.net.park(&host.outbox, &mut events, Some(patience), &host.outstanding, &sleeping, || {
                end.any_ready()
            });
        let begun = Instant::now();
        parked.await.unwrap();
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
    // The last answer goes out with the turn that ends here.
    host.net.flush(&host.outbox, &mut events).unwrap();
    drop(guard);
}

fn post(end: &mut MeshEnd<u64>, host: &mut Host, to: usize, item: u64) {
    end.send(to, item, 0).unwrap();
    for ring in end.wakes() {
        host.net.wake(ring);
    }
}

fn run_ping_pong(busy: [bool; 2]) {
    let mut ends = mesh::<u64>(2, 4);
    let (second, first) = (ends.pop().unwrap(), ends.pop().unwrap());
    let asker = on_shard(move || ping_pong(first, true, busy[0]));
    let answerer = on_shard(move || ping_pong(second, false, busy[1]));
    asker.join().unwrap();
    answerer.join().unwrap();
}

#[test]
fn no_wake_up_is_lost_between_shards_that_sleep_in_their_rings() {
    run_ping_pong([false, false]);
}

#[test]
fn no_wake_up_is_lost_between_shards_that_sleep_in_their_executors() {
    run_ping_pong([true, true]);
}

#[test]
fn timers_files_and_sockets_go_on_beside_each_other() {
    const TRIPS: usize = 3000;
    let (socket, port) = bound();
    let path = std::env::temp_dir().join(format!("midge-park-{}", std::process::id()));
    let file_path = path.clone();
    let server = on_shard(move || async move {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let ticks = Rc::new(Cell::new(0));
        let writes = Rc::new(Cell::new(0));
        let stop = Rc::new(Cell::new(false));
        let timer = glommio::spawn_local({
            let (guard, ticks, stop) = (host.outstanding.enter(), ticks.clone(), stop.clone());
            async move {
                let _guard = guard;
                while !stop.get() {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                    ticks.set(ticks.get() + 1);
                }
            }
        });
        let log = glommio::spawn_local({
            let (guard, writes, stop) = (host.outstanding.enter(), writes.clone(), stop.clone());
            async move {
                let _guard = guard;
                let file = glommio::io::DmaFile::create(&file_path).await.unwrap();
                while !stop.get() {
                    let buffer = glommio::allocate_dma_buffer_global(4096);
                    file.write_at(buffer, 0).await.unwrap();
                    writes.set(writes.get() + 1);
                }
                file.close().await.unwrap();
            }
        });
        let begun = Instant::now();
        host.echo(1).await;
        let (elapsed, ticks, writes) = (begun.elapsed(), ticks.get(), writes.get());
        stop.set(true);
        // Both end, and tell so.
        while host.outstanding.count() > 0 {
            host.turn().await;
        }
        timer.await;
        log.await;
        (elapsed, ticks, writes)
    });
    let mut client = connect(port);
    for _ in 0..TRIPS {
        client.write_all(b"ping").unwrap();
        let mut back = [0; 4];
        client.read_exact(&mut back).unwrap();
    }
    drop(client);
    let (elapsed, ticks, writes) = server.join().unwrap();
    std::fs::remove_file(path).unwrap();
    // A wake-up that is lost costs the 50 ms of a turn.
    assert!(elapsed < Duration::from_millis(50 * TRIPS as u64 / 2), "{TRIPS} trips took {elapsed:?}");
    // However slow the machine is: a timer or a disk that waits for the sockets has next to none.
    assert!(ticks > 20, "{ticks} ticks in {elapsed:?}");
    assert!(writes > 20, "{writes} writes in {elapsed:?}");
}

#[test]
fn a_busy_shard_does_not_stall_its_timers() {
    let (socket, _) = bound();
    let server = on_shard(move || async move {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let ticks = Rc::new(Cell::new(0u32));
        let ticker = glommio::spawn_local({
            let (guard, ticks) = (host.outstanding.enter(), ticks.clone());
            async move {
                let _guard = guard;
                for _ in 0..50 {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                    ticks.set(ticks.get() + 1);
                }
            }
        });
        let begun = Instant::now();
        // Never parks: the deadline is always now.
        while ticks.get() < 50 {
            assert!(begun.elapsed() < PATIENCE, "{} ticks", ticks.get());
            host.turn_within(Duration::ZERO).await;
        }
        ticker.await;
    });
    server.join().unwrap();
}

#[test]
fn a_guard_ends_the_park_it_was_dropped_in() {
    on_shard(|| async {
        let mut host = Host::new(&NetConfig::default());
        let guard = host.outstanding.enter();
        let task = glommio::spawn_local(async move {
            glommio::timer::sleep(Duration::from_millis(20)).await;
            drop(guard);
        });
        let begun = Instant::now();
        host.turn_within(2 * PATIENCE).await;
        assert!(begun.elapsed() < PATIENCE);
        task.await;
    })
    .join()
    .unwrap();
}

#[test]
fn a_shard_may_park_through_its_executor_any_number_of_times() {
    // What each park left behind on the executor used to end the process after 32,767 of them.
    on_shard(|| async {
        let mut host = Host::new(&NetConfig::default());
        let guard = host.outstanding.enter();
        for _ in 0..33_000 {
            host.turn_within(Duration::from_micros(2)).await;
        }
        drop(guard);
    })
    .join()
    .unwrap();
}

/// A socket and the bytes its first shard has read.
type HandOver = (OwnedFd, Vec<u8>);

#[test]
fn a_connection_moves_to_another_shard_with_all_its_bytes() {
    const CLIENTS: usize = 50;
    let (socket, port) = bound();
    let mut ends = mesh::<HandOver>(2, 64);
    let (mut home, mut door) = (ends.pop().unwrap(), ends.pop().unwrap());
    let first = on_shard(move || async move {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let mut moved = 0;
        while moved < CLIENTS {
            for event in host.turn().await {
                let Event::Received { slot, buffer } = event else { continue };
                let bytes = host.take(buffer);
                let socket = host.net.detach(slot).unwrap();
                door.send(1, (socket, bytes), 0).unwrap();
                for ring in door.wakes() {
                    host.net.wake(ring);
                }
                moved += 1;
            }
        }
        host.turn().await;
        assert_eq!(host.net.connections(), 0);
    });
    let second = on_shard(move || async move {
        let mut host = Host::new(&NetConfig::default());
        home.set_ring(host.net.ring_fd());
        let sleeping = home.sleeping();
        let (mut gone, mut events) = (0, Vec::new());
        while gone < CLIENTS || host.net.connections() > 0 {
            let parked = host
                .net
                .park(&host.outbox, &mut events, None, &host.outstanding, &sleeping, || home.any_ready());
            parked.await.unwrap();
            host.outbox.clear();
            host.net.poll(&mut events);
            while let Some((socket, bytes)) = home.receive(0) {
                let slot = host.net.adopt(socket);
                host.send(slot, &bytes);
                host.net.receive_stream(slot);
            }
            for event in std::mem::take(&mut events) {
                match event {
                    Event::Received { slot, buffer } => {
                        let bytes = host.take(buffer);
                        host.send(slot, &bytes);
                    }
                    Event::Hangup { slot, .. } => {
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
    let server = on_shard(move || async move {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let slot = host.accept().await;
        assert!(host.net.detach(slot).is_none());
        host.net.abort(slot);
        host.settle().await;
    });
    let mut client = connect(port);
    let mut byte = [0];
    assert!(client.read_exact(&mut byte).is_err());
    server.join().unwrap();
}
