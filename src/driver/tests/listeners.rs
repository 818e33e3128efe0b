//! Listeners, the options of accepted sockets, and watched descriptors.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use super::*;

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
fn one_listener_closes_and_its_place_is_used_again() {
    let ((first, gone), (second, kept), (third, new)) = (bound(), bound(), bound());
    let (said, hears) = std::sync::mpsc::channel();
    let server = on_shard(move || {
        let mut host = Host::listening(&NetConfig::default(), first);
        host.net.listen(8, second);
        host.net.close_listener(7);
        let options =
            BindOptions { keepalive_seconds: 77, user_timeout_seconds: 5, ..BindOptions::default() };
        host.net.tune_listeners(&options).unwrap();
        for _ in 0..3 {
            host.turn();
        }
        host.net.listen(9, third);
        said.send(()).unwrap();
        let mut numbers = Vec::new();
        while numbers.len() < 2 {
            for event in host.turn() {
                if let IoEvent::Accepted { listener, .. } = event {
                    numbers.push(listener);
                }
            }
        }
        numbers
    });
    hears.recv().unwrap();
    assert!(TcpStream::connect(address(gone)).is_err());
    let _clients = [connect(kept), connect(new)];
    let mut numbers = server.join().unwrap();
    numbers.sort_unstable();
    assert_eq!(numbers, [8, 9]);
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
        // The limit belongs to the process, so the test runs in a process of its own.
        let test = "driver::tests::listeners::a_lack_of_descriptors_pauses_the_listener_and_no_more";
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
        // There is a pause of 100 ms before each further attempt, and no busy loop meanwhile.
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

/// The value of a socket option in the kernel.
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
