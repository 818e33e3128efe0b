//! A broker for one test: the binary of this package with a config file of its own, or the target of
//! `MIDGE_TEST_TARGET`. It ends with the test, and its log is shown when the test fails.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use midge_kit::{ScratchFolder, free_port};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// The longest time from the start of a broker until it accepts connections, in seconds.
const START_SECONDS_MAX: u64 = 60;
/// The number of free ports that are tried, because another process may take one before the broker does.
const PORT_TRIES_MAX: u32 = 5;
/// The number of log lines that a failed test shows.
const LOG_LINES_SHOWN: usize = 60;

/// The layers between a client and MQTT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    Plain,
    WebSocket,
    Tls,
    WebSocketTls,
}

impl Door {
    /// The scheme in a URL, as the scripts use it.
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::Plain => "mqtt",
            Self::WebSocket => "ws",
            Self::Tls => "mqtts",
            Self::WebSocketTls => "wss",
        }
    }

    /// The rows of the listener. The certificates are made in the folder.
    fn rows(self, folder: &Path) -> String {
        let mut rows = String::new();
        if matches!(self, Self::WebSocket | Self::WebSocketTls) {
            rows.push_str("protocol = \"websocket\"\nwebsocket_path = \"/mqtt\"\n");
        }
        if matches!(self, Self::Tls | Self::WebSocketTls) {
            make_certificates(folder);
            rows.push_str("tls_certificates = [\"server.pem\"]\ntls_keys = [\"key.pem\"]\n");
        }
        rows
    }
}

/// A listening broker. It is killed when dropped.
pub(crate) struct Broker {
    pub(crate) host: String,
    pub(crate) port: u16,
    child: Option<Child>,
    folder: ScratchFolder,
}

impl Broker {
    /// Starts a broker with this number of shards. Returns when it accepts connections.
    pub(crate) fn start(shards: usize) -> Self {
        Self::start_behind(Door::Plain, shards)
    }

    /// The same, with layers below MQTT on its listener.
    pub(crate) fn start_behind(door: Door, shards: usize) -> Self {
        Self::start_with(|folder| door.rows(folder), shards)
    }

    /// The same, with these rows for its listener. The files that they name are made in the folder.
    pub(crate) fn start_with(rows: impl FnOnce(&Path) -> String, shards: usize) -> Self {
        let folder = ScratchFolder::below(Path::new(env!("CARGO_TARGET_TMPDIR")), "clients");
        if let Some(target) = std::env::var_os("MIDGE_TEST_TARGET") {
            let target = target.into_string().expect("MIDGE_TEST_TARGET is HOST:PORT");
            let (host, port) = target.rsplit_once(':').expect("MIDGE_TEST_TARGET is HOST:PORT");
            let port = port.parse().expect("MIDGE_TEST_TARGET ends with a port");
            return Self { host: host.to_owned(), port, child: None, folder };
        }
        let rows = rows(&folder);
        // Between the search for a free port and listening on it, no other test may search for one.
        static STARTING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = STARTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut broker = Self { host: "127.0.0.1".to_owned(), port: 0, child: None, folder };
        for _ in 0..PORT_TRIES_MAX {
            broker.port = free_port();
            broker.child = Some(spawn(&broker.folder, broker.port, &rows, shards));
            if broker.accepts() {
                return broker;
            }
            // It has ended before it accepted: an outgoing connection may have taken the port.
        }
        panic!("the broker ended at its start {PORT_TRIES_MAX} times");
    }

    /// A folder of this test. It is removed with the broker.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The CA that a TLS client must trust. Without TLS there is no such file.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join(CA)
    }

    /// A prefix for topics and client identifiers that no other test uses, of at most 12 characters.
    pub(crate) fn unique(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        format!("{:x}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// Fails if the broker has ended: no client may make it end.
    pub(crate) fn assert_up(&mut self) {
        if let Some(child) = &mut self.child {
            let status = child.try_wait().expect("the broker is our child");
            assert!(status.is_none(), "the broker ended during the test: {status:?}");
        }
    }

    /// Waits until a connection is accepted. Returns false if the process ends instead.
    fn accepts(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        while Instant::now() < deadline {
            let child = self.child.as_mut().expect("just started");
            if child.try_wait().expect("the broker is our child").is_some() {
                return false;
            }
            match TcpStream::connect((self.host.as_str(), self.port)) {
                // A port of the dynamic range can be connected to itself while nobody listens on it.
                Ok(stream) if stream.local_addr().ok() != stream.peer_addr().ok() => return true,
                _ => thread::sleep(Duration::from_millis(10)),
            }
        }
        panic!("the broker does not accept connections after {START_SECONDS_MAX} s:\n{}", self.log_tail());
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.folder.join("broker.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Either can only fail because the broker has already ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("the broker's log ends with:\n{}", self.log_tail());
        }
    }
}

fn spawn(folder: &Path, port: u16, rows: &str, shards: usize) -> Child {
    let config = folder.join("midge.toml");
    let text = format!(
        "[[listeners]]\naddress = \"127.0.0.1:{port}\"\n{rows}\n\
         [runtime]\nshards = {shards}\n\n\
         [persistence]\ndirectory = \"state\"\nsegment_bytes = 1048576\n\n\
         [auth]\nallow_anonymous = true\n"
    );
    fs::write(&config, text).expect("a config file in the temporary folder");
    let log = File::create(folder.join("broker.log")).expect("a log in the temporary folder");
    let both = log.try_clone().expect("a second handle of the log");
    Command::new(env!("CARGO_BIN_EXE_midge"))
        .arg("serve")
        .arg("--config")
        .arg(&config)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(both)
        .spawn()
        .expect("the binary of this package starts")
}

/// Makes a CA and its certificate for 127.0.0.1.
fn make_certificates(folder: &Path) {
    let named = |name: &str, hosts: &[&str]| {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("good names");
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut params = named("the tests' authority", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("chance")).expect("a CA");
    let key = KeyPair::generate().expect("chance");
    let mut params = named("server", &["127.0.0.1", "localhost"]);
    params.use_authority_key_identifier_extension = true;
    let server = params.signed_by(&key, &ca).expect("the CA signs");
    for (name, text) in [(CA, ca.pem()), ("server.pem", server.pem()), ("key.pem", key.serialize_pem())] {
        fs::write(folder.join(name), text).expect("a file in the temporary folder");
    }
}

const CA: &str = "ca.pem";
