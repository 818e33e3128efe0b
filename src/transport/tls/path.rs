//! Finds the path from a client's certificate to a self-signed one in the operator's file, by the rules of
//! OpenSSL, which mosquitto uses. They accept more than RFC 5280: a client's certificate may have X.509
//! version 1, may be a CA's, or may be in the file itself.
//!
//! The other rules are the same: signatures, dates, who may issue certificates, how long a path may be, the
//! purpose, and no unknown critical extension. The caller checks for which names a CA may issue certificates
//! (name constraints).

use std::cell::OnceCell;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use super::identity::{self, canonical};
use super::refusal::Refusal;
use super::signatures::{BadSignature, Signed};

/// A certificate of the operator's file. It is parsed when it is needed: the file may have many, and a path
/// has few.
pub(super) struct Trusted<'d> {
    /// See [`canonical`].
    subject: &'d [u8],
    certificate: &'d CertificateDer<'d>,
    read: OnceCell<Option<Box<X509Certificate<'d>>>>,
}

impl<'d> Trusted<'d> {
    pub(super) fn new(subject: &'d [u8], certificate: &'d CertificateDer<'d>) -> Trusted<'d> {
        Trusted { subject, certificate, read: OnceCell::new() }
    }

    /// Parses the certificate. This does not fail for certificates that were loaded.
    fn read(&self) -> Option<&X509Certificate<'d>> {
        let read = || identity::parse(self.certificate).ok().map(Box::new);
        self.read.get_or_init(read).as_deref()
    }

    #[cfg(test)]
    pub(super) fn is_read(&self) -> bool {
        self.read.get().is_some()
    }
}

/// A search for a path.
pub(super) struct Search<'a, 'd> {
    /// The certificates of the operator's file.
    trusted: &'a [Trusted<'d>],
    /// The certificates that the client has sent with its own.
    shown: &'a [X509Certificate<'d>],
    /// The time in seconds since 1970. `None` if dates are not checked.
    now: Option<i64>,
    /// An additional check that a complete path must pass.
    accept: &'a dyn Fn(&[&X509Certificate<'_>]) -> Result<(), Refusal>,
    signatures_left: usize,
}

impl<'a, 'd> Search<'a, 'd> {
    pub(super) fn new(
        trusted: &'a [Trusted<'d>],
        shown: &'a [X509Certificate<'d>],
        now: Option<i64>,
        accept: &'a dyn Fn(&[&X509Certificate<'_>]) -> Result<(), Refusal>,
    ) -> Search<'a, 'd> {
        Search { trusted, shown, now, accept, signatures_left: SIGNATURES_MAX }
    }

    /// # Errors
    /// The problem of the path that came furthest.
    pub(super) fn lead_up(mut self, own: &'a X509Certificate<'d>) -> Result<(), Refusal> {
        self.extend(&mut vec![own])
    }

    /// Tries each issuer of the last certificate in `path`, those of the file first.
    fn extend(&mut self, path: &mut Vec<&'a X509Certificate<'d>>) -> Result<(), Refusal> {
        let last = *path.last().expect("a path begins with the client's certificate");
        if is_self_issued(last)
            && self.trusted.iter().any(|trusted| trusted.certificate.as_ref() == last.as_raw())
        {
            self.check(path)?;
            return (self.accept)(path);
        }
        let issuer = canonical(last.issuer());
        let mut found = Refusal::UnknownIssuer;
        let trusted =
            self.trusted.iter().filter(|trusted| trusted.subject == issuer).filter_map(Trusted::read);
        let shown = self.shown.iter().filter(|shown| canonical(shown.subject()) == issuer);
        for candidate in trusted.chain(shown) {
            let is_used = path.iter().any(|used| used.as_raw() == candidate.as_raw());
            if is_used || path.len() == PATH_MAX {
                continue;
            }
            let Some(left) = self.signatures_left.checked_sub(1) else {
                return Err(Refusal::Library("its chain is too tangled".to_owned()));
            };
            self.signatures_left = left;
            let refusal = match signed(last, candidate) {
                Ok(()) => {
                    path.push(candidate);
                    let led = self.extend(path);
                    path.pop();
                    match led {
                        Ok(()) => return Ok(()),
                        Err(refusal) => refusal,
                    }
                }
                Err(BadSignature::Wrong) => Refusal::BadSignature,
                Err(BadSignature::Unsupported(kind)) => Refusal::Unsupported(kind),
            };
            if found == Refusal::UnknownIssuer || found == Refusal::BadSignature {
                found = refusal;
            }
        }
        Err(found)
    }

    /// Checks each certificate of a complete path, by itself and for its place in the path.
    fn check(&self, path: &[&X509Certificate<'_>]) -> Result<(), Refusal> {
        // Counts the certificates between this one and the client's, without those that a CA has issued to
        // itself.
        let mut between = 0;
        for (position, certificate) in path.iter().enumerate() {
            check_extensions(certificate)?;
            check_purpose(certificate)?;
            match position {
                0 => check_client(certificate)?,
                _ => check_authority(certificate, between)?,
            }
            if position > 0 && !is_self_issued(certificate) {
                between += 1;
            }
        }
        let Some(now) = self.now else { return Ok(()) };
        for (position, certificate) in path.iter().enumerate() {
            let is_root = position > 0 && position + 1 == path.len();
            check_dates(certificate, now)
                .map_err(|refusal| if is_root { Refusal::CaOutdated } else { refusal })?;
        }
        Ok(())
    }
}

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    canonical(certificate.subject()) == canonical(certificate.issuer())
}

fn signed(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Result<(), BadSignature> {
    // The signature algorithm is stated twice, and only one of the statements is signed.
    if certificate.signature_algorithm != certificate.tbs_certificate.signature {
        return Err(BadSignature::Wrong);
    }
    Signed::read(certificate.as_raw()).ok_or(BadSignature::Wrong)?.verify(issuer.public_key().raw)
}

fn check_dates(certificate: &X509Certificate<'_>, now: i64) -> Result<(), Refusal> {
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        return Err(Refusal::NotValidYet);
    }
    if now > validity.not_after.timestamp() {
        return Err(Refusal::Expired);
    }
    Ok(())
}

/// Refuses unknown critical extensions, and extensions that can't be read.
fn check_extensions(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    for extension in certificate.iter_extensions() {
        let heeded = match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => return Err(Refusal::Unreadable),
            ParsedExtension::KeyUsage(_)
            | ParsedExtension::SubjectAlternativeName(_)
            | ParsedExtension::BasicConstraints(_)
            | ParsedExtension::NameConstraints(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::NSCertType(_)
            // If lists are needed, they decide.
            | ParsedExtension::CRLDistributionPoints(_)
            // No policy is required, so any policy is accepted.
            | ParsedExtension::CertificatePolicies(_)
            | ParsedExtension::PolicyMappings(_)
            | ParsedExtension::PolicyConstraints(_)
            | ParsedExtension::InhibitAnyPolicy(_) => true,
            _ => false,
        };
        if extension.critical && !heeded {
            return Err(Refusal::UnknownExtension(extension.oid.to_id_string()));
        }
    }
    certificate.extensions_map().map_or(Err(Refusal::Unreadable), |_| Ok(()))
}

/// If a certificate names purposes, client authentication must be one of them. This also holds for a CA's
/// certificate.
fn check_purpose(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    match certificate.extended_key_usage() {
        Ok(Some(usage)) if !usage.value.client_auth => Err(Refusal::WrongPurpose),
        _ => Ok(()),
    }
}

fn check_client(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    let may_sign = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.digital_signature() || usage.value.key_agreement(),
        _ => true,
    };
    let is_for_clients = netscape_types(certificate).is_none_or(|types| types.ssl_client);
    if may_sign && is_for_clients { Ok(()) } else { Err(Refusal::WrongPurpose) }
}

fn check_authority(certificate: &X509Certificate<'_>, between: usize) -> Result<(), Refusal> {
    let usage = certificate.key_usage().ok().flatten().map(|usage| usage.value.key_cert_sign());
    if usage == Some(false) {
        return Err(Refusal::IssuerIsNoCa);
    }
    let is_version_1 = certificate.version().0 == 0;
    match certificate.basic_constraints().ok().flatten() {
        Some(constraints) if !constraints.value.ca => return Err(Refusal::IssuerIsNoCa),
        Some(constraints) => {
            let most = constraints.value.path_len_constraint;
            if most.is_some_and(|most| between > usize::try_from(most).unwrap_or(usize::MAX)) {
                return Err(Refusal::PathTooLong);
            }
        }
        // This accepts certificates from before that constraint existed.
        None if is_version_1 && is_self_issued(certificate) => {}
        None if usage == Some(true) => {}
        None if netscape_types(certificate).is_some_and(|types| types.ssl_ca) => {}
        None => return Err(Refusal::IssuerIsNoCa),
    }
    Ok(())
}

struct NetscapeTypes {
    ssl_client: bool,
    ssl_ca: bool,
}

/// The purpose of a certificate in the form from before RFC 5280. `openssl.cnf` had a line for it for a long
/// time.
fn netscape_types(certificate: &X509Certificate<'_>) -> Option<NetscapeTypes> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::NSCertType(types) => {
            Some(NetscapeTypes { ssl_client: types.ssl_client(), ssl_ca: types.ssl_ca() })
        }
        _ => None,
    })
}

/// The largest number of certificates in a path.
const PATH_MAX: usize = 10;
/// The largest number of signatures that are verified for one client. Certificates with the same name that
/// issue each other form many paths.
const SIGNATURES_MAX: usize = 100;
