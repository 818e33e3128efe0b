//! The keys that the broker keeps for SCRAM instead of passwords, the salts that it shows unknown users, and
//! the functions that make both.

use std::borrow::Cow;
use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use crate::auth::hash::{ITERATIONS_MAX, SALT_BYTES, SALT_BYTES_MAX, SALT_BYTES_MIN, SCRAM_ITERATIONS_MIN};

pub(super) type ScramKey = [u8; 32];

// The longest salt of an unknown user is made of two keys.
const _: () = assert!(SALT_BYTES_MAX <= 2 * size_of::<ScramKey>());

/// The keys of a user's password. Its `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    iterations: u32,
    salt: Box<[u8]>,
    stored_key: ScramKey,
    server_key: ScramKey,
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramKeys").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl Drop for ScramKeys {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

impl ScramKeys {
    /// Keys that were computed elsewhere. `None` if the salt or the iterations are outside of the bounds of
    /// [`crate::auth::hash`].
    pub fn new(
        iterations: u32,
        salt: &[u8],
        stored_key: [u8; 32],
        server_key: [u8; 32],
    ) -> Option<ScramKeys> {
        let allowed = (SCRAM_ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations)
            && (SALT_BYTES_MIN..=SALT_BYTES_MAX).contains(&salt.len());
        allowed.then(|| ScramKeys { iterations, salt: salt.into(), stored_key, server_key })
    }

    /// Computes the keys of a password. `None` if SASLprep refuses the password, or [`ScramKeys::new`]
    /// refuses the salt or the iterations.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Option<ScramKeys> {
        let prepared = Zeroizing::new(prepare(password)?.into_owned());
        let salted = salted_password(prepared.as_bytes(), salt, iterations);
        let client_key = Zeroizing::new(hmac(&*salted, &[b"Client Key"]));
        ScramKeys::new(iterations, salt, sha256(&*client_key), hmac(&*salted, &[b"Server Key"]))
    }

    /// The `i` of the exchange.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The `s` of the exchange.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    pub(in crate::auth) fn stored_key(&self) -> &[u8; 32] {
        &self.stored_key
    }

    pub(in crate::auth) fn server_key(&self) -> &[u8; 32] {
        &self.server_key
    }
}

/// The StoredKey of a password as CONNECT carries it. A password that SASLprep refuses is used unchanged. Its
/// key matches no user's key, and takes as long to compute.
pub(in crate::auth) fn stored_key(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let prepared = std::str::from_utf8(password).ok().and_then(prepare);
    let prepared =
        Zeroizing::new(prepared.map_or_else(|| password.to_vec(), |text| text.into_owned().into_bytes()));
    let salted = salted_password(&prepared, salt, iterations);
    sha256(&*Zeroizing::new(hmac(&*salted, &[b"Client Key"])))
}

/// The form in which SCRAM compares names and passwords (SASLprep, RFC 4013). `None` if SASLprep forbids the
/// text.
pub fn prepare(text: &str) -> Option<Cow<'_, str>> {
    stringprep::saslprep(text).ok()
}

/// Makes the salts of unknown users. A name gets the same salt at each try, and it looks like the salt of a
/// user.
///
/// The secret must be the same after a restart, and on each broker that has the same users. If it changes,
/// the salts of unknown users change and those of users do not, so a client can tell them apart.
#[derive(Clone)]
pub struct FakeUsers {
    secret: Zeroizing<[u8; 32]>,
    iterations: u32,
    salt_bytes: usize,
}

impl fmt::Debug for FakeUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeUsers").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl FakeUsers {
    /// Fake users that look like users whose hashes have these iterations and this salt length. Both are
    /// limited to the bounds of [`crate::auth::hash`].
    pub fn new(secret: [u8; 32], iterations: u32, salt_bytes: usize) -> FakeUsers {
        FakeUsers {
            secret: Zeroizing::new(secret),
            iterations: iterations.clamp(SCRAM_ITERATIONS_MIN, ITERATIONS_MAX),
            salt_bytes: salt_bytes.clamp(SALT_BYTES_MIN, SALT_BYTES_MAX),
        }
    }

    /// Fake users that look like the users that `midge passwd --scram` makes.
    pub fn with_defaults(secret: [u8; 32]) -> FakeUsers {
        FakeUsers::new(secret, SCRAM_ITERATIONS_MIN, SALT_BYTES)
    }

    pub(super) fn keys(&self, user: &str) -> ScramKeys {
        let lower = hmac(&*self.secret, &[b"salt", user.as_bytes()]);
        let upper = hmac(&*self.secret, &[b"more salt", user.as_bytes()]);
        ScramKeys {
            iterations: self.iterations,
            salt: lower.into_iter().chain(upper).take(self.salt_bytes).collect(),
            stored_key: hmac(&*self.secret, &[b"stored", user.as_bytes()]),
            server_key: hmac(&*self.secret, &[b"server", user.as_bytes()]),
        }
    }
}

pub(super) fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Zeroizing<ScramKey> {
    let mut salted = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut *salted);
    salted
}

pub(in crate::auth) fn sha256(bytes: &[u8]) -> ScramKey {
    Sha256::digest(bytes).into()
}

pub(in crate::auth) fn hmac(key: &[u8], parts: &[&[u8]]) -> ScramKey {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::pencil;
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;

    #[test]
    fn keys_of_a_password_are_those_that_others_compute() {
        // Python's modules hashlib and hmac computed these values.
        let keys = pencil();
        assert_eq!(BASE64.encode(keys.stored_key), "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=");
        assert_eq!(BASE64.encode(keys.server_key), "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=");
        assert_eq!(stored_key(b"pencil", keys.salt(), 4096), keys.stored_key);
    }

    #[test]
    fn a_fake_has_the_iterations_and_the_length_of_salt_that_are_asked_for() {
        for salt_bytes in [SALT_BYTES_MIN, SALT_BYTES, SALT_BYTES_MAX] {
            let keys = FakeUsers::new([9; 32], 5000, salt_bytes).keys("stranger");
            assert_eq!((keys.salt().len(), keys.iterations()), (salt_bytes, 5000));
        }
    }
}
