//! Lists of revoked certificates (RFC 5280, section 5), of versions 1 and 2. OpenSSL makes version 1 unless
//! its configuration says otherwise, and mosquitto accepts it.
//!
//! A list applies to a certificate if it has the issuer's name, is signed by the issuer, and covers
//! certificates of that kind. If there are several, a current one is used, and the newest of those.

use std::path::Path;
use std::sync::OnceLock;

use rustls::pki_types::CertificateRevocationListDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{DistributionPointName, IssuingDistributionPoint, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::config::RevocationScope;
use super::error::{LoadFailure, TlsError};
use super::identity::{NO_LIST, canonical};
use super::refusal::Refusal;
use super::signatures::Signed;

/// The lists of a listener.
pub(super) struct Revocations {
    lists: Vec<List>,
    scope: RevocationScope,
    /// Whether an expired list is refused.
    counts_dates: bool,
}

struct List {
    der: CertificateRevocationListDer<'static>,
    /// The issuer's name. See [`canonical`].
    issuer: Vec<u8>,
    /// Seconds since 1970.
    this_update: i64,
    /// Seconds since 1970. It is the far future if the list does not say.
    next_update: i64,
    revoked: Serials,
    about: About,
    /// The distribution points of the list, as names in DER. If there are any, the list only covers
    /// certificates that name one of them.
    points: Option<Vec<String>>,
    /// A key whose signature on the list was verified. It avoids hashing a long list again.
    signed_by: OnceLock<Vec<u8>>,
}

/// The kind of certificates that a list covers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    All,
    Clients,
    Authorities,
}

/// Sorted serial numbers, without an allocation for each.
#[derive(Default)]
struct Serials {
    bytes: Vec<u8>,
    /// The start and the length of each serial number.
    places: Vec<(u32, u8)>,
}

impl Revocations {
    pub(super) fn new(
        file: &Path,
        lists: Vec<CertificateRevocationListDer<'static>>,
        scope: RevocationScope,
        counts_dates: bool,
    ) -> Result<Revocations, TlsError> {
        let unusable = |why| TlsError::in_file(file, LoadFailure::UnusableCrl(why));
        let lists = lists.into_iter().map(List::read).collect::<Result<_, _>>().map_err(unusable)?;
        Ok(Revocations { lists, scope, counts_dates })
    }

    /// Checks a path: the client's certificate first, each followed by its issuer's.
    pub(super) fn check(&self, path: &[&X509Certificate<'_>], now: i64) -> Result<(), Refusal> {
        let looked_up = match self.scope {
            RevocationScope::Client => 1,
            // The last CA is trusted because it is in client_ca. Only if it is the client's own certificate,
            // it is looked up.
            RevocationScope::Chain => path.len().saturating_sub(1).max(1),
        };
        for (position, certificate) in path.iter().enumerate().take(looked_up) {
            // A certificate that stands alone has issued itself.
            let issuer = path.get(position + 1).unwrap_or(certificate);
            self.look_up(certificate, issuer, now)?;
        }
        Ok(())
    }

    fn look_up(
        &self,
        certificate: &X509Certificate<'_>,
        issuer: &X509Certificate<'_>,
        now: i64,
    ) -> Result<(), Refusal> {
        let name = canonical(certificate.issuer());
        let fitting = self.lists.iter().filter(|list| {
            list.issuer == name && list.is_about(certificate) && list.is_signed_by(issuer.public_key().raw)
        });
        let list = fitting
            .max_by_key(|list| (list.holds(now), list.this_update))
            .ok_or(Refusal::NoRevocationList)?;
        if matches!(issuer.key_usage(), Ok(Some(usage)) if !usage.value.crl_sign()) {
            return Err(Refusal::MayNotSignLists);
        }
        if self.counts_dates && !list.holds(now) {
            return Err(match now < list.this_update {
                true => Refusal::RevocationListNotValidYet,
                false => Refusal::RevocationListExpired,
            });
        }
        match list.revoked.has(certificate.raw_serial()) {
            true => Err(Refusal::Revoked),
            false => Ok(()),
        }
    }
}

impl List {
    fn read(der: CertificateRevocationListDer<'static>) -> Result<List, String> {
        let (_, parsed) = CertificateRevocationList::from_der(&der).map_err(|_| NO_LIST.to_owned())?;
        let mut revoked = Serials::default();
        for entry in parsed.iter_revoked_certificates() {
            // Such an extension can name another issuer, in a list for several issuers. A serial number alone
            // then means nothing.
            if let Some(extension) = entry.iter_extensions().find(|extension| extension.critical) {
                return Err(format!("an entry has the critical extension {}", extension.oid.to_id_string()));
            }
            revoked.push(entry.raw_serial())?;
        }
        revoked.sort();
        let mut list = List {
            issuer: canonical(parsed.issuer()),
            this_update: parsed.last_update().timestamp(),
            next_update: parsed.next_update().map_or(i64::MAX, |time| time.timestamp()),
            revoked,
            about: About::All,
            points: None,
            signed_by: OnceLock::new(),
            der: CertificateRevocationListDer::from(Vec::new()),
        };
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::IssuingDistributionPoint(point) => list.take_point(point)?,
                _ if !extension.critical => {}
                _ if extension.oid.to_id_string() == DELTA => {
                    return Err("it is a delta list; the whole one is needed".to_owned());
                }
                ParsedExtension::AuthorityKeyIdentifier(_) => {}
                _ => return Err(format!("it has the critical extension {}", extension.oid.to_id_string())),
            }
        }
        drop(parsed);
        list.der = der;
        Ok(list)
    }

    fn take_point(&mut self, point: &IssuingDistributionPoint<'_>) -> Result<(), String> {
        if point.indirect_crl || point.only_some_reasons.is_some() || point.only_contains_attribute_certs {
            return Err(
                "it is about other issuers' certificates, some reasons or attribute certificates".into()
            );
        }
        self.about = match (point.only_contains_user_certs, point.only_contains_ca_certs) {
            (false, false) => About::All,
            (true, false) => About::Clients,
            (false, true) => About::Authorities,
            (true, true) => return Err("it is about no certificate".to_owned()),
        };
        self.points = point.distribution_point.as_ref().map(names);
        Ok(())
    }

    fn holds(&self, now: i64) -> bool {
        (self.this_update..=self.next_update).contains(&now)
    }

    fn is_about(&self, certificate: &X509Certificate<'_>) -> bool {
        let is_ca = matches!(certificate.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
        let is_kind = match self.about {
            About::All => true,
            About::Clients => !is_ca,
            About::Authorities => is_ca,
        };
        let Some(points) = &self.points else { return is_kind };
        is_kind
            && certificate.iter_extensions().any(|extension| match extension.parsed_extension() {
                ParsedExtension::CRLDistributionPoints(own) => {
                    let own = own.points.iter().filter_map(|point| point.distribution_point.as_ref());
                    own.flat_map(names).any(|name| points.contains(&name))
                }
                _ => false,
            })
    }

    fn is_signed_by(&self, key: &[u8]) -> bool {
        if self.signed_by.get().is_some_and(|known| known == key) {
            return true;
        }
        let signed = Signed::read(&self.der).is_some_and(|signed| signed.verify(key).is_ok());
        if signed {
            // If another thread has set it first, that key is just as good.
            let _ = self.signed_by.set(key.to_vec());
        }
        signed
    }
}

/// The names of a distribution point, in a form that can be compared.
fn names(point: &DistributionPointName<'_>) -> Vec<String> {
    match point {
        DistributionPointName::FullName(names) => names.iter().map(|name| format!("{name:?}")).collect(),
        DistributionPointName::NameRelativeToCRLIssuer(name) => vec![format!("{name:?}")],
    }
}

impl Serials {
    fn push(&mut self, serial: &[u8]) -> Result<(), String> {
        let start = u32::try_from(self.bytes.len()).map_err(|_| "it is too long".to_owned())?;
        let length = u8::try_from(serial.len()).map_err(|_| "a serial number is too long".to_owned())?;
        self.bytes.extend_from_slice(serial);
        self.places.push((start, length));
        Ok(())
    }

    fn at(bytes: &[u8], (start, length): (u32, u8)) -> &[u8] {
        &bytes[start as usize..][..usize::from(length)]
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.places.sort_unstable_by(|one, other| Serials::at(bytes, *one).cmp(Serials::at(bytes, *other)));
    }

    fn has(&self, serial: &[u8]) -> bool {
        self.places.binary_search_by(|place| Serials::at(&self.bytes, *place).cmp(serial)).is_ok()
    }
}

/// Delta CRL indicator (RFC 5280, section 5.2.4).
const DELTA: &str = "2.5.29.27";
