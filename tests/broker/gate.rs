//! The gate: which addresses are admitted, the penalty for wrong logins, and what outlives a SIGHUP.

use crate::logins::{has_mosquitto, passwords};
use crate::needs;
use crate::running::PATIENCE;
use crate::{Running, config_file};
use midge_kit::codec::{self, Encode, V5, V311, Version};
use midge_kit::{open, read_to_end};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const IN: &[u8] = &[0x20, 2, 0, 0];

/// A CONNECT with a clean session.
fn connect(version: Version, id: &str, login: Option<(&str, Option<&str>)>) -> Vec<u8> {
    let mut connect = codec::connect(version, id);
    if let Some((user, password)) = login {
        connect = connect.user(user);
        if let Some(password) = password {
            connect = connect.password(password);
        }
    }
    connect.encode(version)
}

/// The connection, if one that sends these bytes is accepted.
fn lets_in(address: SocketAddr, bytes: &[u8]) -> Option<TcpStream> {
    let mut stream = open(address);
    // The connection may already be closed.
    let _ = stream.write_all(bytes);
    let mut answer = [0; 4];
    match stream.read_exact(&mut answer) {
        Ok(()) => (answer == IN).then_some(stream),
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer, and not closed"),
        Err(_) => None,
    }
}

/// Whether mosquitto_pub is accepted from an address of this machine.
fn publishes(running: &Running, from: &str, login: &[&str]) -> bool {
    let port = running.address.port().to_string();
    needs::command("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port, "-A", from, "-q", "1", "-t", "a", "-m", "hello"])
        .args(login)
        .output()
        .expect("it was there just now")
        .status
        .success()
}

fn count(running: &Running, fits: impl Fn(&str) -> bool) -> usize {
    running.lines().iter().filter(|line| fits(line)).count()
}

#[test]
fn wrong_passwords_ban_an_address_and_no_other() {
    if !has_mosquitto() {
        return;
    }
    let path = passwords("gate-passwords", &[("alice", "wonder")]);
    let rest = format!(
        "allow_anonymous = true\n[runtime]\nshards = 2\n[auth]\npassword_file = {path:?}\n[sys]\ninterval_seconds = 1\n\
         [gate]\nban_after_failures = 3\ndelay_milliseconds = 0\n"
    );
    let running = Running::start("gate-ban", &rest);
    let good = ["-u", "alice", "-P", "wonder"];
    assert!(publishes(&running, "127.0.0.1", &good));
    // The successful login came before there was a failure to forgive.
    for password in ["wrong-1", "wrong-2", "wrong-3"] {
        assert!(!publishes(&running, "127.0.0.1", &["-u", "alice", "-P", password]));
    }
    let line = running.line("the ban", |line| line.contains("address is banned"));
    assert!(line.contains("127.0.0.1/32") && line.contains("gate.ban_after_failures"), "{line}");
    for _ in 0..4 {
        assert!(!publishes(&running, "127.0.0.1", &good), "banned");
    }
    assert!(publishes(&running, "127.0.0.2", &good), "another address");
    assert_eq!(count(&running, |line| line.contains("it is banned")), 1, "one line for a flood");
    assert_eq!(count(&running, |line| line.contains("wrong-") || line.contains("wonder")), 0);
    let mut asked = 0;
    let mut ask = |topic: &str| {
        asked += 1;
        let output = needs::command("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &running.address.port().to_string(), "-A", "127.0.0.2"])
            .args(["-W", "60", "-C", "1", "-t", &format!("$SYS/broker/{topic}")])
            .output()
            .expect("it comes with mosquitto_pub");
        (String::from_utf8_lossy(&output.stdout).trim_end().to_owned(), asked)
    };
    for (topic, figure) in
        [("addresses/banned", "1"), ("logins/failed", "3"), ("connections/refused/banned", "4")]
    {
        let until = Instant::now() + PATIENCE;
        while let (value, _) = ask(topic)
            && value != figure
        {
            assert!(Instant::now() < until, "{topic}: {value}");
        }
    }
    // Connections that were closed at once count among the sockets.
    let until = Instant::now() + PATIENCE;
    while let (value, asked) = ask("connections/socket/count")
        && value.parse::<u64>().expect("a number") < 3 + 4 + asked - 1
    {
        assert!(Instant::now() < until, "{value} after {asked}");
    }
}

#[test]
fn unknown_user_wrong_password_and_none_get_the_same_answer() {
    let path = passwords("gate-same-passwords", &[("alice", "wonder")]);
    let rest = format!("[auth]\npassword_file = {path:?}\n[gate]\ndelay_milliseconds = 0\n");
    let running = Running::start("gate-same", &rest);
    for (version, refusal) in [(V311, [0x20, 2, 0, 5].as_slice()), (V5, &[0x20, 3, 0, 0x87, 0])] {
        for login in [("alice", Some("wrong")), ("bob", Some("wonder")), ("bob", None), ("alice", None)] {
            let mut stream = open(running.address);
            stream.write_all(&connect(version, "c", Some(login))).expect("the broker reads");
            assert_eq!(read_to_end(&mut stream), refusal, "{login:?}");
        }
    }
}

#[test]
fn refusal_of_a_wrong_login_waits_and_others_do_not() {
    let path = passwords("gate-delay-passwords", &[("alice", "wonder")]);
    let rest = format!(
        "[runtime]\nshards = 2\n[auth]\npassword_file = {path:?}\n\
         [gate]\nfailures_before_delay = 1\ndelay_milliseconds = 1500\n"
    );
    let running = Running::start("gate-delay", &rest);
    let wrong = |id: &str| {
        let mut stream = open(running.address);
        stream.write_all(&connect(V311, id, Some(("alice", Some("wrong"))))).expect("the broker reads");
        stream
    };
    assert_eq!(read_to_end(&mut wrong("first")), [0x20, 2, 0, 5]);
    let began = Instant::now();
    let mut waits = wrong("second");
    running.line("the failure", |line| line.contains("connect refused") && line.contains("second"));
    // Bytes that are sent in this time are not read, and do no harm.
    waits.write_all(&[0xC0, 0]).expect("a socket takes it");
    let _good = lets_in(running.address, &connect(V311, "good", Some(("alice", Some("wonder")))))
        .expect("it is right");
    assert_eq!(read_to_end(&mut waits), [0x20, 2, 0, 5]);
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[test]
fn address_that_connects_too_fast_is_slowed_down_over_all_shards() {
    let rest = "[runtime]\nshards = 2\n[limits]\nconnect_rate = 1\nconnect_burst = 5\n";
    let running = Running::start("gate-rate", rest);
    let began = Instant::now();
    let (mut inside, mut refused) = (Vec::new(), 0);
    while refused < 5 {
        match lets_in(running.address, &connect(V311, &format!("c{}", inside.len()), None)) {
            Some(stream) => inside.push(stream),
            None => refused += 1,
        }
        // One connection per second is admitted, and the first ones at once. The numbers are not per shard.
        let may = 5 + usize::try_from(began.elapsed().as_secs()).expect("a short test") + 1;
        assert!(inside.len() <= may, "{} in {:?}", inside.len(), began.elapsed());
        assert!(began.elapsed() < PATIENCE, "nobody is refused");
    }
    assert!(inside.len() >= 5);
    let line = running.line("the limit", |line| line.contains("limits.connect_rate"));
    assert!(line.contains("127.0.0.1/32"), "{line}");
    assert_eq!(count(&running, |line| line.contains("limits.connect_rate")), 1, "one line for a flood");
}

#[test]
fn behind_a_load_balancer_the_address_of_the_client_counts() {
    let rest = "proxy_trusted = [\"127.0.0.0/8\"]\nallow_anonymous = true\n[runtime]\nshards = 2\n\
                [gate]\nbanned = [\"203.0.113.7\", \"127.0.0.0/8\"]\nflap_connections = 2\n";
    let running = Running::start("gate-proxy", rest);
    let through = |client: &str, id: &str| {
        let header = format!("PROXY TCP4 {client} 192.0.2.1 4242 1883\r\n").into_bytes();
        lets_in(running.address, &[header, connect(V311, id, None)].concat())
    };
    for number in 0..3 {
        let id = format!("c{number}");
        assert!(through("203.0.113.7", &id).is_none(), "banned");
        // It stays open, so that it does not count as a short connection.
        std::mem::forget(through("203.0.113.8", &id).expect("not banned"));
    }
    let line = running.line("the ban", |line| line.contains("it is banned"));
    assert!(line.contains("203.0.113.7/32"), "{line}");
    // A balancer's own connection, such as a health check, is not counted.
    for number in 0..4 {
        let own = [b"PROXY UNKNOWN\r\n".as_slice(), &connect(V311, &format!("own{number}"), None)].concat();
        assert!(lets_in(running.address, &own).is_some());
    }
    for number in 0..2 {
        assert!(through("203.0.113.9", &format!("flaps{number}")).is_some());
    }
    let line = running.line("the flapping", |line| line.contains("address is banned"));
    assert!(line.contains("203.0.113.9/32") && line.contains("gate.flap_connections"), "{line}");
    assert!(through("203.0.113.9", "flaps").is_none());
}

#[test]
fn clients_of_a_socket_file_have_no_address_that_could_be_banned() {
    let path = std::env::temp_dir().join(format!("midge-{}-gate.sock", std::process::id()));
    let rest = format!(
        "[[listeners]]\naddress = \"unix:{}\"\n[runtime]\nshards = 2\n[gate]\nbanned = [\"127.0.0.0/8\"]\n",
        path.display()
    );
    let running = Running::start("gate-unix", &rest);
    assert!(lets_in(running.address, &connect(V311, "tcp", None)).is_none());
    for number in 0..4 {
        let mut stream = open_file(&path);
        stream.write_all(&connect(V311, &format!("unix{number}"), None)).expect("the broker reads");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, IN);
    }
}

fn open_file(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream
}

#[test]
fn sighup_changes_the_list_of_the_banned_and_forgets_no_ban() {
    if !has_mosquitto() {
        return;
    }
    let path = passwords("gate-reload-passwords", &[("alice", "wonder")]);
    let name = "gate-reload";
    let rows = |list: &str| {
        format!(
            "[runtime]\nshards = 2\n[auth]\npassword_file = {path:?}\n\
             [gate]\nban_after_failures = 1\nbanned = [{list}]\n"
        )
    };
    let running = Running::start(name, &rows(""));
    let reload = |list: &str, nth| {
        config_file(name, &format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{}", rows(list)));
        running.hang_up();
        let until = Instant::now() + PATIENCE;
        while count(&running, |line| line.contains("SIGHUP") && line.contains("read again")) < nth {
            assert!(Instant::now() < until, "{:#?}", running.lines());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(count(&running, |line| line.contains("before a restart")), 0);
    };
    let good = ["-u", "alice", "-P", "wonder"];
    let mut lives = needs::command("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &running.address.port().to_string(), "-A", "127.0.0.2"])
        .args(["-V", "5", "-i", "lives", "-t", "b"])
        .args(good)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it comes with mosquitto_pub");
    running.line("the subscriber", |line| line.contains("client connected") && line.contains("lives"));
    assert!(!publishes(&running, "127.0.0.3", &["-u", "alice", "-P", "wrong"]));
    assert!(!publishes(&running, "127.0.0.3", &good), "banned by its wrong login");

    reload("\"127.0.0.2\"", 1);
    let line = running.line("its end", |line| line.contains("client disconnected") && line.contains("lives"));
    lives.kill().expect("our child");
    lives.wait().expect("our child");
    assert!(line.contains("gate.banned (0x98)"), "{line}");
    assert!(!publishes(&running, "127.0.0.2", &good), "banned by the list");
    assert!(publishes(&running, "127.0.0.1", &good));

    reload("", 2);
    assert!(publishes(&running, "127.0.0.2", &good), "not banned any more");
    assert!(!publishes(&running, "127.0.0.3", &good), "still banned");
}
