//! The programs of others that the tests need: clients, a broker to compare with, interpreters.
//!
//! What is not on the PATH is brought, once, below `target/clients`, without root: Debian's packages with the libraries
//! that they need, Python's and Node's packages by pip and npm. What can't be had at all is a test that is skipped: it is
//! noted, and the target `skipped`, the last one of `cargo test`, tells all of them. With `CI=true` it is a failure.

// Each target that includes this uses a part of it.
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

/// Programs that can be brought, and Debian's packages of them.
const PACKAGES: [(&str, &str); 8] = [
    ("mosquitto", "mosquitto"),
    ("mosquitto_passwd", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("mosquitto_rr", "mosquitto-clients"),
    ("mosquitto_sub", "mosquitto-clients"),
    ("openssl", "openssl"),
    ("ip", "iproute2"),
    ("python3", "python3"),
];

/// How long bringing something may take over a slow network.
const INSTALL_SECONDS_MAX: u64 = 600;

/// Whether there is such a program. If not, the test is noted as skipped.
pub(crate) fn has(program: &str) -> bool {
    find(program).inspect_err(|why| skips::note(program, why)).is_ok()
}

/// A command of a program that is there, see [`has`].
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

/// Sends a signal, such as `-TERM`, by the shell: the program `kill` is not everywhere.
pub(crate) fn kill(signal: &str, process: u32) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"kill "$0" "$1""#, signal, &process.to_string()]).stderr(Stdio::null());
    shell.status().expect("a shell starts").success()
}

/// Where a program is, after it was brought if need be; or why there is none.
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

/// Some systems have programs where only root looks.
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

/// Makes `target/clients/NAME` with `make`, unless it was made of the same things before. Test runs side by side wait for
/// each other at a lock on a file. What has failed is not tried again by the other targets of this run.
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
    // The folder is in the stamp, because a Python environment does not survive a move.
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
    // Absent the first time.
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

/// Runs a command to its end. Its output is kept in `target/clients`; its last line is in the error.
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
