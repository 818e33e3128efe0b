//! The exchange of RFC 7677, its variants, and what a client must not do.

use super::keys::salted_password;
use super::*;
use crate::base::Random;

// The exchange of RFC 7677, chapter 3: user "user", password "pencil".
const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

pub(super) fn pencil() -> ScramKeys {
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

/// The answer of a client with this password, and the server's signature that it expects.
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
    // A client that began with `y` must repeat it at the end: a man in the middle could have changed it.
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
}

#[test]
fn even_the_keys_of_a_fake_let_nobody_in() {
    // Someone who knows the secret could compute a proof for an unknown user. The flag still refuses it.
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
    // The first has one bit less of a good proof, the second is too short.
    for proof in ["dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVU=", "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7An"]
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
        let (server, _) = ScramServer::first(CLIENT_FIRST.as_bytes(), &nonce(), lookup, &fakes()).unwrap();
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
