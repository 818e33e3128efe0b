//! The admin interface: health, readiness and metrics over both kinds of sockets, and `midge ctl`.

mod api;
mod attacks;
mod backup;
mod ctl;
mod dashboard;
mod drain;
mod prometheus;
mod sockets;
mod tls;
mod trace;

use crate::Running;
use crate::running::PATIENCE;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const READER: &str = "reader-0123456789";
const WRITER: &str = "writer-0123456789";

/// A path that is short enough for the kernel, wherever the target folder is.
fn socket_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("midge-admin-{}-{name}.sock", std::process::id()))
}

fn unix_rows(path: &Path) -> String {
    format!("[admin]\naddress = \"unix:{}\"\n[runtime]\nshards = 2\n", path.display())
}

/// A file with a token that may read and one that may write.
fn token_file(name: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tokens-{name}"));
    let _ = std::fs::remove_file(&file);
    std::fs::write(&file, format!("# ours\nr:read:{READER}\nw:write:{WRITER}\n")).expect("it can be written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    file
}

fn tcp_rows(tokens: &Path) -> String {
    let tokens = tokens.display();
    format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"{tokens}\"\n[runtime]\nshards = 2\n")
}

/// A broker whose admin interface has a port, and its address.
fn start_tcp(name: &str) -> (Running, SocketAddr) {
    let running = Running::start(name, &tcp_rows(&token_file(name)));
    let line = running.line("the admin interface", |line| line.contains("Admin interface: "));
    let address = line.split("Admin interface: ").nth(1).expect("the line has it").trim_end_matches('.');
    let address = address.parse().expect("an address");
    (running, address)
}

/// A broker whose admin interface is a socket file.
fn start_unix(name: &str) -> (Running, PathBuf) {
    let path = socket_path(name);
    let running = Running::start(&format!("admin-{name}"), &unix_rows(&path));
    (running, path)
}

fn connect_unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream
}

fn connect_tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream
}

/// The parts of an answer.
#[derive(Debug)]
struct Said {
    status: u16,
    head: String,
    body: String,
}

impl Said {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Sends a request, and reads to the end of the connection.
fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Said {
    // If the server has closed the connection already, its answer is still there.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:?}");
    }
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Said { status, head: head.to_owned(), body: body.to_owned() }
}

fn request(method: &str, path: &str, headers: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").into_bytes()
}

/// GET over a socket file.
fn get_unix(socket: &Path, path: &str) -> Said {
    exchange(connect_unix(socket), &request("GET", path, "Host: localhost\r\n"))
}

/// A request with a token over a port.
fn ask_tcp(address: SocketAddr, method: &str, path: &str, token: &str) -> Said {
    let headers = format!("Host: {address}\r\nAuthorization: Bearer {token}\r\n");
    exchange(connect_tcp(address), &request(method, path, &headers))
}

/// Asks until the answer has this status.
fn wait_for(status: u16, ask: impl Fn() -> Said) -> Said {
    let until = Instant::now() + PATIENCE;
    loop {
        let said = ask();
        if said.status == status {
            return said;
        }
        assert!(Instant::now() < until, "{said:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The value of a metric. `name` has its labels.
fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn health_and_readiness_are_told_over_both_kinds_of_sockets() {
    let (_one, socket) = start_unix("health");
    let (_other, address) = start_tcp("admin-health");
    let asks: [&dyn Fn(&str) -> Said; 2] =
        [&|path| get_unix(&socket, path), &|path| ask_tcp(address, "GET", path, READER)];
    for ask in asks {
        let ready = wait_for(200, || ask("/readyz"));
        let value: serde_json::Value = serde_json::from_str(&ready.body).expect("JSON");
        assert_eq!(value, serde_json::json!({ "status": "ready", "shards": 2, "settled": 2 }));
        let health = ask("/healthz");
        assert_eq!((health.status, health.body.trim()), (200, "{\"status\":\"ok\"}"));
        for (name, value) in [
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(health.header(name), Some(value), "{health:?}");
        }
        assert!(health.header("content-security-policy").is_some_and(|policy| policy.contains("'none'")));
    }
}

#[test]
fn broker_that_stops_is_not_ready() {
    let socket = socket_path("stopping");
    let rows = format!("{}[shutdown]\ngrace_seconds = 600\n", unix_rows(&socket));
    let mut running = Running::start("admin-stopping", &rows);
    wait_for(200, || get_unix(&socket, "/readyz"));
    // A client that does not read what is written for it keeps the broker.
    let mut stuck = running.client("stuck");
    stuck.subscribe("much", 0);
    let mut publisher = running.client("publisher");
    for _ in 0..300 {
        publisher.publish("much", &[b'x'; 60_000], false);
    }
    assert_eq!(publisher.publish_acknowledged("last", b"x", false), 0x10);
    running.signal("-TERM");
    let said = wait_for(503, || get_unix(&socket, "/readyz"));
    assert!(said.body.contains("the broker is stopping"), "{said:?}");
    drop(stuck);
    assert_eq!(running.wait(), 0);
    assert!(!socket.exists(), "the socket file is removed");
}

#[test]
fn metrics_are_the_counters_of_the_broker_and_of_the_process() {
    let (running, socket) = start_unix("metrics");
    let mut client = running.client("counted");
    client.subscribe("a/b", 1);
    assert_eq!(client.publish_acknowledged("a/b", b"four", false), 0);
    client.message();
    let said = get_unix(&socket, "/metrics");
    assert_eq!(
        said.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{said:?}"
    );
    let text = &said.body;
    assert!(text.ends_with("# EOF\n"), "{text}");
    for (name, value) in [
        ("midge_shards", 2.0),
        ("midge_clients_connected", 1.0),
        ("midge_connects_received_total", 1.0),
        ("midge_messages_received_total{qos=\"1\"}", 1.0),
        ("midge_packets_received_total{type=\"subscribe\"}", 1.0),
        ("midge_connack_seconds_count", 1.0),
        ("midge_connack_seconds_bucket{le=\"+Inf\"}", 1.0),
        ("midge_messages_unrouted_total", 0.0),
        ("midge_payload_received_bytes_total", 4.0),
        ("midge_messages_dropped_total{reason=\"slow\"}", 0.0),
        ("midge_messages_dropped_total{reason=\"other\"}", 0.0),
        ("midge_limit_reached_total{limit=\"connections\"}", 0.0),
        ("midge_admin_connections", 1.0),
    ] {
        assert_eq!(metric(text, name), value, "{name}");
    }
    for name in
        ["process_resident_memory_bytes", "process_open_fds", "process_max_fds", "midge_memory_used_bytes"]
    {
        assert!(metric(text, name) > 1.0, "{name}");
    }
    assert!(metric(text, "process_start_time_seconds") > 1.6e9);
    assert!(
        text.contains(&format!("midge_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"))),
        "{text}"
    );
    let sessions = |shard: usize| metric(text, &format!("midge_shard_sessions{{shard=\"{shard}\"}}"));
    assert_eq!(sessions(0) + sessions(1), 1.0);
    check_format(text);
}

/// What OpenMetrics demands of a text: each family in one piece, with its type and its help before its values.
fn check_format(text: &str) {
    let mut families = std::collections::BTreeSet::new();
    let (mut family, mut kind) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().expect("a name").to_owned();
            assert!(families.insert(family.clone()), "{family} is there twice");
            kind.clear();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            kind = rest.strip_prefix(&format!("{family} ")).expect("the type follows the help").to_owned();
        } else if line != "# EOF" {
            let name = line.split(['{', ' ']).next().expect("a name");
            let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is in no family"));
            let expected: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "info" => &["_info"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("{family} is a {other}"),
            };
            assert!(expected.contains(&suffix), "{line}");
            let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
            assert!(value.is_some_and(|value| value >= 0.0), "{line}");
        }
    }
    assert!(families.len() > 50, "{families:?}");
}

#[test]
fn connections_of_a_listener_with_a_limit_are_shown() {
    let path = socket_path("listener");
    let rest = format!("connections = 7\n{}", unix_rows(&path));
    let running = Running::start("admin-listener", &rest);
    let _client = running.client("one");
    let text = get_unix(&path, "/metrics").body;
    assert_eq!(metric(&text, "midge_listener_connections{listener=\"127.0.0.1:0\"}"), 1.0);
    assert_eq!(metric(&text, "midge_listener_connections_max{listener=\"127.0.0.1:0\"}"), 7.0);
}

#[test]
fn a_connection_serves_several_requests() {
    let (_running, socket) = start_unix("keep-alive");
    let mut stream = connect_unix(&socket);
    let one = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(one).expect("the server reads");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    // The second one comes in two pieces, behind what is left of the first answer.
    stream.write_all(&one[..20]).expect("the server reads");
    stream.write_all(b"1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("the server reads");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the end");
    assert_eq!(rest.matches("HTTP/1.1 200 OK").count(), 1, "{rest}");
}

#[test]
fn unknown_paths_and_methods_are_told_as_json() {
    let (_running, socket) = start_unix("unknown");
    for (method, path, status) in [
        ("GET", "/dashboard", 404),
        ("POST", "/", 405),
        ("GET", "/healthz/", 404),
        ("GET", "/health", 404),
        ("POST", "/healthz", 405),
        ("DELETE", "/metrics", 405),
        ("ODD", "/metrics", 405),
    ] {
        let said =
            exchange(connect_unix(&socket), &request(method, path, "Host: a\r\nContent-Length: 0\r\n"));
        assert_eq!(said.status, status, "{method} {path}");
        let value: serde_json::Value = serde_json::from_str(&said.body).expect("JSON");
        assert!(value["error"].is_string(), "{said:?}");
        assert_eq!(said.header("allow").is_some(), status == 405, "{said:?}");
    }
    assert_eq!(exchange(connect_unix(&socket), &request("HEAD", "/healthz", "Host: a\r\n")).body, "");
}
