//! A drain with real clients: they leave at the rate, are told where to go, and the broker ends.

use super::{READER, WRITER, ask_tcp, start_tcp, token_file};
use crate::client::Client;
use crate::{midge, run};
use midge_kit::codec::{self, Kind, V5, V311};
use midge_kit::open;
use std::net::SocketAddr;
use std::time::Instant;

/// `midge ctl drain` with some arguments: the exit status, and what it has said.
fn drain(admin: SocketAddr, arguments: &[&str]) -> (Option<i32>, String) {
    let tokens = token_file("drain-ctl").with_extension("w");
    let _ = std::fs::remove_file(&tokens);
    std::fs::write(&tokens, format!("w:write:{WRITER}\n")).expect("it can be written");
    std::fs::set_permissions(&tokens, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("it is ours");
    let mut command = midge();
    command.args(["ctl", "--admin", &admin.to_string(), "--token-file"]).arg(&tokens).arg("drain");
    let output = run(command.args(arguments));
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn clients_leave_at_the_rate_and_are_told_where_to_go_and_then_midge_ends() {
    let (mut running, admin) = start_tcp("admin-drain");
    let mut old = midge_kit::Client::over(open(running.address), V311);
    old.send(codec::connect(V311, "old"));
    assert_eq!(old.expect(Kind::Connack).code, 0);
    let clients: Vec<Client> = (0..29).map(|number| running.client(&format!("c{number}"))).collect();
    let begun = Instant::now();
    let (status, said) = drain(admin, &["--rate", "20", "--server-reference", "b.example:1883"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("new ones are refused"), "{said}");
    let ready = ask_tcp(admin, "GET", "/readyz", READER);
    assert!(ready.status == 503 && ready.body.contains("lets all clients go"), "{ready:?}");
    let mut late = midge_kit::Client::over(open(running.address), V5);
    late.send(codec::connect(V5, "late"));
    let connack = late.expect(Kind::Connack);
    assert_eq!((connack.code, connack.text(0x1C)), (0x9C, Some(&b"b.example:1883"[..])));
    for client in clients {
        let (reason, reference) = client.read_disconnect();
        assert_eq!((reason, reference.as_deref()), (0x9C, Some("b.example:1883")));
    }
    old.expect_closed();
    assert!(begun.elapsed().as_millis() >= 1000, "30 clients at 20 a second");
    assert_eq!(running.wait(), 0);
}

#[test]
fn a_drain_can_be_taken_back_and_need_not_end_midge() {
    let (running, admin) = start_tcp("admin-drain-back");
    assert_eq!(drain(admin, &["--cancel"]).0, Some(1), "there is none");
    assert_eq!(drain(admin, &["--rate", "0"]).0, Some(1));
    let client = running.client("c");
    let (status, said) = drain(admin, &["--rate", "1000", "--stay"]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(client.read_disconnect(), (0x8B, None));
    let (_, reason) = Client::try_connect(running.address, "d", true, 0);
    assert_eq!(reason, 0x88, "server unavailable");
    let (status, said) = drain(admin, &["--status"]);
    assert!(status == Some(0) && said.starts_with("0 clients are connected and let go"), "{said}");
    assert_eq!(drain(admin, &["--cancel"]).0, Some(0));
    running.client("e").disconnect();
    let reader = ask_tcp(admin, "DELETE", "/api/v1/drain", READER);
    assert_eq!(reader.status, 403, "{reader:?}");
}
