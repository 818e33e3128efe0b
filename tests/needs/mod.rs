//! Other projects' programs that the tests need: clients, a broker for comparison, interpreters.
//!
//! A program that is not on the PATH is installed once, in `target/clients`, without root: Debian's packages
//! with their libraries, and Python's and Node's packages by pip and npm. If something is not available at
//! all, its tests are skipped. This is recorded, and the target `skipped`, the last one of `cargo test`,
//! lists all of them. With `CI=true` it is a failure.

// Each target that includes this uses only a part of it.
#![allow(dead_code, unused_imports)]

mod debian;
pub(crate) mod process;
mod scripts;
pub(crate) mod skips;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

pub(crate) use scripts::{node, python};

/// Programs that can be installed, and their Debian packages.
const PACKAGES: [(&str, &str); 13] = [
    ("curl", "curl"),
    ("mandoc", "mandoc"),
    ("mosquitto", "mosquitto"),
    ("mosquitto_passwd", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("mosquitto_rr", "mosquitto-clients"),
    ("mosquitto_sub", "mosquitto-clients"),
    ("nginx", "nginx-light"),
    ("openssl", "openssl"),
    ("ip", "iproute2"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("python3", "python3"),
];

/// The longest time for an installation over a slow network, in seconds.
const INSTALL_SECONDS_MAX: u64 = 600;

/// Whether there is such a program. If not, the test is recorded as skipped.
pub(crate) fn has(program: &str) -> bool {
    find(program).inspect_err(|why| skips::note(program, why)).is_ok()
}

/// A command for an available program. See [`has`].
pub(crate) fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|why| panic!("{program}: {why}")))
}

/// A PATH on which a script finds these programs too.
pub(crate) fn path_with(programs: &[&str]) -> std::ffi::OsString {
    let brought = programs.iter().filter_map(|program| find(program).ok()?.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all: Vec<PathBuf> = brought.chain(std::env::split_paths(&path)).collect();
    std::env::join_paths(all).expect("no folder of ours has a colon in its name")
}

/// Sends a signal, such as `-TERM`. It uses the shell, because the program `kill` is not everywhere.
pub(crate) fn kill(signal: &str, process: u32) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"kill "$0" "$1""#, signal, &process.to_string()]).stderr(Stdio::null());
    shell.status().expect("a shell starts").success()
}

/// The path of a program, which is installed if necessary. The error says why there is none.
fn find(program: &str) -> Result<PathBuf, String> {
    static FOUND: Mutex<BTreeMap<String, Result<PathBuf, String>>> = Mutex::new(BTreeMap::new());
    let mut found = FOUND.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    found
        .entry(program.to_owned())
        .or_insert_with(|| match installed(program) {
            Some(path) => Ok(path),
            None => bring(program),
        })
        .clone()
}

/// Some systems have programs in directories that are only on root's PATH.
fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn bring(program: &str) -> Result<PathBuf, String> {
    match PACKAGES.iter().find(|(name, _)| *name == program) {
        Some((_, package)) => debian::program(package, program),
        None => Err("it is not installed".to_owned()),
    }
}

/// Makes `target/clients/NAME` with `make`, unless it was made of the same parts before. Concurrent test runs
/// wait for each other at a file lock. After a failure, the other targets of this run do not try again.
fn once(
    name: &str,
    things: &[&str],
    make: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let home = home();
    let told = |error: std::io::Error| format!("{}: {error}", home.display());
    fs::create_dir_all(&home).map_err(told)?;
    let held = File::create(home.join(format!("{name}.lock"))).map_err(told)?;
    held.lock().map_err(told)?;

    let folder = home.join(name);
    let (stamp, failure) = (home.join(format!("{name}.installed")), home.join(format!("{name}.failed")));
    // The folder is part of the stamp, because a Python environment can't be moved.
    let wanted = format!("{}\n{}\n", things.join("\n"), folder.display());
    if folder.is_dir() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(folder);
    }
    let run = format!("{}\n", skips::run());
    if let Some(why) =
        fs::read_to_string(&failure).ok().and_then(|text| Some(text.strip_prefix(&run)?.to_owned()))
    {
        return Err(why);
    }
    // The files do not exist the first time.
    let _ = fs::remove_file(&stamp);
    let _ = fs::remove_file(&failure);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(told)?;
    match make(&folder).and_then(|()| fs::write(&stamp, wanted).map_err(told)) {
        Ok(()) => Ok(folder),
        Err(why) => {
            let _ = fs::write(&failure, format!("{run}{why}"));
            Err(why)
        }
    }
}

/// Runs a command to its end. Its output is kept in `target/clients`. The error has its last line.
fn succeed(command: &mut Command) -> Result<(), String> {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().display().to_string();
    let shown = format!("{command:?}");
    let finished = process::run(command, &home(), INSTALL_SECONDS_MAX)
        .map_err(|error| format!("{program} can't be run: {error}"))?;
    if finished.status.success() {
        return Ok(());
    }
    let log = home().join(format!("{program}.log"));
    let _ = fs::write(&log, format!("{shown}\n{}", finished.output));
    let last = finished.output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(format!("{program} has failed ({}, {}): {}", finished.status, log.display(), last.trim()))
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is below the target folder").join("clients")
}
