//! Signals that stop nothing, and another one that stops the broker in good order.

use super::wire::{CONNACK, connect, echo, expect, open};
use crate::needs;
use crate::running::PATIENCE;
use crate::{Running, midge};
use std::io::Write;
use std::process::Stdio;
use std::time::Instant;

#[test]
fn what_scripts_for_mosquitto_send_is_answered_with_a_line() {
    let rest = "[runtime]\nshards = 2\n[persistence]\ndirectory = \"\"\n";
    let mut running = Running::start("signals-user", rest);
    let mut client = open(running.address);
    client.write_all(&connect("lives")).expect("the broker reads");
    expect(&mut client, &CONNACK);
    for _ in 0..3 {
        // mosquitto 2.0 and 2.1 survive these. The number is that of SIGRTMIN, which not every kill knows by
        // name.
        for signal in ["-USR1", "-USR2", "-PIPE", "-34"] {
            running.signal(signal);
        }
    }
    running.line("what is kept", |line| {
        line.contains("SIGUSR1") && line.contains("Nothing is kept over a restart")
    });
    running.line("the connections", |line| line.contains("SIGUSR2: 1 connections are open"));
    running.line("the counters", |line| {
        line.contains("SIGUSR2: clients: connected=1") && line.contains(" expired=0")
    });
    echo(&mut client, "lives", b"after all of them");
    running.signal("-QUIT");
    assert_eq!(running.wait(), 0);
    let said = running.lines().concat();
    assert!(said.contains("stopping: connections are being closed") && said.contains("stopped"), "{said}");
}

#[test]
fn start_that_waits_for_something_is_ended_by_a_signal() {
    // Its address is in use, so it tries for two seconds.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let mut child = midge()
        .args(["serve", "--ephemeral", "-p", &port])
        .stderr(Stdio::piped())
        .spawn()
        .expect("midge is built");
    // Before its signal thread exists, the kernel would end it.
    let task = format!("/proc/{}/task", child.id());
    let is_ready = || {
        let tasks = std::fs::read_dir(&task).expect("it runs");
        let named = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.is_ok_and(|entry| {
                std::fs::read_to_string(entry.path().join("comm"))
                    .is_ok_and(|name| name.trim() == "midge-signals")
            })
        };
        tasks.into_iter().any(named)
    };
    let until = Instant::now() + PATIENCE;
    while !is_ready() && child.try_wait().expect("our child").is_none() {
        assert!(Instant::now() < until, "no thread for signals");
    }
    let sent = needs::kill("-TERM", child.id());
    let output = child.wait_with_output().expect("our child");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // If the machine has delayed the test for those seconds, midge has ended by itself with an error.
    if sent && !said.contains("another process listens there") {
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("stopped by a signal before it served"), "{said}");
    }
}
