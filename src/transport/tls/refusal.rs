//! Why a client's certificate does not count, in the words of the log, and which alert its client gets.

use std::fmt;
use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError};

use super::signatures::SignatureKind;

/// What is wrong with a client's certificate or with what leads from it to its CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing leads from it to a certificate of client_ca.
    UnknownIssuer,
    /// Its CA is there by its name, and has not signed it.
    BadSignature,
    /// It, or one on the way to the CA, is signed in a way that can't be verified.
    Unsupported(SignatureKind),
    /// It has expired, or one on the way to the CA has.
    Expired,
    /// It is not valid yet, or one on the way to the CA is not.
    NotValidYet,
    /// Its CA has expired or is not valid yet.
    CaOutdated,
    /// It is on a revocation list.
    Revoked,
    /// There is no revocation list of an issuer that needs one.
    NoRevocationList,
    /// The revocation list has expired.
    RevocationListExpired,
    /// The revocation list is not valid yet.
    RevocationListNotValidYet,
    /// Its issuer may not sign revocation lists.
    MayNotSignLists,
    /// It, or one on the way to the CA, says that it is for something else.
    WrongPurpose,
    /// What has issued it is no CA.
    IssuerIsNoCa,
    /// There are more certificates between it and the CA than one of them allows.
    PathTooLong,
    /// It has an extension that must be heeded and is not known.
    UnknownExtension(String),
    /// What it has signed in the handshake is not signed with its key.
    BadHandshake,
    /// Its key, in words, does not fit the scheme by which it has signed.
    KeyOfOtherScheme(String),
    /// It is of X.509 version 1, and the rules in force are the standard's.
    Version1,
    /// It is a CA's certificate, and the rules in force are the standard's.
    IsCa,
    /// It can't be read.
    Unreadable,
    /// What the library says, in its words.
    Library(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Refusal::UnknownIssuer => "is not issued by a CA of client_ca",
            Refusal::BadSignature => "names a CA of client_ca that has not signed it",
            Refusal::Unsupported(kind) => {
                return write!(to, "can't be verified, or one on the way to its CA: it is signed by {kind}");
            }
            Refusal::Expired => "has expired",
            Refusal::NotValidYet => "is not valid yet",
            Refusal::CaOutdated => {
                "does not count: the certificate of its CA has expired or is not valid yet"
            }
            Refusal::Revoked => "is revoked",
            Refusal::NoRevocationList => "has an issuer for which there is no revocation list",
            Refusal::RevocationListExpired => "can't be checked: the revocation list has expired",
            Refusal::RevocationListNotValidYet => "can't be checked: the revocation list is not valid yet",
            Refusal::MayNotSignLists => "can't be checked: its CA may not sign revocation lists",
            Refusal::WrongPurpose => "is not for the authentication of clients",
            Refusal::IssuerIsNoCa => "is issued by a certificate that is no CA's",
            Refusal::PathTooLong => "has more CAs above it than one of them allows",
            Refusal::UnknownExtension(oid) => {
                return write!(
                    to,
                    "or one on the way to its CA has the critical extension {oid}, which is not known"
                );
            }
            Refusal::BadHandshake => "is not the sender's: the handshake is signed with another key",
            Refusal::KeyOfOtherScheme(key) => {
                return write!(to, "has a key of the kind {key}, with which clients can't sign here");
            }
            Refusal::Version1 => {
                "is of X.509 version 1; version 3 is needed, or tls_client_certificate_rules = \"openssl\""
            }
            Refusal::IsCa => {
                "is a CA's (CA:TRUE), as self-signed ones of devices often are; \
                 tls_client_certificate_rules = \"openssl\" takes them"
            }
            Refusal::Unreadable => "can't be read",
            Refusal::Library(why) => return write!(to, "is refused: {why}"),
        };
        to.write_str(words)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Error {
    /// What rustls has an alert for goes by its name for it.
    fn from(refusal: Refusal) -> Error {
        Error::InvalidCertificate(match refusal {
            Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
            Refusal::BadSignature => CertificateError::BadSignature,
            Refusal::Expired => CertificateError::Expired,
            Refusal::NotValidYet => CertificateError::NotValidYet,
            Refusal::Revoked => CertificateError::Revoked,
            Refusal::NoRevocationList => CertificateError::UnknownRevocationStatus,
            Refusal::RevocationListExpired => CertificateError::ExpiredRevocationList,
            Refusal::WrongPurpose => CertificateError::InvalidPurpose,
            Refusal::Unreadable => CertificateError::BadEncoding,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// The way back, for the log.
impl From<&CertificateError> for Refusal {
    fn from(error: &CertificateError) -> Refusal {
        match error {
            CertificateError::UnknownIssuer => Refusal::UnknownIssuer,
            CertificateError::BadSignature => Refusal::BadSignature,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Refusal::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Refusal::NotValidYet
            }
            CertificateError::Revoked => Refusal::Revoked,
            CertificateError::UnknownRevocationStatus => Refusal::NoRevocationList,
            CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => Refusal::RevocationListExpired,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Refusal::WrongPurpose
            }
            CertificateError::BadEncoding => Refusal::Unreadable,
            CertificateError::Other(other) => match other.0.downcast_ref::<Refusal>() {
                Some(refusal) => refusal.clone(),
                None => Refusal::Library(other.0.to_string()),
            },
            other => Refusal::Library(other.to_string()),
        }
    }
}

/// What the library says of a path.
impl From<webpki::Error> for Refusal {
    fn from(error: webpki::Error) -> Refusal {
        use webpki::Error;
        match error {
            Error::UnknownIssuer => Refusal::UnknownIssuer,
            Error::InvalidSignatureForPublicKey => Refusal::BadSignature,
            Error::CertExpired { .. } | Error::InvalidCertValidity => Refusal::Expired,
            Error::CertNotValidYet { .. } => Refusal::NotValidYet,
            Error::RequiredEkuNotFoundContext(_) => Refusal::WrongPurpose,
            Error::EndEntityUsedAsCa => Refusal::IssuerIsNoCa,
            Error::CaUsedAsEndEntity => Refusal::IsCa,
            Error::UnsupportedCertVersion => Refusal::Version1,
            Error::PathLenConstraintViolated => Refusal::PathTooLong,
            Error::UnsupportedCriticalExtension => {
                Refusal::Library("it has a critical extension that is not known".into())
            }
            Error::NameConstraintViolation => {
                Refusal::Library("a CA's name constraints do not allow its names".into())
            }
            Error::MaximumNameConstraintComparisonsExceeded
            | Error::MaximumPathBuildCallsExceeded
            | Error::MaximumPathDepthExceeded
            | Error::MaximumSignatureChecksExceeded => {
                Refusal::Library("its chain is too long or too tangled".into())
            }
            _ => Refusal::Unreadable,
        }
    }
}
