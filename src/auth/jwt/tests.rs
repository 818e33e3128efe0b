#![allow(clippy::disallowed_methods, reason = "tests write the key files")]

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::json;

use super::*;
use crate::base::Random;

const NOW: u64 = 1_750_000_000;
const SECRET: &[u8; 64] = b"a secret as long as the longest hash, which is one of 64 bytes..";

/// A directory for one test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("midge-jwt-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.0.join(name);
        std::fs::write(&file, content).unwrap();
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Keys and tokens that another implementation (PyJWT with OpenSSL) has made. `sub` is `device-1`, `exp` is
/// 1,800,000,000.
fn fixture(path: &str) -> String {
    let all: Value = serde_json::from_str(include_str!("fixtures.json")).unwrap();
    match all.pointer(path).unwrap() {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn settings(keys: Vec<JwtKeySource>) -> JwtSettings {
    JwtSettings {
        keys,
        issuer: None,
        audience: None,
        user_claim: "sub".into(),
        require_user_match: false,
        publish_claim: Some("pub".into()),
        subscribe_claim: Some("subs".into()),
        leeway_seconds: 0,
        require_expiry: false,
    }
}

fn secret_source(folder: &Folder) -> JwtKeySource {
    JwtKeySource::Secret { algorithm: SecretAlgorithm::Hs256, file: folder.file("secret", SECRET) }
}

fn verifier_of(keys: Vec<JwtKeySource>) -> JwtVerifier {
    JwtVerifier::load(&settings(keys)).unwrap()
}

fn pem_verifier(pem: &str) -> JwtVerifier {
    let folder = Folder::new();
    verifier_of(vec![JwtKeySource::PublicKey { file: folder.file("key.pem", pem) }])
}

fn set_verifier(set: &str) -> Result<JwtVerifier, JwtError> {
    let folder = Folder::new();
    JwtVerifier::load(&settings(vec![JwtKeySource::Jwks { file: folder.file("keys.json", set) }]))
}

fn hs256_verifier(change: impl FnOnce(&mut JwtSettings)) -> JwtVerifier {
    let folder = Folder::new();
    let mut settings = settings(vec![secret_source(&folder)]);
    change(&mut settings);
    JwtVerifier::load(&settings).unwrap()
}

fn signed_with(header: Value, claims: Value, hash: hmac::Algorithm, secret: &[u8]) -> String {
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let tag = hmac::sign(&hmac::Key::new(hash, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn signed(claims: Value) -> String {
    signed_with(json!({"alg": "HS256"}), claims, hmac::HMAC_SHA256, SECRET)
}

fn check(verifier: &JwtVerifier, token: impl AsRef<[u8]>) -> Result<TokenGrant, TokenRefusal> {
    verifier.verify(token.as_ref(), None, "client-1", NOW)
}

#[test]
fn every_algorithm_verifies_a_token_of_another_implementation() {
    let keys = [
        ("/pem/rsa", &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "RS256 without kid"][..]),
        ("/pem/rsa_pkcs1", &["RS256", "PS512"]),
        ("/pem/p256", &["ES256"]),
        ("/pem/p384", &["ES384"]),
        ("/pem/ed25519", &["EdDSA"]),
    ];
    let set = set_verifier(&fixture("/jwks")).unwrap();
    assert_eq!((set.keys(), set.left_out().len()), (4, 0));
    for (pem, tokens) in keys {
        let one = pem_verifier(&fixture(pem));
        for token in tokens {
            let token = fixture(&format!("/tokens/{token}"));
            for verifier in [&one, &set] {
                let grant = check(verifier, &token).unwrap();
                assert_eq!(grant.user, "device-1");
                assert_eq!(grant.expires_at, Some(1_800_000_000));
                assert_eq!((grant.publish, grant.subscribe), (None, None));
                assert_eq!(
                    verifier.verify(token.as_bytes(), None, "", 1_800_000_000),
                    Err(TokenRefusal::Expired)
                );
            }
            let mut broken = token.into_bytes();
            let last = broken.len() - 10;
            broken[last] = if broken[last] == b'A' { b'B' } else { b'A' };
            assert_eq!(check(&one, &broken), Err(TokenRefusal::Signature));
        }
    }
}

#[test]
fn every_hash_of_a_shared_secret_verifies_with_its_own_key_only() {
    let folder = Folder::new();
    let file = folder.file("secret", SECRET);
    let hashes = [
        (SecretAlgorithm::Hs256, "HS256", hmac::HMAC_SHA256),
        (SecretAlgorithm::Hs384, "HS384", hmac::HMAC_SHA384),
        (SecretAlgorithm::Hs512, "HS512", hmac::HMAC_SHA512),
    ];
    for (algorithm, name, hash) in hashes {
        let verifier = verifier_of(vec![JwtKeySource::Secret { algorithm, file: file.clone() }]);
        let token = signed_with(json!({"alg": name}), json!({"sub": "u"}), hash, SECRET);
        assert_eq!(check(&verifier, token).unwrap().user, "u");
        let other = if name == "HS256" { "HS512" } else { "HS256" };
        let token = signed_with(json!({"alg": other}), json!({"sub": "u"}), hash, SECRET);
        assert_eq!(check(&verifier, token), Err(TokenRefusal::Algorithm));
        let token = signed_with(json!({"alg": name}), json!({"sub": "u"}), hash, b"another secret");
        assert_eq!(check(&verifier, token), Err(TokenRefusal::Signature));
    }
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    let pem = fixture("/pem/rsa");
    let verifier = pem_verifier(&pem);
    for secret in [pem.as_bytes(), pem.trim_end().as_bytes()] {
        let token = signed_with(json!({"alg": "HS256"}), json!({"sub": "u"}), hmac::HMAC_SHA256, secret);
        assert_eq!(check(&verifier, token), Err(TokenRefusal::Algorithm));
    }
    // If both kinds of key are configured, the algorithm has a key, but not this one.
    let folder = Folder::new();
    let both = vec![JwtKeySource::PublicKey { file: folder.file("key.pem", &pem) }, secret_source(&folder)];
    let token = signed_with(json!({"alg": "HS256"}), json!({"sub": "u"}), hmac::HMAC_SHA256, pem.as_bytes());
    assert_eq!(check(&verifier_of(both), token), Err(TokenRefusal::Signature));
    // The operator can't turn it into one either.
    let file = folder.file("mistaken", &pem);
    let source = JwtKeySource::Secret { algorithm: SecretAlgorithm::Hs256, file: file.clone() };
    let error = JwtVerifier::load(&settings(vec![source])).unwrap_err();
    assert_eq!(error.file.as_ref(), Some(&file));
    assert!(error.to_string().contains("not a shared secret"), "{error}");
}

#[test]
fn a_token_without_a_signature_is_refused() {
    let verifier = hs256_verifier(|_| {});
    let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"u"}"#);
    for algorithm in ["none", "None", "nOnE", "NONE", ""] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm}).to_string());
        assert_eq!(check(&verifier, format!("{header}.{claims}.")), Err(TokenRefusal::Algorithm));
    }
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    assert_eq!(check(&verifier, format!("{header}.{claims}.")), Err(TokenRefusal::Signature));
    assert_eq!(check(&verifier, format!("{header}.{claims}")), Err(TokenRefusal::Malformed));
    let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT"}"#);
    assert_eq!(check(&verifier, format!("{header}.{claims}.")), Err(TokenRefusal::Malformed));
}

#[test]
fn what_is_no_token_is_malformed_and_what_is_too_long_is_not_looked_at() {
    let verifier = hs256_verifier(|_| {});
    for token in ["", ".", "..", "...", "a.b.c", "a.b.c.d", "\u{e9}.b.c", "hunter2", "e30.e30.e30"] {
        assert_eq!(check(&verifier, token), Err(TokenRefusal::Malformed), "{token}");
    }
    assert_eq!(check(&verifier, [0xff; 40]), Err(TokenRefusal::Malformed));
    assert_eq!(check(&verifier, vec![b'.'; TOKEN_BYTES_MAX + 1]), Err(TokenRefusal::TooLong));
    let long = signed(json!({"sub": "u", "pad": "x".repeat(TOKEN_BYTES_MAX)}));
    assert_eq!(check(&verifier, long), Err(TokenRefusal::TooLong));
    let list = signed(json!(["not", "claims"]));
    assert_eq!(check(&verifier, list), Err(TokenRefusal::Malformed));
}

#[test]
fn critical_header_extensions_are_refused() {
    let verifier = hs256_verifier(|_| {});
    let header = json!({"alg": "HS256", "crit": ["b64"], "b64": false});
    let token = signed_with(header, json!({"sub": "u"}), hmac::HMAC_SHA256, SECRET);
    assert_eq!(check(&verifier, token), Err(TokenRefusal::Critical));
}

#[test]
fn expiry_and_start_count_to_the_second_and_the_leeway_moves_both() {
    let at = |verifier: &JwtVerifier, claims: Value, now| {
        verifier.verify(signed(claims).as_bytes(), None, "c", now).map(|grant| grant.expires_at)
    };
    let strict = hs256_verifier(|_| {});
    assert_eq!(at(&strict, json!({"sub": "u", "exp": 100}), 99), Ok(Some(100)));
    assert_eq!(at(&strict, json!({"sub": "u", "exp": 100}), 100), Err(TokenRefusal::Expired));
    assert_eq!(at(&strict, json!({"sub": "u", "exp": 100.9}), 99), Ok(Some(100)));
    assert_eq!(at(&strict, json!({"sub": "u", "exp": -5}), 0), Err(TokenRefusal::Expired));
    assert_eq!(at(&strict, json!({"sub": "u", "nbf": 100}), 99), Err(TokenRefusal::NotYetValid));
    assert_eq!(at(&strict, json!({"sub": "u", "nbf": 100}), 100), Ok(None));
    assert_eq!(at(&strict, json!({"sub": "u", "nbf": 99.5}), 99), Err(TokenRefusal::NotYetValid));
    assert_eq!(at(&strict, json!({"sub": "u", "nbf": -1e300}), 0), Ok(None));
    assert_eq!(at(&strict, json!({"sub": "u", "exp": u64::MAX}), NOW), Ok(Some(u64::MAX)));
    for name in ["exp", "nbf"] {
        for value in [json!("100"), json!(null), json!(true), json!([100]), json!({})] {
            let refused = at(&strict, json!({"sub": "u", name: value}), 0).unwrap_err();
            // The crate already refuses lists and maps.
            assert!([TokenRefusal::Unusable(name.into()), TokenRefusal::Malformed].contains(&refused));
        }
    }
    let lenient = hs256_verifier(|settings| settings.leeway_seconds = 10);
    assert_eq!(at(&lenient, json!({"sub": "u", "exp": 100}), 109), Ok(Some(110)));
    assert_eq!(at(&lenient, json!({"sub": "u", "exp": 100}), 110), Err(TokenRefusal::Expired));
    assert_eq!(at(&lenient, json!({"sub": "u", "nbf": 100}), 90), Ok(None));
    assert_eq!(at(&lenient, json!({"sub": "u", "nbf": 100}), 89), Err(TokenRefusal::NotYetValid));
    assert_eq!(
        at(&lenient, json!({"sub": "u", "exp": u64::MAX, "nbf": 5}), u64::MAX),
        Err(TokenRefusal::Expired)
    );
    let demanding = hs256_verifier(|settings| settings.require_expiry = true);
    assert_eq!(at(&demanding, json!({"sub": "u"}), 0), Err(TokenRefusal::Missing("exp".into())));
}

#[test]
fn issuer_and_audience_are_asked_for_where_configured() {
    let verifier = hs256_verifier(|settings| {
        settings.issuer = Some("https://id.example".into());
        settings.audience = Some("mqtt".into());
    });
    let with = |iss: Value, aud: Value| check(&verifier, signed(json!({"sub": "u", "iss": iss, "aud": aud})));
    let iss = json!("https://id.example");
    assert!(with(iss.clone(), json!("mqtt")).is_ok());
    assert!(with(iss.clone(), json!(["web", "mqtt"])).is_ok());
    for aud in [json!("web"), json!([]), json!(["web", 7]), json!({"mqtt": true}), json!("mqtt2")] {
        assert_eq!(with(iss.clone(), aud), Err(TokenRefusal::Audience));
    }
    for iss in [json!("https://id.example/"), json!(["https://id.example"]), json!(1)] {
        assert_eq!(with(iss, json!("mqtt")), Err(TokenRefusal::Issuer));
    }
    assert_eq!(check(&verifier, signed(json!({"sub": "u"}))), Err(TokenRefusal::Issuer));
    assert_eq!(
        check(&verifier, signed(json!({"sub": "u", "iss": "https://id.example"}))),
        Err(TokenRefusal::Audience)
    );
}

#[test]
fn the_user_is_a_claim_and_may_have_to_be_the_user_name() {
    let verifier = hs256_verifier(|settings| {
        settings.user_claim = "device".into();
        settings.require_user_match = true;
    });
    let token = signed(json!({"device": "d1", "sub": "other"}));
    assert_eq!(verifier.verify(token.as_bytes(), Some("d1"), "c", NOW).unwrap().user, "d1");
    assert_eq!(verifier.verify(token.as_bytes(), Some("d2"), "c", NOW), Err(TokenRefusal::User));
    assert_eq!(verifier.verify(token.as_bytes(), None, "c", NOW), Err(TokenRefusal::User));
    assert_eq!(check(&verifier, signed(json!({"sub": "d1"}))), Err(TokenRefusal::Missing("device".into())));
    for user in [json!(""), json!(7), json!(null), json!("a\nb"), json!("a\u{0}")] {
        let refused = check(&verifier, signed(json!({"device": user})));
        assert_eq!(refused, Err(TokenRefusal::Unusable("device".into())));
    }
}

#[test]
fn a_token_for_one_client_is_for_that_client_only() {
    let verifier = hs256_verifier(|_| {});
    for name in ["clientid", "client_id"] {
        assert!(check(&verifier, signed(json!({"sub": "u", name: "client-1"}))).is_ok());
        for other in [json!("client-2"), json!(""), json!(1), json!(["client-1"])] {
            let refused = check(&verifier, signed(json!({"sub": "u", name: other})));
            assert_eq!(refused, Err(TokenRefusal::ClientId));
        }
    }
    let both = signed(json!({"sub": "u", "clientid": "client-1", "client_id": "client-2"}));
    assert_eq!(check(&verifier, both), Err(TokenRefusal::ClientId));
}

#[test]
fn topic_filters_come_from_the_named_claims() {
    let plain = hs256_verifier(|_| {});
    let grant = check(&plain, signed(json!({"sub": "u", "pub": ["a/b", "c/#"], "subs": []}))).unwrap();
    assert_eq!(grant.publish, Some(vec!["a/b".to_owned(), "c/#".to_owned()]));
    assert_eq!(grant.subscribe, Some(Vec::new()));
    for wrong in [json!("a/b"), json!([1]), json!(null), json!({"a": 1}), json!(["a", ["b"]])] {
        let refused = check(&plain, signed(json!({"sub": "u", "pub": wrong})));
        assert_eq!(refused, Err(TokenRefusal::Unusable("pub".into())));
    }
    let nested = hs256_verifier(|settings| {
        settings.publish_claim = Some("/acl/pub".into());
        settings.subscribe_claim = Some("/https:~1~1x/~0".into());
    });
    let claims = json!({"sub": "u", "acl": {"pub": ["a"]}, "https://x": {"~": ["b"]}});
    let grant = check(&nested, signed(claims)).unwrap();
    assert_eq!(grant.publish, Some(vec!["a".to_owned()]));
    assert_eq!(grant.subscribe, Some(vec!["b".to_owned()]));
    assert_eq!(check(&nested, signed(json!({"sub": "u"}))).unwrap().publish, None);
    let unasked = hs256_verifier(|settings| settings.publish_claim = None);
    assert_eq!(check(&unasked, signed(json!({"sub": "u", "pub": 7}))).unwrap().publish, None);
}

#[test]
fn the_key_identifier_chooses_in_a_key_set() {
    let key = |kid: &str, fill: &str| json!({"kty": "oct", "kid": kid, "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(fill.repeat(32))});
    let verifier = set_verifier(&json!({"keys": [key("one", "1"), key("two", "2")]}).to_string()).unwrap();
    let token = |header: Value, fill: &str| {
        signed_with(header, json!({"sub": "u"}), hmac::HMAC_SHA256, fill.repeat(32).as_bytes())
    };
    assert!(check(&verifier, token(json!({"alg": "HS256", "kid": "two"}), "2")).is_ok());
    let refused = |header: Value, fill| check(&verifier, token(header, fill)).unwrap_err();
    assert_eq!(refused(json!({"alg": "HS256", "kid": "one"}), "2"), TokenRefusal::Signature);
    assert_eq!(refused(json!({"alg": "HS256", "kid": "three"}), "2"), TokenRefusal::UnknownKey);
    assert_eq!(refused(json!({"alg": "HS256", "kid": 2}), "2"), TokenRefusal::Malformed);
    assert_eq!(refused(json!({"alg": "HS512", "kid": "two"}), "2"), TokenRefusal::Algorithm);
    for fill in ["1", "2"] {
        assert!(check(&verifier, token(json!({"alg": "HS256"}), fill)).is_ok());
    }
    assert_eq!(refused(json!({"alg": "HS256"}), "3"), TokenRefusal::Signature);

    let many: Vec<Value> = (0..17).map(|number| key(&number.to_string(), &format!("{number:02}"))).collect();
    let verifier = set_verifier(&json!({"keys": many}).to_string()).unwrap();
    let unnamed = token(json!({"alg": "HS256"}), "03");
    assert_eq!(check(&verifier, unnamed), Err(TokenRefusal::TooManyKeys));
    assert!(check(&verifier, token(json!({"alg": "HS256", "kid": "3"}), "03")).is_ok());
}

#[test]
fn keys_that_verify_nothing_are_left_out_of_a_set_with_their_reason() {
    let good: Value = serde_json::from_str(&fixture("/jwks/keys/0")).unwrap();
    let point: Value = serde_json::from_str(&fixture("/jwks/keys/1")).unwrap();
    let with = |key: &Value, name: &str, value: Value| {
        let mut key = key.clone();
        key[name] = value;
        key
    };
    let keys = [
        (with(&good, "use", json!("enc")), "use is not"),
        (with(&good, "key_ops", json!(["encrypt"])), "key_ops"),
        (with(&good, "alg", json!("ES256")), "alg"),
        (with(&good, "alg", json!("RSA-OAEP")), "alg"),
        (with(&good, "alg", json!(5)), "alg"),
        (with(&good, "kty", json!("AKP")), ""),
        (with(&good, "n", json!("AQAB")), "17 bits"),
        (with(&good, "n", json!("!")), "broken"),
        (with(&point, "crv", json!("P-384")), "curve"),
        (with(&point, "crv", json!("secp256k1")), ""),
        (with(&point, "x", json!("AQAB")), "curve"),
        (json!({"kty": "oct", "k": "AQAB"}), "3 bytes"),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}), "Ed25519"),
        (json!("text"), ""),
    ];
    let all: Vec<&Value> = keys.iter().map(|(key, _)| key).chain([&good]).collect();
    let verifier = set_verifier(&json!({"keys": all}).to_string()).unwrap();
    assert_eq!(verifier.keys(), 1);
    assert_eq!(verifier.left_out().len(), keys.len());
    for ((_, cause), left_out) in keys.iter().zip(verifier.left_out()) {
        assert!(left_out.contains(cause) && left_out.contains("keys.json"), "{left_out} lacks {cause}");
    }
    assert!(check(&verifier, fixture("/tokens/RS256")).is_ok());

    for set in ["", "[]", "{}", r#"{"keys":1}"#, r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AQAB"}]}"#] {
        let error = set_verifier(set).unwrap_err();
        assert!(error.file.is_some() && !error.cause.is_empty(), "{set}: {error}");
    }
}

#[test]
fn an_algorithm_named_in_a_key_set_is_the_only_one() {
    let mut key: Value = serde_json::from_str(&fixture("/jwks/keys/0")).unwrap();
    key["alg"] = json!("PS256");
    let verifier = set_verifier(&json!({"keys": [key]}).to_string()).unwrap();
    assert!(check(&verifier, fixture("/tokens/PS256")).is_ok());
    assert_eq!(check(&verifier, fixture("/tokens/RS256")), Err(TokenRefusal::Algorithm));
}

#[test]
fn a_key_that_cannot_be_used_names_its_file_and_the_cause() {
    let folder = Folder::new();
    let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let pems = [
        (fixture("/pem/rsa_1024"), "1024 bits"),
        (fixture("/pem/p521"), "P-384"),
        (private.to_owned(), "private key"),
        (certificate.to_owned(), "certificate"),
        ("hello".to_owned(), "no public key"),
        (String::new(), "no public key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_owned(), "no public key"),
        ("x".repeat((1 << 20) + 1), "1 MiB"),
    ];
    for (pem, cause) in pems {
        let file = folder.file("key.pem", pem);
        let error = JwtVerifier::load(&settings(vec![JwtKeySource::PublicKey { file }])).unwrap_err();
        assert!(error.to_string().contains(cause) && error.to_string().contains("key.pem"), "{error}");
    }
    let missing = JwtKeySource::Jwks { file: folder.0.join("missing.json") };
    let error = JwtVerifier::load(&settings(vec![missing])).unwrap_err();
    assert!(error.to_string().contains("missing.json: can't be read"), "{error}");
    let file = folder.file("short", "0123456789\n");
    let short = JwtKeySource::Secret { algorithm: SecretAlgorithm::Hs384, file };
    let error = JwtVerifier::load(&settings(vec![short])).unwrap_err();
    assert!(error.to_string().contains("has 10 bytes; HS384 needs 48"), "{error}");
    assert!(JwtVerifier::load(&settings(Vec::new())).unwrap_err().to_string().contains("at least one key"));
    let nobody = JwtSettings { user_claim: String::new(), ..settings(vec![secret_source(&folder)]) };
    assert!(JwtVerifier::load(&nobody).is_err());
}

#[test]
fn one_line_break_at_the_end_of_a_secret_does_not_count() {
    let folder = Folder::new();
    for end in ["", "\n", "\r\n"] {
        let file = folder.file("secret", [SECRET, end.as_bytes()].concat());
        let source = JwtKeySource::Secret { algorithm: SecretAlgorithm::Hs256, file };
        assert!(check(&verifier_of(vec![source]), signed(json!({"sub": "u"}))).is_ok());
    }
}

#[test]
fn a_refusal_shows_nothing_of_the_token() {
    let verifier = hs256_verifier(|settings| settings.issuer = Some("me".into()));
    let token = signed(json!({"sub": "somebody", "iss": "somewhere"}));
    let refusal = check(&verifier, &token).unwrap_err();
    let words = format!("{refusal} {refusal:?} {verifier:?}");
    for part in token.split('.').chain(["somebody", "somewhere"]) {
        assert!(!words.contains(part), "{words}");
    }
}

#[test]
fn fifty_thousand_mutated_tokens_neither_panic_nor_pass() {
    let folder = Folder::new();
    let set = folder.file("keys.json", fixture("/jwks"));
    let verifier = verifier_of(vec![secret_source(&folder), JwtKeySource::Jwks { file: set }]);
    let tokens = [
        signed(json!({"sub": "u", "exp": 2e9, "aud": ["a"], "pub": ["a/#"]})),
        fixture("/tokens/EdDSA"),
        fixture("/tokens/ES256"),
        fixture("/tokens/RS256"),
    ];
    let mut random = Random::new(1);
    let mut next = |bound: usize| random.index(bound);
    for round in 0..50_000 {
        // Elliptic curves are slow without optimization, so they come less often.
        let original = &tokens[if round % 16 == 0 { next(tokens.len()) } else { 0 }];
        let mut token = original.clone().into_bytes();
        for _ in 0..=next(3) {
            let at = next(token.len().max(1));
            match next(5) {
                0 if !token.is_empty() => token[at] = next(256) as u8,
                1 if !token.is_empty() => token[at] = b"ABCabc019-_.="[next(13)],
                2 if !token.is_empty() => drop(token.remove(at)),
                3 => token.insert(at, b"A.e{\xff"[next(5)]),
                _ => token.truncate(at),
            }
        }
        if let Ok(grant) = check(&verifier, &token) {
            assert_eq!(token, original.as_bytes(), "{grant:?}");
        }
    }
    // These have claims of every shape under a valid signature.
    let shapes = [json!(null), json!(-1), json!(1e308), json!("x"), json!([]), json!([[]]), json!({"a": {}})];
    for _ in 0..2_000 {
        let mut claims = json!({"sub": "u"});
        for name in ["sub", "exp", "nbf", "iat", "iss", "aud", "pub", "subs", "clientid", "client_id"] {
            if next(2) == 0 {
                claims[name] = shapes[next(shapes.len())].clone();
            }
        }
        let _ = check(&verifier, signed(claims));
    }
}
