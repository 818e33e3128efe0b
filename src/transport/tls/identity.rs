//! The content of a certificate: its subject, its names, and its validity.
//!
//! The subject is written in the form of RFC 2253, as OpenSSL prints it with that option, because operators
//! have access lists with such names from other brokers: the most specific part first, no space after a
//! comma, bytes beyond ASCII as `\XX`.

use std::fmt::Write;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The identity in a client's certificate, which rustls has verified up to one of our CAs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientIdentity {
    /// The first common name of the subject. `None` if there is none, or if it has control characters.
    pub common_name: Option<String>,
    /// The subject in the form of RFC 2253, such as `CN=device-7,OU=Sensors,O=Example,C=DE`.
    pub subject: String,
    /// The DNS names among the alternative names.
    pub dns_names: Vec<String>,
    /// The URIs among the alternative names.
    pub uris: Vec<String>,
    /// The mail addresses among the alternative names.
    pub emails: Vec<String>,
}

impl ClientIdentity {
    /// Reads a certificate. `None` if it can't be read; rustls would not have accepted it.
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Option<ClientIdentity> {
        let certificate = parse(certificate).ok()?;
        let mut identity = ClientIdentity {
            common_name: common_name(certificate.subject()),
            subject: rfc2253(certificate.subject()),
            ..ClientIdentity::default()
        };
        for name in alternative_names(&certificate) {
            match name {
                GeneralName::DNSName(name) => identity.dns_names.push((*name).to_owned()),
                GeneralName::URI(uri) => identity.uris.push((*uri).to_owned()),
                GeneralName::RFC822Name(email) => identity.emails.push((*email).to_owned()),
                _ => {}
            }
        }
        Some(identity)
    }
}

/// The DNS names of a certificate, in lower case.
pub(super) fn dns_names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, String> {
    let certificate = parse(certificate)?;
    let names = alternative_names(&certificate).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok(names.collect())
}

/// The subject and the issuer of a certificate, both as DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificateNames {
    pub(super) subject: Vec<u8>,
    pub(super) issuer: Vec<u8>,
}

/// The subject and the issuer of a certificate.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Result<CertificateNames, String> {
    let certificate = parse(certificate)?;
    Ok(CertificateNames {
        subject: certificate.subject().as_raw().to_vec(),
        issuer: certificate.issuer().as_raw().to_vec(),
    })
}

/// The public key of a certificate with its algorithm, as DER.
pub(super) fn public_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, String> {
    parse(certificate).map(|certificate| certificate.public_key().raw.to_vec())
}

/// The start and the end of a certificate's validity, in seconds since 1970.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Result<(i64, i64), String> {
    let certificate = parse(certificate)?;
    let validity = certificate.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// The start and the end of a revocation list's validity. A list without a date for the next one does not
/// expire.
pub(super) fn crl_validity(list: &CertificateRevocationListDer<'_>) -> Result<(i64, i64), String> {
    let (_, list) = CertificateRevocationList::from_der(list).map_err(|_| NO_LIST.to_owned())?;
    let not_after = list.next_update().map_or(i64::MAX, |time| time.timestamp());
    Ok((list.last_update().timestamp(), not_after))
}

/// The subject of a certificate in the form of RFC 2253, and its serial number in hexadecimal.
pub(super) fn subject_and_serial(certificate: &CertificateDer<'_>) -> Result<(String, String), String> {
    let certificate = parse(certificate)?;
    Ok((rfc2253(certificate.subject()), certificate.raw_serial_as_string()))
}

/// The issuer of a revocation list.
pub(super) fn crl_issuer(list: &CertificateRevocationListDer<'_>) -> Result<String, String> {
    let (_, list) = CertificateRevocationList::from_der(list).map_err(|_| NO_LIST.to_owned())?;
    Ok(rfc2253(list.issuer()))
}

/// A normalized name: names that differ only in case, white space or string type become equal (RFC 5280,
/// section 7.1). A CA's name is not always written the same way in its own certificate and in those that it
/// issues.
pub(super) fn canonical(name: &X509Name<'_>) -> Vec<u8> {
    let mut canonical = Vec::new();
    let mut put = |bytes: &[u8]| {
        canonical.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        canonical.extend_from_slice(bytes);
    };
    for part in name.iter_rdn() {
        put(&part.iter().count().to_be_bytes());
        for attribute in part.iter() {
            put(attribute.attr_type().as_bytes());
            match text(attribute.attr_value()) {
                Some(text) => {
                    let words: Vec<_> = text.split_ascii_whitespace().map(str::to_ascii_lowercase).collect();
                    put(words.join(" ").as_bytes());
                }
                None => put(attribute.attr_value().data),
            }
        }
    }
    canonical
}

pub(super) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    X509Certificate::from_der(certificate)
        .map(|(_, certificate)| certificate)
        .map_err(|_| "what is in it is no certificate".to_owned())
}

fn alternative_names<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a GeneralName<'a>> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    extension.into_iter().flat_map(|extension| extension.value.general_names.iter())
}

fn common_name(subject: &X509Name<'_>) -> Option<String> {
    text(subject.iter_common_name().next()?.attr_value()).filter(|name| is_user_name(name))
}

/// Whether a common name can be a user name. Programs that stop at a NUL would read only the beginning of the
/// name, and a user name must not have control characters.
pub(crate) fn is_user_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(char::is_control)
}

fn rfc2253(subject: &X509Name<'_>) -> String {
    let mut written = String::new();
    let parts: Vec<_> = subject.iter_rdn().collect();
    for (position, part) in parts.iter().rev().enumerate() {
        if position > 0 {
            written.push(',');
        }
        let attributes: Vec<_> = part.iter().collect();
        for (position, attribute) in attributes.iter().rev().enumerate() {
            if position > 0 {
                written.push('+');
            }
            write_attribute(attribute, &mut written);
        }
    }
    written
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, to: &mut String) {
    let oid = attribute.attr_type().to_id_string();
    let known = SHORT_NAMES.iter().find(|(known, _)| *known == oid).map(|(_, name)| *name);
    to.push_str(known.unwrap_or(&oid));
    to.push('=');
    match text(attribute.attr_value()).filter(|_| known.is_some()) {
        Some(value) => write_escaped(&value, to),
        None => write_der(attribute.attr_value(), to),
    }
}

/// Escapes a value as in RFC 2253, section 2.4.
fn write_escaped(value: &str, to: &mut String) {
    let last = value.len().saturating_sub(1);
    for (position, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => escape(byte, to),
            b'#' if position == 0 => escape(byte, to),
            b' ' if position == 0 || position == last => escape(byte, to),
            0x20..=0x7e => to.push(char::from(byte)),
            _ => push(to, format_args!("\\{byte:02X}")),
        }
    }
}

fn escape(byte: u8, to: &mut String) {
    to.push('\\');
    to.push(char::from(byte));
}

/// Writes a value that is not text: `#` and its DER in hexadecimal.
fn write_der(value: &Any<'_>, to: &mut String) {
    to.push('#');
    let tag = u8::try_from(value.tag().0).unwrap_or(u8::MAX);
    push(to, format_args!("{tag:02X}"));
    match value.data.len() {
        short @ ..0x80 => push(to, format_args!("{short:02X}")),
        long => {
            let bytes = long.to_be_bytes();
            let bytes = &bytes[long.leading_zeros() as usize / 8..];
            push(to, format_args!("{:02X}", 0x80 | bytes.len()));
            bytes.iter().for_each(|byte| push(to, format_args!("{byte:02X}")));
        }
    }
    value.data.iter().for_each(|byte| push(to, format_args!("{byte:02X}")));
}

fn push(to: &mut String, what: std::fmt::Arguments<'_>) {
    to.write_fmt(what).expect("writing to a string does not fail");
}

/// The text of a string of any type that a name may have (RFC 5280, section 4.1.2.4).
fn text(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            std::str::from_utf8(value.data).ok().map(str::to_owned)
        }
        // All implementations read it as ISO 8859-1.
        Tag::T61String => Some(value.data.iter().map(|&byte| char::from(byte)).collect()),
        Tag::BmpString => {
            let (units, []) = value.data.as_chunks::<2>() else { return None };
            char::decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit)))
                .collect::<Result<_, _>>()
                .ok()
        }
        Tag::UniversalString => {
            let (units, []) = value.data.as_chunks::<4>() else { return None };
            units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit))).collect()
        }
        _ => None,
    }
}

pub(super) const NO_LIST: &str = "what is in it is no revocation list";

/// OpenSSL's names for the parts of a subject.
const SHORT_NAMES: [(&str, &str); 22] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];
