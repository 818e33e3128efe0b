//! Settings and files that can't be used. The error names the file and the problem.

use rcgen::{CertificateParams, date_time_ymd};

use super::super::directory::Directory;
use super::super::{CertificateAndKey, ClientCertificate, TlsConfig};
use super::peer::{Client, V13};
use super::pki::{Authority, Listener, ends_with};

#[track_caller]
fn is_refused(listener: &Listener, file: &str, why: &str) {
    let (path, text) = listener.load_error();
    assert!(ends_with(path.as_deref(), file), "{text}");
    let name = path.unwrap();
    let rest = text.strip_prefix(&format!("{}: ", name.display())).expect("the text begins with the file");
    assert!(rest.starts_with(why), "{rest}");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let mut listener = Listener::new();
    listener.settings.client_certificate = ClientCertificate::Required;
    assert_eq!(
        listener.load_error(),
        (None, "client certificates need client_ca, the CAs that issue them".into())
    );
    let mut listener = Listener::asking(ClientCertificate::None);
    let why = "client_ca and crl need client_certificate = optional or required";
    assert_eq!(listener.load_error(), (None, why.into()));
    listener.settings.certificates.clear();
    assert_eq!(listener.load_error(), (None, "TLS needs a certificate and its key".into()));
}

#[test]
fn a_file_that_is_missing_or_not_pem_is_named() {
    let mut listener = Listener::new();
    let good = listener.settings.certificates[0].clone();
    let not_pem = listener.files.write("not.pem", b"\x30\x82\x01\x0a");
    let empty = listener.files.write("empty.pem", "");
    let cut = listener.files.write("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    let missing = listener.files.path("missing.pem");

    let mut set = |chain: &std::path::Path, key: &std::path::Path| {
        listener.settings.certificates = vec![CertificateAndKey { chain: chain.into(), key: key.into() }];
    };
    set(&missing, &good.key);
    is_refused(&listener, "missing.pem", "can't be read: No such file");
    let mut set = |chain: &std::path::Path, key: &std::path::Path| {
        listener.settings.certificates = vec![CertificateAndKey { chain: chain.into(), key: key.into() }];
    };
    set(&not_pem, &good.key);
    is_refused(&listener, "not.pem", "has no certificate in PEM form");
    for (chain, key, file, why) in [
        (&empty, &good.key, "empty.pem", "has no certificate in PEM form"),
        (&cut, &good.key, "cut.pem", "is damaged PEM"),
        (&good.key, &good.key, "localhost.key", "has no certificate in PEM form"),
        (&good.chain, &missing, "missing.pem", "can't be read"),
        (&good.chain, &empty, "empty.pem", "has no private key in PEM form"),
        (&good.chain, &good.chain, "localhost.pem", "has no private key in PEM form"),
    ] {
        listener.settings.certificates = vec![CertificateAndKey { chain: chain.clone(), key: key.clone() }];
        is_refused(&listener, file, why);
    }
}

#[test]
fn a_key_that_can_not_be_used_is_named() {
    let mut listener = Listener::new();
    let other = listener.files.certificate("other", &listener.authority.server(&["other"]));
    listener.settings.certificates[0].key = other.key;
    is_refused(&listener, "other.key", "does not fit the first certificate of ");
    for pem in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n",
    ] {
        listener.settings.certificates[0].key = listener.files.write("encrypted.key", pem);
        is_refused(&listener, "encrypted.key", "is protected by a password");
    }
    let nonsense = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    listener.settings.certificates[0].key = listener.files.write("nonsense.key", nonsense);
    is_refused(&listener, "nonsense.key", "has a private key of a kind that can't be used");
}

#[test]
fn a_certificate_or_list_that_can_not_be_read_is_named() {
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let mut listener = Listener::new();
    listener.settings.certificates[0].chain = listener.files.write("nonsense.pem", nonsense);
    is_refused(&listener, "nonsense.pem", "has a certificate that can't be used");

    let mut listener = Listener::asking(ClientCertificate::Required);
    listener.settings.client_ca = Some(listener.files.write("nonsense.pem", nonsense));
    is_refused(&listener, "nonsense.pem", "has a certificate that can't be used");

    let mut listener = Listener::asking(ClientCertificate::Required);
    listener.settings.crl = Some(listener.files.path("missing.crl"));
    is_refused(&listener, "missing.crl", "can't be read");
    listener.crl("");
    is_refused(&listener, "crl.pem", "has no revocation list (X509 CRL) in PEM form");
    listener.crl("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    is_refused(&listener, "crl.pem", "has a revocation list that can't be used");
}

/// The same certificate as version 1, without extensions. Its signature is no longer valid.
fn version_1(der: &[u8]) -> Vec<u8> {
    let (certificate, []) = element(der) else { panic!("one element") };
    let (tbs, rest) = element(content(certificate));
    let mut kept = Vec::new();
    let mut fields = content(tbs);
    while !fields.is_empty() {
        let (field, further) = element(fields);
        // These are the version number and the extensions.
        if !matches!(field[0], 0xa0 | 0xa3) {
            kept.extend(field);
        }
        fields = further;
    }
    sequence(&[sequence(&kept).as_slice(), rest].concat())
}

fn header_bytes(der: &[u8]) -> usize {
    if der[1] < 0x80 { 2 } else { 2 + usize::from(der[1] & 0x7f) }
}

fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let header = header_bytes(der);
    let length = match header {
        2 => usize::from(der[1]),
        _ => der[2..header].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
    };
    der.split_at(header + length)
}

fn content(element: &[u8]) -> &[u8] {
    &element[header_bytes(element)..]
}

fn sequence(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[0x30, 0x82, length[0], length[1]], content].concat()
}

fn pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for group in der.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = BASE64[(bits >> (18 - 6 * at) & 0x3f) as usize];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text + "\n-----END CERTIFICATE-----\n"
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[test]
fn a_certificate_of_version_1_can_be_ours() {
    let mut listener = Listener::new();
    let issued = listener.authority.server(&["localhost"]);
    let old = pem(&version_1(&issued.der));
    listener.settings.certificates[0].chain = listener.files.write("old.pem", &old);
    is_refused(&listener, "localhost.key", "does not fit the first certificate of ");
    listener.settings.certificates[0].key = listener.files.write("old.key", &issued.key_pem);
    listener.config();
}

#[test]
fn a_chain_may_have_more_than_one_certificate_and_a_ca_file_too() {
    let mut listener = Listener::new();
    let between = listener.authority.issue_authority("Between");
    let issued = between.server(&["localhost"]);
    listener.settings.certificates[0] = CertificateAndKey {
        chain: listener.files.write("chain.pem", format!("{}{}", issued.pem, between.pem())),
        key: listener.files.write("chain.key", &issued.key_pem),
    };
    let cas = format!("{}{}", Authority::new("One").pem(), Authority::new("Two").pem());
    listener.settings.client_ca = Some(listener.files.write("cas.pem", cas));
    listener.settings.client_certificate = ClientCertificate::Optional;
    Client::new(V13, &listener.authority).connect(&listener.config()).handshake();
}

#[test]
fn an_operator_hears_of_what_has_expired_or_soon_will() {
    let mut listener = Listener::asking(ClientCertificate::Required);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2025, 3, 1);
    params.serial_number = Some(rcgen::SerialNumber::from(0x0102_u64));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "server");
    listener.settings.certificates =
        vec![listener.files.certificate("short", &listener.authority.issue(&params))];
    listener.crl(&listener.authority.revoke(&[], 2030));
    let config = TlsConfig::load(&listener.settings).unwrap();
    let at = |year, month, day| {
        let notices = config.notices(date_time_ymd(year, month, day).unix_timestamp());
        notices
            .iter()
            .map(|line| {
                let name = line.find(": ").and_then(|end| line[..end].rfind('/')).expect("a path");
                line[name + 1..].to_owned()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(at(2025, 2, 1), [""; 0]);
    const SHORT: &str = "short.pem: the certificate CN=server (serial 01:02)";
    const COST: &str = "; clients that look at the date do not connect";
    assert_eq!(at(2025, 2, 15), [""; 0]);
    assert_eq!(at(2025, 2, 16), [format!("{SHORT} ends on 2025-03-01 00:00 UTC, in 13 days")]);
    assert_eq!(at(2025, 3, 3), [format!("{SHORT} has expired on 2025-03-01 00:00 UTC{COST}")]);
    assert_eq!(at(2024, 12, 30), [format!("{SHORT} is not valid before 2025-01-01 00:00 UTC{COST}")]);
    let lapsed = at(2030, 1, 2);
    assert_eq!(lapsed.len(), 2, "{lapsed:?}");
    assert!(lapsed[1].starts_with("crl.pem: the revocation list of "), "{lapsed:?}");
    assert!(lapsed[1].contains("CN=Test CA has expired on 2030-01-01 00:00 UTC; no client"), "{lapsed:?}");
    let far = at(4097, 1, 1);
    assert!(
        far.iter().any(|line| line.contains("ca.pem: the client CA ") && line.contains("Test CA")),
        "{far:?}"
    );
    let loaded = config.loaded();
    assert_eq!(loaded.len(), 1);
    assert!(
        loaded[0].ends_with("short.pem: CN=server, serial 01:02, ends on 2025-03-01 00:00 UTC"),
        "{loaded:?}"
    );
}

#[test]
fn a_certificate_that_stands_alone_gets_its_chain_from_another_file() {
    let mut listener = Listener::new();
    let middle = listener.authority.issue_authority("Middle CA");
    let lower = middle.issue_authority("Lower CA");
    let alone = listener.files.certificate("alone", &lower.server(&["localhost"]));
    // They are unordered, with the root and with an unrelated one.
    let pems = [listener.authority.pem(), Authority::new("Other CA").pem(), middle.pem(), lower.pem()];
    listener.settings.certificates = vec![alone.clone()];
    let sent = |listener: &Listener| {
        let provider = rustls::crypto::ring::default_provider();
        let chain = listener.settings.chain.as_deref();
        let choice = super::super::certificates::CertificateChoice::load(
            &listener.settings.certificates,
            chain,
            &Directory::default(),
            &provider,
        );
        choice.unwrap().chains().next().unwrap().len()
    };
    assert_eq!(sent(&listener), 1);
    listener.settings.chain = Some(listener.files.write("chain.pem", pems.concat()));
    assert_eq!(sent(&listener), 3);
    // A certificate with a chain of its own keeps it.
    let whole = std::fs::read_to_string(&alone.chain).unwrap() + &lower.pem();
    listener.files.write("alone.pem", whole);
    assert_eq!(sent(&listener), 2);
}

#[test]
fn certificates_of_a_directory_count_once_by_whatever_name() {
    let (listener, second) = (Listener::new(), Authority::new("Second CA"));
    let folder = listener.files.path("capath");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    assert!(Directory::read(&folder).unwrap_err().to_string().ends_with("that can be used in PEM form"));
    write("both", &(second.pem() + &listener.authority.pem()));
    std::os::unix::fs::symlink("both", folder.join("0123abcd.0")).unwrap();
    write("copy.crt", &second.pem());
    write("README", "no certificate");
    write("key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    std::fs::create_dir(folder.join("folder")).unwrap();
    let found = Directory::read(&folder).unwrap();
    let ders: Vec<_> = found.certificates.iter().map(|(_, der)| der.to_vec()).collect();
    assert_eq!(ders, [second.der(), listener.authority.der()]);
    assert_eq!(found.passed_over, [] as [String; 0]);

    write("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    write("nonsense.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    std::os::unix::fs::symlink("gone", folder.join("deadbeef.0")).unwrap();
    let found = Directory::read(&folder).unwrap();
    assert_eq!((found.certificates.len(), found.passed_over.len()), (2, 3));
    for (line, name) in found.passed_over.iter().zip(["cut.pem", "deadbeef.0", "nonsense.pem"]) {
        assert!(line.starts_with(&format!("skipped: {}: ", folder.join(name).display())), "{line}");
    }
    assert!(Directory::read(&folder.join("none")).unwrap_err().to_string().contains("can't be read"));
}

#[test]
fn a_certificate_that_stands_alone_is_sent_with_what_leads_to_its_ca_in_a_directory() {
    let mut listener = Listener::new();
    let middle = listener.authority.issue_authority("Between");
    listener.settings.certificates =
        vec![listener.files.certificate("alone", &middle.server(&["localhost"]))];
    let folder = listener.files.path("capath");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("between"), middle.pem()).unwrap();
    std::fs::write(folder.join("root"), listener.authority.pem()).unwrap();
    listener.settings.ca_directory = Some(folder);
    Client::new(V13, &listener.authority).connect(&listener.config()).handshake();
}
