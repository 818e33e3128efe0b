//! From when until when the certificates and revocation lists of a listener are good, and what an operator is told of
//! it. Pure: the time is an argument.

use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::time::ASN1Time;

use super::error::{LoadFailure, TlsError};
use super::identity;

/// So many days before it ends, a certificate or a revocation list is told of.
pub const EXPIRY_NOTICE_DAYS: i64 = 14;
const SECONDS_PER_DAY: i64 = 86_400;

/// What a certificate or a revocation list is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It is ours, and the first of its file.
    Own,
    /// It leads from ours to its CA.
    Chain,
    /// It issues the certificates of clients.
    ClientCa,
    /// It says which certificates of clients are revoked.
    RevocationList,
}

/// A certificate or a revocation list, and until when it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validity {
    file: PathBuf,
    role: Role,
    /// In the form of RFC 2253; of a list its issuer.
    subject: String,
    /// In hexadecimal; of a list none.
    serial: String,
    /// Seconds since 1970.
    pub(super) not_before: i64,
    /// Seconds since 1970.
    pub(super) not_after: i64,
}

impl Validity {
    pub(super) fn of_certificate(
        file: &Path,
        role: Role,
        certificate: &CertificateDer<'_>,
    ) -> Result<Validity, TlsError> {
        let unusable = |why| TlsError::in_file(file, LoadFailure::UnusableCertificate(why));
        let (not_before, not_after) = identity::validity(certificate).map_err(unusable)?;
        let (subject, serial) = identity::subject_and_serial(certificate).map_err(unusable)?;
        Ok(Validity { file: file.to_owned(), role, subject, serial, not_before, not_after })
    }

    pub(super) fn of_revocation_list(
        file: &Path,
        list: &CertificateRevocationListDer<'_>,
    ) -> Result<Validity, TlsError> {
        let unusable = |why| TlsError::in_file(file, LoadFailure::UnusableCrl(why));
        let (not_before, not_after) = identity::crl_validity(list).map_err(unusable)?;
        let subject = identity::crl_issuer(list).map_err(unusable)?;
        let (file, serial) = (file.to_owned(), String::new());
        Ok(Validity { file, role: Role::RevocationList, subject, serial, not_before, not_after })
    }

    /// Is it good at `now` (seconds since 1970)?
    pub(super) fn holds(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// What an operator should know of it at `now`; nothing while all is well.
    pub(super) fn notice(&self, now: i64) -> Option<String> {
        let what = self.named();
        let ends = date(self.not_after);
        let cost = self.cost();
        if now > self.not_after {
            Some(format!("{what} has expired on {ends}{cost}"))
        } else if now < self.not_before {
            Some(format!("{what} is not valid before {}{cost}", date(self.not_before)))
        } else {
            let days = (self.not_after - now) / SECONDS_PER_DAY;
            (days < EXPIRY_NOTICE_DAYS).then(|| format!("{what} ends on {ends}, in {days} days"))
        }
    }

    /// What it is and how long it is good, for the log; only of our own certificates.
    pub(super) fn loaded(&self) -> Option<String> {
        (self.role == Role::Own).then(|| {
            let Validity { file, subject, serial, not_after, .. } = self;
            format!(
                "certificate {}: {subject}, serial {serial}, ends on {}",
                file.display(),
                date(*not_after)
            )
        })
    }

    fn named(&self) -> String {
        let Validity { file, subject, serial, .. } = self;
        let what = match self.role {
            Role::Own => "certificate",
            Role::Chain => "chain's certificate",
            Role::ClientCa => "client CA",
            Role::RevocationList => return format!("{}: the revocation list of {subject}", file.display()),
        };
        format!("{}: the {what} {subject} (serial {serial})", file.display())
    }

    /// What follows from it while it is not valid.
    fn cost(&self) -> &'static str {
        match self.role {
            Role::Own | Role::Chain => "; clients that look at the date do not connect",
            Role::ClientCa => "; no client of that CA gets in, unless tls_client_certificate_dates = false",
            Role::RevocationList => {
                "; no client with a certificate gets in, unless tls_client_certificate_dates = false"
            }
        }
    }
}

/// `2027-01-31 23:59 UTC`; a list that never ends has a date far away.
fn date(seconds: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(seconds) else { return "no day".to_owned() };
    let time = time.to_datetime();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", time.hour(), time.minute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_told_as_a_day_and_an_hour() {
        for (seconds, told) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_900_000_000, "2030-03-17 17:46 UTC"),
            (i64::MAX, "no day"),
        ] {
            assert_eq!(date(seconds), told);
        }
    }
}
