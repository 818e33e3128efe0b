//! `midge ctl`: its exit status, its words, and how it finds a midge.

use super::{get_unix, start_tcp, start_unix, token_file, wait_for};
use crate::{config_file, midge, run, stderr};
use std::process::{Output, Stdio};

pub(super) fn ctl(arguments: &[&str]) -> Output {
    // The sockets of this machine's own user play no part.
    run(midge().arg("ctl").args(arguments).env("RUNTIME_DIRECTORY", env!("CARGO_TARGET_TMPDIR")))
}

pub(super) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn commands_tell_what_the_broker_says() {
    let (_running, socket) = start_unix("ctl");
    wait_for(200, || get_unix(&socket, "/readyz"));
    let admin = format!("unix:{}", socket.display());
    let file = config_file("admin-ctl-client", &format!("[admin]\naddress = \"{admin}\"\n"));
    let file = file.to_str().expect("a name");
    for (arguments, status, said) in [
        (&["--admin", &admin, "health"][..], 0, "ok\n"),
        (&["health", "-c", file], 0, "ok\n"),
        (&["--admin", &admin, "--json", "health"], 0, "{\"status\":\"ok\"}\n"),
        (&["ready", "--admin", &admin], 0, "ready\n"),
        (&["get", "/healthz", "--admin", &admin], 0, "{\"status\":\"ok\"}\n"),
        (&["get", "/nowhere", "--admin", &admin], 1, "{\"error\":\"there is no such path\"}\n"),
    ] {
        let output = ctl(arguments);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(status), said), "{arguments:?}");
    }
    let metrics = ctl(&["metrics", "--admin", &admin]);
    assert!(stdout(&metrics).ends_with("# EOF\n"), "{metrics:?}");
    let shards = stdout(&ctl(&["shards", "--admin", &admin]));
    let rows: Vec<Vec<&str>> = shards.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[0][0], rows[1][0], rows[2][0], rows.len()), ("shard", "0", "1", 3), "{shards}");
}

#[test]
fn a_token_is_read_from_its_file_or_that_of_the_configuration() {
    let (_running, address) = start_tcp("admin-ctl-token");
    let (admin, tokens) = (address.to_string(), token_file("admin-ctl-own"));
    let tokens = tokens.to_str().expect("a name");
    let rows = format!("[admin]\naddress = \"{admin}\"\ntoken_file = \"{tokens}\"\n");
    let file = config_file("admin-ctl-token-client", &rows);
    for arguments in [
        &["--admin", &admin, "--token-file", tokens, "health"][..],
        &["health", "-c", file.to_str().expect("a name")],
    ] {
        let output = ctl(arguments);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "ok\n"), "{output:?}");
    }
    let none = ctl(&["--admin", &admin, "health"]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    assert!(stderr(&none).contains("a token of admin.token_file is needed"), "{none:?}");
}

#[test]
fn without_an_answer_or_with_wrong_usage_the_status_is_2() {
    let nowhere = format!("unix:{}", super::socket_path("nowhere").display());
    let output = ctl(&["--admin", &nowhere, "health"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("there is no such socket") && said.contains("--admin"), "{said}");
    let off = config_file("admin-ctl-off", "[admin]\naddress = \"\"\n");
    let off = off.to_str().expect("a name");
    for (arguments, words) in [
        (&["health", "--token-file", "/nonexistent", "--admin", "127.0.0.1:1"][..], "can't be read"),
        (&["health", "-c", off], "admin.address = \"\""),
        (&["get", "healthz", "--admin", &nowhere], "must begin with a slash"),
        (&["get", "/a b", "--admin", &nowhere], "there is no such socket"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&[], "Usage"),
    ] {
        let output = ctl(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(stderr(&output).contains(words), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let (_running, socket) = start_unix("ctl-pipe");
    let admin = format!("unix:{}", socket.display());
    let mut child = midge()
        .args(["ctl", "metrics", "--admin", &admin])
        .stdout(Stdio::piped())
        .spawn()
        .expect("midge is built");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("our child");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}
