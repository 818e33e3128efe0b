//! Unix-domain sockets: MQTT and WebSocket over them, and their files.

use super::websocket::{binary, expect as expect_framed, upgrade};
use super::wire::{CONNACK, connect, echo, expect};
use crate::needs;
use crate::running::PATIENCE;
use crate::{Running, config_file, midge, run, stderr};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A path that is short enough for the kernel, wherever the target folder is.
fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("midge-{}-{name}.sock", std::process::id()))
}

fn open(path: &Path) -> UnixStream {
    let until = Instant::now() + PATIENCE;
    let stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < until, "{}: {error}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream
}

fn rows(path: &Path) -> String {
    format!("[[listeners]]\naddress = \"unix:{}\"\n", path.display())
}

#[test]
fn clients_of_a_socket_file_are_served_by_every_shard_and_told_as_unix() {
    let path = path("served");
    let mut running = Running::start("doors-unix", &format!("{}[runtime]\nshards = 2\n", rows(&path)));
    let named = format!(" and unix:{} with 2 shards", path.display());
    running.line("the listeners", |line| line.contains("Listening on ") && line.contains(&named));
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    for number in 0..4 {
        let id = format!("local{number}");
        let mut stream = open(&path);
        stream.write_all(&connect(&id)).expect("the broker reads");
        expect(&mut stream, &CONNACK);
        echo(&mut stream, "unix", &[7; 50_000]);
        drop(stream);
        for words in ["client connected", "client disconnected"] {
            let line = running.line(words, |line| line.contains(words) && line.contains(&id));
            assert!(line.contains("peer=unix"), "{line}");
        }
    }
    running.signal("-TERM");
    assert_eq!(running.wait(), 0);
    assert!(!path.exists(), "the file is removed");
}

#[test]
fn mosquitto_clients_come_in_by_a_socket_file() {
    if !needs::has("mosquitto_pub") {
        return;
    }
    let help = needs::command("mosquitto_pub").arg("--help").output().expect("it can be run");
    if !String::from_utf8_lossy(&help.stdout).contains("--unix") {
        needs::skips::note("a mosquitto_pub that knows --unix", "the one that is installed is of before 2.0");
        return;
    }
    let path = path("mosquitto");
    let _running = Running::start("doors-unix-mosquitto", &format!("{}[runtime]\nshards = 2\n", rows(&path)));
    let tool = |program: &str, arguments: &[&str]| {
        let mut command = needs::command(program);
        command.arg("--unix").arg(&path).args(["-q", "1"]).args(arguments);
        command.stdin(Stdio::null()).output().expect("it was there just now")
    };
    for number in 0..4 {
        let (id, topic) = (format!("pub{number}"), format!("unix/{number}"));
        let output = tool("mosquitto_pub", &["-i", &id, "-r", "-t", &topic, "-m", "hello"]);
        assert!(output.status.success(), "{output:?}");
    }
    let output = tool("mosquitto_sub", &["-t", "unix/#", "-C", "4", "-W", "60"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n".repeat(4), "{output:?}");
}

#[test]
fn file_of_a_killed_broker_is_replaced_and_that_of_a_living_one_is_not() {
    let path = path("alone");
    // Only one shard has a listener.
    let rest = format!("{}protocol = \"websocket\"\n[runtime]\nshards = 2\n", rows(&path));
    let file = config_file("doors-unix-alone", &rest);
    for round in 0..2 {
        let mut child =
            midge().arg("--config").arg(&file).stderr(Stdio::null()).spawn().expect("midge is built");
        for number in 0..4 {
            let mut stream = open(&path);
            upgrade(&mut stream);
            stream.write_all(&binary(&connect(&format!("alone{number}")))).expect("the broker reads");
            expect_framed(&mut stream, &CONNACK);
        }
        let second = run(midge().arg("--config").arg(&file));
        assert_eq!(second.status.code(), Some(1));
        let words = format!("can't listen on unix:{}: another process listens there", path.display());
        assert!(stderr(&second).contains(&words), "{}", stderr(&second));
        child.kill().expect("our child");
        child.wait().expect("our child");
        assert!(path.exists(), "round {round}: kill -9 leaves it behind");
        // The kernel releases a ring's sockets a moment later.
        while UnixStream::connect(&path).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    std::fs::remove_file(&path).expect("it was left behind");
}

#[test]
fn what_is_in_the_way_of_a_socket_file_is_named() {
    let path = path("taken");
    std::fs::write(&path, "a letter").expect("the folder can be written");
    let file = config_file("doors-unix-taken", &rows(&path));
    let output = run(midge().arg("--config").arg(&file));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("there is a file that is no socket"), "{}", stderr(&output));
    assert_eq!(std::fs::read(&path).expect("it is left alone"), b"a letter");
    let output = run(midge().arg("check-config").arg(&file));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&format!("listens on unix:{}", path.display())), "{said}");
    std::fs::remove_file(&path).expect("it is ours");

    let file = config_file("doors-unix-relative", "[[listeners]]\naddress = \"unix:midge.sock\"\n");
    let output = run(midge().arg("check-config").arg(&file));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("listeners[1].address"), "{}", stderr(&output));
}
