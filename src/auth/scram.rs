//! SCRAM-SHA-256 (RFC 5802 and 7677), the server's side, for enhanced authentication (chapter 4.12).
//!
//! In: the Authentication Data of CONNECT and AUTH. Out: what the broker answers, and in the end the
//! user's name or the reason why not. Two steps, the second consumes what the first has made; no
//! clock, no chance, no files: the server's nonce and the users' keys are arguments.
//!
//! ```text
//! CONNECT  n,,n=user,r=cnonce                      ScramServer::first
//! AUTH     r=cnonce snonce,s=salt,i=iterations
//! AUTH     c=biws,r=cnonce snonce,p=proof          ScramServer::finish
//! CONNACK  v=signature
//! ```
//!
//! A user whom nobody knows gets a salt too, the same one each time, and fails at the proof like
//! one with a wrong password: see [`FakeUsers`]. Channel binding is not offered, so a client that
//! could do it (`y`) is welcome, and one that insists on it (`p=`) is refused.
//!
//! Why our own: of the crates, `rsasl` is well kept, but draws nonces itself, gives an unknown user
//! another salt at each try and names it in the end (`e=unknown-user`), leaves `=2C` in names
//! as it is, and compares keys with `==`; `scram` and `scram-rs` bring a cryptographic library of
//! their own and the same nonces. What remains is a page of parsing on `hmac` and `sha2`.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::{Zeroize as _, Zeroizing};

use super::hash::{ITERATIONS_MAX, SALT_BYTES, SALT_BYTES_MAX, SALT_BYTES_MIN, SCRAM_ITERATIONS_MIN};
use crate::policy::access::PasswordLine;

/// The Authentication Method of CONNECT and AUTH.
pub const METHOD: &str = "SCRAM-SHA-256";

/// Longest message of a client, in bytes; a longer one is refused unread. Room for a name of 65535
/// bytes is not needed: SCRAM's names are typed.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// Longest nonce of a client, in bytes.
pub const NONCE_BYTES_MAX: usize = 256;

type Key = [u8; 32];

// Two keys make the longest salt of a stranger.
const _: () = assert!(SALT_BYTES_MAX <= 2 * size_of::<Key>());

/// What the broker keeps of a user's password. Without `Debug` of the keys.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    iterations: u32,
    salt: Box<[u8]>,
    stored_key: Key,
    server_key: Key,
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
    /// Keys that were computed elsewhere; `None` when salt or iterations are outside the bounds
    /// of [`super::hash`].
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

    /// The keys of a password; `None` when SASLprep refuses it, or for salt and iterations as
    /// in [`ScramKeys::new`].
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

    pub(super) fn stored_key(&self) -> &[u8; 32] {
        &self.stored_key
    }

    pub(super) fn server_key(&self) -> &[u8; 32] {
        &self.server_key
    }
}

/// StoredKey of a password as CONNECT carries it. One that SASLprep refuses is taken as it is:
/// it matches nothing that we make, and takes as long to find out.
pub(super) fn stored_key(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let prepared = std::str::from_utf8(password).ok().and_then(prepare);
    let prepared =
        Zeroizing::new(prepared.map_or_else(|| password.to_vec(), |text| text.into_owned().into_bytes()));
    let salted = salted_password(&prepared, salt, iterations);
    sha256(&*Zeroizing::new(hmac(&*salted, &[b"Client Key"])))
}

/// The form in which SCRAM compares names and passwords (SASLprep, RFC 4013); `None` when it
/// forbids the text.
pub fn prepare(text: &str) -> Option<Cow<'_, str>> {
    stringprep::saslprep(text).ok()
}

/// What a stranger is shown in place of a user's salt: the same at each try, and like a real one.
///
/// The secret must be the same after a restart, and on each broker that has the same users:
/// where it changes, salts that change with it are those of strangers.
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
    /// Fakes that look like the users whose hashes have these iterations and this length of salt
    /// (brought into the bounds of [`super::hash`]).
    pub fn new(secret: [u8; 32], iterations: u32, salt_bytes: usize) -> FakeUsers {
        FakeUsers {
            secret: Zeroizing::new(secret),
            iterations: iterations.clamp(SCRAM_ITERATIONS_MIN, ITERATIONS_MAX),
            salt_bytes: salt_bytes.clamp(SALT_BYTES_MIN, SALT_BYTES_MAX),
        }
    }

    /// Fakes like the users that `midge passwd --scram` makes.
    pub fn with_defaults(secret: [u8; 32]) -> FakeUsers {
        FakeUsers::new(secret, SCRAM_ITERATIONS_MIN, SALT_BYTES)
    }

    fn keys(&self, user: &str) -> ScramKeys {
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

/// The server's part of the nonce: printable, without a comma.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNonce(String);

impl ServerNonce {
    /// From bytes that the caller has drawn at random for this exchange alone.
    pub fn from_random(bytes: &[u8; 18]) -> ServerNonce {
        ServerNonce(BASE64.encode(bytes))
    }

    /// From a text; `None` when it is empty or has characters that a nonce may not have.
    pub fn from_text(text: &str) -> Option<ServerNonce> {
        is_nonce(text).then(|| ServerNonce(text.to_owned()))
    }
}

/// Why an exchange ends without a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramFailure {
    /// The message does not keep to the grammar; the words say where.
    Malformed(&'static str),
    /// The client insists on channel binding.
    ChannelBinding,
    /// The client demands an extension (`m=`).
    Extension,
    /// The client wants to act as somebody else (`a=`).
    Authorization,
    /// The client's last message belongs to another exchange: nonce or header differ.
    Mismatch,
    /// A wrong password, or a user whom nobody knows: which of them is not told.
    Proof,
}

impl ScramFailure {
    /// In words, for the log.
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

/// A user who has proved to know the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScramAccepted {
    /// The name, prepared: the one that `lookup` was asked for.
    pub user: String,
    /// The user's line of the password file.
    pub line: PasswordLine,
    /// `v=…`, by which the client knows that the broker has the user's keys. It goes into the
    /// Authentication Data of CONNACK, or of the last AUTH of a re-authentication.
    pub server_final: Vec<u8>,
}

/// An exchange that waits for the client's proof.
pub struct ScramServer {
    user: String,
    is_known: Choice,
    keys: ScramKeys,
    /// Base64 of the header with which the client began: its `c=`.
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
    /// Takes the client's first message; gives the exchange and the answer for AUTH 0x18.
    /// `[MQTT5-4.12.0-2]`
    ///
    /// `lookup` is asked once, for the prepared name, and answers `None` for strangers and for
    /// users without keys.
    ///
    /// # Errors
    /// [`ScramFailure`]; never because of an unknown user.
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
        // Both are computed, so that strangers take as long.
        let fake = fakes.keys(&user);
        let known = lookup(&user);
        let is_known = Choice::from(u8::from(known.is_some()));
        let keys = known.unwrap_or(fake);

        let nonce = format!("{}{}", first.nonce, nonce.0);
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&keys.salt), keys.iterations);
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

    /// The prepared name that the client gives for itself, not proved yet.
    pub fn claimed_user(&self) -> &str {
        &self.user
    }

    /// Takes the client's last message; gives the user and the answer for CONNACK.
    ///
    /// # Errors
    /// [`ScramFailure`]: [`ScramFailure::Proof`] for a wrong password and for a stranger alike.
    /// `[MQTT5-4.12.0-4]`
    pub fn finish(self, client_final: &[u8]) -> Result<ScramAccepted, ScramFailure> {
        let last = ClientFinal::parse(text(client_final)?)?;
        if last.header != self.header || last.nonce != self.nonce {
            return Err(ScramFailure::Mismatch);
        }
        let message = [self.transcript.as_bytes(), last.without_proof.as_bytes()];
        let signature = hmac(&self.keys.stored_key, &message);
        let mut client_key = Zeroizing::new([0; 32]);
        for ((key, proof), sign) in client_key.iter_mut().zip(last.proof).zip(signature) {
            *key = proof ^ sign;
        }
        let is_right = sha256(&*client_key).ct_eq(&self.keys.stored_key) & self.is_known;
        let server_signature = hmac(&self.keys.server_key, &message);
        if !bool::from(is_right) {
            return Err(ScramFailure::Proof);
        }
        let server_final = format!("v={}", BASE64.encode(server_signature)).into_bytes();
        let line = PasswordLine::of(&self.keys.stored_key);
        Ok(ScramAccepted { user: self.user.clone(), line, server_final })
    }
}

/// client-first-message, in its parts.
struct ClientFirst<'a> {
    /// gs2-header, with its last comma.
    header: &'a str,
    acting_as: Option<&'a str>,
    /// client-first-message-bare.
    bare: &'a str,
    user: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a str) -> Result<ClientFirst<'a>, ScramFailure> {
        let malformed = ScramFailure::Malformed;
        let (binding, rest) = message.split_once(',').ok_or(malformed("no header"))?;
        match binding {
            "n" | "y" => {}
            _ if binding.starts_with("p=") => return Err(ScramFailure::ChannelBinding),
            _ => return Err(malformed("unknown channel binding flag")),
        }
        let (acting_as, bare) = rest.split_once(',').ok_or(malformed("no header"))?;
        let acting_as = match acting_as {
            "" => None,
            _ => Some(acting_as.strip_prefix("a=").ok_or(malformed("authorization identity"))?),
        };
        if bare.starts_with("m=") {
            return Err(ScramFailure::Extension);
        }
        let (user, rest) = bare.split_once(',').ok_or(malformed("no nonce"))?;
        let user = user.strip_prefix("n=").ok_or(malformed("no user name"))?;
        let mut attributes = rest.split(',');
        let nonce =
            attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or(malformed("no nonce"))?;
        if !is_nonce(nonce) || nonce.len() > NONCE_BYTES_MAX {
            return Err(malformed("nonce"));
        }
        if !attributes.all(is_attribute) {
            return Err(malformed("extension"));
        }
        let header = message.strip_suffix(bare).ok_or(malformed("no header"))?;
        Ok(ClientFirst { header, acting_as, bare, user, nonce })
    }
}

/// client-final-message, in its parts.
struct ClientFinal<'a> {
    header: &'a str,
    nonce: &'a str,
    without_proof: &'a str,
    proof: Key,
}

impl<'a> ClientFinal<'a> {
    fn parse(message: &'a str) -> Result<ClientFinal<'a>, ScramFailure> {
        let malformed = ScramFailure::Malformed;
        // The proof comes last, and no other part has a comma.
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(malformed("no proof"))?;
        let proof = BASE64.decode(proof).ok().and_then(|bytes| Key::try_from(bytes).ok());
        let mut attributes = without_proof.split(',');
        let header = attributes
            .next()
            .and_then(|part| part.strip_prefix("c="))
            .ok_or(malformed("no channel binding"))?;
        let nonce =
            attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or(malformed("no nonce"))?;
        if !attributes.all(is_attribute) {
            return Err(malformed("extension"));
        }
        Ok(ClientFinal { header, nonce, without_proof, proof: proof.ok_or(malformed("proof"))? })
    }
}

fn text(message: &[u8]) -> Result<&str, ScramFailure> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramFailure::Malformed("too long"));
    }
    let text = std::str::from_utf8(message).map_err(|_| ScramFailure::Malformed("not UTF-8"))?;
    if text.contains('\0') { Err(ScramFailure::Malformed("a zero character")) } else { Ok(text) }
}

/// Undoes `=2C` and `=3D`, the only places where a name may have an equals sign, and prepares it.
fn prepared_name(escaped: &str) -> Result<String, ScramFailure> {
    let malformed = ScramFailure::Malformed("user name");
    let mut name = String::with_capacity(escaped.len());
    let mut parts = escaped.split('=');
    name.push_str(parts.next().unwrap_or_default());
    for part in parts {
        if let Some(rest) = part.strip_prefix("2C") {
            name.push(',');
            name.push_str(rest);
        } else if let Some(rest) = part.strip_prefix("3D") {
            name.push('=');
            name.push_str(rest);
        } else {
            return Err(malformed);
        }
    }
    match prepare(&name) {
        Some(prepared) if !prepared.is_empty() => Ok(prepared.into_owned()),
        _ => Err(malformed),
    }
}

fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// attr-val: a letter, an equals sign, something.
fn is_attribute(part: &str) -> bool {
    matches!(part.as_bytes(), [name, b'=', _, ..] if name.is_ascii_alphabetic())
}

fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Zeroizing<Key> {
    let mut salted = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut *salted);
    salted
}

pub(super) fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::Random;

    // The exchange of RFC 7677, chapter 3: user "user", password "pencil".
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn pencil() -> ScramKeys {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        ScramKeys::derive("pencil", &salt, 4096).unwrap()
    }

    fn lookup(user: &str) -> Option<ScramKeys> {
        matches!(user, "user" | "a,b=c" | "IX").then(pencil)
    }

    fn fakes() -> FakeUsers {
        FakeUsers::with_defaults([9; 32])
    }

    fn nonce() -> ServerNonce {
        ServerNonce::from_text(SERVER_NONCE).unwrap()
    }

    fn first(message: &str) -> Result<(ScramServer, String), ScramFailure> {
        let (server, answer) = ScramServer::first(message.as_bytes(), &nonce(), lookup, &fakes())?;
        Ok((server, String::from_utf8(answer).unwrap()))
    }

    /// What a client with this password answers; also the server's signature that it expects.
    pub(crate) fn client_final(client_first: &str, server_first: &str, password: &str) -> (String, String) {
        let (flag, rest) = client_first.split_once(',').unwrap();
        let (acting_as, bare) = rest.split_once(',').unwrap();
        let mut attributes = server_first.split(',');
        let nonce = attributes.next().unwrap();
        let salt = BASE64.decode(attributes.next().unwrap().strip_prefix("s=").unwrap()).unwrap();
        let iterations = attributes.next().unwrap().strip_prefix("i=").unwrap().parse().unwrap();
        let without_proof = format!("c={},{nonce}", BASE64.encode(format!("{flag},{acting_as},")));
        let message = format!("{bare},{server_first},{without_proof}");
        let salted = salted_password(password.as_bytes(), &salt, iterations);
        let client_key = hmac(&*salted, &[b"Client Key"]);
        let signature = hmac(&sha256(&client_key), &[message.as_bytes()]);
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, sign)| key ^ sign).collect();
        let expected = hmac(&hmac(&*salted, &[b"Server Key"]), &[message.as_bytes()]);
        (format!("{without_proof},p={}", BASE64.encode(proof)), format!("v={}", BASE64.encode(expected)))
    }

    fn login(client_first: &str, password: &str) -> Result<String, ScramFailure> {
        let (server, server_first) = first(client_first)?;
        let (last, expected) = client_final(client_first, &server_first, password);
        let accepted = server.finish(last.as_bytes())?;
        assert_eq!(String::from_utf8(accepted.server_final).unwrap(), expected);
        Ok(accepted.user)
    }

    /// RFC 7677, chapter 3.
    #[test]
    fn the_exchange_of_the_rfc_is_kept_to_the_byte() {
        let (server, answer) = first(CLIENT_FIRST).unwrap();
        assert_eq!(answer, SERVER_FIRST);
        assert_eq!(server.claimed_user(), "user");
        let accepted = server.finish(CLIENT_FINAL.as_bytes()).unwrap();
        assert_eq!(accepted.user, "user");
        assert_eq!(accepted.server_final, SERVER_FINAL.as_bytes());
    }

    #[test]
    fn keys_of_a_password_are_those_that_others_compute() {
        // By the hashlib and hmac modules of Python.
        let keys = pencil();
        assert_eq!(BASE64.encode(keys.stored_key), "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=");
        assert_eq!(BASE64.encode(keys.server_key), "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=");
        assert_eq!(stored_key(b"pencil", keys.salt(), 4096), keys.stored_key);
    }

    #[test]
    fn passwords_and_names_are_compared_in_their_prepared_form() {
        // RFC 4013, chapter 3: a soft hyphen vanishes, ROMAN NUMERAL NINE becomes two letters.
        let salt = [1; 16];
        assert!(ScramKeys::derive("I\u{ad}X", &salt, 4096) == ScramKeys::derive("IX", &salt, 4096));
        assert_eq!(stored_key("\u{2168}".as_bytes(), &salt, 4096), stored_key(b"IX", &salt, 4096));
        assert_eq!(login("n,,n=\u{2168},r=abc", "pencil").unwrap(), "IX");
        // A control character is forbidden.
        assert!(ScramKeys::derive("a\u{7}", &salt, 4096).is_none());
        assert_eq!(first("n,,n=a\u{7},r=abc").err(), Some(ScramFailure::Malformed("user name")));
    }

    #[test]
    fn commas_and_equals_signs_of_a_name_travel_escaped() {
        assert_eq!(login("n,,n=a=2Cb=3Dc,r=abc", "pencil").unwrap(), "a,b=c");
        for name in ["a=2cb", "a=", "a=2", "=41", "a=\u{e4}b"] {
            let message = format!("n,,n={name},r=abc");
            assert_eq!(first(&message).err(), Some(ScramFailure::Malformed("user name")), "{name}");
        }
    }

    #[test]
    fn a_client_that_could_bind_channels_is_welcome_and_one_that_insists_is_not() {
        assert_eq!(login("y,,n=user,r=abc", "pencil").unwrap(), "user");
        assert_eq!(first("p=tls-exporter,,n=user,r=abc").err(), Some(ScramFailure::ChannelBinding));
        // Who said `y` first must say so in the end: a man in the middle could have changed it.
        let (server, server_first) = first("y,,n=user,r=abc").unwrap();
        let (last, _) = client_final("n,,n=user,r=abc", &server_first, "pencil");
        assert_eq!(server.finish(last.as_bytes()).err(), Some(ScramFailure::Mismatch));
    }

    #[test]
    fn nobody_acts_as_somebody_else() {
        assert_eq!(login("n,a=user,n=user,r=abc", "pencil").unwrap(), "user");
        assert_eq!(first("n,a=admin,n=user,r=abc").err(), Some(ScramFailure::Authorization));
    }

    #[test]
    fn a_wrong_password_fails_at_the_proof() {
        assert_eq!(login(CLIENT_FIRST, "pencils").err(), Some(ScramFailure::Proof));
        assert_eq!(login(CLIENT_FIRST, "").err(), Some(ScramFailure::Proof));
    }

    #[test]
    fn a_stranger_can_not_be_told_from_a_user() {
        let (_, one) = first("n,,n=stranger,r=abc").unwrap();
        let (_, again) = first("n,,n=stranger,r=abc").unwrap();
        let (_, other) = first("n,,n=strangest,r=abc").unwrap();
        let (_, known) = first("n,,n=user,r=abc").unwrap();
        assert_eq!(one, again, "a salt that changes betrays a stranger");
        assert_ne!(one, other);
        assert_eq!(one.len(), known.len());
        assert_eq!(one.split(",i=").nth(1), known.split(",i=").nth(1));
        assert_eq!(login("n,,n=stranger,r=abc", "pencil").err(), Some(ScramFailure::Proof));
        for salt_bytes in [SALT_BYTES_MIN, SALT_BYTES, SALT_BYTES_MAX] {
            let keys = FakeUsers::new([9; 32], 5000, salt_bytes).keys("stranger");
            assert_eq!((keys.salt().len(), keys.iterations()), (salt_bytes, 5000));
        }
    }

    #[test]
    fn even_the_keys_of_a_fake_let_nobody_in() {
        // Who knows the secret could compute a proof for a stranger; the flag refuses it still.
        let fake = fakes().keys("stranger");
        let (server, _) = ScramServer::first(b"n,,n=stranger,r=abc", &nonce(), |_| None, &fakes()).unwrap();
        assert!(server.keys == fake);
        assert!(!bool::from(server.is_known));
        let known =
            ScramServer::first(CLIENT_FIRST.as_bytes(), &nonce(), |_| Some(pencil()), &fakes()).unwrap().0;
        let stranger = ScramServer { is_known: Choice::from(0), ..rebuilt(&known) };
        assert!(rebuilt(&known).finish(CLIENT_FINAL.as_bytes()).is_ok());
        assert_eq!(stranger.finish(CLIENT_FINAL.as_bytes()).err(), Some(ScramFailure::Proof));
    }

    fn rebuilt(server: &ScramServer) -> ScramServer {
        ScramServer {
            user: server.user.clone(),
            is_known: server.is_known,
            keys: server.keys.clone(),
            header: server.header.clone(),
            nonce: server.nonce.clone(),
            transcript: server.transcript.clone(),
        }
    }

    #[test]
    fn a_proof_of_another_exchange_is_worth_nothing() {
        let other = ServerNonce::from_random(&[3; 18]);
        let (server, _) = ScramServer::first(CLIENT_FIRST.as_bytes(), &other, lookup, &fakes()).unwrap();
        assert_eq!(server.finish(CLIENT_FINAL.as_bytes()).err(), Some(ScramFailure::Mismatch));
    }

    #[test]
    fn unknown_extensions_are_signed_but_not_heeded_and_demanded_ones_are_refused() {
        assert_eq!(login("n,,n=user,r=abc,x=something,Y=more", "pencil").unwrap(), "user");
        assert_eq!(first("n,,m=x,n=user,r=abc").err(), Some(ScramFailure::Extension));
        assert_eq!(first("n,,n=user,r=abc,x").err(), Some(ScramFailure::Malformed("extension")));
    }

    #[test]
    fn malformed_messages_are_refused() {
        for message in [
            "",
            ",",
            ",,",
            "n",
            "n,",
            "n,,",
            "n,,n=user",
            "n,,n=,r=abc",
            "n,,r=abc,n=user",
            "n,,n=user,r=",
            "n,,n=user,r=a\u{e4}",
            "x,,n=user,r=abc",
            "n,user,n=user,r=abc",
            "n,a=,n=user,r=abc",
            "n,,n=user,,",
        ] {
            assert!(matches!(first(message), Err(ScramFailure::Malformed(_))), "{message}");
        }
        let long = format!("n,,n=user,r={}", "a".repeat(NONCE_BYTES_MAX + 1));
        assert_eq!(first(&long).err(), Some(ScramFailure::Malformed("nonce")));
        let long = vec![b'n'; MESSAGE_BYTES_MAX + 1];
        assert!(ScramServer::first(&long, &nonce(), lookup, &fakes()).is_err());
        assert!(ScramServer::first(b"n,,n=\xff,r=abc", &nonce(), lookup, &fakes()).is_err());
        let last = [
            "",
            "c=biws",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO",
            ",p=",
            "c=biws,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        ];
        for message in last {
            let (server, _) = first(CLIENT_FIRST).unwrap();
            assert!(server.finish(message.as_bytes()).is_err(), "{message}");
        }
        // One bit less of a good proof, and a proof that is too short.
        for proof in
            ["dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVU=", "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7An"]
        {
            let (kept, _) = CLIENT_FINAL.rsplit_once("p=").unwrap();
            let (server, _) = first(CLIENT_FIRST).unwrap();
            assert!(server.finish(format!("{kept}p={proof}").as_bytes()).is_err());
        }
    }

    #[test]
    fn changed_messages_neither_panic_nor_let_anybody_in() {
        let mut numbers = Random::new(7);
        let mut random = |below: usize| numbers.index(below);
        let keys = pencil();
        let lookup = |user: &str| (user == "user").then(|| keys.clone());
        for _ in 0..20_000 {
            let mut message = CLIENT_FIRST.as_bytes().to_vec();
            let at = random(message.len());
            message[at] = random(256) as u8;
            let _ = ScramServer::first(&message, &nonce(), lookup, &fakes());
            let (server, _) =
                ScramServer::first(CLIENT_FIRST.as_bytes(), &nonce(), lookup, &fakes()).unwrap();
            let mut last = CLIENT_FINAL.as_bytes().to_vec();
            let at = random(last.len());
            let was = std::mem::replace(&mut last[at], random(256) as u8);
            assert_eq!(server.finish(&last).is_ok(), last[at] == was);
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let (server, _) = first(CLIENT_FIRST).unwrap();
        assert_eq!(format!("{server:?}"), "ScramServer { user: \"user\", .. }");
        assert_eq!(format!("{:?}", pencil()), "ScramKeys { iterations: 4096, .. }");
        assert_eq!(format!("{:?}", fakes()), "FakeUsers { iterations: 4096, .. }");
    }
}
