//! The `midge` program: arguments, configuration, start and stop. The library does the rest.

#![allow(clippy::disallowed_methods, reason = "the program owns its threads and the start of the clock")]

mod checks;
mod house;
mod listening;
mod moving;
mod reload;
mod signals;

use house::{ListenerSenders, Reload, SocketFiles};
use listening::{Listening, listen};
use midge::admin::ctl::{self, CtlArgs};
use midge::admin::{AdminParts, AdminServer, AdminSockets, NoAdmin};
use midge::auth::passwd::{self, PasswdArgs};
use midge::banner::{self, Started, banner};
use midge::base::SHARDS_MAX;
use midge::broker::Shared;
use midge::cli::{self, Command, Serve, StoreAction};
use midge::config::memory_limit;
use midge::config::open_files::{self, Wanted};
use midge::config::sources;
use midge::control::access_policies::AccessPolicies;
use midge::control::housekeeping;
use midge::control::logins::Logins;
use midge::control::questions::Questions;
use midge::driver::{self, Bell, NetConfig, ShardIo};
use midge::host::{Control, ShardStart, StartStore, run};
use midge::logging;
use midge::pages;
use midge::persistence::{Checkpoint, Recovery, StoreDirectory, recover, tools};
use midge::settings::{Config, Pin, shown_cores, state_directory};
use midge::store::segment::LogName;
use midge::store::{ClockReading, LogClock, Measure, StoreError};
use reload::{Read, unix_seconds};
use signals::{Serving, Signals};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

/// The exit status for a wrong configuration or wrong arguments.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => error.exit(),
    };
    let done = match command {
        Command::Serve(serve) => start(&serve),
        Command::CheckConfig(arguments) => checks::check_config(&arguments),
        Command::ImportMosquitto { file, partial } => moving::import(&file, partial),
        Command::ImportDatabase(arguments) => moving::import_database(&arguments),
        Command::Passwd(arguments) => change_password(&arguments),
        Command::Store(action) => store(&action),
        Command::Ctl(arguments) => return ask(&arguments),
        Command::Completions(shell) => pages::completions(shell, &mut Unread(std::io::stdout().lock()))
            .map_err(|error| Failure::new(format!("can't write the completions: {error}"))),
        Command::Man(directory) => pages::write_manual(&directory)
            .map_err(|error| Failure::new(format!("can't write to {}: {error}", directory.display()))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            warn(&failure.words);
            ExitCode::from(failure.status)
        }
    }
}

/// `midge ctl`.
fn ask(arguments: &CtlArgs) -> ExitCode {
    let config = match sources::load(arguments.config.as_deref(), std::env::vars_os()) {
        Ok(loaded) => loaded.config,
        Err(errors) => {
            warn(&errors.to_string());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let is_root = rustix::process::geteuid().is_root();
    let env = |name: &str| std::env::var_os(name);
    match ctl::run(arguments, &config.admin, is_root, env, &mut std::io::stdout().lock()) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            warn(&format!("midge ctl: {}", failure.words));
            ExitCode::from(failure.status)
        }
    }
}

/// The reason why the program ends before it serves.
struct Failure {
    words: String,
    status: u8,
}

impl Failure {
    fn new(words: impl Into<String>) -> Failure {
        Failure { words: format!("midge: {}", words.into()), status: 1 }
    }

    /// An error in the configuration, in the words of its reader.
    fn usage(words: String) -> Failure {
        Failure { words, status: EXIT_USAGE }
    }
}

/// Writes to standard output. A closed output, such as that of `head`, is not an error.
fn print(words: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(words.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("can't write to the output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a line to standard error. A closed standard error is ignored.
fn warn(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// `midge passwd`.
fn change_password(arguments: &PasswdArgs) -> Result<(), Failure> {
    let done = passwd::run(arguments).map_err(|error| Failure::new(error.to_string()))?;
    for warning in &done.warnings {
        warn(&format!("midge: {warning}"));
    }
    print(&format!("{}\n", done.words))
}

/// The cores that the shards are pinned to. `None` if they are not pinned.
fn cores(pin: &Pin) -> Result<Option<Vec<usize>>, Failure> {
    if *pin == Pin::None {
        return Ok(None);
    }
    let usable = driver::processors()
        .map_err(|error| Failure::new(format!("the cores of this machine can't be determined: {error}")))?;
    let Pin::Cores(wanted) = pin else { return Ok(Some(usable)) };
    match wanted.iter().find(|core| !usable.contains(core)) {
        None => Ok(Some(wanted.clone())),
        Some(core) => Err(Failure::usage(format!(
            "midge: runtime.pin names core {core}; this process may use {}",
            shown_cores(&usable)
        ))),
    }
}

/// The number of shards, and the cores that they are pinned to, if any.
fn shards(config: &Config) -> Result<(usize, Option<Vec<usize>>), Failure> {
    let cores = cores(&config.runtime.pin)?;
    let shards = match (config.runtime.shards, &cores, &config.runtime.pin) {
        (0, Some(cores), Pin::Cores(_)) => cores.len().min(SHARDS_MAX),
        // A CPU quota of the cgroup counts too.
        (0, ..) => std::thread::available_parallelism().map_or(1, usize::from).min(SHARDS_MAX),
        (shards, ..) => shards,
    };
    Ok((shards, cores))
}

fn start(serve: &Serve) -> Result<(), Failure> {
    let Read { config, notes, further_sources } = reload::read(serve).map_err(Failure::usage)?;
    let log_guard = logging::start(&config.log).map_err(Failure::new)?;
    let signals = Signals::catch().map_err(|error| Failure::new(format!("no signal handler: {error}")))?;
    let (shards, cores) = shards(&config)?;
    let ring = driver::check_kernel(shards).map_err(|problem| Failure::new(problem.to_string()))?;
    let open_files = open_files::raise();
    let wanted = Wanted { connections: config.limits.connections, shards, listeners: config.listeners.len() };
    let connections = open_files::connections(open_files, wanted).map_err(Failure::new)?;
    let policies =
        AccessPolicies::load(&config).map_err(|words| Failure::usage(format!("midge: {words}")))?;
    // This comes before any client can connect: if the kernel refuses, the start ends here.
    let prepared =
        driver::prepare_shards(shards, cores.as_deref(), &NetConfig { ring, ..NetConfig::default() })
            .map_err(|error| Failure::new(error.to_string()))?;
    let listeners = (0..).zip(&config.listeners);
    let opened = listen(&config, listeners, shards, &[]).map_err(Failure::new)?;
    let Listening { addresses, mut sockets, files } = opened;
    let socket_files: SocketFiles = Arc::new(Mutex::new(files));
    let admin = open_admin(&config)?;
    let seed = entropy();
    let started = Instant::now();
    let (clock, reading) = driver::Clock::start();
    let kept = open_store(&config, shards, seed, reading)?;
    let memory_allowed = memory_limit::allowed();
    let effective = reload::with_memory_bound(config.clone());
    let memory_bytes = match effective.limits.memory_bytes {
        0 => usize::MAX,
        bytes => bytes,
    };
    let is_ephemeral = kept.is_none();
    let kept_words = banner::kept(config.persistence.sync, kept.as_ref().map(|kept| kept.directory.path()));
    let file = serve.config.as_ref().or(serve.mosquitto_conf.as_ref()).map(|file| file.display().to_string());
    for line in banner(
        &config,
        &Started {
            shards,
            cores: cores.as_deref(),
            ring,
            listeners: &addresses,
            config_file: file.as_deref(),
            further_sources: &further_sources,
            open_files,
            connections,
            memory_bytes,
            memory_allowed,
            state_directory: kept.as_ref().map(|kept| kept.directory.path()),
        },
    ) {
        tracing::info!("{line}");
    }
    match &admin {
        Ok(sockets) => tracing::info!("Admin interface: {}.", sockets.address),
        Err(Some(why)) => tracing::warn!("No admin interface: {why}."),
        Err(None) => tracing::info!("No admin interface (admin.address = \"\")."),
    }
    for certificate in policies.certificates() {
        tracing::info!("{certificate}");
    }
    reload::tell(&notes);
    reload::tell(&policies.warnings(unix_seconds()));
    if let Some(access) = admin.as_ref().ok().and_then(AdminSockets::access) {
        reload::tell(&access.current().notices(unix_seconds()));
    }
    if let Some(kept) = &kept {
        report(&kept.recovery, started);
    }

    let mut bells = Vec::new();
    for _ in 0..shards {
        bells.push(Bell::new().map_err(|error| Failure::new(format!("no event counter: {error}")))?);
    }
    let logins =
        Logins::start(&policies).map_err(|error| Failure::new(format!("no threads for logins: {error}")))?;
    let control = Control::new(&effective, policies, connections, Box::new(logins.clone()), seed);
    let control = Arc::new(control);
    // The lock on the directory is held until the end.
    let (_directory, checkpoint, mut stores) = match kept {
        Some(kept) => {
            let (directory, checkpoint, stores) = kept.into_parts(seed);
            (Some(directory), Some(checkpoint), stores)
        }
        None => (None, None, (0..shards).map(|_| None).collect()),
    };
    let (questions, boxes) = Questions::new(bells.iter().cloned().map(|bell| {
        let ring: Arc<dyn Fn() + Send + Sync> = Arc::new(move || bell.ring());
        ring
    }));
    let mut boxes = boxes.into_iter();
    let mesh_capacity = config.runtime.mesh_capacity;
    let (shared, interests) = Shared::new(effective, shards, seed);
    let shared = Arc::new(shared);
    let mut starts = Vec::new();
    let mut new_listeners = ListenerSenders::new();
    let mesh = driver::mesh(driver::MeshSize { shards, ring_items: mesh_capacity });
    let ends = mesh.into_iter().zip(bells.clone()).zip(interests);
    for (number, ((mesh, bell), interest)) in ends.enumerate() {
        let id = u16::try_from(number).expect("at most 128 shards");
        let rung = bell.clone();
        let (sender, receiver) = mpsc::channel();
        new_listeners.push(sender);
        let start = ShardStart {
            id,
            shared: Arc::clone(&shared),
            control: Arc::clone(&control),
            listeners: std::mem::take(&mut sockets[number]),
            new_listeners: Some(receiver),
            bell: Arc::new(move || rung.ring()),
            questions: boxes.next(),
            interest,
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(id) << 32 | 0x5eed),
        };
        starts.push(Some((start, stores[number].take(), mesh, bell)));
    }
    let login_counts = logins.counts();
    let (requests, asked) = housekeeping::requests();
    let reload = Reload {
        serve: serve.clone(),
        control: Arc::clone(&control),
        logins,
        bells: bells.clone(),
        new_listeners,
        socket_files: Arc::clone(&socket_files),
        level_now: config.log.level,
        config,
        admin_access: admin.as_ref().ok().and_then(AdminSockets::access),
        level: log_guard.level(),
        level_until: None,
        unconfirmed: None,
    };
    house::keep_house(asked, reload)
        .map_err(|error| Failure::new(format!("no thread for SIGHUP: {error}")))?;
    let unkept = is_ephemeral.then_some(kept_words);
    signals.serve(Serving {
        control: Arc::clone(&control),
        shared: Arc::clone(&shared),
        bells: bells.clone(),
        requests: requests.clone(),
        unkept,
    });
    let starts = Arc::new(Mutex::new(starts));
    let dropped = log_guard.dropped_lines_counter();
    let (stopping, rung) = (Arc::clone(&control), bells.clone());
    let stop = move || {
        stopping.stop.store(true, std::sync::atomic::Ordering::Release);
        rung.iter().for_each(Bell::ring);
    };
    let admin = admin.ok().map(|sockets| {
        AdminServer::start(
            sockets,
            AdminParts {
                questions,
                control: Arc::clone(&control),
                shared: Arc::clone(&shared),
                checkpoint: checkpoint.as_ref().map(Checkpoint::submitter),
                logins: login_counts,
                log_lines: Box::new(move || dropped.dropped_lines() as u64),
                stop: Box::new(stop),
                house: requests,
                clock: Box::new(move || clock.now()),
            },
        )
    });
    let admin = admin.transpose().map_err(|error| Failure::new(format!("no admin interface: {error}")))?;
    let threads = Arc::clone(&control);
    let running = prepared.start(move |number, net| {
        let thread = u32::try_from(rustix::thread::gettid().as_raw_pid()).unwrap_or_default();
        threads.threads[number].store(thread, std::sync::atomic::Ordering::Relaxed);
        let start = starts.lock().expect("no shard panics while it holds the lock")[number].take();
        let (start, store, mesh, bell) = start.expect("each shard starts once");
        let id = start.id;
        if let Err(error) = ShardIo::join(net, mesh, &bell, clock).and_then(|io| run(start, store, io)) {
            // A broker can't work without the ring or the log of one of its shards.
            let _ = writeln!(std::io::stderr(), "midge: shard {id} can't go on: {error}");
            std::process::exit(1);
        }
    });
    running.join();
    if let Some(admin) = admin {
        admin.stop();
    }
    if let Some(checkpoint) = checkpoint {
        checkpoint.stop();
    }
    socket_files.lock().unwrap_or_else(PoisonError::into_inner).clear();
    tracing::info!("stopped");
    drop(log_guard);
    Ok(())
}

/// Binds the admin interface. Without one the broker serves too, and the inner error says why there is none.
fn open_admin(config: &Config) -> Result<Result<AdminSockets, Option<String>>, Failure> {
    let is_root = rustix::process::geteuid().is_root();
    match AdminSockets::bind(&config.admin, is_root, |name| std::env::var_os(name)) {
        Ok(sockets) => Ok(Ok(sockets)),
        Err(NoAdmin::Off) => Ok(Err(None)),
        Err(NoAdmin::Unavailable(why)) => Ok(Err(Some(why))),
        Err(NoAdmin::Wrong(words)) => Err(Failure::new(words)),
    }
}

/// The restored state and its directory.
struct Kept {
    directory: StoreDirectory,
    recovery: Recovery,
}

impl Kept {
    /// Returns the lock, the thread to stop at the end, and the state that each shard starts with.
    fn into_parts(self, seed: u64) -> (StoreDirectory, Checkpoint, Vec<Option<StartStore>>) {
        let Recovery { epoch, parts, report: _, clock, checkpoint } = self.recovery;
        let start = |(shard, restored)| StartStore {
            name: LogName { epoch, shard },
            directory: self.directory.log(),
            seed,
            restored,
            wall: clock.wall,
            checkpoint: Box::new(checkpoint.submitter()),
        };
        let stores = (0..).zip(parts).map(|part| Some(start(part))).collect();
        (self.directory, checkpoint, stores)
    }
}

/// The state directory. `None` if nothing is kept.
fn kept_in(config: &Config) -> Result<Option<PathBuf>, Failure> {
    let is_root = rustix::process::geteuid().is_root();
    state_directory(&config.persistence, is_root, |name| std::env::var_os(name)).map_err(Failure::new)
}

/// Locks the state directory and reads the state that an earlier run has left there.
fn open_store(config: &Config, shards: usize, seed: u64, now: ClockReading) -> Result<Option<Kept>, Failure> {
    let Some(path) = kept_in(config)? else { return Ok(None) };
    let hint = |error: StoreError| {
        Failure::new(format!(
            "{error} (persistence.directory says where to keep things, --ephemeral keeps nothing)"
        ))
    };
    let directory = StoreDirectory::open(&path).map_err(hint)?;
    let recovery = recover(&directory, shards, seed, Some(now)).map_err(hint)?;
    Ok(Some(Kept { directory, recovery }))
}

/// Logs a warning if the time that midge was down is not known for certain.
fn report_clock(clock: &LogClock) {
    let counted = clock.down_millis / 1000;
    match clock.measure {
        Measure::First | Measure::Steady | Measure::Wall => {}
        Measure::Bounded { by_wall_millis } => tracing::warn!(
            "The wall clock says that {} s have passed since the last record. It may have been wrong at that time, so \
             only {counted} s count for expiries and delays.",
            by_wall_millis / 1000
        ),
        Measure::Unknown { by_wall_millis } => tracing::warn!(
            "The wall clock has moved by {} s since the last record, so one of the two times is wrong. None of this \
             time counts for expiries and delays.",
            by_wall_millis / 1000
        ),
    }
}

fn report(recovery: &Recovery, started: Instant) {
    let report = &recovery.report;
    report_clock(&recovery.clock);
    let counts = &report.restored;
    tracing::info!(
        "Restored {} sessions with {} subscriptions and {} messages, and {} retained messages, in {} ms.",
        counts.sessions,
        counts.subscriptions,
        counts.deliveries,
        counts.retained,
        started.elapsed().as_millis()
    );
    if counts.wills > 0 {
        tracing::info!("Publishing the wills of {} sessions that ended with the broker.", counts.wills);
    }
    for damage in &report.damage {
        tracing::error!("Damage: {damage}.");
    }
    if report.bad_rows > 0 || report.ignored > 0 {
        tracing::error!(
            "Damage: {} rows of the checkpoint and {} records of the log could not be used.",
            report.bad_rows,
            report.ignored
        );
    }
}

/// `midge store`.
fn store(action: &StoreAction) -> Result<(), Failure> {
    let mut out = Unread(std::io::stdout().lock());
    let failed = |error: StoreError| Failure::new(error.to_string());
    match action {
        StoreAction::Verify { directory } => {
            if !tools::verify(directory, &mut out).map_err(failed)? {
                return Err(Failure::new(format!("{} is damaged", directory.display())));
            }
            Ok(())
        }
        // Records that nobody reads are not read from the log either.
        StoreAction::Dump { directory } => match tools::dump(directory, &mut out.0) {
            Err(error) if error.is_broken_pipe() => Ok(()),
            done => done.map_err(failed),
        },
        StoreAction::Repair { directory } => tools::repair(directory, &mut out).map_err(failed),
    }
}

/// An output for work that must be completed even if the reader closes it.
struct Unread<W>(W);

impl<W: Write> Write for Unread<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            done => done,
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            done => done,
        }
    }
}

/// A number that an outsider can't know, for the keys of hash tables and for client identifiers.
fn entropy() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
