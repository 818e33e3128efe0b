//! From a client's certificate to a self-signed one in the operator's file, by the rules that OpenSSL has for it (and
//! mosquitto by it), which take more than RFC 5280 does: a client's certificate may be of X.509 version 1, and it may
//! be a CA's, or stand in the file itself.
//!
//! The rest is as there: signatures, dates, who may issue, for how long a path and for which purpose, and no critical
//! extension that is not known. What names a CA may issue for (name constraints) is left to the caller.

use std::cell::OnceCell;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use super::identity::{self, canonical};
use super::refusal::Refusal;
use super::signatures::{BadSignature, Signed};

/// A certificate of the operator's file. It is read when its turn comes: the file may have many, and a path has few.
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

    /// None can't be read of those that were loaded.
    fn read(&self) -> Option<&X509Certificate<'d>> {
        let read = || identity::parse(self.certificate).ok().map(Box::new);
        self.read.get_or_init(read).as_deref()
    }

    #[cfg(test)]
    pub(super) fn is_read(&self) -> bool {
        self.read.get().is_some()
    }
}

/// Where a path may lead.
pub(super) struct Search<'a, 'd> {
    /// The operator's file.
    trusted: &'a [Trusted<'d>],
    /// What the client has sent with its own.
    shown: &'a [X509Certificate<'d>],
    /// Seconds since 1970; none if dates don't count.
    now: Option<i64>,
    /// What else a whole path has to pass.
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
    /// What is wrong with the path that came furthest.
    pub(super) fn lead_up(mut self, own: &'a X509Certificate<'d>) -> Result<(), Refusal> {
        self.extend(&mut vec![own])
    }

    /// Tries each issuer of the last certificate of `path`, those of the file first.
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

    /// Checks each certificate of a whole path for itself and for its place.
    fn check(&self, path: &[&X509Certificate<'_>]) -> Result<(), Refusal> {
        // Those between a certificate and the client's, but for a CA's that it has issued to itself.
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
    // It is told twice how it is signed, and only one of the two is signed itself.
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

/// Nothing that must be heeded is passed over, and nothing is there that can't be read.
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
            // Where lists are needed, it is they that tell.
            | ParsedExtension::CRLDistributionPoints(_)
            // No policy is asked for, so any will do.
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

/// One that names purposes must name this one, a CA's too.
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
        // Those from before there was such a constraint.
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

/// What a certificate is for, as it was said before RFC 5280: `openssl.cnf` long had a line for it.
fn netscape_types(certificate: &X509Certificate<'_>) -> Option<NetscapeTypes> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::NSCertType(types) => {
            Some(NetscapeTypes { ssl_client: types.ssl_client(), ssl_ca: types.ssl_ca() })
        }
        _ => None,
    })
}

/// Certificates in a path at most.
const PATH_MAX: usize = 10;
/// Signatures that one client may have verified: certificates with one name that issue each other are many paths.
const SIGNATURES_MAX: usize = 100;
