//! Keys from files: a shared secret, a public key in PEM, a JSON Web Key Set. A key that can't verify tokens
//! is refused here, with the cause.

use std::collections::HashSet;
use std::path::Path;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, Validation};
use serde_json::Value;

use super::{JwtError, JwtKeySource, SecretAlgorithm};

/// A key and the algorithms that it verifies.
pub(super) struct JwtKey {
    /// The `kid` of a key from a key set. Other keys have none.
    id: Option<String>,
    pub(super) decoding: DecodingKey,
    /// The algorithms of the key. It checks no claims, because those are compared with the caller's clock.
    pub(super) validation: Validation,
}

impl JwtKey {
    fn new(id: Option<String>, decoding: DecodingKey, algorithms: Vec<Algorithm>) -> JwtKey {
        let validation = Validation {
            algorithms,
            required_spec_claims: HashSet::new(),
            validate_exp: false,
            validate_nbf: false,
            validate_aud: false,
            ..Validation::default()
        };
        JwtKey { id, decoding, validation }
    }

    /// Whether the key verifies this algorithm.
    pub(super) fn verifies(&self, algorithm: Algorithm) -> bool {
        self.validation.algorithms.contains(&algorithm)
    }

    /// Whether this key may have signed a token that names the key `id`, or names no key. A key without an
    /// identifier matches every `id`.
    pub(super) fn may_be(&self, id: Option<&str>) -> bool {
        match (&self.id, id) {
            (Some(own), Some(named)) => own == named,
            _ => true,
        }
    }
}

/// Appends the keys of a file, and to `left_out` the keys that are of no use.
pub(super) fn load(
    source: &JwtKeySource,
    keys: &mut Vec<JwtKey>,
    left_out: &mut Vec<String>,
) -> Result<(), JwtError> {
    let file = match source {
        JwtKeySource::Secret { file, .. }
        | JwtKeySource::PublicKey { file }
        | JwtKeySource::Jwks { file } => file,
    };
    let loaded = read(file).and_then(|bytes| match source {
        JwtKeySource::Secret { algorithm, .. } => secret(&bytes, *algorithm).map(|key| keys.push(key)),
        JwtKeySource::PublicKey { .. } => public_key(&bytes).map(|key| keys.push(key)),
        JwtKeySource::Jwks { .. } => key_set(&bytes, file, keys, left_out),
    });
    loaded.map_err(|cause| JwtError { file: Some(file.clone()), cause })
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let bytes =
        crate::files::read(file, FILE_BYTES_MAX).map_err(|error| format!("can't be read: {error}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("is larger than 1 MiB".into());
    }
    Ok(bytes)
}

fn secret(bytes: &[u8], algorithm: SecretAlgorithm) -> Result<JwtKey, String> {
    if contains(bytes, "-----BEGIN ") {
        return Err(
            "is a PEM file, not a shared secret: anyone who knows a public key could sign with it".into()
        );
    }
    let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    let algorithm = algorithm.algorithm();
    let needed = secret_bytes_min(algorithm);
    if secret.len() < needed {
        return Err(format!("the secret has {} bytes; {algorithm:?} needs {needed} or more", secret.len()));
    }
    Ok(JwtKey::new(None, DecodingKey::from_secret(secret), vec![algorithm]))
}

fn public_key(pem: &[u8]) -> Result<JwtKey, String> {
    if contains(pem, "PRIVATE KEY-----") {
        return Err("holds a private key; the broker needs the public one only".into());
    }
    if contains(pem, "-----BEGIN CERTIFICATE") {
        return Err("holds a certificate; take its public key out (openssl x509 -pubkey -noout)".into());
    }
    let decoding = DecodingKey::from_rsa_pem(pem)
        .or_else(|_| DecodingKey::from_ec_pem(pem))
        .or_else(|_| DecodingKey::from_ed_pem(pem))
        .map_err(|_| "is no public key in PEM (RSA, P-256, P-384 or Ed25519)".to_owned())?;
    let (decoding, algorithms) = checked(decoding)?;
    Ok(JwtKey::new(None, decoding, algorithms))
}

fn key_set(
    bytes: &[u8],
    file: &Path,
    keys: &mut Vec<JwtKey>,
    left_out: &mut Vec<String>,
) -> Result<(), String> {
    let set: Value = serde_json::from_slice(bytes).map_err(|error| format!("is no JSON: {error}"))?;
    let members =
        set.get("keys").and_then(Value::as_array).ok_or("is no key set: it has no list \"keys\"")?;
    let before = keys.len();
    let mut last_cause = "it is empty".to_owned();
    for (number, member) in members.iter().enumerate() {
        match key_of_set(member) {
            Ok(key) => keys.push(key),
            Err(cause) => {
                left_out.push(format!("{}: key {} is left out: {cause}", file.display(), number + 1));
                last_cause = cause;
            }
        }
    }
    if keys.len() == before {
        return Err(format!("has no key that verifies tokens: {last_cause}"));
    }
    Ok(())
}

fn key_of_set(member: &Value) -> Result<JwtKey, String> {
    let text = |name| member.get(name).and_then(Value::as_str);
    if member.get("use").is_some() && text("use") != Some("sig") {
        return Err("its use is not \"sig\"".into());
    }
    if let Some(operations) = member.get("key_ops")
        && !operations.as_array().is_some_and(|list| list.iter().any(|one| one.as_str() == Some("verify")))
    {
        return Err("its key_ops lack \"verify\"".into());
    }
    let mut plain = member.clone();
    if let Some(members) = plain.as_object_mut() {
        // These members are checked above and below. The crate refuses values that it does not know.
        for name in ["use", "key_ops", "alg"] {
            members.remove(name);
        }
    }
    let jwk: Jwk = serde_json::from_value(plain).map_err(|error| error.to_string())?;
    let decoding =
        DecodingKey::from_jwk(&jwk).map_err(|_| "it is of an unknown type, or broken".to_owned())?;
    let (decoding, mut algorithms) = checked(decoding)?;
    if let AlgorithmParameters::EllipticCurve(parameters) = &jwk.algorithm
        && parameters.curve != curve_of(&algorithms)
    {
        return Err("its point does not fit its curve".into());
    }
    if member.get("alg").is_some() {
        let name = text("alg").unwrap_or_default();
        algorithms.retain(|algorithm| name.parse() == Ok::<_, jsonwebtoken::errors::Error>(*algorithm));
        if algorithms.is_empty() {
            return Err("its alg is unknown, or does not fit the key".into());
        }
    }
    Ok(JwtKey::new(jwk.common.key_id, decoding, algorithms))
}

/// The key in the form for verification, and the algorithms that it verifies.
fn checked(key: DecodingKey) -> Result<(DecodingKey, Vec<Algorithm>), String> {
    match (key.family(), key.kind()) {
        (AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => rsa(n, e),
        (AlgorithmFamily::Rsa, DecodingKeyKind::SecretOrDer(der)) => {
            let (n, e) = rsa_components(der).ok_or("its RSA key is broken")?;
            rsa(n, e)
        }
        (AlgorithmFamily::Hmac, DecodingKeyKind::SecretOrDer(secret)) => {
            let long_enough = |&&algorithm: &&Algorithm| secret.len() >= secret_bytes_min(algorithm);
            let algorithms: Vec<_> =
                AlgorithmFamily::Hmac.algorithms().iter().filter(long_enough).copied().collect();
            if algorithms.is_empty() {
                return Err(format!("its secret has {} bytes; 32 or more are needed", secret.len()));
            }
            Ok((key, algorithms))
        }
        (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) => match point.len() {
            P256_POINT_BYTES => Ok((key, vec![Algorithm::ES256])),
            P384_POINT_BYTES => Ok((key, vec![Algorithm::ES384])),
            _ => Err("its curve is neither P-256 nor P-384".into()),
        },
        (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(point)) if point.len() == ED25519_POINT_BYTES => {
            Ok((key, vec![Algorithm::EdDSA]))
        }
        _ => Err("its curve is not Ed25519".into()),
    }
}

fn rsa(n: &[u8], e: &[u8]) -> Result<(DecodingKey, Vec<Algorithm>), String> {
    // Some issuers keep DER's sign byte in the key set.
    let (n, e) = (without_leading_zeros(n), without_leading_zeros(e));
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(format!("its RSA key has {bits} bits; 2048 to 8192 are accepted"));
    }
    Ok((DecodingKey::from_rsa_raw_components(n, e), AlgorithmFamily::Rsa.algorithms().to_vec()))
}

/// The modulus and the exponent of an `RSAPublicKey` in DER (RFC 8017, appendix A.1.1).
fn rsa_components(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, rest) = der_value(der, DER_SEQUENCE)?;
    let (n, after) = der_value(sequence, DER_INTEGER)?;
    let (e, end) = der_value(after, DER_INTEGER)?;
    (rest.is_empty() && end.is_empty()).then_some((n, e))
}

/// The content of the DER value at the front, which must have this tag, and the bytes after it.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, after_tag) = der.split_first()?;
    let (&length, mut rest) = after_tag.split_first()?;
    let mut bytes = usize::from(length);
    if length & 0x80 != 0 {
        let (digits, after) = rest.split_at_checked(usize::from(length & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        bytes = digits.iter().fold(0, |sum, &digit| sum << 8 | usize::from(digit));
        rest = after;
    }
    if first == tag { rest.split_at_checked(bytes) } else { None }
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    &bytes[zeros..]
}

fn curve_of(algorithms: &[Algorithm]) -> EllipticCurve {
    if algorithms.contains(&Algorithm::ES384) { EllipticCurve::P384 } else { EllipticCurve::P256 }
}

/// A secret shorter than its hash is easier to guess than the hash. (RFC 7518, section 3.2)
fn secret_bytes_min(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

const FILE_BYTES_MAX: u64 = 1 << 20;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// An uncompressed point: a tag, then two coordinates.
const P256_POINT_BYTES: usize = 1 + 2 * 32;
const P384_POINT_BYTES: usize = 1 + 2 * 48;
const ED25519_POINT_BYTES: usize = 32;
const DER_SEQUENCE: u8 = 0x30;
const DER_INTEGER: u8 = 0x02;
