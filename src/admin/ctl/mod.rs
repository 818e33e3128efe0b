//! `midge ctl`: asks a running midge by its admin interface, and prints the answers.
//!
//! A command is a path and a way to show its answer. With `--json` the answer is printed as it came.

mod client;
mod commands;
mod explain;
mod house;
mod shown;
mod table;
mod tls;
mod trace;

use super::tokens::own_token;
use crate::settings::{Address, Admin, AdminAddress, SYSTEM_ADMIN_SOCKET, admin_socket};
use axum::http::{Method, StatusCode};
use clap::{Args, Subcommand};
use client::{Client, CtlReply};
use commands::{ApiAction, CtlRequest};
use serde_json::Value;
use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use trace::TraceArgs;

/// The arguments of `midge ctl`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CtlArgs {
    /// The admin interface: unix:/PATH or HOST:PORT. Without this option: admin.address of the configuration file, or
    /// the socket of a midge without one
    #[arg(long, value_name = "ADDRESS", global = true, value_parser = parse_address)]
    admin: Option<CtlAddress>,

    /// The configuration file of midge, for admin.address and admin.token_file
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// File with the token for an address with a port. Without this option: admin.token_file of the configuration file
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,

    /// Speak TLS with an address with a port, and trust the CAs of this PEM file
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,

    /// Client certificate for TLS, a PEM file, followed by those that lead to its CA
    #[arg(long, value_name = "FILE", global = true, requires = "key", requires = "ca")]
    cert: Option<PathBuf>,

    /// Private key of --cert, a PEM file
    #[arg(long, value_name = "FILE", global = true, requires = "cert")]
    key: Option<PathBuf>,

    /// Print the answer as JSON, as it came
    #[arg(long, global = true)]
    json: bool,

    /// Ask again every so many seconds, until you stop it
    #[arg(long, global = true, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        require_equals = true, value_parser = clap::value_parser!(u32).range(1..=3600))]
    watch: Option<u32>,

    #[command(subcommand)]
    action: CtlAction,
}

/// An address of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CtlAddress(Address);

fn parse_address(text: &str) -> Result<CtlAddress, String> {
    Address::parse(text).map(CtlAddress).ok_or_else(|| "it must be unix:/PATH or HOST:PORT".to_owned())
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
enum CtlAction {
    /// Whether every shard works; exit status 1 if not
    Health,
    /// Whether midge has restored its state and serves; exit status 1 if not
    Ready,
    /// The counters, as text for Prometheus
    Metrics,
    /// The answer to GET of a path of the admin interface, as it came
    Get {
        /// The path
        #[arg(value_name = "PATH")]
        path: String,
    },
    /// Follow a client, a topic or an address: each packet, and what is decided, as it happens
    Trace(TraceArgs),
    #[command(flatten)]
    Api(ApiAction),
}

/// The exit status if the answer is no.
const EXIT_NO: u8 = 1;
/// The exit status if there is no answer, or for wrong usage.
const EXIT_TROUBLE: u8 = 2;

/// Why a command has failed.
#[derive(Debug)]
pub struct CtlFailure {
    /// A sentence for the operator.
    pub words: String,
    /// The exit status.
    pub status: u8,
}

impl CtlFailure {
    fn trouble(words: impl Into<String>) -> CtlFailure {
        CtlFailure { words: words.into(), status: EXIT_TROUBLE }
    }
}

impl From<io::Error> for CtlFailure {
    fn from(error: io::Error) -> CtlFailure {
        CtlFailure::trouble(format!("can't write to the output: {error}"))
    }
}

/// Runs a command. `settings` are those of the configuration file, or the defaults. Returns the exit status.
///
/// # Errors
/// [`CtlFailure`].
pub fn run(
    arguments: &CtlArgs,
    settings: &Admin,
    is_root: bool,
    env: impl Fn(&str) -> Option<OsString>,
    out: &mut impl Write,
) -> Result<u8, CtlFailure> {
    let addresses = addresses(arguments, settings, is_root, env).map_err(CtlFailure::trouble)?;
    let token_file = arguments.token_file.as_deref();
    let of_settings = Some(Path::new(&settings.token_file)).filter(|path| !path.as_os_str().is_empty());
    let token = match token_file.or(of_settings) {
        // The permissions of a socket file decide, so there is nothing to read.
        None | Some(_) if addresses.iter().all(|address| address.unix().is_some()) => None,
        None => None,
        Some(path) => Some(own_token(path).map_err(CtlFailure::trouble)?),
    };
    let tls = match &arguments.ca {
        None if arguments.admin.is_none() && !settings.tls_certificate.is_empty() => {
            return Err(CtlFailure::trouble(
                "the admin interface speaks TLS: --ca names the CA of its certificate",
            ));
        }
        None => None,
        Some(ca) => {
            let own = arguments.cert.as_deref().zip(arguments.key.as_deref());
            Some(tls::client_config(ca, own).map_err(CtlFailure::trouble)?)
        }
    };
    let client =
        Client::new(addresses, token, tls).map_err(|error| CtlFailure::trouble(error.to_string()))?;
    let get = |path: &str| client.request(&Method::GET, path, None).map_err(CtlFailure::trouble);
    match &arguments.action {
        CtlAction::Health => show(arguments, out, &get("/healthz")?, |value| text_of(value, "status")),
        CtlAction::Ready => show(arguments, out, &get("/readyz")?, |value| text_of(value, "status")),
        CtlAction::Api(action) => {
            let ask = || {
                let CtlRequest { method, path, body } = action.request();
                client.request(&method, &path, body.as_ref()).map_err(CtlFailure::trouble)
            };
            let Some(seconds) = arguments.watch else {
                let reply = ask()?;
                let status = show(arguments, out, &reply, |value| action.shown(value))?;
                let value: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                return Ok(if status == 0 && action.says_no(&value) { EXIT_NO } else { status });
            };
            loop {
                show(arguments, out, &ask()?, |value| action.shown(value))?;
                // Whoever reads it may have left.
                if out.write_all(b"\n").and_then(|()| out.flush()).is_err() {
                    return Ok(0);
                }
                std::thread::sleep(Duration::from_secs(seconds.into()));
            }
        }
        CtlAction::Trace(args) => trace::follow(&client, args, arguments.json, out),
        CtlAction::Metrics => raw(out, &get("/metrics")?),
        CtlAction::Get { path } if path.starts_with('/') => raw(out, &get(path)?),
        CtlAction::Get { path } => Err(CtlFailure::trouble(format!(
            "the path must begin with a slash, as in /healthz; got {path:?}"
        ))),
    }
}

/// The configured addresses of the listeners of a midge that runs. `None` if none answers, or if it wants a token.
pub fn listeners_of_running(
    settings: &Admin,
    is_root: bool,
    env: impl Fn(&str) -> Option<OsString>,
) -> Option<Vec<String>> {
    let addresses = addresses_of(settings, is_root, env).ok()?;
    let reply =
        Client::new(addresses, None, None).ok()?.request(&Method::GET, "/api/v1/listeners", None).ok()?;
    let value: Value = serde_json::from_slice(&reply.body).ok().filter(|_| reply.status.is_success())?;
    Some(shown::items(&value, "listeners").map(|listener| text_of(listener, "address")).collect())
}

/// Where midge may be, the likeliest first.
fn addresses(
    arguments: &CtlArgs,
    settings: &Admin,
    is_root: bool,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<Address>, String> {
    if let Some(CtlAddress(address)) = &arguments.admin {
        return Ok(vec![address.clone()]);
    }
    addresses_of(settings, is_root, env)
}

/// Where a midge with these settings may be, the likeliest first.
fn addresses_of(
    settings: &Admin,
    is_root: bool,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<Address>, String> {
    match &settings.address {
        AdminAddress::At(address) => Ok(vec![address.clone()]),
        AdminAddress::Off => {
            Err("the configuration has no admin interface (admin.address = \"\")".to_owned())
        }
        AdminAddress::Auto => {
            // A user of midge's group asks the midge of the system, unless there is one of the user.
            let system = PathBuf::from(SYSTEM_ADMIN_SOCKET);
            let own = admin_socket(is_root, env).filter(|own| *own != system);
            let paths = own.into_iter().chain([system]);
            Ok(paths.filter_map(|path| Address::parse(&format!("unix:{}", path.display()))).collect())
        }
    }
}

/// Prints an answer in words. An error goes into the failure.
fn show(
    arguments: &CtlArgs,
    out: &mut impl Write,
    reply: &CtlReply,
    words: impl Fn(&Value) -> String,
) -> Result<u8, CtlFailure> {
    if arguments.json {
        return raw(out, reply);
    }
    let value: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    if !reply.status.is_success() {
        let said = text_of(&value, "error");
        let words = if said.is_empty() { format!("midge answered {}", reply.status) } else { said };
        return Err(CtlFailure { words, status: exit_status(reply.status) });
    }
    print(out, format!("{}\n", words(&value).trim_end()).as_bytes())?;
    Ok(0)
}

fn raw(out: &mut impl Write, reply: &CtlReply) -> Result<u8, CtlFailure> {
    print(out, &reply.body)?;
    Ok(if reply.status.is_success() { 0 } else { exit_status(reply.status) })
}

/// A broker that is not healthy has answered. One that does not let its client in has not.
fn exit_status(status: StatusCode) -> u8 {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => EXIT_TROUBLE,
        _ => EXIT_NO,
    }
}

/// Writes to an output that its reader may close.
fn print(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A field of a JSON object in words.
fn text_of(value: &Value, field: &str) -> String {
    match value.get(field) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        ctl: CtlArgs,
    }

    fn line(words: &str) -> CtlArgs {
        Line::try_parse_from(words.split(' ')).expect(words).ctl
    }

    fn places(words: &str, settings: &Admin, is_root: bool) -> Result<Vec<String>, String> {
        let env = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| OsString::from("/run/user/7"));
        let found = addresses(&line(words), settings, is_root, env)?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn line_stands_above_file_and_without_both_the_usual_sockets_are_tried() {
        let auto = Admin::default();
        let address = AdminAddress::At(Address::parse("localhost:1").expect("an address"));
        let file = Admin { address, ..Admin::default() };
        let off = Admin { address: AdminAddress::Off, ..Admin::default() };
        let system = "unix:/run/midge/admin.sock";
        for (words, settings, is_root, expected) in [
            ("ctl health", &auto, true, &[system][..]),
            ("ctl health", &auto, false, &["unix:/run/user/7/midge/admin.sock", system]),
            ("ctl health", &file, false, &["localhost:1"]),
            ("ctl --admin unix:/a health", &file, false, &["unix:/a"]),
            ("ctl health --admin 127.0.0.1:9", &off, false, &["127.0.0.1:9"]),
        ] {
            assert_eq!(
                places(words, settings, is_root),
                Ok(expected.iter().map(ToString::to_string).collect())
            );
        }
        assert!(places("ctl health", &off, true).is_err());
        assert!(Line::try_parse_from(["ctl", "--admin", "nowhere", "health"]).is_err());
    }

    #[test]
    fn a_refusal_is_told_in_words_and_what_comes_is_printed() {
        let reply = |status, body: &str| CtlReply { status, body: body.as_bytes().to_vec().into() };
        let mut out = Vec::new();
        let mut shown =
            |words: &str, reply| show(&line(words), &mut out, &reply, |value| text_of(value, "status"));
        let ok = reply(StatusCode::OK, "{\"status\":\"ok\"}");
        assert!(matches!(shown("ctl health", ok), Ok(0)));
        let bad = || reply(StatusCode::SERVICE_UNAVAILABLE, "{\"error\":\"shard 1\"}");
        let failure = shown("ctl health", bad()).expect_err("it is not healthy");
        assert_eq!((failure.words.as_str(), failure.status), ("shard 1", EXIT_NO));
        assert!(matches!(shown("ctl --json health", bad()), Ok(EXIT_NO)));
        let denied = shown("ctl health", reply(StatusCode::UNAUTHORIZED, "")).expect_err("no token");
        assert_eq!((denied.words.as_str(), denied.status), ("midge answered 401 Unauthorized", EXIT_TROUBLE));
        assert_eq!(String::from_utf8_lossy(&out), "ok\n{\"error\":\"shard 1\"}");
    }
}
