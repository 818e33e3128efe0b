//! Our certificates, and which of them a client gets.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::config::{CertificateAndKey, read_file, read_pem};
use super::directory::Directory;
use super::error::{LoadFailure, TlsError};
use super::identity::{self, CertificateNames};
use super::signatures::describe_key;
use super::validity::Role;

/// Chooses by the name that the client asks for (SNI, RFC 6066): a certificate with just this name before one
/// with a wildcard, and that before the first of all. Of several that are equal in this, such as one of RSA and one
/// of ECDSA, it is the first with a key that the client can check.
pub(super) struct CertificateChoice {
    /// Never empty.
    certificates: Vec<Named>,
}

struct Named {
    file: PathBuf,
    /// DNS names in lower case; a wildcard is `*.` and a name.
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

/// How well a certificate fits a name; the best comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Exact,
    Wildcard,
    Otherwise,
}

impl CertificateChoice {
    pub(super) fn load(
        files: &[CertificateAndKey],
        chain: Option<&Path>,
        directory: &Directory,
        provider: &CryptoProvider,
    ) -> Result<CertificateChoice, TlsError> {
        if files.is_empty() {
            return Err(TlsError::in_settings("TLS needs a certificate and its key"));
        }
        let mut authorities = match chain {
            Some(file) => {
                let authorities = read_pem::<CertificateDer<'static>>(file, "certificate")?;
                let unusable = |why| TlsError::in_file(file, LoadFailure::UnusableCertificate(why));
                let named = authorities.into_iter().map(|der| Ok((identity::names(&der)?, der)));
                named.collect::<Result<Vec<_>, String>>().map_err(unusable)?
            }
            None => Vec::new(),
        };
        // Those that have no names were passed over.
        let of_directory = directory.certificates.iter().map(|(_, der)| der);
        authorities.extend(of_directory.filter_map(|der| Some((identity::names(der).ok()?, der.clone()))));
        let certificates =
            files.iter().map(|files| Named::load(files, &authorities, provider)).collect::<Result<_, _>>()?;
        Ok(CertificateChoice { certificates })
    }

    /// Each certificate with those that are sent behind it, and the file that it is from.
    pub(super) fn sent(&self) -> impl Iterator<Item = (&Path, Role, &CertificateDer<'static>)> {
        let roles = || std::iter::once(Role::Own).chain(std::iter::repeat(Role::Chain));
        self.certificates.iter().flat_map(move |named| {
            let sent = roles().zip(&named.key.cert);
            sent.map(|(role, certificate)| (named.file.as_path(), role, certificate))
        })
    }

    /// What is sent for each.
    #[cfg(test)]
    pub(super) fn chains(&self) -> impl Iterator<Item = &[CertificateDer<'static>]> {
        self.certificates.iter().map(|named| named.key.cert.as_slice())
    }

    fn choose(&self, name: Option<&str>, works: impl Fn(&CertifiedKey) -> bool) -> Option<&Named> {
        // `min_by_key` gives the first of those that are equal.
        self.certificates.iter().filter(|named| works(&named.key)).min_by_key(|named| named.fit(name))
    }
}

impl Named {
    fn load(
        files: &CertificateAndKey,
        authorities: &[(CertificateNames, CertificateDer<'static>)],
        provider: &CryptoProvider,
    ) -> Result<Named, TlsError> {
        let mut chain = read_pem::<CertificateDer<'static>>(&files.chain, "certificate")?;
        let unusable = |why| TlsError::in_file(&files.chain, LoadFailure::UnusableCertificate(why));
        if let ([leaf], false) = (chain.as_slice(), authorities.is_empty()) {
            let missing = leading_up(&identity::names(leaf).map_err(unusable)?, authorities);
            chain.extend(missing);
        }
        // `read_pem` gives at least one.
        let names = chain.first().map_or(Ok(Vec::new()), identity::dns_names).map_err(unusable)?;
        let key = provider
            .key_provider
            .load_private_key(read_key(&files.key)?)
            .map_err(|_| TlsError::in_file(&files.key, LoadFailure::UnusableKey(kind_of_key(&chain))))?;
        // Compared here and not by rustls, which reads certificates of X.509 version 3 only. Ours may be of version 1,
        // as many a guide makes it: whether that is good enough is for the client to say. A kind of key that does not
        // tell its public half can't be compared; a handshake will show it.
        if let (Some(leaf), Some(public)) = (chain.first(), key.public_key())
            && identity::public_key(leaf).map_err(unusable)? != public.as_ref()
        {
            let cause = LoadFailure::KeyOfAnotherCertificate(files.chain.clone());
            return Err(TlsError::in_file(&files.key, cause));
        }
        let key = CertifiedKey::new(chain, key);
        Ok(Named { file: files.chain.clone(), names, key: Arc::new(key) })
    }

    fn fit(&self, name: Option<&str>) -> Fit {
        let Some(name) = name else { return Fit::Otherwise };
        let fits = |own: &String| match own.strip_prefix("*.") {
            // A wildcard stands for one label (RFC 6125, section 6.4.3).
            Some(parent) => name
                .split_once('.')
                .filter(|(_, rest)| rest.eq_ignore_ascii_case(parent))
                .map_or(Fit::Otherwise, |_| Fit::Wildcard),
            None if own.eq_ignore_ascii_case(name) => Fit::Exact,
            None => Fit::Otherwise,
        };
        self.names.iter().map(fits).min().unwrap_or(Fit::Otherwise)
    }
}

/// The kind of the key of a certificate, as far as that tells.
fn kind_of_key(chain: &[CertificateDer<'_>]) -> String {
    let public = chain.first().and_then(|leaf| identity::public_key(leaf).ok());
    let kind = public.map_or_else(|| "it can't be read".to_owned(), |key| describe_key(&key));
    format!(
        "{kind} by its certificate; midge signs with RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, and Ed25519"
    )
}

/// The certificates from that of an issuer up to the one below its root, which clients have themselves.
fn leading_up(
    leaf: &CertificateNames,
    authorities: &[(CertificateNames, CertificateDer<'static>)],
) -> Vec<CertificateDer<'static>> {
    let mut chain = Vec::new();
    let mut issuer = &leaf.issuer;
    // Each is needed once at most: two that have signed each other don't go on for ever.
    while chain.len() < authorities.len() {
        let next = authorities.iter().find(|(names, _)| names.subject == *issuer);
        let Some((names, der)) = next.filter(|(names, _)| names.subject != names.issuer) else { break };
        chain.push(der.clone());
        issuer = &names.issuer;
    }
    chain
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read_file(file)?;
    if let Some(key) = PrivateKeyDer::pem_slice_iter(&bytes).next() {
        let key = key.map_err(|error| TlsError::in_file(file, LoadFailure::DamagedPem(error.to_string())));
        // The older form marks a password with a header inside the section, which then is no base64.
        return key.map_err(|error| if is_encrypted(&bytes) { encrypted(file) } else { error });
    }
    Err(if is_encrypted(&bytes) {
        encrypted(file)
    } else {
        TlsError::in_file(file, LoadFailure::NothingInIt("private key"))
    })
}

fn is_encrypted(pem: &[u8]) -> bool {
    ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| pem.windows(mark.len()).any(|window| window == mark.as_bytes()))
}

fn encrypted(file: &Path) -> TlsError {
    TlsError::in_file(file, LoadFailure::EncryptedKey)
}

impl ResolvesServerCert for CertificateChoice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let fits = |key: &CertifiedKey| key.key.choose_scheme(schemes).is_some();
        // Without one rustls would say that access is denied. With any it finds for itself that no suite or no
        // signature is common to both, and says that.
        let named = self.choose(hello.server_name(), fits).or(self.certificates.first());
        named.map(|named| named.key.clone())
    }
}

impl fmt::Debug for CertificateChoice {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_list().entries(self.certificates.iter().map(|named| &named.names)).finish()
    }
}
