//! Who may come in, and what they may do: password files, certificates' names and access lists, the parts for
//! tokens, a webhook and SCRAM, and the seam of enhanced authentication (chapter 4.12) with the method that client
//! developers and our tests use.
//!
//! [`access`] is what the machine knows of it all; which files a listener names is read by `control::entrance`, and
//! what takes long is checked on its threads.

pub mod access;
pub mod acl;
pub mod gate;
#[cfg(feature = "runtime")]
pub mod hash;
#[cfg(feature = "runtime")]
pub mod jwt;
#[cfg(feature = "runtime")]
pub mod passwd;
#[cfg(feature = "runtime")]
pub mod password_edit;
#[cfg(feature = "runtime")]
pub mod password_file;
#[cfg(feature = "runtime")]
pub mod scram;
#[cfg(feature = "runtime")]
pub mod webhook;

use crate::packet::Reason;

/// Authentication Method of the built-in test: a challenge, a fixed answer.
pub const TEST_METHOD: &str = "midge-test";

/// What an authentication method answers to a step of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthStep {
    /// AUTH 0x18 with this data. `[MQTT5-4.12.0-2]`
    Continue(&'static [u8]),
    /// The client has proved itself.
    Accept,
    /// It has not: CONNACK or DISCONNECT with this reason code. `[MQTT5-4.12.0-4]`
    Refuse(Reason),
}

/// The test method: `challenge` is answered by `response`.
pub fn test_method(challenged: bool, data: Option<&[u8]>) -> AuthStep {
    match (challenged, data) {
        (false, _) => AuthStep::Continue(b"challenge"),
        (true, Some(b"response")) => AuthStep::Accept,
        (true, _) => AuthStep::Refuse(Reason::NotAuthorized),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_response_is_accepted() {
        assert_eq!(test_method(false, None), AuthStep::Continue(b"challenge"));
        assert_eq!(test_method(true, Some(b"response")), AuthStep::Accept);
        assert_eq!(test_method(true, Some(b"respons")), AuthStep::Refuse(Reason::NotAuthorized));
        assert_eq!(test_method(true, None), AuthStep::Refuse(Reason::NotAuthorized));
    }
}
