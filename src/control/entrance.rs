//! What the configuration says of those who want in: doors, password files and access lists of all listeners,
//! read at the start and again on SIGHUP, all of it or nothing.

use crate::auth::access::{Access, Login, Verdict};
use crate::auth::acl::{self, Acl};
use crate::auth::gate::GateSettings;
use crate::auth::hash::HashScratch;
use crate::auth::password_file::PasswordFile;
use crate::config::{Config, Listener, UserNames};
use crate::control::pool::{Lane, LaneSettings, Outcome, Pool, PoolSettings};
use crate::transport::Door;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// For each listener, by its number. Cheap to clone.
#[derive(Clone)]
pub struct Entrance {
    /// What is put in front of MQTT.
    pub doors: Arc<[Door]>,
    /// What the machine asks of clients.
    pub access: Arc<[Access]>,
    passwords: Arc<[Option<Arc<PasswordFile>>]>,
    /// Which addresses may come in, by all listeners.
    pub gate: Arc<GateSettings>,
}

impl Entrance {
    /// Reads every file that the listeners name, each once.
    ///
    /// # Errors
    /// What is wrong with the first that can't be used: file, line, and what is allowed.
    pub fn load(config: &Config) -> Result<Entrance, String> {
        let (mut doors, mut access, mut passwords) = (Vec::new(), Vec::new(), Vec::new());
        let mut password_files = BTreeMap::new();
        let mut acl_files = BTreeMap::new();
        for listener in &config.listeners {
            doors.push(Door::of(listener)?);
            let file = listener.password_file.as_ref().unwrap_or(&config.auth.password_file);
            let passwords_here = once(&mut password_files, file, |path| {
                PasswordFile::load(path).map(Arc::new).map_err(|errors| errors.to_string())
            })?;
            let file = listener.acl_file.as_ref().unwrap_or(&config.acl.file);
            access.push(Access {
                acl: once(&mut acl_files, file, load_acl)?,
                checks_passwords: passwords_here.is_some(),
                names_by_certificate: listener.tls_user_name != UserNames::None,
            });
            passwords.push(passwords_here);
        }
        Ok(Entrance {
            doors: doors.into(),
            access: access.into(),
            passwords: passwords.into(),
            gate: Arc::new(GateSettings::from(config)),
        })
    }

    /// Checks a login. It may take a hundred milliseconds, the same for users that are there and others.
    fn check(&self, login: &Login) -> Verdict {
        thread_local! {
            static SCRATCH: RefCell<HashScratch> = RefCell::new(HashScratch::default());
        }
        let file = self.passwords.get(usize::from(login.listener)).and_then(Option::as_ref);
        let Some(file) = file else { return Verdict::Bad };
        // None is not an empty one; but it takes as long.
        let password = login.password.as_deref().unwrap_or_default();
        let good = SCRATCH.with_borrow_mut(|scratch| file.verify_with(&login.user, password, scratch));
        if good && login.password.is_some() { Verdict::Good } else { Verdict::Bad }
    }
}

/// The file of a name, read once; none for an empty name.
fn once<T: Clone>(
    read: &mut BTreeMap<String, T>,
    file: &str,
    load: impl FnOnce(&Path) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if file.is_empty() {
        return Ok(None);
    }
    if let Some(have) = read.get(file) {
        return Ok(Some(have.clone()));
    }
    let loaded = load(Path::new(file))?;
    read.insert(file.to_owned(), loaded.clone());
    Ok(Some(loaded))
}

/// TOML by its name, else mosquitto's format.
fn load_acl(path: &Path) -> Result<Acl, String> {
    let loaded = match path.extension() {
        Some(extension) if extension == "toml" => acl::toml::load(path),
        _ => acl::mosquitto::load(path),
    };
    loaded.map_err(|errors| errors.to_string())
}

/// Is a certificate's name what a client is called on this listener?
pub fn user_of_certificate(
    listener: &Listener,
    common_name: Option<String>,
    subject: Option<String>,
) -> Option<Box<str>> {
    let name = match listener.tls_user_name {
        UserNames::None => None,
        UserNames::CommonName => common_name,
        UserNames::Subject => subject,
    };
    name.filter(|name| !name.is_empty()).map(String::into_boxed_str)
}

/// The threads that check logins, with a lower priority than the shards.
pub struct Logins {
    pool: Pool,
}

impl Logins {
    /// Starts them.
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn start() -> io::Result<Logins> {
        let settings = PoolSettings::default();
        // Nothing waits for other servers yet.
        let http = LaneSettings { threads: 0, ..settings.http };
        Ok(Logins { pool: Pool::start(PoolSettings { http, ..settings })? })
    }

    /// Has a login checked; `done` is told the answer, on another thread, exactly once, unless this says at once
    /// that too many wait.
    pub fn check(
        &self,
        entrance: &Entrance,
        login: Box<Login>,
        done: impl FnOnce(Verdict) + Send + 'static,
    ) -> Result<(), Verdict> {
        let entrance = entrance.clone();
        let checked = move |outcome| match outcome {
            Outcome::Done(verdict) => done(verdict),
            Outcome::Panicked | Outcome::Stopped => done(Verdict::Busy),
        };
        self.pool.submit(Lane::Hash, move || entrance.check(&login), checked).map_err(|_| Verdict::Busy)
    }
}
