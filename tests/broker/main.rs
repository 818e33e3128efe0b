//! The program as an operator meets it: exit status, messages, signals.
#![allow(clippy::disallowed_methods, reason = "a test starts programs, binds ports and reads clocks")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn midge() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_midge"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A configuration file of a test, with what the file is to say of itself in errors.
fn config_file(name: &str, text: &str) -> std::path::PathBuf {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("broker-{name}.toml"));
    std::fs::write(&file, text).expect("the target folder can be written");
    file
}

fn run(command: &mut Command) -> Output {
    command.output().expect("midge is built")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A broker that runs, and the port that its start-up lines name.
struct Running {
    child: Child,
    port: u16,
    lines: Vec<String>,
}

impl Running {
    fn start(name: &str, rest: &str) -> Running {
        let text = format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{rest}");
        let mut child =
            midge().arg("--config").arg(config_file(name, &text)).spawn().expect("midge is built");
        let mut reader = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut lines = Vec::new();
        let port = loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).expect("a line") > 0, "midge ended: {lines:?}");
            let port = line
                .split("Listening on 127.0.0.1:")
                .nth(1)
                .and_then(|rest| rest.split(' ').next()?.parse().ok());
            lines.push(line);
            if let Some(port) = port {
                break port;
            }
        };
        // The rest is read so that the broker never waits for us.
        std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        Running { child, port, lines }
    }

    /// A 5.0 client that is in.
    fn client(&self) -> TcpStream {
        let until = Instant::now() + Duration::from_secs(10);
        let mut stream = loop {
            match TcpStream::connect(("127.0.0.1", self.port)) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket option");
        stream.write_all(b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c").expect("CONNECT is sent");
        let mut head = [0; 2];
        stream.read_exact(&mut head).expect("CONNACK");
        let mut rest = vec![0; usize::from(head[1])];
        stream.read_exact(&mut rest).expect("all of it");
        assert_eq!((head[0], rest[1]), (0x20, 0));
        stream
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(name).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill is there").success());
    }

    fn wait(&mut self, limit: Duration) -> i32 {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status.code().expect("it ended by itself");
            }
            assert!(Instant::now() < until, "still running");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn bad_configuration_is_refused_with_file_line_key_and_what_is_allowed() {
    let file = config_file(
        "typo",
        "[runtime]\nshards = 1\n\n[limits]\npacket_byts = 10\nconnect_seconds = \"soon\"\n",
    );
    for command in [midge().arg("check-config").arg(&file), midge().arg("serve").arg("--config").arg(&file)] {
        let output = run(command);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("broker-typo.toml:5: limits.packet_byts"), "{said}");
        assert!(said.contains("did you mean \"packet_bytes\""), "{said}");
        assert!(said.contains("broker-typo.toml:6: limits.connect_seconds"), "{said}");
    }
}

#[test]
fn shipped_manual_is_a_good_configuration() {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/config/midge.toml");
    let output = run(midge().arg("check-config").arg(manual));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("ok"));
}

#[test]
fn version_and_help_are_told_and_bad_usage_is_2() {
    let version = run(midge().arg("--version"));
    assert_eq!(version.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(run(midge().arg("--help")).status.code(), Some(0));
    assert_eq!(run(midge().arg("--frobnicate")).status.code(), Some(2));
}

#[test]
fn taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let file = config_file("taken", &format!("[[listeners]]\naddress = \"{address}\"\n"));
    let output = run(midge().arg("--config").arg(file));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("can't listen on {address}: another process listens there")), "{said}");
}

#[test]
fn second_broker_on_the_same_port_is_refused() {
    let first = Running::start("first", "[runtime]\nshards = 2\n");
    let file = config_file("second", &format!("[[listeners]]\naddress = \"127.0.0.1:{}\"\n", first.port));
    let output = run(midge().arg("--config").arg(file));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}

#[test]
fn too_low_a_limit_on_open_files_is_named() {
    let file =
        config_file("files", "[limits]\nconnections = 5000\n[[listeners]]\naddress = \"127.0.0.1:0\"\n");
    let script = format!("ulimit -n 256; exec {} --config {}", env!("CARGO_BIN_EXE_midge"), file.display());
    let output = run(Command::new("bash").arg("-c").arg(script).stdin(Stdio::null()));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("limits.connections") && said.contains("256"), "{said}");
}

#[test]
fn start_says_in_plain_words_what_it_does() {
    let running = Running::start("words", "[runtime]\nshards = 2\n");
    let said = running.lines.concat();
    assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
    assert!(said.contains("2 shards"), "{said}");
}

#[test]
fn first_signal_says_farewell_and_ends_with_0() {
    for (signal, shards) in [("-TERM", 1), ("-INT", 2)] {
        let mut running =
            Running::start(&format!("signal{shards}"), &format!("[runtime]\nshards = {shards}\n"));
        let mut client = running.client();
        running.signal(signal);
        let mut farewell = Vec::new();
        client.read_to_end(&mut farewell).expect("the end of the stream");
        assert_eq!(farewell, [0xE0, 1, 0x8B]);
        drop(client);
        assert_eq!(running.wait(Duration::from_secs(8)), 0);
    }
}
