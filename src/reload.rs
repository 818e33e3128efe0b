//! Reads the configuration that the arguments name: at the start, and again at SIGHUP.

use midge::admin::tokens::{AdminTokens, SharedTokens};
use midge::base::Diagnostics;
use midge::cli::Serve;
use midge::config::mosquitto::MosquittoConf;
use midge::config::parse;
use midge::control::access_policies::AccessPolicies;
use midge::control::housekeeping::{Housekeeping, LOOK_AFTER};
use midge::control::logins::Logins;
use midge::driver::Bell;
use midge::host::Control;
use midge::logging::LevelSwitch;
use midge::settings::{Config, Gate, Jwt, Listener, LogLevel, Webhook};
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Reads the file that the arguments name, if any. The arguments override the file. Also returns the notes
/// about a `mosquitto.conf`.
///
/// Fails with all errors, one per line.
pub(crate) fn read(serve: &Serve) -> Result<(Config, Vec<String>), String> {
    let (mut config, notes) = match (&serve.config, &serve.mosquitto_conf) {
        (Some(file), _) => (parse::load(file).map_err(|errors| errors.to_string())?, Vec::new()),
        (None, Some(file)) => {
            let conf = MosquittoConf::load(file, serve.port).map_err(|errors| lines(&errors))?;
            let config = conf.config().map_err(|errors| lines(&errors))?;
            (config, conf.mapping().notes.iter().map(ToString::to_string).collect())
        }
        (None, None) => (Config::default(), Vec::new()),
    };
    serve.apply(&mut config);
    Ok((config, notes))
}

/// The errors, one per line.
pub(crate) fn lines(errors: &[impl Display]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The state that SIGHUP needs.
pub(crate) struct Reload {
    /// The arguments, which name the file.
    pub(crate) serve: Serve,
    /// Passes changes to the shards.
    pub(crate) control: Arc<Control>,
    pub(crate) logins: Logins,
    /// Wake the shards.
    pub(crate) bells: Vec<Bell>,
    /// The configuration of the start or of the last reload.
    pub(crate) config: Config,
    /// The tokens of the admin interface, if it has any.
    pub(crate) admin_tokens: Option<SharedTokens>,
    /// The switch of the log's level.
    pub(crate) level: LevelSwitch,
}

impl Reload {
    /// Reads the configuration file and the files that it names again. An error leaves everything as it was.
    fn run(&mut self) {
        let is_good = self.take();
        self.control.reloads.note(is_good);
    }

    /// Returns whether everything was taken that can be. If not, nothing was.
    fn take(&mut self) -> bool {
        let config = match read(&self.serve) {
            Ok((config, _)) => config,
            Err(errors) => {
                tracing::error!("SIGHUP: nothing is changed, the configuration is wrong: {errors}");
                return false;
            }
        };
        let addresses = |config: &Config| {
            config.listeners.iter().map(|listener| listener.address.clone()).collect::<Vec<_>>()
        };
        if addresses(&config) != addresses(&self.config) {
            {
                tracing::error!(
                    "SIGHUP: nothing is changed: the addresses of the listeners are not those of the start; other ones \
                 need a restart"
                );
                return false;
            }
        }
        let admin_tokens = match self.admin_tokens.as_ref().map(|shared| (shared, load_tokens(&config))) {
            None => None,
            Some((shared, Ok(tokens))) => Some((shared, tokens)),
            Some((_, Err(errors))) => {
                tracing::error!("SIGHUP: nothing is changed: {errors}");
                return false;
            }
        };
        match AccessPolicies::load(&config) {
            Ok(policies) => {
                if let Err(error) = self.logins.prepare(&policies) {
                    tracing::error!("SIGHUP: nothing is changed: no threads for logins: {error}");
                    return false;
                }
                tell(&policies.warnings(unix_seconds()));
                for certificate in policies.certificates() {
                    tracing::info!("SIGHUP: {certificate}");
                }
                self.control.change_policies(policies);
                if let Some((shared, tokens)) = admin_tokens {
                    shared.change(tokens);
                }
                self.bells.iter().for_each(Bell::ring);
            }
            Err(words) => {
                tracing::error!("SIGHUP: nothing is changed: {words}");
                return false;
            }
        }
        tracing::info!("SIGHUP: certificates, keys, password files and access lists are read again");
        self.change_level(config.log.level);
        if without_policies(&config) != without_policies(&self.config) {
            tracing::warn!(
                "SIGHUP: the file has other changes too; only what concerns TLS, WebSocket, the PROXY header, \
                 logins, access lists, [gate], limits.connect_rate and log.level counts before a restart"
            );
        }
        self.config = config;
        true
    }

    /// Logs the change at whichever of the two levels shows more.
    fn change_level(&self, level: LogLevel) {
        let old = self.config.log.level;
        if level > old {
            self.level.set(level);
        }
        if level != old {
            tracing::info!("SIGHUP: log.level is now \"{}\", and was \"{}\"", level.word(), old.word());
        }
        if level < old {
            self.level.set(level);
        }
    }
}

/// Reads the tokens of the admin interface.
fn load_tokens(config: &Config) -> Result<AdminTokens, Diagnostics> {
    AdminTokens::load(Path::new(&config.admin.token_file))
}

/// The configuration without the parts that SIGHUP can change.
fn without_policies(config: &Config) -> Config {
    let mut config = config.clone();
    config.auth.password_file = String::new();
    config.auth.allow_anonymous = None;
    config.auth.skip_bad_password_lines = false;
    config.acl.file = String::new();
    config.gate = Gate::default();
    config.admin.token_file = String::new();
    (config.limits.connect_rate, config.limits.connect_burst) = (0, 0);
    config.log.level = LogLevel::Info;
    config.jwt = Jwt::default();
    config.webhook = Webhook::default();
    for listener in &mut config.listeners {
        let plain = Listener::default();
        listener.protocol = plain.protocol;
        listener.websocket_path = plain.websocket_path;
        listener.websocket_origins = plain.websocket_origins;
        listener.websocket_header_bytes = plain.websocket_header_bytes;
        listener.tls_certificates = plain.tls_certificates;
        listener.tls_keys = plain.tls_keys;
        listener.tls_chain = plain.tls_chain;
        listener.tls_client_ca = plain.tls_client_ca;
        listener.tls_ca_directory = plain.tls_ca_directory;
        listener.tls_client_certificate = plain.tls_client_certificate;
        listener.tls_client_certificate_dates = plain.tls_client_certificate_dates;
        listener.tls_client_certificate_rules = plain.tls_client_certificate_rules;
        listener.tls_crl = plain.tls_crl;
        listener.tls_crl_scope = plain.tls_crl_scope;
        listener.tls_record_bytes = plain.tls_record_bytes;
        listener.tls_minimum = plain.tls_minimum;
        listener.proxy_trusted = plain.proxy_trusted;
        listener.allow_anonymous = plain.allow_anonymous;
        listener.password_file = plain.password_file;
        listener.acl_file = plain.acl_file;
        listener.jwt = plain.jwt;
        listener.webhook = plain.webhook;
    }
    config
}

/// Starts a thread that reads the configuration again after each SIGHUP, and checks the dates of certificates
/// once a day. It is a separate thread because reading a file from a broken disk can block.
pub(crate) fn keep_house(asked: Housekeeping, mut reload: Reload) -> std::io::Result<()> {
    let control = Arc::clone(&reload.control);
    let look = move |now| tell(&control.outdated(now));
    let looked_at = unix_seconds();
    std::thread::Builder::new()
        .name("midge-house".into())
        .spawn(move || asked.serve(looked_at, LOOK_AFTER, unix_seconds, || reload.run(), look))?;
    Ok(())
}

/// Logs one line for each warning.
pub(crate) fn tell(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

/// The time of the wall clock, in seconds since 1970.
pub(crate) fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
