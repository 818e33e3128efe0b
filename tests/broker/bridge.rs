//! A mosquitto at the edge with a bridge to midge. Each message crosses it once, without delay, and retained
//! ones are retained at the other end.

use crate::client::{Client, Message};
use crate::needs;
use crate::running::{PATIENCE, Running, free_port};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A mosquitto for the test, with a bridge to midge.
struct Edge {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Edge {
    /// `None` if mosquitto is not available.
    fn start(name: &str, midge: SocketAddr, more: &str) -> Option<Edge> {
        if !needs::has("mosquitto") {
            return None;
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (file, log) =
            (folder.join(format!("bridge-{name}.conf")), folder.join(format!("bridge-{name}.log")));
        let port = free_port();
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nlog_type all\n\
             connection edge\naddress {midge}\nremote_clientid edge-{name}\n\
             topic # both 1 local/ site1/\nrestart_timeout 1\n{more}"
        );
        std::fs::write(&file, text).expect("the target folder can be written");
        let output = std::fs::File::create(&log).expect("the target folder can be written");
        let mut command = needs::command("mosquitto");
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let child = command.spawn().expect("it can be run");
        let edge = Edge { child, address: SocketAddr::from(([127, 0, 0, 1], port)), log };
        edge.until("it listens", || TcpStream::connect(edge.address).is_ok());
        Some(edge)
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(
                Instant::now() < until,
                "{what}: {}",
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until its bridge has midge's SUBACK for the nth time.
    fn subscribed(&self, times: usize) {
        self.until("the bridge subscribes", || {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            log.lines().filter(|line| line.contains("Received SUBACK from")).count() >= times
        });
    }

    fn client(&self, id: &str) -> Client {
        Client::connect(self.address, id, true, 0)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A message with this payload on this topic.
fn message(topic: &str, words: &str, retain: bool) -> Message {
    Message { topic: topic.to_owned(), payload: words.as_bytes().to_vec(), retain }
}

/// Checks that a new client of a broker gets this message as a retained one.
fn retains(address: SocketAddr, topic: &str, words: &str) -> Client {
    let mut newcomer = Client::connect(address, "newcomer", true, 0);
    newcomer.subscribe(topic, 1);
    assert_eq!(newcomer.message(), message(topic, words, true));
    newcomer
}

/// Sends messages both ways. When the last one has gone around, any duplicate would have come.
fn goes_both_ways(centre: &mut Client, edge: &mut Client, round: usize) {
    let words = |number: usize| format!("{round}.{number}");
    for number in 0..5 {
        assert_eq!(edge.publish_acknowledged("local/up", words(number).as_bytes(), false), 0);
    }
    for number in 0..5 {
        assert_eq!(centre.message(), message("site1/up", &words(number), false));
        assert_eq!(edge.message(), message("local/up", &words(number), false));
    }
    for number in 5..10 {
        assert_eq!(centre.publish_acknowledged("site1/down", words(number).as_bytes(), false), 0);
    }
    for number in 5..10 {
        // This comes after everything that midge could have sent back.
        assert_eq!(edge.message(), message("local/down", &words(number), false));
        assert_eq!(centre.message(), message("site1/down", &words(number), false));
    }
    assert_eq!(edge.publish_acknowledged("local/end", b"", false), 0);
    assert_eq!(centre.message(), message("site1/end", "", false));
    assert_eq!(edge.message(), message("local/end", "", false));
}

/// `[MQTT311 §3.1-r]`.
#[test]
fn a_bridge_of_mosquitto_passes_each_message_on_once_and_retained_ones_as_retained() {
    for version in ["mqttv311", "mqttv31", "mqttv50"] {
        let midge = Running::start(&format!("bridge-{version}"), "[runtime]\nshards = 2\n");
        let more = format!("bridge_protocol_version {version}\n");
        let Some(edge) = Edge::start(version, midge.address, &more) else { return };
        edge.subscribed(1);
        midge.line("the bridge", |line| line.contains("client connected"));
        let said = midge.lines().concat();
        assert!(!said.contains("refused"), "not at once: {said}");

        let (mut at_centre, mut at_edge) = (midge.client("centre"), edge.client("edge"));
        at_centre.subscribe("site1/#", 1);
        at_edge.subscribe("local/#", 1);
        goes_both_ways(&mut at_centre, &mut at_edge, 1);

        assert_eq!(at_edge.publish_acknowledged("local/kept", b"up", true), 0);
        assert_eq!(at_centre.message(), message("site1/kept", "up", false));
        retains(midge.address, "site1/kept", "up").disconnect();
        assert_eq!(at_centre.publish_acknowledged("site1/kept", b"down", true), 0);
        assert_eq!(at_edge.message(), message("local/kept", "up", false));
        assert_eq!(at_edge.message(), message("local/kept", "down", false));
        retains(edge.address, "local/kept", "down").disconnect();
        // This is the bridge's own state.
        retains(midge.address, &format!("$SYS/broker/connection/edge-{version}/state"), "1").disconnect();
    }
}

#[test]
fn a_bridge_with_a_kept_session_gets_what_came_while_midge_was_down_once_and_as_retained() {
    let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bridge-kept");
    let _ = std::fs::remove_dir_all(&state);
    let rest = format!("[runtime]\nshards = 2\n[persistence]\ndirectory = \"{}\"\n", state.display());
    let mut midge = Running::start("bridge-kept", &rest);
    let Some(edge) = Edge::start("kept", midge.address, "cleansession false\n") else { return };
    edge.subscribed(1);
    let mut at_edge = edge.client("edge");
    at_edge.subscribe("local/#", 1);

    let address = midge.address.to_string();
    midge.kill();
    let midge = Running::start_on(&address, "bridge-kept", &rest);
    // This holds whether or not the bridge is back.
    let mut at_centre = midge.client("centre");
    at_centre.subscribe("site1/#", 1);
    assert_eq!(at_centre.publish_acknowledged("site1/kept", b"down", true), 0);
    assert_eq!(at_centre.message(), message("site1/kept", "down", false));
    edge.subscribed(2);
    assert_eq!(at_edge.message(), message("local/kept", "down", false));
    // A bridge that reconnects after the message subscribes again, and gets it as a retained one too, at any
    // time.
    drop(retains(edge.address, "local/kept", "down"));
}
