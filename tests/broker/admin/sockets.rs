//! Where the admin interface is: chosen or configured, free, stale or taken.

use super::{get_unix, socket_path, tcp_rows, token_file, unix_rows};
use crate::{Running, config_file, midge, run, stderr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A directory for the sockets that midge chooses, short enough for the kernel.
fn runtime_directory(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("midge-run-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).expect("a folder");
    folder
}

/// A broker without `[admin]`, which finds its directory in the environment.
fn start_in(folder: &Path, name: &str) -> Running {
    let mut command = midge();
    command.arg("--config").arg(config_file(name, "[[listeners]]\naddress = \"127.0.0.1:0\"\n"));
    command.env("RUNTIME_DIRECTORY", folder);
    Running::start_command(command).expect("it starts")
}

#[test]
fn of_two_brokers_without_configuration_one_has_the_socket_and_both_start() {
    let folder = runtime_directory("two");
    let socket = folder.join("admin.sock");
    let first = start_in(&folder, "admin-first");
    first.line("the admin interface", |line| {
        line.contains(&format!("Admin interface: unix:{}", socket.display()))
    });
    let second = start_in(&folder, "admin-second");
    let line = second.line("the admin interface", |line| line.contains("No admin interface"));
    assert!(line.contains("WARN") && line.contains("another midge uses"), "{line}");
    assert_eq!(get_unix(&socket, "/healthz").status, 200);
    drop(second);
    assert_eq!(get_unix(&socket, "/healthz").status, 200, "the second one has removed nothing");
    drop(first);
    assert!(socket.exists(), "a killed broker leaves it behind");
    let mut third = start_in(&folder, "admin-third");
    assert_eq!(get_unix(&socket, "/healthz").status, 200, "it is replaced");
    let output = run(midge().args(["ctl", "health"]).env("RUNTIME_DIRECTORY", &folder));
    assert!(output.status.success(), "ctl finds it too: {output:?}");
    third.signal("-TERM");
    assert_eq!(third.wait(), 0);
    assert!(!socket.exists());
    std::fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn a_configured_socket_that_is_taken_ends_the_start() {
    let path = socket_path("taken");
    let file = config_file(
        "admin-taken",
        &format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{}", unix_rows(&path)),
    );
    let ends = |words: &str| {
        let output = run(midge().arg("--config").arg(&file));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains(words), "{output:?}");
    };
    let listener = UnixListener::bind(&path).expect("a free path");
    ends(&format!("another midge uses {}", path.display()));
    assert!(UnixStream::connect(&path).is_ok(), "it is left alone");
    drop(listener);
    std::fs::remove_file(&path).expect("it is ours");
    std::fs::write(&path, "a letter").expect("the folder can be written");
    ends("is no socket");
    std::fs::remove_file(&path).expect("it is ours");
}

#[test]
fn mode_of_the_socket_is_the_configured_one() {
    let path = socket_path("mode");
    let rows = unix_rows(&path).replace("[runtime]", "socket_mode = \"0600\"\n[runtime]");
    let _running = Running::start("admin-mode", &rows);
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn wrong_settings_and_tokens_are_named_with_their_place() {
    let tokens = token_file("admin-wrong");
    let good = config_file("admin-good", &format!("[[listeners]]\n{}", tcp_rows(&tokens)));
    let check = || run(midge().arg("check-config").arg(&good));
    assert!(check().status.success(), "{}", stderr(&check()));
    std::fs::write(&tokens, "# ours\na:admin:0123456789abcdef\nb:read:short\n").expect("it is ours");
    let serve = run(midge().arg("--config").arg(&good));
    for output in [check(), serve] {
        let said = stderr(&output);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(&format!("{}:2: the right of \"a\"", tokens.display())), "{said}");
        assert!(said.contains(&format!("{}:3: the token of \"b\"", tokens.display())), "{said}");
        assert!(!said.contains("0123456789abcdef") && !said.contains("short"), "{said}");
    }
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    assert!(stderr(&check()).contains("every user of this machine can read"), "{}", stderr(&check()));
    for (rows, words) in [
        ("address = \"127.0.0.1:9883\"\n", "admin-bad.toml:2: admin.address: \"127.0.0.1:9883\" has a port"),
        ("address = \"9883\"\n", "admin-bad.toml:2: admin.address: got \"9883\"; allowed is \"auto\""),
        (
            "socket_mode = \"rw\"\n",
            "admin-bad.toml:2: admin.socket_mode: got \"rw\"; allowed is permissions in octal",
        ),
    ] {
        let file = config_file("admin-bad", &format!("[admin]\n{rows}"));
        let output = run(midge().arg("check-config").arg(file));
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn without_an_admin_interface_the_broker_serves() {
    let running = Running::start("admin-off", "[admin]\naddress = \"\"\n");
    running.line("the admin interface", |line| line.contains("No admin interface (admin.address = \"\")"));
    running.client("a").disconnect();
}
