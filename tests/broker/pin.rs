//! The cores that shards run on.

use crate::running::{Running, config_file, midge};
use std::fs;
use std::time::{Duration, Instant};

/// The cores that a thread, or this process, may use.
fn cores_of(status: &str) -> String {
    let status = fs::read_to_string(status).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("Linux tells").trim().to_owned()
}

/// Waits until the shards run on these cores, in their order.
fn assert_cores_of_shards(running: &Running, expected: &[&str]) {
    let expected: Vec<(usize, String)> =
        (0..).zip(expected.iter().map(|cores| (*cores).to_owned())).collect();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        // The broker listens before its shards run, and a thread is pinned a moment after it has begun.
        let found = cores_of_shards(running);
        if found == expected {
            return;
        }
        assert!(Instant::now() < until, "{found:?} instead of {expected:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The numbers and cores of the shards. An executor has another thread with the same name.
fn cores_of_shards(running: &Running) -> Vec<(usize, String)> {
    let mut shards = Vec::new();
    for thread in fs::read_dir(format!("/proc/{}/task", running.id())).expect("it runs") {
        let thread = thread.expect("an entry").path();
        let name = fs::read_to_string(thread.join("comm")).unwrap_or_default();
        if let Some(number) = name.trim().strip_prefix("midge-shard-") {
            let cores = cores_of(&thread.join("status").display().to_string());
            shards.push((number.parse().expect("shards have numbers"), cores));
        }
    }
    shards.sort();
    shards.dedup();
    shards
}

fn start(name: &str, runtime: &str) -> Running {
    let text = format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n[runtime]\n{runtime}\n[persistence]\ndirectory = \"\"\n"
    );
    let mut command = midge();
    command.arg("--config").arg(config_file(&format!("pin-{name}"), &text));
    Running::start_command(command).expect("it starts")
}

#[test]
fn shards_run_on_the_cores_that_are_named_and_the_start_says_which() {
    let usable = cores_of("/proc/self/status");
    // This is the last one of "0-3,8".
    let last = usable.rsplit([',', '-']).next().expect("there is one").to_owned();
    let running = start("one", &format!("pin = \"{last}\""));
    // There is one shard for each named core.
    assert_cores_of_shards(&running, &[&last]);
    running.line("the core", |line| line.contains(&format!("1 shard (one thread, on core {last})")));
    let second = start("two", &format!("shards = 2\npin = \"{last}\""));
    assert_cores_of_shards(&second, &[&last, &last]);
    let free = start("none", "shards = 2\npin = \"none\"");
    assert_cores_of_shards(&free, &[&usable, &usable]);
}

#[test]
fn core_that_the_process_may_not_use_is_named() {
    let text = "[runtime]\npin = \"1023\"\n[persistence]\ndirectory = \"\"\n";
    let mut command = midge();
    command.arg("--config").arg(config_file("pin-wrong", text));
    let ended = command.output().expect("it starts");
    let words = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{words}");
    assert!(words.contains("runtime.pin names core 1023; this process may use "), "{words}");
}
