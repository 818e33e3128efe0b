//! Why a client's certificate is refused, in the words of the log, and the alert that its client gets.

use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError};

use super::signatures::SignatureKind;

/// The problem with a client's certificate or with the certificates that lead from it to its CA.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// No path leads from the certificate to one of client_ca.
    #[error("is not issued by a CA of client_ca")]
    UnknownIssuer,
    /// client_ca has a certificate with the name of its CA, but that CA has not signed it.
    #[error("names a CA of client_ca that has not signed it")]
    BadSignature,
    /// It, or one between it and the CA, has a signature that can't be verified.
    #[error("can't be verified, or one on the way to its CA: it is signed by {0}")]
    Unsupported(SignatureKind),
    /// It, or one between it and the CA, has expired.
    #[error("has expired")]
    Expired,
    /// It, or one between it and the CA, is not valid yet.
    #[error("is not valid yet")]
    NotValidYet,
    /// Its CA has expired or is not valid yet.
    #[error("does not count: the certificate of its CA has expired or is not valid yet")]
    CaOutdated,
    /// It is on a revocation list.
    #[error("is revoked")]
    Revoked,
    /// An issuer that needs a revocation list has none.
    #[error("has an issuer for which there is no revocation list")]
    NoRevocationList,
    /// The revocation list has expired.
    #[error("can't be checked: the revocation list has expired")]
    RevocationListExpired,
    /// The revocation list is not valid yet.
    #[error("can't be checked: the revocation list is not valid yet")]
    RevocationListNotValidYet,
    /// Its issuer may not sign revocation lists.
    #[error("can't be checked: its CA may not sign revocation lists")]
    MayNotSignLists,
    /// It, or one between it and the CA, is for another purpose.
    #[error("is not for the authentication of clients")]
    WrongPurpose,
    /// Its issuer is not a CA.
    #[error("is issued by a certificate that is no CA's")]
    IssuerIsNoCa,
    /// There are more certificates between it and the CA than one of them allows.
    #[error("has more CAs above it than one of them allows")]
    PathTooLong,
    /// It has an unknown critical extension.
    #[error("or one on the way to its CA has the critical extension {0}, which is not known")]
    UnknownExtension(String),
    /// The handshake is not signed with its key.
    #[error("is not the sender's: the handshake is signed with another key")]
    BadHandshake,
    /// Its key does not fit the signature scheme of the handshake. The words describe the key.
    #[error("has a key of the kind {0}, with which clients can't sign here")]
    KeyOfOtherScheme(String),
    /// It has X.509 version 1, and the standard's rules apply.
    #[error("is of X.509 version 1; version 3 is needed, or tls_client_certificate_rules = \"openssl\"")]
    Version1,
    /// It is a CA's certificate, and the standard's rules apply.
    #[error(
        "is a CA's (CA:TRUE), as self-signed ones of devices often are; \
         tls_client_certificate_rules = \"openssl\" takes them"
    )]
    IsCa,
    /// It can't be read.
    #[error("can't be read")]
    Unreadable,
    /// Another error of the library, in its words.
    #[error("is refused: {0}")]
    Library(String),
}

impl From<Refusal> for Error {
    /// Uses rustls' own variants for the cases that rustls has an alert for.
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

/// The reverse conversion, for the log.
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

/// Converts the library's errors about a path.
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
