//! The address of a listener: `host:port` or the path of a Unix-domain socket. The form is checked when the
//! file is read. A host name is resolved at the start.
//!
//! The check of the form asks no name server, so that `midge check-config` gives the same result on every
//! machine.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::value::{Allowed, Literal, Refused, Setting, written};

/// A checked `host:port` or `unix:/path`. For port 0 the kernel chooses a free port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Ip(SocketAddr),
    Name(String),
    /// An absolute path.
    Unix(String),
}

/// The longest path of a Unix-domain socket, in bytes: `sun_path` without the NUL at its end.
const UNIX_PATH_BYTES_MAX: usize = 107;

impl Address {
    /// The address of a socket.
    pub fn from_socket(address: SocketAddr) -> Address {
        Address { host: Host::Ip(address), port: address.port() }
    }

    /// A port of the loopback address 127.0.0.1, which no other machine can reach.
    pub fn loopback(port: u16) -> Address {
        Address::from_socket(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port))
    }

    /// Reads `127.0.0.1:1883`, `[::1]:1883`, `localhost:1883` or `unix:/run/midge/midge.sock`. Returns `None`
    /// if the host is neither an address nor a host name (letters, digits, `-` and `.`; at most 253
    /// characters), or if the port is missing. Also returns `None` if the path is not absolute, ends with `/`
    /// or has more than 107 bytes.
    pub fn parse(text: &str) -> Option<Address> {
        if let Some(path) = text.strip_prefix("unix:") {
            let is_good = path.starts_with('/')
                && !path.ends_with('/')
                && path.len() <= UNIX_PATH_BYTES_MAX
                && !path.contains('\0');
            return is_good.then(|| Address { host: Host::Unix(path.to_owned()), port: 0 });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Address::from_socket(address));
        }
        let (name, port) = text.rsplit_once(':')?;
        // `parse` would accept "+1883".
        let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
        is_host_name(name).then(|| Address { host: Host::Name(name.to_ascii_lowercase()), port })
    }

    /// The path of a Unix-domain socket.
    pub fn unix(&self) -> Option<&Path> {
        match &self.host {
            Host::Unix(path) => Some(Path::new(path)),
            Host::Ip(_) | Host::Name(_) => None,
        }
    }

    /// The host name. `None` for an IP address and a path.
    pub fn host_name(&self) -> Option<&str> {
        match &self.host {
            Host::Name(name) => Some(name),
            Host::Ip(_) | Host::Unix(_) => None,
        }
    }

    /// The port. It is 0 if the kernel chooses it, and for a Unix-domain socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether only this machine can reach the address.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(address) => address.ip().is_loopback(),
            Host::Name(name) => name == "localhost",
            Host::Unix(_) => true,
        }
    }

    /// The socket address. `None` if a name must be resolved first, and for a Unix-domain socket.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(address) => Some(address),
            Host::Name(_) | Host::Unix(_) => None,
        }
    }

    /// All socket addresses of the host, each once, in the order of the system's resolver. Empty for a
    /// Unix-domain socket.
    ///
    /// Fails with a sentence if the name can't be resolved. May wait for a name server.
    #[cfg(feature = "runtime")]
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        use std::net::ToSocketAddrs;

        let name = match &self.host {
            Host::Ip(address) => return Ok(vec![*address]),
            Host::Name(name) => name.as_str(),
            Host::Unix(_) => return Ok(Vec::new()),
        };
        let mut addresses = Vec::new();
        let found = (name, self.port)
            .to_socket_addrs()
            .map_err(|error| format!("the host name \"{name}\" cannot be resolved: {error}"))?;
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(format!("the host name \"{name}\" has no address"));
        }
        Ok(addresses)
    }
}

fn is_host_name(name: &str) -> bool {
    let labels_are_good = name.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    });
    // "127.0.0.300" and "1883" are misspelt addresses, not names: the last label of a name is never a number.
    let last_is_a_number =
        name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= 253 && labels_are_good && !last_is_a_number
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(address) => address.fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl Setting for Address {
    fn read(literal: &Literal, _: &Allowed) -> Result<Self, Refused> {
        literal.parsed(Address::parse)
    }

    fn shown(&self) -> String {
        written(&self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_host_names_are_read() {
        for text in
            ["127.0.0.1:1883", "0.0.0.0:0", "[::]:1883", "[::1]:1", "localhost:1883", "a-b.example.org:65535"]
        {
            assert_eq!(Address::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_neither_address_nor_host_name_is_refused() {
        for text in [
            "",
            ":1883",
            "1883",
            "localhost",
            "localhost:",
            "localhost:65536",
            "localhost:+1",
            "a b:1",
            "-a:1",
            "127.0.0.300:1883",
            "127.0.0:1",
            "::1:1883",
            "[::1]",
            "a..b:1",
            "mqtt://localhost:1883",
            "*:1883",
        ] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
        assert_eq!(Address::parse(&format!("{}:1", "a.".repeat(200))), None);
    }

    #[test]
    fn path_of_a_unix_socket_is_absolute_and_fits_the_kernel() {
        let address = Address::parse("unix:/run/midge/midge.sock").expect("a path");
        assert_eq!(address.unix(), Some(Path::new("/run/midge/midge.sock")));
        assert_eq!(address.to_string(), "unix:/run/midge/midge.sock");
        assert!(address.is_loopback() && address.socket().is_none());
        let longest = format!("unix:/{}", "s".repeat(UNIX_PATH_BYTES_MAX - 1));
        assert!(Address::parse(&longest).is_some());
        for text in ["unix:", "unix:midge.sock", "unix:/run/", "unix:/a\0b", &format!("{longest}s")] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_socket_address_needs_no_resolver() {
        let address = Address::loopback(1883);
        assert_eq!(address.socket().map(|socket| socket.to_string()).as_deref(), Some("127.0.0.1:1883"));
        assert_eq!(address.port(), 1883);
        assert_eq!(Address::parse("localhost:1883").expect("a name").socket(), None);
    }

    #[cfg(feature = "runtime")]
    #[test]
    fn localhost_resolves_to_loopback_addresses() {
        let addresses = Address::parse("localhost:1883").expect("a name").resolve().expect("resolved");
        assert!(!addresses.is_empty());
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 1883));
    }
}
