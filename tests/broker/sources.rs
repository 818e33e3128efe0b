//! Where the configuration comes from: files that a file includes, and the environment; and what `check-config` tells.

use crate::running::{Running, config_file, free_port, midge, run, stderr};
use midge_kit::codec::{self, Kind, V5};
use midge_kit::{Client, open};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

/// A new directory of a test.
fn directory(name: &str) -> PathBuf {
    let directory =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sources-{name}-{}", std::process::id()));
    // It does not exist after a clean checkout.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(directory.join("conf.d")).expect("it can be made");
    directory
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const NOTHING_KEPT: &str = "[persistence]\ndirectory = \"\"\n";

#[test]
fn included_files_and_variables_are_in_force_and_read_again() {
    let directory = directory("serve");
    let main = directory.join("midge.toml");
    let text =
        "include = [\"conf.d/*.toml\"]\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"\"\n";
    fs::write(&main, format!("{text}{NOTHING_KEPT}")).expect("it can be written");
    let included = directory.join("conf.d/limits.toml");
    fs::write(&included, "[limits]\npacket_bytes = 1000\nclient_id_bytes = 50\n").expect("it can be written");
    let mut command = midge();
    command.arg("--config").arg(&main).env("MIDGE__LIMITS__PACKET_BYTES", "2000");
    command.env("MIDGE__LOG__LEVEL", "debug");
    let running = Running::start_command(command).expect("it starts");
    running.line("the sources", |line| {
        line.contains("Configuration: ")
            && line.contains("conf.d/limits.toml, MIDGE__LIMITS__PACKET_BYTES, MIDGE__LOG__LEVEL.")
    });
    assert_eq!(packet_bytes_max(&running), Some(2000));

    fs::write(&included, "[limits]\npacket_bytes = 1000\nclient_id_bytes = \"few\"\n")
        .expect("it can be written");
    running.hang_up();
    running.line("the error", |line| {
        line.contains("conf.d/limits.toml:3: limits.client_id_bytes: got the string \"few\"")
    });
    fs::remove_file(&included).expect("it is there");
    fs::write(directory.join("conf.d/other.toml"), "[limits]\nkeep = 5\n").expect("it can be written");
    running.hang_up();
    running.line("the error", |line| line.contains("conf.d/other.toml:2: limits.keep: unknown key"));
    fs::write(directory.join("conf.d/other.toml"), "[limits]\ninflight_messages = 7\n")
        .expect("it can be written");
    running.hang_up();
    running.line("the change", |line| line.contains("limits.inflight_messages: ") && line.contains(" -> 7"));
    assert_eq!(packet_bytes_max(&running), Some(2000));
}

/// Maximum Packet Size of CONNACK.
fn packet_bytes_max(running: &Running) -> Option<u32> {
    let mut client = Client::over(open(running.address), V5);
    client.send(codec::connect(V5, "asks"));
    client.expect(Kind::Connack).number(0x27)
}

#[test]
fn what_is_printed_names_the_sources_and_is_a_configuration() {
    let directory = directory("print");
    let main = directory.join("midge.toml");
    fs::write(&main, "include = [\"conf.d/*.toml\"]\n[limits]\nconnections = 5\nhandshakes = 6\n")
        .expect("it can be written");
    fs::write(directory.join("conf.d/a.toml"), "\n[limits]\nhandshakes = 7\n").expect("it can be written");
    let mut command = midge();
    command
        .arg("check-config")
        .arg("--print")
        .arg(&main)
        .env("MIDGE__LISTENERS__1__ADDRESS", "127.0.0.1:1999");
    let printed = stdout(&run(&mut command));
    let ends = |key: &str, end: &str| {
        let line = printed.lines().find(|line| line.starts_with(&format!("{key} = "))).expect(key);
        assert!(line.ends_with(end), "{line}");
    };
    ends("connections", "/midge.toml:3");
    ends("handshakes", "/conf.d/a.toml:3");
    ends("address", "# MIDGE__LISTENERS__1__ADDRESS");
    ends("packet_bytes", "# default");
    let again = directory.join("again.toml");
    fs::write(&again, &printed).expect("it can be written");
    let output = run(midge().arg("check-config").arg(&again));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("listens on 127.0.0.1:1999"), "{}", stdout(&output));
}

#[test]
fn wrong_variable_ends_each_command_with_its_name() {
    let file = config_file("variable", "");
    for command in [vec!["check-config"], vec!["serve", "--config"]] {
        let output = run(midge().args(command).arg(&file).env("MIDGE__LIMITS__CONECTIONS", "5"));
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        let said = stderr(&output);
        assert!(
            said.contains("environment variable MIDGE__LIMITS__CONECTIONS: limits.conections: unknown key"),
            "{said}"
        );
    }
    let output = run(midge().args(["ctl", "health"]).env("MIDGE__ADMIN__ADDRESS", "nowhere"));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("environment variable MIDGE__ADMIN__ADDRESS"), "{}", stderr(&output));
}

#[test]
fn deep_check_finds_what_a_start_would_meet() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken_address = taken.local_addr().expect("it is bound");
    let directory = directory("deep");
    let state = directory.join("state/of/midge");
    let admin = directory.join("admin.sock");
    let text = |address: &str, state: &Path| {
        format!(
            "[[listeners]]\naddress = \"{address}\"\n[persistence]\ndirectory = \"{}\"\n[admin]\naddress = \"unix:{}\"\n",
            state.display(),
            admin.display()
        )
    };
    let check = |text: &str| run(midge().arg("check-config").arg("--deep").arg(config_file("deep", text)));

    let free = format!("127.0.0.1:{}", free_port());
    let output = check(&text(&free, &state));
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}{}", stderr(&output));
    for part in [&format!("{free} is free"), "state directory", "io_uring can be used", "open files"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("error:"), "{said}");
    assert!(!state.exists() && !admin.exists(), "nothing is made");

    fs::write(directory.join("file"), "").expect("it can be written");
    let output = check(&text(&taken_address.to_string(), &directory.join("file")));
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("error:   can't listen on {taken_address}: another process")), "{said}");
    assert!(said.contains("/file is no directory"), "{said}");
    assert!(stderr(&output).contains("a start would fail: 2 errors"), "{}", stderr(&output));
    drop(taken);

    let file = config_file("deep-running", &text(&free, &state));
    let mut command = midge();
    command.arg("--config").arg(&file);
    let _running = Running::start_command(command).expect("it starts");
    let until = Instant::now() + midge_kit::PATIENCE;
    loop {
        let output = run(midge().arg("check-config").arg("--deep").arg(&file));
        let said = stdout(&output);
        if said.contains(&format!("{free} is in use by the midge that runs")) {
            assert_eq!(output.status.code(), Some(0), "{said}");
            break;
        }
        assert!(Instant::now() < until, "{said}{}", stderr(&output));
        std::thread::sleep(Duration::from_millis(10));
    }
}
