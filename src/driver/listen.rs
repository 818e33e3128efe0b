//! Listening sockets. They are created before the shards start.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::UNIX_PEER;
use crate::settings::Limits;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, getpeername, getsockname, listen,
    socket_with, sockopt,
};

/// The options of a listening socket.
#[derive(Clone, Debug)]
pub struct BindOptions {
    /// The number of connections that the kernel keeps until they are accepted.
    pub backlog: u16,
    /// Whether an IPv6 socket also accepts IPv4 connections.
    pub dual_stack: bool,
    /// After this many seconds without data from the peer, the kernel probes whether it is still there
    /// (`SO_KEEPALIVE`); 0: never.
    pub keepalive_seconds: u32,
    /// After this many seconds without an answer of the peer, a connection ends (`TCP_USER_TIMEOUT`); 0: the
    /// kernel's own rules.
    pub user_timeout_seconds: u32,
}

impl Default for BindOptions {
    fn default() -> BindOptions {
        BindOptions { backlog: 4096, dual_stack: false, keepalive_seconds: 0, user_timeout_seconds: 0 }
    }
}

impl BindOptions {
    /// The options that an operator can set.
    pub fn of(limits: &Limits) -> BindOptions {
        BindOptions {
            keepalive_seconds: limits.tcp_keepalive_seconds,
            user_timeout_seconds: limits.tcp_user_timeout_seconds,
            ..BindOptions::default()
        }
    }
}

/// Creates a listening socket that shares its port with the other shards' sockets (`SO_REUSEPORT`).
/// [`probe_bind`] must have found the port free before.
pub fn bind(address: SocketAddr, options: &BindOptions) -> io::Result<OwnedFd> {
    let socket = bound(address, options, true)?;
    notice_the_vanished(&socket, options)?;
    listen(&socket, options.backlog.into())?;
    Ok(socket)
}

/// Tests whether an address can be used, by binding to it once without sharing. Another process of the same
/// user that shares the port, such as a second broker, would otherwise take a part of our connections without
/// notice.
pub fn probe_bind(address: SocketAddr, options: &BindOptions) -> io::Result<()> {
    bound(address, options, false).map(drop)
}

/// The file of a listening Unix-domain socket. It is removed when this is dropped, unless another file has
/// taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Distinguishes a file from another one at the same path. A file system may reuse the inode number of a
/// removed file, so the time of the last change is included.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity_of(&self.path).is_ok_and(|identity| identity == self.identity) {
            // An error can't be reported to anyone.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity_of(path: &Path) -> io::Result<Identity> {
    let file = std::fs::symlink_metadata(path)?;
    Ok(Identity { device: file.dev(), inode: file.ino(), changed: (file.ctime(), file.ctime_nsec()) })
}

/// Creates a listening Unix-domain socket that its user and group can connect to (mode 0660). A socket file
/// without a listener is replaced. Unlike a port, it can't be shared by several shards.
///
/// # Errors
/// The kernel's error. `AddrInUse` if another process listens there, `AlreadyExists` if the file is not a
/// socket.
pub fn bind_unix(path: &Path, options: &BindOptions) -> io::Result<(OwnedFd, SocketFile)> {
    let socket = new_socket(AddressFamily::UNIX)?;
    let address = encode_unix(path)?;
    let bind = || rustix::net::bind(&socket, &address).map_err(io::Error::from);
    if let Err(error) = bind() {
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(error);
        }
        remove_stale(path)?;
        bind()?;
    }
    // Nobody can connect before `listen`, so the mode is set in time.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    let file = SocketFile { path: path.to_owned(), identity: identity_of(path)? };
    listen(&socket, options.backlog.into())?;
    Ok((socket, file))
}

/// Removes a socket file on which nobody listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn encode_unix(path: &Path) -> io::Result<SocketAddrUnix> {
    let bytes = path.as_os_str().as_bytes();
    // The path must be followed by a NUL.
    if bytes.len() >= UNIX_PATH_BYTES || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(SocketAddrUnix::new(bytes)?)
}

/// The size of the path in the address of a Unix-domain socket, in bytes.
const UNIX_PATH_BYTES: usize = 108;

/// The addresses of a network interface, with port 0 and in the kernel's order. Empty if there is no such
/// interface, or it has no address.
pub fn interface_addresses(interface: &str) -> io::Result<Vec<SocketAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the call writes one pointer, to a list that is ours until `freeifaddrs`.
    if unsafe { libc::getifaddrs(&raw mut list) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut addresses = Vec::new();
    let mut at = list;
    while !at.is_null() {
        // SAFETY: this is a live entry of the list. Its name ends with a NUL, and its address is complete or
        // null.
        let (name, address) = unsafe { (CStr::from_ptr((*at).ifa_name), (*at).ifa_addr) };
        if name.to_bytes() == interface.as_bytes() && !address.is_null() {
            // SAFETY: as above.
            addresses.extend(unsafe { read_address(address) });
        }
        // SAFETY: as above.
        at = unsafe { (*at).ifa_next };
    }
    // SAFETY: the list is complete, and nothing refers to it any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(addresses)
}

/// The address that a socket is bound to, with the port that the kernel has chosen.
pub fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    known(&getsockname(socket)?).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

/// The address of a connection's peer, or [`UNIX_PEER`] for a Unix-domain socket. `None` if the peer has
/// gone.
pub(super) fn peer_of(socket: &OwnedFd) -> Option<SocketAddr> {
    known(&getpeername(socket).ok().flatten()?)
}

/// An address of a family that midge listens on.
fn known(address: &SocketAddrAny) -> Option<SocketAddr> {
    if address.address_family() == AddressFamily::UNIX {
        return Some(UNIX_PEER);
    }
    SocketAddr::try_from(address.clone()).ok()
}

fn bound(address: SocketAddr, options: &BindOptions, share: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = new_socket(family)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if share {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !options.dual_stack)?;
    }
    // Accepted sockets inherit the option, which saves a system call for each connection.
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

fn new_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Sets the options that detect vanished peers. Accepted sockets inherit them too.
fn notice_the_vanished(socket: impl AsFd, options: &BindOptions) -> io::Result<()> {
    let seconds = |value: u32| Duration::from_secs(value.min(i32::MAX as u32).into());
    if options.keepalive_seconds > 0 {
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, seconds(options.keepalive_seconds))?;
        sockopt::set_tcp_keepintvl(&socket, seconds(probe_seconds(options)))?;
        // With a user timeout, the kernel does not count probes.
        sockopt::set_tcp_keepcnt(&socket, PROBES)?;
    }
    let milliseconds = options.user_timeout_seconds.saturating_mul(1000).min(i32::MAX as u32);
    Ok(sockopt::set_tcp_user_timeout(&socket, milliseconds)?)
}

/// Changes the options of a listening socket that detect vanished peers. A Unix-domain socket has none.
pub(super) fn tune(socket: &OwnedFd, options: &BindOptions) -> io::Result<()> {
    if getsockname(socket)?.address_family() == AddressFamily::UNIX {
        return Ok(());
    }
    if options.keepalive_seconds == 0 {
        sockopt::set_socket_keepalive(socket, false)?;
    }
    notice_the_vanished(socket, options)
}

/// How long the kernel waits for an answer before it probes again or checks the user timeout. One lost probe
/// must not end a connection.
fn probe_seconds(options: &BindOptions) -> u32 {
    match options.user_timeout_seconds.checked_sub(options.keepalive_seconds) {
        Some(left @ 1..) => (left / PROBES).clamp(1, PROBE_SECONDS_MAX),
        _ => PROBE_SECONDS_MAX,
    }
}

const PROBE_SECONDS_MAX: u32 = 60;
/// The number of probes.
const PROBES: u32 = 5;

/// Reads the address of an interface, if it is an IP address.
///
/// # Safety
/// libc must have written the address, with the length of its family.
unsafe fn read_address(address: *const libc::sockaddr) -> Option<SocketAddr> {
    // SAFETY: every address begins with its family.
    match i32::from(unsafe { (&raw const (*address).sa_family).read_unaligned() }) {
        libc::AF_INET => {
            // SAFETY: the family gives the type of the address.
            let address = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(address.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, address.sin6_flowinfo, address.sin6_scope_id)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn shards_share_a_port() {
        let options = BindOptions::default();
        let first = bind(loopback(0), &options).unwrap();
        let address = local_address(&first).unwrap();
        let second = bind(address, &options).unwrap();
        assert_eq!(local_address(&second).unwrap(), address);
    }

    #[test]
    fn socket_file_is_replaced_only_if_nobody_listens_and_removed_only_if_it_is_ours() {
        let options = BindOptions::default();
        let folder = std::env::temp_dir().join(format!("midge-listen-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("midge.sock");
        let kind = |result: io::Result<_>| {
            result.map(|(socket, file)| drop::<(OwnedFd, SocketFile)>((socket, file)))
        };

        let (socket, first) = bind_unix(&path, &options).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        UnixStream::connect(&path).unwrap();
        assert_eq!(kind(bind_unix(&path, &options)).unwrap_err().kind(), io::ErrorKind::AddrInUse);

        drop(socket);
        // The clock of a file system has a resolution of a few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let (_socket, second) = bind_unix(&path, &options).unwrap();
        drop(first);
        UnixStream::connect(&path).expect("the second one's file is left alone");
        drop(second);
        assert!(!path.exists());

        std::fs::write(&path, "no socket").unwrap();
        assert_eq!(kind(bind_unix(&path, &options)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"no socket");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_interface_is_known_by_its_addresses() {
        let addresses = interface_addresses("lo").unwrap();
        assert!(addresses.contains(&loopback(0)), "{addresses:?}");
        assert!(addresses.iter().all(|address| address.ip().is_loopback()), "{addresses:?}");
        assert_eq!(interface_addresses("no such").unwrap(), []);
    }

    #[test]
    fn a_port_of_another_broker_that_shares_it_is_found() {
        let options = BindOptions::default();
        let other = bind(loopback(0), &options).unwrap();
        let error = probe_bind(local_address(&other).unwrap(), &options).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_port_with_old_connections_in_time_wait_is_free() {
        let options = BindOptions::default();
        let socket = bind(loopback(0), &options).unwrap();
        let address = local_address(&socket).unwrap();
        let listener = TcpListener::from(socket);
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop((server, listener));
        drop(client);
        probe_bind(address, &options).unwrap();
    }

    #[test]
    fn version_6_addresses_are_kept_apart_from_version_4() {
        let options = BindOptions::default();
        // Another IPv4 socket may use the port.
        for attempt in 0.. {
            let v6 = match bind("[::]:0".parse().unwrap(), &options) {
                Ok(socket) => socket,
                // The machine has no IPv6.
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return,
                Err(error) => panic!("{error}"),
            };
            let address = local_address(&v6).unwrap();
            assert!(address.is_ipv6());
            match probe_bind(SocketAddr::from(([0, 0, 0, 0], address.port())), &options) {
                Ok(()) => return,
                Err(error) => assert!(attempt < 50, "{error}"),
            }
        }
    }
}
