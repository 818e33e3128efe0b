//! The metrics as operators use them: a real Prometheus scrapes midge, promtool accepts the alerts, and the board and the
//! manual name what there is.

use super::{READER, get_unix, metric, socket_path, start_tcp, unix_rows, wait_for};
use crate::running::PATIENCE;
use crate::{Running, needs};
use midge_kit::{ScratchFolder, free_port, open};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

/// The families of a text with their types.
fn families(text: &str) -> BTreeSet<(String, String)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// A broker with everything that has metrics: TLS, a limit on connections of a listener, a log.
fn all_families(name: &str) -> BTreeSet<(String, String)> {
    let scratch = ScratchFolder::new(name);
    let (certificate, key) = (scratch.join("own.pem"), scratch.join("own.key"));
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(&certificate, own.cert.pem()).expect("it can be written");
    std::fs::write(&key, own.signing_key.serialize_pem()).expect("it can be written");
    let socket = socket_path(name);
    let rows = format!(
        "connections = 9\n[[listeners]]\naddress = \"127.0.0.1:0\"\ntls_certificates = [\"{}\"]\ntls_keys = [\"{}\"]\n\
         [limits]\nmemory_bytes = 500000000\n{}[persistence]\ndirectory = \"{}\"\n",
        certificate.display(),
        key.display(),
        unix_rows(&socket),
        scratch.join("state").display(),
    );
    let _running = Running::start(name, &rows);
    wait_for(200, || get_unix(&socket, "/readyz"));
    families(&get_unix(&socket, "/metrics").body)
}

/// The series that a family has.
fn series((name, kind): &(String, String)) -> Vec<String> {
    let ends: &[&str] = match kind.as_str() {
        "counter" => &["_total"],
        "histogram" => &["_bucket", "_sum", "_count"],
        "info" => &["_info"],
        _ => &[""],
    };
    ends.iter().map(|end| format!("{name}{end}")).collect()
}

/// The names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    words
        .filter(|word| word.starts_with("midge_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn board_alerts_and_manual_name_what_there_is() {
    let families = all_families("admin-families");
    let series: BTreeSet<String> = families.iter().flat_map(series).collect();
    let board = std::fs::read_to_string(config("grafana/midge.json")).expect("the board");
    let board: Value = serde_json::from_str(&board).expect("JSON");
    let panels = board["panels"].as_array().expect("a list");
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = queries.map(|target| target["expr"].as_str().expect("a query")).collect();
    assert!(queries.len() > 30, "{queries:?}");
    let alerts = std::fs::read_to_string(config("prometheus/alerts.yml")).expect("the alerts");
    for (place, text) in [("the board", queries.join(" ")), ("the alerts", alerts)] {
        let unknown: Vec<String> = named(&text).into_iter().filter(|name| !series.contains(name)).collect();
        assert!(unknown.is_empty(), "{place} names {unknown:?}");
    }
    // The rows of the manual begin with the name and the type.
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let manual = std::fs::read_to_string(manual).expect("the manual");
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| {
        let (name, rest) = row.split_once("` | ")?;
        Some((name.to_owned(), rest.split(" |").next()?.to_owned()))
    });
    let rows: BTreeSet<(String, String)> = rows.collect();
    let (missing, unknown): (Vec<_>, Vec<_>) =
        (families.difference(&rows).collect(), rows.difference(&families).collect());
    assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:?}; unknown: {unknown:?}");
}

#[test]
fn promtool_accepts_the_alerts_and_they_fire() {
    if !needs::has("promtool") {
        return;
    }
    let promtool = |arguments: &[&str]| {
        let mut command = needs::command("promtool");
        let output = command.args(arguments).output().expect("it can be run");
        let said = String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
    };
    let rules = config("prometheus/alerts.yml");
    promtool(&["check", "rules", rules.to_str().expect("a name")]);
    let scratch = ScratchFolder::new("admin-alerts");
    let tests = include_str!("alerts_test.yml").replace("RULES", rules.to_str().expect("a name"));
    let file = scratch.join("alerts_test.yml");
    std::fs::write(&file, tests).expect("it can be written");
    promtool(&["test", "rules", file.to_str().expect("a name")]);
}

/// A Prometheus that ends with the test.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    fn start(folder: &Path, target: &str) -> Prometheus {
        let port = free_port();
        let token = folder.join("token");
        std::fs::write(&token, READER).expect("it can be written");
        let rows = format!(
            "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: midge\n    authorization:\n      \
             credentials_file: {}\n    static_configs:\n      - targets: [\"{target}\"]\n",
            token.display()
        );
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, rows).expect("it can be written");
        let child = needs::command("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it can be started");
        Prometheus { child, port }
    }

    /// The values of an instant query. Empty while there is no answer.
    fn query(&self, query: &str) -> Vec<f64> {
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.port)) else {
            return Vec::new();
        };
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let request = format!(
            "GET /api/v1/query?query={encoded} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        );
        let mut answer = String::new();
        let read = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        // The body may come in chunks, whose lengths are on lines of their own.
        let json = body.lines().find(|line| line.starts_with('{')).unwrap_or_default();
        let value: Value = read.ok().and_then(|_| serde_json::from_str(json).ok()).unwrap_or_default();
        let results = value["data"]["result"].as_array().cloned().unwrap_or_default();
        results.iter().filter_map(|result| result["value"][1].as_str()?.parse().ok()).collect()
    }

    /// Asks until the answer is this.
    fn wait_for(&self, query: &str, expected: &[f64]) {
        let until = Instant::now() + PATIENCE;
        loop {
            let values = self.query(query);
            if values == expected {
                return;
            }
            assert!(Instant::now() < until, "{query}: {values:?}, expected {expected:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_midge_and_knows_its_numbers() {
    if !needs::has("prometheus") {
        return;
    }
    let (running, admin) = start_tcp("admin-prometheus");
    let scratch = ScratchFolder::new("admin-prometheus");
    let prometheus = Prometheus::start(&scratch, &admin.to_string());
    prometheus.wait_for("up", &[1.0]);
    let mut clients: Vec<_> = (0..3).map(|number| running.client(&format!("c{number}"))).collect();
    clients[0].subscribe("a/b", 1);
    for _ in 0..5 {
        assert_eq!(clients[1].publish_acknowledged("a/b", b"x", false), 0);
        clients[0].message();
    }
    assert_eq!(clients[2].publish_acknowledged("nobody", b"x", false), 0x10);
    // No CONNECT, so that it is refused.
    open(running.address).write_all(&[0xC0, 0]).expect("it is open");
    for (query, expected) in [
        ("midge_clients_connected", &[3.0][..]),
        ("sum(midge_listener_connections)", &[3.0]),
        ("sum(midge_shard_sessions)", &[3.0]),
        ("midge_messages_received_total{qos=\"1\"}", &[6.0]),
        ("midge_messages_sent_total{qos=\"1\"}", &[5.0]),
        ("midge_messages_unrouted_total", &[1.0]),
        ("midge_packets_received_total{type=\"connect\"}", &[3.0]),
        ("midge_connections_ended_total{reason=\"protocol\"}", &[1.0]),
        ("midge_connack_seconds_count", &[3.0]),
        ("midge_connack_seconds_bucket{le=\"+Inf\"}", &[3.0]),
        ("count(midge_shard_busy_seconds_total > 0)", &[2.0]),
        ("midge_log_lines_dropped_total", &[0.0]),
    ] {
        prometheus.wait_for(query, expected);
    }
    let text = super::ask_tcp(admin, "GET", "/metrics", READER).body;
    assert!(metric(&text, "midge_packets_sent_total{type=\"puback\"}") >= 6.0, "{text}");
}
