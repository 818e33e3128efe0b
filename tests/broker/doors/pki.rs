//! A certificate authority, the files it issues, and clients that trust it.

use super::wire;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    pub(crate) ca: PathBuf,
}

/// The files of a certificate and its key.
pub(crate) struct Issued {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) der: CertificateDer<'static>,
}

impl Authority {
    /// An authority. Its files are in a folder with this name.
    pub(crate) fn new(name: &str) -> Authority {
        let mut params = named("the tests' authority", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("it signs itself");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("doors-{name}"));
        std::fs::create_dir_all(&folder).expect("the target folder can be written");
        let ca = folder.join("ca.pem");
        std::fs::write(&ca, issuer.pem()).expect("the target folder can be written");
        Authority { issuer, folder, ca }
    }

    /// The same, valid for this range of days from now.
    pub(super) fn valid(name: &str, days: std::ops::Range<i64>) -> Authority {
        let mut params = named("the tests' authority", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        set_days(&mut params, days);
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("it signs itself");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("doors-{name}"));
        std::fs::create_dir_all(&folder).expect("the target folder can be written");
        let ca = folder.join("ca.pem");
        std::fs::write(&ca, issuer.pem()).expect("the target folder can be written");
        Authority { issuer, folder, ca }
    }

    /// A server certificate, valid for this range of days from now.
    pub(super) fn server_valid(&self, file: &str, serial: u64, days: std::ops::Range<i64>) -> Issued {
        let mut params = named("server", &["127.0.0.1", "localhost"]);
        params.serial_number = Some(rcgen::SerialNumber::from(serial));
        set_days(&mut params, days);
        self.issue(file, &params)
    }

    /// A certificate for 127.0.0.1 and localhost. A second one with the same file name replaces the first.
    pub(crate) fn server(&self, file: &str) -> Issued {
        self.issue(file, &named("server", &["127.0.0.1", "localhost"]))
    }

    pub(crate) fn client(&self, name: &str) -> Issued {
        let mut params = named(name, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(name, &params)
    }

    fn issue(&self, file: &str, params: &CertificateParams) -> Issued {
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        let write = |kind: &str, text: &str| {
            let path = self.folder.join(format!("{file}-{kind}.pem"));
            std::fs::write(&path, text).expect("the target folder can be written");
            path
        };
        Issued {
            chain: write("chain", &certificate.pem()),
            key: write("key", &key.serialize_pem()),
            der: certificate.der().clone(),
        }
    }

    /// A client's TLS configuration that trusts this authority and has no certificate.
    pub(crate) fn trusting(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has both versions");
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }

    /// Connects. The handshake happens with the first read or write.
    pub(crate) fn open(&self, address: SocketAddr) -> TlsStream {
        open_with(&self.trusting(), address)
    }
}

/// A client's TLS configuration that trusts an authority and shows this certificate.
pub(crate) fn showing(trusted: &Authority, own: &Issued) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(&trusted.ca).expect("it was written");
    roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("a CA");
    let key = PrivateKeyDer::from_pem_file(&own.key).expect("PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has both versions")
        .with_root_certificates(roots);
    Arc::new(builder.with_client_auth_cert(vec![own.der.clone()], key).expect("a key that fits"))
}

pub(crate) fn open_with(config: &Arc<ClientConfig>, address: SocketAddr) -> TlsStream {
    StreamOwned::new(tls_half(config), wire::open(address))
}

pub(crate) fn tls_half(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(Arc::clone(config), name).expect("a configuration that fits")
}

impl Issued {
    /// The rows of a listener with this certificate.
    pub(crate) fn rows(&self) -> String {
        format!("tls_certificates = [{:?}]\ntls_keys = [{:?}]\n", self.chain, self.key)
    }
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("good names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn set_days(params: &mut CertificateParams, days: std::ops::Range<i64>) {
    let now =
        rcgen::date_time_ymd(1970, 1, 1) + std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    let day = std::time::Duration::from_secs(86_400);
    let at = |days: i64| {
        let far = day * u32::try_from(days.unsigned_abs()).expect("a short time");
        if days < 0 { now - far } else { now + far }
    };
    (params.not_before, params.not_after) = (at(days.start), at(days.end));
}

fn key() -> KeyPair {
    KeyPair::generate().expect("chance")
}
