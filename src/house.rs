//! Takes changes of the configuration while midge runs: all of them or none, on a thread of its own, because reading a
//! file from a broken disk can block.
//!
//! Also changes the level of the log for a while.

use crate::listening::{Listening, listen, probe};
use crate::reload::{read, tell, unix_seconds, with_memory_bound};
use midge::admin::access::{AdminAccess, SharedAccess};
use midge::banner::admitted;
use midge::broker::BrokerSettings;
use midge::cli::Serve;
use midge::config::open_files::{self, Wanted};
use midge::control::access_policies::AccessPolicies;
use midge::control::housekeeping::{
    HouseRequest, HouseWork, Housekeeping, LOOK_AFTER, LogLevelReport, ReloadRefusal, ReloadReport,
};
use midge::control::logins::Logins;
use midge::driver::{Bell, SocketFile};
use midge::host::{Control, InForce};
use midge::logging::LevelSwitch;
use midge::settings::plan::{Change, Plan};
use midge::settings::{Config, Listener, LogLevel};
use midge::transport::tls::date;
use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The files of the Unix-domain sockets, each with the number of its listener. Removing one from the list removes the
/// file. `main` does so at the end, since this thread is not waited for.
pub(crate) type SocketFiles = Arc<Mutex<Vec<(u16, SocketFile)>>>;

/// Bring each shard the sockets of new listeners.
pub(crate) type ListenerSenders = Vec<Sender<(u16, OwnedFd)>>;

/// The largest number of changes that the log names. A plan of the admin interface has all.
const LOGGED_MAX: usize = 100;

/// The state of the thread.
pub(crate) struct Reload {
    /// The arguments, which name the file.
    pub(crate) serve: Serve,
    /// Passes changes to the shards.
    pub(crate) control: Arc<Control>,
    pub(crate) logins: Logins,
    /// Wake the shards.
    pub(crate) bells: Vec<Bell>,
    pub(crate) new_listeners: ListenerSenders,
    pub(crate) socket_files: SocketFiles,
    /// The configuration in force: that of the start with all changes that were taken.
    pub(crate) config: Config,
    /// Who may use the address of the admin interface, if it has one with a port.
    pub(crate) admin_access: Option<SharedAccess>,
    /// The switch of the log's level.
    pub(crate) level: LevelSwitch,
    /// The level of the log now.
    pub(crate) level_now: LogLevel,
    /// The time at which `log.level` returns, if another level was asked for a while.
    pub(crate) level_until: Option<Instant>,
    pub(crate) unconfirmed: Option<Unconfirmed>,
}

/// A reload that must be confirmed.
pub(crate) struct Unconfirmed {
    former: Former,
    until: Instant,
}

/// A configuration with everything that was read for it.
struct Former {
    config: Config,
    in_force: InForce,
    connections_max: usize,
    access: Option<Arc<AdminAccess>>,
}

/// A configuration that was read and found good.
struct Prepared {
    plan: Plan,
    config: Config,
    policies: AccessPolicies,
    settings: BrokerSettings,
    connections_max: usize,
    access: Option<Arc<AdminAccess>>,
    notes: Vec<String>,
    warnings: Vec<String>,
    /// The listeners that are not open yet, by number.
    added: Vec<u16>,
    /// The numbers and ports of those that are open now and are not wanted any more.
    removed: Vec<(u16, u16)>,
}

impl Prepared {
    fn added(&self) -> impl Iterator<Item = (u16, &Listener)> {
        self.added.iter().filter_map(|&number| Some((number, self.settings.listener(number)?)))
    }

    fn removed_ports(&self) -> Vec<u16> {
        self.removed.iter().map(|&(_, port)| port).collect()
    }
}

impl Reload {
    /// Reads everything again and checks it. Changes nothing.
    fn prepare(&self) -> Result<Prepared, String> {
        let file = read(&self.serve)?.config;
        let plan = Plan::new(&self.config, &file);
        let config = file.with_restart_options_of(&self.config);
        let current = self.control.in_force();
        let loaded = AccessPolicies::load(&config)?;
        let access = match &self.admin_access {
            None => None,
            Some(_) => Some(Arc::new(AdminAccess::load(&config.admin)?)),
        };
        let settings = current.settings.succeeded_by(with_memory_bound(config.clone()));
        let settings = settings.map_err(|full| full.to_string())?;
        let mut places = vec![None; settings.config.listeners.len()];
        for (place, &number) in settings.open_listeners().iter().enumerate() {
            places[usize::from(number)] = Some(place);
        }
        let connections_max = self.connections_max(&config)?;
        let mut warnings = loaded.warnings(unix_seconds());
        warnings.extend(access.iter().flat_map(|access| access.notices(unix_seconds())));
        let mut notes = admissions(&self.config, &config);
        let known = current.policies.certificates();
        notes.extend(loaded.certificates().into_iter().filter(|certificate| !known.contains(certificate)));
        let policies = loaded.arranged(&places, &current.policies);
        let (added, removed) = differences(&current.settings, &settings);
        Ok(Prepared {
            plan,
            config,
            policies,
            settings,
            connections_max,
            access,
            notes,
            warnings,
            added,
            removed,
        })
    }

    /// The effective `limits.connections`.
    fn connections_max(&self, config: &Config) -> Result<usize, String> {
        let (shards, listeners) = (self.bells.len(), config.listeners.len());
        let wanted = Wanted { connections: config.limits.connections, shards, listeners };
        open_files::connections(open_files::raise(), wanted)
    }

    /// What a reload would change.
    fn plan(&self) -> Result<ReloadReport, ReloadRefusal> {
        let prepared = self.prepare().map_err(ReloadRefusal::Wrong)?;
        probe(&prepared.config, prepared.added(), &prepared.removed_ports()).map_err(ReloadRefusal::Wrong)?;
        Ok(self.report(&prepared, None))
    }

    fn report(&self, prepared: &Prepared, confirm_within: Option<Duration>) -> ReloadReport {
        let open = |&(number, _): &(u16, u16)| self.control.open_of(number);
        ReloadReport {
            plan: prepared.plan.clone(),
            disconnected: prepared.removed.iter().map(open).sum(),
            notes: prepared.notes.clone(),
            warnings: prepared.warnings.clone(),
            confirm_within,
        }
    }

    /// Reads the configuration file and the files that it names again. An error leaves everything as it was. `by` says
    /// in the log who has asked.
    fn run(&mut self, by: &str, confirm_within: Option<Duration>) -> Result<ReloadReport, ReloadRefusal> {
        let done = self.try_run(by, confirm_within);
        match &done {
            Ok(_) => self.control.reloads.note(true),
            Err(ReloadRefusal::Wrong(errors)) => {
                self.control.reloads.note(false);
                tracing::error!("{by}: nothing is changed: {errors}");
            }
            Err(refusal) => tracing::warn!("{by}: nothing is changed: {refusal}"),
        }
        done
    }

    fn try_run(&mut self, by: &str, confirm_within: Option<Duration>) -> Result<ReloadReport, ReloadRefusal> {
        if let Some(unconfirmed) = &self.unconfirmed {
            let left = unconfirmed.until.saturating_duration_since(Instant::now());
            return Err(ReloadRefusal::Unconfirmed(left));
        }
        let prepared = self.prepare().map_err(ReloadRefusal::Wrong)?;
        let former = Former {
            config: self.config.clone(),
            in_force: self.control.in_force(),
            connections_max: self.control.connections_max(),
            access: self.admin_access.as_ref().map(SharedAccess::current),
        };
        let shards = self.bells.len();
        let listening = listen(&prepared.config, prepared.added(), shards, &prepared.removed_ports())
            .map_err(ReloadRefusal::Wrong)?;
        self.logins
            .prepare(&prepared.policies)
            .map_err(|error| ReloadRefusal::Wrong(format!("no threads for logins: {error}")))?;
        let mut report = self.report(&prepared, confirm_within);
        for certificate in prepared.policies.certificates() {
            tracing::info!("{by}: {certificate}");
        }
        let listens = listening.addresses.iter().map(|(_, address)| format!("listening on {address}"));
        report.notes.extend(listens);
        for line in admissions(&self.config, &prepared.config) {
            tracing::info!("{by}: {line}");
        }
        self.apply(by, prepared, listening);
        tell(&report.warnings);
        self.log_plan(by, &report);
        if let Some(patience) = confirm_within {
            self.unconfirmed = Some(Unconfirmed { former, until: Instant::now() + patience });
            tracing::warn!(
                "{by}: the former configuration returns in {} s, unless \"midge ctl reload confirm\" comes before",
                patience.as_secs()
            );
        }
        Ok(report)
    }

    /// Puts a configuration into force.
    fn apply(&mut self, by: &str, prepared: Prepared, listening: Listening) {
        for (sender, sockets) in self.new_listeners.iter().zip(listening.sockets) {
            for socket in sockets {
                // A shard that is gone has ended the process, or is about to.
                let _ = sender.send(socket);
            }
        }
        let settings = Arc::new(prepared.settings);
        self.control.change(prepared.policies, Arc::clone(&settings), prepared.connections_max);
        let mut files = self.socket_files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|(number, _)| settings.is_open(*number));
        files.extend(listening.files);
        drop(files);
        if let (Some(shared), Some(access)) = (&self.admin_access, prepared.access) {
            shared.change(access);
        }
        self.bells.iter().for_each(Bell::ring);
        for (_, address) in &listening.addresses {
            tracing::info!("{by}: listening on {address}");
        }
        let level = prepared.config.log.level;
        self.config = Config { log: self.config.log.clone(), ..prepared.config };
        self.follow_level(by, level);
    }

    fn log_plan(&self, by: &str, report: &ReloadReport) {
        tracing::info!("{by}: certificates, keys, password files and access lists are read again");
        let is_level = |change: &&Change| change.key == "log.level";
        let taken: Vec<&Change> = report.plan.taken().filter(|change| !is_level(change)).collect();
        for change in taken.iter().take(LOGGED_MAX) {
            tracing::info!("{by}: {change}");
        }
        if taken.len() > LOGGED_MAX {
            tracing::info!("{by}: {} more options have changed", taken.len() - LOGGED_MAX);
        }
        if report.disconnected > 0 {
            tracing::warn!("{by}: {} connections of removed listeners are closed", report.disconnected);
        }
        for change in report.plan.waiting() {
            tracing::warn!("{by}: waits for a restart: {change}");
        }
    }

    /// Goes back to the configuration before the last reload. Nothing is read for it.
    fn go_back(&mut self) {
        const BY: &str = "reload not confirmed";
        let Some(Unconfirmed { former, .. }) = self.unconfirmed.take() else { return };
        let Former { mut config, in_force, connections_max, access } = former;
        let current = self.control.in_force();
        let mut sockets = Listening::none(self.bells.len());
        // A port may have been taken by another process since. The rest of the configuration returns all the same.
        let settings = loop {
            let memory_bytes = in_force.settings.config.limits.memory_bytes;
            let mut effective = config.clone();
            effective.limits.memory_bytes = memory_bytes;
            let settings = match current.settings.succeeded_by(effective) {
                Ok(settings) => settings,
                Err(full) => return tracing::error!("{BY}: the former configuration can't return: {full}"),
            };
            let (added, removed) = differences(&current.settings, &settings);
            let ports: Vec<u16> = removed.into_iter().map(|(_, port)| port).collect();
            let opened = self.reopen(&config, &settings, &added, &ports, &mut sockets);
            let Err((listener, error)) = opened else { break settings };
            tracing::error!("{BY}: a listener can't return: {error}");
            config.listeners.retain(|other| !other.is_same(&listener));
            if config.listeners.is_empty() {
                return tracing::error!(
                    "{BY}: the former configuration can't return: it has no other listener"
                );
            }
        };
        let places: Vec<Option<usize>> = (0..settings.config.listeners.len())
            .map(|number| {
                let number = u16::try_from(number).expect("at most 255 listeners");
                in_force.settings.is_open(number).then_some(usize::from(number))
            })
            .collect();
        let policies = in_force.policies.arranged(&places, &current.policies);
        let prepared = Prepared {
            plan: Plan::new(&self.config, &config),
            config,
            policies,
            settings,
            connections_max,
            access,
            notes: Vec::new(),
            warnings: Vec::new(),
            added: Vec::new(),
            removed: Vec::new(),
        };
        let plan = prepared.plan.clone();
        self.apply(BY, prepared, sockets);
        tracing::warn!("{BY}: the former configuration has returned ({} changes)", plan.changes.len());
    }

    /// Opens the sockets of listeners that are not among `sockets` yet. Fails with the first one that can't be opened.
    fn reopen(
        &self,
        config: &Config,
        settings: &BrokerSettings,
        added: &[u16],
        ports: &[u16],
        sockets: &mut Listening,
    ) -> Result<(), (Box<Listener>, String)> {
        for &number in added {
            let Some(listener) = settings.listener(number).filter(|_| !sockets.has(number)) else { continue };
            let opened = listen(config, [(number, listener)], self.bells.len(), ports);
            sockets.add(opened.map_err(|error| (Box::new(listener.clone()), error))?);
        }
        Ok(())
    }

    fn confirm(&mut self) -> Result<(), ReloadRefusal> {
        if self.unconfirmed.take().is_none() {
            return Err(ReloadRefusal::NothingToConfirm);
        }
        tracing::info!("reload: the new configuration is confirmed");
        Ok(())
    }

    /// Takes over `log.level`. A level that was asked for by the admin interface stays unless `log.level` changes.
    fn follow_level(&mut self, by: &str, level: LogLevel) {
        let old = std::mem::replace(&mut self.config.log.level, level);
        if level != old {
            self.level_until = None;
            self.switch_level(level, || {
                tracing::info!("{by}: log.level is now \"{}\", and was \"{}\"", level.word(), old.word());
            });
        }
    }

    /// Logs the change at whichever of the two levels shows more.
    fn switch_level(&mut self, level: LogLevel, log: impl FnOnce()) {
        let old = std::mem::replace(&mut self.level_now, level);
        if level > old {
            self.level.set(level);
        }
        log();
        if level < old {
            self.level.set(level);
        }
    }

    fn change_level(&mut self, level: LogLevel, lasts: Option<Duration>) {
        let configured = self.config.log.level;
        let returns = lasts.filter(|_| level != configured);
        self.level_until = returns.map(|lasts| Instant::now() + lasts);
        self.switch_level(level, || match returns {
            Some(lasts) => tracing::warn!(
                "the admin interface has set the level of the log to \"{}\" for {} s, until {}; then \"{}\" returns",
                level.word(),
                lasts.as_secs(),
                date(unix_seconds().saturating_add_unsigned(lasts.as_secs())),
                configured.word()
            ),
            None => tracing::warn!(
                "the admin interface has set the level of the log to \"{}\", until log.level changes or midge stops",
                level.word()
            ),
        });
    }

    fn report_level(&self) -> LogLevelReport {
        LogLevelReport {
            level: self.level_now,
            configured: self.config.log.level,
            left: self.level_until.map(|until| until.saturating_duration_since(Instant::now())),
        }
    }
}

/// Who may connect to listeners that are new, or let in others than before.
fn admissions(from: &Config, to: &Config) -> Vec<String> {
    let told = |config: &Config, listener: &Listener| admitted(config, listener, &[&listener.address]);
    let mut lines = Vec::new();
    for listener in &to.listeners {
        let former = from.listeners.iter().find(|former| former.is_same(listener));
        let (former, now) = (former.map(|former| told(from, former)), told(to, listener));
        if former.as_ref() != Some(&now) {
            lines.push(format!("listener {}: {now}", listener.address));
        }
    }
    lines
}

/// The numbers of listeners that only the second has open, and the numbers and ports of those that only the first has.
fn differences(from: &BrokerSettings, to: &BrokerSettings) -> (Vec<u16>, Vec<(u16, u16)>) {
    let added = to.open_listeners().iter().copied().filter(|&number| !from.is_open(number)).collect();
    let removed = from.open_listeners().iter().filter(|&&number| !to.is_open(number));
    let removed =
        removed.filter_map(|&number| Some((number, from.listener(number)?.address.port()))).collect();
    (added, removed)
}

impl HouseWork for Reload {
    fn hang_up(&mut self) {
        // The log has the answer.
        let _ = self.run("SIGHUP", None);
    }

    fn handle(&mut self, request: HouseRequest) {
        match request {
            HouseRequest::Plan(reply) => reply(self.plan()),
            HouseRequest::Reload { confirm_within, reply } => reply(self.run("reload", confirm_within)),
            HouseRequest::Confirm(reply) => reply(self.confirm()),
            HouseRequest::LogLevel(reply) => reply(self.report_level()),
            HouseRequest::ChangeLogLevel { level, lasts, reply } => {
                self.change_level(level, lasts);
                reply(self.report_level());
            }
            HouseRequest::Wake => {}
        }
    }

    fn tend(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.unconfirmed.as_ref().is_some_and(|unconfirmed| unconfirmed.until <= now) {
            self.go_back();
        }
        if self.level_until.take_if(|until| *until <= now).is_some() {
            let level = self.config.log.level;
            self.switch_level(level, || {
                tracing::warn!("the level of the log is \"{}\" again, as log.level says", level.word());
            });
        }
        let unconfirmed = self.unconfirmed.as_ref().map(|unconfirmed| unconfirmed.until);
        let due = unconfirmed.into_iter().chain(self.level_until).min()?;
        Some(due.saturating_duration_since(now))
    }

    fn look(&mut self, now: i64) {
        tell(&self.control.outdated(now));
        if let Some(access) = &self.admin_access {
            tell(&access.current().notices(now));
        }
    }
}

/// Starts the thread. It also checks the dates of certificates once a day.
pub(crate) fn keep_house(asked: Housekeeping, mut reload: Reload) -> std::io::Result<()> {
    let looked_at = unix_seconds();
    std::thread::Builder::new()
        .name("midge-house".into())
        .spawn(move || asked.serve(looked_at, LOOK_AFTER, unix_seconds, &mut reload))?;
    Ok(())
}
