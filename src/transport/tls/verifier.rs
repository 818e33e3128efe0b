//! Verifies client certificates.
//!
//! With the rules of RFC 5280, the library of rustls (webpki) finds the path, and this file checks the dates
//! of its anchor and the revocation lists. With the rules of OpenSSL, this crate finds the path too
//! ([`path`]).

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use super::config::CertificateRules;
use super::error::{LoadFailure, TlsError};
use super::identity;
use super::path::{Search, Trusted};
use super::refusal::Refusal;
use super::revocation::Revocations;
use super::signatures::{ALGORITHMS, BadSignature, Signed, describe_key, public_key};
use super::validity::Validity;

/// A certificate of the operator's file, and its validity.
pub(super) type Anchor = (Validity, CertificateDer<'static>);

/// Verifies clients' certificates and the signatures made with them.
pub(super) struct Verifier {
    pub(super) rules: CertificateRules,
    /// Whether certificates must be valid at the current time. If not, they are checked at the nearest time
    /// at which all of the client's certificates are valid, or at the current time if there is none.
    pub(super) counts_dates: bool,
    pub(super) is_optional: bool,
    pub(super) revocations: Option<Revocations>,
    anchors: Vec<Anchor>,
    /// The trust anchor for each of `anchors`.
    roots: Vec<TrustAnchor<'static>>,
    subjects: Vec<DistinguishedName>,
    /// The same names in canonical form.
    names: Vec<Vec<u8>>,
}

impl Verifier {
    /// `file` has the `anchors`. It is for errors.
    pub(super) fn new(file: &Path, anchors: Vec<Anchor>) -> Result<Verifier, TlsError> {
        let root = |(_, certificate): &Anchor| {
            webpki::anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned()).map_err(|error| {
                let why = Refusal::from(error).to_string();
                TlsError::in_file(file, LoadFailure::UnusableCertificate(format!("it {why}")))
            })
        };
        let roots: Vec<TrustAnchor<'static>> = anchors.iter().map(root).collect::<Result<_, _>>()?;
        let name = |(_, certificate): &Anchor| {
            let parsed = identity::parse(certificate);
            parsed
                .map(|certificate| identity::canonical(certificate.subject()))
                .map_err(|why| TlsError::in_file(file, LoadFailure::UnusableCertificate(why)))
        };
        let names = anchors.iter().map(name).collect::<Result<_, _>>()?;
        let subjects = roots.iter().map(|root| DistinguishedName::in_sequence(&root.subject)).collect();
        Ok(Verifier {
            rules: CertificateRules::Standard,
            counts_dates: true,
            is_optional: false,
            revocations: None,
            anchors,
            roots,
            subjects,
            names,
        })
    }

    /// Limits the names of anchors that clients are told to the first `count`.
    pub(super) fn announce(&mut self, count: usize) {
        self.subjects.truncate(count);
    }

    fn verify(
        &self,
        own: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        match self.rules {
            CertificateRules::Standard => self.verify_by_standard(own, further, now),
            CertificateRules::OpenSsl => self.verify_as_openssl(own, further, now),
        }
    }

    fn verify_by_standard(
        &self,
        own: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let moment = match self.counts_dates {
            true => now,
            false => common_moment(own, further, now).unwrap_or(now),
        };
        let certificate = EndEntityCert::try_from(own)?;
        let refused = RefCell::new(None);
        let check = |path: &VerifiedPath<'_>| {
            self.check_path(path, moment).map_err(|refusal| {
                refused.replace(Some(refusal));
                // Any error will do: the search continues, and the refusal comes from the cell.
                webpki::Error::UnknownIssuer
            })
        };
        let usage = KeyUsage::client_auth();
        let found = certificate.verify_for_usage(
            ALGORITHMS.all,
            &self.roots,
            further,
            moment,
            usage,
            None,
            Some(&check),
        );
        match (found, refused.into_inner()) {
            (Ok(_), _) => Ok(()),
            (Err(_), Some(refusal)) => Err(refusal),
            (Err(error), None) => Err(self.unsupported(&error, own, further).unwrap_or_else(|| error.into())),
        }
    }

    /// Checks what webpki does not check: the dates of the CA at the end, and revocation lists.
    fn check_path(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), Refusal> {
        let now = seconds(now);
        // A CA that was renewed with the same key is there twice.
        let mut anchors = self.anchors.iter().zip(&self.roots).filter(|(_, root)| *root == path.anchor());
        let is_valid = |validity: &Validity| !self.counts_dates || validity.holds(now);
        let Some(((_, anchor), _)) = anchors.find(|((validity, _), _)| is_valid(validity)) else {
            return Err(Refusal::CaOutdated);
        };
        let Some(revocations) = &self.revocations else { return Ok(()) };
        let own = path.end_entity().der();
        let between: Vec<_> = path.intermediate_certificates().map(|certificate| certificate.der()).collect();
        let ders = std::iter::once(&own).chain(&between).chain([anchor]);
        let parsed: Vec<_> = ders.map(parse).collect::<Result<_, _>>()?;
        revocations.check(&parsed.iter().collect::<Vec<_>>(), now)
    }

    fn verify_as_openssl(
        &self,
        own: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let client = parse(own)?;
        let shown: Vec<_> = further.iter().map(parse).collect::<Result<_, _>>()?;
        let trusted: Vec<_> = self
            .anchors
            .iter()
            .zip(&self.names)
            .map(|((_, certificate), name)| Trusted::new(name, certificate))
            .collect();
        let now_seconds = seconds(now);
        let accept = |path: &[&X509Certificate<'_>]| {
            if path.iter().skip(1).any(|authority| has_name_constraints(authority)) {
                self.verify_by_standard(own, further, now)?;
            }
            match &self.revocations {
                Some(revocations) => revocations.check(path, now_seconds),
                None => Ok(()),
            }
        };
        let dates = self.counts_dates.then_some(now_seconds);
        Search::new(&trusted, &shown, dates, &accept).lead_up(&client)
    }

    /// If the library can't verify a signature, the kind of signature, as far as it is known.
    fn unsupported(
        &self,
        error: &webpki::Error,
        own: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
    ) -> Option<Refusal> {
        if !matches!(
            error,
            webpki::Error::UnsupportedSignatureAlgorithmContext(_)
                | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        ) {
            return None;
        }
        let all = || std::iter::once(own).chain(further);
        let issuers = all().chain(self.anchors.iter().map(|(_, certificate)| certificate));
        let issuers: Vec<_> = issuers.filter_map(|der| parse(der).ok()).collect();
        all().filter_map(|der| parse(der).ok()).find_map(|certificate| {
            let signed = Signed::read(certificate.as_raw())?;
            issuers.iter().filter(|issuer| issuer.subject() == certificate.issuer()).find_map(|issuer| {
                match signed.verify(issuer.public_key().raw) {
                    Err(BadSignature::Unsupported(kind)) => Some(Refusal::Unsupported(kind)),
                    _ => None,
                }
            })
        })
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    identity::parse(certificate).map_err(|_| Refusal::Unreadable)
}

fn has_name_constraints(certificate: &X509Certificate<'_>) -> bool {
    let is_one = |parsed: &ParsedExtension<'_>| matches!(parsed, ParsedExtension::NameConstraints(_));
    certificate.iter_extensions().any(|extension| is_one(extension.parsed_extension()))
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// The time nearest to `now` at which all certificates are valid.
fn common_moment(
    own: &CertificateDer<'_>,
    further: &[CertificateDer<'_>],
    now: UnixTime,
) -> Option<UnixTime> {
    let (mut from, mut until) = (i64::MIN, i64::MAX);
    for certificate in std::iter::once(own).chain(further) {
        // The library refuses certificates that can't be read, in its own words.
        let (not_before, not_after) = identity::validity(certificate).ok()?;
        (from, until) = (from.max(not_before), until.min(not_after));
    }
    let moment = seconds(now).max(from).min(until);
    let seconds = u64::try_from(moment).ok().filter(|_| from <= until)?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

impl ClientCertVerifier for Verifier {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        !self.is_optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    /// Any curve may be used with the hash of the scheme (RFC 5246, section 7.4.1.4.1).
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, certificate, signed, usize::MAX)
    }

    /// A scheme has one curve, which is first in the list of algorithms (RFC 8446, section 4.2.3).
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let is_old = matches!(
            signed.scheme,
            SignatureScheme::RSA_PKCS1_SHA256
                | SignatureScheme::RSA_PKCS1_SHA384
                | SignatureScheme::RSA_PKCS1_SHA512
        );
        if is_old {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        verify_signature(message, certificate, signed, 1)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// Verifies a signature. rustls' own function only reads certificates of version 3. At most `count_max`
/// algorithms of a scheme are tried.
fn verify_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    count_max: usize,
) -> Result<HandshakeSignatureValid, Error> {
    let Some((_, algorithms)) = ALGORITHMS.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme) else {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    };
    let certificate = parse(certificate)?;
    let key = certificate.public_key().raw;
    let (kind, bits) = public_key(key).ok_or(Refusal::Unreadable)?;
    let fits = algorithms.iter().take(count_max).find(|known| known.public_key_alg_id().as_ref() == kind);
    let Some(algorithm) = fits else {
        return Err(Refusal::KeyOfOtherScheme(describe_key(key)).into());
    };
    match algorithm.verify_signature(bits, message, signed.signature()) {
        Ok(()) => Ok(HandshakeSignatureValid::assertion()),
        Err(_) => Err(Refusal::BadHandshake.into()),
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Verifier").field("anchors", &self.anchors.len()).finish_non_exhaustive()
    }
}
