//! Certificates of clients that count only while their CA is valid too.
//!
//! The library verifies the dates of everything but the CA itself: for it an anchor of trust has none. Here each
//! moment has a verifier of its own that knows the CAs that are valid then. It is made when the first client of that
//! span of time comes; nearly always all CAs are valid, and it is the verifier that was made with the listener.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::validity::Validity;

/// A certificate of a CA, and when it is valid.
pub(super) type Anchor = (Validity, CertificateDer<'static>);

/// None when there is no CA.
type Made = Option<Arc<dyn ClientCertVerifier>>;

/// A verifier for some of the CAs.
pub(super) type Make = Box<dyn Fn(RootCertStore) -> Made + Send + Sync>;

/// A verifier that knows only the CAs that are valid.
pub(super) struct Dated {
    /// Knows all of them.
    all: Arc<dyn ClientCertVerifier>,
    anchors: Vec<Anchor>,
    /// When a CA begins or ceases to be valid, in seconds since 1970 and in order.
    changes: Vec<i64>,
    /// Before the first change, between each two, and after the last.
    spans: Vec<OnceLock<Made>>,
    make: Make,
}

impl Dated {
    pub(super) fn new(all: Arc<dyn ClientCertVerifier>, anchors: Vec<Anchor>, make: Make) -> Dated {
        let ends = |(validity, _): &Anchor| [validity.not_before, validity.not_after.saturating_add(1)];
        let mut changes: Vec<i64> = anchors.iter().flat_map(ends).collect();
        changes.sort_unstable();
        changes.dedup();
        let spans = (0..=changes.len()).map(|_| OnceLock::new()).collect();
        Dated { all, anchors, changes, spans, make }
    }

    fn at(&self, now: UnixTime) -> &Made {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let span = self.changes.partition_point(|&change| change <= now);
        self.spans[span].get_or_init(|| {
            let valid: Vec<_> = self.anchors.iter().filter(|(validity, _)| validity.holds(now)).collect();
            if valid.len() == self.anchors.len() {
                return Some(Arc::clone(&self.all));
            }
            let mut roots = RootCertStore::empty();
            for (_, certificate) in valid {
                // It was taken when the listener was made.
                roots.add(certificate.clone()).ok()?;
            }
            (self.make)(roots)
        })
    }
}

/// Why a certificate does not count that would if its CA were valid.
#[derive(Debug)]
pub(super) struct CaOutdated;

impl fmt::Display for CaOutdated {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("the certificate of its CA has expired or is not valid yet")
    }
}

impl std::error::Error for CaOutdated {}

impl ClientCertVerifier for Dated {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(verifier) = self.at(now) {
            match verifier.verify_client_cert(end_entity, intermediates, now) {
                Err(_) if !Arc::ptr_eq(verifier, &self.all) => {}
                verified => return verified,
            }
        }
        // With every CA it is refused for a fault of its own, or only for its CA's date.
        self.all.verify_client_cert(end_entity, intermediates, now)?;
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(CaOutdated)))))
    }

    fn offer_client_auth(&self) -> bool {
        self.all.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.all.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.all.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.all.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.all.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.all.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.all.requires_raw_public_keys()
    }
}

impl fmt::Debug for Dated {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Dated").field("anchors", &self.anchors.len()).finish_non_exhaustive()
    }
}
