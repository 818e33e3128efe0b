//! The clients of other languages: a script of ours for each, run against a broker. The script prints a line
//! for each case and exits with 0 when all passed.

use std::path::Path;
use std::process::Command;

use crate::broker::{Broker, Door};
use crate::process;
use crate::setup::{self, Client};

/// Longer than any script takes that is not stuck.
const SCRIPT_SECONDS_MAX: u64 = 120;

/// Runs the client's script at a protocol level: 3 is MQTT 3.1, 4 is 3.1.1, 5 is 5.0.
pub(crate) fn talk(shards: usize, client: Client, level: u8) {
    talk_behind(Door::Plain, shards, client, level);
}

/// The same through WebSocket, TLS or both.
pub(crate) fn talk_behind(door: Door, shards: usize, client: Client, level: u8) {
    if client.is_skipped() {
        return;
    }
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut command = match client {
        Client::Mqttjs => {
            let mut command = Command::new("node");
            command.env("MIDGE_NODE", setup::node()).arg(scripts.join("mqttjs_client.mjs"));
            command
        }
        Client::Paho | Client::Aiomqtt | Client::Gmqtt => {
            let mut command = Command::new(setup::python());
            // -B: the source folder gets no __pycache__.
            command.arg("-B").arg(scripts.join(format!("{}_client.py", client.name())));
            command
        }
        Client::Mosquitto | Client::Rumqttc => unreachable!("{client:?} has no script"),
    };
    let mut broker = Broker::start_behind(door, shards);
    command.args([broker.host.as_str(), &broker.port.to_string(), &level.to_string(), door.scheme()]);
    command.arg(broker.ca());
    let finished =
        process::run(&mut command, broker.folder(), SCRIPT_SECONDS_MAX).expect("the interpreter starts");
    println!("{}", finished.output);
    assert!(
        finished.status.success(),
        "{} at level {level} over {}: {}",
        client.name(),
        door.scheme(),
        finished.status
    );
    assert!(finished.output.contains(" passed, 0 failed"), "the script did not come to its end");
    broker.assert_up();
}
