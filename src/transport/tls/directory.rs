//! A directory of CA certificates, like OpenSSL's `capath`.
//!
//! OpenSSL only reads files there that are named by a hash (`openssl rehash` makes such links). midge reads
//! every file that has certificates in PEM form, whatever its name, and counts the same certificate once.
//! Files that can't be used are skipped, as in OpenSSL, because a system directory has files of all kinds.
//! The notices name them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::config::read_file;
use super::error::{LoadFailure, TlsError};
use super::identity;
use super::refusal::Refusal;

/// The content of a directory.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// The certificates, each once, in the order of the file names.
    pub(super) certificates: Vec<(PathBuf, CertificateDer<'static>)>,
    /// The skipped files with the reasons, one per line.
    pub(super) passed_over: Vec<String>,
}

impl Directory {
    /// Reads a directory.
    ///
    /// # Errors
    /// The directory can't be read, or has no certificate.
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

/// A directory with more files is not one of CA certificates.
const FILES_MAX: usize = 10_000;
