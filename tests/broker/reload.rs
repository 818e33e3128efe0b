//! The configuration that changes while midge runs: `midge ctl reload`, its plan, its confirmation, and SIGHUP; and the
//! level of the log.

use crate::{Running, config_file, midge, run, stderr};
use midge_kit::codec::{self, Kind, Packet, V5};
use midge_kit::{Client, free_port, open};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

/// Properties of CONNACK.
const MAXIMUM_PACKET_SIZE: u8 = 0x27;
const RECEIVE_MAXIMUM: u8 = 0x21;

/// A broker with two shards, its configuration file, and its admin interface.
struct Changing {
    running: Running,
    name: String,
    socket: PathBuf,
}

impl Changing {
    fn start(name: &str, rows: &str) -> Changing {
        let name = format!("reload-{name}");
        let socket = std::env::temp_dir().join(format!("midge-{}-{name}.sock", std::process::id()));
        let mut command = midge();
        command.arg("--config").arg(config_file(&name, &with_admin(rows, &socket)));
        let running = Running::start_command(command).expect("it starts");
        let changing = Changing { running, name, socket };
        let until = Instant::now() + midge_kit::PATIENCE;
        while changing.ctl(&["ready"]).status.code() != Some(0) {
            assert!(Instant::now() < until, "it is not ready: {:#?}", changing.running.lines());
            std::thread::sleep(Duration::from_millis(10));
        }
        changing
    }

    /// Writes another file. Nothing reads it yet.
    fn write(&self, rows: &str) {
        config_file(&self.name, &with_admin(rows, &self.socket));
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        run(midge().args(["ctl", "--admin", &format!("unix:{}", self.socket.display())]).args(arguments))
    }

    /// What a command prints. It must succeed.
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}{}", stderr(&output));
        said
    }

    /// What a command that is refused prints.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        stderr(&output)
    }

    /// Takes over another file.
    fn change(&self, rows: &str) -> String {
        self.write(rows);
        self.said(&["reload"])
    }

    fn line(&self, part: &str) -> String {
        self.running.line(part, |line| line.contains(part))
    }
}

fn with_admin(rows: &str, socket: &std::path::Path) -> String {
    let shards = if rows.contains("[runtime]") { "" } else { "[runtime]\nshards = 2\n" };
    format!("{rows}{shards}[admin]\naddress = \"unix:{}\"\n", socket.display())
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn listener(port: u16) -> String {
    format!("[[listeners]]\naddress = \"127.0.0.1:{port}\"\n")
}

/// A client that is accepted, and its CONNACK.
fn join(address: SocketAddr, id: &str) -> (Client, Packet) {
    let mut client = Client::over(open(address), V5);
    client.send(codec::connect(V5, id));
    let connack = client.expect(Kind::Connack);
    assert_eq!(connack.code, 0, "{connack:?}");
    (client, connack)
}

/// Waits until nobody listens on a port.
fn wait_until_closed(port: u16) {
    let until = Instant::now() + midge_kit::PATIENCE;
    while TcpStream::connect(at(port)).is_ok() {
        assert!(Instant::now() < until, "port {port} is still open");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a new client is told this Maximum Packet Size.
fn wait_for_packet_bytes(address: SocketAddr, bytes: u32) {
    let until = Instant::now() + midge_kit::PATIENCE;
    while join(address, "asks").1.number(MAXIMUM_PACKET_SIZE) != Some(bytes) {
        assert!(Instant::now() < until, "clients are not told {bytes}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn lower_limit_is_for_new_clients_and_connected_ones_keep_what_they_were_told() {
    let listener = listener(free_port());
    let broker = Changing::start("packet", &listener);
    let address = broker.running.address;
    let (mut before, connack) = join(address, "before");
    assert_eq!(connack.number(MAXIMUM_PACKET_SIZE), Some(2_000_000));
    let said =
        broker.change(&format!("{listener}[limits]\npacket_bytes = 1000\n[protocol]\nreceive_maximum = 7\n"));
    let words =
        ["limits.packet_bytes", "2000000", "1000", "for new connections", "clients that connect later"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    broker.line(
        "reload: limits.packet_bytes: 2000000 -> 1000, for new connections, clients that connect later",
    );
    // Every shard has taken it over: the names have their homes on both.
    for id in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let until = Instant::now() + midge_kit::PATIENCE;
        loop {
            let (mut after, connack) = join(address, id);
            if connack.number(MAXIMUM_PACKET_SIZE) != Some(1000) {
                assert!(Instant::now() < until, "{id} is told {connack:?}");
                continue;
            }
            assert_eq!(connack.number(RECEIVE_MAXIMUM), Some(7));
            after.send(codec::publish("t", vec![b'x'; 2000]));
            after.expect_disconnect(&[0x95]);
            break;
        }
    }
    assert_eq!(
        before.publish(codec::publish("t", vec![b'x'; 2000]).qos1(1)),
        0x10,
        "no subscriber, and no limit"
    );
    before.ping();
}

#[test]
fn rates_change_for_connected_clients_and_those_that_wait_go_on() {
    let port = free_port();
    let rows = |of_listener: u32, of_client: u32| {
        let listener = listener(port);
        format!(
            "{listener}messages_per_second = {of_listener}\n[limits]\nclient_messages_per_second = {of_client}\n"
        )
    };
    let broker = Changing::start("rates", &rows(0, 1));
    let (mut slow, _) = join(at(port), "slow");
    let flood = |client: &mut Client| {
        // At one message a second, the answer to PINGREQ would come after the patience of the test.
        for _ in 0..500 {
            client.send(codec::publish("t", "x"));
        }
        client.send(codec::pingreq());
    };
    flood(&mut slow);
    broker.line("limits.client_messages_per_second");
    let said = broker.change(&rows(2, 0));
    assert!(said.contains("clients of 127.0.0.1") && said.contains("at once"), "{said}");
    // Its own rate is free. The new one of the listener holds it back now.
    let until = Instant::now() + midge_kit::PATIENCE;
    while !broker.said(&["client", "slow"]).contains("rate of the listener") {
        assert!(Instant::now() < until, "{}", broker.said(&["client", "slow"]));
    }
    broker.change(&rows(0, 0));
    slow.find(Kind::Pingresp);
    broker.change(&rows(0, 1));
    flood(&mut slow);
    broker.change(&rows(0, 100_000));
    slow.find(Kind::Pingresp);
}

#[test]
fn listeners_come_and_go_with_their_clients() {
    let (kept, gone, new) = (free_port(), free_port(), free_port());
    let broker = Changing::start("listeners", &format!("{}{}", listener(kept), listener(gone)));
    let (mut stays, _) = join(at(kept), "stays");
    let (mut leaves, _) = join(at(gone), "leaves");
    let silent = open(at(gone));
    let rows = format!("{}{}", listener(new), listener(kept));
    broker.write(&rows);
    let plan = broker.said(&["reload", "--plan"]);
    for words in [
        &format!("clients of 127.0.0.1:{gone}: they are disconnected (0x98)")[..],
        "2 connections would be closed",
    ] {
        assert!(plan.contains(words), "{words} in {plan}");
    }
    leaves.ping();
    let said = broker.said(&["reload"]);
    assert!(said.contains(&format!("listening on 127.0.0.1:{new}")), "{said}");
    leaves.expect_disconnect(&[0x98]);
    assert!(Client::over(silent, V5).expect_end().is_empty(), "it has not sent its CONNECT");
    broker.line("its listener was removed from the configuration (0x98)");
    wait_until_closed(gone);
    // The names have their homes on both shards.
    let mut clients: Vec<Client> = (0..8).map(|number| join(at(new), &format!("new{number}")).0).collect();
    clients.iter_mut().for_each(Client::ping);
    stays.ping();
    let listed = broker.said(&["listeners"]);
    assert!(listed.contains(&format!("127.0.0.1:{new} ")) && !listed.contains(&gone.to_string()), "{listed}");
    let of_new = broker.said(&["clients", "--listener", &format!("127.0.0.1:{new}")]);
    assert!(of_new.contains("8 clients"), "{of_new}");
    // It may come back, and the whole address may be listened on in place of one.
    broker.change(&format!("{}{}", listener(gone), listener(kept)));
    clients.iter_mut().for_each(|client| client.expect_disconnect(&[0x98]));
    join(at(gone), "back").0.ping();
    let said = broker.change(&format!(
        "[[listeners]]\naddress = \"0.0.0.0:{gone}\"\nallow_anonymous = true\n{}",
        listener(kept)
    ));
    let notes = format!("listener 0.0.0.0:{gone}: anyone who can reach it may connect");
    assert!(said.contains(&notes), "{said}");
    broker.line(&format!("reload: {notes}"));
    join(at(gone), "everywhere").0.ping();
    stays.ping();
}

#[test]
fn unix_socket_comes_and_its_file_goes() {
    let kept = listener(free_port());
    let path = std::env::temp_dir().join(format!("midge-{}-reload-clients.sock", std::process::id()));
    let with_path = format!("{kept}[[listeners]]\naddress = \"unix:{}\"\n", path.display());
    let mut broker = Changing::start("unix", &kept);
    broker.change(&with_path);
    let join_unix = || {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("it listens");
        use std::io::{Read, Write};
        let connect = codec::Encode::encode(&codec::connect(V5, "unix"), V5);
        stream.write_all(&connect).expect("it reads");
        let mut first = [0];
        stream.read_exact(&mut first).expect("an answer");
        assert_eq!(first, [0x20]);
        stream
    };
    let _client = join_unix();
    broker.change(&kept);
    assert!(!path.exists());
    broker.change(&with_path);
    let _client = join_unix();
    broker.running.signal("-TERM");
    assert_eq!(broker.running.wait(), 0);
    assert!(!path.exists(), "the file of a listener that was added is removed at the end");
}

#[test]
fn wrong_file_changes_nothing_and_every_error_is_told() {
    let listener = listener(free_port());
    let broker = Changing::start("wrong", &listener);
    let (mut client, _) = join(broker.running.address, "client");
    broker.write(&format!("{listener}packet_bytes = 1\n[limits]\nsessions = 5\nno_such = 1\n"));
    for arguments in [&["reload"][..], &["reload", "--plan"], &["reload", "--confirm", "1s"]] {
        let errors = broker.refused(arguments);
        assert!(errors.contains("packet_bytes") && errors.contains("no_such"), "{errors}");
    }
    broker.write(&format!("{listener}[auth]\npassword_file = \"/no/such/file\"\n[limits]\nsessions = 1\n"));
    let error = broker.refused(&["reload"]);
    assert!(error.contains("/no/such/file"), "{error}");
    broker.line("reload: nothing is changed: ");
    // The bound on sessions is not in force.
    join(broker.running.address, "another").0.ping();
    client.ping();
}

#[test]
fn plan_changes_nothing_and_names_what_waits_for_a_restart() {
    let listener = listener(free_port());
    let broker = Changing::start("plan", &listener);
    let address = broker.running.address;
    assert!(broker.said(&["reload", "--plan"]).contains("no option differs"));
    broker.write(&format!("{listener}[limits]\npacket_bytes = 1000\n[runtime]\nshards = 1\n"));
    let plan = broker.said(&["reload", "--plan"]);
    let rows: Vec<Vec<&str>> =
        plan.lines().map(|line| line.split("  ").filter(|cell| !cell.is_empty()).collect()).collect();
    let trimmed = |row: &[&str]| row.iter().map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(trimmed(&rows[0]), ["key", "old", "new", "takes effect", "for whom"]);
    assert_eq!(trimmed(&rows[1]), ["runtime.shards", "2", "1", "at restart", "nobody before a restart"]);
    assert_eq!(rows[2][0].trim(), "limits.packet_bytes");
    assert!(plan.ends_with("1 change needs a restart\nnothing was changed\n"), "{plan}");
    let json = broker.said(&["--json", "reload", "--plan"]);
    assert!(json.contains("\"done\":false") && json.contains("\"takes_effect\":\"at restart\""), "{json}");
    assert_eq!(join(address, "client").1.number(MAXIMUM_PACKET_SIZE), Some(2_000_000));
    // What waits for a restart is told each time.
    for _ in 0..2 {
        assert!(broker.said(&["reload"]).contains("1 change needs a restart"));
    }
    broker.line("reload: waits for a restart: runtime.shards: 2 -> 1");
    wait_for_packet_bytes(address, 1000);
}

#[test]
fn reload_that_nobody_confirms_goes_back() {
    let (port, new) = (free_port(), free_port());
    let broker = Changing::start("confirm", &listener(port));
    let changed = format!("{}[limits]\npacket_bytes = 1000\n", listener(new));
    broker.write(&changed);
    let (mut client, _) = join(at(port), "client");
    let said = broker.said(&["reload", "--confirm", "2s"]);
    assert!(said.contains("the former configuration returns in 2 s"), "{said}");
    // The file is not read for the way back.
    broker.write("nonsense");
    client.expect_disconnect(&[0x98]);
    broker.line(&format!("reload: listening on 127.0.0.1:{new}"));
    broker.line("reload not confirmed: the former configuration has returned");
    wait_until_closed(new);
    wait_for_packet_bytes(at(port), 2_000_000);
    assert!(broker.refused(&["reload", "confirm"]).contains("no reload waits for a confirmation"));
    // The same again, confirmed.
    broker.write(&changed);
    broker.said(&["reload", "--confirm", "1h"]);
    for arguments in [&["reload"][..], &["reload", "--confirm", "1s"]] {
        let refusal = broker.refused(arguments);
        assert!(refusal.contains("the last reload waits for its confirmation"), "{refusal}");
    }
    broker.running.hang_up();
    broker.line("SIGHUP: nothing is changed: the last reload waits for its confirmation");
    broker.said(&["reload", "confirm"]);
    broker.line("reload: the new configuration is confirmed");
    broker.said(&["reload"]);
    wait_for_packet_bytes(at(new), 1000);
}

#[test]
fn listener_whose_port_was_taken_meanwhile_does_not_stop_the_way_back() {
    let (port, kept) = (free_port(), free_port());
    let broker = Changing::start("taken", &format!("{}{}", listener(port), listener(kept)));
    broker.write(&format!("{}[limits]\npacket_bytes = 1000\n", listener(kept)));
    // On a busy machine the way back may come before the port is taken.
    let _taken = [2, 8, 32].into_iter().find_map(|seconds| {
        broker.said(&["reload", "--confirm", &format!("{seconds}s")]);
        let until = Instant::now() + Duration::from_secs(seconds);
        loop {
            match std::net::TcpListener::bind(at(port)) {
                Ok(taken) => break Some(taken),
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                Err(_) => {
                    while broker.said(&["listeners"]).lines().count() < 3 {}
                    break None;
                }
            }
        }
    });
    broker.line("reload not confirmed: a listener can't return: ");
    broker.line("reload not confirmed: the former configuration has returned");
    wait_for_packet_bytes(at(kept), 2_000_000);
    let listed = broker.said(&["listeners"]);
    assert!(listed.contains(&kept.to_string()) && !listed.contains(&port.to_string()), "{listed}");
}

#[test]
fn level_of_the_log_changes_for_a_while() {
    let listener = listener(free_port());
    let broker = Changing::start("level", &listener);
    let address = broker.running.address;
    assert_eq!(broker.said(&["log-level"]), "info\n");
    let said = broker.said(&["log-level", "debug", "--for", "1h"]);
    assert!(said.starts_with("debug for ") && said.ends_with("then info\n"), "{said}");
    broker.line("the admin interface has set the level of the log to \"debug\" for 3600 s, until ");
    join(address, "loud").0.publish(codec::publish("loud/topic", "x"));
    broker.running.line("a publish", |line| line.contains("publish matched") && line.contains("loud/topic"));
    // A reload that does not change log.level leaves it.
    broker.said(&["reload"]);
    assert!(broker.said(&["log-level"]).starts_with("debug for "));
    let said = broker.said(&["log-level", "error", "--for", "1s"]);
    assert!(said.ends_with("then info\n"), "{said}");
    broker.line("the level of the log is \"info\" again, as log.level says");
    assert_eq!(broker.said(&["log-level"]), "info\n");
    assert_eq!(broker.said(&["log-level", "warn"]), "warn (log.level is info)\n");
    // One that does change it stands above.
    broker.change(&format!("{listener}[log]\nlevel = \"debug\"\n"));
    assert_eq!(broker.said(&["log-level"]), "debug\n");
    for wrong in [&["log-level", "loud"][..], &["log-level", "debug", "--for", "25h"]] {
        assert_eq!(broker.ctl(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn sys_topics_come_and_go() {
    let rows = |seconds: u32| format!("{}[sys]\ninterval_seconds = {seconds}\n", listener(7));
    let port = free_port();
    let rows = |seconds: u32| rows(seconds).replace(":7\"", &format!(":{port}\""));
    let broker = Changing::start("sys", &rows(0));
    let (mut client, _) = join(at(port), "client");
    client.subscribe("$SYS/broker/version", 0);
    broker.change(&rows(3600));
    client.expect_live("$SYS/broker/version", concat!("midge version ", env!("CARGO_PKG_VERSION")));
    broker.change(&rows(0));
    client.expect_live("$SYS/broker/version", "");
    let (mut later, _) = join(at(port), "later");
    later.subscribe("$SYS/broker/version", 0);
    later.ping();
}
