//! The clients in other languages: one script for each runs against a broker. The script prints a line for
//! each case, and exits with 0 if all have passed.

use std::path::Path;
use std::process::Command;

use crate::broker::{Broker, Door};
use crate::needs::{self, process};
use crate::setup::Client;

/// Longer than any script takes, in seconds.
const SCRIPT_SECONDS_MAX: u64 = 600;

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
    let (interpreter, arguments) = match client {
        Client::Mqttjs => (needs::node().map(|node| node.command()), vec![scripts.join("mqttjs_client.mjs")]),
        // -B: the source folder gets no __pycache__.
        Client::Paho | Client::Aiomqtt | Client::Gmqtt => {
            (needs::python(), vec!["-B".into(), scripts.join(format!("{}_client.py", client.name()))])
        }
        Client::Mosquitto | Client::Rumqttc => unreachable!("{client:?} has no script"),
    };
    let mut command = match interpreter {
        Ok(interpreter) => interpreter,
        Err(why) => return needs::skips::note(client.name(), &why),
    };
    command.args(arguments);
    let mut broker = Broker::start_behind(door, shards);
    command.args([broker.host.as_str(), &broker.port.to_string(), &level.to_string(), door.scheme()]);
    command.arg(broker.ca());
    run(&mut command, &mut broker, &format!("{} at level {level} over {}", client.name(), door.scheme()));
}

/// mqtt.js authenticates with SCRAM-SHA-256, with users that `midge passwd` has written.
pub(crate) fn prove(shards: usize) {
    if Client::Mqttjs.is_skipped() || std::env::var_os("MIDGE_TEST_TARGET").is_some() {
        return;
    }
    let mut command = match needs::node() {
        Ok(node) => node.command(),
        Err(why) => return needs::skips::note(Client::Mqttjs.name(), &why),
    };
    let rows = |folder: &Path| {
        for (user, kind) in [("old", "argon2id"), ("user", "scram-sha-256"), ("other", "scram-sha-256")] {
            let mut passwd = Command::new(env!("CARGO_BIN_EXE_midge"));
            passwd.arg("passwd").args(if user == "old" { &["-c"][..] } else { &[] });
            passwd.args(["-H", kind, "-b"]).arg(folder.join("users")).args([user, "pencil"]);
            assert!(passwd.output().expect("the binary of this package starts").status.success());
        }
        "password_file = \"users\"\nallow_anonymous = false\n".to_owned()
    };
    let mut broker = Broker::start_with(rows, shards);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mqttjs_scram.mjs");
    command.arg(script);
    command.args([broker.host.as_str(), &broker.port.to_string()]);
    run(&mut command, &mut broker, "mqttjs by SCRAM");
}

fn run(command: &mut Command, broker: &mut Broker, what: &str) {
    let finished =
        process::run(command, broker.folder(), SCRIPT_SECONDS_MAX).expect("the interpreter starts");
    println!("{}", finished.output);
    assert!(finished.status.success(), "{what}: {}", finished.status);
    assert!(finished.output.contains(" passed, 0 failed"), "the script did not come to its end");
    broker.assert_up();
}
