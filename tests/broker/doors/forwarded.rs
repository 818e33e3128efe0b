//! `X-Forwarded-For` of the request that opens a WebSocket: by hand, and written by a real proxy.

use super::websocket;
use super::wire::{self, CONNACK, connect};
use crate::running::{PATIENCE, config_file, free_port, midge, run, stderr};
use crate::{Running, needs};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

const FORWARDED: &str =
    "protocol = \"websocket\"\nproxy_header = \"x-forwarded-for\"\nallow_anonymous = true\n";

/// Sends a request with these lines, and CONNECT in the same bytes. Returns the status of the answer.
fn ask(address: SocketAddr, lines: &str, id: &str) -> (TcpStream, String) {
    let mut stream = wire::open(address);
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{lines}\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    let bytes = [request.as_bytes(), &websocket::binary(&connect(id))].concat();
    stream.write_all(&bytes).expect("the broker reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
    (stream, status)
}

/// The peer that the log shows for a client that is accepted.
fn peer_of(running: &Running, lines: &str, id: &str) -> String {
    let (mut stream, status) = ask(running.address, lines, id);
    assert_eq!(status, "101", "{lines:?}");
    websocket::expect(&mut stream, &CONNACK);
    logged_peer(running, id)
}

fn logged_peer(running: &Running, id: &str) -> String {
    let line = running.line("the client", |line| line.contains("client connected") && line.contains(id));
    let peer = line.split("peer=").nth(1).unwrap_or_else(|| panic!("a peer in {line}"));
    peer.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn trusted_proxy_names_the_client_and_nobody_else_can() {
    let rest =
        format!("{FORWARDED}proxy_trusted = [\"127.0.0.0/8\"]\n[gate]\nbanned = [\"198.51.100.0/24\"]\n");
    let running = Running::start("doors-forwarded", &format!("{rest}[runtime]\nshards = 2\n"));
    for (number, (lines, peer)) in [
        ("X-Forwarded-For: 203.0.113.7\r\n", "203.0.113.7:0"),
        (
            "x-forwarded-for: 192.0.2.1, 203.0.113.7:4242\r\nX-Forwarded-For: 127.0.0.9\r\n",
            "203.0.113.7:4242",
        ),
        ("X-Forwarded-For: 2001:db8::7\r\n", "[2001:db8::7]:0"),
    ]
    .into_iter()
    .enumerate()
    {
        // The names are for both shards, so the address moves along.
        for id in ["a", "b", "c"].map(|letter| format!("{letter}{number}")) {
            assert_eq!(peer_of(&running, lines, &id), peer);
        }
    }
    // Without the header, the connection is the proxy's own.
    assert!(peer_of(&running, "", "own").starts_with("127.0.0.1:"));
    let (_, status) = ask(running.address, "X-Forwarded-For: 203.0.113.7, unknown\r\n", "unknown");
    assert_eq!(status, "400");
    running.line("the refusal", |line| {
        line.contains("the header X-Forwarded-For does not name an address: \"unknown\"")
    });
    // The gate asks about the client, not about the proxy: its CONNECT came with the request, and counts for nothing.
    let (mut stream, _) = ask(running.address, "X-Forwarded-For: 198.51.100.9\r\n", "banned");
    assert_eq!(wire::rest(&mut stream), b"\x88\x02\x03\xE8", "a Close of WebSocket, and no CONNACK");
    assert!(peer_of(&running, "X-Forwarded-For: 203.0.113.8\r\n", "later").starts_with("203.0.113.8"));
    let lines = running.lines();
    assert!(
        !lines.iter().any(|line| line.contains("client connected") && line.contains("banned")),
        "{lines:?}"
    );

    let rest = format!("{FORWARDED}proxy_trusted = [\"10.0.0.0/8\"]\n");
    let distrustful = Running::start("doors-forwarded-untrusted", &rest);
    for (lines, id) in
        [("X-Forwarded-For: 203.0.113.7\r\n", "forged"), ("X-Forwarded-For: unknown\r\n", "odd")]
    {
        assert!(peer_of(&distrustful, lines, id).starts_with("127.0.0.1:"));
    }
}

#[test]
fn header_of_websocket_requests_needs_websocket() {
    let text = "[[listeners]]\naddress = \"127.0.0.1:1883\"\nproxy_header = \"x-forwarded-for\"\n";
    let output = run(midge().arg("check-config").arg(config_file("forwarded-mqtt", text)));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("it needs protocol = \"websocket\""), "{}", stderr(&output));
}

#[test]
fn nginx_names_its_client() {
    if !needs::has("nginx") {
        return;
    }
    let rest = format!("{FORWARDED}proxy_trusted = [\"127.0.0.1\"]\n");
    let running = Running::start("doors-forwarded-nginx", &rest);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nginx-{}", std::process::id()));
    fs::create_dir_all(folder.join("tmp")).expect("it can be made");
    let port = free_port();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {}/tmp/{name};\n", folder.display()))
        .concat();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/errors;\nevents {{}}\n\
         http {{\naccess_log off;\n{temporary}server {{\nlisten 127.0.0.1:{port};\nlocation / {{\n\
         proxy_pass http://{broker};\nproxy_http_version 1.1;\nproxy_set_header Upgrade $http_upgrade;\n\
         proxy_set_header Connection \"Upgrade\";\n\
         proxy_set_header X-Forwarded-For \"$http_x_real_client, $remote_addr\";\n}}\n}}\n}}\n",
        folder = folder.display(),
        broker = running.address
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text).expect("it can be written");
    let mut nginx = needs::command("nginx");
    nginx.arg("-p").arg(&folder).arg("-e").arg(folder.join("errors")).arg("-c").arg(&file);
    let mut child = nginx.stdin(Stdio::null()).spawn().expect("nginx starts");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        let errors = fs::read_to_string(folder.join("errors")).unwrap_or_default();
        assert!(Instant::now() < until, "nginx does not listen: {errors}");
        assert!(child.try_wait().expect("our child").is_none(), "nginx ended: {errors}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let (mut stream, status) = ask(address, "X-Real-Client: 203.0.113.7\r\n", "through");
    assert_eq!(status, "101");
    websocket::expect(&mut stream, &CONNACK);
    assert_eq!(logged_peer(&running, "through"), "203.0.113.7:0");
    child.kill().expect("our child");
    child.wait().expect("our child");
}
