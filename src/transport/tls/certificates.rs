//! The certificates of midge, and the choice of one for each client.

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

/// Chooses a certificate by the name that the client asks for (SNI, RFC 6066). A certificate with exactly
/// this name comes before one with a matching wildcard, and that before the first one of all. If several fit
/// equally, such as an RSA and an ECDSA certificate, it is the first one whose key the client can verify.
pub(super) struct CertificateChoice {
    /// The certificates; never empty.
    certificates: Vec<Named>,
}

struct Named {
    file: PathBuf,
    /// DNS names in lower case. A wildcard is `*.` and a name.
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

/// How well a certificate fits a name. The best is the smallest.
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
        // Certificates without readable names were skipped.
        let of_directory = directory.certificates.iter().map(|(_, der)| der);
        authorities.extend(of_directory.filter_map(|der| Some((identity::names(der).ok()?, der.clone()))));
        let certificates =
            files.iter().map(|files| Named::load(files, &authorities, provider)).collect::<Result<_, _>>()?;
        Ok(CertificateChoice { certificates })
    }

    /// Each certificate with those that are sent after it, and its file.
    pub(super) fn sent(&self) -> impl Iterator<Item = (&Path, Role, &CertificateDer<'static>)> {
        let roles = || std::iter::once(Role::Own).chain(std::iter::repeat(Role::Chain));
        self.certificates.iter().flat_map(move |named| {
            let sent = roles().zip(&named.key.cert);
            sent.map(|(role, certificate)| (named.file.as_path(), role, certificate))
        })
    }

    /// The certificates that are sent for each choice.
    #[cfg(test)]
    pub(super) fn chains(&self) -> impl Iterator<Item = &[CertificateDer<'static>]> {
        self.certificates.iter().map(|named| named.key.cert.as_slice())
    }

    fn choose(&self, name: Option<&str>, works: impl Fn(&CertifiedKey) -> bool) -> Option<&Named> {
        // `min_by_key` returns the first of equal ones.
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
        // `read_pem` returns at least one.
        let names = chain.first().map_or(Ok(Vec::new()), identity::dns_names).map_err(unusable)?;
        let key = provider
            .key_provider
            .load_private_key(read_key(&files.key)?)
            .map_err(|_| TlsError::in_file(&files.key, LoadFailure::UnusableKey(kind_of_key(&chain))))?;
        // The keys are compared here, because rustls only reads certificates of X.509 version 3. Ours may
        // have version 1, as many guides make them. The client decides whether it accepts that. If a kind of
        // key does not give its public half, it can't be compared, and the handshake will fail.
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

/// The kind of a certificate's key, as far as the certificate shows it.
fn kind_of_key(chain: &[CertificateDer<'_>]) -> String {
    let public = chain.first().and_then(|leaf| identity::public_key(leaf).ok());
    let kind = public.map_or_else(|| "it can't be read".to_owned(), |key| describe_key(&key));
    format!(
        "{kind} by its certificate; midge signs with RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, and Ed25519"
    )
}

/// The certificates from the issuer's up to the one below the root. Clients have the root themselves.
fn leading_up(
    leaf: &CertificateNames,
    authorities: &[(CertificateNames, CertificateDer<'static>)],
) -> Vec<CertificateDer<'static>> {
    let mut chain = Vec::new();
    let mut issuer = &leaf.issuer;
    // Each certificate is used once at most, so that two that have signed each other do not cause an endless
    // loop.
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
        // The older form marks an encrypted key with a header inside the section. The section is then not
        // base64.
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
        // Without a certificate, rustls would report that access is denied. With any certificate, it detects
        // itself that there is no common suite or signature, and reports that.
        let named = self.choose(hello.server_name(), fits).or(self.certificates.first());
        named.map(|named| named.key.clone())
    }
}

impl fmt::Debug for CertificateChoice {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_list().entries(self.certificates.iter().map(|named| &named.names)).finish()
    }
}
