//! What a listener asks of its clients before it lets them in, as the machine sees it: who may come without
//! proof, what a login is made of, and what an answer to it means. How a proof is checked is not known here.

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
    /// What each client may do; none: everything that is not reserved.
    pub acl: Option<Acl>,
    /// May clients come in without proof of who they are? None: as [`crate::settings::Terms`] have it, which are those
    /// of the start.
    pub allow_anonymous: Option<bool>,
    /// Names and passwords are checked, or passwords that are tokens; otherwise any is as good as none.
    pub checks_passwords: bool,
    /// A client that can't show a password may be let in all the same, by a server that is asked.
    pub asks_for_all: bool,
    /// The client's certificate is its user name, and no password is asked for.
    pub names_by_certificate: bool,
    /// Those who can log in by password: who has done so stays only as long as its line here is the same.
    pub passwords: Option<Arc<dyn PasswordLines>>,
    /// The method of enhanced authentication that is offered, if one is.
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

    /// Does the password file still have the line by which a user has come in?
    pub fn has_line(&self, user: &str, line: PasswordLine) -> bool {
        self.passwords.as_ref().and_then(|file| file.line(user)) == Some(line)
    }

    /// The method of enhanced authentication of this name, if it is offered. `[MQTT5-4.12.0-1]`
    ///
    /// `test_method`: the test method is on. It proves nothing, so it opens no way in where proofs are asked for; and
    /// where certificates name the users, no other name counts.
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

/// A login that has to be checked before it is answered.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Client identifier; empty if the client leaves it to us.
    pub client_id: Box<str>,
    /// User name of CONNECT, or of the client's certificate.
    pub user: Option<Box<str>>,
    /// The user name is a certificate's: nothing else has to prove it.
    pub is_certified: bool,
    /// Password; none is not the same as an empty one.
    pub password: Option<Zeroizing<Box<[u8]>>>,
    /// Where from.
    pub peer: SocketAddr,
    /// Number of the listener.
    pub listener: u16,
    /// Version that the client speaks.
    pub version: ProtocolVersion,
}

impl Login {
    /// The password.
    pub fn password(&self) -> Option<&[u8]> {
        self.password.as_ref().map(|password| &***password)
    }
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
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The client is in.
    Good(Grant),
    /// It is not who it says, or may not come in, for this cause. The client is not told which it was.
    Bad(&'static str),
    /// Too many logins wait to be checked.
    Busy,
    /// Who should have said it does not answer.
    Unavailable,
}

/// Tells a line of a password file from what a user's line is after a change: of user and password alike, since
/// another password has another hash. Its `Debug` shows nothing of the hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PasswordLine(u64);

impl PasswordLine {
    /// Of the line with this digest.
    pub fn of(digest: &[u8]) -> PasswordLine {
        PasswordLine(digest.iter().take(8).fold(0, |line, &byte| line << 8 | u64::from(byte)))
    }
}

impl fmt::Debug for PasswordLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PasswordLine").finish_non_exhaustive()
    }
}

/// With what a client comes in.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// Its user name; none: it is anonymous.
    pub user: Option<Box<str>>,
    /// The line of the password file that proved it; none: something else did.
    pub line: Option<PasswordLine>,
    /// How long it counts, in seconds; none: as long as the connection lives.
    pub seconds: Option<u64>,
    /// What the client may do at most, whatever the access list says.
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
