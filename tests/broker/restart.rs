//! What a start makes of the time before it: wills of sessions that ended with the broker, sessions that are over, and
//! clocks that were set.

mod clocks;
mod wills;

use crate::client::text;
use crate::running::{PATIENCE, Running, config_file, midge};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A state directory that is not there yet.
fn fresh(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("restart-{name}"));
    let _ = std::fs::remove_dir_all(&directory);
    directory
}

/// The program, on this directory.
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

/// A PUBLISH that came.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    topic: String,
    payload: String,
    expiry_seconds: Option<u32>,
}

/// A 5.0 client, written out byte by byte, that shows what its packets say of time and sessions.
struct Device {
    stream: TcpStream,
    is_present: bool,
    messages: Vec<Message>,
}

impl Device {
    /// Clean Start unless the session outlives its connection. `will`: topic, and Will Delay Interval; retained.
    fn connect(address: SocketAddr, id: &str, expiry_seconds: u32, will: Option<(&str, u32)>) -> Device {
        let mut flags = if expiry_seconds == 0 { 2 } else { 0 };
        let mut payload = text(id);
        if let Some((topic, delay)) = will {
            flags |= 0x2C;
            payload.extend([5, 0x18]);
            payload.extend(delay.to_be_bytes());
            payload.extend(text(topic));
            payload.extend(text("offline"));
        }
        let mut body = b"\x00\x04MQTT\x05".to_vec();
        body.extend([flags, 0, 0, 5, 0x11]);
        body.extend(expiry_seconds.to_be_bytes());
        body.extend(payload);
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        let mut device = Device { stream, is_present: false, messages: Vec::new() };
        device.send(0x10, &body);
        let (head, body) = device.receive();
        assert_eq!((head, body[1]), (0x20, 0), "CONNACK");
        device.is_present = body[0] == 1;
        device
    }

    fn subscribe(&mut self, filter: &str) {
        let mut body = vec![0, 1, 0];
        body.extend(text(filter));
        body.push(1);
        self.send(0x82, &body);
        self.answer(0x90);
    }

    /// At QoS 1, and waits for PUBACK.
    fn publish(&mut self, topic: &str, payload: &str, retain: bool, expiry_seconds: Option<u32>) {
        let mut body = text(topic);
        body.extend([0, 9]);
        match expiry_seconds {
            None => body.push(0),
            Some(seconds) => {
                body.extend([5, 2]);
                body.extend(seconds.to_be_bytes());
            }
        }
        body.extend(payload.bytes());
        self.send(0x32 | u8::from(retain), &body);
        self.answer(0x40);
    }

    /// So many messages, for which the broker may take its time, in the order of their topics.
    fn messages(&mut self, count: usize) -> Vec<Message> {
        let mut messages: Vec<Message> = (0..count).map(|_| self.message()).collect();
        messages.sort_by(|a, b| a.topic.cmp(&b.topic));
        messages
    }

    /// All that the client of a kept session has acknowledged is on the disk. No acknowledgement of a PUBACK says so: a
    /// kill may bring its message back. SUBACK is sent when the log has what stands before it.
    fn await_disk(&mut self) {
        self.subscribe("nothing/is/published/here");
    }

    /// All that comes before the answer to PINGREQ.
    fn received(&mut self) -> Vec<Message> {
        self.send(0xC0, &[]);
        self.answer(0xD0);
        std::mem::take(&mut self.messages)
    }

    /// The next message that comes, for which the broker may take its time.
    fn message(&mut self) -> Message {
        while self.messages.is_empty() {
            let (head, body) = self.receive();
            assert_eq!(head >> 4, 3, "a PUBLISH, not {head:#x} {body:?}");
        }
        self.messages.remove(0)
    }

    /// DISCONNECT, and waits until the broker has closed.
    fn leave(mut self) {
        self.send(0xE0, &[]);
        let _ = self.stream.read_to_end(&mut Vec::new());
    }

    fn send(&mut self, head: u8, body: &[u8]) {
        let mut packet = vec![head, u8::try_from(body.len()).expect("short")];
        assert!(packet[1] < 128);
        packet.extend(body);
        self.stream.write_all(&packet).expect("the broker reads");
    }

    fn answer(&mut self, head: u8) {
        loop {
            let (got, body) = self.receive();
            if got >> 4 != 3 {
                assert_eq!(got, head, "{body:?}");
                return;
            }
        }
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut start = [0; 2];
        self.stream.read_exact(&mut start).expect("a packet");
        assert!(start[1] < 128, "a short packet");
        let mut body = vec![0; usize::from(start[1])];
        self.stream.read_exact(&mut body).expect("the whole packet");
        if start[0] >> 4 == 3 {
            self.take_publish(start[0], &body);
        }
        (start[0], body)
    }

    /// QoS 1 is acknowledged.
    fn take_publish(&mut self, head: u8, body: &[u8]) {
        let topic_ends = 2 + usize::from(body[1]);
        let properties = topic_ends + if head & 6 == 0 { 0 } else { 2 };
        let payload = properties + 1 + usize::from(body[properties]);
        let expiry_seconds = (body[properties] == 5 && body[properties + 1] == 2)
            .then(|| u32::from_be_bytes(body[properties + 2..payload].try_into().expect("four bytes")));
        let words = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        self.messages.push(Message {
            topic: words(&body[2..topic_ends]),
            payload: words(&body[payload..]),
            expiry_seconds,
        });
        if head & 6 != 0 {
            self.send(0x40, &body[topic_ends..properties]);
        }
    }
}
