//! The program under test: it is started with a configuration file of the test, observed through its log
//! lines, and ended with the test.

use crate::client::Client;
use crate::needs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) use midge_kit::{PATIENCE, free_port};
/// The program, with its output captured for the test.
pub(crate) fn midge() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_midge"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A configuration file of a test. Unless it says otherwise, nothing is kept.
pub(crate) fn config_file(name: &str, text: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("broker-{name}.toml"));
    let rest = if text.contains("[persistence]") { "" } else { "[persistence]\ndirectory = \"\"\n" };
    std::fs::write(&file, format!("{text}{rest}")).expect("the target folder can be written");
    file
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.output().expect("the program is there")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether a file system can be mounted on this folder. If not, prints why the test is left out.
pub(crate) fn can_mount(folder: &Path) -> bool {
    let mount = format!("mount -t tmpfs tmpfs {}", folder.display());
    let why = match Command::new("unshare").args(["-rm", "sh", "-c", &mount]).output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => stderr(&output).trim_end().to_owned(),
        Err(error) => format!("unshare: {error}"),
    };
    needs::skips::note("a file system of one's own", &why);
    false
}

/// A running broker, the address in its start-up lines, and its log so far.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    /// Starts it with one listener on a free port of 127.0.0.1.
    pub(crate) fn start(name: &str, rest: &str) -> Running {
        Running::start_on("127.0.0.1:0", name, rest)
    }

    /// Starts it with one listener on this address.
    pub(crate) fn start_on(listener: &str, name: &str, rest: &str) -> Running {
        let text = format!("[[listeners]]\naddress = \"{listener}\"\n{rest}");
        let mut command = midge();
        command.arg("--config").arg(config_file(name, &text));
        Running::start_command(command).unwrap_or_else(|| panic!("{name} did not start"))
    }

    /// Starts it by a command that ends in the broker. `None`, after its output, if it ended before the
    /// broker listened.
    pub(crate) fn start_command(mut command: Command) -> Option<Running> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("midge is built");
        let mut output = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut lines = Vec::new();
        let address = loop {
            let mut line = String::new();
            if output.read_line(&mut line).expect("a line") == 0 {
                eprintln!("it ended: {lines:?}");
                let _ = child.wait();
                return None;
            }
            let address = line
                .split("Listening on ")
                .nth(1)
                .and_then(|rest| rest.split([' ', ',']).next()?.parse().ok());
            lines.push(line.trim_end().to_owned());
            if let Some(address) = address {
                break address;
            }
        };
        let lines = Arc::new(Mutex::new(lines));
        let page = Arc::clone(&lines);
        // The output is read to the end, so that the broker never waits for the test.
        let reader = std::thread::spawn(move || {
            for line in output.lines() {
                let Ok(line) = line else { return };
                page.lock().expect("no panic while writing").push(line);
            }
        });
        Some(Running { child, address, lines, reader: Some(reader) })
    }

    /// Kills it like `kill -9`, and waits until it has gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// Sends SIGHUP.
    pub(crate) fn hang_up(&self) {
        self.signal("-HUP");
    }

    /// A connected 5.0 client, with a clean session that ends with its connection.
    pub(crate) fn client(&self, id: &str) -> Client {
        Client::connect(self.address, id, true, 0)
    }

    /// The CPU time of all its threads so far, in the kernel's hundredths of a second.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields: Vec<&str> =
            stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The number of its open files and sockets.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// The memory that it uses now, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// The largest memory that it has used so far, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// The log lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic while writing").clone()
    }

    /// The first line that matches. Waits until there is one.
    pub(crate) fn line(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.lines().into_iter().find(|line| fits(line)) {
                return line;
            }
            assert!(Instant::now() < until, "no line about {what} in {:#?}", self.lines());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(needs::kill(name, self.child.id()), "{name}");
    }

    /// Waits for the exit status. All lines have been read by then.
    pub(crate) fn wait(&mut self) -> i32 {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                if let Some(reader) = self.reader.take() {
                    reader.join().expect("the lines are read to their end");
                }
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
