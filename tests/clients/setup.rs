//! What the clients need: a Python environment and a Node folder below the target folder, made once and kept
//! until a version here changes. Only what wants root (mosquitto's tools, the interpreters) has to be there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::process;

const PYTHON_PACKAGES: [&str; 3] = ["paho-mqtt==2.2.0", "aiomqtt==2.5.1", "gmqtt==0.8.0"];
const NODE_PACKAGES: [&str; 1] = ["mqtt@5.16.0"];
/// How long an installation may take over a slow network.
const INSTALL_SECONDS_MAX: u64 = 300;

/// Somebody else's client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Client {
    Mosquitto,
    Paho,
    Aiomqtt,
    Gmqtt,
    Mqttjs,
    Rumqttc,
}

impl Client {
    /// As `MIDGE_SKIP_CLIENTS` names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mosquitto => "mosquitto",
            Self::Paho => "paho",
            Self::Aiomqtt => "aiomqtt",
            Self::Gmqtt => "gmqtt",
            Self::Mqttjs => "mqttjs",
            Self::Rumqttc => "rumqttc",
        }
    }

    /// Whether the environment asks to leave this client out; says so where it does.
    pub(crate) fn is_skipped(self) -> bool {
        let list = std::env::var("MIDGE_SKIP_CLIENTS").unwrap_or_default();
        let skipped = list.split(',').any(|name| name.trim() == self.name());
        if skipped {
            eprintln!("{} is left out: MIDGE_SKIP_CLIENTS={list}", self.name());
        }
        skipped
    }
}

/// The interpreter of an environment that has the Python clients.
pub(crate) fn python() -> PathBuf {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = PYTHON.get_or_init(|| {
        let made = once("venv", &PYTHON_PACKAGES, |folder| {
            let hint = "install python3 (3.10 or newer) with venv (apt: python3 python3-venv)";
            succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder), hint)?;
            let mut pip = Command::new(folder.join("bin/python"));
            pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
            let hint = format!("pip packages: {}", PYTHON_PACKAGES.join(" "));
            succeed(pip.args(PYTHON_PACKAGES), &hint)
        })?;
        Ok(made.join("bin/python"))
    });
    made.clone().unwrap_or_else(|why| panic!("{why}"))
}

/// A folder whose `node_modules` has the Node client.
pub(crate) fn node() -> PathBuf {
    static NODE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = NODE.get_or_init(|| {
        once("node", &NODE_PACKAGES, |folder| {
            if !process::is_installed("node") {
                return Err("node is not installed: install Node 18 or newer (apt: nodejs npm)".to_owned());
            }
            let mut npm = Command::new("npm");
            npm.arg("install").arg("--prefix").arg(folder).args([
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
            ]);
            let hint = format!("install npm (apt: npm); npm packages: {}", NODE_PACKAGES.join(" "));
            succeed(npm.args(NODE_PACKAGES), &hint)
        })
    });
    made.clone().unwrap_or_else(|why| panic!("{why}"))
}

/// Makes `target/clients/NAME` with `make`, unless it was made with the same packages before. Test runs side
/// by side wait for each other at a lock on a file.
fn once(
    name: &str,
    packages: &[&str],
    make: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let home = home();
    fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let lock = home.join(format!("{name}.lock"));
    let held = File::create(&lock).map_err(|error| format!("{}: {error}", lock.display()))?;
    held.lock().map_err(|error| format!("{}: {error}", lock.display()))?;

    let folder = home.join(name);
    let stamp = home.join(format!("{name}.installed"));
    // The folder is in the stamp, because a Python environment does not survive a move.
    let wanted = format!("{}\n{}\n", packages.join("\n"), folder.display());
    if folder.is_dir() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(folder);
    }
    // Absent the first time.
    let _ = fs::remove_file(&stamp);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    make(&folder)?;
    fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(folder)
}

fn succeed(command: &mut Command, hint: &str) -> Result<(), String> {
    let shown = format!("{command:?}");
    match process::run(command, &home(), INSTALL_SECONDS_MAX) {
        Ok(finished) if finished.status.success() => Ok(()),
        Ok(finished) => Err(format!("{shown}: {}\n{}\n{hint}", finished.status, finished.output)),
        Err(error) => Err(format!("{shown}: {error}\n{hint}")),
    }
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is below the target folder").join("clients")
}
