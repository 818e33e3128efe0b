//! A client without a keep alive whose network goes away without notice.

use crate::needs;
use crate::running::{Running, config_file, stderr};
use std::process::Command;

/// In a separate network, it connects without a keep alive and takes the network away. It lives as long as
/// midge.
const SCRIPT: &str = r#"
ip link set lo up || exit 1
broker=$$
client() {
  until exec 3<>/dev/tcp/127.0.0.1/1883; do kill -0 "$broker" || exit; sleep 0.1; done
  printf '\x10\x10\x00\x04MQTT\x04\x02\x00\x00\x00\x04gone' >&3
  head -c 4 <&3 >/dev/null
  ip link set lo down
  while kill -0 "$broker"; do sleep 0.2; done
}
client >/dev/null 2>&1 &
exec "$0" --config "$1"
"#;

/// Whether a separate network can be created. If not, prints why the test is left out.
fn can_have_a_network() -> bool {
    if !needs::has("ip") {
        return false;
    }
    let why = match in_a_network(&["ip", "link", "set", "lo", "up"]).output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => stderr(&output).trim_end().to_owned(),
        Err(error) => format!("unshare: {error}"),
    };
    needs::skips::note("a network of one's own", &why);
    false
}

/// A command in a separate network.
fn in_a_network(arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.arg("-rn").args(arguments).env("PATH", needs::path_with(&["ip"]));
    command
}

#[test]
fn client_without_keep_alive_goes_when_its_network_has_gone() {
    if !can_have_a_network() {
        return;
    }
    let text = "[[listeners]]\naddress = \"127.0.0.1:1883\"\n[runtime]\nshards = 1\n\
                [limits]\ntcp_keepalive_seconds = 1\ntcp_user_timeout_seconds = 2\n";
    let mut command = in_a_network(&["bash", "-c", SCRIPT, env!("CARGO_BIN_EXE_midge")]);
    command.arg(config_file("vanished", text));
    let running = Running::start_command(command).expect("it starts");
    running.line("the client", |line| line.contains("client connected") && line.contains("gone"));
    running.line("its end", |line| line.contains("client disconnected") && line.contains("gone"));
}
