//! A certificate authority, the certificates that it issues, and the files that settings name.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};

use super::super::{
    CertificateAndKey, CertificateRules, ClientCertificate, RECORD_BYTES_MAX, RevocationScope, TlsConfig,
    TlsSettings, TlsVersion,
};

pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, both in PEM and in the parts that a client needs.
pub(super) struct Issued {
    pub(super) pem: String,
    pub(super) key_pem: String,
    pub(super) der: Vec<u8>,
    pub(super) key_der: Vec<u8>,
}

impl Authority {
    pub(super) fn new(name: &str) -> Authority {
        let issuer =
            CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap();
        Authority { issuer }
    }

    /// An authority that is valid from one day to another, each as year, month and day.
    pub(super) fn valid(name: &str, from: (i32, u8, u8), until: (i32, u8, u8)) -> Authority {
        let mut params = authority_params(name);
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer }
    }

    /// An authority that is valid for `hours` from now on.
    pub(super) fn short(name: &str, hours: u64) -> Authority {
        let mut params = authority_params(name);
        set_end(&mut params, hours);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer }
    }

    pub(super) fn issue_authority(&self, name: &str) -> Authority {
        let params = authority_params(name);
        let key = KeyPair::generate().unwrap();
        Authority { issuer: CertifiedIssuer::signed_by(params, key, &self.issuer).unwrap() }
    }

    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(super) fn der(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    pub(super) fn issue(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            der: certificate.der().to_vec(),
            key_der: key.serialize_der(),
        }
    }

    /// A server certificate with these DNS names.
    pub(super) fn server(&self, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.issue(&CertificateParams::new(names).unwrap())
    }

    /// A client certificate with this common name.
    pub(super) fn client(&self, name: &str) -> Issued {
        self.issue(&client_params(name, 1))
    }

    /// A revocation list with these serial numbers.
    pub(super) fn revoke(&self, serials: &[u64], next_update_year: i32) -> String {
        let revoked = |&serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(next_update_year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(super) fn client_params(name: &str, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// Sets the end of the validity to `hours` from now.
pub(super) fn set_end(params: &mut CertificateParams, hours: u64) {
    let now = UNIX_EPOCH.elapsed().expect("after 1970");
    params.not_after = date_time_ymd(1970, 1, 1) + now + Duration::from_secs(3600 * hours);
}

pub(super) fn email(address: &str) -> SanType {
    SanType::Rfc822Name(address.try_into().unwrap())
}

pub(super) fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

pub(super) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// A directory for one test, removed at the end.
pub(super) struct Files {
    directory: PathBuf,
}

impl Files {
    pub(super) fn new() -> Files {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("midge-tls-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Files { directory }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes a certificate with its key.
    pub(super) fn certificate(&self, name: &str, issued: &Issued) -> CertificateAndKey {
        CertificateAndKey {
            chain: self.write(&format!("{name}.pem"), &issued.pem),
            key: self.write(&format!("{name}.key"), &issued.key_pem),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A listener with one certificate for `localhost`. A test may change its settings.
pub(super) struct Listener {
    pub(super) files: Files,
    pub(super) authority: Authority,
    pub(super) settings: TlsSettings,
}

impl Listener {
    pub(super) fn new() -> Listener {
        let files = Files::new();
        let authority = Authority::new("Test CA");
        let certificate = files.certificate("localhost", &authority.server(&["localhost"]));
        let settings = TlsSettings {
            certificates: vec![certificate],
            chain: None,
            client_ca: None,
            ca_directory: None,
            client_certificate: ClientCertificate::None,
            client_certificate_dates: true,
            client_certificate_rules: CertificateRules::Standard,
            crl: None,
            crl_scope: RevocationScope::Chain,
            record_bytes: RECORD_BYTES_MAX,
            version_min: TlsVersion::V12,
        };
        Listener { files, authority, settings }
    }

    /// The same listener, which asks clients for certificates of this CA.
    pub(super) fn asking(wanted: ClientCertificate) -> Listener {
        let mut listener = Listener::new();
        listener.settings.client_ca = Some(listener.files.write("ca.pem", listener.authority.pem()));
        listener.settings.client_certificate = wanted;
        listener
    }

    pub(super) fn crl(&mut self, pem: &str) {
        self.settings.crl = Some(self.files.write("crl.pem", pem));
    }

    #[track_caller]
    pub(super) fn config(&self) -> TlsConfig {
        TlsConfig::load(&self.settings).unwrap()
    }

    pub(super) fn load_error(&self) -> (Option<PathBuf>, String) {
        let error = TlsConfig::load(&self.settings).err().expect("the settings are refused");
        (error.file.clone(), error.to_string())
    }
}

pub(super) fn ends_with(path: Option<&Path>, name: &str) -> bool {
    path.is_some_and(|path| path.ends_with(name))
}
