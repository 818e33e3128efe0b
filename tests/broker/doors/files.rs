//! The files that a configuration names: those that are not regular files, and those that every user can
//! read.

use super::pki::Authority;
use super::wire::{connect_as, return_code};
use crate::logins::passwords;
use crate::running::PATIENCE;
use crate::{Running, config_file, midge, run, stderr};
use midge_kit::ScratchFolder;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A folder that every user can reach, whatever the permissions of the target folder are.
fn folder(name: &str) -> ScratchFolder {
    let folder = ScratchFolder::new(name);
    std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("it is ours");
    folder
}

/// Replaces what is there with a named pipe.
fn make_pipe(path: &Path) {
    let _ = std::fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo is there").success());
}

fn wait_for(mut child: Child) -> Option<i32> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("our child") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("our child");
    child.wait().expect("our child");
    None
}

#[test]
fn pipe_in_the_place_of_a_file_is_refused_at_sighup_and_signals_are_heard() {
    let folder = folder("pipes");
    let users = folder.join("passwords");
    std::fs::copy(passwords("files-passwords", &[("alice", "wonder")]), &users).expect("a copy");
    let mut running = Running::start("files-pipe", &format!("password_file = {users:?}\n"));
    make_pipe(&users);
    running.hang_up();
    let line = running.line("the refusal", |line| line.contains("SIGHUP: nothing is changed"));
    assert!(line.contains("a regular file is needed") && line.contains("passwords"), "{line}");
    assert_eq!(return_code(running.address, &connect_as("c", "alice", "wonder")), 0, "the old one holds");
    running.signal("-TERM");
    assert_eq!(running.wait(), 0);
}

#[test]
fn pipe_in_the_place_of_any_file_is_refused_by_check_config_and_start() {
    let folder = folder("pipes-checked");
    let pipe = folder.join("pipe.toml");
    make_pipe(&pipe);
    let authority = Authority::new("files-pipes");
    let issued = authority.server("server");
    let rows = [
        format!("password_file = {pipe:?}\n"),
        format!("acl_file = {pipe:?}\n"),
        format!("tls_certificates = [{pipe:?}]\ntls_keys = [{:?}]\n", issued.key),
        format!("tls_certificates = [{:?}]\ntls_keys = [{pipe:?}]\n", issued.chain),
        format!("{}tls_chain = {pipe:?}\n", issued.rows()),
        format!("{}tls_client_ca = {pipe:?}\ntls_client_certificate = \"required\"\n", issued.rows()),
        format!("[jwt]\nkeys = [{pipe:?}]\n"),
        format!("[jwt]\nsecrets = [{pipe:?}]\n"),
        format!("[webhook]\nurl = \"https://127.0.0.1:1/\"\nca_file = {pipe:?}\n"),
        format!("[webhook]\nurl = \"http://127.0.0.1:1/\"\nheader = \"h\"\nheader_file = {pipe:?}\n"),
    ];
    for row in &rows {
        let file = config_file("files-pipes", &format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{row}"));
        for arguments in [["check-config"].as_slice(), &["serve", "--config"]] {
            let mut child = midge();
            child.args(arguments).arg(&file).stderr(Stdio::null());
            assert_eq!(wait_for(child.spawn().expect("midge is built")), Some(2), "{row}");
        }
        let output = run(midge().arg("check-config").arg(&file));
        assert!(stderr(&output).contains("a regular file is needed"), "{row}: {}", stderr(&output));
    }
    // These are the configuration itself, and mosquitto's.
    let included = folder.join("conf.d");
    std::fs::create_dir_all(&included).expect("it is ours");
    make_pipe(&included.join("a.conf"));
    let conf = folder.join("mosquitto.conf");
    std::fs::write(&conf, format!("listener 1883 127.0.0.1\ninclude_dir {}\n", included.display()))
        .expect("written");
    for arguments in [
        vec!["check-config".as_ref(), pipe.as_os_str()],
        vec!["serve".as_ref(), "--config".as_ref(), pipe.as_os_str()],
        vec!["serve".as_ref(), "--mosquitto-conf".as_ref(), pipe.as_os_str()],
        vec!["import-mosquitto".as_ref(), conf.as_os_str()],
        vec!["serve".as_ref(), "--mosquitto-conf".as_ref(), conf.as_os_str()],
    ] {
        let child = midge().args(&arguments).stderr(Stdio::null()).spawn().expect("midge is built");
        assert_eq!(wait_for(child), Some(2), "{arguments:?}");
    }
}

#[test]
fn key_and_password_file_that_everybody_can_read_are_warned_of() {
    let folder = folder("modes");
    let (users, key) = (folder.join("passwords"), folder.join("key.pem"));
    let issued = Authority::new("files-modes").server("server");
    std::fs::copy(passwords("files-modes", &[("alice", "wonder")]), &users).expect("a copy");
    std::fs::copy(&issued.key, &key).expect("a copy");
    let rows =
        format!("tls_certificates = [{:?}]\ntls_keys = [{key:?}]\npassword_file = {users:?}\n", issued.chain);
    let set = |mode| {
        for path in [&users, &key] {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
        }
    };
    let warned = |text: &str| {
        let of = |path: &Path, what: &str| {
            let words = format!("{}: everybody on this machine can read this {what}", path.display());
            text.matches(&words).count()
        };
        assert_eq!(of(&users, "password file"), of(&key, "private key"));
        of(&key, "private key")
    };
    set(0o644);
    let file = config_file("files-modes", &format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{rows}"));
    let output = run(midge().arg("check-config").arg(&file));
    assert!(output.status.success(), "it is a warning: {}", stderr(&output));
    assert_eq!(warned(&stderr(&output)), 1, "{}", stderr(&output));
    let running = Running::start("files-modes", &rows);
    running.line("the key", |line| line.contains("WARN") && line.contains("this private key (mode 0644)"));
    let reload = |nth: usize| {
        running.hang_up();
        let until = Instant::now() + PATIENCE;
        while running.lines().iter().filter(|line| line.contains("lists are read again")).count() < nth {
            assert!(Instant::now() < until, "{:#?}", running.lines());
            std::thread::sleep(Duration::from_millis(20));
        }
        warned(&running.lines().concat())
    };
    assert_eq!(reload(1), 2, "once at the start, once at the reload");
    set(0o640);
    assert_eq!(reload(2), 2, "no more");
    // Every user must not be able to change it either.
    set(0o642);
    let output = run(midge().arg("check-config").arg(&file));
    assert!(
        stderr(&output).contains("everybody on this machine can change this private key"),
        "{}",
        stderr(&output)
    );
}
