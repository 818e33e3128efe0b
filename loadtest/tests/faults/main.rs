//! The harness against a toy broker: a clean one gives no fault, and whatever a broker with a vice
//! does wrong is counted under its name, as often as it was done, and ends with exit status 1.

mod doors;
mod patterns;
mod relay;
mod toy;

use std::process::{Command, Output};

use toy::{Toy, Vice};

struct Outcome {
    status: i32,
    json: String,
}

impl Outcome {
    /// The number behind `"name":`.
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
        // The settings have a "qos" too, and come first.
        let faults = self.json.split_once("\"faults\":").expect("every report has faults").1;
        let faults = Outcome { status: self.status, json: faults.to_owned() };
        ALL.into_iter().map(|name| (name, faults.number(name) as u64)).filter(|fault| fault.1 > 0).collect()
    }
}

fn harness(port: u16, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_midge-loadtest"));
    command.args(arguments.split_ascii_whitespace()).args(["--json", "--quiet", "--port", &port.to_string()]);
    command.output().unwrap()
}

fn outcome(toy: &Toy, arguments: &str) -> Outcome {
    read(harness(toy.port, arguments))
}

fn read(output: Output) -> Outcome {
    let json = String::from_utf8(output.stdout).unwrap();
    let status = output.status.code().unwrap();
    assert!(status < 2, "{}", String::from_utf8_lossy(&output.stderr));
    Outcome { status, json }
}

/// Runs `arguments` against a broker with `vice`, which must be counted as `faults` and nothing
/// else, each as often as the vice was indulged.
fn counts(vice: Vice, arguments: &str, faults: &[&str]) {
    let toy = Toy::start(vice);
    let outcome = outcome(&toy, arguments);
    let done = toy.done();
    assert!(done > 0, "the toy never misbehaved: {}", outcome.json);
    let expected: Vec<_> = faults.iter().map(|&fault| (fault, done)).collect();
    assert_eq!(outcome.faults(), expected, "{vice:?} with {arguments}: {}", outcome.json);
    assert_eq!(outcome.status, 1);
}

const PAIRS: &str = "pairs --pairs 3 --warm-up 0.1 --seconds 0.3 --stall 4";
const FAN_OUT: &str = "fan-out --subscribers 5 --publishers 2 --warm-up 0.1 --seconds 0.3 --stall 4";

#[test]
fn a_clean_broker_gives_no_fault_in_any_scenario() {
    let toy = Toy::start(Vice::None);
    for version in ["3.1.1", "5.0"] {
        for scenario in [PAIRS, FAN_OUT, "fan-in --publishers 7 --warm-up 0 --seconds 0.3"] {
            for qos in 0..3 {
                for pace in ["", "--rate 500", "--burst 8 --payload 3000"] {
                    let outcome = outcome(&toy, &format!("{scenario} --qos {qos} {pace} --mqtt {version}"));
                    assert_eq!((outcome.status, outcome.faults()), (0, vec![]), "{}", outcome.json);
                    assert!(outcome.number("delivered") > 0.0, "{}", outcome.json);
                }
            }
        }
        for scenario in [
            "storm --warm-up 0 --seconds 0.3",
            "storm --rate 100 --warm-up 0 --seconds 0.3",
            "idle --connections 40 --ping-interval 0.2 --seconds 0.5",
            "idle --connections 40 --ping-interval 0.2 --seconds 0.5 --subscribe --sources 3",
        ] {
            let outcome = outcome(&toy, &format!("{scenario} --mqtt {version}"));
            assert_eq!((outcome.status, outcome.faults()), (0, vec![]), "{}", outcome.json);
            assert!(outcome.number("latency_samples") > 0.0, "{}", outcome.json);
        }
    }
}

#[test]
fn dropped_messages_are_counted_as_lost() {
    counts(Vice::Drop, PAIRS, &["lost"]);
    counts(Vice::Drop, &format!("{FAN_OUT} --qos 1 --mqtt 5.0"), &["lost"]);
    counts(Vice::Drop, &format!("{PAIRS} --qos 2 --rate 1000"), &["lost"]);
}

#[test]
fn repeated_messages_are_counted_as_duplicates() {
    for qos in 0..3 {
        counts(Vice::Repeat, &format!("{PAIRS} --qos {qos}"), &["duplicate"]);
    }
    counts(Vice::RepeatWithDup, &format!("{PAIRS} --qos 0"), &["duplicate"]);
    counts(Vice::RepeatWithDup, &format!("{FAN_OUT} --qos 2"), &["duplicate"]);
}

#[test]
fn a_repetition_with_dup_at_qos_1_is_legal_and_reported() {
    let toy = Toy::start(Vice::RepeatWithDup);
    let outcome = outcome(&toy, &format!("{PAIRS} --qos 1"));
    assert_eq!((outcome.status, outcome.faults()), (0, vec![]), "{}", outcome.json);
    assert_eq!(outcome.number("redelivered") as u64, toy.done());
}

#[test]
fn reordered_messages_are_counted() {
    for qos in 0..3 {
        let toy = Toy::start(Vice::Swap);
        let outcome = outcome(&toy, &format!("{FAN_OUT} --qos {qos}"));
        let reordered =
            outcome.faults().iter().find(|fault| fault.0 == "reordered").map_or(0, |fault| fault.1);
        // A message that is held between two publishers' messages is late for nobody, and the one
        // held at the end is lost; neither can outnumber what was done.
        assert!(reordered > 0 && reordered <= toy.done(), "{} of {}", reordered, toy.done());
        assert_eq!(outcome.status, 1);
        assert!(
            outcome.faults().iter().all(|fault| ["reordered", "lost"].contains(&fault.0)),
            "{}",
            outcome.json
        );
    }
}

#[test]
fn changed_messages_are_counted_as_corrupt_and_their_originals_as_lost() {
    for vice in [Vice::FlipPayloadBit, Vice::FlipTopicBit, Vice::CutPayload] {
        for payload in [32, 64, 5000] {
            counts(vice, &format!("{PAIRS} --qos 1 --payload {payload}"), &["lost", "corrupt"]);
        }
    }
}

#[test]
fn wrong_flags_and_wrong_receivers_are_counted() {
    for qos in 0..3 {
        counts(Vice::SetDup, &format!("{PAIRS} --qos {qos}"), &["dup_flag"]);
        counts(Vice::SetRetain, &format!("{FAN_OUT} --qos {qos} --mqtt 5.0"), &["retain_flag"]);
        counts(Vice::Misroute, &format!("{PAIRS} --qos {qos}"), &["misrouted"]);
    }
    counts(Vice::LowerQos, &format!("{PAIRS} --qos 1"), &["qos"]);
}

#[test]
fn an_identifier_used_twice_before_pubrel_is_a_duplicate() {
    let toy = Toy::start(Vice::RepeatId);
    let outcome = outcome(&toy, &format!("{PAIRS} --qos 2"));
    let faults = outcome.faults();
    assert_eq!(faults[0], ("duplicate", toy.done()), "{}", outcome.json);
    // The toy answers both PUBREC, so that the second PUBREL releases nothing.
    assert!(faults[1].0 == "protocol" && faults[1].1 <= toy.done() && faults.len() == 2, "{}", outcome.json);
}

#[test]
fn acknowledgements_that_fail_to_come_or_come_twice_are_counted() {
    counts(Vice::ForgetPuback, &format!("{PAIRS} --qos 1"), &["unanswered"]);
    counts(Vice::WrongPuback, &format!("{PAIRS} --qos 1"), &["protocol"]);
    counts(Vice::ForgetPubrel, &format!("{PAIRS} --qos 2"), &["unanswered"]);
}

#[test]
fn connections_that_the_broker_ends_are_counted() {
    for (vice, fault) in [(Vice::CloseSubscriber, "closed"), (Vice::SendGarbage, "protocol")] {
        let toy = Toy::start(vice);
        let outcome = outcome(&toy, &format!("{PAIRS} --qos 1"));
        let faults = outcome.faults();
        let ended = faults.iter().find(|row| row.0 == fault).map_or(0, |row| row.1);
        assert!((1..=3).contains(&ended), "{}", outcome.json);
        assert_eq!(outcome.status, 1);
    }
}

#[test]
fn unanswered_pings_and_connects_are_counted() {
    counts(Vice::ForgetPing, "idle --connections 40 --ping-interval 0.2 --seconds 0.5", &["unanswered"]);
    counts(
        Vice::ForgetConnack,
        "storm --concurrency 200 --rate 150 --warm-up 0 --seconds 1",
        &["unanswered"],
    );
    counts(Vice::RefuseConnect, "storm --warm-up 0 --seconds 0.3", &["refused"]);
}

#[test]
fn a_run_that_cannot_be_made_says_why_and_exits_with_2() {
    let refusing = Toy::start(Vice::RefuseSubscribe);
    let output = harness(refusing.port, PAIRS);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("SUBSCRIBE"));
    // Port 1 of the loopback address: nobody listens there.
    let output = harness(1, PAIRS);
    assert_eq!(output.status.code(), Some(2));
    assert!(!output.stderr.is_empty());
}
