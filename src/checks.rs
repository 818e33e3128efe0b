//! `midge check-config`: checks a configuration without a start.

use crate::listening::{cannot_listen, probe};
use crate::reload::unix_seconds;
use crate::{Failure, kept_in, print, shards, warn};
use midge::admin::access::AdminAccess;
use midge::admin::ctl;
use midge::cli::CheckConfig;
use midge::config::open_files::{self, Wanted};
use midge::config::origins::written;
use midge::config::{memory_limit, sources};
use midge::control::access_policies::AccessPolicies;
use midge::driver;
use midge::settings::{Address, AdminAddress, Config, admin_socket};
use rustix::fs::{Access, access, statvfs};
use std::fmt::Write;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Checks a configuration file and the files that it names.
pub(crate) fn check_config(arguments: &CheckConfig) -> Result<(), Failure> {
    let file = arguments.file.display();
    let loaded = sources::load(Some(&arguments.file), std::env::vars_os())
        .map_err(|errors| Failure::usage(errors.to_string()))?;
    let config = &loaded.config;
    let policies = AccessPolicies::load(config).map_err(|words| Failure::usage(format!("midge: {words}")))?;
    let mut warnings = policies.warnings(unix_seconds());
    if let AdminAddress::At(address) = &config.admin.address
        && address.unix().is_none()
    {
        let access = AdminAccess::load(&config.admin).map_err(Failure::usage)?;
        warnings.extend(access.notices(unix_seconds()));
    }
    if arguments.deep {
        let mut findings = Findings::default();
        policies.certificates().into_iter().for_each(|certificate| findings.ok(certificate));
        warnings.into_iter().for_each(|warning| findings.warning(warning));
        examine(config, &mut findings);
        print(&findings.text)?;
        return match findings.errors {
            0 => print(&format!("{file}: ok\n")),
            errors => Err(Failure::new(format!("{file}: a start would fail: {errors} errors"))),
        };
    }
    for warning in &warnings {
        warn(&format!("{file}: warning: {warning}"));
    }
    if arguments.print {
        return print(&written(config, &loaded.origins));
    }
    let mut words = format!("{file}: ok\n");
    let others = loaded.further_sources();
    if !others.is_empty() {
        words += &format!("  with {others}\n");
    }
    for listener in &config.listeners {
        words += &format!("  listens on {}\n", listener.address);
    }
    print(&words)
}

/// What was found, a line for each.
#[derive(Default)]
struct Findings {
    text: String,
    errors: usize,
}

impl Findings {
    fn add(&mut self, kind: &str, words: impl std::fmt::Display) {
        // Writing to a String never fails.
        let _ = writeln!(self.text, "{kind:8} {words}");
    }

    fn ok(&mut self, words: impl std::fmt::Display) {
        self.add("ok:", words);
    }

    fn warning(&mut self, words: impl std::fmt::Display) {
        self.add("warning:", words);
    }

    fn error(&mut self, words: impl std::fmt::Display) {
        self.errors += 1;
        self.add("error:", words);
    }

    /// A result whose error is a sentence.
    fn result(&mut self, done: Result<String, String>) {
        match done {
            Ok(words) => self.ok(words),
            Err(words) => self.error(words),
        }
    }
}

/// Examines what a start would need of this machine.
fn examine(config: &Config, findings: &mut Findings) {
    let user = rustix::process::geteuid();
    findings.ok(format!("checked as the user with number {}", user.as_raw()));
    let env = |name: &str| std::env::var_os(name);
    let running = ctl::listeners_of_running(&config.admin, user.is_root(), env);
    if running.is_some() {
        findings.ok("a midge runs with this admin interface; its ports and its state directory are in use");
    }
    examine_listeners(config, running.as_deref().unwrap_or_default(), findings);
    examine_admin(config, running.is_some(), findings);
    match shards(config) {
        Err(failure) => findings.error(failure.words),
        Ok((shards, _)) => {
            let kernel = driver::check_kernel(shards).map_err(|problem| problem.to_string());
            findings.result(kernel.map(|_| format!("io_uring can be used, by {shards} shards")));
            let listeners = config.listeners.len();
            let wanted = Wanted { connections: config.limits.connections, shards, listeners };
            let open_files = open_files::raise();
            let connections = open_files::connections(open_files, wanted);
            findings.result(
                connections
                    .map(|count| format!("{count} connections fit the limit of {open_files} open files")),
            );
        }
    }
    match (config.limits.memory_bytes, memory_limit::allowed()) {
        (0, None) => {
            findings.warning("limits.memory_bytes = 0, and the system has no bound: memory has none")
        }
        (bytes, Some((allowed, source))) if bytes > allowed => {
            findings.warning(format!("limits.memory_bytes = {bytes}, and {source} only {allowed} bytes"));
        }
        _ => {}
    }
    examine_state(config, findings);
}

fn examine_listeners(config: &Config, running: &[String], findings: &mut Findings) {
    for (number, listener) in (0..).zip(&config.listeners) {
        let address = &listener.address;
        if running.contains(&address.to_string()) {
            findings.ok(format!("{address} is in use by the midge that runs"));
            continue;
        }
        let free = match address.unix() {
            Some(path) => free_path(path).map_err(|error| cannot_listen(address, &error)),
            None => probe(config, [(number, listener)], &[]),
        };
        findings.result(free.map(|()| format!("{address} is free")));
    }
}

/// Whether a start could make a socket here.
fn free_path(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    access(folder, Access::WRITE_OK | Access::EXEC_OK)?;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => match UnixStream::connect(path) {
            // An earlier midge has left it behind.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
        },
    }
}

fn examine_admin(config: &Config, is_running: bool, findings: &mut Findings) {
    let address = match &config.admin.address {
        _ if is_running => return,
        AdminAddress::Off => return findings.warning("no admin interface (admin.address = \"\")"),
        AdminAddress::At(address) => address.clone(),
        AdminAddress::Auto => {
            let is_root = rustix::process::geteuid().is_root();
            let path = admin_socket(is_root, |name| std::env::var_os(name));
            let Some(address) = path.and_then(|path| Address::parse(&format!("unix:{}", path.display())))
            else {
                return findings
                    .warning("no admin interface: the environment names no directory for its socket");
            };
            // Its folder is made at the start.
            if address.unix().and_then(Path::parent).is_some_and(|folder| !folder.exists()) {
                return;
            }
            address
        }
    };
    let free = match address.unix() {
        Some(path) => free_path(path),
        None => address.resolve().map_err(io::Error::other).and_then(|addresses| {
            let options = driver::BindOptions::of(&config.limits);
            addresses.into_iter().try_for_each(|address| driver::probe_bind(address, &options))
        }),
    };
    match free {
        Ok(()) => findings.ok(format!("{address} is free for the admin interface")),
        // midge serves without one, unless its port is wrong.
        Err(error) if address.unix().is_some() => {
            findings.warning(format!("no admin interface: {}", cannot_listen(&address, &error)));
        }
        Err(error) => findings.error(format!("the admin interface {}", cannot_listen(&address, &error))),
    }
}

fn examine_state(config: &Config, findings: &mut Findings) {
    let path = match kept_in(config) {
        Err(failure) => return findings.error(failure.words),
        Ok(None) => return findings.warning("nothing survives a restart (persistence.directory = \"\")"),
        Ok(Some(path)) => path,
    };
    // What does not exist yet is made in the nearest folder that does.
    let is_there = |folder: &&Path| folder.exists();
    let shown = path.display();
    let absolute = std::path::absolute(&path).unwrap_or_else(|_| PathBuf::from(&path));
    let Some(folder) = absolute.ancestors().find(is_there) else {
        return findings.error(format!("the state directory {shown} can't be made"));
    };
    if !folder.is_dir() {
        return findings.error(format!("the state directory {shown}: {} is no directory", folder.display()));
    }
    if let Err(error) = access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        return findings
            .error(format!("the state directory {shown} can't be used: {}: {error}", folder.display()));
    }
    match statvfs(folder) {
        Err(error) => findings.error(format!("the state directory {shown}: {error}")),
        Ok(space) => {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let words = format!("the state directory {shown} can be used; {} MiB are free", free >> 20);
            // The log may grow to this before it is merged into the checkpoint, which needs room too.
            let needed = (config.persistence.log_bytes as u64).saturating_mul(2);
            if free < needed {
                findings.warning(format!("{words}, less than twice persistence.log_bytes"));
            } else {
                findings.ok(words);
            }
        }
    }
}
