//! Certificates of clients that count although they have expired, or are not valid yet: for fleets whose
//! certificates nobody renews.
//!
//! All else is the inner verifier's business. It is asked about a moment at which all of the client's
//! certificates are valid; where there is none, about now.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::identity;

/// A verifier that looks at no dates.
#[derive(Debug)]
pub(super) struct Undated(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Undated {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let moment = common_moment(end_entity, intermediates, now).unwrap_or(now);
        self.0.verify_client_cert(end_entity, intermediates, moment)
    }

    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}

/// The moment nearest to `now` at which all of them are valid.
fn common_moment(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Option<UnixTime> {
    let (mut from, mut until) = (i64::MIN, i64::MAX);
    for certificate in std::iter::once(end_entity).chain(intermediates) {
        // What can't be read is refused by the inner verifier, in its words.
        let (not_before, not_after) = identity::validity(certificate).ok()?;
        (from, until) = (from.max(not_before), until.min(not_after));
    }
    let moment = i64::try_from(now.as_secs()).ok()?.max(from).min(until);
    let seconds = u64::try_from(moment).ok().filter(|_| from <= until)?;
    Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
}
