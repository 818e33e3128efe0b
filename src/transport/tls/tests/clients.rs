//! Client certificates: which clients may connect, and with which names.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{DnType, DnValue, date_time_ymd};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;

use super::super::identity::{canonical, parse};
use super::super::path::{Search, Trusted};
use super::super::validity::{Role, Validity};
use super::super::verifier::Verifier;
use super::super::{CertificateRules, ClientCertificate, ClientIdentity};
use super::peer::{Client, V12, V13};
use super::pki::{Authority, Issued, Listener, client_params, dns, email, uri};

/// The listener's result for a client with this certificate, the same in both versions.
fn said(
    listener: &Listener,
    issued: &Issued,
    further: &[&Authority],
) -> [Result<Option<ClientIdentity>, String>; 2] {
    let config = listener.config();
    [V12, V13].map(|version| {
        let client = Client::with_certificate(version, &listener.authority, &[issued], further);
        let mut pair = client.connect(&config);
        match pair.try_handshake() {
            Ok(()) => Ok(pair.server.identity()),
            Err(failure) => {
                // The client has the alert now, or the server reports it at its next read.
                assert!(pair.server_speaks().is_err() || pair.client.process_new_packets().is_err());
                Err(failure.to_string())
            }
        }
    })
}

#[track_caller]
fn gets_in(listener: &Listener, issued: &Issued, further: &[&Authority]) -> ClientIdentity {
    let [old, new] = said(listener, issued, further).map(|said| said.unwrap().unwrap());
    assert_eq!(old, new);
    new
}

#[track_caller]
fn is_refused(listener: &Listener, issued: &Issued, further: &[&Authority], why: &str) {
    for said in said(listener, issued, further) {
        assert_eq!(said.unwrap_err(), format!("the client's certificate {why}"));
    }
}

#[test]
fn a_client_with_a_certificate_of_the_ca_gets_in_as_whom_it_names() {
    let listener = Listener::asking(ClientCertificate::Required);
    let mut params = client_params("device-7", 1);
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CountryName, "DE");
    params.subject_alt_names = vec![
        dns("device-7.example.org"),
        uri("spiffe://example.org/device-7"),
        email("device-7@example.org"),
        dns("d7.example.org"),
    ];
    let identity = gets_in(&listener, &listener.authority.issue(&params), &[]);
    assert_eq!(identity.common_name.as_deref(), Some("device-7"));
    assert_eq!(identity.subject, "C=DE,O=Example,CN=device-7");
    assert_eq!(identity.dns_names, ["device-7.example.org", "d7.example.org"]);
    assert_eq!(identity.uris, ["spiffe://example.org/device-7"]);
    assert_eq!(identity.emails, ["device-7@example.org"]);
}

#[test]
fn a_subject_is_written_as_openssl_writes_it() {
    let mut params = client_params(" #a, b+c\"d\\e<f>g; ", 1);
    params.distinguished_name.push(DnType::OrganizationName, "#1 Größe");
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, DnValue::PrintableString("x=y/z".try_into().unwrap()));
    params.distinguished_name.push(DnType::StateOrProvinceName, DnValue::BmpString("Ö".try_into().unwrap()));
    params.distinguished_name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "unknown");
    let listener = Listener::asking(ClientCertificate::Required);
    let identity = gets_in(&listener, &listener.authority.issue(&params), &[]);
    assert_eq!(
        identity.subject,
        r##"1.2.3.4=#0C07756E6B6E6F776E,ST=\C3\96,OU=x=y/z,O=\#1 Gr\C3\B6\C3\9Fe,CN=\ #a\, b\+c\"d\\e\<f\>g\;\ "##
    );
}

#[test]
fn a_common_name_with_control_characters_is_none() {
    let listener = Listener::asking(ClientCertificate::Required);
    for name in ["admin\0.example.org", "a\nb", ""] {
        let identity = gets_in(&listener, &listener.authority.issue(&client_params(name, 1)), &[]);
        assert_eq!(identity.common_name, None, "{name:?}");
    }
}

#[test]
fn a_client_without_a_certificate_gets_in_only_where_it_is_optional() {
    for version in [V12, V13] {
        let listener = Listener::asking(ClientCertificate::Required);
        let failure = Client::new(version, &listener.authority)
            .connect(&listener.config())
            .try_handshake()
            .unwrap_err();
        let said = failure.to_string();
        assert!(said.starts_with("the client has sent no certificate, and one is required"), "{said}");
        let listener = Listener::asking(ClientCertificate::Optional);
        let pair = Client::new(version, &listener.authority).connect(&listener.config()).handshake();
        assert_eq!(pair.server.identity(), None);
    }
}

/// Counts the names of CAs that it is told, and sends no certificate.
#[derive(Debug, Default)]
struct Hints(AtomicUsize);

impl ResolvesClientCert for Hints {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(hints.len(), Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn authorities_of_a_directory_count_and_clients_are_told_the_names_of_the_files_alone() {
    let (second, third) = (Authority::new("Second CA"), Authority::new("Third CA"));
    let mut listener = Listener::asking(ClientCertificate::Optional);
    let folder = listener.files.path("capath");
    std::fs::create_dir(&folder).unwrap();
    for (name, pem) in [("a", second.pem()), ("b", third.pem()), ("c", listener.authority.pem())] {
        std::fs::write(folder.join(name), pem).unwrap();
    }
    listener.settings.ca_directory = Some(folder);
    for told in [1, 0] {
        gets_in(&listener, &listener.authority.client("lamp"), &[]);
        gets_in(&listener, &third.client("lamp"), &[]);
        is_refused(
            &listener,
            &Authority::new("Fourth CA").client("lamp"),
            &[],
            "is not issued by a CA of client_ca",
        );
        for version in [V12, V13] {
            let mut client = Client::new(version, &listener.authority);
            let hints = Arc::new(Hints(AtomicUsize::new(9)));
            client.config.client_auth_cert_resolver = hints.clone();
            client.connect(&listener.config()).handshake();
            assert_eq!(hints.0.load(Ordering::Relaxed), told);
        }
        // Without the file the directory is enough.
        listener.settings.client_ca = None;
    }
}

#[test]
fn a_bad_certificate_is_refused_also_where_it_is_optional() {
    for wanted in [ClientCertificate::Optional, ClientCertificate::Required] {
        let listener = Listener::asking(wanted);
        let other = Authority::new("Another CA").client("device-7");
        is_refused(&listener, &other, &[], "is not issued by a CA of client_ca");
        let namesake = Authority::new("Test CA").client("device-7");
        is_refused(&listener, &namesake, &[], "names a CA of client_ca that has not signed it");

        let mut expired = client_params("device-7", 1);
        expired.not_after = date_time_ymd(2020, 1, 1);
        is_refused(&listener, &listener.authority.issue(&expired), &[], "has expired");

        let mut early = client_params("device-7", 1);
        early.not_before = date_time_ymd(4000, 1, 1);
        is_refused(&listener, &listener.authority.issue(&early), &[], "is not valid yet");

        let mut server = client_params("device-7", 1);
        server.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        is_refused(
            &listener,
            &listener.authority.issue(&server),
            &[],
            "is not for the authentication of clients",
        );
    }
}

#[test]
fn a_revoked_certificate_is_refused_and_others_are_not() {
    let mut listener = Listener::asking(ClientCertificate::Required);
    listener.crl(&listener.authority.revoke(&[7, 9], 4000));
    for (serial, revoked) in [(6, false), (7, true), (8, false), (9, true)] {
        let issued = listener.authority.issue(&client_params("device", serial));
        if revoked {
            is_refused(&listener, &issued, &[], "is revoked");
        } else {
            gets_in(&listener, &issued, &[]);
        }
    }
}

#[test]
fn a_chain_needs_a_list_for_each_of_its_issuers() {
    let mut listener = Listener::asking(ClientCertificate::Required);
    let between = listener.authority.issue_authority("Between");
    let issued = between.issue(&client_params("device-7", 7));
    assert_eq!(gets_in(&listener, &issued, &[&between]).common_name.as_deref(), Some("device-7"));
    is_refused(&listener, &issued, &[], "is not issued by a CA of client_ca");

    let (root, own) = (listener.authority.revoke(&[1234], 4000), between.revoke(&[8], 4000));
    listener.crl(&own);
    is_refused(&listener, &issued, &[&between], "has an issuer for which there is no revocation list");
    listener.crl(&root);
    is_refused(&listener, &issued, &[&between], "has an issuer for which there is no revocation list");
    listener.crl(&format!("{root}{own}"));
    gets_in(&listener, &issued, &[&between]);
    listener.crl(&format!("{root}{}", between.revoke(&[7], 4000)));
    is_refused(&listener, &issued, &[&between], "is revoked");
}

#[test]
fn an_expired_revocation_list_lets_nobody_in() {
    let mut listener = Listener::asking(ClientCertificate::Required);
    listener.crl(&listener.authority.revoke(&[], 2021));
    let issued = listener.authority.client("device-7");
    is_refused(&listener, &issued, &[], "can't be checked: the revocation list has expired");
}

#[test]
fn a_ca_that_is_not_valid_lets_nobody_in_unless_dates_do_not_count() {
    const OUTDATED: &str = "does not count: the certificate of its CA has expired or is not valid yet";
    let expired = Authority::valid("Expired CA", (2010, 1, 1), (2020, 1, 1));
    let early = Authority::valid("Early CA", (4000, 1, 1), (4050, 1, 1));
    let mut listener = Listener::asking(ClientCertificate::Required);
    let both = [listener.authority.pem(), expired.pem(), early.pem()].concat();
    listener.settings.client_ca = Some(listener.files.write("cas.pem", both));
    for outdated in [&expired, &early] {
        is_refused(&listener, &outdated.client("device-7"), &[], OUTDATED);
        // Certificates that such a CA has issued to other CAs are not accepted either.
        let between = outdated.issue_authority("Between");
        is_refused(&listener, &between.client("device-7"), &[&between], OUTDATED);
    }
    // The other CAs of the file still work, and a fault of the client's own certificate is reported as such.
    gets_in(&listener, &listener.authority.client("device-7"), &[]);
    let stranger = Authority::new("Another CA").client("device-7");
    is_refused(&listener, &stranger, &[], "is not issued by a CA of client_ca");
    listener.settings.client_certificate_dates = false;
    for outdated in [&expired, &early] {
        gets_in(&listener, &outdated.client("device-7"), &[]);
    }
    // A file with no other CA.
    listener.settings.client_certificate_dates = true;
    listener.settings.client_ca = Some(listener.files.write("ca.pem", expired.pem()));
    is_refused(&listener, &expired.client("device-7"), &[], OUTDATED);
    is_refused(&listener, &stranger, &[], "is not issued by a CA of client_ca");
}

#[test]
fn dates_of_what_clients_show_count_only_where_they_are_asked_for() {
    let mut listener = Listener::asking(ClientCertificate::Required);
    listener.settings.client_certificate_dates = false;
    let mut expired = client_params("device-7", 1);
    expired.not_before = date_time_ymd(2010, 1, 1);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let mut early = client_params("device-7", 2);
    early.not_before = date_time_ymd(4000, 1, 1);
    let between = listener.authority.issue_authority("Between");
    for params in [&expired, &early] {
        gets_in(&listener, &listener.authority.issue(params), &[]);
        gets_in(&listener, &between.issue(params), &[&between]);
    }
    // Everything else is still checked.
    let other = Authority::new("Another CA").issue(&expired);
    is_refused(&listener, &other, &[], "is not issued by a CA of client_ca");
    listener.crl(&listener.authority.revoke(&[1], 2021));
    is_refused(&listener, &listener.authority.issue(&expired), &[], "is revoked");
    gets_in(&listener, &listener.authority.issue(&early), &[]);
}

#[test]
fn no_change_of_a_byte_in_a_certificate_lets_it_in() {
    let authority = Authority::new("Test CA");
    let between = authority.issue_authority("Between");
    let itself = Authority::new("device-8");
    let client = CertificateDer::from(between.client("device-7").der);
    let further = [CertificateDer::from(between.der())];
    let anchors = || [&authority, &itself].map(|authority| CertificateDer::from(authority.der()));
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    for rules in [CertificateRules::Standard, CertificateRules::OpenSsl] {
        let file = Path::new("ca.pem");
        let dated = |der| (Validity::of_certificate(file, Role::ClientCa, &der).unwrap(), der);
        let mut verifier = Verifier::new(file, anchors().map(dated).into()).unwrap();
        verifier.rules = rules;
        let counts = |own: &CertificateDer<'_>, further: &[CertificateDer<'_>]| {
            verifier.verify_client_cert(own, further, now).is_ok()
        };
        assert!(counts(&client, &further) && !counts(&client, &[]));
        let changed = |der: &CertificateDer<'_>, at: usize| {
            let mut bytes = der.to_vec();
            bytes[at] ^= 1 << (at % 8);
            CertificateDer::from(bytes)
        };
        for at in 0..client.len() {
            assert!(!counts(&changed(&client, at), &further), "{rules:?}: byte {at} of the client's");
        }
        for at in 0..further[0].len() {
            assert!(!counts(&client, &[changed(&further[0], at)]), "{rules:?}: byte {at} of the CA's");
        }
        // A certificate that is in the file is accepted as it is there.
        let own = CertificateDer::from(itself.der());
        for at in 0..own.len() {
            assert!(!counts(&changed(&own, at), &[]), "{rules:?}: byte {at} of its own");
        }
    }
}

#[test]
fn of_a_file_with_many_authorities_only_those_on_the_way_are_read() {
    let authorities = ["One CA", "Two CA", "Three CA"].map(Authority::new);
    let ders = authorities.each_ref().map(|authority| CertificateDer::from(authority.der()));
    let names = ders.each_ref().map(|der| canonical(parse(der).unwrap().subject()));
    let trusted: Vec<_> = names.iter().zip(&ders).map(|(name, der)| Trusted::new(name, der)).collect();
    let client = CertificateDer::from(authorities[1].client("device-7").der);
    let client = parse(&client).unwrap();
    assert_eq!(Search::new(&trusted, &[], None, &|_| Ok(())).lead_up(&client), Ok(()));
    assert_eq!(trusted.iter().map(Trusted::is_read).collect::<Vec<_>>(), [false, true, false]);
}
