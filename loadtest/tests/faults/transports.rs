//! TLS and WebSocket: the same results as on plain TCP, and the faults that only they can have.

use super::mock_broker::{Fault, MockBroker};
use super::proxy::{Proxy, ProxyLayers};
use super::{FAN_OUT, PAIRS, RunResult, loadtest, read};

const TLS: ProxyLayers = ProxyLayers { tls: true, websocket: false, client_certificate: false };
const WEBSOCKET: ProxyLayers = ProxyLayers { tls: false, websocket: true, client_certificate: false };
const BOTH: ProxyLayers = ProxyLayers { tls: true, websocket: true, client_certificate: false };

/// Runs the harness through `proxy`. `CA` in the arguments stands for its file.
fn run_through(proxy: &Proxy, arguments: &str) -> RunResult {
    read(loadtest(proxy.port, &arguments.replace("CA", &proxy.file("ca"))))
}

#[test]
fn correct_broker_gives_no_fault_on_any_transport() {
    for (layers, transports) in [
        (TLS, &["--tls --ca CA", "--tls --ca CA --tls-version 1.2", "--tls --insecure --resume"][..]),
        (WEBSOCKET, &["--websocket", "--websocket /mqtt"]),
        (BOTH, &["--tls --ca CA --websocket", "--tls --insecure --tls-version 1.2 --resume --websocket"]),
    ] {
        let broker = MockBroker::start(Fault::None);
        let proxy = Proxy::start(broker.port, layers);
        for transport in transports {
            for scenario in [
                &format!("{PAIRS} --qos 2 --mqtt 5.0")[..],
                // The packets are larger than one record, one frame and one read.
                &format!("{PAIRS} --qos 1 --window 4 --payload 700000"),
                &format!("{FAN_OUT} --rate 500"),
                "storm --concurrency 8 --warm-up 0 --seconds 0.3",
                "idle --connections 20 --ping-interval 0.1 --seconds 0.3",
                "retained --messages 300 --subscribers 2 --stall 4",
                "offline --sessions 3 --messages 100 --stall 4",
            ] {
                let result = run_through(&proxy, &format!("{scenario} {transport}"));
                assert_eq!((result.status, result.faults()), (0, vec![]), "{transport}: {}", result.json);
                assert!(result.number("latency_samples") > 0.0, "{transport}: {}", result.json);
            }
        }
    }
}

#[test]
fn faults_are_counted_exactly_on_every_transport() {
    for (layers, transport) in
        [(TLS, "--tls --ca CA"), (WEBSOCKET, "--websocket"), (BOTH, "--tls --insecure --websocket")]
    {
        for (fault, scenario, faults) in [
            (Fault::Drop, "--qos 0", &["lost"][..]),
            (Fault::Repeat, "--qos 1", &["duplicate"]),
            (Fault::FlipPayloadBit, "--qos 1", &["lost", "corrupt"]),
            (Fault::ForgetPuback, "--qos 1", &["unanswered"]),
        ] {
            let broker = MockBroker::start(fault);
            let proxy = Proxy::start(broker.port, layers);
            let result = run_through(&proxy, &format!("{PAIRS} {scenario} {transport}"));
            let injected = broker.injected();
            let expected: Vec<_> = faults.iter().map(|&name| (name, injected)).collect();
            assert!(injected > 0 && result.faults() == expected, "{fault:?}, {transport}: {}", result.json);
            assert_eq!(result.status, 1);
        }
        for (fault, name) in [(Fault::CloseSubscriber, "closed"), (Fault::SendGarbage, "protocol")] {
            let broker = MockBroker::start(fault);
            let proxy = Proxy::start(broker.port, layers);
            let result = run_through(&proxy, &format!("{PAIRS} --qos 1 {transport}"));
            let faults = result.faults();
            assert!(
                faults.iter().any(|row| row.0 == name && row.1 <= 3),
                "{fault:?}, {transport}: {}",
                result.json
            );
        }
    }
}

#[test]
fn tls_sessions_are_resumed_only_with_the_option() {
    let broker = MockBroker::start(Fault::None);
    let proxy = Proxy::start(broker.port, TLS);
    for version in ["1.2", "1.3"] {
        // The clients connect one after the other, so that only the first has no session to resume.
        let pairs = format!("{PAIRS} --connecting 1 --tls --ca CA --tls-version {version}");
        for (flag, expected) in [("", (6.0, 0.0)), ("--resume", (1.0, 5.0))] {
            let result = run_through(&proxy, &format!("{pairs} {flag}"));
            let made = (result.number("tls_full"), result.number("tls_resumed"));
            assert_eq!(made, expected, "{version} {flag}: {}", result.json);
        }
    }
}

#[test]
fn client_certificate_is_sent_on_request() {
    let broker = MockBroker::start(Fault::None);
    let proxy = Proxy::start(broker.port, ProxyLayers { client_certificate: true, ..TLS });
    let shown = format!("{PAIRS} --tls --ca CA --cert {} --key {}", proxy.file("cert"), proxy.file("key"));
    for version in ["1.2", "1.3"] {
        let result = run_through(&proxy, &format!("{shown} --tls-version {version}"));
        assert_eq!((result.status, result.faults()), (0, vec![]), "{}", result.json);
        let without = format!("{PAIRS} --tls --tls-version {version} --ca {}", proxy.file("ca"));
        assert_eq!(loadtest(proxy.port, &without).status.code(), Some(2));
    }
}

#[test]
fn untrusted_broker_and_wrong_transport_are_reported_and_exit_with_2() {
    let broker = MockBroker::start(Fault::None);
    let (tls, websocket) = (Proxy::start(broker.port, TLS), Proxy::start(broker.port, WEBSOCKET));
    let stderr = |port: u16, transport: &str| {
        let output = loadtest(port, &format!("{PAIRS} {transport}"));
        assert_eq!(output.status.code(), Some(2), "{transport}");
        String::from_utf8(output.stderr).unwrap()
    };
    let untrusted = stderr(tls.port, &format!("--tls --ca {}", tls.file("other-ca")));
    assert!(untrusted.contains("certificate"), "{untrusted}");
    let misnamed = stderr(tls.port, &format!("--tls --ca {} --host localhost", tls.file("ca")));
    assert!(misnamed.contains("certificate"), "{misnamed}");
    assert!(stderr(tls.port, "--tls").contains("--ca"));
    assert!(stderr(tls.port, "--tls --ca /nowhere.pem").contains("/nowhere.pem"));
    assert!(stderr(websocket.port, "--websocket /elsewhere").contains("404"));
    assert!(!stderr(tls.port, "--insecure").is_empty());
}
