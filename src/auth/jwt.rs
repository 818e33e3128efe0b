//! JSON Web Tokens as MQTT passwords (RFC 7519, signed as in RFC 7515).
//!
//! The inputs are a token, the user name and the client identifier of a CONNECT, and the wall clock. The
//! output is what the token grants, or why it is refused. The keys are read from files once. Each key
//! determines which algorithms it verifies, and a token can only choose among those. So a token can't use
//! `none`, or a public key as a shared secret. The crate handles signatures, base64 and key formats. This
//! module compares times and names, against the `now` of the caller.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use jsonwebtoken::Algorithm;
use jsonwebtoken::errors::ErrorKind;
use serde_json::{Map, Value};

mod claims;
mod crypto;
mod keys;

use claims::Claims;
use keys::JwtKey;

/// The rules for tokens, for one listener or for the whole broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// The files with the keys: at least one, and at most 256 keys in total.
    pub keys: Vec<JwtKeySource>,
    /// The required value of the claim `iss`. `None`: the issuer is not checked.
    pub issuer: Option<String>,
    /// The value that the claim `aud` must have or contain. `None`: the audience is not checked, so a token
    /// that was made for another service of the same issuer is accepted too.
    pub audience: Option<String>,
    /// The claim that holds the user name, usually `sub`. It must be a string that is not empty.
    pub user_claim: String,
    /// Whether CONNECT must have a user name that equals that claim.
    pub require_user_match: bool,
    /// The claim with the list of topic filters to which the client may publish, usually `pub`. A name that
    /// starts with `/` is a JSON pointer (`/acl/pub`). `None`: tokens do not restrict publishing.
    pub publish_claim: Option<String>,
    /// The claim for subscriptions, usually `subs` (`sub` is the subject).
    pub subscribe_claim: Option<String>,
    /// The largest difference between the clocks of issuer and broker, in seconds. It applies to `exp` and
    /// `nbf`.
    pub leeway_seconds: u64,
    /// Whether a token without `exp` is refused.
    pub require_expiry: bool,
}

/// One file with keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtKeySource {
    /// A shared secret, as raw bytes. One line break at the end is not part of it. It must be at least as
    /// long as the hash (32, 48 or 64 bytes: RFC 7518, section 3.2).
    Secret {
        /// The one algorithm that it verifies.
        algorithm: SecretAlgorithm,
        /// The file.
        file: PathBuf,
    },
    /// A public key in PEM. An RSA key of 2048 to 8192 bits verifies RS256/384/512 and PS256/384/512. A key
    /// on P-256 verifies ES256, on P-384 ES384. An Ed25519 key verifies EdDSA.
    PublicKey {
        /// The file.
        file: PathBuf,
    },
    /// A JSON Web Key Set (RFC 7517). Keys of an unknown kind and keys for encryption are left out. See
    /// [`JwtVerifier::left_out`].
    Jwks {
        /// The file.
        file: PathBuf,
    },
}

/// The algorithms of shared secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretAlgorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
}

/// What a valid token grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenGrant {
    /// The user that the token names.
    pub user: String,
    /// When the grant ends, in seconds since 1970, with the leeway. `None` for a token without `exp`.
    pub expires_at: Option<u64>,
    /// Topic filters to which the client may publish. `None` if the token has no such claim. They are strings
    /// of the token that are not yet checked as topic filters.
    pub publish: Option<Vec<String>>,
    /// Topic filters to which the client may subscribe. `None` if the token has no such claim.
    pub subscribe: Option<Vec<String>>,
}

/// Why a token is refused. The words reveal nothing of the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRefusal {
    /// The token is longer than [`TOKEN_BYTES_MAX`].
    TooLong,
    /// The token does not consist of three base64 parts with JSON in the first two.
    Malformed,
    /// The header has critical extensions (`crit`), which midge does not support.
    Critical,
    /// No key verifies the algorithm of the header. This includes `none`.
    Algorithm,
    /// No key has the identifier (`kid`) of the header.
    UnknownKey,
    /// The token names no key, and more than [`KEYS_TRIED_MAX`] keys match.
    TooManyKeys,
    /// No matching key verifies the signature.
    Signature,
    /// `exp` is in the past.
    Expired,
    /// `nbf` is in the future.
    NotYetValid,
    /// `iss` is missing or has another value.
    Issuer,
    /// `aud` is missing or names others only.
    Audience,
    /// The user name of CONNECT is not the user of the token.
    User,
    /// The client identifier of CONNECT is not the one in the token.
    ClientId,
    /// A required claim is missing.
    Missing(Cow<'static, str>),
    /// A claim has the wrong type or is out of bounds.
    Unusable(Cow<'static, str>),
}

/// Why the keys can't be used: the file and the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtError {
    /// The file. `None` if the settings are at fault.
    pub file: Option<PathBuf>,
    /// What is wrong, and what would be right.
    pub cause: String,
}

/// The longest token that is verified, in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;

/// The largest number of keys that are tried for one token. If more keys match, the token must name one.
pub const KEYS_TRIED_MAX: usize = 16;

/// Verifies tokens with the keys of its settings. It is cheap to share and has no state that changes.
pub struct JwtVerifier {
    settings: JwtSettings,
    keys: Vec<JwtKey>,
    left_out: Vec<String>,
}

impl JwtVerifier {
    /// Reads the keys.
    ///
    /// # Errors
    ///
    /// The error names the file and the cause: the file can't be read or is not a key, the key is too weak or
    /// private, or there are no keys.
    pub fn load(settings: &JwtSettings) -> Result<JwtVerifier, JwtError> {
        crypto::install();
        let mut left_out = Vec::new();
        let mut all = Vec::new();
        for source in &settings.keys {
            keys::load(source, &mut all, &mut left_out)?;
        }
        if all.is_empty() {
            return Err(JwtError { file: None, cause: "JWT needs at least one key".into() });
        }
        if all.len() > KEYS_MAX {
            let cause = format!("{} keys for JWT are more than {KEYS_MAX}", all.len());
            return Err(JwtError { file: None, cause });
        }
        if settings.user_claim.is_empty() {
            return Err(JwtError { file: None, cause: "JWT needs the name of the user claim".into() });
        }
        Ok(JwtVerifier { settings: settings.clone(), keys: all, left_out })
    }

    /// The number of keys in use.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// The keys of key sets that are not used, each with its file and the reason, for the log.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Verifies a token at the wall clock `now_unix_seconds`. If there is a claim `clientid` or `client_id`,
    /// it must be the client identifier.
    ///
    /// # Errors
    ///
    /// Why the token is refused. The signature is checked first, so that an unsigned token reveals nothing
    /// about the rules.
    pub fn verify(
        &self,
        token: &[u8],
        username: Option<&str>,
        client_id: &str,
        now_unix_seconds: u64,
    ) -> Result<TokenGrant, TokenRefusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenRefusal::TooLong);
        }
        let claims = Claims(self.verified_claims(token, &read_header(token)?)?);
        let settings = &self.settings;

        let expires_at = claims.check_times(settings, now_unix_seconds)?;
        claims.check_parties(settings)?;
        claims.check_client_id(client_id)?;
        let user = claims.user(&settings.user_claim)?;
        if settings.require_user_match && username != Some(user) {
            return Err(TokenRefusal::User);
        }
        Ok(TokenGrant {
            user: user.to_owned(),
            expires_at,
            publish: claims.filters(settings.publish_claim.as_deref())?,
            subscribe: claims.filters(settings.subscribe_claim.as_deref())?,
        })
    }

    fn verified_claims(&self, token: &[u8], header: &JoseHeader) -> Result<Map<String, Value>, TokenRefusal> {
        let of_algorithm = |key: &&JwtKey| key.verifies(header.algorithm);
        if !self.keys.iter().any(|key| of_algorithm(&key)) {
            return Err(TokenRefusal::Algorithm);
        }
        let fitting =
            || self.keys.iter().filter(of_algorithm).filter(|key| key.may_be(header.key_id.as_deref()));
        match fitting().count() {
            0 => return Err(TokenRefusal::UnknownKey),
            1..=KEYS_TRIED_MAX => {}
            _ => return Err(TokenRefusal::TooManyKeys),
        }
        for key in fitting() {
            match jsonwebtoken::decode(token, &key.decoding, &key.validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(_) => return Err(TokenRefusal::Malformed),
            }
        }
        Err(TokenRefusal::Signature)
    }
}

impl fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtVerifier").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl SecretAlgorithm {
    fn algorithm(self) -> Algorithm {
        match self {
            SecretAlgorithm::Hs256 => Algorithm::HS256,
            SecretAlgorithm::Hs384 => Algorithm::HS384,
            SecretAlgorithm::Hs512 => Algorithm::HS512,
        }
    }
}

impl TokenRefusal {
    /// The refusal in words, without the name of the claim.
    pub fn words(&self) -> &'static str {
        match self {
            TokenRefusal::TooLong => "the token is longer than 16 KiB",
            TokenRefusal::Malformed => "the password is not a signed JSON web token",
            TokenRefusal::Critical => "the token has critical header extensions",
            TokenRefusal::Algorithm => "no key is for the token's algorithm",
            TokenRefusal::UnknownKey => "no key has the token's key identifier",
            TokenRefusal::TooManyKeys => "the token names no key, and more than 16 keys fit",
            TokenRefusal::Signature => "the token's signature is wrong",
            TokenRefusal::Expired => "the token has expired",
            TokenRefusal::NotYetValid => "the token is not valid yet",
            TokenRefusal::Issuer => "the token is of another issuer",
            TokenRefusal::Audience => "the token is for another audience",
            TokenRefusal::User => "the user name is not the user of the token",
            TokenRefusal::ClientId => "the client identifier is not that of the token",
            TokenRefusal::Missing(_) => "the token lacks a claim",
            TokenRefusal::Unusable(_) => "a claim of the token can't be used",
        }
    }
}

impl fmt::Display for TokenRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenRefusal::Missing(claim) | TokenRefusal::Unusable(claim) => {
                write!(f, "{}: {claim:?}", self.words())
            }
            _ => f.write_str(self.words()),
        }
    }
}

impl std::error::Error for TokenRefusal {}

impl fmt::Display for JwtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}: {}", file.display(), self.cause),
            None => f.write_str(&self.cause),
        }
    }
}

impl std::error::Error for JwtError {}

struct JoseHeader {
    algorithm: Algorithm,
    key_id: Option<String>,
}

/// Reads the three members that matter here, before anything is verified. The crate reads the whole header
/// again, but reports an unknown algorithm as malformed, and ignores `crit`.
fn read_header(token: &[u8]) -> Result<JoseHeader, TokenRefusal> {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let mut parts = token.split(|&byte| byte == b'.');
    let (Some(header), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenRefusal::Malformed);
    };
    let json = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenRefusal::Malformed)?;
    let header: Map<String, Value> = serde_json::from_slice(&json).map_err(|_| TokenRefusal::Malformed)?;
    if header.contains_key("crit") {
        return Err(TokenRefusal::Critical);
    }
    let algorithm = header.get("alg").and_then(Value::as_str).ok_or(TokenRefusal::Malformed)?;
    let algorithm = algorithm.parse().map_err(|_| TokenRefusal::Algorithm)?;
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(key_id)) => Some(key_id.clone()),
        Some(_) => return Err(TokenRefusal::Malformed),
    };
    Ok(JoseHeader { algorithm, key_id })
}

const KEYS_MAX: usize = 256;

#[cfg(test)]
mod tests;
