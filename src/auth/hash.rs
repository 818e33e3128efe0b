//! Password hashes: the kinds that a password file may hold, and how each kind is read, written, checked and
//! made.
//!
//! The inputs are the text after the colon of a line, and passwords as CONNECT carries them (any bytes,
//! possibly none). The result of a check is yes or no. There are four kinds:
//!
//! | text | kind | written by |
//! |---|---|---|
//! | `$argon2id$v=19$m=…,t=…,p=…$salt$hash` | Argon2id (RFC 9106), PHC string format | `midge passwd`, mosquitto 2.1 |
//! | `$7$iterations$salt$hash` | PBKDF2-HMAC-SHA-512 | mosquitto 2.0 |
//! | `$6$salt$hash` | one round of SHA-512 over password and salt | mosquitto before 2.0 |
//! | `$scram-sha-256$iterations$salt$stored_key$server_key` | the keys of RFC 5802 and 7677 | `midge passwd --scram` |
//!
//! Every function here depends on its arguments only, and takes from microseconds to two seconds of one core,
//! depending on the hash. It must run on a pool of threads, never on a shard. The cost that a file may demand
//! is bounded ([`MEMORY_KIB_MAX`] and the constants after it), so that a typing error can't block logins.
//!
//! The PHC string is parsed here and not by the crate `password-hash`, because that crate refuses salts of
//! more than 48 bytes, and mosquitto 2.1 writes 64.

use std::fmt;
use std::ops::RangeInclusive;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest as _, Sha512};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::scram::{self, ScramKeys};
use crate::policy::access::PasswordLine;

/// The largest memory of one Argon2id verification, in KiB: 256 MiB.
pub const MEMORY_KIB_MAX: u32 = 262_144;
/// The largest number of passes of an Argon2id hash over its memory.
pub const PASSES_MAX: u32 = 64;
/// The largest number of lanes of an Argon2id hash. The lanes are computed one after the other.
pub const LANES_MAX: u32 = 16;
/// The largest product of memory and passes of an Argon2id hash, in KiB: one to two seconds of one core.
pub const MEMORY_KIB_PASSES_MAX: u64 = 1_048_576;
/// The largest number of iterations of PBKDF2, in `$7$` and in SCRAM: one to two seconds of one core.
pub const ITERATIONS_MAX: u32 = 1_000_000;
/// The smallest number of iterations of SCRAM-SHA-256 (RFC 7677, chapter 4).
pub const SCRAM_ITERATIONS_MIN: u32 = 4096;
/// The shortest salt, in bytes. Argon2 demands it.
pub const SALT_BYTES_MIN: usize = 8;
/// The longest salt, in bytes. mosquitto 2.1 writes it.
pub const SALT_BYTES_MAX: usize = 64;
/// The length of the salts that midge makes, in bytes.
pub const SALT_BYTES: usize = 16;
/// The longest hash, in bytes.
pub const DIGEST_BYTES_MAX: usize = 64;
/// The shortest Argon2id hash, in bytes.
const DIGEST_BYTES_MIN: usize = 16;
/// The length of the Argon2id hashes that midge makes, in bytes.
const DIGEST_BYTES: usize = 32;

const _: () = assert!(SALT_BYTES >= SALT_BYTES_MIN && SALT_BYTES <= SALT_BYTES_MAX);
const _: () = assert!(DIGEST_BYTES >= DIGEST_BYTES_MIN && DIGEST_BYTES <= DIGEST_BYTES_MAX);
const _: () = assert!((MEMORY_KIB_MAX as u64) <= MEMORY_KIB_PASSES_MAX);

/// mosquitto writes padding and the PHC format does not. Both are read everywhere.
const PADDED: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const UNPADDED: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The cost of one Argon2id verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Argon2Cost {
    /// The memory of one verification, in KiB.
    pub memory_kib: u32,
    /// The number of passes over that memory.
    pub passes: u32,
    /// The number of parts of that memory that could be processed in parallel.
    pub lanes: u32,
}

impl Argon2Cost {
    /// The default cost of `midge passwd`: 2 MiB and one pass, which take three quarters of a millisecond.
    ///
    /// The usual advice (19 MiB and two passes, or 46 MiB and one) is meant for sites where a person logs in
    /// now and then. It costs 60 to 80 ms of a core (AMD EPYC, two shared cores). The fleet of a broker
    /// reconnects all at once after an outage. At those costs a core admits 15 clients a second, at this one
    /// 1300. Devices should have machine-made passwords of 16 bytes or more, which no hash needs to protect.
    /// For passwords that people choose, raise the memory.
    pub const DEFAULT: Argon2Cost = Argon2Cost { memory_kib: 2048, passes: 1, lanes: 1 };

    /// # Errors
    /// [`HashError::Argon2Cost`] if the cost is outside of the bounds of this module or of RFC 9106 (8 KiB
    /// for each lane).
    pub fn check(self) -> Result<(), HashError> {
        let Argon2Cost { memory_kib, passes, lanes } = self;
        let work = u64::from(memory_kib) * u64::from(passes);
        let allowed = (1..=PASSES_MAX).contains(&passes)
            && (1..=LANES_MAX).contains(&lanes)
            && (8 * lanes..=MEMORY_KIB_MAX).contains(&memory_kib)
            && work <= MEMORY_KIB_PASSES_MAX;
        if allowed { Ok(()) } else { Err(HashError::Argon2Cost) }
    }

    fn params(self, digest_bytes: usize) -> Option<Params> {
        Params::new(self.memory_kib, self.passes, self.lanes, Some(digest_bytes)).ok()
    }
}

/// A kind of hash with its cost. It decides how long a verification takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Argon2id, version 1.3.
    Argon2id(Argon2Cost),
    /// mosquitto's `$7$`.
    Pbkdf2Sha512 {
        /// 1 to [`ITERATIONS_MAX`].
        iterations: u32,
    },
    /// mosquitto's `$6$`.
    Sha512,
    /// The keys of SCRAM-SHA-256.
    ScramSha256 {
        /// [`SCRAM_ITERATIONS_MIN`] to [`ITERATIONS_MAX`].
        iterations: u32,
    },
}

impl Scheme {
    fn digest_bytes(self) -> usize {
        match self {
            Scheme::Argon2id(_) | Scheme::ScramSha256 { .. } => DIGEST_BYTES,
            Scheme::Pbkdf2Sha512 { .. } | Scheme::Sha512 => DIGEST_BYTES_MAX,
        }
    }

    fn check(self) -> Result<(), HashError> {
        match self {
            Scheme::Argon2id(cost) => cost.check(),
            Scheme::Pbkdf2Sha512 { iterations } => check_iterations(iterations, 1..=ITERATIONS_MAX),
            Scheme::ScramSha256 { iterations } => {
                check_iterations(iterations, SCRAM_ITERATIONS_MIN..=ITERATIONS_MAX)
            }
            Scheme::Sha512 => Ok(()),
        }
    }
}

/// Why a text is not a hash, or why a hash can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// It does not begin with `$`. It is most likely a plain password.
    #[error("a password in the clear; allowed are hashes: run `midge passwd FILE USER` to write one")]
    Plaintext,
    /// Its beginning matches no known kind.
    #[error("an unknown kind of hash; allowed are $argon2id$, $scram-sha-256$, and mosquitto's $7$ and $6$")]
    UnknownKind,
    /// A part is missing, or there is one too many.
    #[error(
        "a part of the hash is missing or one too many; allowed are $argon2id$v=19$m=…,t=…,p=…$salt$hash, \
         $scram-sha-256$iterations$salt$stored_key$server_key, $7$iterations$salt$hash and $6$salt$hash"
    )]
    Shape,
    /// An Argon2id hash whose version is not 1.3.
    #[error("an Argon2 version that is not allowed; allowed is v=19")]
    Argon2Version,
    /// An Argon2id cost outside of the bounds.
    #[error(
        "an Argon2 cost that is not allowed; allowed are m=8 (for each lane) to {MEMORY_KIB_MAX} KiB, \
         t=1 to {PASSES_MAX}, p=1 to {LANES_MAX}, and m times t up to {MEMORY_KIB_PASSES_MAX}"
    )]
    Argon2Cost,
    /// An iteration count outside of the bounds.
    #[error("a number of iterations that is not allowed; allowed are {min} to {ITERATIONS_MAX}")]
    Iterations {
        /// The lowest allowed count.
        min: u32,
    },
    /// A part that should be base64 is not.
    #[error("a part of the hash is not base64")]
    Base64,
    /// A salt length outside of [`SALT_BYTES_MIN`] to [`SALT_BYTES_MAX`].
    #[error("a salt of the wrong length; allowed are {SALT_BYTES_MIN} to {SALT_BYTES_MAX} bytes")]
    SaltLength,
    /// A hash or key of the wrong length.
    #[error(
        "a hash of the wrong length; allowed are {DIGEST_BYTES_MIN} to {DIGEST_BYTES_MAX} bytes for Argon2id, \
         {DIGEST_BYTES} for SCRAM, 64 for $6$ and $7$"
    )]
    DigestLength,
    /// A password that SASLprep (RFC 4013) refuses. No SCRAM client could use it.
    #[error("SCRAM passwords are UTF-8 without control and unassigned characters (RFC 4013)")]
    ScramPassword,
}

/// The memory of Argon2id, reused for later verifications. With fresh pages from the kernel, a verification
/// takes a twentieth longer at 2 MiB, and half as long again at 46 MiB. Each thread of the pool has one. It
/// never shrinks.
#[derive(Default)]
pub struct HashScratch {
    blocks: Vec<Block>,
}

impl fmt::Debug for HashScratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashScratch").field("kib", &self.blocks.len()).finish_non_exhaustive()
    }
}

/// The hash of one user. Its `Debug` shows the kind and the cost only.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    scheme: Scheme,
    salt: Box<[u8]>,
    /// The hash, or the StoredKey of SCRAM.
    digest: Box<[u8]>,
    /// The ServerKey of SCRAM. Other kinds have none.
    server_key: Option<Box<[u8; 32]>>,
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHash").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl PasswordHash {
    /// Hashes a password. The caller draws the salt at random, [`SALT_BYTES`] long.
    ///
    /// # Errors
    /// A cost or salt is outside of the bounds, or SCRAM can't use the password.
    pub fn new(scheme: Scheme, password: &[u8], salt: &[u8]) -> Result<PasswordHash, HashError> {
        scheme.check()?;
        check_salt(salt)?;
        if let Scheme::ScramSha256 { iterations } = scheme {
            let text = std::str::from_utf8(password).map_err(|_| HashError::ScramPassword)?;
            let keys = ScramKeys::derive(text, salt, iterations).ok_or(HashError::ScramPassword)?;
            return Ok(PasswordHash::from_scram(keys));
        }
        let mut digest = vec![0; scheme.digest_bytes()].into_boxed_slice();
        compute(scheme, password, salt, &mut digest, &mut HashScratch::default())
            .ok_or(HashError::Argon2Cost)?;
        Ok(PasswordHash { scheme, salt: salt.into(), digest, server_key: None })
    }

    /// Reads the part of a line after the user's name and the colon.
    ///
    /// # Errors
    /// The error says what is allowed.
    pub fn parse(text: &str) -> Result<PasswordHash, HashError> {
        let rest = text.strip_prefix('$').ok_or(HashError::Plaintext)?;
        let (kind, rest) = rest.split_once('$').ok_or(HashError::UnknownKind)?;
        match kind {
            "argon2id" => parse_argon2id(rest),
            "7" => parse_pbkdf2(rest),
            "6" => parse_sha512(rest),
            "scram-sha-256" => parse_scram(rest),
            _ => Err(HashError::UnknownKind),
        }
    }

    /// The text that [`PasswordHash::parse`] reads.
    pub fn to_text(&self) -> Zeroizing<String> {
        let salt = PADDED.encode(&self.salt);
        Zeroizing::new(match self.scheme {
            Scheme::Argon2id(Argon2Cost { memory_kib, passes, lanes }) => format!(
                "$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${}${}",
                UNPADDED.encode(&self.salt),
                UNPADDED.encode(&self.digest)
            ),
            Scheme::Pbkdf2Sha512 { iterations } => {
                format!("$7${iterations}${salt}${}", PADDED.encode(&self.digest))
            }
            Scheme::Sha512 => format!("$6${salt}${}", PADDED.encode(&self.digest)),
            Scheme::ScramSha256 { iterations } => format!(
                "$scram-sha-256${iterations}${salt}${}${}",
                PADDED.encode(&self.digest),
                self.server_key.as_deref().map(|key| PADDED.encode(key)).unwrap_or_default()
            ),
        })
    }

    /// A hash that takes as long to check as `self`, for which no password is known.
    pub fn dummy(&self) -> PasswordHash {
        PasswordHash {
            scheme: self.scheme,
            salt: vec![0; self.salt.len()].into_boxed_slice(),
            digest: vec![0; self.digest.len()].into_boxed_slice(),
            server_key: None,
        }
    }

    /// The kind and the cost.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The length of the salt, in bytes.
    pub fn salt_bytes(&self) -> usize {
        self.salt.len()
    }

    /// Whether this is the hash of the password. The time of the comparison does not depend on where they
    /// differ.
    pub fn verify(&self, password: &[u8], scratch: &mut HashScratch) -> bool {
        let mut computed = Zeroizing::new([0; DIGEST_BYTES_MAX]);
        let Some(computed) = computed.get_mut(..self.digest.len()) else { return false };
        compute(self.scheme, password, &self.salt, computed, scratch).is_some()
            && bool::from(computed.ct_eq(&self.digest))
    }

    /// The keys that a SCRAM exchange with this user needs. `None` if the hash is of another kind.
    pub fn scram_keys(&self) -> Option<ScramKeys> {
        let Scheme::ScramSha256 { iterations } = self.scheme else { return None };
        let stored_key = <[u8; 32]>::try_from(&*self.digest).ok()?;
        ScramKeys::new(iterations, &self.salt, stored_key, **self.server_key.as_ref()?)
    }

    /// A value that differs between the hashes of different passwords, and between hashes of the same
    /// password with different salts.
    pub fn line(&self) -> PasswordLine {
        PasswordLine::of(&self.digest)
    }

    fn from_scram(keys: ScramKeys) -> PasswordHash {
        PasswordHash {
            scheme: Scheme::ScramSha256 { iterations: keys.iterations() },
            salt: keys.salt().into(),
            digest: keys.stored_key().as_slice().into(),
            server_key: Some(Box::new(*keys.server_key())),
        }
    }
}

/// Computes a hash into `out`. `None` only for costs that [`Scheme::check`] refuses.
fn compute(
    scheme: Scheme,
    password: &[u8],
    salt: &[u8],
    out: &mut [u8],
    scratch: &mut HashScratch,
) -> Option<()> {
    match scheme {
        Scheme::Argon2id(cost) => {
            let params = cost.params(out.len())?;
            let blocks = params.block_count();
            if scratch.blocks.len() < blocks {
                scratch.blocks.resize(blocks, Block::default());
            }
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into_with_memory(password, salt, out, scratch.blocks.get_mut(..blocks)?)
                .ok()?;
        }
        Scheme::Pbkdf2Sha512 { iterations } => {
            pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, iterations, out);
        }
        Scheme::Sha512 => {
            let digest = Sha512::new().chain_update(password).chain_update(salt).finalize();
            out.copy_from_slice(digest.get(..out.len())?);
        }
        Scheme::ScramSha256 { iterations } => {
            out.copy_from_slice(scram::stored_key(password, salt, iterations).get(..out.len())?);
        }
    }
    Some(())
}

fn parse_argon2id(rest: &str) -> Result<PasswordHash, HashError> {
    let [version, cost, salt, digest] = parts(rest)?;
    if version != "v=19" {
        return Err(if version.starts_with("v=") { HashError::Argon2Version } else { HashError::Shape });
    }
    let mut costs = cost.split(',');
    let mut next = |name: &str| {
        let text = costs.next().and_then(|part| part.strip_prefix(name)).ok_or(HashError::Shape)?;
        number(text).ok_or(HashError::Argon2Cost)
    };
    let cost = Argon2Cost { memory_kib: next("m=")?, passes: next("t=")?, lanes: next("p=")? };
    cost.check()?;
    if costs.next().is_some() {
        return Err(HashError::Shape);
    }
    let digest = decode(digest)?;
    if !(DIGEST_BYTES_MIN..=DIGEST_BYTES_MAX).contains(&digest.len()) {
        return Err(HashError::DigestLength);
    }
    Ok(PasswordHash {
        scheme: Scheme::Argon2id(cost),
        salt: decode_salt(salt)?,
        digest: digest.into(),
        server_key: None,
    })
}

fn parse_pbkdf2(rest: &str) -> Result<PasswordHash, HashError> {
    let [iterations, salt, digest] = parts(rest)?;
    let iterations = number(iterations).ok_or(HashError::Iterations { min: 1 })?;
    let scheme = Scheme::Pbkdf2Sha512 { iterations };
    scheme.check()?;
    let digest: [u8; DIGEST_BYTES_MAX] = decode_exactly(digest)?;
    Ok(PasswordHash { scheme, salt: decode_salt(salt)?, digest: digest.into(), server_key: None })
}

fn parse_sha512(rest: &str) -> Result<PasswordHash, HashError> {
    let [salt, digest] = parts(rest)?;
    let digest: [u8; DIGEST_BYTES_MAX] = decode_exactly(digest)?;
    Ok(PasswordHash {
        scheme: Scheme::Sha512,
        salt: decode_salt(salt)?,
        digest: digest.into(),
        server_key: None,
    })
}

fn parse_scram(rest: &str) -> Result<PasswordHash, HashError> {
    let [iterations, salt, stored_key, server_key] = parts(rest)?;
    let iterations = number(iterations).ok_or(HashError::Iterations { min: SCRAM_ITERATIONS_MIN })?;
    let scheme = Scheme::ScramSha256 { iterations };
    scheme.check()?;
    let stored_key: [u8; DIGEST_BYTES] = decode_exactly(stored_key)?;
    Ok(PasswordHash {
        scheme,
        salt: decode_salt(salt)?,
        digest: stored_key.into(),
        server_key: Some(Box::new(decode_exactly(server_key)?)),
    })
}

fn parts<const N: usize>(rest: &str) -> Result<[&str; N], HashError> {
    let mut found = [""; N];
    let mut parts = rest.split('$');
    for part in &mut found {
        *part = parts.next().filter(|text| !text.is_empty()).ok_or(HashError::Shape)?;
    }
    if parts.next().is_some() { Err(HashError::Shape) } else { Ok(found) }
}

/// Accepts digits only: `u32::from_str` would accept a plus sign.
fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn check_iterations(iterations: u32, allowed: RangeInclusive<u32>) -> Result<(), HashError> {
    let min = *allowed.start();
    if allowed.contains(&iterations) { Ok(()) } else { Err(HashError::Iterations { min }) }
}

fn check_salt(salt: &[u8]) -> Result<(), HashError> {
    if (SALT_BYTES_MIN..=SALT_BYTES_MAX).contains(&salt.len()) { Ok(()) } else { Err(HashError::SaltLength) }
}

fn decode(text: &str) -> Result<Vec<u8>, HashError> {
    PADDED.decode(text).map_err(|_| HashError::Base64)
}

fn decode_salt(text: &str) -> Result<Box<[u8]>, HashError> {
    let salt = decode(text)?;
    check_salt(&salt)?;
    Ok(salt.into())
}

fn decode_exactly<const N: usize>(text: &str) -> Result<[u8; N], HashError> {
    decode(text)?.try_into().map_err(|_| HashError::DigestLength)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `mosquitto_passwd` 2.0.11 wrote these.
    const ALICE: &str = "$7$101$SxnVG6VKWbBORWJv$1VH9VVcKj9PpYQoLIFa83keLFOOVduKNliC3A7+r24IeIvZrTuAKzfbdiOo1FhOM8bUTihXH/hC/JnHmBbMPsA==";
    const BOB: &str = "$6$7CC0bYiNxK9O8MaL$sHBd+k3rXt5pUhkaPbkZ0K1HuDrpaopMha3+ze0ikLd0EadCBAyycD6/k0Ue80UfD3SauaUuQzv0BPaJOP0iEg==";
    const EMPTY: &str = "$7$101$BKp3XjiI7hg/OdV0$w7gyxFiwwf79FqJ9eQhPCTeaZI5Hk7gJTUWqLH9yXh/DscheZwk10kRNgeJVw9R0Kpy/6atU9rny1awddhTNxQ==";
    const UMLAUTS: &str = "$7$101$mPuqZygIy4arr3ww$2q4YkegNRD1pmSd1ZACX32h2V3Jv105ra5TO3K90LdTn2B6JrPZkY+FBMTf7CPhq5EEAZ3pzFEBSiJZrM80/vw==";

    /// The reference implementation, libargon2, wrote these, with the salt and hash lengths (64 bytes) of
    /// mosquitto 2.1. The second one also has its cost.
    const MOSQUITTO_21: &str = "$argon2id$v=19$m=64,t=1,p=1$1e8voc0j9H8JfEG7oJXUQUoiaKFF51iF+nKOsL1+J63TZJGEjrGACoCZl4wNzYZO/myOjpPqhRUeRTsFQ2D3ig$MVhB6zH933pz8rPcPB6pUfx7XK1bcV897DTp/fwKex9yRO+IGpZz8ig/jL81oR9xAX9NpeCUkjSL7cFmIfgGsg";
    const MOSQUITTO_21_COST: &str = "$argon2id$v=19$m=47104,t=1,p=1$1e8voc0j9H8JfEG7oJXUQUoiaKFF51iF+nKOsL1+J63TZJGEjrGACoCZl4wNzYZO/myOjpPqhRUeRTsFQ2D3ig$yEUVob9JaAOqAZk7VOdCWRTqlKEf0VKiITYAtMyl9hmMlIMM9aDJ9bz82jVvGy7pUgaoGeVAD+O9MJutJqZXfg";
    const THREE_LANES: &str =
        "$argon2id$v=19$m=64,t=2,p=3$MDEyMzQ1Njc4OWFiY2RlZg$F+MORdc8vgQUKUHbVl8ZJVV+GHjDzVzX7TneQ/sErt4";
    const EMPTY_ARGON2: &str = "$argon2id$v=19$m=8,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$hbJ1ohlLKVU4J4P1p07fhg";

    fn verify(hash: &str, password: &[u8]) -> bool {
        PasswordHash::parse(hash).expect("a good hash").verify(password, &mut HashScratch::default())
    }

    #[test]
    fn lines_of_mosquitto_are_verified_in_place() {
        assert!(verify(ALICE, b"correct horse"));
        assert!(!verify(ALICE, b"correct horsf"));
        assert!(!verify(ALICE, b""));
        assert!(verify(BOB, b"swordfish"));
        assert!(!verify(BOB, b"swordfish "));
        assert!(verify(UMLAUTS, "päss wörd".as_bytes()));
        // These are from the tests of mosquitto.
        assert!(verify(
            "$6$vZY4TS+/HBxHw38S$vvjVFECzb8dyuu/mruD2QKTfdFn0WmKxbc+1TsdB0L8EdHk3v9JRmfjHd56+VaTnUcSZOZ/hzkdvWCtxlX7AUQ==",
            b"password"
        ));
    }

    #[test]
    fn an_empty_password_is_a_password_like_any_other() {
        assert!(verify(EMPTY, b""));
        // b"\0" is not tested: HMAC pads a short key with zeros, so mosquitto accepts that password too.
        assert!(!verify(EMPTY, b" "));
        assert!(verify(EMPTY_ARGON2, b""));
        assert!(!verify(EMPTY_ARGON2, b" "));
    }

    #[test]
    fn argon2id_agrees_with_the_reference_implementation() {
        assert!(verify(MOSQUITTO_21, b"correct horse"));
        assert!(!verify(MOSQUITTO_21, b"correct horsd"));
        assert!(verify(THREE_LANES, b"correct horse"));
        assert!(!verify(THREE_LANES, b"Correct horse"));
        assert!(verify(MOSQUITTO_21_COST, b"correct horse"));
    }

    #[test]
    fn what_we_make_we_read_and_verify() {
        let salt = [7; SALT_BYTES];
        let schemes = [
            Scheme::Argon2id(Argon2Cost { memory_kib: 16, passes: 1, lanes: 1 }),
            Scheme::Pbkdf2Sha512 { iterations: 10 },
            Scheme::Sha512,
            Scheme::ScramSha256 { iterations: SCRAM_ITERATIONS_MIN },
        ];
        let mut scratch = HashScratch::default();
        for scheme in schemes {
            let hash = PasswordHash::new(scheme, b"secret", &salt).unwrap();
            let read = PasswordHash::parse(&hash.to_text()).unwrap();
            assert!(read == hash, "{scheme:?}");
            assert_eq!(read.scheme(), scheme);
            assert!(read.verify(b"secret", &mut scratch), "{scheme:?}");
            assert!(!read.verify(b"secreT", &mut scratch), "{scheme:?}");
            assert!(!read.verify(&[0xff, 0], &mut scratch), "{scheme:?}");
            assert!(!read.dummy().verify(b"secret", &mut scratch), "{scheme:?}");
            assert_eq!(read.dummy().scheme(), scheme);
            assert_eq!(read.scram_keys().is_some(), matches!(scheme, Scheme::ScramSha256 { .. }));
        }
    }

    #[test]
    fn scratch_of_a_larger_hash_serves_a_smaller_one() {
        let mut scratch = HashScratch::default();
        for _ in 0..2 {
            assert!(PasswordHash::parse(MOSQUITTO_21).unwrap().verify(b"correct horse", &mut scratch));
            assert!(PasswordHash::parse(EMPTY_ARGON2).unwrap().verify(b"", &mut scratch));
        }
        assert_eq!(scratch.blocks.len(), 64);
    }

    #[test]
    fn costs_that_would_stop_the_logins_are_refused() {
        let argon2 = |cost: &str| {
            PasswordHash::parse(&format!(
                "$argon2id$v=19${cost}$MDEyMzQ1Njc4OWFiY2RlZg$hbJ1ohlLKVU4J4P1p07fhg"
            ))
        };
        assert!(argon2("m=19456,t=2,p=1").is_ok());
        assert!(argon2("m=65536,t=3,p=4").is_ok());
        for cost in [
            "m=262145,t=1,p=1",
            "m=4294967295,t=1,p=1",
            "m=4294967296,t=1,p=1",
            "m=262144,t=5,p=1",
            "m=64,t=65,p=1",
            "m=64,t=0,p=1",
            "m=64,t=1,p=0",
            "m=4096,t=1,p=17",
            "m=7,t=1,p=1",
            "m=15,t=1,p=2",
            "m=,t=1,p=1",
            "m=+64,t=1,p=1",
            "m=-1,t=1,p=1",
        ] {
            assert_eq!(argon2(cost).err(), Some(HashError::Argon2Cost), "{cost}");
        }
        for iterations in ["0", "1000001", "99999999999", "-1", "+101", "x"] {
            let text = ALICE.replacen("101", iterations, 1);
            assert_eq!(
                PasswordHash::parse(&text).err(),
                Some(HashError::Iterations { min: 1 }),
                "{iterations}"
            );
        }
        assert_eq!(
            PasswordHash::new(Scheme::ScramSha256 { iterations: 4095 }, b"x", &[0; 16]).err(),
            Some(HashError::Iterations { min: 4096 })
        );
    }

    #[test]
    fn malformed_hashes_say_what_is_wrong() {
        for (text, error) in [
            ("", HashError::Plaintext),
            ("secret", HashError::Plaintext),
            ("$", HashError::UnknownKind),
            ("$1$abc$def", HashError::UnknownKind),
            ("$2b$12$abcdefghijklmnopqrstuv", HashError::UnknownKind),
            (
                "$argon2i$v=19$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$hbJ1ohlLKVU4J4P1p07fhg",
                HashError::UnknownKind,
            ),
            ("$6$", HashError::Shape),
            ("$6$njERlZMi/7DzNB9E", HashError::Shape),
            ("$6$njERlZMi/7DzNB9E$", HashError::Shape),
            ("$6$a$b$c", HashError::Shape),
            ("$6$njERlZMi/7DzNB9E$AAAA", HashError::DigestLength),
            ("$7$101$njERlZMi/7DzNB9E", HashError::Shape),
            ("$argon2id$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$hbJ1ohlLKVU4J4P1p07fhg", HashError::Shape),
            (
                "$argon2id$v=16$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$hbJ1ohlLKVU4J4P1p07fhg",
                HashError::Argon2Version,
            ),
            ("$argon2id$v=19$t=1,m=64,p=1$MDEyMzQ1Njc4OWFiY2RlZg$hbJ1ohlLKVU4J4P1p07fhg", HashError::Shape),
            (
                "$argon2id$v=19$m=64,t=1,p=1,x=1$MDEyMzQ1Njc4OWFiY2RlZg$hbJ1ohlLKVU4J4P1p07fhg",
                HashError::Shape,
            ),
            ("$argon2id$v=19$m=64,t=1,p=1$MDEy$hbJ1ohlLKVU4J4P1p07fhg", HashError::SaltLength),
            ("$argon2id$v=19$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$hbJ1", HashError::DigestLength),
            ("$argon2id$v=19$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$!!!!", HashError::Base64),
            ("$scram-sha-256$4096$AAAA", HashError::Shape),
        ] {
            assert_eq!(PasswordHash::parse(text).err(), Some(error), "{text}");
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn debug_output_shows_neither_salt_nor_hash() {
        let hash = PasswordHash::parse(BOB).unwrap();
        assert_eq!(format!("{hash:?}"), "PasswordHash { scheme: Sha512, .. }");
        assert_eq!(format!("{:?}", HashScratch::default()), "HashScratch { kib: 0, .. }");
    }
}
