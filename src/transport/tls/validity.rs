//! The validity of a listener's certificates and revocation lists, and the notices for the operator. The time
//! is an argument.

use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::time::ASN1Time;

use super::error::{LoadFailure, TlsError};
use super::identity;

/// How many days before its end an operator is told of a certificate or a revocation list.
pub const EXPIRY_NOTICE_DAYS: i64 = 14;
const SECONDS_PER_DAY: i64 = 86_400;

/// The purpose of a certificate or a revocation list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A certificate of midge, the first of its file.
    Own,
    /// A certificate between ours and its CA.
    Chain,
    /// A CA that issues client certificates.
    ClientCa,
    /// A list of revoked client certificates.
    RevocationList,
}

/// A certificate or a revocation list, and its validity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validity {
    file: PathBuf,
    role: Role,
    /// The subject in the form of RFC 2253. For a list it is the issuer.
    subject: String,
    /// The serial number in hexadecimal. Empty for a list.
    serial: String,
    /// Seconds since 1970.
    pub(super) not_before: i64,
    /// Seconds since 1970.
    pub(super) not_after: i64,
}

/// A certificate that midge shows to its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The file that it was read from.
    pub file: PathBuf,
    /// The subject in the form of RFC 2253.
    pub subject: String,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// The beginning of its validity, in seconds since 1970.
    pub not_before: i64,
    /// The end of its validity, in seconds since 1970.
    pub not_after: i64,
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

    /// Whether it is valid at `now` (seconds since 1970).
    pub(super) fn holds(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// The notice for the operator at `now`. `None` if it is valid and does not expire soon.
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

    /// A description with the expiry date, for the log. Only for certificates of midge.
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

    /// A certificate of midge itself, for an operator. `None` for anything else.
    pub(super) fn certificate(&self) -> Option<OwnCertificate> {
        (self.role == Role::Own).then(|| OwnCertificate {
            file: self.file.clone(),
            subject: self.subject.clone(),
            serial: self.serial.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
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

    /// The consequence while it is not valid.
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

/// The date of a time in seconds since 1970, as `2027-01-31 23:59 UTC`.
pub fn date(seconds: i64) -> String {
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
