//! Runs the harness against a mock broker. A correct broker must give no fault. An injected fault
//! must be counted under its name, exactly as often as it was injected, and give exit status 1.

mod mock_broker;
mod proxy;
mod stateful;
mod transports;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::Duration;

use mock_broker::{Fault, MockBroker};

struct RunResult {
    status: i32,
    json: String,
}

impl RunResult {
    /// The number after `"name":`.
    fn number(&self, name: &str) -> f64 {
        let key = format!("\"{name}\":");
        let (_, rest) = self.json.split_once(&key).unwrap_or_else(|| panic!("no {name} in {}", self.json));
        let end = rest.find([',', '}']).unwrap();
        rest[..end].parse().unwrap_or_else(|_| panic!("{name} is no number in {}", self.json))
    }

    fn faults(&self) -> Vec<(&'static str, u64)> {
        const ALL: [&str; 12] = [
            "lost",
            "duplicate",
            "reordered",
            "corrupt",
            "misrouted",
            "dup_flag",
            "retain_flag",
            "qos",
            "protocol",
            "refused",
            "closed",
            "unanswered",
        ];
        // The settings contain "qos" too, and come first.
        let faults = self.json.split_once("\"faults\":").expect("every report has faults").1;
        let faults = RunResult { status: self.status, json: faults.to_owned() };
        ALL.into_iter().map(|name| (name, faults.number(name) as u64)).filter(|fault| fault.1 > 0).collect()
    }
}

fn loadtest(port: u16, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_midge-loadtest"));
    command.args(arguments.split_ascii_whitespace()).args(["--json", "--quiet", "--port", &port.to_string()]);
    command.output().unwrap()
}

fn run(broker: &MockBroker, arguments: &str) -> RunResult {
    read(loadtest(broker.port, arguments))
}

fn read(output: Output) -> RunResult {
    let json = String::from_utf8(output.stdout).unwrap();
    let status = output.status.code().unwrap();
    assert!(status < 2, "{}", String::from_utf8_lossy(&output.stderr));
    RunResult { status, json }
}

/// Runs `arguments` against a broker with `fault`. It must be counted as `faults` and nothing else,
/// each as often as it was injected.
fn assert_counted(fault: Fault, arguments: &str, faults: &[&str]) {
    let broker = MockBroker::start(fault);
    let result = run(&broker, arguments);
    let injected = broker.injected();
    assert!(injected > 0, "no fault was injected: {}", result.json);
    let expected: Vec<_> = faults.iter().map(|&name| (name, injected)).collect();
    assert_eq!(result.faults(), expected, "{fault:?} with {arguments}: {}", result.json);
    assert_eq!(result.status, 1);
}

const PAIRS: &str = "pairs --pairs 3 --warm-up 0.1 --seconds 0.3 --stall 4";
const FAN_OUT: &str = "fan-out --subscribers 5 --publishers 2 --warm-up 0.1 --seconds 0.3 --stall 4";

#[test]
fn correct_broker_gives_no_fault_in_any_scenario() {
    let broker = MockBroker::start(Fault::None);
    for version in ["3.1.1", "5.0"] {
        for scenario in [PAIRS, FAN_OUT, "fan-in --publishers 7 --warm-up 0 --seconds 0.3"] {
            for qos in 0..3 {
                for pace in ["", "--rate 500", "--burst 8 --payload 3000"] {
                    let result = run(&broker, &format!("{scenario} --qos {qos} {pace} --mqtt {version}"));
                    assert_eq!((result.status, result.faults()), (0, vec![]), "{}", result.json);
                    assert!(result.number("delivered") > 0.0, "{}", result.json);
                }
            }
        }
        for scenario in [
            "storm --warm-up 0 --seconds 0.3",
            "storm --rate 100 --warm-up 0 --seconds 0.3",
            "idle --connections 40 --ping-interval 0.2 --seconds 0.5",
            "idle --connections 40 --ping-interval 0.2 --seconds 0.5 --subscribe --sources 3",
        ] {
            let result = run(&broker, &format!("{scenario} --mqtt {version}"));
            assert_eq!((result.status, result.faults()), (0, vec![]), "{}", result.json);
            assert!(result.number("latency_samples") > 0.0, "{}", result.json);
        }
    }
}

#[test]
fn dropped_messages_are_counted_as_lost() {
    assert_counted(Fault::Drop, PAIRS, &["lost"]);
    assert_counted(Fault::Drop, &format!("{FAN_OUT} --qos 1 --mqtt 5.0"), &["lost"]);
    assert_counted(Fault::Drop, &format!("{PAIRS} --qos 2 --rate 1000"), &["lost"]);
}

#[test]
fn repeated_messages_are_counted_as_duplicates() {
    for qos in 0..3 {
        assert_counted(Fault::Repeat, &format!("{PAIRS} --qos {qos}"), &["duplicate"]);
    }
    assert_counted(Fault::RepeatWithDup, &format!("{PAIRS} --qos 0"), &["duplicate"]);
    assert_counted(Fault::RepeatWithDup, &format!("{FAN_OUT} --qos 2"), &["duplicate"]);
}

#[test]
fn repetition_with_dup_at_qos_1_is_legal_and_reported() {
    let broker = MockBroker::start(Fault::RepeatWithDup);
    let result = run(&broker, &format!("{PAIRS} --qos 1"));
    assert_eq!((result.status, result.faults()), (0, vec![]), "{}", result.json);
    assert_eq!(result.number("redelivered") as u64, broker.injected());
}

#[test]
fn reordered_messages_are_counted() {
    for qos in 0..3 {
        let broker = MockBroker::start(Fault::Swap);
        let result = run(&broker, &format!("{FAN_OUT} --qos {qos}"));
        let reordered =
            result.faults().iter().find(|fault| fault.0 == "reordered").map_or(0, |fault| fault.1);
        // If a message is delayed between two messages of different publishers, it is not
        // reordered. A message that is delayed at the end is lost. Neither count can exceed the
        // injected faults.
        assert!(reordered > 0 && reordered <= broker.injected(), "{} of {}", reordered, broker.injected());
        assert_eq!(result.status, 1);
        assert!(
            result.faults().iter().all(|fault| ["reordered", "lost"].contains(&fault.0)),
            "{}",
            result.json
        );
    }
}

#[test]
fn changed_messages_are_counted_as_corrupt_and_their_originals_as_lost() {
    for fault in [Fault::FlipPayloadBit, Fault::FlipTopicBit, Fault::CutPayload] {
        for payload in [32, 64, 5000] {
            assert_counted(fault, &format!("{PAIRS} --qos 1 --payload {payload}"), &["lost", "corrupt"]);
        }
    }
}

#[test]
fn wrong_flags_and_wrong_receivers_are_counted() {
    for qos in 0..3 {
        assert_counted(Fault::SetDup, &format!("{PAIRS} --qos {qos}"), &["dup_flag"]);
        assert_counted(Fault::SetRetain, &format!("{FAN_OUT} --qos {qos} --mqtt 5.0"), &["retain_flag"]);
        assert_counted(Fault::Misroute, &format!("{PAIRS} --qos {qos}"), &["misrouted"]);
    }
    assert_counted(Fault::LowerQos, &format!("{PAIRS} --qos 1"), &["qos"]);
}

#[test]
fn identifier_reused_before_pubrel_is_a_duplicate() {
    let broker = MockBroker::start(Fault::RepeatId);
    let result = run(&broker, &format!("{PAIRS} --qos 2"));
    let faults = result.faults();
    assert_eq!(faults[0], ("duplicate", broker.injected()), "{}", result.json);
    // The mock broker answers both PUBREC, so the second PUBREL releases nothing.
    assert!(
        faults[1].0 == "protocol" && faults[1].1 <= broker.injected() && faults.len() == 2,
        "{}",
        result.json
    );
}

#[test]
fn missing_and_repeated_acknowledgements_are_counted() {
    assert_counted(Fault::ForgetPuback, &format!("{PAIRS} --qos 1"), &["unanswered"]);
    assert_counted(Fault::WrongPuback, &format!("{PAIRS} --qos 1"), &["protocol"]);
    assert_counted(Fault::ForgetPubrel, &format!("{PAIRS} --qos 2"), &["unanswered"]);
}

#[test]
fn connections_closed_by_the_broker_are_counted() {
    for (fault, name) in [(Fault::CloseSubscriber, "closed"), (Fault::SendGarbage, "protocol")] {
        let broker = MockBroker::start(fault);
        let result = run(&broker, &format!("{PAIRS} --qos 1"));
        let faults = result.faults();
        let ended = faults.iter().find(|row| row.0 == name).map_or(0, |row| row.1);
        assert!((1..=3).contains(&ended), "{}", result.json);
        assert_eq!(result.status, 1);
    }
}

#[test]
fn unanswered_pings_and_connects_are_counted() {
    assert_counted(
        Fault::ForgetPing,
        "idle --connections 40 --ping-interval 0.2 --seconds 0.5",
        &["unanswered"],
    );
    assert_counted(
        Fault::ForgetConnack,
        "storm --concurrency 200 --rate 150 --warm-up 0 --seconds 1",
        &["unanswered"],
    );
    assert_counted(Fault::RefuseConnect, "storm --warm-up 0 --seconds 0.3", &["refused"]);
}

#[test]
fn mock_broker_disconnects_a_client_that_it_refuses() {
    let broker = MockBroker::start(Fault::RefuseConnect);
    let mut refused = 0;
    while refused < 2 {
        let mut client = TcpStream::connect(("127.0.0.1", broker.port)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x0a\x00\x01x").unwrap();
        let mut connack = [0; 4];
        client.read_exact(&mut connack).unwrap();
        if connack != [0x20, 2, 0, 0] {
            assert_eq!(connack, [0x20, 2, 0, 5]);
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "the connection ends");
            refused += 1;
        }
    }
    assert_eq!(broker.injected(), 2);
}

#[test]
fn failed_run_prints_the_reason_and_exits_with_2() {
    let refusing = MockBroker::start(Fault::RefuseSubscribe);
    let output = loadtest(refusing.port, PAIRS);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("SUBSCRIBE"));
    // Nothing listens on port 1 of the loopback address.
    let output = loadtest(1, PAIRS);
    assert_eq!(output.status.code(), Some(2));
    assert!(!output.stderr.is_empty());
}

/// Runs the harness with flags that it must refuse. Returns its error output.
fn refusal(port: u16, arguments: &str) -> String {
    let output = loadtest(port, arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    stderr
}

#[test]
fn name_or_password_that_connect_cannot_hold_is_refused_and_not_shown() {
    let broker = MockBroker::start(Fault::None);
    let [longest, longer] = [65_535, 65_536].map(|bytes| "x".repeat(bytes));
    for (flag, rest) in [("--username", ""), ("--password", "--username u")] {
        let result = run(&broker, &format!("{PAIRS} {rest} {flag} {longest}"));
        assert_eq!((result.status, result.faults()), (0, vec![]), "{}", result.json);
        let said = refusal(broker.port, &format!("{PAIRS} {rest} {flag} {longer}"));
        let words = format!("midge-loadtest: {flag} has 65536 bytes, but MQTT allows at most 65535\n");
        assert_eq!(said, words);
    }
    let said = refusal(broker.port, &format!("{PAIRS} --payload 268000001"));
    assert!(said.contains("must be 32 to 268000000 bytes"), "{said}");
}

#[test]
fn more_clients_than_a_process_can_have_are_refused() {
    for scenario in [
        "pairs --pairs 2147483648",
        "fan-in --publishers 4294967295",
        "fan-out --publishers 2147483648 --subscribers 2147483648",
        "shared --publishers 2147483648 --members 2147483648",
        "slow --publishers 2147483648 --subscribers 2147483648",
        "wildcard --publishers 1 --subscribers 4294967295",
    ] {
        // Nothing listens on port 1 of the loopback address.
        let said = refusal(1, scenario);
        assert!(said.contains("need more open files"), "{scenario}: {said}");
    }
}
