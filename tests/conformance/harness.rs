//! The brokers under test. Over loopback there is one process for each shard count and configuration. It is
//! started when the first scenario needs it and ended when all scenarios of that shard count are done,
//! because a user may not lock memory for all of them. In memory there is one broker for each scenario and
//! configuration.
//!
//! `MIDGE_TEST_TARGET=host:port` runs the scenarios against a running broker of any kind.
//! `MIDGE_TEST_TARGET_NAME=host:port` does so for the scenarios that need the configuration NAME, which are
//! otherwise skipped.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock};
use std::time::{Duration, Instant};

use midge_kit::codec::*;
use midge_kit::{Client, PATIENCE, free_port};

use crate::line::{Clock, Memory, MemoryLink};
use crate::world::World;

/// The longest time for the start of a broker on a busy machine.
const START: Duration = Duration::from_secs(120);

/// The configuration of a broker besides its listener and its shards.
#[derive(Debug)]
pub struct Config {
    pub name: &'static str,
    pub text: &'static str,
}

pub const DEFAULT: Config = Config { name: "DEFAULT", text: "[sys]\ninterval_seconds = 1\n" };

/// A running broker.
pub struct Broker {
    pub shards: usize,
    /// Whether a broker in memory has a log.
    is_kept: bool,
    place: Place,
    clock: Clock,
}

enum Place {
    Address(String),
    Memory(Memory),
}

impl Broker {
    /// The broker over loopback with this shard count and the default configuration. `None` if a foreign
    /// target replaces all of them.
    pub fn standard(shards: usize) -> Option<Broker> {
        if foreign_target().is_some() && shards != 1 {
            return None;
        }
        Self::shared(shards, &DEFAULT)
    }

    /// A broker in memory with the default configuration.
    pub fn in_memory(shards: usize, is_kept: bool) -> Broker {
        Self::remembered(shards, is_kept, &DEFAULT)
    }

    fn remembered(shards: usize, is_kept: bool, config: &Config) -> Broker {
        let text = configuration("127.0.0.1:1883", shards, config);
        let mut config = midge::config::parse::parse(config.name, &text).expect("the configuration is valid");
        config.persistence.directory = if is_kept { "log".to_owned() } else { String::new() };
        let memory = Memory::new(World::new(shards, config));
        Broker { shards, is_kept, clock: Clock::Virtual(memory.clone()), place: Place::Memory(memory) }
    }

    fn at(shards: usize, address: String) -> Broker {
        Broker { shards, is_kept: true, clock: Clock::wall(), place: Place::Address(address) }
    }

    /// The broker of the same kind and shard count with another configuration.
    pub fn with(&self, config: &'static Config) -> Option<&'static Broker> {
        match self.place {
            Place::Address(_) => Self::shared(self.shards, config),
            Place::Memory(_) => Some(Self::remembered(self.shards, self.is_kept, config)),
        }
        .map(|broker| &*Box::leak(Box::new(broker)))
    }

    /// The time since some moment before the scenario.
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// The longest time that something may take which takes `time` on an idle machine. In memory every
    /// machine is idle.
    pub fn at_most(&self, time: Duration) -> Duration {
        if self.clock.is_virtual() { time } else { time + PATIENCE }
    }

    pub fn sleep(&self, time: Duration) {
        self.clock.sleep(time);
    }

    fn shared(shards: usize, config: &'static Config) -> Option<Broker> {
        let place = pool().entry((shards, config.name)).or_default().clone();
        HELD.with_borrow_mut(|held| held.push(place.clone()));
        let started = place.get_or_init(|| {
            let foreign = |address| Started { address, guard: None };
            match foreign_target() {
                Some(target) if config.name == DEFAULT.name => Some(foreign(target)),
                Some(_) => std::env::var(format!("MIDGE_TEST_TARGET_{}", config.name)).ok().map(foreign),
                None => Some(start(shards, config)),
            }
        });
        started.as_ref().map(|started| Broker::at(shards, started.address.clone()))
    }

    /// Ends the shared brokers of this shard count. No scenario uses them.
    pub fn end_shared(shards: usize) {
        Self::end_those(|&(count, _), _| count == shards);
    }

    /// The scenario of this thread is done: the shared brokers that it has used may end.
    pub fn release() {
        HELD.with_borrow_mut(Vec::clear);
    }

    /// Ends the brokers that no scenario uses at the moment. Those with the default configuration are always
    /// needed.
    fn end_unused() {
        Self::end_those(|&(_, name), place| name != DEFAULT.name && Arc::strong_count(place) == 1);
    }

    fn end_those(are_meant: impl Fn(&(usize, &'static str), &Shared) -> bool) {
        let ended: Vec<_> = pool().extract_if(|kind, place| are_meant(kind, place)).collect();
        for (_, place) in ended {
            let started = Arc::into_inner(place).and_then(OnceLock::into_inner).flatten();
            if let Some(mut guard) = started.and_then(|started| started.guard) {
                drop(guard.stdin.take());
                let _ = guard.wait();
            }
        }
    }

    /// A connection that has sent nothing yet.
    pub fn open(&self, version: Version) -> Client {
        let mut client = match &self.place {
            Place::Address(address) => {
                let stream = TcpStream::connect(address).expect("the broker accepts TCP connections");
                stream.set_nodelay(true).expect("a TCP socket takes TCP_NODELAY");
                Client::over(stream, version)
            }
            Place::Memory(memory) => {
                // The kernel spreads connections over the shards by a hash. Here they are spread in turn.
                static OPENED: AtomicU32 = AtomicU32::new(0);
                let shard = OPENED.fetch_add(1, Ordering::Relaxed) as usize % self.shards;
                let link = memory.world().open(shard);
                Client::over(MemoryLink { memory: memory.clone(), link }, version)
            }
        };
        client.tolerates_codes = foreign_target().is_some();
        client
    }

    /// A connection that has sent this CONNECT, and has read no answer.
    pub fn offer(&self, connect: Connect) -> Client {
        let mut peer = self.open(connect.version);
        peer.announced(&connect);
        peer.client_id = String::from_utf8_lossy(&connect.client_id).into_owned();
        peer.send(connect);
        peer
    }

    /// A connection whose CONNECT was accepted.
    pub fn connect(&self, connect: Connect) -> Client {
        let mut peer = self.offer(connect);
        let connack = peer.expect(Kind::Connack);
        if connack.code != 0 {
            peer.fail("CONNACK 0");
        }
        if let Some(assigned) = connack.text(ASSIGNED_CLIENT_ID) {
            peer.client_id = String::from_utf8_lossy(assigned).into_owned();
        }
        peer
    }

    /// Connects. Also returns Session Present.
    pub fn connect_present(&self, connect: Connect) -> (Client, bool) {
        let peer = self.connect(connect);
        let present = peer.connack.as_ref().is_some_and(|connack| connack.session_present);
        (peer, present)
    }

    /// A client with a clean session and a unique name.
    pub fn client(&self, version: Version) -> Client {
        self.connect(connect(version, self.unique("c")))
    }

    /// A name that no other scenario uses, of letters and digits, at most 23 of them for a short stem.
    pub fn unique(&self, stem: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        format!("{stem}x{:x}x{count:x}", std::process::id())
    }
}

/// A broker that scenarios share.
struct Started {
    address: String,
    /// Ends the broker when its pipe is closed. `None` if the broker is not ours.
    guard: Option<Child>,
}

/// `None`: there is no broker for this configuration.
type Shared = Arc<OnceLock<Option<Started>>>;

/// By shard count and the name of the configuration.
type Pool = HashMap<(usize, &'static str), Shared>;

thread_local! {
    /// The shared brokers that the scenario of this thread uses.
    static HELD: RefCell<Vec<Shared>> = const { RefCell::new(Vec::new()) };
}

fn pool() -> MutexGuard<'static, Pool> {
    static POOL: OnceLock<Mutex<Pool>> = OnceLock::new();
    POOL.get_or_init(Mutex::default).lock().unwrap_or_else(|poison| poison.into_inner())
}

/// The broker to test instead of our own.
pub fn foreign_target() -> Option<String> {
    std::env::var("MIDGE_TEST_TARGET").ok()
}

/// A broker of a single scenario, which may end it.
pub struct OwnBroker {
    pub broker: Broker,
    process: Option<Process>,
}

/// A listening broker, and the parameters of its start.
struct Process {
    child: Child,
    config: PathBuf,
}

impl Process {
    fn start(config: PathBuf, address: &str) -> Self {
        let mut midge = Command::new(env!("CARGO_BIN_EXE_midge"));
        midge.args(["serve", "--config"]).arg(&config).stdin(Stdio::null());
        Self { child: start_patiently(&mut midge, address, &config), config }
    }
}

impl OwnBroker {
    /// One of the same kind and shard count.
    pub fn like(broker: &Broker, config: &Config) -> Option<Self> {
        if foreign_target().is_some() {
            return None;
        }
        let shards = broker.shards;
        if let Place::Memory(_) = broker.place {
            return Some(Self { broker: Broker::remembered(shards, broker.is_kept, config), process: None });
        }
        // It has files of its own, separate from the shared broker.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let own = format!("{}-own{}", config.name, COUNT.fetch_add(1, Ordering::Relaxed));
        let (address, file) = prepare(shards, &own, config);
        let process = Process::start(file, &address);
        Some(Self { broker: Broker::at(shards, address), process: Some(process) })
    }

    /// Stops it, and starts it again with the state that it has kept. Returns false if it keeps nothing.
    pub fn restart(&mut self) -> bool {
        if !self.broker.is_kept {
            return false;
        }
        self.stop();
        self.expect_end();
        match (&self.broker.place, self.process.take()) {
            (Place::Memory(memory), _) => memory.restart(),
            (Place::Address(address), Some(process)) => {
                self.process = Some(Process::start(process.config, address));
            }
            (Place::Address(_), None) => unreachable!("a broker at an address is a process"),
        }
        true
    }

    /// Asks it to stop, as SIGTERM does.
    pub fn stop(&self) {
        match (&self.broker.place, &self.process) {
            (Place::Memory(memory), _) => memory.world().shut_down(),
            (Place::Address(_), None) => unreachable!("a broker at an address is a process"),
            (Place::Address(_), Some(process)) => {
                // This uses the shell, because the program `kill` is not everywhere.
                let mut shell = Command::new("sh");
                let status = shell.args(["-c", r#"kill "$0""#, &process.child.id().to_string()]).status();
                assert!(status.is_ok_and(|status| status.success()), "kill works");
            }
        }
    }

    /// Waits for its end, which must be successful.
    pub fn expect_end(&mut self) {
        match (&self.broker.place, &mut self.process) {
            (_, Some(process)) => {
                let status = process.child.wait().expect("a child can be waited for");
                assert!(status.success(), "{status}");
            }
            (Place::Memory(memory), None) => {
                let open: usize = memory.world().shards().map(|shard| shard.connections()).sum();
                assert_eq!(open, 0, "every connection was closed");
            }
            (Place::Address(_), None) => unreachable!("a broker at an address is a process"),
        }
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

/// Starts a broker that ends with this process, however this process ends: a shell waits for the closing of
/// the pipe from this process. If the broker ends by itself, the shell does too.
fn start(shards: usize, config: &Config) -> Started {
    const GUARD: &str = r#"exec 3<&0
        "$0" serve --config "$1" 3<&- & broker=$!
        (cat <&3 > /dev/null; kill "$broker"; sleep 2; kill -KILL "$broker") 2> /dev/null & guard=$!
        wait "$broker"; kill "$guard" 2> /dev/null"#;
    let (address, file) = prepare(shards, config.name, config);
    let mut shell = Command::new("sh");
    shell.args(["-c", GUARD, env!("CARGO_BIN_EXE_midge")]).arg(&file).stdin(Stdio::piped());
    let guard = start_patiently(&mut shell, &address, &file);
    Started { address, guard: Some(guard) }
}

/// Writes the configuration under this name. Returns the address and the file.
fn prepare(shards: usize, name: &str, config: &Config) -> (String, PathBuf) {
    let address = format!("127.0.0.1:{}", free_port());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    fs::create_dir_all(&folder).expect("the folder of temporary files can be made");
    static CLEAN: Once = Once::new();
    CLEAN.call_once(|| remove_old_states(&folder));
    let file = folder.join(format!("{name}-{shards}-{}.toml", std::process::id()));
    let state = file.with_extension("state");
    // A scenario's own broker begins without state.
    let _ = fs::remove_dir_all(&state);
    let text = configuration(&address, shards, config);
    // The scenarios run with everything on the disk, which is the default.
    let kept = format!("\n[persistence]\ndirectory = \"{}\"\nsegment_bytes = 1048576\n", state.display());
    fs::write(&file, text + &kept).expect("a temporary file can be written");
    (address, file)
}

/// Removes the state of brokers whose test processes have ended.
fn remove_old_states(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(process) = name.strip_suffix(".state").and_then(|name| name.rsplit('-').next()) else {
            continue;
        };
        if !Path::new("/proc").join(process).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn configuration(address: &str, shards: usize, config: &Config) -> String {
    format!("[[listeners]]\naddress = \"{address}\"\n\n[runtime]\nshards = {shards}\n\n{}", config.text)
}

/// Runs a command that serves with this configuration, and waits until it listens. The brokers of other
/// scenarios may use up a user's locked memory. In this case it ends those that no scenario uses, and tries
/// again.
fn start_patiently(command: &mut Command, address: &str, config: &Path) -> Child {
    let end = Instant::now() + START;
    let told = config.with_extension("log");
    loop {
        let log = fs::File::create(&told).expect("a temporary file can be written");
        command.stdout(log.try_clone().expect("a file handle can be doubled")).stderr(log);
        let mut child = command.spawn().expect("it is there");
        while TcpStream::connect(address).is_err() {
            let has_ended = child.try_wait().expect("our child").is_some();
            if has_ended || Instant::now() > end {
                let log = fs::read_to_string(&told).unwrap_or_default();
                if has_ended && log.contains("limit of locked memory") && Instant::now() < end {
                    break;
                }
                panic!("the broker of {} does not accept connections; it said:\n{log}", config.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if child.try_wait().expect("our child").is_none() {
            return child;
        }
        Broker::end_unused();
        std::thread::sleep(Duration::from_millis(200));
    }
}
