//! JSON Web Tokens as MQTT passwords (RFC 7519, signed as in RFC 7515).
//!
//! In come a token, the user name and the client identifier of a CONNECT and the wall clock; out
//! comes what the token grants, or why it is refused. The keys are read from files once; a key says
//! which algorithms it verifies, and a token only chooses among those: that closes the door to
//! `none` and to a public key used as a shared secret. Signatures, base64 and key formats are the
//! crate's; times and names are compared here, against the `now` of the caller.

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

/// How tokens are verified: one such set of rules per listener or for the whole broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// Where the keys are; at least one, and together at most 256 keys.
    pub keys: Vec<JwtKeySource>,
    /// The claim `iss` must be this; `None` looks at no issuer.
    pub issuer: Option<String>,
    /// The claim `aud` must be this or hold it; `None` looks at no audience, so that a token made
    /// for another service of the same issuer passes too.
    pub audience: Option<String>,
    /// The claim that names the user, usually `sub`. It must be there, a string that isn't empty.
    pub user_claim: String,
    /// The CONNECT must have a user name, equal to that claim.
    pub require_user_match: bool,
    /// The claim with the list of topic filters to which the client may publish, by habit `pub`.
    /// A name that starts with `/` is a JSON pointer (`/acl/pub`). `None`: tokens say nothing of it.
    pub publish_claim: Option<String>,
    /// The same for subscriptions, by habit `subs` (`sub` is the subject).
    pub subscribe_claim: Option<String>,
    /// How far the clocks of issuer and broker may be apart, in seconds: it counts for `exp` and `nbf`.
    pub leeway_seconds: u64,
    /// A token without `exp` is refused.
    pub require_expiry: bool,
}

/// One file with keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtKeySource {
    /// A shared secret, as raw bytes; one line break at the end does not belong to it. It must be as
    /// long as the hash (32, 48 or 64 bytes: RFC 7518, section 3.2).
    Secret {
        /// The one algorithm that it verifies.
        algorithm: SecretAlgorithm,
        /// The file.
        file: PathBuf,
    },
    /// A public key in PEM. RSA keys of 2048 to 8192 bits verify RS256/384/512 and PS256/384/512,
    /// a key on P-256 verifies ES256, on P-384 ES384, an Ed25519 key EdDSA.
    PublicKey {
        /// The file.
        file: PathBuf,
    },
    /// A JSON Web Key Set (RFC 7517). Keys of an unknown kind or for encryption are left out, see
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

/// What a good token grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenGrant {
    /// The user that the token names.
    pub user: String,
    /// When the grant ends, in seconds since 1970, the leeway included; `None` for a token without
    /// `exp`.
    pub expires_at: Option<u64>,
    /// Topic filters to which the client may publish; `None` when the token says nothing. They are
    /// strings of the token, not yet checked as topic filters.
    pub publish: Option<Vec<String>>,
    /// Topic filters which the client may subscribe to; `None` when the token says nothing.
    pub subscribe: Option<Vec<String>>,
}

/// Why a token is refused, in words that show nothing of the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRefusal {
    /// Longer than [`TOKEN_BYTES_MAX`].
    TooLong,
    /// Not three base64 parts with JSON in the first two.
    Malformed,
    /// The header has critical extensions (`crit`), which nothing here understands.
    Critical,
    /// No key verifies the algorithm of the header, `none` among them.
    Algorithm,
    /// No key has the identifier (`kid`) of the header.
    UnknownKey,
    /// The token names no key, and more than [`KEYS_TRIED_MAX`] fit.
    TooManyKeys,
    /// No key that fits verifies the signature.
    Signature,
    /// `exp` lies in the past.
    Expired,
    /// `nbf` lies in the future.
    NotYetValid,
    /// `iss` is another one, or not there.
    Issuer,
    /// `aud` names others only, or is not there.
    Audience,
    /// The user name of the CONNECT is not the user of the token.
    User,
    /// The client identifier of the CONNECT is not the one in the token.
    ClientId,
    /// A claim that is needed is not there.
    Missing(Cow<'static, str>),
    /// A claim has another type, or bounds, than it should.
    Unusable(Cow<'static, str>),
}

/// Why the keys can't be used: the file and the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtError {
    /// The file, unless it is the settings that don't work.
    pub file: Option<PathBuf>,
    /// What is wrong with it, and what would be right.
    pub cause: String,
}

/// The longest token that is looked at.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;

/// How many keys are tried for one token; a token that more keys fit must name one.
pub const KEYS_TRIED_MAX: usize = 16;

/// Verifies tokens with the keys of its settings. Cheap to share; it has no state of its own.
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
    /// Names the file and the cause: it can't be read, is no key, is too weak a key, is a private
    /// key; or the settings have no key at all.
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

    /// How many keys are in use.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Keys of key sets that are not used, each with its file and the reason: for the log.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Verifies a token at the wall clock `now_unix_seconds`. A claim `clientid` or `client_id` must
    /// be the client identifier where it is present.
    ///
    /// # Errors
    ///
    /// Why it is refused; the order is signature first, so that an unsigned token learns nothing.
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
    /// The refusal in words, without the name of a claim.
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

/// Reads the three members that matter here, before anything is verified. The crate reads the
/// header again, whole, but calls an unknown algorithm malformed, and looks over `crit`.
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
