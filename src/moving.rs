//! `midge import-mosquitto`: converts mosquitto's configuration and mosquitto's stored state into midge's.

use crate::reload::{self, unix_seconds};
use crate::{Failure, kept_in, print, warn};
use midge::base::Diagnostic;
use midge::cli::ImportDatabase;
use midge::config::mosquitto::MosquittoConf;
use midge::driver::Clock;
use midge::persistence::mosquitto::{self, Database, ImportTerms};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

/// Prints a `mosquitto.conf` as a midge.toml. Prints nothing if midge can't do all of it, unless
/// `is_partial`.
pub(crate) fn import(file: &Path, is_partial: bool) -> Result<(), Failure> {
    let wrong = |errors: Vec<Diagnostic>| Failure::usage(reload::lines(&errors));
    let conf = match is_partial {
        true => MosquittoConf::load_partial(file),
        false => MosquittoConf::load(file, None),
    };
    let conf = conf.map_err(|errors| {
        let mut failure = wrong(errors);
        if !is_partial && MosquittoConf::load_partial(file).is_ok() {
            failure.words +=
                "\nmidge: import-mosquitto --partial leaves these lines out, and writes the rest";
        }
        failure
    })?;
    conf.config().map_err(wrong)?;
    for note in &conf.mapping().notes {
        warn(&note.to_string());
    }
    print(&conf.midge_toml())?;
    if conf.left_out.is_empty() {
        return Ok(());
    }
    let left = reload::lines(&conf.left_out);
    Err(Failure {
        words: format!("{left}\nmidge: left out: {}", lines_of(conf.left_out.len())),
        status: EXIT_PARTIAL,
    })
}

fn lines_of(count: usize) -> String {
    if count == 1 { "1 line".to_owned() } else { format!("{count} lines") }
}

/// The exit status of a partial import that left lines out.
const EXIT_PARTIAL: u8 = 3;

/// Imports a database of mosquitto.
pub(crate) fn import_database(arguments: &ImportDatabase) -> Result<(), Failure> {
    let file = &arguments.database;
    let (bytes, written_seconds) =
        read(file).map_err(|error| Failure::new(format!("can't read {}: {error}", file.display())))?;
    if bytes.starts_with(SQLITE) {
        return Err(Failure::new(format!("{}: {SQLITE_WORDS}", file.display())));
    }
    let database = Database::parse(&bytes)
        .map_err(|error| Failure::new(format!("{}: {error}; nothing is taken", file.display())))?;
    let config = reload::read(&arguments.serve).map_err(Failure::usage)?.config;
    let into = match &arguments.into {
        Some(into) => into.clone(),
        None => kept_in(&config)?.ok_or_else(|| Failure::new(NO_DIRECTORY))?,
    };
    let ports: Vec<u16> = config.listeners.iter().map(|listener| listener.address.port()).collect();
    let (_, now) = Clock::start();
    let terms = ImportTerms { now, written_seconds, ports: &ports };
    let takings =
        mosquitto::import(&into, &database, &terms).map_err(|error| Failure::new(error.to_string()))?;
    if !database.is_final {
        warn(&format!(
            "{}: mosquitto did not write this file at its end, because it still runs or was killed; later changes are \
             not in it",
            file.display()
        ));
    }
    let (file, version, into) = (file.display(), database.version, into.display());
    print(&format!("{file}: a database of mosquitto, format {version}\n{takings}written: {into}\n"))
}

/// The first bytes of an SQLite file.
const SQLITE: &[u8] = b"SQLite format 3\0";
const SQLITE_WORDS: &str = "this is a file of SQLite, as mosquitto 2.1's plugin persist_sqlite writes it; midge reads \
                            the mosquitto.db that \"persistence true\" writes";
const NO_DIRECTORY: &str =
    "the configuration keeps nothing (persistence.directory is empty); --into names a directory";

/// The bytes of a file, and the time of its last change.
fn read(path: &Path) -> std::io::Result<(Vec<u8>, i64)> {
    // Reading a pipe could wait forever, and a device has no end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut file = File::open(path)?;
    let written = file.metadata()?.modified()?.duration_since(SystemTime::UNIX_EPOCH);
    let written = written.ok().and_then(|since| i64::try_from(since.as_secs()).ok());
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok((bytes, written.unwrap_or_else(unix_seconds)))
}
