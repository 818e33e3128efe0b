//! Verifies the signatures of certificates, of revocation lists and of clients in the handshake. It uses
//! ring's algorithms, and adds the ECDSA that ring lacks: the curve P-521, and SHA-512 with P-256 and P-384.
//!
//! This file only works with public values and signs nothing.

use std::fmt;
use std::sync::LazyLock;

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use ring::digest;
use rustls::SignatureScheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm as Algorithm, alg_id,
};
use x509_parser::asn1_rs::{Any, Class, FromDer, Oid, Tag};

/// All supported algorithms, in the order in which clients are told of them. P-521 is last.
pub(super) static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> = LazyLock::new(|| {
    let ring = default_provider().signature_verification_algorithms;
    let all = [ring.all, OURS].concat();
    // TLS 1.3 ties a scheme to its curve, so the matching curve comes first. TLS 1.2 allows any curve with
    // the scheme's hash.
    let with_ours = |(scheme, algorithms): &(SignatureScheme, &'static [&'static dyn Algorithm])| {
        let further: &[&dyn Algorithm] = match scheme {
            SignatureScheme::ECDSA_NISTP256_SHA256 => &[&P521_SHA256],
            SignatureScheme::ECDSA_NISTP384_SHA384 => &[&P521_SHA384],
            _ => &[],
        };
        (*scheme, &*[algorithms, further].concat().leak())
    };
    let mut mapping: Vec<_> = ring.mapping.iter().map(with_ours).collect();
    mapping.push((SignatureScheme::ECDSA_NISTP521_SHA512, WITH_SHA512));
    WebPkiSupportedAlgorithms { all: all.leak(), mapping: mapping.leak() }
});

static OURS: &[&dyn Algorithm] = &[&P521_SHA512, &P521_SHA384, &P521_SHA256, &P384_SHA512, &P256_SHA512];

static WITH_SHA512: &[&dyn Algorithm] = &[&P521_SHA512, &P384_SHA512, &P256_SHA512];

static P521_SHA512: Ecdsa = Ecdsa { curve: Curve::P521, hash: Hash::Sha512 };
static P521_SHA384: Ecdsa = Ecdsa { curve: Curve::P521, hash: Hash::Sha384 };
static P521_SHA256: Ecdsa = Ecdsa { curve: Curve::P521, hash: Hash::Sha256 };
static P384_SHA512: Ecdsa = Ecdsa { curve: Curve::P384, hash: Hash::Sha512 };
static P256_SHA512: Ecdsa = Ecdsa { curve: Curve::P256, hash: Hash::Sha512 };

#[derive(Debug)]
struct Ecdsa {
    curve: Curve,
    hash: Hash,
}

#[derive(Debug, Clone, Copy)]
enum Curve {
    P256,
    P384,
    P521,
}

#[derive(Debug, Clone, Copy)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm for Ecdsa {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        match self.curve {
            Curve::P256 => alg_id::ECDSA_P256,
            Curve::P384 => alg_id::ECDSA_P384,
            Curve::P521 => alg_id::ECDSA_P521,
        }
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        match self.hash {
            Hash::Sha256 => alg_id::ECDSA_SHA256,
            Hash::Sha384 => alg_id::ECDSA_SHA384,
            Hash::Sha512 => alg_id::ECDSA_SHA512,
        }
    }

    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let hash = digest::digest(
            match self.hash {
                Hash::Sha256 => &digest::SHA256,
                Hash::Sha384 => &digest::SHA384,
                Hash::Sha512 => &digest::SHA512,
            },
            message,
        );
        let verified = match self.curve {
            Curve::P256 => p256::ecdsa::DerSignature::try_from(signature).and_then(|signature| {
                p256::ecdsa::VerifyingKey::from_sec1_bytes(key)?.verify_prehash(hash.as_ref(), &signature)
            }),
            Curve::P384 => p384::ecdsa::DerSignature::try_from(signature).and_then(|signature| {
                p384::ecdsa::VerifyingKey::from_sec1_bytes(key)?.verify_prehash(hash.as_ref(), &signature)
            }),
            Curve::P521 => p521::ecdsa::DerSignature::try_from(signature).and_then(|signature| {
                // Leading zeros do not change the number that a hash stands for (FIPS 186-5, section 6.4).
                // They are needed because the library refuses hashes that are less than half as long as the
                // field.
                let mut padded = [0; P521_FIELD_BYTES];
                let hash = hash.as_ref();
                padded[P521_FIELD_BYTES - hash.len()..].copy_from_slice(hash);
                p521::ecdsa::VerifyingKey::from_sec1_bytes(key)?.verify_prehash(&padded, &signature)
            }),
        };
        verified.map_err(|_| InvalidSignature)
    }
}

const P521_FIELD_BYTES: usize = 66;

/// Why a signature is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BadSignature {
    /// It is not from that key, or can't be read.
    Wrong,
    /// Its kind can't be verified.
    Unsupported(SignatureKind),
}

/// The signature algorithm and the kind of key, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SignatureKind {
    pub(super) signature: String,
    pub(super) key: String,
}

impl fmt::Display for SignatureKind {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} by a key of the kind {}", self.signature, self.key)
    }
}

/// A signed certificate or revocation list.
pub(super) struct Signed<'a> {
    message: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    /// Splits the DER into the signed part, the algorithm and the signature.
    pub(super) fn read(der: &'a [u8]) -> Option<Signed<'a>> {
        let (&[], whole) = element(der, Tag::Sequence)? else { return None };
        let (rest, _) = element(whole, Tag::Sequence)?;
        let message = &whole[..whole.len() - rest.len()];
        let (algorithm, signature) = algorithm_and_bits(rest)?;
        Some(Signed { message, algorithm, signature })
    }

    /// Verifies the signature with this key, a SubjectPublicKeyInfo.
    pub(super) fn verify(&self, key: &[u8]) -> Result<(), BadSignature> {
        let (algorithm, bits) = public_key(key).ok_or(BadSignature::Wrong)?;
        let fits = |known: &&&dyn Algorithm| {
            known.signature_alg_id().as_ref() == self.algorithm
                && known.public_key_alg_id().as_ref() == algorithm
        };
        match ALGORITHMS.all.iter().find(fits) {
            Some(known) => {
                known.verify_signature(bits, self.message, self.signature).map_err(|_| BadSignature::Wrong)
            }
            None => Err(BadSignature::Unsupported(SignatureKind {
                signature: describe_signature(self.algorithm),
                key: describe_key(key),
            })),
        }
    }
}

/// The content of the algorithm and the key of a SubjectPublicKeyInfo.
pub(super) fn public_key(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, whole) = element(key, Tag::Sequence)?;
    algorithm_and_bits(whole)
}

/// The bytes after an element of this kind, and its content.
fn element(der: &[u8], tag: Tag) -> Option<(&[u8], &[u8])> {
    let (rest, any) = Any::from_der(der).ok()?;
    (any.class() == Class::Universal && any.tag() == tag).then_some((rest, any.data))
}

/// An AlgorithmIdentifier without its header, and the BIT STRING after it.
fn algorithm_and_bits(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, algorithm) = element(der, Tag::Sequence)?;
    let (&[], bits) = element(rest, Tag::BitString)? else { return None };
    match bits.split_first() {
        // All of these have a whole number of bytes.
        Some((0, bits)) => Some((algorithm, bits)),
        _ => None,
    }
}

fn describe_signature(algorithm: &[u8]) -> String {
    let oid = Oid::from_der(algorithm).map(|(_, oid)| oid.to_id_string()).unwrap_or_default();
    name_of(&SIGNATURES, &oid)
}

/// A SubjectPublicKeyInfo in words, with its curve if it has one.
pub(super) fn describe_key(key: &[u8]) -> String {
    let Some((algorithm, bits)) = public_key(key) else { return "that can't be read".to_owned() };
    let Ok((parameters, oid)) = Oid::from_der(algorithm) else { return "that can't be read".to_owned() };
    match oid.to_id_string().as_str() {
        "1.2.840.10045.2.1" => match Oid::from_der(parameters) {
            Ok((_, curve)) => format!("ECDSA on the curve {}", name_of(&CURVES, &curve.to_id_string())),
            Err(_) => "ECDSA on a curve without a name".to_owned(),
        },
        "1.2.840.113549.1.1.1" => match rsa_bits(bits) {
            Some(bits) => format!("RSA of {bits} bits"),
            None => "RSA".to_owned(),
        },
        oid => name_of(&KEYS, oid),
    }
}

fn rsa_bits(key: &[u8]) -> Option<usize> {
    let (_, whole) = element(key, Tag::Sequence)?;
    let (_, modulus) = element(whole, Tag::Integer)?;
    let significant = modulus.iter().position(|&byte| byte != 0).map(|at| &modulus[at..])?;
    Some(significant.len() * 8 - significant[0].leading_zeros() as usize)
}

fn name_of(names: &[(&str, &str)], oid: &str) -> String {
    let known = names.iter().find(|(known, _)| *known == oid);
    known.map_or_else(|| format!("with the object identifier {oid}"), |(_, name)| (*name).to_owned())
}

const CURVES: [(&str, &str); 10] = [
    ("1.2.840.10045.3.1.1", "P-192"),
    ("1.3.132.0.33", "P-224"),
    ("1.2.840.10045.3.1.7", "P-256"),
    ("1.3.132.0.34", "P-384"),
    ("1.3.132.0.35", "P-521"),
    ("1.3.132.0.10", "secp256k1"),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.13", "brainpoolP512r1"),
    ("1.2.156.10197.1.301", "SM2"),
];

const KEYS: [(&str, &str); 4] = [
    ("1.2.840.10040.4.1", "DSA"),
    ("1.2.840.113549.1.1.10", "RSA that is for PSS alone"),
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
];

const SIGNATURES: [(&str, &str); 16] = [
    ("1.2.840.113549.1.1.4", "RSA with MD5"),
    ("1.2.840.113549.1.1.5", "RSA with SHA-1"),
    ("1.2.840.113549.1.1.14", "RSA with SHA-224"),
    ("1.2.840.113549.1.1.11", "RSA with SHA-256"),
    ("1.2.840.113549.1.1.12", "RSA with SHA-384"),
    ("1.2.840.113549.1.1.13", "RSA with SHA-512"),
    ("1.2.840.113549.1.1.10", "RSA (PSS) with a hash or salt that is not usual"),
    ("1.2.840.10045.4.1", "ECDSA with SHA-1"),
    ("1.2.840.10045.4.3.1", "ECDSA with SHA-224"),
    ("1.2.840.10045.4.3.2", "ECDSA with SHA-256"),
    ("1.2.840.10045.4.3.3", "ECDSA with SHA-384"),
    ("1.2.840.10045.4.3.4", "ECDSA with SHA-512"),
    ("1.2.840.10040.4.3", "DSA with SHA-1"),
    ("2.16.840.1.101.3.4.3.2", "DSA with SHA-256"),
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
];
