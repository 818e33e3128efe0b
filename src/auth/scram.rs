//! SCRAM-SHA-256 (RFC 5802 and 7677), the server's side, for enhanced authentication (chapter 4.12).
//!
//! The inputs are the Authentication Data of CONNECT and AUTH. The outputs are the broker's answers, and
//! finally the user's name or the reason why the exchange has failed. There are two steps, and the second
//! consumes the result of the first. The server's nonce and the users' keys are arguments: this module has no
//! clock, no randomness and no file.
//!
//! ```text
//! CONNECT  n,,n=user,r=cnonce                      ScramServer::first
//! AUTH     r=cnonce snonce,s=salt,i=iterations
//! AUTH     c=biws,r=cnonce snonce,p=proof          ScramServer::finish
//! CONNACK  v=signature
//! ```
//!
//!
//! An unknown user gets a salt too, the same one each time. The exchange then fails at the proof, as with a wrong
//! password: see [`FakeUsers`]. Channel binding is not offered. A client that could do it (`y`) is accepted, and a
//! client that insists on it (`p=`) is refused.
//!
//! Why midge has its own: of the crates, `rsasl` is well maintained. But it draws nonces itself, gives an
//! unknown user a different salt at each try and finally reports it (`e=unknown-user`), does not decode `=2C`
//! in names, and compares keys with `==`. `scram` and `scram-rs` bring a cryptographic library of their own
//! and draw nonces in the same way. Without them, a page of parsing on top of `hmac` and `sha2` is needed.
//!
//! The files: `messages` reads the client's messages, `keys` makes the keys of users and of unknown users,
//! and this file has the exchange.

mod keys;
mod messages;

pub use keys::{FakeUsers, ScramKeys, prepare};
pub(super) use keys::{hmac, sha256, stored_key};
pub use messages::{MESSAGE_BYTES_MAX, NONCE_BYTES_MAX};

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::Zeroizing;

use crate::policy::access::PasswordLine;
use messages::{ClientFinal, ClientFirst, is_nonce, prepared_name, text};

/// The Authentication Method of CONNECT and AUTH.
pub const METHOD: &str = "SCRAM-SHA-256";

/// The server's part of the nonce: printable, without a comma.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNonce(String);

impl ServerNonce {
    /// Makes a nonce from random bytes that the caller has drawn for this exchange only.
    pub fn from_random(bytes: &[u8; 18]) -> ServerNonce {
        ServerNonce(BASE64.encode(bytes))
    }

    /// Makes a nonce from a text. `None` if it is empty or has characters that a nonce may not have.
    pub fn from_text(text: &str) -> Option<ServerNonce> {
        is_nonce(text).then(|| ServerNonce(text.to_owned()))
    }
}

/// Why an exchange has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramFailure {
    /// The message breaks the grammar. The words say where.
    Malformed(&'static str),
    /// The client insists on channel binding.
    ChannelBinding,
    /// The client demands an extension (`m=`).
    Extension,
    /// The client wants to act as another user (`a=`).
    Authorization,
    /// The client's last message belongs to another exchange: its nonce or header differs.
    Mismatch,
    /// A wrong password or an unknown user. It does not say which.
    Proof,
}

impl ScramFailure {
    /// The failure in words, for the log.
    pub fn words(self) -> &'static str {
        match self {
            ScramFailure::Malformed(_) => "malformed SCRAM message",
            ScramFailure::ChannelBinding => "the client insists on channel binding",
            ScramFailure::Extension => "the client demands an unknown SCRAM extension",
            ScramFailure::Authorization => "the client asks to act as another user",
            ScramFailure::Mismatch => "nonce or header differ from those of the first message",
            ScramFailure::Proof => "unknown user or wrong password",
        }
    }
}

impl fmt::Display for ScramFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScramFailure::Malformed(what) => write!(f, "{}: {what}", self.words()),
            _ => f.write_str(self.words()),
        }
    }
}

impl std::error::Error for ScramFailure {}

/// A user who has proved knowledge of the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScramAccepted {
    /// The prepared name, as it was passed to `lookup`.
    pub user: String,
    /// The user's line of the password file.
    pub line: PasswordLine,
    /// `v=…`. It proves to the client that the broker has the user's keys. It goes into the Authentication
    /// Data of CONNACK, or of the last AUTH of a re-authentication.
    pub server_final: Vec<u8>,
}

/// An exchange that waits for the client's proof.
pub struct ScramServer {
    user: String,
    is_known: Choice,
    keys: ScramKeys,
    /// The header of the client's first message, in Base64. The client repeats it as `c=`.
    header: String,
    nonce: String,
    /// client-first-message-bare, a comma, server-first-message, a comma.
    transcript: String,
}

impl fmt::Debug for ScramServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramServer").field("user", &self.user).finish_non_exhaustive()
    }
}

impl ScramServer {
    /// Handles the client's first message. Returns the exchange and the answer for AUTH 0x18.
    /// `[MQTT5-4.12.0-2]`
    ///
    /// `lookup` is called once, with the prepared name. It returns `None` for unknown users and for users
    /// without keys.
    ///
    /// # Errors
    /// [`ScramFailure`]. An unknown user is not an error here.
    pub fn first(
        client_first: &[u8],
        nonce: &ServerNonce,
        lookup: impl Fn(&str) -> Option<ScramKeys>,
        fakes: &FakeUsers,
    ) -> Result<(ScramServer, Vec<u8>), ScramFailure> {
        let message = text(client_first)?;
        let first = ClientFirst::parse(message)?;
        let user = prepared_name(first.user)?;
        if let Some(acting_as) = first.acting_as
            && prepared_name(acting_as)? != user
        {
            return Err(ScramFailure::Authorization);
        }
        // Both are always computed: an unknown user must take as long as a known one.
        let fake = fakes.keys(&user);
        let known = lookup(&user);
        let is_known = Choice::from(u8::from(known.is_some()));
        let keys = known.unwrap_or(fake);

        let nonce = format!("{}{}", first.nonce, nonce.0);
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(keys.salt()), keys.iterations());
        let exchange = ScramServer {
            user,
            is_known,
            keys,
            header: BASE64.encode(first.header),
            nonce,
            transcript: format!("{},{server_first},", first.bare),
        };
        Ok((exchange, server_first.into_bytes()))
    }

    /// The prepared name that the client claims. It is not proved yet.
    pub fn claimed_user(&self) -> &str {
        &self.user
    }

    /// Handles the client's last message. Returns the user and the answer for CONNACK.
    ///
    /// # Errors
    /// [`ScramFailure`]. It is [`ScramFailure::Proof`] for a wrong password and for an unknown user.
    /// `[MQTT5-4.12.0-4]`
    pub fn finish(self, client_final: &[u8]) -> Result<ScramAccepted, ScramFailure> {
        let last = ClientFinal::parse(text(client_final)?)?;
        if last.header != self.header || last.nonce != self.nonce {
            return Err(ScramFailure::Mismatch);
        }
        let message = [self.transcript.as_bytes(), last.without_proof.as_bytes()];
        let signature = hmac(self.keys.stored_key(), &message);
        let mut client_key = Zeroizing::new([0; 32]);
        for ((key, proof), sign) in client_key.iter_mut().zip(last.proof).zip(signature) {
            *key = proof ^ sign;
        }
        let is_right = sha256(&*client_key).ct_eq(self.keys.stored_key()) & self.is_known;
        let server_signature = hmac(self.keys.server_key(), &message);
        if !bool::from(is_right) {
            return Err(ScramFailure::Proof);
        }
        let server_final = format!("v={}", BASE64.encode(server_signature)).into_bytes();
        let line = PasswordLine::of(self.keys.stored_key());
        Ok(ScramAccepted { user: self.user.clone(), line, server_final })
    }
}

#[cfg(test)]
pub(crate) mod tests;
