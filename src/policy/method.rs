//! The methods of enhanced authentication (chapter 4.12), as the machine sees them.
//!
//! In: the Authentication Data of CONNECT and AUTH. Out: what the broker answers, and in the end who the client is.
//! Every method has two steps of the client; the second consumes what the first has made. What an exchange needs of
//! chance follows from its number and from a secret that the method was made with.

use super::access::PasswordLine;
use std::fmt;

/// Authentication Method of the built-in test: a challenge, a fixed answer.
pub const TEST_METHOD: &str = "midge-test";

/// A method that a listener offers.
pub trait Method: fmt::Debug + Send + Sync {
    /// As CONNECT and AUTH carry it.
    fn name(&self) -> &'static str;

    /// Takes the client's first step; gives the exchange and the data of AUTH 0x18. `[MQTT5-4.12.0-2]`
    ///
    /// # Errors
    /// [`MethodFailure`]; never because of an unknown user.
    fn begin(
        &self,
        data: Option<&[u8]>,
        id: ExchangeId,
    ) -> Result<(Box<dyn Exchange>, Vec<u8>), MethodFailure>;
}

/// An exchange that waits for the client's second step.
pub trait Exchange: fmt::Debug {
    /// Whether the client may be this user, as far as it has said.
    fn is_by(&self, user: &str) -> bool;

    /// Takes the client's second step.
    ///
    /// # Errors
    /// [`MethodFailure`]. `[MQTT5-4.12.0-4]`
    fn finish(self: Box<Self>, data: Option<&[u8]>) -> Result<Proved, MethodFailure>;
}

/// Tells an exchange from every other one of this run of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeId {
    /// The shard whose client it is.
    pub shard: u16,
    /// Never the same twice on a shard.
    pub number: u64,
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

/// [`TEST_METHOD`]: it proves nothing.
#[derive(Clone, Copy, Debug)]
pub struct TestMethod;

impl Method for TestMethod {
    fn name(&self) -> &'static str {
        TEST_METHOD
    }

    fn begin(&self, _: Option<&[u8]>, _: ExchangeId) -> Result<(Box<dyn Exchange>, Vec<u8>), MethodFailure> {
        Ok((Box::new(TestMethod), b"challenge".to_vec()))
    }
}

impl Exchange for TestMethod {
    fn is_by(&self, _: &str) -> bool {
        true
    }

    fn finish(self: Box<Self>, data: Option<&[u8]>) -> Result<Proved, MethodFailure> {
        match data {
            Some(b"response") => Ok(Proved { user: None, line: None, data: None }),
            _ => Err(MethodFailure::Refused("the challenge was answered wrong")),
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
                TestMethod.begin(None, ExchangeId { shard: 0, number: 1 }).expect("it asks for nothing");
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
