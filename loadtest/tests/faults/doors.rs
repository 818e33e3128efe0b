//! TLS and WebSockets: the same verdicts as on plain TCP, and what only they can get wrong.

use super::relay::{Ends, Relay};
use super::toy::{Toy, Vice};
use super::{FAN_OUT, Outcome, PAIRS, harness, read};

const TLS: Ends = Ends { tls: true, websocket: false, client_certificate: false };
const WEBSOCKET: Ends = Ends { tls: false, websocket: true, client_certificate: false };
const BOTH: Ends = Ends { tls: true, websocket: true, client_certificate: false };

/// Runs the harness through `relay`; `CA` in the arguments stands for its file.
fn through(relay: &Relay, arguments: &str) -> Outcome {
    read(harness(relay.port, &arguments.replace("CA", &relay.file("ca"))))
}

#[test]
fn a_clean_broker_gives_no_fault_behind_any_door() {
    for (ends, doors) in [
        (TLS, &["--tls --ca CA", "--tls --ca CA --tls-version 1.2", "--tls --insecure --resume"][..]),
        (WEBSOCKET, &["--websocket", "--websocket /mqtt"]),
        (BOTH, &["--tls --ca CA --websocket", "--tls --insecure --tls-version 1.2 --resume --websocket"]),
    ] {
        let toy = Toy::start(Vice::None);
        let relay = Relay::start(toy.port, ends);
        for door in doors {
            for scenario in [
                &format!("{PAIRS} --qos 2 --mqtt 5.0")[..],
                // Packets of more than one record, frame and read.
                &format!("{PAIRS} --qos 1 --window 4 --payload 700000"),
                &format!("{FAN_OUT} --rate 500"),
                "storm --concurrency 8 --warm-up 0 --seconds 0.3",
                "idle --connections 20 --ping-interval 0.1 --seconds 0.3",
                "retained --messages 300 --subscribers 2 --stall 4",
                "offline --sessions 3 --messages 100 --stall 4",
            ] {
                let outcome = through(&relay, &format!("{scenario} {door}"));
                assert_eq!((outcome.status, outcome.faults()), (0, vec![]), "{door}: {}", outcome.json);
                assert!(outcome.number("latency_samples") > 0.0, "{door}: {}", outcome.json);
            }
        }
    }
}

#[test]
fn faults_are_counted_behind_every_door_as_often_as_they_were_made() {
    for (ends, door) in
        [(TLS, "--tls --ca CA"), (WEBSOCKET, "--websocket"), (BOTH, "--tls --insecure --websocket")]
    {
        for (vice, scenario, faults) in [
            (Vice::Drop, "--qos 0", &["lost"][..]),
            (Vice::Repeat, "--qos 1", &["duplicate"]),
            (Vice::FlipPayloadBit, "--qos 1", &["lost", "corrupt"]),
            (Vice::ForgetPuback, "--qos 1", &["unanswered"]),
        ] {
            let toy = Toy::start(vice);
            let relay = Relay::start(toy.port, ends);
            let outcome = through(&relay, &format!("{PAIRS} {scenario} {door}"));
            let done = toy.done();
            let expected: Vec<_> = faults.iter().map(|&fault| (fault, done)).collect();
            assert!(done > 0 && outcome.faults() == expected, "{vice:?}, {door}: {}", outcome.json);
            assert_eq!(outcome.status, 1);
        }
        for (vice, fault) in [(Vice::CloseSubscriber, "closed"), (Vice::SendGarbage, "protocol")] {
            let toy = Toy::start(vice);
            let relay = Relay::start(toy.port, ends);
            let outcome = through(&relay, &format!("{PAIRS} --qos 1 {door}"));
            let faults = outcome.faults();
            assert!(
                faults.iter().any(|row| row.0 == fault && row.1 <= 3),
                "{vice:?}, {door}: {}",
                outcome.json
            );
        }
    }
}

#[test]
fn sessions_are_resumed_when_asked_to_and_only_then() {
    let toy = Toy::start(Vice::None);
    let relay = Relay::start(toy.port, TLS);
    for version in ["1.2", "1.3"] {
        // One after the other, so that only the first has nothing to resume.
        let pairs = format!("{PAIRS} --connecting 1 --tls --ca CA --tls-version {version}");
        for (flag, expected) in [("", (6.0, 0.0)), ("--resume", (1.0, 5.0))] {
            let outcome = through(&relay, &format!("{pairs} {flag}"));
            let made = (outcome.number("tls_full"), outcome.number("tls_resumed"));
            assert_eq!(made, expected, "{version} {flag}: {}", outcome.json);
        }
    }
}

#[test]
fn a_client_certificate_is_shown_where_one_is_asked_for() {
    let toy = Toy::start(Vice::None);
    let relay = Relay::start(toy.port, Ends { client_certificate: true, ..TLS });
    let shown = format!("{PAIRS} --tls --ca CA --cert {} --key {}", relay.file("cert"), relay.file("key"));
    for version in ["1.2", "1.3"] {
        let outcome = through(&relay, &format!("{shown} --tls-version {version}"));
        assert_eq!((outcome.status, outcome.faults()), (0, vec![]), "{}", outcome.json);
        let without = format!("{PAIRS} --tls --tls-version {version} --ca {}", relay.file("ca"));
        assert_eq!(harness(relay.port, &without).status.code(), Some(2));
    }
}

#[test]
fn a_broker_that_cannot_be_trusted_or_speaks_something_else_is_told_and_exits_with_2() {
    let toy = Toy::start(Vice::None);
    let (tls, websocket) = (Relay::start(toy.port, TLS), Relay::start(toy.port, WEBSOCKET));
    let said = |port: u16, door: &str| {
        let output = harness(port, &format!("{PAIRS} {door}"));
        assert_eq!(output.status.code(), Some(2), "{door}");
        String::from_utf8(output.stderr).unwrap()
    };
    let untrusted = said(tls.port, &format!("--tls --ca {}", tls.file("other-ca")));
    assert!(untrusted.contains("certificate"), "{untrusted}");
    let misnamed = said(tls.port, &format!("--tls --ca {} --host localhost", tls.file("ca")));
    assert!(misnamed.contains("certificate"), "{misnamed}");
    assert!(said(tls.port, "--tls").contains("--ca"));
    assert!(said(tls.port, "--tls --ca /nowhere.pem").contains("/nowhere.pem"));
    assert!(said(websocket.port, "--websocket /elsewhere").contains("404"));
    assert!(!said(tls.port, "--insecure").is_empty());
}
