//! A directory of CA certificates, as OpenSSL's `capath`.
//!
//! OpenSSL looks there for names that are a hash (`openssl rehash` makes such links); here every file counts that has
//! certificates in PEM form, by whatever name, and the same certificate counts once. What can't be used is passed over,
//! as OpenSSL does: a directory of the system's has files of all kinds. It is named among the notices.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::config::read_file;
use super::error::{LoadFailure, TlsError};
use super::identity;
use super::refusal::Refusal;

/// What is in a directory.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// Each once, in the order of the files' names.
    pub(super) certificates: Vec<(PathBuf, CertificateDer<'static>)>,
    /// What is passed over, and why: a line each.
    pub(super) passed_over: Vec<String>,
}

impl Directory {
    /// Reads a directory.
    ///
    /// # Errors
    /// If it can't be read, or no certificate is in it.
    pub(super) fn read(path: &Path) -> Result<Directory, TlsError> {
        let unreadable =
            |error: std::io::Error| TlsError::in_file(path, LoadFailure::Unreadable(error.to_string()));
        let files = crate::files::files_in(path, FILES_MAX).map_err(unreadable)?;
        let (mut directory, mut seen) = (Directory::default(), BTreeSet::new());
        for file in files {
            if let Err(error) = directory.take(&file, &mut seen) {
                directory.passed_over.push(format!("skipped: {error}"));
            }
        }
        if directory.certificates.is_empty() {
            return Err(TlsError::in_file(path, LoadFailure::NothingInIt("certificate that can be used")));
        }
        Ok(directory)
    }

    fn take(&mut self, file: &Path, seen: &mut BTreeSet<Vec<u8>>) -> Result<(), TlsError> {
        let bytes = read_file(file)?;
        for certificate in CertificateDer::pem_slice_iter(&bytes) {
            let certificate = certificate
                .map_err(|error| TlsError::in_file(file, LoadFailure::DamagedPem(error.to_string())))?;
            let unusable = |why| TlsError::in_file(file, LoadFailure::UnusableCertificate(why));
            identity::names(&certificate).map_err(unusable)?;
            identity::validity(&certificate).map_err(unusable)?;
            identity::subject_and_serial(&certificate).map_err(unusable)?;
            webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|error| unusable(format!("it {}", Refusal::from(error))))?;
            if seen.insert(certificate.to_vec()) {
                self.certificates.push((file.to_owned(), certificate));
            }
        }
        Ok(())
    }
}

/// More files are no directory of authorities.
const FILES_MAX: usize = 10_000;
