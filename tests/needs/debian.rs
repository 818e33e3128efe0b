//! Debian's packages without root: apt-get finds and downloads what this machine lacks for them, dpkg unpacks
//! it, and a script for each program sets the path of its libraries.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{installed, once, succeed};

/// The program of a package that is not installed.
pub(super) fn program(package: &str, program: &str) -> Result<PathBuf, String> {
    let script = folder(package)?.join("bin").join(program);
    if script.is_file() { Ok(script) } else { Err(format!("Debian's package {package} has no {program}")) }
}

/// The folder in which the package is unpacked, with everything that it needs and this machine lacks.
pub(super) fn folder(package: &str) -> Result<PathBuf, String> {
    for tool in ["apt-get", "dpkg"] {
        if installed(tool).is_none() {
            return Err(format!(
                "it is not installed, and without {tool} Debian's package {package} can't be had"
            ));
        }
    }
    once(&format!("debian-{package}"), &[package], |folder| {
        unpack(package, folder).and_then(|()| write_scripts(folder))
    })
    .map_err(|why| format!("it is not installed, and Debian's package {package} can't be had: {why}"))
}

fn unpack(package: &str, folder: &Path) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let apt = folder.join("apt");
    for part in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(apt.join(part)).map_err(told)?;
    }
    let get = |arguments: &[&str]| {
        let mut get = Command::new("apt-get");
        for (option, value) in [
            ("Dir::State::lists", apt.join("lists").as_os_str()),
            ("Dir::Cache", apt.as_os_str()),
            ("Dir::Cache::archives", apt.join("archives").as_os_str()),
            // The process may not lock the system's state, and changes nothing of it.
            ("Debug::NoLocking", "true".as_ref()),
            // As root, apt-get would download as a user who may not write here.
            ("APT::Sandbox::User", "root".as_ref()),
        ] {
            let mut setting = std::ffi::OsString::from(format!("{option}="));
            setting.push(value);
            get.arg("-o").arg(setting);
        }
        succeed(get.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq").args(arguments))
    };
    // A source that does not answer may not be the one with the package.
    let updated = get(&["update"]);
    get(&["install", "--yes", "--no-install-recommends", "--download-only", package])
        .map_err(|why| updated.err().unwrap_or(why))?;
    for entry in fs::read_dir(apt.join("archives")).map_err(told)? {
        let archive = entry.map_err(told)?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            succeed(Command::new("dpkg").arg("-x").arg(archive).arg(folder))?;
        }
    }
    fs::remove_dir_all(apt).map_err(told)
}

/// Writes a script for each program, with the same name, in `bin`.
fn write_scripts(folder: &Path) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let bin = folder.join("bin");
    // Debian may or may not have merged the two directories.
    let _ = fs::rename(&bin, folder.join("bin.debian"));
    fs::create_dir_all(&bin).map_err(told)?;
    let mut libraries = Vec::new();
    for place in ["lib", "usr/lib"] {
        let place = folder.join(place);
        let inner = fs::read_dir(&place).into_iter().flatten().flatten().map(|entry| entry.path());
        libraries
            .extend(inner.filter(|path| path.is_dir() && path.display().to_string().contains("-linux-gnu")));
        libraries.push(place);
    }
    let libraries: Vec<String> = libraries.iter().map(|path| path.display().to_string()).collect();
    for place in ["bin.debian", "sbin", "usr/bin", "usr/sbin"] {
        for entry in fs::read_dir(folder.join(place)).into_iter().flatten().flatten() {
            let script = bin.join(entry.file_name());
            let text = format!(
                "#!/bin/sh\nexport LD_LIBRARY_PATH='{}'\n[ ! -f '{1}' ] || export OPENSSL_CONF='{1}'\nexec '{2}' \"$@\"\n",
                libraries.join(":"),
                folder.join("etc/ssl/openssl.cnf").display(),
                entry.path().display(),
            );
            fs::write(&script, text).map_err(told)?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).map_err(told)?;
        }
    }
    Ok(())
}
