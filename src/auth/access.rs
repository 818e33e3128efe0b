//! What a listener asks of its clients before it lets them in, as the machine sees it: who may come without
//! proof, what a login is made of, and what an answer to it means. How a proof is checked is not known here.

use super::acl::{Acl, Permissions};
use crate::packet::ProtocolVersion;
use std::fmt;
use std::net::SocketAddr;

/// The rules of one listener.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// What each client may do; none: everything that is not reserved.
    pub acl: Option<Acl>,
    /// Names and passwords are checked; otherwise any is as good as none.
    pub checks_passwords: bool,
    /// The client's certificate is its user name, and no password is asked for.
    pub names_by_certificate: bool,
}

impl Access {
    /// What a client may do.
    pub fn permissions(&self, user: Option<&str>, client_id: &str) -> Permissions {
        self.acl.as_ref().map_or(Permissions::everything(), |acl| acl.permissions(user, client_id))
    }
}

/// A login that has to be checked before it is answered.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Client identifier; empty if the client leaves it to us.
    pub client_id: Box<str>,
    /// User name.
    pub user: Box<str>,
    /// Password; none is not the same as an empty one.
    pub password: Option<Box<[u8]>>,
    /// Where from.
    pub peer: SocketAddr,
    /// Number of the listener.
    pub listener: u16,
    /// Version that the client speaks.
    pub version: ProtocolVersion,
}

/// Never the password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("client_id", &self.client_id)
            .field("user", &self.user)
            .field("peer", &self.peer)
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

/// The answer to a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The client is who it says.
    Good,
    /// It is not; whether the name or the password is wrong is told to nobody.
    Bad,
    /// The check could not be made now.
    Busy,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_does_not_show_its_password() {
        let login = Login {
            client_id: "c".into(),
            user: "u".into(),
            password: Some(b"secret".as_slice().into()),
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            listener: 0,
            version: ProtocolVersion::V5,
        };
        let shown = format!("{login:?}");
        assert!(
            shown.contains("user: \"u\"") && !shown.contains("secret") && !shown.contains("115"),
            "{shown}"
        );
    }

    #[test]
    fn without_a_list_everything_is_allowed() {
        assert!(Access::default().permissions(Some("u"), "c").is_everything());
    }
}
