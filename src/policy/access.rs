//! The rules that a listener applies to its clients at login, as the machine sees them: who may connect
//! without proof, what a login consists of, and what its verdict means. This file does not know how a proof
//! is checked.

use super::acl::{Acl, Permissions};
use super::method::{Method, TEST_METHOD, TestMethod};
use crate::mqtt::ProtocolVersion;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The rules of one listener.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// What each client may do. `None`: everything that is not reserved.
    pub acl: Option<Acl>,
    /// Whether clients may connect without proving who they are. `None`: the [`crate::settings::Terms`] of
    /// the start apply.
    pub allow_anonymous: Option<bool>,
    /// Whether names and passwords, or passwords that are tokens, are checked. If not, a password has no
    /// effect.
    pub checks_passwords: bool,
    /// Whether a server is asked about every client, even one without a password.
    pub asks_for_all: bool,
    /// Whether the client's certificate gives its user name. No password is needed then.
    pub names_by_certificate: bool,
    /// The users who can log in with a password. A client that has done so stays only as long as its line is
    /// unchanged.
    pub passwords: Option<Arc<dyn PasswordLines>>,
    /// The method of enhanced authentication of the listener, if it has one.
    pub enhanced: Option<Arc<dyn Method>>,
}

/// The users of a password file.
pub trait PasswordLines: fmt::Debug + Send + Sync {
    /// The line of a user, if there is one.
    fn line(&self, user: &str) -> Option<PasswordLine>;
}

impl Access {
    /// What a client may do.
    pub fn permissions(&self, user: Option<&str>, client_id: &str) -> Permissions {
        self.acl.as_ref().map_or(Permissions::everything(), |acl| acl.permissions(user, client_id))
    }

    /// Whether the password file still has the line with which a user has logged in.
    pub fn has_line(&self, user: &str, line: PasswordLine) -> bool {
        self.passwords.as_ref().and_then(|file| file.line(user)) == Some(line)
    }

    /// The method of enhanced authentication with this name, if the listener has it. `[MQTT5-4.12.0-1]`
    ///
    /// `test_method`: the test method is on. It proves nothing, so it is not available where proofs are
    /// required. If certificates give the user names, no method is available.
    pub fn method(&self, name: &str, test_method: bool) -> Option<Arc<dyn Method>> {
        if self.names_by_certificate {
            return None;
        }
        if name == TEST_METHOD && test_method && !self.checks_passwords && !self.asks_for_all {
            return Some(Arc::new(TestMethod));
        }
        self.enhanced.clone().filter(|method| method.name() == name)
    }
}

/// A login that must be checked before it is answered.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The client identifier. Empty if the broker assigns one.
    pub client_id: Box<str>,
    /// The user name of CONNECT, or of the client's certificate.
    pub user: Option<Box<str>>,
    /// Whether the user name comes from a certificate. It needs no other proof then.
    pub is_certified: bool,
    /// The password. A missing one differs from an empty one.
    pub password: Option<Zeroizing<Box<[u8]>>>,
    /// The address of the client.
    pub peer: SocketAddr,
    /// The number of the listener.
    pub listener: u16,
    /// The protocol version of the client.
    pub version: ProtocolVersion,
}

impl Login {
    /// The password.
    pub fn password(&self) -> Option<&[u8]> {
        self.password.as_ref().map(|password| &***password)
    }
}

/// Shows everything but the password.
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

/// The result of a login.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The client may connect.
    Good(Grant),
    /// The client's proof is wrong, or it may not connect, for this reason. The client does not learn the
    /// reason.
    Bad(&'static str),
    /// Too many logins wait to be checked.
    Busy,
    /// The server that decides does not answer.
    Unavailable,
}

/// Identifies a line of a password file. It changes when the user or the password changes, since another
/// password has another hash. Its `Debug` shows nothing of the hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PasswordLine(u64);

impl PasswordLine {
    /// The line with this digest.
    pub fn of(digest: &[u8]) -> PasswordLine {
        PasswordLine(digest.iter().take(8).fold(0, |line, &byte| line << 8 | u64::from(byte)))
    }
}

impl fmt::Debug for PasswordLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PasswordLine").finish_non_exhaustive()
    }
}

/// What a client is granted at login.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// The user name. `None`: the client is anonymous.
    pub user: Option<Box<str>>,
    /// The line of the password file that proved the user name. `None`: something else did.
    pub line: Option<PasswordLine>,
    /// How long the grant is valid, in seconds. `None`: as long as the connection is open.
    pub seconds: Option<u64>,
    /// The most that the client may do, whatever the access list allows.
    pub permissions: Permissions,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_does_not_show_its_password() {
        let login = Login {
            client_id: "c".into(),
            user: Some("u".into()),
            is_certified: false,
            password: Some(Zeroizing::new(b"secret".as_slice().into())),
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            listener: 0,
            version: ProtocolVersion::V5,
        };
        let shown = format!("{login:?}");
        assert!(
            shown.contains("user: Some(\"u\")") && !shown.contains("secret") && !shown.contains("115"),
            "{shown}"
        );
    }

    #[test]
    fn test_method_opens_no_door_where_proofs_are_asked_for() {
        let open = Access::default();
        assert!(open.method(TEST_METHOD, true).is_some() && open.method(TEST_METHOD, false).is_none());
        for closed in [
            Access { checks_passwords: true, ..Access::default() },
            Access { asks_for_all: true, ..Access::default() },
            Access { names_by_certificate: true, ..Access::default() },
        ] {
            assert!(closed.method(TEST_METHOD, true).is_none());
        }
    }

    #[test]
    fn without_a_list_everything_is_allowed() {
        assert!(Access::default().permissions(Some("u"), "c").is_everything());
    }
}
