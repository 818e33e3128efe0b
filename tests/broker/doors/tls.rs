//! TLS: the clients of mosquitto and OpenSSL, wrong protocols, many clients, and one that stops half way.

use super::pki::{Authority, TlsStream, open_with, tls_half};
use super::wire::{self, CONNACK, connect, expect, publish};
use crate::Running;
use crate::listeners::second_address;
use crate::needs;
use crate::running::{free_port, midge};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn mosquitto(program: &str, running: &Running, authority: &Authority, arguments: &[&str]) -> Command {
    let mut command = needs::command(program);
    command.args(["-h", "127.0.0.1", "-p", &running.address.port().to_string(), "-q", "1"]);
    command.arg("--cafile").arg(&authority.ca).args(arguments).stderr(Stdio::piped()).stdout(Stdio::piped());
    command
}

#[test]
fn mosquitto_clients_come_in_over_tls_on_each_shard() {
    if !needs::has("mosquitto_pub") {
        return;
    }
    for shards in [1, 2] {
        let authority = Authority::new(&format!("mosquitto{shards}"));
        let rest = format!("{}[runtime]\nshards = {shards}\n", authority.server("server").rows());
        let running = Running::start(&format!("doors-mosquitto{shards}"), &rest);
        // There are enough names for both shards, so some connections move with their TLS state.
        for number in 0..4 {
            let (id, topic) = (format!("pub{number}"), format!("tls/{number}"));
            let version = ["mqttv5", "mqttv311"][number % 2];
            let arguments = ["-i", &id, "-V", version, "-r", "-t", &topic, "-m", "hello"];
            let output =
                mosquitto("mosquitto_pub", &running, &authority, &arguments).output().expect("it runs");
            assert!(output.status.success(), "{output:?}");
        }
        for number in 0..4 {
            let id = format!("sub{number}");
            let arguments = ["-i", &id, "-t", "tls/#", "-C", "4", "-W", "60"];
            let output =
                mosquitto("mosquitto_sub", &running, &authority, &arguments).output().expect("it runs");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n".repeat(4), "{output:?}");
        }
    }
}

#[test]
fn where_a_client_certificate_is_required_nobody_gets_in_without() {
    if !needs::has("mosquitto_pub") {
        return;
    }
    let authority = Authority::new("required");
    let rest = format!(
        "{}tls_client_certificate = \"required\"\ntls_client_ca = {:?}\n[runtime]\nshards = 2\n",
        authority.server("server").rows(),
        authority.ca
    );
    let running = Running::start("doors-required", &rest);
    let shown = authority.client("lamp");
    let stranger = Authority::new("required-stranger").client("stranger");
    for (certificate, may) in [(Some(&shown), true), (Some(&stranger), false), (None, false)] {
        for number in 0..2 {
            let id = format!("lamp{number}");
            let mut command =
                mosquitto("mosquitto_pub", &running, &authority, &["-i", &id, "-t", "t", "-m", "x"]);
            if let Some(issued) = certificate {
                command.arg("--cert").arg(&issued.chain).arg("--key").arg(&issued.key);
            }
            let output = command.output().expect("it runs");
            assert_eq!(output.status.success(), may, "{output:?}");
        }
    }
    running.line("who has none", |line| {
        line.contains("peer=127.0.0.1:") && line.contains("the client has sent no certificate")
    });
}

#[test]
fn openssl_speaks_both_versions() {
    if !needs::has("openssl") {
        return;
    }
    let authority = Authority::new("openssl");
    let running = Running::start("doors-openssl", &authority.server("server").rows());
    for version in ["-tls1_2", "-tls1_3"] {
        let mut client = needs::command("openssl")
            .args(["s_client", "-quiet", "-verify_return_error", version])
            .args(["-connect", &running.address.to_string(), "-CAfile"])
            .arg(&authority.ca)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it was there just now");
        client.stdin.as_mut().expect("piped").write_all(&connect("openssl")).expect("it reads");
        let mut answer = [0; 4];
        let got = client.stdout.as_mut().expect("piped").read_exact(&mut answer);
        let _ = client.kill();
        client.wait().expect("our child");
        got.unwrap_or_else(|error| panic!("{version}: {error}"));
        assert_eq!(answer, CONNACK, "{version}");
    }
}

/// The lengths of the records that `openssl s_client -msg` has shown as received.
fn received_records(shown: &str) -> Vec<usize> {
    let mut lines = shown.lines();
    let mut lengths = Vec::new();
    while let Some(line) = lines.next() {
        // The line may come after what was received.
        if !(line.contains("<<< ") && line.ends_with("RecordHeader [length 0005]")) {
            continue;
        }
        let header: Vec<_> = lines.next().expect("its bytes").split_whitespace().collect();
        lengths.push(usize::from_str_radix(&header[3..5].concat(), 16).expect("two bytes"));
    }
    lengths
}

#[test]
fn a_device_with_a_small_buffer_gets_small_records() {
    if !needs::has("openssl") {
        return;
    }
    let authority = Authority::new("records");
    // The length is set by the listener, or by the client's wish.
    for (rows, wish) in [("tls_record_bytes = 512\n", None), ("", Some("512"))] {
        let rest = format!("{}{rows}", authority.server("server").rows());
        let running = Running::start("doors-records", &rest);
        records_are_small(&running, &authority, wish);
    }
}

fn records_are_small(running: &Running, authority: &Authority, wish: Option<&str>) {
    for version in ["-tls1_2", "-tls1_3"] {
        let mut client = needs::command("openssl")
            .args(["s_client", "-quiet", "-msg", version])
            .args(wish.into_iter().flat_map(|bytes| ["-maxfraglen", bytes]))
            .args(["-connect", &running.address.to_string(), "-CAfile"])
            .arg(&authority.ca)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it was there just now");
        let message = publish("big", &[b'x'; 5000]);
        let asked = [connect("records"), wire::subscribe("big"), message.clone()].concat();
        client.stdin.as_mut().expect("piped").write_all(&asked).expect("it reads");
        let mut shown = Vec::new();
        let mut output = client.stdout.take().expect("piped");
        let mut buffer = [0; 4096];
        while shown.iter().filter(|byte| **byte == b'x').count() < 5000 {
            match output.read(&mut buffer).expect("a pipe") {
                0 => break,
                read => shown.extend_from_slice(&buffer[..read]),
            }
        }
        let _ = client.kill();
        client.wait().expect("our child");
        let records = received_records(&String::from_utf8_lossy(&shown));
        assert!(records.len() > 10, "{version}: {records:?}");
        assert!(records.iter().all(|length| *length <= 512 + 24), "{version}: {records:?}");
    }
}

#[test]
fn a_client_without_a_common_cipher_suite_gets_a_handshake_failure_and_a_line() {
    if !needs::has("openssl") {
        return;
    }
    let authority = Authority::new("suites");
    let running = Running::start("doors-suites", &authority.server("server").rows());
    for arguments in
        [["-tls1_2", "-cipher", "AES128-SHA"], ["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"]]
    {
        let client = needs::command("openssl")
            .args(["s_client", "-connect", &running.address.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("it was there just now");
        let said = String::from_utf8_lossy(&client.stderr);
        assert!(said.contains("alert number 40"), "{arguments:?}: {said}");
    }
    running
        .line("the suites", |line| line.contains("the client offers no cipher suite that is accepted here"));
}

/// The answer to OpenSSL's client for a CONNECT, with these arguments.
fn connack_of_openssl(running: &Running, authority: &Authority, arguments: &[&str]) -> Vec<u8> {
    let mut client = needs::command("openssl")
        .args(["s_client", "-quiet", "-connect", &running.address.to_string(), "-CAfile"])
        .arg(&authority.ca)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it was there just now");
    // A refused client has closed its end.
    let _ = client.stdin.as_mut().expect("piped").write_all(&connect("openssl"));
    let mut answer = vec![0; 4];
    let got = client.stdout.as_mut().expect("piped").read_exact(&mut answer);
    let _ = client.kill();
    client.wait().expect("our child");
    got.map_or_else(|_| Vec::new(), |()| answer)
}

#[test]
fn a_server_name_that_is_no_dns_name_is_refused_in_words() {
    if !needs::has("openssl") {
        return;
    }
    let authority = Authority::new("server-names");
    let running = Running::start("doors-server-names", &authority.server("server").rows());
    assert_eq!(connack_of_openssl(&running, &authority, &["-servername", "host"]), CONNACK);
    for name in ["mqtt.example.com:8883", "foo bar", "[host]"] {
        assert_eq!(connack_of_openssl(&running, &authority, &["-servername", name]), b"", "{name}");
    }
    running.line("the name", |line| line.contains("the client's server name (SNI) is no DNS name"));
}

#[test]
fn under_a_mosquitto_conf_a_handshake_may_take_12_seconds() {
    let authority = Authority::new("slow");
    let issued = authority.server("server");
    let port = free_port();
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\ncertfile {}\nkeyfile {}\n",
        issued.chain.display(),
        issued.key.display()
    );
    let file = issued.chain.with_file_name("slow.conf");
    std::fs::write(&file, text).expect("a file of ours");
    let mut command = midge();
    command.arg("serve").arg("--mosquitto-conf").arg(file);
    let running = Running::start_command(command).expect("it starts");
    let mut stream = authority.open(running.address);
    stream.conn.write_tls(&mut stream.sock).expect("the hello goes out");
    // A device with 48 MHz computes for about this long.
    std::thread::sleep(Duration::from_secs(12));
    stream.write_all(&connect("slow")).expect("it is still there");
    expect(&mut stream, &CONNACK);
}

#[test]
fn minimum_of_1_3_refuses_1_2_with_words() {
    if !needs::has("openssl") {
        return;
    }
    let authority = Authority::new("minimum");
    let rest = format!("{}tls_minimum = \"1.3\"\n", authority.server("server").rows());
    let running = Running::start("doors-minimum", &rest);
    let client = needs::command("openssl")
        .args(["s_client", "-tls1_2", "-connect", &running.address.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("it was there just now");
    assert!(!client.status.success(), "{client:?}");
    running.line("the version", |line| line.contains("no version of TLS that is accepted here"));
}

#[test]
fn who_takes_the_wrong_door_is_told_from_the_log() {
    let authority = Authority::new("wrong");
    let rest = format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{}", authority.server("server").rows());
    let running = Running::start("doors-wrong", &rest);
    let (plain, tls) = (running.address, second_address(&running));

    let mut stream = wire::open(tls);
    stream.write_all(&connect("plain")).expect("a socket takes it");
    assert_eq!(wire::rest(&mut stream), b"");
    running.line("MQTT to TLS", |line| line.contains("the client speaks MQTT without TLS to a TLS port"));

    let mut stream = authority.open(plain);
    stream.write_all(&connect("tls")).expect_err("nobody answers the handshake");
    let peer = stream.sock.local_addr().expect("bound").to_string();
    let line = running.line("TLS to MQTT", |line| line.contains(&peer));
    assert!(line.contains("the client speaks TLS, and this listener does not"), "{line}");
}

#[test]
fn a_message_of_many_records_arrives_over_tls_whole() {
    let authority = Authority::new("records");
    let rest = format!("{}[runtime]\nshards = 2\n", authority.server("server").rows());
    let running = Running::start("doors-records", &rest);
    let payload: Vec<u8> = (0..500_000_u32).map(|at| (at % 251) as u8).collect();
    for number in 0..4 {
        let mut client = authority.open(running.address);
        // CONNECT and the packets after it are in one record. All of them move.
        let mut first = connect(&format!("records{number}"));
        first.extend(wire::subscribe("big"));
        client.write_all(&first).expect("the broker reads");
        expect(&mut client, &CONNACK);
        expect(&mut client, &wire::SUBACK);
        client.write_all(&publish("big", &payload)).expect("the broker reads");
        expect(&mut client, &publish("big", &payload));
    }
}

#[test]
fn a_crowd_of_handshakes_gets_in_while_others_are_served() {
    const CROWD: usize = 200;
    let authority = Authority::new("crowd");
    let rest = format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n{}[limits]\nconnect_seconds = 600\n[runtime]\nshards = 2\n",
        authority.server("server").rows()
    );
    let running = Running::start("doors-crowd", &rest);
    let tls = second_address(&running);
    let config = authority.trusting();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let plain = threads.spawn(|| {
            let mut client = wire::open(running.address);
            client.write_all(&connect("plain")).expect("the broker reads");
            expect(&mut client, &CONNACK);
            let mut served = 0;
            while !is_over.load(Ordering::Acquire) || served == 0 {
                wire::echo(&mut client, "plain", b"still here");
                served += 1;
            }
        });
        let mut crowd: Vec<TlsStream> = (0..CROWD).map(|_| open_with(&config, tls)).collect();
        for client in &mut crowd {
            // All have sent their hello before one of them continues.
            client.conn.write_tls(&mut client.sock).expect("a socket takes it");
        }
        for (number, client) in crowd.iter_mut().enumerate() {
            client.write_all(&connect(&format!("crowd{number}"))).expect("the handshake succeeds");
            expect(client, &CONNACK);
        }
        is_over.store(true, Ordering::Release);
        plain.join().expect("the plain client was served");
    });
}

#[test]
fn a_handshake_that_stops_is_counted_and_ended() {
    let authority = Authority::new("stops");
    let rest = format!(
        "{}[limits]\nconnect_seconds = 8\nhandshakes = 1\n[runtime]\nshards = 1\n",
        authority.server("server").rows()
    );
    let running = Running::start("doors-stops", &rest);
    let mut slow = wire::open(running.address);
    let mut hello = Vec::new();
    tls_half(&authority.trusting()).write_tls(&mut hello).expect("memory takes it");
    slow.write_all(&hello[..hello.len() / 2]).expect("a socket takes it");

    let mut second = wire::open(running.address);
    assert_eq!(wire::rest(&mut second), b"", "the one place is taken");
    running.line("the bound", |line| line.contains("limits.handshakes"));

    assert_eq!(wire::rest(&mut slow), b"");
    let peer = slow.local_addr().expect("bound").to_string();
    running.line("the time", |line| {
        line.contains("no CONNECT within limits.connect_seconds") && line.contains(&peer)
    });
    let mut third = authority.open(running.address);
    third.write_all(&connect("third")).expect("its place is free");
    expect(&mut third, &CONNACK);
}
