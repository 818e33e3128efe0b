//! Traces and explanations with the whole broker: what an operator sees of real clients.

use super::{READER, ask_tcp, connect_tcp, start_tcp, tcp_rows, token_file};
use crate::client::Client;
use crate::running::PATIENCE;
use crate::{Running, midge, run};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout};

/// `midge ctl trace` while it runs.
struct Trace {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Trace {
    fn begin(admin: SocketAddr, name: &str, arguments: &[&str]) -> Trace {
        let mut command = midge();
        command.args(["ctl", "--admin", &admin.to_string(), "--json", "trace"]).args(arguments);
        let mut child = command
            .arg("--token-file")
            .arg(token_file(&format!("trace-{name}")))
            .spawn()
            .expect("midge is built");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Trace { child, lines }
    }

    /// The lines up to and with the first one that `is_last` knows.
    fn until(&mut self, is_last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).expect("text") > 0, "it has ended: {all:?}");
            let line: Value = serde_json::from_str(&line).expect("JSON");
            let is_over = is_last(&line);
            all.push(line);
            if is_over {
                return all;
            }
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the broker has begun a trace: it logs that.
fn wait_for_trace(running: &Running, traces: usize) {
    let until = std::time::Instant::now() + PATIENCE;
    while running.lines().iter().filter(|line| line.contains("an operator has begun a trace")).count()
        < traces
    {
        assert!(std::time::Instant::now() < until, "no trace has begun");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn field<'a>(line: &'a Value, name: &str) -> &'a str {
    line.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn a_client_is_followed_from_connect_to_disconnect() {
    let (running, admin) = start_tcp("admin-trace-client");
    let mut trace = Trace::begin(admin, "client", &["--client", "sensor", "--payload"]);
    wait_for_trace(&running, 1);
    let mut sensor = running.client("sensor");
    sensor.subscribe("cmd/+", 1);
    let mut boss = running.client("boss");
    boss.publish_acknowledged("cmd/stop", b"now", false);
    assert_eq!(sensor.message().payload, b"now");
    sensor.disconnect();
    let lines = trace.until(|line| field(line, "packet") == "connection ended");
    let of = |packet: &str| {
        lines
            .iter()
            .find(|line| field(line, "packet") == packet)
            .unwrap_or_else(|| panic!("no {packet}: {lines:?}"))
    };
    assert!(field(of("CONNECT"), "detail").contains("MQTT 5.0, client \"sensor\""));
    assert_eq!(field(of("CONNACK"), "direction"), "out");
    assert!(field(of("SUBSCRIBE"), "detail").contains("\"cmd/+\""));
    assert!(field(of("delivered"), "detail").contains("by \"cmd/+\""), "{lines:?}");
    assert_eq!((field(of("PUBLISH"), "direction"), field(of("PUBLISH"), "payload")), ("out", "now"));
    assert!(lines.iter().all(|line| ["sensor", ""].contains(&field(line, "client"))), "{lines:?}");
    assert!(field(of("CONNECT"), "at").ends_with('Z') && field(of("CONNECT"), "at").len() == 24);
}

#[test]
fn a_refusal_is_shown_with_the_line_of_its_rule() {
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trace-acl.toml");
    let rules =
        "default = \"allow\"\n[[rules]]\neveryone = true\ndeny = [\"publish\"]\ntopics = [\"secret/#\"]\n";
    std::fs::write(&list, rules).expect("it can be written");
    let rows = format!("{}[acl]\nfile = \"{}\"\n", tcp_rows(&token_file("trace-acl")), list.display());
    let running = Running::start("admin-trace-acl", &rows);
    let line = running.line("the admin interface", |line| line.contains("Admin interface: "));
    let admin = line.split("Admin interface: ").nth(1).expect("it is there").trim_end_matches('.');
    let admin: SocketAddr = admin.parse().expect("an address");
    let mut trace = Trace::begin(admin, "acl", &["--topic", "secret/+"]);
    wait_for_trace(&running, 1);
    let mut client = running.client("c");
    assert_eq!(client.publish_acknowledged("secret/x", b"", false), 0x87);
    let lines = trace.until(|line| field(line, "packet") == "publish refused");
    let last = lines.last().expect("it is there");
    assert!(field(last, "detail").ends_with("trace-acl.toml:2"), "{last}");
    // The same is foretold.
    let said = ask_tcp(admin, "GET", "/api/v1/explain/delivery?client=c&topic=secret/x&publisher=c", READER);
    let said: Value = serde_json::from_str(&said.body).expect("JSON");
    assert_eq!(said["would"], false, "{said}");
    let rule = said["findings"].as_array().expect("a list").iter().find(|line| line["finding"] == "bad");
    assert!(
        rule.expect("a reason")["words"].as_str().is_some_and(|words| words.ends_with("trace-acl.toml:2")),
        "{said}"
    );
}

#[test]
fn an_explanation_is_the_exit_status_of_ctl() {
    let (running, admin) = start_tcp("admin-explain");
    let mut sensor = Client::connect(running.address, "sensor", true, 3600);
    sensor.subscribe("a/#", 1);
    let token = token_file("explain-ctl");
    let explain = |arguments: &[&str]| {
        let mut command = midge();
        command.args(["ctl", "--admin", &admin.to_string(), "--token-file"]).arg(&token).arg("explain");
        let output = run(command.args(arguments));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (status, words) = explain(&["deliver", "--client", "sensor", "--topic", "a/b", "--qos", "1"]);
    assert_eq!(status, Some(0), "{words}");
    assert!(
        words.starts_with("it would be delivered now") && words.contains("\"a/#\" matches at QoS"),
        "{words}"
    );
    let (status, words) = explain(&["deliver", "--client", "sensor", "--topic", "b"]);
    assert_eq!(status, Some(1), "{words}");
    assert!(words.contains("none of its 1 subscriptions matches"), "{words}");
    let (status, words) = explain(&["connect", "--client", "sensor"]);
    assert_eq!(status, Some(0), "{words}");
    assert!(words.contains("that connection would end (0x8E)"), "{words}");
    let (status, _) = explain(&["deliver", "--client", "sensor", "--topic", "a/+"]);
    assert_eq!(status, Some(1), "no topic name");
}

#[test]
fn as_many_traces_run_as_may_and_those_of_readers_that_leave_end() {
    let (running, admin) = start_tcp("admin-trace-many");
    let begin = || {
        let mut stream = connect_tcp(admin);
        let request = format!(
            "GET /api/v1/trace?client=x HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer {READER}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("it is open");
        let mut status = String::new();
        BufReader::new(stream.try_clone().expect("a descriptor")).read_line(&mut status).expect("an answer");
        (stream, status)
    };
    let open: Vec<_> = (0..8).map(|_| begin()).collect();
    assert!(open.iter().all(|(_, status)| status.contains(" 200 ")), "{open:?}");
    wait_for_trace(&running, 8);
    let (_, status) = begin();
    assert!(status.contains(" 503 "), "{status}");
    drop(open);
    let until = std::time::Instant::now() + PATIENCE;
    while !begin().1.contains(" 200 ") {
        assert!(std::time::Instant::now() < until, "the traces go on without readers");
    }
    for wrong in [
        "",
        "?client=a&topic=b",
        "?topic=a/%23/b",
        "?topic=$share/g/a",
        "?client=a&seconds=0",
        "?client=a&more=1",
    ] {
        let said = ask_tcp(admin, "GET", &format!("/api/v1/trace{wrong}"), READER);
        assert_eq!(said.status, 400, "{wrong}: {said:?}");
    }
}

#[test]
fn a_trace_ends_by_itself() {
    let (running, admin) = start_tcp("admin-trace-end");
    let mut trace = Trace::begin(admin, "end", &["--address", "127.0.0.1", "--seconds", "2"]);
    wait_for_trace(&running, 1);
    let client = running.client("c");
    let lines = trace.until(|line| line.get("end").is_some());
    assert!(lines.iter().any(|line| field(line, "packet") == "CONNECT"), "{lines:?}");
    assert_eq!(lines.last().map(|line| field(line, "end")), Some("the time is over"));
    assert_eq!(trace.child.wait().expect("our child").code(), Some(0));
    drop(client);
}
