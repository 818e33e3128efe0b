//! Who may use an address of the admin interface: holders of a token, or of a client certificate.

use super::tokens::AdminTokens;
use crate::settings::Admin;
use crate::transport::tls::{
    CertificateAndKey, CertificateRules, ClientCertificate, OwnCertificate, RECORD_BYTES_MAX,
    RevocationScope, TlsConfig, TlsSettings, TlsVersion,
};
use rustls::ServerConfig;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What an address with a port demands of its clients.
#[derive(Default)]
pub struct AdminAccess {
    /// Empty if only certificates count.
    pub(super) tokens: AdminTokens,
    tls: Option<AdminTls>,
}

/// TLS of the admin interface.
struct AdminTls {
    files: TlsConfig,
    server: Arc<ServerConfig>,
}

impl AdminAccess {
    /// Reads the files of `[admin]`.
    ///
    /// # Errors
    /// What is wrong with them, in words for the operator.
    pub fn load(settings: &Admin) -> Result<AdminAccess, String> {
        let tokens = match settings.token_file.as_str() {
            "" => AdminTokens::default(),
            file => AdminTokens::load(Path::new(file)).map_err(|errors| errors.to_string())?,
        };
        Ok(AdminAccess { tokens, tls: AdminTls::load(settings)? })
    }

    /// Its own certificates.
    pub(super) fn certificates(&self) -> Vec<OwnCertificate> {
        self.tls.as_ref().map(|tls| tls.files.certificates()).unwrap_or_default()
    }

    /// Notices about the dates of its certificates at `now` (seconds since 1970), one per line.
    pub fn notices(&self, now: i64) -> Vec<String> {
        self.tls.as_ref().map(|tls| tls.files.notices(now)).unwrap_or_default()
    }
}

impl AdminTls {
    fn load(settings: &Admin) -> Result<Option<AdminTls>, String> {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        let Some(chain) = path(&settings.tls_certificate) else { return Ok(None) };
        let client_certificate = match (settings.tls_client_ca.as_str(), settings.token_file.as_str()) {
            ("", _) => ClientCertificate::None,
            (_, "") => ClientCertificate::Required,
            _ => ClientCertificate::Optional,
        };
        let files = TlsConfig::load(&TlsSettings {
            certificates: vec![CertificateAndKey { chain, key: settings.tls_key.as_str().into() }],
            chain: None,
            client_ca: path(&settings.tls_client_ca),
            ca_directory: None,
            client_certificate,
            client_certificate_dates: true,
            client_certificate_rules: CertificateRules::Standard,
            crl: path(&settings.tls_crl),
            crl_scope: RevocationScope::Chain,
            record_bytes: RECORD_BYTES_MAX,
            version_min: TlsVersion::V13,
        });
        let files = files.map_err(|error| format!("[admin]: {error}"))?;
        let server = files.without_resumption();
        Ok(Some(AdminTls { files, server }))
    }
}

/// Access that can be replaced while the server runs. Cheap to clone.
#[derive(Clone)]
pub struct SharedAccess(Arc<Mutex<Current>>);

struct Current {
    access: Arc<AdminAccess>,
    generation: AccessGeneration,
}

/// Tells whether the access was replaced since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AccessGeneration(u64);

impl SharedAccess {
    pub(super) fn new(access: AdminAccess) -> SharedAccess {
        let current = Current { access: Arc::new(access), generation: AccessGeneration(0) };
        SharedAccess(Arc::new(Mutex::new(current)))
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What counts now.
    pub fn current(&self) -> Arc<AdminAccess> {
        Arc::clone(&self.lock().access)
    }

    /// Replaces it, for later requests and connections.
    pub fn change(&self, access: Arc<AdminAccess>) {
        let mut current = self.lock();
        current.access = access;
        current.generation.0 += 1;
    }

    /// What counts now, to be compared later.
    pub(super) fn generation(&self) -> AccessGeneration {
        self.lock().generation
    }

    /// The TLS of a new connection, and what it belongs to. `None`: it is not encrypted.
    pub(super) fn tls(&self) -> Option<(Arc<ServerConfig>, AccessGeneration)> {
        let current = self.lock();
        let tls = current.access.tls.as_ref()?;
        Some((Arc::clone(&tls.server), current.generation))
    }
}
