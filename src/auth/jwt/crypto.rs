//! Verifies the signatures of tokens with *ring*, which TLS needs anyway.
//!
//! The crate offers two other choices. One is a set of forty crates, whose RSA is slow and has an open
//! advisory. The other is a C library with a build system of its own. Midge signs no tokens.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error as SignatureError, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::{hmac, signature};

/// Makes *ring* the crate's cryptography provider for this process, once.
pub(super) fn install() {
    // On a second call, the provider of the first call is already installed.
    let _ = RING.install_default();
}

static RING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |&algorithm, key| Ok(Box::new(RingVerifier { algorithm, key: key.clone() })),
    // Thumbprints and private keys are not used here. The placeholders of the crate would panic.
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        rsa_pub_components_from_public_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ec_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ed_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        compute_digest: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    },
};

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), SignatureError> {
        // A key must not be used with an algorithm of another family.
        if self.key.family() != self.algorithm.family() {
            return Err(SignatureError::new());
        }
        verify(self.algorithm, &self.key, message, signature).map_err(|_| SignatureError::new())
    }
}

fn verify(algorithm: Algorithm, key: &DecodingKey, message: &[u8], signature: &[u8]) -> Result<()> {
    let verified = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            let key = signature::RsaPublicKeyComponents { n, e };
            key.verify(rsa_parameters(algorithm)?, message, signature)
        }
        DecodingKeyKind::SecretOrDer(secret) => match hash_of_secret(algorithm) {
            Some(hash) => hmac::verify(&hmac::Key::new(hash, secret), message, signature),
            None => {
                let key = signature::UnparsedPublicKey::new(curve_parameters(algorithm)?, secret);
                key.verify(message, signature)
            }
        },
    };
    verified.map_err(|_| ErrorKind::InvalidSignature.into())
}

fn hash_of_secret(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Result<&'static signature::RsaParameters> {
    match algorithm {
        Algorithm::RS256 => Ok(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Ok(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Ok(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Ok(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Ok(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Ok(&signature::RSA_PSS_2048_8192_SHA512),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

fn curve_parameters(algorithm: Algorithm) -> Result<&'static dyn signature::VerificationAlgorithm> {
    match algorithm {
        Algorithm::ES256 => Ok(&signature::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Ok(&signature::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Ok(&signature::ED25519),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}
