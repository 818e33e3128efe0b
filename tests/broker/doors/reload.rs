//! SIGHUP: its effect on new connections, and that open ones continue.

use super::pki::Authority;
use super::websocket::{binary, expect as expect_framed, upgrade};
use super::wire::{self, CONNACK, connect, echo, expect, publish, subscribe};
use crate::running::PATIENCE;
use crate::{Running, config_file};
use rustls::pki_types::CertificateDer;
use std::io::Write;
use std::net::SocketAddr;

/// Waits for one more line about SIGHUP than there are.
fn reload(running: &Running, words: &str) {
    let of = |line: &str| line.contains("SIGHUP: ") && line.contains(words);
    let before = running.lines().iter().filter(|line| of(line)).count();
    running.signal("-HUP");
    let until = std::time::Instant::now() + PATIENCE;
    while running.lines().iter().filter(|line| of(line)).count() == before {
        assert!(std::time::Instant::now() < until, "no line with {words} in {:#?}", running.lines());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// The certificate that a new client gets, after it is accepted.
fn shown(authority: &Authority, address: SocketAddr, id: &str) -> CertificateDer<'static> {
    let mut stream = authority.open(address);
    stream.write_all(&connect(id)).expect("the broker reads");
    expect(&mut stream, &CONNACK);
    stream.conn.peer_certificates().expect("it was verified")[0].clone()
}

#[test]
fn the_level_of_the_log_changes_without_a_restart() {
    let text =
        |level: &str| format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n[log]\nlevel = \"{level}\"\n");
    let file = config_file("doors-level", &text("info"));
    let mut command = crate::midge();
    command.arg("--config").arg(&file);
    let running = Running::start_command(command).expect("it starts");
    config_file("doors-level", &text("error"));
    reload(&running, "log.level is now \"error\", and was \"info\"");
    let mut quiet = running.client("quiet");
    quiet.publish_acknowledged("quiet/topic", b"x", false);
    quiet.disconnect();
    config_file("doors-level", &text("debug"));
    reload(&running, "log.level is now \"debug\", and was \"error\"");
    let mut loud = running.client("loud");
    loud.publish_acknowledged("loud/topic", b"x", false);
    loud.disconnect();
    running.line("a connect", |line| line.contains("client connected") && line.contains("loud"));
    running.line("a publish", |line| line.contains("publish matched") && line.contains("loud/topic"));
    assert!(!running.lines().concat().contains("quiet"), "{:#?}", running.lines());
    // Nothing else has changed.
    let lines = running.lines().concat();
    assert!(!lines.contains("waits for a restart") && !lines.contains("->"), "{lines}");
}

#[test]
fn new_certificate_is_for_new_connections_and_a_bad_one_for_none() {
    let authority = Authority::new("reload");
    let first = authority.server("server");
    let rest = format!("{}[runtime]\nshards = 2\n", first.rows());
    let running = Running::start("doors-reload", &rest);
    let mut lives = authority.open(running.address);
    lives.write_all(&connect("lives")).expect("the broker reads");
    expect(&mut lives, &CONNACK);
    assert_eq!(shown(&authority, running.address, "a"), first.der);

    let second = authority.server("server");
    reload(&running, "password files and access lists are read again");
    for id in ["b0", "b1", "b2", "b3"] {
        assert_eq!(shown(&authority, running.address, id), second.der);
    }
    echo(&mut lives, "lives", b"after the change");

    std::fs::write(&second.chain, "no certificate").expect("the target folder can be written");
    reload(&running, "nothing is changed: ");
    running.line("the file", |line| {
        line.contains("nothing is changed: ") && line.contains(&second.chain.display().to_string())
    });
    for id in ["c0", "c1", "c2", "c3"] {
        assert_eq!(shown(&authority, running.address, id), second.der);
    }
    echo(&mut lives, "lives", b"after the mishap");
}

#[test]
fn wrong_file_or_a_port_in_use_changes_nothing() {
    let authority = Authority::new("reload-address");
    let rows = authority.server("server").rows();
    let running = Running::start("doors-reload-address", &rows);
    // When a client is accepted, signals are handled.
    shown(&authority, running.address, "first");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("it is bound").port();
    let first = format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{rows}");
    config_file("doors-reload-address", &format!("{first}[[listeners]]\naddress = \"127.0.0.1:{port}\"\n"));
    reload(&running, "nothing is changed: can't listen on");
    config_file("doors-reload-address", "[[listeners]]\naddress = \"127.0.0.1:0\"\ntls_key = []\n");
    reload(&running, "nothing is changed: ");
    running.line("the error", |line| line.contains("nothing is changed: ") && line.contains("tls_key"));
    shown(&authority, running.address, "still");
}

#[test]
fn living_websocket_goes_on_when_its_listener_speaks_mqtt_from_now_on() {
    let running = Running::start("doors-reload-ws", "protocol = \"websocket\"\n");
    let mut lives = wire::open(running.address);
    upgrade(&mut lives);
    lives.write_all(&binary(&connect("lives"))).expect("the broker reads");
    expect_framed(&mut lives, &CONNACK);

    config_file("doors-reload-ws", "[[listeners]]\naddress = \"127.0.0.1:0\"\n");
    reload(&running, "read again");
    let mut plain = wire::open(running.address);
    plain.write_all(&connect("plain")).expect("the broker reads");
    expect(&mut plain, &CONNACK);

    lives.write_all(&binary(&subscribe("t"))).expect("the broker reads");
    expect_framed(&mut lives, &wire::SUBACK);
    lives.write_all(&binary(&publish("t", b"x"))).expect("the broker reads");
    expect_framed(&mut lives, &publish("t", b"x"));
}
