//! The errors of TLS: those of midge's files when a listener is set up, and those of a peer's bytes.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls::{AlertDescription, InvalidMessage, PeerIncompatible, PeerMisbehaved};

use super::refusal::Refusal;

/// Why the TLS of a listener can't be set up. It names the file and the problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError {
    /// The file that must be corrected. `None` if the settings contradict each other.
    pub file: Option<PathBuf>,
    /// The problem.
    pub cause: LoadFailure,
}

/// The problem with a file of a TLS listener, or with its settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadFailure {
    /// The file can't be read. The words are the system's.
    #[error("can't be read: {0}")]
    Unreadable(String),
    /// The file has a damaged PEM section.
    #[error("is damaged PEM: {0}")]
    DamagedPem(String),
    /// The file has no PEM section of this kind.
    #[error("has no {0} in PEM form")]
    NothingInIt(&'static str),
    /// The private key is encrypted with a password.
    #[error(
        "is protected by a password; midge takes keys without one (`openssl pkey -in … -out …` removes it)"
    )]
    EncryptedKey,
    /// The private key is of a kind that can't be used.
    #[error("has a private key of a kind that can't be used: {0}")]
    UnusableKey(String),
    /// The private key does not belong to the first certificate of this file.
    #[error("does not fit the first certificate of {}", .0.display())]
    KeyOfAnotherCertificate(PathBuf),
    /// A certificate can't be read.
    #[error("has a certificate that can't be used: {0}")]
    UnusableCertificate(String),
    /// A certificate revocation list can't be read.
    #[error("has a revocation list that can't be used: {0}")]
    UnusableCrl(String),
    /// Two settings contradict each other.
    #[error("{0}")]
    Settings(&'static str),
    /// The TLS library refuses the configuration as a whole.
    #[error("TLS can't be set up: {0}")]
    Library(String),
}

impl TlsError {
    pub(super) fn in_file(file: &Path, cause: LoadFailure) -> TlsError {
        TlsError { file: Some(file.to_owned()), cause }
    }

    pub(super) fn in_settings(what: &'static str) -> TlsError {
        TlsError { file: None, cause: LoadFailure::Settings(what) }
    }

    pub(super) fn in_library(error: &rustls::Error) -> TlsError {
        TlsError { file: None, cause: LoadFailure::Library(error.to_string()) }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(to, "{}: {}", file.display(), self.cause),
            None => write!(to, "{}", self.cause),
        }
    }
}

impl std::error::Error for TlsError {}

/// Why a connection's TLS has ended without a regular close. The connection must be closed after the bytes in
/// `out` have been sent.
#[derive(Debug, Clone, PartialEq)]
pub enum TlsFailure {
    /// The first bytes are not TLS. There is no answer, because the peer would not understand it.
    NotTls(Spoken),
    /// The handshake has taken more than [`super::HANDSHAKE_BYTES_MAX`] and is not done.
    HandshakeTooLong,
    /// More than [`super::PENDING_BYTES_MAX`] have come without a complete record or handshake message.
    PendingTooLong,
    /// The library refuses the peer's bytes, or reports that the peer has refused ours.
    Library(rustls::Error),
    /// The TLS 1.2 keys have encrypted as many records as is safe. TLS 1.2 can't change keys.
    KeysExhausted,
    /// Nothing can be sent before the handshake is done.
    NotEstablished,
    /// The connection has failed before, or has announced that it sends no more.
    Ended,
}

/// The protocol of a peer that does not use TLS, as far as the first byte shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// A CONNECT packet: the client is not configured for TLS.
    Mqtt,
    /// The name of an HTTP method.
    Http,
    /// Anything else.
    Unknown,
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsFailure::NotTls(Spoken::Mqtt) => {
                write!(to, "the client speaks MQTT without TLS to a TLS port")
            }
            TlsFailure::NotTls(Spoken::Http) => {
                write!(to, "the client speaks HTTP without TLS to a TLS port")
            }
            TlsFailure::NotTls(Spoken::Unknown) => write!(to, "the first bytes are not TLS"),
            TlsFailure::HandshakeTooLong => write!(to, "the handshake takes too many bytes"),
            TlsFailure::PendingTooLong => write!(to, "too many bytes without a whole record"),
            TlsFailure::Library(error) => explain(error, to),
            TlsFailure::KeysExhausted => write!(to, "the keys of TLS 1.2 have been used as often as is safe"),
            TlsFailure::NotEstablished => write!(to, "the handshake is not done"),
            TlsFailure::Ended => write!(to, "TLS has ended"),
        }
    }
}

impl std::error::Error for TlsFailure {}

impl From<rustls::Error> for TlsFailure {
    fn from(error: rustls::Error) -> TlsFailure {
        TlsFailure::Library(error)
    }
}

/// The words of the library, except for frequent errors: for these the words say what to check.
fn explain(error: &rustls::Error, to: &mut fmt::Formatter<'_>) -> fmt::Result {
    use rustls::Error;
    let known = match error {
        Error::NoCertificatesPresented => {
            "the client has sent no certificate, and one is required; clients do not send one whose key is of a kind \
             that is not accepted here (the manual of tls_client_ca names them)"
        }
        Error::InvalidCertificate(certificate) => {
            return write!(to, "the client's certificate {}", Refusal::from(certificate));
        }
        Error::AlertReceived(alert) => return explain_alert(*alert, to),
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => "the client offers no version of TLS that is accepted here",
        Error::PeerIncompatible(PeerIncompatible::SignatureAlgorithmsExtensionRequired) => {
            "the client names no signature algorithms, as versions of TLS before 1.2 do not"
        }
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            "the client offers no cipher suite that is accepted here"
        }
        Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon) => {
            "the client takes no signature that our certificate's key can make"
        }
        Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName) => {
            "the client's server name (SNI) is no DNS name"
        }
        Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) => {
            "the client offers no key exchange group that is accepted here"
        }
        Error::DecryptError => "a record was changed on its way, or encrypted with another key",
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::InvalidEmptyPayload,
        ) => "the bytes are not TLS",
        Error::InvalidMessage(InvalidMessage::MessageTooLarge) | Error::PeerSentOversizedRecord => {
            "a record is longer than TLS allows"
        }
        Error::PeerMisbehaved(how) => return write!(to, "the client does not keep to TLS: {}", words(how)),
        Error::PeerIncompatible(how) => return write!(to, "the client does TLS otherwise: {}", words(how)),
        Error::InvalidMessage(how) => return write!(to, "a message can't be read: {}", words(how)),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "a message came where TLS allows none of its kind"
        }
        other => return write!(to, "{other}"),
    };
    write!(to, "{known}")
}

fn explain_alert(alert: AlertDescription, to: &mut fmt::Formatter<'_>) -> fmt::Result {
    let known = match alert {
        AlertDescription::UnknownCA => "it does not know the CA of our certificate",
        AlertDescription::BadCertificate => "it does not accept our certificate",
        AlertDescription::CertificateExpired => "our certificate has expired",
        AlertDescription::CertificateUnknown => "it does not accept our certificate",
        AlertDescription::ProtocolVersion => "it does not accept our version of TLS",
        other => {
            return write!(to, "the client ended the handshake or the session: alert \"{}\"", words(&other));
        }
    };
    write!(to, "the client refused us: {known}")
}

/// Turns a name of the library into words: `NoCipherSuitesInCommon` becomes "no cipher suites in common". The
/// fields of the value are left out.
fn words(name: &impl fmt::Debug) -> String {
    let name = format!("{name:?}");
    let name = name.split(|at: char| !at.is_ascii_alphanumeric()).next().unwrap_or_default();
    let mut words = String::new();
    let mut is_after_small = false;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && is_after_small {
            words.push(' ');
        }
        is_after_small = !letter.is_ascii_uppercase();
        words.push(letter.to_ascii_lowercase());
    }
    words
}
