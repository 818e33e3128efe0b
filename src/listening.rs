//! Opens the listening sockets: at the start, and of listeners that a reload adds.

use midge::driver::{self, BindOptions, SocketFile};
use midge::settings::{Address, Config, Listener};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// When a process is killed, its sockets stay open for a moment longer, because io_uring holds them too. So
/// midge tries again to bind an address in use, for this long and at this interval.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);
const ADDRESS_RETRY: Duration = Duration::from_millis(20);

/// The sockets that the broker listens on.
pub(crate) struct Listening {
    /// The addresses, each with the number of its listener and the port that the kernel chose.
    pub(crate) addresses: Vec<(u16, Address)>,
    /// The sockets of each shard, each with the number of its listener.
    pub(crate) sockets: Vec<Vec<(u16, OwnedFd)>>,
    /// The Unix sockets' files, each with the number of its listener. They are removed at the end.
    pub(crate) files: Vec<(u16, SocketFile)>,
}

/// Opens a listening socket for each port and shard and for each path of these listeners. The ports of `own` may be in
/// use: midge itself listens there until the reload.
///
/// Fails with a sentence for the operator. Then no socket is open.
pub(crate) fn listen<'a>(
    config: &Config,
    listeners: impl IntoIterator<Item = (u16, &'a Listener)>,
    shards: usize,
    own: &[u16],
) -> Result<Listening, String> {
    let mut listening = Listening::none(shards);
    let until = Instant::now() + ADDRESS_PATIENCE;
    for (number, listener) in listeners {
        listening.open(config, (number, listener), until, own)?;
    }
    Ok(listening)
}

/// Checks whether the ports of these listeners are free, without listening. The ports of `own` may be in use.
///
/// Fails with a sentence for the operator.
pub(crate) fn probe<'a>(
    config: &Config,
    listeners: impl IntoIterator<Item = (u16, &'a Listener)>,
    own: &[u16],
) -> Result<(), String> {
    let options = BindOptions::of(&config.limits);
    for (_, listener) in listeners {
        if listener.address.unix().is_some() {
            continue;
        }
        for address in listener.address.resolve()? {
            let Some(address) = on_interface(config, listener, address)? else { continue };
            if address.port() != 0 && !own.contains(&address.port()) {
                let failed = |error| cannot_listen(&Address::from_socket(address), &error);
                driver::probe_bind(address, &options).map_err(failed)?;
            }
        }
    }
    Ok(())
}

impl Listening {
    /// No sockets.
    pub(crate) fn none(shards: usize) -> Listening {
        let sockets = (0..shards).map(|_| Vec::new()).collect();
        Listening { addresses: Vec::new(), sockets, files: Vec::new() }
    }

    /// Whether it has the sockets of a listener.
    pub(crate) fn has(&self, listener: u16) -> bool {
        self.addresses.iter().any(|(number, _)| *number == listener)
    }

    /// Adds other sockets for the same shards.
    pub(crate) fn add(&mut self, other: Listening) {
        self.addresses.extend(other.addresses);
        self.files.extend(other.files);
        for (own, more) in self.sockets.iter_mut().zip(other.sockets) {
            own.extend(more);
        }
    }

    fn open(
        &mut self,
        config: &Config,
        (number, listener): (u16, &Listener),
        until: Instant,
        own: &[u16],
    ) -> Result<(), String> {
        let options = BindOptions::of(&config.limits);
        let shards = self.sockets.len();
        if let Some(path) = listener.address.unix() {
            let made = patiently(until, || driver::bind_unix(path, &options));
            let (socket, file) = made.map_err(|error| cannot_listen(&listener.address, &error))?;
            self.addresses.push((number, listener.address.clone()));
            self.files.push((number, file));
            // A path has one socket. Its shard hands clients over to their home shards, like any other.
            self.sockets[usize::from(number) % shards].push((number, socket));
            return Ok(());
        }
        for address in listener.address.resolve()? {
            let Some(address) = on_interface(config, listener, address)? else { continue };
            let failed = |error| cannot_listen(&Address::from_socket(address), &error);
            if address.port() == 0 || !own.contains(&address.port()) {
                patiently(until, || driver::probe_bind(address, &options)).map_err(failed)?;
            }
            let first = driver::bind(address, &options).map_err(failed)?;
            // For port 0 the kernel chooses a port, once for all shards.
            let bound = driver::local_address(&first).map_err(failed)?;
            self.addresses.push((number, Address::from_socket(bound)));
            self.sockets[0].push((number, first));
            for shard in &mut self.sockets[1..] {
                shard.push((number, driver::bind(bound, &options).map_err(failed)?));
            }
        }
        Ok(())
    }
}

/// The address to listen on instead of this one: that of the listener's interface. `None` if the interface
/// has no address of this family and the configuration has the same port for the other family.
pub(crate) fn on_interface(
    config: &Config,
    listener: &Listener,
    address: SocketAddr,
) -> Result<Option<SocketAddr>, String> {
    let interface = listener.interface.as_str();
    if interface.is_empty() {
        return Ok(Some(address));
    }
    let found = driver::interface_addresses(interface)
        .map_err(|error| format!("the network interfaces can't be read: {error}"))?;
    if found.is_empty() {
        return Err(format!("there is no network interface \"{interface}\", or it has no address"));
    }
    let is_meant = |found: &&SocketAddr| match address.ip() {
        ip if ip.is_unspecified() => found.is_ipv4() == address.is_ipv4(),
        ip => found.ip() == ip,
    };
    if let Some(mut found) = found.iter().find(is_meant).copied() {
        found.set_port(address.port());
        return Ok(Some(found));
    }
    let is_pair = |other: &&Listener| {
        let (one, other) = (&listener.address, (&other.address, &other.interface));
        other.0 != one && other.0.port() == one.port() && other.1 == interface
    };
    if address.ip().is_unspecified() && config.listeners.iter().any(|other| is_pair(&other)) {
        tracing::warn!("the network interface \"{interface}\" has no address for {}", listener.address);
        return Ok(None);
    }
    Err(format!(
        "can't listen on {}: the network interface \"{interface}\" has no such address",
        listener.address
    ))
}

/// Repeats a bind while the address is in use.
fn patiently<T>(until: Instant, bind: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match bind() {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(ADDRESS_RETRY);
            }
            done => return done,
        }
    }
}

pub(crate) fn cannot_listen(address: &Address, error: &std::io::Error) -> String {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, AlreadyExists, NotFound, PermissionDenied};
    let is_path = address.unix().is_some();
    let why = match error.kind() {
        AddrInUse if is_path => "another process listens there".to_owned(),
        AlreadyExists => "there is a file that is no socket".to_owned(),
        NotFound if is_path => "its folder does not exist".to_owned(),
        PermissionDenied if is_path => "its folder, or what is there, is not midge's to write".to_owned(),
        AddrInUse => {
            "another process listens there; stop it, or choose another port in [[listeners]]".to_owned()
        }
        AddrNotAvailable => "this machine has no such address".to_owned(),
        PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE".to_owned(),
        _ => error.to_string(),
    };
    format!("can't listen on {address}: {why}")
}
