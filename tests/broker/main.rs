//! The program as an operator sees it: exit status, messages, signals, log lines and statistics.
#![allow(clippy::disallowed_methods, reason = "a test starts programs, binds ports and reads clocks")]

mod admin;
mod attacks;
mod bridge;
mod client;
mod crash;
mod database;
mod devices;
mod doors;
mod gate;
mod io_uring;
mod ipv6;
mod json_log;
mod listeners;
mod logins;
mod moving;
#[path = "../needs/mod.rs"]
mod needs;
mod pages;
mod pin;
mod reload;
mod restart;
mod running;
mod sources;
mod store;
mod sys;
mod tokens;
mod vanished;

use running::{Running, config_file, midge, run, stderr};
use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn bad_configuration_is_refused_with_file_line_key_and_what_is_allowed() {
    let file = config_file(
        "typo",
        "[runtime]\nshards = 1\n\n[limits]\npacket_byts = 10\nconnect_seconds = \"soon\"\n",
    );
    for command in [midge().arg("check-config").arg(&file), midge().arg("serve").arg("--config").arg(&file)] {
        let output = run(command);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("broker-typo.toml:5: limits.packet_byts"), "{said}");
        assert!(said.contains("did you mean \"packet_bytes\""), "{said}");
        assert!(said.contains("broker-typo.toml:6: limits.connect_seconds"), "{said}");
    }
}

#[test]
fn shipped_manual_is_a_good_configuration() {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/config/midge.toml");
    let output = run(midge().arg("check-config").arg(manual));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("ok"));
}

#[test]
fn configuration_for_the_suites_of_paho_is_a_good_one() {
    let output = run(midge().args(["check-config", "tests/conformance/paho.toml"]));
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn version_and_help_are_told_and_bad_usage_is_2() {
    let version = run(midge().arg("--version"));
    assert_eq!(version.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(run(midge().arg("--help")).status.code(), Some(0));
    assert_eq!(run(midge().arg("--frobnicate")).status.code(), Some(2));
}

#[test]
fn taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let file = config_file("taken", &format!("[[listeners]]\naddress = \"{address}\"\n"));
    let output = run(midge().arg("--config").arg(file));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("can't listen on {address}: another process listens there")), "{said}");
}

#[test]
fn second_broker_on_the_same_port_is_refused() {
    let first = Running::start("first", "[runtime]\nshards = 2\n");
    let file =
        config_file("second", &format!("[[listeners]]\naddress = \"127.0.0.1:{}\"\n", first.address.port()));
    let output = run(midge().arg("--config").arg(file));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}

#[test]
fn a_start_right_after_a_kill_finds_its_port_free() {
    let name = "after-kill";
    let mut broker = Running::start(name, "[runtime]\nshards = 2\n");
    let address = broker.address.to_string();
    for round in 0..5 {
        let clients: Vec<_> = (0..20).map(|number| broker.client(&format!("c{round}-{number}"))).collect();
        broker.kill();
        broker = Running::start_on(&address, name, "[runtime]\nshards = 2\n");
        drop(clients);
    }
    assert_eq!(broker.address.to_string(), address);
}

#[test]
fn too_low_a_limit_on_open_files_is_named() {
    let file =
        config_file("files", "[limits]\nconnections = 5000\n[[listeners]]\naddress = \"127.0.0.1:0\"\n");
    let script = format!("ulimit -n 256; exec {} --config {}", env!("CARGO_BIN_EXE_midge"), file.display());
    let output = run(Command::new("bash").arg("-c").arg(script).stdin(Stdio::null()));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("limits.connections") && said.contains("256"), "{said}");
}

#[test]
fn start_says_in_plain_words_what_it_does() {
    let running = Running::start("words", "[runtime]\nshards = 2\n");
    let said = running.lines().concat();
    assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
    assert!(said.contains("2 shards"), "{said}");
}

#[test]
fn first_signal_says_farewell_and_ends_with_0() {
    for (signal, shards) in [("-TERM", 1), ("-INT", 2)] {
        let mut running =
            Running::start(&format!("signal{shards}"), &format!("[runtime]\nshards = {shards}\n"));
        let mut client = running.client("c").into_stream();
        running.signal(signal);
        let mut farewell = Vec::new();
        client.read_to_end(&mut farewell).expect("the end of the stream");
        assert_eq!(farewell, [0xE0, 1, 0x8B]);
        drop(client);
        assert_eq!(running.wait(), 0);
    }
}

#[test]
fn spinning_shards_serve_and_sleep_when_nothing_comes() {
    let running = Running::start("spin", "[runtime]\nshards = 2\nspin_microseconds = 50\n");
    for number in 0..4 {
        let mut subscriber = running.client(&format!("sub{number}"));
        subscriber.subscribe("spin", 1);
        assert_eq!(running.client(&format!("pub{number}")).publish_acknowledged("spin", b"x", false), 0);
        assert_eq!(subscriber.message().topic, "spin");
        subscriber.disconnect();
    }
    let (before, began) = (running.cpu_ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let ticks = running.cpu_ticks() - before;
    let elapsed = began.elapsed();
    // A busy loop would take half of a core even beside others.
    assert!(u128::from(ticks) * 100 < elapsed.as_millis(), "{elapsed:?} cost {ticks} hundredths of a second");
}
