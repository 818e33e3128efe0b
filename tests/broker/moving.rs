//! Moving in from mosquitto: its configuration is served as it is, or said in midge's words, and its password
//! tool and midge's work on one file.

use crate::running::{Running, midge, run, stderr};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What Debian ships, but for the places of files.
const DEBIAN: &str = "# Place your local configuration in /etc/mosquitto/conf.d/
#
# A full description of the configuration file is at
# /usr/share/doc/mosquitto/examples/mosquitto.conf.example

pid_file /run/mosquitto/mosquitto.pid

persistence true
persistence_location {state}/

log_dest file /var/log/mosquitto/mosquitto.log

include_dir {include}
";

/// A folder of one test, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("moving-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("conf.d")).expect("the target folder can be written");
    folder
}

/// Debian's file with one more in its `conf.d`.
fn debian(name: &str, local: &str) -> PathBuf {
    let folder = folder(name);
    let text = DEBIAN
        .replace("{state}", &folder.display().to_string())
        .replace("{include}", &folder.join("conf.d").display().to_string());
    std::fs::write(folder.join("conf.d/local.conf"), local).expect("a file of ours");
    written(&folder, &text)
}

fn written(folder: &Path, text: &str) -> PathBuf {
    let file = folder.join("mosquitto.conf");
    std::fs::write(&file, text).expect("a file of ours");
    file
}

/// A port that was free a moment ago: a `mosquitto.conf` can't ask for any free one.
fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound").port()
}

fn serve(file: &Path, more: &[&str]) -> Running {
    let mut command = midge();
    command.arg("serve").arg("--mosquitto-conf").arg(file).args(more);
    Running::start_command(command).expect("it starts")
}

fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let is_there = command.status().is_ok();
    if !is_there {
        eprintln!("{program} is left out: it is not installed");
    }
    is_there
}

#[test]
fn debians_file_with_two_listeners_is_served_to_mosquitto_sub_and_mqttjs() {
    let (plain, web) = (free_port(), free_port());
    let local = format!(
        "listener {plain} 127.0.0.1\nallow_anonymous true\nlistener {web} 127.0.0.1\nprotocol websockets\n"
    );
    let file = debian("debian", &local);
    let running = serve(&file, &[]);
    running.line("the state", |line| line.contains("moving-debian/mosquitto.db.midge"));
    running.line("the log file", |line| line.contains("mosquitto.conf:11 log_dest"));
    running.line("both", |line| line.contains(&format!("127.0.0.1:{plain} and 127.0.0.1:{web}")));

    let mut client = running.client("reader");
    client.subscribe("moving/#", 1);
    if is_there("mosquitto_pub") {
        let mut publish = Command::new("mosquitto_pub");
        publish.args([
            "-h",
            "127.0.0.1",
            "-p",
            &plain.to_string(),
            "-q",
            "1",
            "-t",
            "moving/in",
            "-m",
            "box",
        ]);
        publish.arg("-r");
        assert!(publish.status().expect("it was there just now").success());
        let message = client.message();
        assert_eq!((message.topic.as_str(), message.payload.as_slice()), ("moving/in", b"box".as_slice()));
        let mut subscribe = Command::new("mosquitto_sub");
        subscribe.args([
            "-h",
            "127.0.0.1",
            "-p",
            &plain.to_string(),
            "-t",
            "moving/#",
            "-C",
            "1",
            "-W",
            "10",
        ]);
        let got = subscribe.output().expect("it was there just now");
        assert_eq!(String::from_utf8_lossy(&got.stdout), "box\n");
    }
    let node = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../clients/node");
    if node.join("node_modules/mqtt").is_dir() && is_there("node") {
        let script = format!(
            "const client = require('mqtt').connect('ws://127.0.0.1:{web}/mqtt');\
             client.on('connect', () => client.publish('moving/web', 'page', {{ qos: 1 }}, () => client.end()));\
             client.on('error', () => process.exit(1));"
        );
        let status = Command::new("node").arg("-e").arg(script).current_dir(&node).status();
        assert!(status.expect("it was there just now").success());
        assert_eq!(client.message().topic, "moving/web");
    } else {
        eprintln!("mqtt.js is left out: the tests of clients install it");
    }
}

#[test]
fn port_of_the_command_line_counts_where_the_file_has_no_listener() {
    let port = free_port();
    let file = written(&folder("port"), "max_queued_messages 10\n");
    let running = serve(&file, &["-p", &port.to_string()]);
    assert_eq!(running.address, SocketAddr::from(([127, 0, 0, 1], port)));
    running.client("c").disconnect();

    let (own, other) = (free_port(), free_port());
    let text = format!("listener {own} 127.0.0.1\nallow_anonymous true\n");
    let file = written(&folder("ports"), &text);
    let running = serve(&file, &["-p", &other.to_string()]);
    assert_eq!(running.address.port(), own);
    assert!(std::net::TcpStream::connect(("127.0.0.1", other)).is_err());
}

#[test]
fn hangup_reads_the_mosquitto_conf_again() {
    let text = format!("listener {} 127.0.0.1\nallow_anonymous true\n", free_port());
    let file = written(&folder("hangup"), &text);
    let mut running = serve(&file, &[]);
    let client = running.client("stays");
    std::fs::write(&file, format!("{text}frobnicate\n")).expect("a file of ours");
    running.signal("-HUP");
    let wrong = format!("{}:3: frobnicate", file.display());
    running.line("the wrong line", |line| line.contains("nothing is changed") && line.contains(&wrong));
    std::fs::write(&file, &text).expect("a file of ours");
    running.signal("-HUP");
    running.line("the reload", |line| line.contains("are read again"));
    client.disconnect();
    running.signal("-TERM");
    assert_eq!(running.wait(Duration::from_secs(8)), 0);
}

#[test]
fn import_writes_what_check_config_reads() {
    let file = debian("import", "listener 1883\nallow_anonymous true\nlistener 9001\nprotocol websockets\n");
    let output = run(midge().arg("import-mosquitto").arg(&file));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("mosquitto.conf:6 pid_file: "), "{said}");
    assert!(said.contains("mosquitto.conf:11 log_dest: "), "{said}");
    let written = file.with_file_name("midge.toml");
    std::fs::write(&written, &output.stdout).expect("a file of ours");
    let checked = run(midge().arg("check-config").arg(&written));
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains(":1883") && checked.contains(":9001"), "{checked}");
}

#[test]
fn each_kind_of_error_ends_with_2_and_names_its_line() {
    for (name, text, wanted) in [
        ("unknown", "\nfrobnicate true\n", ":2: frobnicate: "),
        ("value", "listener 70000\n", ":1: listener: "),
        ("place", "\n\ncafile ca.pem\n", ":3: cafile: a listener line must stand above it"),
        (
            "bridge",
            "connection cloud\naddress example.org\n",
            ":1: connection: not supported: midge has no bridges",
        ),
        ("plugin", "plugin /usr/lib/other.so\n", ":1: plugin: not supported: midge has no plugins"),
        ("psk", "listener 8883\npsk_hint h\n", ":2: psk_hint: not supported"),
        ("whole", "listener 8883\ncertfile c.pem\n", ":2: certfile: needs a keyfile"),
        ("twice", "listener 1883\nlistener 1883\n", ":2: listener: "),
    ] {
        let file = written(&folder(&format!("wrong-{name}")), text);
        let wanted = format!("{}{wanted}", file.display());
        let import = run(midge().arg("import-mosquitto").arg(&file));
        let serve = run(midge().arg("serve").arg("--mosquitto-conf").arg(&file));
        for output in [import, serve] {
            assert_eq!(output.status.code(), Some(2), "{name}");
            assert!(stderr(&output).contains(&wanted), "{name}: {}", stderr(&output));
            assert!(output.stdout.is_empty(), "half a configuration is none");
        }
    }
    let two = written(&folder("wrong-two"), "frob 1\nfrob 2\n");
    let said = stderr(&run(midge().arg("import-mosquitto").arg(&two)));
    assert!(said.contains(":1: frob") && said.contains(":2: frob"), "{said}");
    let none = run(midge().args(["serve", "--mosquitto-conf", "/nowhere/mosquitto.conf"]));
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("/nowhere/mosquitto.conf: cannot be read"));
}

#[test]
fn password_file_is_written_and_mosquitto_passwd_can_edit_it() {
    let file = folder("passwd").join("users");
    let passwd = |arguments: &[&str]| run(midge().arg("passwd").args(arguments));
    let path = file.display().to_string();
    let made = passwd(&["-c", "-b", &path, "ada", "one"]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    assert!(String::from_utf8_lossy(&made.stdout).contains("added user ada"));
    let users = || {
        let text = std::fs::read_to_string(&file).expect("it was written");
        text.lines().filter_map(|line| line.split(':').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(users(), ["ada"]);
    if is_there("mosquitto_passwd") {
        let mut theirs = Command::new("mosquitto_passwd");
        theirs.args(["-b", &path, "bob", "two"]).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(theirs.status().expect("it was there just now").success());
        assert_eq!(users(), ["ada", "bob"]);
        assert_eq!(passwd(&["-D", &path, "bob"]).status.code(), Some(0));
        assert_eq!(users(), ["ada"]);
    }
    let nobody = passwd(&["-D", &path, "carol"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("carol"), "{}", stderr(&nobody));
}
