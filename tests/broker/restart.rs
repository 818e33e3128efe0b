//! What a start does about the time before it: wills of sessions that ended with the broker, expired
//! sessions, and changed clocks.

mod clocks;
mod wills;

use crate::running::{Running, config_file, midge};
use midge_kit::codec::{self, Kind, MESSAGE_EXPIRY, Packet, V5};
use midge_kit::{Client, open};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A state directory that does not exist yet.
fn fresh(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("restart-{name}"));
    let _ = std::fs::remove_dir_all(&directory);
    directory
}

/// The program with this state directory.
fn command(name: &str, directory: &Path, shards: usize) -> Command {
    let text = format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n[runtime]\nshards = {shards}\n\
         [persistence]\ndirectory = \"{}\"\nsegment_bytes = 1048576\n",
        directory.display()
    );
    let mut command = midge();
    command.arg("--config").arg(config_file(&format!("restart-{name}"), &text));
    command
}

fn start(name: &str, directory: &Path, shards: usize) -> Running {
    Running::start_command(command(name, directory, shards)).expect("it starts")
}

/// A received PUBLISH.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    topic: String,
    payload: String,
    expiry_seconds: Option<u32>,
}

impl Message {
    fn of(packet: &Packet) -> Message {
        let (topic, payload) = (packet.topic_text(), packet.payload_text());
        Message { topic, payload, expiry_seconds: packet.number(MESSAGE_EXPIRY) }
    }
}

/// A 5.0 client that shows what its packets say about time and sessions.
struct Device {
    client: Client,
    is_present: bool,
}

impl Device {
    /// Connects, with Clean Start unless the session outlives its connection. `will`: the topic and the Will
    /// Delay Interval of a retained will.
    fn connect(address: SocketAddr, id: &str, expiry_seconds: u32, will: Option<(&str, u32)>) -> Device {
        let mut connect = codec::connect(V5, id).expiry(expiry_seconds);
        if expiry_seconds > 0 {
            connect = connect.resume();
        }
        if let Some((topic, delay)) = will {
            connect = connect.will(codec::will(topic, "offline").qos(1).retain().delay(delay));
        }
        let mut client = Client::over(open(address), V5);
        client.client_id = id.to_owned();
        client.acknowledges_at_once = true;
        client.send(connect);
        let connack = client.expect(Kind::Connack);
        assert_eq!(connack.code, 0, "CONNACK");
        Device { client, is_present: connack.session_present }
    }

    fn subscribe(&mut self, filter: &str) {
        self.client.subscribe(filter, 1);
    }

    /// Publishes with QoS 1, and waits for PUBACK.
    fn publish(&mut self, topic: &str, payload: &str, retain: bool, expiry_seconds: Option<u32>) {
        let mut message = codec::publish(topic, payload).qos1(9);
        if retain {
            message = message.retain();
        }
        if let Some(seconds) = expiry_seconds {
            message = message.with(codec::four(MESSAGE_EXPIRY, seconds));
        }
        self.client.publish(message);
    }

    /// This many messages, in the order of their topics. The broker may take its time.
    fn messages(&mut self, count: usize) -> Vec<Message> {
        let mut messages: Vec<Message> = (0..count).map(|_| self.message()).collect();
        messages.sort_by(|a, b| a.topic.cmp(&b.topic));
        messages
    }

    /// Waits until everything that the client of a kept session has acknowledged is on the disk. The broker
    /// does not answer a PUBACK, so a kill may bring its message back. SUBACK is sent when the log has
    /// everything before it.
    fn await_disk(&mut self) {
        self.subscribe("nothing/is/published/here");
    }

    /// Everything that comes before the answer to PINGREQ.
    fn received(&mut self) -> Vec<Message> {
        self.client.ping();
        let mut messages = Vec::new();
        while let Some(message) = self.client.find_read(Kind::Publish) {
            messages.push(Message::of(&message));
        }
        messages
    }

    /// The next message. The broker may take its time.
    fn message(&mut self) -> Message {
        Message::of(&self.client.find(Kind::Publish))
    }

    /// Sends DISCONNECT, and waits until the broker has closed the connection.
    fn leave(self) {
        self.client.leave();
    }
}
