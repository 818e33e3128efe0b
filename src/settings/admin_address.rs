//! Where the admin interface is: `admin.address` and `admin.socket_mode`, and the path of its Unix-domain socket if
//! the configuration leaves it to midge. The server and `midge ctl` choose by the same rules.

use super::Address;
use super::value::{Allowed, Literal, Refused, Setting, written};
use std::ffi::OsString;
use std::path::PathBuf;

/// The address of the admin interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// A Unix-domain socket, see [`admin_socket`].
    Auto,
    /// There is no admin interface.
    Off,
    /// This address.
    At(Address),
}

impl Setting for AdminAddress {
    fn read(literal: &Literal, _: &Allowed) -> Result<Self, Refused> {
        literal.parsed(|text| match text {
            "auto" => Some(AdminAddress::Auto),
            "" => Some(AdminAddress::Off),
            text => Address::parse(text).map(AdminAddress::At),
        })
    }

    fn shown(&self) -> String {
        match self {
            AdminAddress::Auto => written("auto"),
            AdminAddress::Off => written(""),
            AdminAddress::At(address) => address.shown(),
        }
    }
}

/// The permission bits of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(u16);

impl FileMode {
    /// Its owner and its group may read and write.
    pub const GROUP: FileMode = FileMode(0o660);

    /// The bits.
    pub fn bits(self) -> u32 {
        self.0.into()
    }
}

impl Setting for FileMode {
    fn read(literal: &Literal, _: &Allowed) -> Result<Self, Refused> {
        literal.parsed(|text| {
            let is_good = (3..=4).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit());
            let mode = u16::from_str_radix(text, 8).ok().filter(|mode| is_good && *mode <= 0o777)?;
            Some(FileMode(mode))
        })
    }

    fn shown(&self) -> String {
        written(&format!("{:04o}", self.0))
    }
}

/// The socket of a midge that the system runs.
pub const SYSTEM_ADMIN_SOCKET: &str = "/run/midge/admin.sock";

/// The path of the Unix-domain socket for [`AdminAddress::Auto`]. `env` reads the environment. `None` if it names no
/// place.
pub fn admin_socket(is_root: bool, env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    if let Some(given) = set("RUNTIME_DIRECTORY") {
        // systemd gives a list if a unit has several directories.
        return std::env::split_paths(&given).next().map(|directory| directory.join("admin.sock"));
    }
    if is_root {
        return Some(PathBuf::from(SYSTEM_ADMIN_SOCKET));
    }
    let own = set("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    // A service of the system has INVOCATION_ID alone. What a user starts in a session may have it too.
    let of_system = || set("INVOCATION_ID").map(|_| PathBuf::from(SYSTEM_ADMIN_SOCKET));
    own.map(|path| path.join("midge/admin.sock")).or_else(of_system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_is_where_the_system_keeps_sockets() {
        for (is_root, env, expected) in [
            (true, &[][..], Some(SYSTEM_ADMIN_SOCKET)),
            (true, &[("XDG_RUNTIME_DIR", "/run/user/0")], Some(SYSTEM_ADMIN_SOCKET)),
            (true, &[("RUNTIME_DIRECTORY", "/run/one:/run/two")], Some("/run/one/admin.sock")),
            (false, &[("RUNTIME_DIRECTORY", "/run/one")], Some("/run/one/admin.sock")),
            (false, &[("XDG_RUNTIME_DIR", "/run/user/7")], Some("/run/user/7/midge/admin.sock")),
            (
                false,
                &[("XDG_RUNTIME_DIR", "/run/user/7"), ("INVOCATION_ID", "1")],
                Some("/run/user/7/midge/admin.sock"),
            ),
            (false, &[("INVOCATION_ID", "1")], Some(SYSTEM_ADMIN_SOCKET)),
            (false, &[("XDG_RUNTIME_DIR", "relative")], None),
            (false, &[("XDG_RUNTIME_DIR", "")], None),
            (false, &[], None),
        ] {
            let chosen = admin_socket(is_root, |name| {
                env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            });
            assert_eq!(chosen, expected.map(PathBuf::from), "{is_root} {env:?}");
        }
    }

    #[test]
    fn an_address_is_a_place_a_choice_or_nothing() {
        let read = |text: &str| AdminAddress::read(&Literal::Text(text.into()), &Allowed::AdminAddress);
        assert_eq!(read("auto"), Ok(AdminAddress::Auto));
        assert_eq!(read(""), Ok(AdminAddress::Off));
        for text in ["unix:/run/a.sock", "127.0.0.1:9090", "localhost:0"] {
            assert_eq!(read(text).map(|address| address.shown()), Ok(written(text)));
        }
        for text in ["on", "9090", "unix:a.sock", "http://localhost:1"] {
            assert_eq!(read(text), Err(Refused::NotAllowed), "{text}");
        }
    }

    #[test]
    fn a_mode_is_octal() {
        let read = |text: &str| FileMode::read(&Literal::Text(text.into()), &Allowed::FileMode);
        for (text, bits) in [("0660", 0o660), ("600", 0o600), ("0777", 0o777)] {
            assert_eq!(read(text).map(FileMode::bits), Ok(bits));
        }
        assert_eq!(FileMode::GROUP.shown(), "\"0660\"");
        for text in ["", "0o660", "+660", "0888", "1777", "66", "00660", "rw"] {
            assert_eq!(read(text), Err(Refused::NotAllowed), "{text}");
        }
    }
}
