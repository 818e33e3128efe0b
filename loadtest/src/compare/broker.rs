//! A broker process that runs for one round.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::child_process;

/// How to start a broker, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BrokerSpec {
    pub(super) name: String,
    pub(super) port: u16,
    /// A command line for a shell.
    pub(super) command: String,
}

/// A running broker. Dropping it stops it.
#[derive(Debug)]
pub(super) struct BrokerProcess {
    child: Child,
    name: String,
    /// Its standard error. The file is already removed from its folder.
    errors: File,
}

/// Maximum time from start to listening.
const START_MAX: Duration = Duration::from_secs(30);
/// Maximum time from SIGTERM to the end.
const STOP_MAX: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Wait between listening and the scenario, so that the start of the broker is not measured.
const SETTLE: Duration = Duration::from_millis(500);

impl BrokerSpec {
    /// Parses NAME@PORT=COMMAND.
    pub(super) fn parse(text: &str) -> Result<BrokerSpec, String> {
        let (address, command) = text.split_once('=').ok_or("there is no = before the command")?;
        let (name, port) = address.rsplit_once('@').ok_or("there is no @ between name and port")?;
        let port =
            port.parse().ok().filter(|&port| port > 0).ok_or("the port must be a number from 1 to 65535")?;
        if name.is_empty() || command.trim().is_empty() {
            return Err("name and command must not be empty".to_owned());
        }
        Ok(BrokerSpec { name: name.to_owned(), port, command: command.trim().to_owned() })
    }

    /// The name, with only characters that are safe in a file name.
    pub(super) fn file_name(&self) -> String {
        let plain = |letter: char| {
            if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '_' }
        };
        self.name.chars().map(plain).collect()
    }

    fn listens(&self) -> bool {
        const TIMEOUT: Duration = Duration::from_millis(500);
        TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), TIMEOUT).is_ok()
    }
}

impl BrokerProcess {
    /// Starts the broker, and returns when it accepts connections.
    ///
    /// # Errors
    /// The port is already in use; the broker ends, or does not listen in time.
    pub(super) fn start(spec: &BrokerSpec, cpus: &[usize]) -> Result<BrokerProcess, String> {
        if spec.listens() {
            return Err(format!("port {} is already in use", spec.port));
        }
        let errors = unnamed_file()
            .map_err(|error| format!("a file for the standard error of the broker: {error}"))?;
        let writer = errors.try_clone().map_err(|error| error.to_string())?;
        // The shell only splits the words. `exec` replaces it by the broker.
        let shell = ["sh", "-c", &format!("exec {}", spec.command)].map(OsString::from);
        let child = child_process::command(&shell, cpus).and_then(|mut command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(writer)).spawn()
        });
        let child = child.map_err(|error| format!("{}: {error}", spec.command))?;
        let mut running = BrokerProcess { child, name: spec.name.clone(), errors };
        let started = Instant::now();
        while !spec.listens() {
            running.check()?;
            if started.elapsed() > START_MAX {
                return Err(format!("nothing listens on port {} after {} s", spec.port, START_MAX.as_secs()));
            }
            thread::sleep(POLL_INTERVAL);
        }
        thread::sleep(SETTLE);
        running.check()?;
        Ok(running)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// The broker has ended. The error contains its last lines of standard error.
    pub(super) fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(format!("{} ended unexpectedly ({status}){}", self.name, self.last_error_lines()))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Sends SIGTERM to the broker, and kills it if it does not end. Returns whether SIGTERM was
    /// enough.
    pub(super) fn stop(&mut self) -> bool {
        if let Ok(Some(_)) = self.child.try_wait() {
            return true;
        }
        // The child is not waited for yet, so the id is still valid. The wait below notices a
        // failure.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let started = Instant::now();
        while started.elapsed() < STOP_MAX {
            if let Ok(Some(_)) = self.child.try_wait() {
                return true;
            }
            thread::sleep(POLL_INTERVAL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        false
    }

    fn last_error_lines(&self) -> String {
        const BYTES_MAX: u64 = 2000;
        let length = self.errors.metadata().map_or(0, |file| file.len());
        let mut bytes = vec![0; length.min(BYTES_MAX) as usize];
        if self.errors.read_exact_at(&mut bytes, length.saturating_sub(BYTES_MAX)).is_err() {
            return String::new();
        }
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(3)..]
            .iter()
            .fold(String::new(), |said, line| format!("{said}\n    {line}"))
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A file in the temporary folder that disappears when nothing has it open.
fn unnamed_file() -> io::Result<File> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let name = format!("midge-loadtest-{}-{}", std::process::id(), since.as_nanos());
    let path = std::env::temp_dir().join(name);
    let file = OpenOptions::new().read(true).append(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_argument_has_name_port_and_command() {
        let spec = BrokerSpec::parse("a@b@1884=env X=1 broker --flag 'two words'").unwrap();
        let (name, command) = ("a@b".to_owned(), "env X=1 broker --flag 'two words'".to_owned());
        assert_eq!(spec, BrokerSpec { name, port: 1884, command });
        assert_eq!(spec.file_name(), "a_b");
        for wrong in ["", "a", "a@1", "a=b", "@1=b", "a@0=b", "a@70000=b", "a@1= "] {
            assert!(BrokerSpec::parse(wrong).is_err(), "{wrong}");
        }
    }
}
