//! The dashboard in a real browser, driven by Playwright: see `dashboard.mjs`.

use super::{READER, WRITER, start_unix, tcp_rows, token_file};
use crate::running::free_port;
use crate::{Running, needs};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

/// Runs a part of the script. It is left out if there is no browser.
fn browse(task: &str, given: &str) {
    let node = match needs::node() {
        Ok(node) => node,
        Err(why) => return needs::skips::note("node", &why),
    };
    if !needs::has("chromium") {
        return;
    }
    let chromium = needs::command("chromium");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broker/admin/dashboard.mjs");
    let output = node
        .command()
        .arg(script)
        .args([task, given])
        .env("MIDGE_CHROMIUM", chromium.get_program())
        .stdin(Stdio::null())
        .output()
        .expect("node starts");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn operator_sees_and_steers_the_broker_in_a_browser() {
    let ws_port = free_port();
    let rows = format!(
        "[[listeners]]\naddress = \"127.0.0.1:{ws_port}\"\nprotocol = \"websocket\"\n{}",
        tcp_rows(&token_file("dashboard"))
    );
    let running = Running::start("admin-browser", &rows);
    let line = running.line("the admin interface", |line| line.contains("Admin interface: "));
    let address = line.split("Admin interface: ").nth(1).expect("the line has it").trim_end_matches('.');
    let address: SocketAddr = address.parse().expect("an address");
    let pictures = std::env::var("MIDGE_PICTURES").unwrap_or_default();
    browse(
        "use",
        &format!(
            "{{\"admin\":\"http://{address}\",\"mqttPort\":{},\"wsPort\":{ws_port},\"reader\":\"{READER}\",\
             \"writer\":\"{WRITER}\",\"pictures\":\"{pictures}\"}}",
            running.address.port()
        ),
    );
}

#[test]
fn page_of_another_site_can_do_nothing_through_a_tunnel_to_the_socket() {
    let (_running, socket) = start_unix("dashboard");
    browse("attack", &format!("{{\"socket\":\"{}\"}}", socket.display()));
}
