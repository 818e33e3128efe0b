//! Which clients may connect without proof if `allow_anonymous` is left out, and what the start-up lines say
//! about it.

use super::wire::{connect, connect_as, return_code};
use crate::logins::{file, passwords};
use crate::running::{PATIENCE, free_port};
use crate::{Running, config_file, midge, run, stderr};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

const NOT_AUTHORIZED: u8 = 5;

fn line_of_listener(running: &Running) -> String {
    running.line("the listener", |line| line.contains("Listener "))
}

#[test]
fn password_file_of_a_local_listener_keeps_out_who_shows_none() {
    let path = passwords("anonymous-passwords", &[("alice", "wonder")]);
    for (rows, rest) in [
        (format!("password_file = {path:?}\n"), String::new()),
        (String::new(), format!("[auth]\npassword_file = {path:?}\n")),
    ] {
        let running = Running::start("anonymous-passwords", &format!("{rows}[runtime]\nshards = 2\n{rest}"));
        for number in 0..4 {
            let id = format!("stranger{number}");
            assert_eq!(return_code(running.address, &connect(&id)), NOT_AUTHORIZED);
            assert_eq!(return_code(running.address, &connect_as(&id, "alice", "wonder")), 0);
        }
        let line = line_of_listener(&running);
        assert!(line.contains("only clients that prove who they are may connect, by password"), "{line}");
    }
}

#[test]
fn every_other_proof_of_a_local_listener_keeps_strangers_out_too() {
    let secret = file("anonymous-secret", "0123456789abcdef0123456789abcdef");
    for (name, rows, rest) in [
        ("jwt", "", format!("[jwt]\nsecrets = [{secret:?}]\n")),
        ("webhook", "", "[webhook]\nurl = \"http://127.0.0.1:1/\"\n".to_owned()),
        ("proxy", "proxy_trusted = [\"10.0.0.0/8\"]\n", String::new()),
    ] {
        let running = Running::start(&format!("anonymous-{name}"), &format!("{rows}{rest}"));
        // While the webhook does not answer, its clients are refused with another code.
        let code = return_code(running.address, &connect("stranger"));
        assert_eq!(code, if name == "webhook" { 3 } else { NOT_AUTHORIZED }, "{name}");
        assert!(line_of_listener(&running).contains("allow_anonymous = false"), "{name}");
    }
    let running = Running::start(
        "anonymous-asked-for",
        &format!("[auth]\nallow_anonymous = true\n[jwt]\nsecrets = [{secret:?}]\n"),
    );
    assert_eq!(return_code(running.address, &connect("guest")), 0, "it is asked for");
}

#[test]
fn stranger_behind_a_load_balancer_does_not_come_in_without_a_name() {
    let running = Running::start("anonymous-balancer", "proxy_trusted = [\"127.0.0.0/8\"]\n");
    let header = b"PROXY TCP4 203.0.113.7 192.0.2.1 4242 1883\r\n".to_vec();
    let code = return_code(running.address, &[header, connect("stranger")].concat());
    assert_eq!(code, NOT_AUTHORIZED);
}

#[test]
fn listener_without_any_of_it_is_as_open_as_before() {
    let running = Running::start("anonymous-open", "[runtime]\nshards = 2\n");
    assert_eq!(return_code(running.address, &connect("guest")), 0);
    let line = line_of_listener(&running);
    assert!(line.contains("only this machine can reach it; every client on it may connect"), "{line}");
}

#[test]
fn password_file_that_comes_with_sighup_closes_the_listener_to_strangers() {
    let path = passwords("anonymous-later", &[("alice", "wonder")]);
    let running = Running::start("anonymous-later", "");
    assert_eq!(return_code(running.address, &connect("early")), 0);
    let text = format!("[[listeners]]\naddress = \"127.0.0.1:0\"\npassword_file = {path:?}\n");
    config_file("anonymous-later", &text);
    running.hang_up();
    running.line("the reload", |line| line.contains("SIGHUP") && line.contains("read again"));
    // Each shard notices it in its next turn.
    let until = Instant::now() + PATIENCE;
    while return_code(running.address, &connect("late")) != NOT_AUTHORIZED {
        assert!(Instant::now() < until, "strangers still come in");
    }
    assert_eq!(return_code(running.address, &connect_as("alice", "alice", "wonder")), 0);
}

#[test]
fn listener_that_can_let_no_client_in_is_warned_of_at_start_and_check() {
    let empty = file("anonymous-empty", "# nobody yet\n");
    for (name, address, rows, words) in [
        ("far", "0.0.0.0:0", String::new(), "allow_anonymous = true in [auth]"),
        (
            "no-user",
            "127.0.0.1:0",
            format!("password_file = {empty:?}\n"),
            "has no user; add one with midge passwd",
        ),
        (
            "no-certificate",
            "127.0.0.1:0",
            "tls_user_name = \"common_name\"\n".to_owned(),
            "set tls_client_certificate",
        ),
    ] {
        let running = Running::start_on(address, &format!("anonymous-shut-{name}"), &rows);
        let line = running
            .line("the warning", |line| line.contains("WARN") && line.contains("no client can connect"));
        assert!(line.contains(words), "{line}");
        assert_ne!(return_code(running.address, &connect("any")), 0, "{name}");
        let file = config_file(
            &format!("anonymous-shut-{name}"),
            &format!("[[listeners]]\naddress = {address:?}\n{rows}"),
        );
        let output = run(midge().arg("check-config").arg(file));
        let said = stderr(&output);
        assert!(output.status.success(), "a warning is no error: {said}");
        assert!(said.contains("warning: ") && said.contains(words), "{said}");
    }
}

#[test]
fn first_configuration_of_the_readme_works_for_a_stranger() {
    let readme = include_str!("../../../README.md");
    let begin = readme.find("    [[listeners]]\n").expect("the README shows a configuration");
    let block: Vec<&str> =
        readme[begin..].lines().take_while(|line| line.is_empty() || line.starts_with("    ")).collect();
    let text = block.iter().map(|line| line.trim_start()).collect::<Vec<_>>().join("\n");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    // The test uses another port, and fewer threads than the reader's machine has.
    let text = text.replace("0.0.0.0:1883", "0.0.0.0:0").replace("shards = 4", "shards = 2");
    std::fs::write(folder.join("my.toml"), format!("{text}\n[persistence]\ndirectory = \"\"\n"))
        .expect("written");
    // These are its next commands, with the password from a pipe.
    assert!(readme.contains("    midge passwd -c passwords alice\n"));
    let mut passwd = midge();
    passwd.args(["passwd", "-c", "passwords", "alice"]).current_dir(&folder).stdin(Stdio::piped());
    let mut child = passwd.spawn().expect("midge is built");
    child.stdin.take().expect("a pipe").write_all(b"secret\n").expect("it reads");
    assert!(child.wait().expect("our child").success());
    let mut serve = midge();
    serve.args(["serve", "--config", "my.toml"]).current_dir(&folder);
    let running = Running::start_command(serve).expect("it starts");
    assert_eq!(return_code(running.address, &connect_as("stranger", "alice", "secret")), 0);
    assert_eq!(return_code(running.address, &connect("nobody")), NOT_AUTHORIZED);
    assert!(
        !running.lines().iter().any(|line| line.contains("no client can connect")),
        "{:#?}",
        running.lines()
    );
}

#[test]
fn mosquitto_conf_keeps_its_own_rule_and_the_password_file_is_noted() {
    let path = passwords("anonymous-mosquitto-passwords", &[("alice", "wonder")]);
    let port = free_port().to_string();
    // Without a listener, mosquitto 2 accepts every client of this machine.
    let conf = file("anonymous-mosquitto.conf", &format!("password_file {}\n", path.display()));
    let mut serve = midge();
    serve.args(["serve", "-p", &port, "--mosquitto-conf"]).arg(conf);
    let running = Running::start_command(serve).expect("it starts");
    assert_eq!(return_code(running.address, &connect("guest")), 0);
    running.line("the note", |line| {
        line.contains("WARN") && line.contains("allow_anonymous false keeps them out")
    });
}

#[test]
fn common_name_with_control_characters_from_a_balancer_names_nobody() {
    let rows = "proxy_trusted = [\"127.0.0.0/8\"]\ntls_user_name = \"common_name\"\n";
    let running = Running::start("anonymous-names", rows);
    let header = |name: &[u8]| {
        let block = |kind: u8, value: &[u8]| {
            [&[kind][..], &u16::try_from(value.len()).expect("short").to_be_bytes(), value].concat()
        };
        // This is a client with TLS and a certificate that was found valid.
        let tls = block(0x20, &[&[7, 0, 0, 0, 0][..], &block(0x22, name)].concat());
        let body = [&[203, 0, 113, 7, 192, 0, 2, 1, 1, 2, 3, 4][..], &tls].concat();
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11".as_slice(), &length, &body].concat()
    };
    assert_eq!(return_code(running.address, &[header(b"admin"), connect("good")].concat()), 0);
    for name in [b"ad\0min".as_slice(), b"ad\nmin", b"\x1b[31m"] {
        let mut stream = super::wire::open(running.address);
        stream.write_all(&[header(name), connect("bad")].concat()).expect("the broker reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it is closed");
        // The result is the same as for a certificate without a common name.
        assert_eq!(answer, [0x20, 2, 0, 4], "{name:?}");
    }
}
