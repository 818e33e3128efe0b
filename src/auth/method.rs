//! The methods of enhanced authentication (chapter 4.12), as the machine sees them.
//!
//! In: the Authentication Data of CONNECT and AUTH. Out: what the broker answers, and in the end who the client is.
//! Every method has two steps of the client; the second consumes what the first has made. What an exchange needs of
//! chance follows from its number and from a secret that the method was made with.

use super::access::PasswordLine;
#[cfg(feature = "runtime")]
use super::scram::{self, ScramFailure, ScramServer};
#[cfg(feature = "runtime")]
use super::scram_users::ScramUsers;
#[cfg(feature = "runtime")]
use std::sync::Arc;

/// Authentication Method of the built-in test: a challenge, a fixed answer.
pub const TEST_METHOD: &str = "midge-test";

/// A method that a listener offers.
#[derive(Clone, Debug)]
pub enum Method {
    /// [`TEST_METHOD`]: it proves nothing.
    Test,
    /// SCRAM-SHA-256 with the users of a password file.
    #[cfg(feature = "runtime")]
    Scram(Arc<ScramUsers>),
}

/// Tells an exchange from every other one of this run of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeId {
    /// The shard whose client it is.
    pub shard: u16,
    /// Never the same twice on a shard.
    pub number: u64,
}

/// An exchange that waits for the client's second step.
#[derive(Debug)]
pub struct Exchange(Stage);

#[derive(Debug)]
enum Stage {
    Test,
    #[cfg(feature = "runtime")]
    Scram(Box<ScramServer>),
}

/// A client that has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// The user that it has proved to be; none where the method proves nobody.
    pub user: Option<Box<str>>,
    /// The line of the password file behind that.
    pub line: Option<PasswordLine>,
    /// Authentication Data of CONNACK, or of the last AUTH of a re-authentication.
    pub data: Option<Vec<u8>>,
}

/// Why an exchange ends without a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodFailure {
    /// The data are not what the method has at this place.
    Malformed(&'static str),
    /// A wrong password, or a user whom nobody knows: which of them is not told.
    Proof,
    /// The client asks for what is not granted.
    Refused(&'static str),
}

impl Method {
    /// As CONNECT and AUTH carry it.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Test => TEST_METHOD,
            #[cfg(feature = "runtime")]
            Method::Scram(_) => scram::METHOD,
        }
    }

    /// Takes the client's first step; gives the exchange and the data of AUTH 0x18. `[MQTT5-4.12.0-2]`
    ///
    /// # Errors
    /// [`MethodFailure`]; never because of an unknown user.
    #[cfg_attr(not(feature = "runtime"), allow(unused_variables, reason = "the test asks for nothing"))]
    pub fn begin(&self, data: Option<&[u8]>, id: ExchangeId) -> Result<(Exchange, Vec<u8>), MethodFailure> {
        match self {
            Method::Test => Ok((Exchange(Stage::Test), b"challenge".to_vec())),
            #[cfg(feature = "runtime")]
            Method::Scram(users) => {
                let data = data.ok_or(MethodFailure::Malformed("SCRAM begins with data of the client"))?;
                let (server, challenge) = users.first(data, id)?;
                Ok((Exchange(Stage::Scram(Box::new(server))), challenge))
            }
        }
    }
}

impl Exchange {
    /// Whether the client may be this user, as far as it has said.
    #[cfg_attr(not(feature = "runtime"), allow(unused_variables, reason = "the test asks for nothing"))]
    pub fn is_by(&self, user: &str) -> bool {
        match &self.0 {
            Stage::Test => true,
            #[cfg(feature = "runtime")]
            Stage::Scram(server) => scram::prepare(user).is_some_and(|user| user == server.claimed_user()),
        }
    }

    /// Takes the client's second step.
    ///
    /// # Errors
    /// [`MethodFailure`]. `[MQTT5-4.12.0-4]`
    pub fn finish(self, data: Option<&[u8]>) -> Result<Proved, MethodFailure> {
        match self.0 {
            Stage::Test if data == Some(b"response") => Ok(Proved { user: None, line: None, data: None }),
            Stage::Test => Err(MethodFailure::Refused("the challenge was answered wrong")),
            #[cfg(feature = "runtime")]
            Stage::Scram(server) => {
                let data = data.ok_or(MethodFailure::Malformed("SCRAM ends with data of the client"))?;
                let accepted = server.finish(data)?;
                Ok(Proved {
                    user: Some(accepted.user.into()),
                    line: Some(accepted.line),
                    data: Some(accepted.server_final),
                })
            }
        }
    }
}

#[cfg(feature = "runtime")]
impl From<ScramFailure> for MethodFailure {
    fn from(failure: ScramFailure) -> MethodFailure {
        match failure {
            ScramFailure::Malformed(_) | ScramFailure::Mismatch => MethodFailure::Malformed(failure.words()),
            ScramFailure::Proof => MethodFailure::Proof,
            ScramFailure::ChannelBinding | ScramFailure::Extension | ScramFailure::Authorization => {
                MethodFailure::Refused(failure.words())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_response_passes_the_test_and_proves_nobody() {
        let finish = |data: Option<&[u8]>| {
            let (exchange, challenge) =
                Method::Test.begin(None, ExchangeId { shard: 0, number: 1 }).expect("it asks for nothing");
            assert_eq!(challenge, b"challenge");
            assert!(exchange.is_by("anybody"));
            exchange.finish(data)
        };
        assert_eq!(finish(Some(b"response")), Ok(Proved { user: None, line: None, data: None }));
        for data in [Some(b"respons".as_slice()), None] {
            assert!(matches!(finish(data), Err(MethodFailure::Refused(_))));
        }
    }
}
