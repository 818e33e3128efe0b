//! Reads the configuration that the arguments name: at the start, and again at SIGHUP and for the admin interface.

use midge::cli::Serve;
use midge::config::memory_limit;
use midge::config::mosquitto::MosquittoConf;
use midge::config::sources;
use midge::settings::Config;
use std::fmt::Display;
use std::time::SystemTime;

/// A configuration that was read.
pub(crate) struct Read {
    pub(crate) config: Config,
    /// Notes about a `mosquitto.conf`.
    pub(crate) notes: Vec<String>,
    /// The sources besides the file that the arguments name, in words. Empty if there are none.
    pub(crate) further_sources: String,
}

/// Reads the file that the arguments name, if any, the files that it includes, and the environment. The arguments
/// override them all.
///
/// Fails with all errors, one per line.
pub(crate) fn read(serve: &Serve) -> Result<Read, String> {
    let (loaded, notes) = match &serve.mosquitto_conf {
        None => (sources::load(serve.config.as_deref(), std::env::vars_os()), Vec::new()),
        Some(file) => {
            let conf = MosquittoConf::load(file, serve.port).map_err(|errors| lines(&errors))?;
            let config = conf.config().map_err(|errors| lines(&errors))?;
            let notes = conf.mapping().notes.iter().map(ToString::to_string).collect();
            (sources::with_variables(config, std::env::vars_os()), notes)
        }
    };
    let loaded = loaded.map_err(|errors| errors.to_string())?;
    let further_sources = loaded.further_sources();
    let mut config = loaded.config;
    serve.apply(&mut config);
    Ok(Read { config, notes, further_sources })
}

/// The errors, one per line.
pub(crate) fn lines(errors: &[impl Display]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The configuration with the effective value of `limits.memory_bytes`. It stays 0 if there is no bound.
pub(crate) fn with_memory_bound(mut config: Config) -> Config {
    if let (0, Some((allowed, _))) = (config.limits.memory_bytes, memory_limit::allowed()) {
        config.limits.memory_bytes = allowed / 2;
    }
    config
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
