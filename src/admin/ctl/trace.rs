//! `midge ctl trace`: prints the lines of a trace as they come.

use super::client::Client;
use super::commands::query;
use super::{CtlFailure, exit_status, text_of};
use clap::{ArgGroup, Args};
use serde_json::Value;
use std::io::Write;
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(group(ArgGroup::new("target").required(true).args(["client", "topic", "address"])))]
pub(super) struct TraceArgs {
    /// Follow the client with this client identifier
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Follow the messages whose topics match this filter
    #[arg(long, value_name = "FILTER")]
    topic: Option<String>,
    /// Follow the clients of this IP address
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// Show the beginning of payloads
    #[arg(long)]
    payload: bool,
    /// When it ends by itself, up to 3,600
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,
}

impl TraceArgs {
    fn path(&self) -> String {
        query(
            "/api/v1/trace",
            [
                ("client", self.client.clone()),
                ("topic", self.topic.clone()),
                ("address", self.address.map(|address| address.to_string())),
                ("payload", self.payload.then(|| "true".to_owned())),
                ("seconds", Some(self.seconds.to_string())),
            ],
        )
    }
}

/// Prints the lines until the trace ends. Returns the exit status.
pub(super) fn follow(
    client: &Client,
    arguments: &TraceArgs,
    is_json: bool,
    out: &mut impl Write,
) -> Result<u8, CtlFailure> {
    let mut lines = Lines::default();
    let refused = client.follow(&arguments.path(), |part| {
        lines.add(part, |line| {
            let written = if is_json { writeln!(out, "{line}") } else { writeln!(out, "{}", shown(line)) };
            // Whoever reads it may have left.
            written.and_then(|()| out.flush()).is_ok()
        })
    });
    match refused.map_err(CtlFailure::trouble)? {
        None => Ok(0),
        Some(reply) => {
            let value: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            let said = text_of(&value, "error");
            let words = if said.is_empty() { format!("midge answered {}", reply.status) } else { said };
            Err(CtlFailure { words, status: exit_status(reply.status) })
        }
    }
}

/// Joins parts of an answer to lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// Adds a part, and gives each line that is complete to `take` until that returns false.
    fn add(&mut self, part: &[u8], mut take: impl FnMut(&str) -> bool) -> bool {
        self.0.extend_from_slice(part);
        while let Some(end) = self.0.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            if !line.is_empty() && !take(line) {
                return false;
            }
        }
        true
    }
}

/// A line for people.
fn shown(line: &str) -> String {
    let value: Value = serde_json::from_str(line).unwrap_or_default();
    let field = |name| text_of(&value, name);
    if value.get("end").is_some() {
        return format!("end: {}", field("end"));
    }
    if value.get("left_out").is_some() {
        return format!("{} lines were left out: there were too many", field("left_out"));
    }
    let direction = match field("direction").as_str() {
        "in" => "->",
        "out" => "<-",
        _ => "  ",
    };
    let client = match (field("client"), field("peer")) {
        (client, peer) if client.is_empty() => peer,
        (client, _) => client,
    };
    let mut words = format!(
        "{}  shard {}  {client:?}  {direction} {}  {}",
        field("at"),
        field("shard"),
        field("packet"),
        field("detail")
    );
    for (name, label) in [("payload", "payload"), ("payload_hex", "payload in hexadecimal digits")] {
        if value.get(name).is_some() {
            words += &format!("  {label} {:?}", field(name));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        trace: TraceArgs,
    }

    #[test]
    fn exactly_one_thing_is_followed() {
        let path = |words: &[&str]| {
            let line = <Line as clap::Parser>::try_parse_from(["trace"].iter().chain(words));
            line.map(|line| line.trace.path()).map_err(|error| error.kind())
        };
        let asked = path(&["--client", "a b", "--payload", "--seconds", "5"]);
        assert_eq!(asked, Ok("/api/v1/trace?client=a%20b&payload=true&seconds=5".to_owned()));
        assert_eq!(path(&["--topic", "a/#"]), Ok("/api/v1/trace?topic=a%2F%23&seconds=60".to_owned()));
        assert!(path(&[]).is_err() && path(&["--client", "a", "--topic", "b"]).is_err());
    }

    #[test]
    fn lines_are_whole_whatever_the_parts() {
        let (mut lines, mut taken) = (Lines::default(), Vec::new());
        for part in ["{\"a\"", ":1}\n\n{\"b\":", "2}\n{"] {
            assert!(lines.add(part.as_bytes(), |line| {
                taken.push(line.to_owned());
                true
            }));
        }
        assert_eq!(taken, ["{\"a\":1}", "{\"b\":2}"]);
        assert!(!lines.add(b"}\n", |_| false));
    }

    #[test]
    fn a_line_is_shown_in_one_line_whatever_a_client_calls_itself() {
        let line = serde_json::json!({
            "at": "2026-01-02T03:04:05.678Z", "shard": 1, "client": "a\n\u{1b}[2J", "direction": "in",
            "packet": "PUBLISH", "detail": "QoS 0", "payload": "x\n",
        });
        let text = shown(&line.to_string());
        assert!(text.contains("\"a\\n\\u{1b}[2J\"  -> PUBLISH  QoS 0  payload \"x\\n\""), "{text}");
        assert_eq!(shown("{\"end\":\"the time is over\"}"), "end: the time is over");
        assert!(shown("{\"left_out\":5}").starts_with("5 lines"));
    }
}
