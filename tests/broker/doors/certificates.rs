//! Certificates that have expired, are not valid yet or expire soon: the notices for the operator, and which
//! clients are accepted.

use super::pki::{Authority, showing};
use super::wire::{CONNACK, connect, expect};
use crate::running::PATIENCE;
use crate::{Running, config_file, midge, run, stderr};
use midge_kit::codec::{self, Encode, V311};
use rustls::ClientConfig;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

#[test]
fn certificate_that_is_not_good_for_long_is_told_at_check_start_and_reload() {
    let authority = Authority::new("dates");
    for (name, days, words) in [
        ("expired", -60..-30, "has expired on "),
        ("early", 30..60, "is not valid before "),
        ("short", -30..10, "days"),
    ] {
        let issued = authority.server_valid(name, 0x0a0b, days);
        let told = |line: &str| {
            line.contains(&issued.chain.display().to_string())
                && line.contains("CN=server (serial 0a:0b)")
                && line.contains(words)
                && line.contains(" UTC")
        };
        let text = format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{}", issued.rows());
        let output = run(midge().arg("check-config").arg(config_file(&format!("dates-{name}"), &text)));
        assert!(output.status.success() && told(&stderr(&output)), "{}", stderr(&output));

        let running = Running::start(&format!("dates-{name}"), &issued.rows());
        running.line("the date", |line| line.contains("WARN") && told(line));
        running.hang_up();
        running.line("the reload", |line| line.contains("SIGHUP") && line.contains("read again"));
        let count = running.lines().iter().filter(|line| line.contains("WARN") && told(line)).count();
        assert_eq!(count, 2, "once at the start, once at the reload: {:#?}", running.lines());
    }
    // A certificate that is valid for long causes no notice.
    let issued = authority.server_valid("good", 1, -30..300);
    let running = Running::start("dates-good", &issued.rows());
    let chain = issued.chain.display().to_string();
    assert!(!running.lines().iter().any(|line| line.contains("WARN") && line.contains(&chain)));
}

#[test]
fn reload_says_which_certificate_it_has_loaded() {
    let authority = Authority::new("loaded");
    let issued = authority.server_valid("server", 0x0102, -1..100);
    let running = Running::start("dates-loaded", &issued.rows());
    running.line("the first", |line| line.contains("CN=server, serial 01:02, ends on "));
    authority.server_valid("server", 0x0304, -1..200);
    running.hang_up();
    let line = running.line("the second", |line| line.contains("SIGHUP") && line.contains("serial"));
    assert!(line.contains(&issued.chain.display().to_string()), "{line}");
    assert!(line.contains("CN=server, serial 03:04, ends on ") && line.contains(" UTC"), "{line}");
}

#[test]
fn client_ca_that_has_expired_lets_nobody_in_unless_dates_do_not_count() {
    let server = Authority::new("dates-server");
    let fleet = Authority::valid("dates-fleet", -400..-30);
    let lamp = fleet.client("lamp");
    let config = showing(&server, &lamp);
    for counts in [true, false] {
        let rows = format!(
            "{}tls_client_ca = {:?}\ntls_client_certificate = \"required\"\ntls_user_name = \"common_name\"\n\
             tls_client_certificate_dates = {counts}\n",
            server.server("server").rows(),
            fleet.ca
        );
        let running = Running::start(&format!("dates-ca-{counts}"), &rows);
        running.line("the date", |line| {
            line.contains("WARN")
                && line.contains("the client CA CN=the tests' authority")
                && line.contains("has expired on ")
        });
        let mut stream = super::pki::open_with(&config, running.address);
        if counts {
            let mut answer = [0; 4];
            let got = stream.write_all(&connect("lamp")).and_then(|()| stream.read_exact(&mut answer));
            assert!(got.is_err(), "{answer:?}");
            running.line("why", |line| {
                line.contains("the certificate of its CA has expired or is not valid yet")
            });
        } else {
            stream.write_all(&connect("lamp")).expect("the handshake succeeds");
            expect(&mut stream, &CONNACK);
        }
    }
}

#[test]
fn client_that_its_certificate_has_named_may_have_a_large_connect() {
    let authority = Authority::new("large-connect");
    let rows = format!(
        "{}tls_client_ca = {:?}\ntls_client_certificate = \"optional\"\n",
        authority.server("server").rows(),
        authority.ca
    );
    let config = showing(&authority, &authority.client("lamp"));
    // The wills have 40,000 bytes and come at once, with names for both shards.
    let will = codec::will("w", vec![b'x'; 40_000]);
    let large = |id: &str| codec::connect(V311, id).will(will.clone()).encode(V311);
    for (names, good) in [("common_name", true), ("none", false)] {
        let rows =
            format!("{rows}tls_user_name = {names:?}\nallow_anonymous = true\n[runtime]\nshards = 2\n");
        let running = Running::start(&format!("large-connect-{names}"), &rows);
        for number in 0..4 {
            let mut stream = super::pki::open_with(&config, running.address);
            let mut answer = [0; 4];
            let got = stream
                .write_all(&large(&format!("lamp{number}")))
                .and_then(|()| stream.read_exact(&mut answer));
            assert_eq!(got.is_ok() && answer == CONNACK, good, "{names}: {answer:?}");
        }
    }
}

/// Whether a client is accepted with its certificate.
fn gets_in(config: &Arc<ClientConfig>, running: &Running) -> bool {
    let mut stream = super::pki::open_with(config, running.address);
    let mut answer = [0; 4];
    let got = stream.write_all(&connect("lamp")).and_then(|()| stream.read_exact(&mut answer));
    got.is_ok() && answer == CONNACK
}

#[test]
fn authorities_of_a_directory_count_beside_the_file_and_are_read_again_at_hangup() {
    let (server, first, second) =
        (Authority::new("directory-server"), Authority::new("directory-a"), Authority::new("directory-b"));
    let folder = server.ca.with_file_name("capath");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    std::fs::copy(&second.ca, folder.join("second.pem")).expect("a file of ours");
    std::fs::write(folder.join("README"), "no certificate").expect("a file of ours");
    std::fs::write(folder.join("cut.pem"), "-----BEGIN CERTIFICATE-----\nMIIB\n").expect("a file of ours");
    let issued = server.server("server");
    let text = format!(
        "user nobody\nlistener {} 127.0.0.1\nallow_anonymous true\ncafile {}\ncapath {}\ncertfile {}\nkeyfile {}\n\
         require_certificate true\n",
        crate::running::free_port(),
        first.ca.display(),
        folder.display(),
        issued.chain.display(),
        issued.key.display()
    );
    let file = server.ca.with_file_name("mosquitto.conf");
    std::fs::write(&file, text).expect("a file of ours");
    let mut command = crate::midge();
    command.arg("--mosquitto-conf").arg(&file);
    let running = Running::start_command(command).expect("it starts");
    running.line("the damaged file", |line| line.contains("skipped: ") && line.contains("capath/cut.pem"));
    assert!(!running.lines().concat().contains("README"));
    let third = Authority::new("directory-c");
    let [of_first, of_second, of_third] =
        [&first, &second, &third].map(|authority| showing(&server, &authority.client("lamp")));
    assert!(gets_in(&of_first, &running) && gets_in(&of_second, &running) && !gets_in(&of_third, &running));

    std::fs::rename(folder.join("second.pem"), folder.join("aside")).expect("a file of ours");
    std::fs::copy(&third.ca, folder.join("aside")).expect("a file of ours");
    running.hang_up();
    running.line("the reload", |line| line.contains("are read again"));
    // The shards switch to the new directory one by one, soon.
    let until = Instant::now() + PATIENCE;
    while !gets_in(&of_third, &running) || gets_in(&of_second, &running) {
        assert!(Instant::now() < until, "{:#?}", running.lines());
    }
    assert!(gets_in(&of_first, &running));
}
