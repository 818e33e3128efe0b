//! The listening sockets of the admin interface, bound before the broker serves.
//!
//! A Unix-domain socket that a dead process has left is replaced. One that answers is not.

use super::access::{AdminAccess, SharedAccess};
use crate::settings::{Address, Admin, AdminAddress, FileMode, admin_socket};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, listen, socket_with};
use std::ffi::OsString;
use std::fs::{DirBuilder, File, Permissions, TryLockError};
use std::io::{Error, ErrorKind};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Sockets that the admin interface listens on, and who may use them.
pub struct AdminSockets {
    /// Where it listens, for the start-up lines and for log lines.
    pub address: Address,
    pub(super) listeners: AdminListeners,
}

pub(super) enum AdminListeners {
    /// The permissions of the file decide who may connect. All who can may do everything.
    Unix(UnixListener, AdminSocketFile),
    /// All addresses of a host name. Clients need a token or a certificate.
    Tcp(Vec<TcpListener>, SharedAccess),
}

/// Why there is no admin interface.
#[derive(Debug, PartialEq, Eq)]
pub enum NoAdmin {
    /// The configuration says so.
    Off,
    /// midge chose the place, and it can't be had. The broker serves without.
    Unavailable(String),
    /// The configuration names the place, or the files of who may use it, and they can't be used. The start must end.
    Wrong(String),
}

impl AdminSockets {
    /// What clients need, for a reload. `None` if the permissions of a file decide.
    pub fn access(&self) -> Option<SharedAccess> {
        match &self.listeners {
            AdminListeners::Unix(..) => None,
            AdminListeners::Tcp(_, access) => Some(access.clone()),
        }
    }

    /// Binds what the configuration says. `env` reads the environment.
    ///
    /// # Errors
    /// [`NoAdmin`], in words for the operator.
    pub fn bind(
        settings: &Admin,
        is_root: bool,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<AdminSockets, NoAdmin> {
        match &settings.address {
            AdminAddress::Off => Err(NoAdmin::Off),
            AdminAddress::Auto => {
                let path =
                    admin_socket(is_root, env).ok_or_else(|| NoAdmin::Unavailable(NO_PLACE.to_owned()))?;
                unix(&path, settings.socket_mode).map_err(NoAdmin::Unavailable)
            }
            AdminAddress::At(address) => match address.unix() {
                Some(path) => unix(path, settings.socket_mode).map_err(NoAdmin::Wrong),
                None => tcp(address, settings).map_err(NoAdmin::Wrong),
            },
        }
    }
}

const NO_PLACE: &str = "neither systemd nor XDG_RUNTIME_DIR names a directory for the socket; set admin.address, for \
                        example to \"unix:/run/midge/admin.sock\"";

fn tcp(address: &Address, settings: &Admin) -> Result<AdminSockets, String> {
    let access = AdminAccess::load(settings)?;
    let mut listeners = Vec::new();
    let failed = |error: Error| {
        let why = match error.kind() {
            ErrorKind::AddrInUse => "another process listens there".to_owned(),
            ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
            _ => error.to_string(),
        };
        format!("the admin interface can't listen on {address}: {why}; see admin.address")
    };
    let mut bound = address.clone();
    for socket in address.resolve()? {
        let listener = TcpListener::bind(socket).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        if address.socket().is_some() {
            // For port 0 the kernel has chosen a port.
            bound = Address::from_socket(listener.local_addr().map_err(failed)?);
        }
        listeners.push(listener);
    }
    Ok(AdminSockets { address: bound, listeners: AdminListeners::Tcp(listeners, SharedAccess::new(access)) })
}

fn unix(path: &Path, mode: FileMode) -> Result<AdminSockets, String> {
    let shown = path.display();
    let address = Address::parse(&format!("unix:{shown}"))
        .ok_or_else(|| format!("{shown} is no path of a socket; set admin.address"))?;
    let (listener, file) = bind_unix(path, mode).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => format!("another midge uses {shown}; admin.address names another socket"),
        ErrorKind::AlreadyExists => {
            format!("{shown} is there and is no socket; remove it, or set admin.address to another path")
        }
        ErrorKind::NotFound => format!("{shown} can't be made: its directory and the one above do not exist"),
        ErrorKind::PermissionDenied => {
            format!("{shown} can't be made: its directory, or what is there, is not midge's to write")
        }
        _ => format!("{shown} can't be made: {error}"),
    })?;
    Ok(AdminSockets { address, listeners: AdminListeners::Unix(listener, file) })
}

/// The file of a listening socket. It is removed when this is dropped, unless another file has taken its place.
pub(super) struct AdminSocketFile {
    path: PathBuf,
    /// Device, inode, and the time of the last change, because an inode number may be used again.
    identity: (u64, u64, i64, i64),
}

impl Drop for AdminSocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // An error can't be reported to anyone.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Result<(u64, u64, i64, i64), Error> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino(), file.ctime(), file.ctime_nsec()))
}

fn bind_unix(path: &Path, mode: FileMode) -> Result<(UnixListener, AdminSocketFile), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    match DirBuilder::new().mode(0o750).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let _lock = lock(folder);
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let address = SocketAddrUnix::new(path)?;
    if let Err(error) = rustix::net::bind(&socket, &address).map_err(Error::from) {
        if error.kind() != ErrorKind::AddrInUse {
            return Err(error);
        }
        remove_stale(path)?;
        rustix::net::bind(&socket, &address)?;
    }
    // Nobody can connect before `listen`, so the mode is set in time.
    std::fs::set_permissions(path, Permissions::from_mode(mode.bits()))?;
    let file = AdminSocketFile { path: path.to_owned(), identity: identity(path)? };
    listen(&socket, BACKLOG)?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

/// The number of connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 128;

/// Keeps other processes out while a socket is replaced: one that is bound and does not listen yet looks like the
/// socket of a dead process. If the lock can't be had soon, the danger is small enough to go on.
fn lock(folder: &Path) -> Option<File> {
    let file = File::open(folder).ok()?;
    let until = Instant::now() + LOCK_TIME;
    loop {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_RETRY),
            Err(_) => return None,
        }
    }
}

const LOCK_TIME: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Removes a socket file on which nobody listens.
fn remove_stale(path: &Path) -> Result<(), Error> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        _ => Err(ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("midge-admin-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn words(bound: Result<AdminSockets, NoAdmin>) -> NoAdmin {
        bound.err().expect("it is refused")
    }

    fn at(address: &str) -> Admin {
        Admin { address: AdminAddress::At(Address::parse(address).unwrap()), ..Admin::default() }
    }

    #[test]
    fn socket_has_its_mode_in_a_directory_of_its_own_and_goes_with_its_owner() {
        let folder = folder("mode");
        let path = folder.join("run/admin.sock");
        let mut settings = at(&format!("unix:{}", path.display()));
        settings.socket_mode = FileMode::GROUP;
        let bound = AdminSockets::bind(&settings, false, |_| None).map_err(|_| ()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder.join("run")) & !0o750), (0o660, 0));
        assert_eq!(bound.address.to_string(), format!("unix:{}", path.display()));
        drop(bound);
        assert!(!path.exists());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn living_socket_is_left_alone_and_a_dead_one_is_replaced() {
        let folder = folder("stale");
        let path = folder.join("admin.sock");
        let settings = at(&format!("unix:{}", path.display()));
        let bind = |settings: &Admin| AdminSockets::bind(settings, false, |_| None);
        let living = bind(&settings).map_err(|_| ()).unwrap();
        let NoAdmin::Wrong(said) = words(bind(&settings)) else { panic!("the configuration names it") };
        assert!(said.starts_with("another midge uses "), "{said}");
        let env = |name: &str| (name == "RUNTIME_DIRECTORY").then(|| folder.clone().into_os_string());
        let chosen = AdminSockets::bind(&Admin::default(), false, env);
        assert!(matches!(words(chosen), NoAdmin::Unavailable(said) if said.starts_with("another midge")));
        drop(living);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dead socket");
        drop(bind(&settings).map_err(|_| ()).unwrap());
        std::fs::write(&path, "a letter").unwrap();
        assert!(matches!(words(bind(&settings)), NoAdmin::Wrong(said) if said.contains("is no socket")));
        assert_eq!(std::fs::read(&path).unwrap(), b"a letter");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn without_a_place_the_operator_learns_what_to_set() {
        let chosen = AdminSockets::bind(&Admin::default(), false, |_| None);
        assert!(matches!(words(chosen), NoAdmin::Unavailable(said) if said.contains("set admin.address")));
        let off = Admin { address: AdminAddress::Off, ..Admin::default() };
        assert_eq!(words(AdminSockets::bind(&off, true, |_| None)), NoAdmin::Off);
    }
}
