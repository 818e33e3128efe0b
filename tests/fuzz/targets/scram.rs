//! SCRAM-SHA-256, the server's side: an input is what a client sends, its first message up to a line feed and
//! then its last one.
//!
//! A challenge must repeat the client's nonce with the server's after it, for known and unknown users. A
//! client is only accepted with messages that were made with the password.

use midge::auth::scram::{FakeUsers, ScramKeys, ScramServer, ServerNonce, prepare};
use std::sync::OnceLock;

/// The exchange of RFC 7677, chapter 3: user "user", password "pencil".
const GOOD: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO\n\
    c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SALT: [u8; 16] =
    [0x5B, 0x6D, 0x99, 0x68, 0x9D, 0x12, 0x35, 0x8E, 0xEC, 0xA0, 0x4B, 0x14, 0x12, 0x36, 0xFA, 0x81];

fn keys() -> ScramKeys {
    static KEYS: OnceLock<ScramKeys> = OnceLock::new();
    KEYS.get_or_init(|| ScramKeys::derive("pencil", &SALT, 4096).expect("good arguments")).clone()
}

/// Runs the target.
pub fn run(input: &[u8]) {
    let mut parts = input.splitn(2, |&byte| byte == b'\n');
    let (first, last) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let nonce = ServerNonce::from_text(NONCE).expect("it is printable");
    let lookup = |user: &str| {
        assert_eq!(prepare(user).as_deref(), Some(user), "users are asked for by their prepared names");
        (user == "user").then(keys)
    };
    let begun = ScramServer::first(first, &nonce, lookup, &FakeUsers::with_defaults([9; 32]));
    let Ok((server, challenge)) = begun else {
        return assert_ne!(input, GOOD);
    };
    let user = server.claimed_user().to_owned();
    assert!(!user.is_empty());
    let said = std::str::from_utf8(first).expect("what is no text is refused");
    let challenge = String::from_utf8(challenge).expect("a challenge is text");
    let parts: Vec<&str> = challenge.split(',').collect();
    let [nonce, salt, iterations] = parts[..] else { panic!("{challenge}") };
    let own =
        nonce.strip_prefix("r=").and_then(|nonce| nonce.strip_suffix(NONCE)).expect("our nonce is last");
    assert!(!own.is_empty() && said.contains(&format!(",r={own}")), "{challenge}");
    // This is 16 bytes in base64.
    assert!(salt.starts_with("s=") && salt.len() == 26 && iterations == "i=4096", "{challenge}");
    let accepted = server.finish(last);
    assert_eq!(accepted.is_ok(), input == GOOD);
    assert!(accepted.is_err() || user == "user");
}
