//! Pauses: the data that are held, and their effect on the sender.

use std::io::Write;

use super::*;

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
                        // Pauses while it holds a part of the buffer.
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
                // This works in the middle of a turn too: lent buffers keep their bytes.
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
