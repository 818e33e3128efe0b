//! The methods of enhanced authentication (chapter 4.12), as the machine sees them.
//!
//! The inputs are the Authentication Data of CONNECT and AUTH. The outputs are the broker's answers, and
//! finally the identity of the client. Every method has two steps of the client, and the second consumes the
//! result of the first. The random values of an exchange depend on its number and on a secret that the method
//! was made with.

use super::access::PasswordLine;
use std::fmt;

/// The Authentication Method of the built-in test: a challenge and a fixed answer.
pub const TEST_METHOD: &str = "midge-test";

/// A method that a listener offers.
pub trait Method: fmt::Debug + Send + Sync {
    /// The name in CONNECT and AUTH.
    fn name(&self) -> &'static str;

    /// Handles the client's first step. Returns the exchange and the data of AUTH 0x18. `[MQTT5-4.12.0-2]`
    ///
    /// # Errors
    /// [`MethodFailure`]. An unknown user is not an error here.
    fn begin(
        &self,
        data: Option<&[u8]>,
        id: ExchangeId,
    ) -> Result<(Box<dyn Exchange>, Vec<u8>), MethodFailure>;
}

/// An exchange that waits for the client's second step.
pub trait Exchange: fmt::Debug {
    /// Whether the client may be this user, according to what it has sent so far.
    fn is_by(&self, user: &str) -> bool;

    /// Handles the client's second step.
    ///
    /// # Errors
    /// [`MethodFailure`]. `[MQTT5-4.12.0-4]`
    fn finish(self: Box<Self>, data: Option<&[u8]>) -> Result<Proved, MethodFailure>;
}

/// Identifies an exchange within this run of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeId {
    /// The shard of the client.
    pub shard: u16,
    /// A number that is unique on the shard.
    pub number: u64,
}

/// The result of a successful exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// The user that the client has proved to be. `None` if the method proves nothing.
    pub user: Option<Box<str>>,
    /// The line of the password file for that user.
    pub line: Option<PasswordLine>,
    /// The Authentication Data of CONNACK, or of the last AUTH of a re-authentication.
    pub data: Option<Vec<u8>>,
}

/// Why an exchange has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodFailure {
    /// The data does not fit this step of the method.
    Malformed(&'static str),
    /// The password is wrong or the user is unknown. It does not say which.
    Proof,
    /// The client asks for something that is not allowed.
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
