//! The TLS configuration of a listener: from the operator's files to the data that every handshake uses.
//!
//! A [`TlsConfig`] never changes. A reload makes a new one from the same settings and gives it to the
//! listeners. Open connections keep the one they started with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::RECORD_BYTES_MAX;
use super::certificates::CertificateChoice;
use super::compact;
use super::directory::Directory;
use super::error::{LoadFailure, TlsError};
use super::revocation::Revocations;
use super::validity::{OwnCertificate, Role, Validity};
use super::verifier::{Anchor, Verifier};

/// The settings of a TLS listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificates of midge. At least one is needed. A client that asks for no matching name gets the
    /// first one.
    pub certificates: Vec<CertificateAndKey>,
    /// A PEM file with one or more CA certificates. If a certificate stands alone in its file, midge also
    /// sends the certificates of this file that lead from it to its CA.
    pub chain: Option<PathBuf>,
    /// A PEM file with one or more CAs that issue client certificates.
    pub client_ca: Option<PathBuf>,
    /// A directory of more CA certificates, for `chain` and for `client_ca`. See the module `directory`.
    pub ca_directory: Option<PathBuf>,
    /// Whether clients are asked for a certificate.
    pub client_certificate: ClientCertificate,
    /// Whether the revocation lists, and the certificates that lead from a client's certificate to its CA,
    /// must be valid at the current time.
    pub client_certificate_dates: bool,
    /// The rules for client certificates.
    pub client_certificate_rules: CertificateRules,
    /// A PEM file with one or more revocation lists. For each certificate that is looked up, the file must
    /// have a list of its issuer that has not expired.
    pub crl: Option<PathBuf>,
    /// Which certificates are looked up in the lists.
    pub crl_scope: RevocationScope,
    /// The largest content of a record that midge sends, in bytes, at most [`super::RECORD_BYTES_MAX`].
    pub record_bytes: usize,
    /// The oldest version that midge accepts.
    pub version_min: TlsVersion,
}

/// A certificate of midge: two PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateAndKey {
    /// The certificate, followed by those that lead to its CA.
    pub chain: PathBuf,
    /// Its private key, without a password: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Whether clients are asked for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Clients are not asked.
    None,
    /// Clients are asked. A client without a certificate may connect; a client with an invalid one may not.
    Optional,
    /// Every client must have a valid certificate.
    Required,
}

/// The rules by which a client's certificate must lead to a certificate of `client_ca`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateRules {
    /// RFC 5280: a client's certificate must have version 3 and must not be a CA's. All certificates of
    /// `client_ca` must be CAs'.
    Standard,
    /// OpenSSL's rules: a client's certificate may also have version 1, be a CA's, or be in `client_ca`
    /// itself. A path ends at a self-signed certificate of `client_ca`.
    OpenSsl,
}

/// Which certificates are looked up in the revocation lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationScope {
    /// The client's certificate, and those between it and the CA in `client_ca`.
    Chain,
    /// The client's certificate only.
    Client,
}

/// A version of TLS. midge does not support older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    V12,
    /// TLS 1.3 (RFC 8446).
    V13,
}

impl TlsVersion {
    /// The usual name of the version.
    pub fn name(self) -> &'static str {
        match self {
            TlsVersion::V12 => "TLS 1.2",
            TlsVersion::V13 => "TLS 1.3",
        }
    }
}

/// The TLS of a listener, ready for handshakes. All shards share it, and it is cheap to clone.
#[derive(Clone)]
pub struct TlsConfig(Arc<Shared>);

struct Shared {
    /// The first has records of the listener's length, the others have those of [`RECORD_BYTES`].
    servers: [Servers; 1 + RECORD_BYTES.len()],
    verifier: Arc<dyn ClientCertVerifier>,
    validity: Vec<Validity>,
    /// More notes about the files.
    remarks: Vec<String>,
}

#[derive(Clone)]
struct Servers {
    /// The content of a record that midge sends, in bytes.
    record_bytes: usize,
    /// For clients that offer no application protocol, or one of ours.
    negotiating: Arc<ServerConfig>,
    /// For clients that offer only other protocols. If rustls has a list of its own, it refuses those
    /// clients, as RFC 7301, section 3.2, demands. But many MQTT clients offer whatever their library offers
    /// by default.
    silent: Arc<ServerConfig>,
}

impl Servers {
    fn new(record_bytes: usize, mut silent: ServerConfig) -> Servers {
        // This value includes the header of a record.
        silent.max_fragment_size =
            (record_bytes < RECORD_BYTES_MAX).then_some(record_bytes + RECORD_HEADER_BYTES);
        let mut negotiating = silent.clone();
        negotiating.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
        Servers { record_bytes, negotiating: Arc::new(negotiating), silent: Arc::new(silent) }
    }
}

impl TlsConfig {
    /// Reads the files of `settings`.
    ///
    /// # Errors
    /// The first file that can't be used, and the reason. An expired certificate of midge is not an error,
    /// because clients may ignore the date. See [`TlsConfig::notices`].
    pub fn load(settings: &TlsSettings) -> Result<TlsConfig, TlsError> {
        let provider = Arc::new(compact::provider());
        TlsConfig::load_with(settings, &provider, Arc::new(DefaultTimeProvider))
    }

    pub(super) fn load_with(
        settings: &TlsSettings,
        provider: &Arc<CryptoProvider>,
        time: Arc<dyn TimeProvider>,
    ) -> Result<TlsConfig, TlsError> {
        let mut validity = Vec::new();
        let directory = match &settings.ca_directory {
            Some(path) => Directory::read(path)?,
            None => Directory::default(),
        };
        let chain = settings.chain.as_deref();
        let certificates = CertificateChoice::load(&settings.certificates, chain, &directory, provider)?;
        for (file, role, certificate) in certificates.sent() {
            validity.push(Validity::of_certificate(file, role, certificate)?);
        }
        let verifier = client_verifier(settings, &directory, &mut validity)?;
        let versions: &[&SupportedProtocolVersion] = match settings.version_min {
            TlsVersion::V12 => &[&version::TLS13, &version::TLS12],
            TlsVersion::V13 => &[&version::TLS13],
        };
        let mut silent = ServerConfig::builder_with_details(provider.clone(), time)
            .with_protocol_versions(versions)
            .map_err(|error| TlsError::in_library(&error))?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(Arc::new(certificates));
        // Tickets are the only memory of a session, and clients keep them. So nothing here grows with the
        // number of sessions, and any shard can resume any session. The keys rotate every six hours and
        // belong to this config only: a ticket must not outlive the lists of CAs and revoked certificates
        // under which it was given. A resumption checks the client's certificate again, because it or its CA
        // may have expired ([`Connection::read`]).
        silent.ticketer = Ticketer::new().map_err(|error| TlsError::in_library(&error))?;
        silent.session_storage = Arc::new(NoServerSessionStorage {});
        silent.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        let most = settings.record_bytes;
        let sizes = std::array::from_fn(|class| match class {
            0 => most,
            class => RECORD_BYTES[class - 1].min(most),
        });
        let servers = sizes.map(|record_bytes| Servers::new(record_bytes, silent.clone()));
        Ok(TlsConfig(Arc::new(Shared { servers, verifier, validity, remarks: directory.passed_over })))
    }

    /// Notices for the operator about the files at `now` (seconds since 1970), one per line: those that have
    /// expired, are not valid yet, or expire within [`super::EXPIRY_NOTICE_DAYS`], and those that were
    /// skipped.
    pub fn notices(&self, now: i64) -> Vec<String> {
        let outdated = self.0.validity.iter().filter_map(|validity| validity.notice(now));
        outdated.chain(self.0.remarks.iter().cloned()).collect()
    }

    /// The certificates of midge with file, subject, serial number and expiry date, one per line.
    pub fn loaded(&self) -> Vec<String> {
        self.0.validity.iter().filter_map(Validity::loaded).collect()
    }

    /// The certificates of midge.
    pub fn certificates(&self) -> Vec<OwnCertificate> {
        self.0.validity.iter().filter_map(Validity::certificate).collect()
    }

    /// Whether a client with these application protocols offers one of ours, or offers none.
    pub(super) fn takes<'a>(offered: Option<impl Iterator<Item = &'a [u8]>>) -> bool {
        offered.is_none_or(|mut names| names.any(|name| PROTOCOLS.contains(&name)))
    }

    /// The configuration for a server that is not MQTT's: no application protocol, and a whole handshake for each
    /// connection, so that each checks the client's certificate.
    pub fn without_resumption(&self) -> Arc<ServerConfig> {
        let [Servers { silent, .. }, ..] = &self.0.servers;
        let mut config = ServerConfig::clone(silent);
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// The verifier of client certificates.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.0.verifier)
    }

    /// The configuration for a client's connection, and the content of a record that it gets, in bytes. The
    /// content is no larger than the client wants, down to the smallest of [`RECORD_BYTES`].
    pub(super) fn for_client(&self, is_ours: bool, wanted: Option<usize>) -> (Arc<ServerConfig>, usize) {
        let class = match wanted {
            Some(wanted) if wanted < RECORD_BYTES_MAX => {
                let fitting = RECORD_BYTES.iter().rposition(|bytes| *bytes <= wanted);
                1 + fitting.unwrap_or(0)
            }
            _ => 0,
        };
        let servers = &self.0.servers[class];
        let config = if is_ours { &servers.negotiating } else { &servers.silent };
        (Arc::clone(config), servers.record_bytes)
    }
}

fn client_verifier(
    settings: &TlsSettings,
    directory: &Directory,
    validity: &mut Vec<Validity>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    if settings.client_certificate == ClientCertificate::None {
        return match (&settings.client_ca, &settings.crl) {
            (None, None) => Ok(WebPkiClientVerifier::no_client_auth()),
            _ => {
                Err(TlsError::in_settings("client_ca and crl need client_certificate = optional or required"))
            }
        };
    }
    let Some(ca) = settings.client_ca.as_ref().or(settings.ca_directory.as_ref()) else {
        return Err(TlsError::in_settings("client certificates need client_ca, the CAs that issue them"));
    };
    let (anchors, of_file) = client_anchors(settings.client_ca.as_deref(), directory)?;
    validity.extend(anchors.iter().map(|(validity, _)| validity.clone()));
    let mut verifier = Verifier::new(ca, anchors)?;
    // The names of a directory's CAs may be many, and a device may have a small buffer for them. mosquitto
    // sends none of them.
    verifier.announce(of_file);
    verifier.rules = settings.client_certificate_rules;
    verifier.counts_dates = settings.client_certificate_dates;
    verifier.is_optional = settings.client_certificate == ClientCertificate::Optional;
    verifier.revocations = match &settings.crl {
        Some(crl) => {
            let lists = revocation_lists(crl, validity)?;
            Some(Revocations::new(crl, lists, settings.crl_scope, settings.client_certificate_dates)?)
        }
        None => None,
    };
    Ok(Arc::new(verifier))
}

/// The CAs of the file, their number, and the CAs of the directory that are not in the file.
fn client_anchors(ca: Option<&Path>, directory: &Directory) -> Result<(Vec<Anchor>, usize), TlsError> {
    let mut certificates = Vec::new();
    if let Some(ca) = ca {
        let of_file = read_pem::<CertificateDer<'static>>(ca, "certificate")?;
        certificates.extend(of_file.into_iter().map(|certificate| (ca, certificate)));
    }
    let of_file = certificates.len();
    for (file, certificate) in &directory.certificates {
        if certificates.iter().all(|(_, other)| other != certificate) {
            certificates.push((file, certificate.clone()));
        }
    }
    let with_dates = |(file, certificate): (&Path, CertificateDer<'static>)| {
        Ok((Validity::of_certificate(file, Role::ClientCa, &certificate)?, certificate))
    };
    let anchors = certificates.into_iter().map(with_dates).collect::<Result<_, TlsError>>()?;
    Ok((anchors, of_file))
}

fn revocation_lists(
    crl: &Path,
    validity: &mut Vec<Validity>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists = read_pem::<CertificateRevocationListDer<'static>>(crl, "revocation list (X509 CRL)")?;
    for list in &lists {
        validity.push(Validity::of_revocation_list(crl, list)?);
    }
    Ok(lists)
}

/// All items of one kind in a PEM file, at least one. `kind` is for the error.
pub(super) fn read_pem<T: PemObject>(file: &Path, kind: &'static str) -> Result<Vec<T>, TlsError> {
    let bytes = read_file(file)?;
    let items = T::pem_slice_iter(&bytes)
        .collect::<Result<Vec<T>, pem::Error>>()
        .map_err(|error| TlsError::in_file(file, LoadFailure::DamagedPem(error.to_string())))?;
    if items.is_empty() {
        return Err(TlsError::in_file(file, LoadFailure::NothingInIt(kind)));
    }
    Ok(items)
}

pub(super) fn read_file(file: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |words| TlsError::in_file(file, LoadFailure::Unreadable(words));
    let bytes = crate::files::read(file, FILE_BYTES_MAX).map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

const RECORD_HEADER_BYTES: usize = 5;
/// The record sizes that clients can ask for with max_fragment_length (RFC 6066, section 4).
const RECORD_BYTES: [usize; 4] = [512, 1024, 2048, 4096];

/// The largest TLS file, in bytes. The revocation list of a large CA has tens of megabytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The application protocols that midge accepts (RFC 7301): MQTT, and the one that browsers offer for
/// WebSocket.
const PROTOCOLS: [&[u8]; 2] = [b"mqtt", b"http/1.1"];
/// A TLS 1.3 ticket is valid for one connection, and an MQTT client has one connection at a time.
const TICKETS_PER_HANDSHAKE: usize = 1;
