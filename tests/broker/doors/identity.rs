//! Which name counts: the certificate's name overrides the client's. A ticket is only valid at its own
//! listener.

use super::pki::{Authority, open_with};
use super::wire::{CONNACK, connect, expect};
use crate::Running;
use crate::listeners::second_address;
use crate::needs;
use std::io::{Read, Write};

#[test]
fn ticket_of_a_listener_without_client_certificates_opens_no_other() {
    let authority = Authority::new("tickets");
    let rows = authority.server("server").rows();
    let rest = format!(
        "{rows}[[listeners]]\naddress = \"127.0.0.1:0\"\n{rows}tls_client_certificate = \"required\"\n\
         tls_client_ca = {:?}\n[runtime]\nshards = 1\n",
        authority.ca
    );
    let running = Running::start("doors-tickets", &rest);
    let other = second_address(&running);
    // Both have the same name, so one store of tickets serves both.
    let config = authority.trusting();
    for resumed in [false, true] {
        let mut open = open_with(&config, running.address);
        open.write_all(&connect("open")).expect("the broker reads");
        expect(&mut open, &CONNACK);
        assert_eq!(open.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed), resumed);
    }
    // The ticket of the second connection is used here.
    let mut closed = open_with(&config, other);
    let mut answer = [0; 4];
    let got = closed.write_all(&connect("closed")).and_then(|()| closed.read_exact(&mut answer));
    assert!(got.is_err(), "{answer:?}");
    assert!(!running.lines().iter().any(|line| line.contains("client=\"closed\"")));
}

#[test]
fn name_of_the_certificate_counts_and_not_the_one_in_connect() {
    if !needs::has("mosquitto_pub") {
        return;
    }
    let authority = Authority::new("names");
    let list = authority.ca.with_file_name("acl");
    std::fs::write(&list, "user lamp\ntopic write lamp/#\nuser admin\ntopic write #\n").expect("written");
    let rest = format!(
        "{}tls_client_certificate = \"required\"\ntls_client_ca = {:?}\ntls_user_name = \"common_name\"\n\
         acl_file = {list:?}\n[runtime]\nshards = 2\n",
        authority.server("server").rows(),
        authority.ca,
    );
    let running = Running::start("doors-names", &rest);
    let lamp = authority.client("lamp");
    for (id, topic, may) in [("a", "lamp/state", true), ("admin", "other", false), ("b", "other", false)] {
        let output = needs::command("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &running.address.port().to_string(), "-V", "5", "-q", "1"])
            .args(["-u", "admin", "-P", "any", "-i", id, "-t", topic, "-m", "x", "--cafile"])
            .arg(&authority.ca)
            .arg("--cert")
            .arg(&lamp.chain)
            .arg("--key")
            .arg(&lamp.key)
            .output()
            .expect("it was there just now");
        let refused = String::from_utf8_lossy(&output.stderr).contains("Not authorized");
        assert_eq!(refused, !may, "{output:?}");
    }
    running.line("its name", |line| line.contains("client connected") && line.contains("user=\"lamp\""));
    assert!(!running.lines().iter().any(|line| line.contains("user=\"admin\"")));
}
