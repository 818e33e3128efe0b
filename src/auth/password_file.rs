//! The password file: one line `user:hash` for each user. Comments begin with `#`.
//!
//! The inputs are the text of a file, and the user names and passwords of CONNECT packets. The result is yes
//! or no; for a file with errors it is a list of all wrong lines. mosquitto's files are read unchanged.
//! [`super::hash`] defines the hashes. [`super::password_edit`] reads and changes files.
//!
//! The check of an unknown name takes as long as the check of a known one. It compares the password with a
//! [`PasswordHash::dummy`] of the most common kind and cost in the file. If a file has several kinds, a
//! timing measurement can tell users of the rarer kinds from unknown names. Writing such a file with one kind
//! avoids this.
//!
//! A comment `#midge-scram-secret:` with 32 bytes in base64 is the secret for the salts that SCRAM shows for
//! unknown users (see [`FakeUsers`]). It is in this file because it must be copied together with the users,
//! and must not change when users change. [`super::password_edit`] adds it with the first SCRAM user.

use std::collections::BTreeMap;
use std::fmt;

use super::hash::{HashError, HashScratch, PasswordHash, Scheme};
use super::scram::{self, FakeUsers, ScramKeys, sha256};
use crate::policy::access::{PasswordLine, PasswordLines};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The longest user name, in bytes. MQTT can't carry a longer one. `[MQTT5-1.5.4]`
pub const USER_BYTES_MAX: usize = 65_535;
/// The number of wrong lines that are reported one by one. Further ones are counted.
pub const ERRORS_MAX: usize = 20;
/// The beginning of the comment with the SCRAM secret.
const SECRET_MARK: &[u8] = b"#midge-scram-secret:";

/// The error for a user name that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a user name that is not allowed; allowed are 1 to {USER_BYTES_MAX} bytes of UTF-8 without `:` and control \
     characters, without blanks at either end, and not beginning with `#`"
)]
pub struct UserNameError;

/// Checks a name before it is written to a file.
///
/// # Errors
/// [`UserNameError`]. Its words say what is allowed.
pub fn check_user(user: &str) -> Result<(), UserNameError> {
    let allowed = (1..=USER_BYTES_MAX).contains(&user.len())
        && !user.chars().any(|character| character == ':' || character.is_control())
        && !user.starts_with('#')
        && trim(user) == user;
    if allowed { Ok(()) } else { Err(UserNameError) }
}

/// What is wrong with a line, or with the whole file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The file can't be read. The words are the system's.
    #[error("{0}")]
    Unreadable(String),
    /// The line is not UTF-8.
    #[error("not UTF-8; allowed is UTF-8 alone")]
    NotUtf8,
    /// The line has no colon.
    #[error("no colon; allowed are `user:hash`, comments that begin with `#`, and blank lines")]
    NoColon,
    /// The name is not allowed.
    #[error(transparent)]
    User(UserNameError),
    /// An earlier line already has this name.
    #[error("the same user as in line {first_line}; allowed is one line for each user")]
    Duplicate {
        /// The number of that line, counted from 1.
        first_line: usize,
    },
    /// The hash is not allowed.
    #[error(transparent)]
    Hash(HashError),
    /// A SCRAM hash of a user that no exchange could name, because SASLprep (RFC 4013) changes or forbids the
    /// name.
    #[error("a name that SCRAM changes before it asks; allowed are names as SASLprep (RFC 4013) gives them")]
    ScramUser,
    /// The comment with the SCRAM secret is wrong.
    #[error(
        "the secret of SCRAM is not 32 bytes in base64; allowed is the line as midge passwd has written it, \
         or none, for midge passwd to write another"
    )]
    ScramSecret,
}

/// Everything that is wrong with a file: at least one error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordFileErrors {
    file: String,
    errors: Vec<(usize, LineError)>,
    further: usize,
}

impl PasswordFileErrors {
    fn new(file: &str) -> PasswordFileErrors {
        PasswordFileErrors { file: file.to_owned(), errors: Vec::new(), further: 0 }
    }

    /// The error for a file that can't be used at all.
    pub(super) fn unreadable(file: &str, why: impl fmt::Display) -> PasswordFileErrors {
        let mut errors = PasswordFileErrors::new(file);
        errors.add(0, LineError::Unreadable(why.to_string()));
        errors
    }

    fn add(&mut self, line: usize, error: LineError) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push((line, error));
        } else {
            self.further += 1;
        }
    }

    /// The first [`ERRORS_MAX`] errors, each with its line number, counted from 1. The number 0 stands for
    /// the whole file.
    pub fn lines(&self) -> &[(usize, LineError)] {
        &self.errors
    }
}

impl fmt::Display for PasswordFileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (line, error)) in self.errors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            match line {
                0 => write!(f, "{separator}{}: {error}", self.file)?,
                _ => write!(f, "{separator}{}:{line}: {error}", self.file)?,
            }
        }
        if self.further > 0 {
            write!(f, "\n{}: and {} more wrong lines", self.file, self.further)?;
        }
        Ok(())
    }
}

impl std::error::Error for PasswordFileErrors {}

/// The properties of a hash that decide how long a verification takes, and what `s=` and `i=` of SCRAM look
/// like.
type Shape = (Scheme, usize);

/// The users of one file. Its `Debug` shows their number only.
#[derive(Clone, Default)]
pub struct PasswordFile {
    users: BTreeMap<Box<str>, PasswordHash>,
    /// A dummy of the most common shape. `None` if there are no users.
    dummy: Option<PasswordHash>,
    /// The most common shape of the SCRAM users.
    scram: Option<Shape>,
    /// The secret of the first line that has one.
    secret: Option<Zeroizing<[u8; 32]>>,
}

impl fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordFile").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

impl PasswordFile {
    /// Reads the text of a file. `name` is its name in errors.
    ///
    /// # Errors
    /// Every wrong line, with what is allowed. One wrong line refuses the whole file: a half-read file could
    /// lock users out or let others in.
    pub fn parse(text: &str, name: &str) -> Result<PasswordFile, PasswordFileErrors> {
        PasswordFile::parse_bytes(text.as_bytes(), name)
    }

    /// Like [`PasswordFile::parse`], for bytes that may not be UTF-8.
    ///
    /// # Errors
    /// The same as there.
    pub fn parse_bytes(bytes: &[u8], name: &str) -> Result<PasswordFile, PasswordFileErrors> {
        match PasswordFile::parse_lines(bytes, name) {
            (file, None) => Ok(file),
            (_, Some(errors)) => Err(errors),
        }
    }

    /// The users of the correct lines, and the errors of the others. If two lines have the same user, the
    /// first one counts.
    pub fn parse_lines(bytes: &[u8], name: &str) -> (PasswordFile, Option<PasswordFileErrors>) {
        let mut errors = PasswordFileErrors::new(name);
        let mut users = BTreeMap::new();
        let mut first_lines = BTreeMap::new();
        let mut secret = None;
        for (index, line) in lines(bytes).enumerate() {
            let number = index + 1;
            match secret_of_line(line) {
                Some(Ok(found)) => secret = secret.or(Some(found)),
                Some(Err(error)) => errors.add(number, error),
                None => {}
            }
            match parse_line(line) {
                Ok(None) => {}
                Ok(Some((user, hash))) => match first_lines.get(user) {
                    Some(&first_line) => errors.add(number, LineError::Duplicate { first_line }),
                    None => {
                        first_lines.insert(user, number);
                        users.insert(Box::from(user), hash);
                    }
                },
                Err(error) => errors.add(number, error),
            }
        }
        let file = PasswordFile::of(users, secret);
        (file, Some(errors).filter(|errors| !errors.errors.is_empty()))
    }

    fn of(users: BTreeMap<Box<str>, PasswordHash>, secret: Option<Zeroizing<[u8; 32]>>) -> PasswordFile {
        let all = most_common(users.values());
        let dummy = all
            .and_then(|shape| users.values().find(|hash| shape_of(hash) == shape))
            .map(PasswordHash::dummy);
        let scram =
            most_common(users.values().filter(|hash| matches!(hash.scheme(), Scheme::ScramSha256 { .. })));
        PasswordFile { users, dummy, scram, secret }
    }

    /// Whether this is the user's password. It takes about the same time for an unknown user as for a known
    /// one.
    ///
    /// The work takes from microseconds to seconds (see [`super::hash`]) and allocates the memory that an
    /// Argon2id hash needs. [`PasswordFile::verify_with`] reuses that memory.
    pub fn verify(&self, user: &str, password: &[u8]) -> bool {
        self.verify_with(user, password, &mut HashScratch::default())
    }

    /// Like [`PasswordFile::verify`], with memory that is reused for later verifications.
    pub fn verify_with(&self, user: &str, password: &[u8], scratch: &mut HashScratch) -> bool {
        let known = self.users.get(user);
        let Some(hash) = known.or(self.dummy.as_ref()) else { return false };
        let is_right = hash.verify(password, scratch);
        is_right & known.is_some()
    }

    /// The keys of a user for [`scram::ScramServer::first`]. `None` for unknown users and for users with
    /// another kind of hash.
    pub fn scram_keys(&self, user: &str) -> Option<ScramKeys> {
        self.users.get(user)?.scram_keys()
    }

    /// Fake users that look like most SCRAM users of this file. `None` if it has no SCRAM user.
    ///
    /// Their secret is the one in the file. If a file was written by hand and has none, the secret is a hash
    /// of all its SCRAM keys. That hash is also the same after a restart and on each broker with the same
    /// file, and only someone who knows all of the keys can compute it (a user knows its own). But it changes
    /// with the keys. Someone who asks for the salt of a name before and after a SCRAM user is added, removed
    /// or changed can tell unknown names, whose salts have all changed, from users.
    pub fn fake_users(&self) -> Option<FakeUsers> {
        let (Scheme::ScramSha256 { iterations }, salt_bytes) = self.scram? else { return None };
        let secret = self.secret.as_deref().copied().unwrap_or_else(|| self.hash_of_scram_keys());
        Some(FakeUsers::new(secret, iterations, salt_bytes))
    }

    fn hash_of_scram_keys(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (user, keys) in self.users.iter().filter_map(|(user, hash)| Some((user, hash.scram_keys()?))) {
            hash.update(sha256(user.as_bytes()));
            hash.update(keys.stored_key());
            hash.update(keys.server_key());
        }
        hash.finalize().into()
    }

    /// The users and the kinds of their hashes, ordered by name.
    pub fn users(&self) -> impl Iterator<Item = (&str, Scheme)> {
        self.users.iter().map(|(user, hash)| (&**user, hash.scheme()))
    }

    /// The number of users.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are no users. In this case nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

/// The lines of a file, without a byte order mark at its start. [`trim`] removes the line ends. An empty last
/// line counts as one more blank line.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).split(|&byte| byte == b'\n')
}

/// Removes white space as mosquitto does, from names and hashes. A carriage return is white space.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\x0b', '\x0c'])
}

/// The user name on a line, even if the rest of the line is wrong. `None` if the line has no user.
pub(super) fn user_of_line(line: &[u8]) -> Option<&str> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let user = std::str::from_utf8(line.get(..colon)?).ok()?;
    if user.starts_with('#') { None } else { Some(trim(user)) }
}

/// The SCRAM secret, if this is its line.
fn secret_of_line(line: &[u8]) -> Option<Result<Zeroizing<[u8; 32]>, LineError>> {
    let text = line.strip_prefix(SECRET_MARK)?.trim_ascii();
    let bytes = BASE64.decode(text).map(Zeroizing::new).ok();
    let secret = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
    Some(secret.map(Zeroizing::new).ok_or(LineError::ScramSecret))
}

/// Whether the text of a file has the SCRAM secret.
pub(super) fn has_secret(bytes: &[u8]) -> bool {
    lines(bytes).any(|line| line.starts_with(SECRET_MARK))
}

/// The line with a secret, including its line end.
pub(super) fn secret_line(secret: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([SECRET_MARK, BASE64.encode(secret).as_bytes(), b"\n"].concat())
}

fn parse_line(line: &[u8]) -> Result<Option<(&str, PasswordHash)>, LineError> {
    if line.starts_with(b"#") {
        return Ok(None);
    }
    let line = trim(std::str::from_utf8(line).map_err(|_| LineError::NotUtf8)?);
    if line.is_empty() {
        return Ok(None);
    }
    let (user, hash) = line.split_once(':').ok_or(LineError::NoColon)?;
    let user = trim(user);
    check_user(user).map_err(LineError::User)?;
    let hash = PasswordHash::parse(trim(hash)).map_err(LineError::Hash)?;
    check_scram_user(user, hash.scheme())?;
    Ok(Some((user, hash)))
}

/// Refuses a SCRAM user that no exchange could name.
pub(super) fn check_scram_user(user: &str, scheme: Scheme) -> Result<(), LineError> {
    let is_scram = matches!(scheme, Scheme::ScramSha256 { .. });
    if is_scram && scram::prepare(user).as_deref() != Some(user) {
        return Err(LineError::ScramUser);
    }
    Ok(())
}

fn shape_of(hash: &PasswordHash) -> Shape {
    (hash.scheme(), hash.salt_bytes())
}

/// The most common shape. If several are equally common, it is the smallest, so that a file always gives the
/// same one.
fn most_common<'a>(hashes: impl Iterator<Item = &'a PasswordHash>) -> Option<Shape> {
    let mut counts: BTreeMap<Shape, usize> = BTreeMap::new();
    for hash in hashes {
        *counts.entry(shape_of(hash)).or_default() += 1;
    }
    let mut best: Option<(Shape, usize)> = None;
    for (shape, count) in counts {
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((shape, count));
        }
    }
    best.map(|(shape, _)| shape)
}

impl PasswordLines for PasswordFile {
    fn line(&self, user: &str) -> Option<PasswordLine> {
        self.users.get(user).map(PasswordHash::line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::hash::Argon2Cost;
    use crate::base::Random;

    /// `mosquitto_passwd` 2.0.11 wrote this, except for the comment and the blank line.
    const MOSQUITTO: &str = "# the gate house
alice:$7$101$SxnVG6VKWbBORWJv$1VH9VVcKj9PpYQoLIFa83keLFOOVduKNliC3A7+r24IeIvZrTuAKzfbdiOo1FhOM8bUTihXH/hC/JnHmBbMPsA==
bob:$6$7CC0bYiNxK9O8MaL$sHBd+k3rXt5pUhkaPbkZ0K1HuDrpaopMha3+ze0ikLd0EadCBAyycD6/k0Ue80UfD3SauaUuQzv0BPaJOP0iEg==

empty:$7$101$BKp3XjiI7hg/OdV0$w7gyxFiwwf79FqJ9eQhPCTeaZI5Hk7gJTUWqLH9yXh/DscheZwk10kRNgeJVw9R0Kpy/6atU9rny1awddhTNxQ==
jörg müller:$7$101$mPuqZygIy4arr3ww$2q4YkegNRD1pmSd1ZACX32h2V3Jv105ra5TO3K90LdTn2B6JrPZkY+FBMTf7CPhq5EEAZ3pzFEBSiJZrM80/vw==
";

    fn errors(text: &str) -> Vec<(usize, LineError)> {
        PasswordFile::parse(text, "passwords").expect_err("a wrong file").lines().to_vec()
    }

    fn line(user: &str, scheme: Scheme, password: &str) -> String {
        let hash = PasswordHash::new(scheme, password.as_bytes(), &[5; 16]).expect("a good hash");
        format!("{user}:{}\n", *hash.to_text())
    }

    fn small() -> Scheme {
        Scheme::Argon2id(Argon2Cost { memory_kib: 8, passes: 1, lanes: 1 })
    }

    #[test]
    fn a_file_of_mosquitto_is_read_as_it_is() {
        let file = PasswordFile::parse(MOSQUITTO, "passwords").unwrap();
        assert_eq!(file.len(), 4);
        assert!(file.verify("alice", b"correct horse"));
        assert!(file.verify("bob", b"swordfish"));
        assert!(file.verify("jörg müller", "päss wörd".as_bytes()));
        assert!(file.verify("empty", b""));
        assert!(!file.verify("alice", b"swordfish"));
        assert!(!file.verify("alice", b""));
        assert!(!file.verify("Alice", b"correct horse"));
        assert!(!file.verify("", b""));
        assert!(!file.verify("nobody", b""));
    }

    #[test]
    fn blanks_and_carriage_returns_around_names_and_hashes_are_taken_off() {
        let text = format!("\u{feff}{}", MOSQUITTO.replace('\n', " \r\n").replace("bob:", "\tbob : "));
        let file = PasswordFile::parse(&text, "passwords").unwrap();
        assert!(file.verify("bob", b"swordfish"));
        assert!(file.verify("alice", b"correct horse"));
        assert_eq!(file.len(), 4);
    }

    #[test]
    fn every_wrong_line_is_told_with_its_number_and_what_is_allowed() {
        let text = format!("{MOSQUITTO}nocolon\nplain:secret\n:$6$a$b\nbob:$6$x$y\na\u{1}b:$6$x$y\nnone:\n");
        assert_eq!(
            errors(&text),
            vec![
                (7, LineError::NoColon),
                (8, LineError::Hash(HashError::Plaintext)),
                (9, LineError::User(UserNameError)),
                (10, LineError::Hash(HashError::Base64)),
                (11, LineError::User(UserNameError)),
                (12, LineError::Hash(HashError::Plaintext)),
            ]
        );
        let told = PasswordFile::parse(&text, "etc/passwords").unwrap_err().to_string();
        assert!(told.contains("etc/passwords:8: a password in the clear"), "{told}");
        assert!(told.contains("run `midge passwd FILE USER`"), "{told}");
        assert!(!told.contains("secret"), "a password must not reach the log: {told}");
    }

    #[test]
    fn a_user_has_one_line() {
        let text = format!("{MOSQUITTO}{}", line("alice", small(), "x"));
        assert_eq!(errors(&text), vec![(7, LineError::Duplicate { first_line: 2 })]);
    }

    #[test]
    fn errors_are_counted_beyond_a_bound() {
        let text = "x\n".repeat(ERRORS_MAX + 5);
        assert_eq!(errors(&text).len(), ERRORS_MAX);
        let told = PasswordFile::parse(&text, "passwords").unwrap_err().to_string();
        assert!(told.ends_with("passwords: and 5 more wrong lines"), "{told}");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_wrong_but_in_comments() {
        let wrong = PasswordFile::parse_bytes(b"# caf\xe9\ncaf\xe9:$6$a$b\n", "passwords").unwrap_err();
        assert_eq!(wrong.lines(), &[(2, LineError::NotUtf8)]);
    }

    #[test]
    fn names_are_checked_before_they_are_written() {
        for user in ["alice", "jörg müller", "a/b+c#", "日本", &"x".repeat(USER_BYTES_MAX)] {
            assert!(check_user(user).is_ok());
        }
        for user in ["", "a:b", "a\nb", "a\u{85}", "a\0", " a", "a\t", "#a", &"x".repeat(USER_BYTES_MAX + 1)]
        {
            assert!(check_user(user).is_err(), "{user}");
        }
    }

    #[test]
    fn a_stranger_costs_what_most_users_cost() {
        let mut text = line("one", Scheme::Sha512, "x");
        text += &line("two", Scheme::Pbkdf2Sha512 { iterations: 50 }, "x");
        text += &line("three", Scheme::Pbkdf2Sha512 { iterations: 50 }, "x");
        text += &line("four", Scheme::Pbkdf2Sha512 { iterations: 60 }, "x");
        let file = PasswordFile::parse(&text, "passwords").unwrap();
        let dummy = file.dummy.as_ref().unwrap();
        assert_eq!(dummy.scheme(), Scheme::Pbkdf2Sha512 { iterations: 50 });
        assert_eq!(dummy.salt_bytes(), 16);
        assert!(!file.verify("nobody", b"x"));
    }

    #[test]
    fn even_a_password_that_fits_the_dummy_lets_no_stranger_in() {
        let text = line("one", Scheme::Sha512, "x");
        let mut file = PasswordFile::parse(&text, "passwords").unwrap();
        file.dummy = file.users.get("one").cloned();
        assert!(!file.verify("nobody", b"x"));
        assert!(file.verify("one", b"x"));
    }

    #[test]
    fn an_empty_file_lets_nobody_in() {
        let file = PasswordFile::parse("# nobody yet\n\n", "passwords").unwrap();
        assert!(file.is_empty());
        assert!(!file.verify("", b""));
        assert!(!file.verify("alice", b"x"));
    }

    #[test]
    fn a_scram_user_logs_in_by_both_ways() {
        let scheme = Scheme::ScramSha256 { iterations: 5000 };
        let file = PasswordFile::parse(&line("user", scheme, "pencil"), "passwords").unwrap();
        assert!(file.verify("user", b"pencil"));
        assert!(!file.verify("user", b"pencils"));
        assert!(!file.verify("user", b"\xff"));
        let keys = file.scram_keys("user").unwrap();
        assert!(Some(&keys) == ScramKeys::derive("pencil", &[5; 16], 5000).as_ref());
        assert!(file.scram_keys("nobody").is_none());
        let fakes = file.fake_users().unwrap();
        assert_eq!(format!("{fakes:?}"), "FakeUsers { iterations: 5000, .. }");
        let file = PasswordFile::parse(&line("user", small(), "pencil"), "passwords").unwrap();
        assert!(file.scram_keys("user").is_none() && file.fake_users().is_none());
    }

    #[test]
    fn with_a_secret_in_the_file_what_strangers_are_shown_stays_when_users_change() {
        let scram = Scheme::ScramSha256 { iterations: 4096 };
        let (one, two) = (line("one", scram, "a"), line("two", scram, "b"));
        let secret = String::from_utf8(secret_line(&[3; 32]).to_vec()).unwrap();
        assert!(has_secret(format!("{one}{secret}").as_bytes()) && !has_secret(one.as_bytes()));
        let shown = |text: &str| {
            let file = PasswordFile::parse(text, "passwords").unwrap();
            let nonce = scram::ServerNonce::from_text("x").unwrap();
            let first = b"n,,n=stranger,r=abc";
            let fakes = file.fake_users().unwrap();
            scram::ScramServer::first(first, &nonce, |user| file.scram_keys(user), &fakes).unwrap().1
        };
        let before = shown(&format!("{secret}{one}"));
        assert_eq!(before, shown(&format!("{one}\r\n{two}{secret}")));
        assert_ne!(before, shown(&one));
        // Without the secret in the file, the salts depend on the keys.
        assert_eq!(shown(&format!("{one}{two}")), shown(&format!("{two}{one}")));
        assert_ne!(shown(&one), shown(&format!("{one}{two}")));
        assert_ne!(shown(&one), shown(&line("one", scram, "other")));
        for wrong in ["", "AAAA", "not base64"] {
            let text = format!("{one}#midge-scram-secret:{wrong}\n");
            assert_eq!(errors(&text), vec![(2, LineError::ScramSecret)]);
        }
    }

    #[test]
    fn a_scram_name_is_written_as_scram_asks_for_it() {
        let scheme = Scheme::ScramSha256 { iterations: 4096 };
        assert_eq!(errors(&line("\u{2168}", scheme, "x")), vec![(1, LineError::ScramUser)]);
        assert!(PasswordFile::parse(&line("\u{2168}", small(), "x"), "passwords").is_ok());
        assert!(PasswordFile::parse(&line("jörg", scheme, "x"), "passwords").is_ok());
    }

    #[test]
    fn debug_output_shows_no_hash() {
        let file = PasswordFile::parse(MOSQUITTO, "passwords").unwrap();
        assert_eq!(format!("{file:?}"), "PasswordFile { users: 4, .. }");
    }

    #[test]
    fn fifty_thousand_changed_files_neither_panic_nor_hang() {
        let mut numbers = Random::new(42);
        let mut random = |below: usize| numbers.index(below);
        let mut originals: Vec<Vec<u8>> = MOSQUITTO.lines().map(|line| line.as_bytes().to_vec()).collect();
        originals.push(line("five", small(), "x").into_bytes());
        originals.push(line("six", Scheme::ScramSha256 { iterations: 4096 }, "x").into_bytes());
        let telling = b"$:=,#\n\0\xff19+/ ";
        let mut good = 0;
        for _ in 0..50_000 {
            let mut bytes = originals[random(originals.len())].clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len() + 1);
                let byte = if random(2) == 0 { random(256) as u8 } else { telling[random(telling.len())] };
                match random(4) {
                    0 => bytes.insert(at, byte),
                    1 if at < bytes.len() => drop(bytes.remove(at)),
                    2 => bytes.truncate(at),
                    _ if at < bytes.len() => bytes[at] = byte,
                    _ => {}
                }
            }
            match PasswordFile::parse_bytes(&bytes, "passwords") {
                Ok(file) => good += file.len(),
                Err(errors) => assert!(!errors.to_string().is_empty()),
            }
        }
        assert!(good > 1000, "mutations that never parse test little: {good}");
    }
}
