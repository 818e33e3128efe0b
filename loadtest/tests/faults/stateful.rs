//! The scenarios with sessions, retained messages, wills and shared subscriptions, against the mock
//! broker.

use super::mock_broker::{Fault, MockBroker};
use super::{assert_counted, run};

const WILDCARD: &str = "wildcard --filters 300 --subscribers 10 --batch 7 --topics 20 --publishers 2 \
                        --matches 3 --warm-up 0.1 --seconds 0.3 --stall 4";
const SHARED: &str = "shared --publishers 3 --members 4 --warm-up 0.1 --seconds 0.3 --stall 4";
const RETAINED: &str = "retained --messages 500 --subscribers 2 --stall 4";
const OFFLINE: &str = "offline --sessions 5 --messages 200 --stall 4";
const SLOW: &str = "slow --subscribers 5 --slow 2 --warm-up 0.1 --seconds 0.3 --stall 4";
const FLEET: &str = "mixed --devices 40 --backends 1 --telemetry-rate 5 --command-rate 9 --away 0.2 \
                     --seconds 2.5 --stall 4";
/// Only QoS 0 and 1, because the mock broker does not recognise a resent QoS 2 message.
const RECONNECTS: &str = "--telemetry-qos 60,40,0 --drop-rate 1 --reconnect-rate 1";

#[test]
fn correct_broker_gives_no_fault_in_stateful_scenarios() {
    let broker = MockBroker::start(Fault::None);
    for version in ["3.1.1", "5.0"] {
        for (scenario, levels) in
            [(WILDCARD, 0..3), (SHARED, 0..3), (RETAINED, 0..3), (OFFLINE, 1..3), (SLOW, 0..3)]
        {
            for qos in levels {
                // At a slow rate, the messages fit the buffers of the slow subscribers.
                let pace = if scenario == SLOW { "--rate 200" } else { "" };
                let result = run(&broker, &format!("{scenario} --qos {qos} {pace} --mqtt {version}"));
                assert_eq!((result.status, result.faults()), (0, vec![]), "{}", result.json);
                assert!(result.number("delivered") > 0.0, "{}", result.json);
            }
        }
        let result = run(&broker, &format!("{FLEET} {RECONNECTS} --mqtt {version}"));
        assert_eq!((result.status, result.faults()), (0, vec![]), "{}", result.json);
        assert!(result.number("commands_delivered") > 0.0, "{}", result.json);
        assert!(result.number("breaks") > 30.0, "{}", result.json);
        assert_eq!(result.number("wills_delivered"), result.number("breaks"), "{}", result.json);
    }
}

#[test]
fn faults_among_wildcard_filters_are_counted() {
    assert_counted(Fault::Drop, WILDCARD, &["lost"]);
    assert_counted(Fault::Repeat, &format!("{WILDCARD} --qos 1"), &["duplicate"]);
    assert_counted(Fault::Misroute, WILDCARD, &["misrouted"]);
}

#[test]
fn shared_message_to_two_members_is_a_duplicate_and_to_none_is_lost() {
    for qos in 0..3 {
        assert_counted(Fault::RepeatInGroup, &format!("{SHARED} --qos {qos}"), &["duplicate"]);
        assert_counted(Fault::Drop, &format!("{SHARED} --qos {qos}"), &["lost"]);
    }
}

#[test]
fn reordering_at_a_member_of_a_shared_subscription_is_counted() {
    let broker = MockBroker::start(Fault::Swap);
    let result = run(&broker, SHARED);
    let faults = result.faults();
    let reordered = faults.iter().find(|fault| fault.0 == "reordered").map_or(0, |fault| fault.1);
    assert!(reordered > 0 && reordered <= broker.injected(), "{}", result.json);
}

#[test]
fn lost_repeated_unflagged_and_uncleared_retained_messages_are_counted() {
    for qos in ["0", "1", "2 --mqtt 5.0"] {
        assert_counted(Fault::LoseRetained, &format!("{RETAINED} --qos {qos}"), &["lost"]);
        assert_counted(Fault::RepeatRetained, &format!("{RETAINED} --qos {qos}"), &["duplicate"]);
        assert_counted(Fault::ForgetRetainFlag, &format!("{RETAINED} --qos {qos}"), &["retain_flag"]);
        assert_counted(Fault::KeepCleared, &format!("{RETAINED} --qos {qos}"), &["duplicate"]);
    }
}

#[test]
fn retained_messages_stay_with_keep() {
    let broker = MockBroker::start(Fault::KeepCleared);
    let result = run(&broker, &format!("{RETAINED} --keep"));
    assert_eq!((result.status, broker.injected()), (0, 0), "{}", result.json);
}

#[test]
fn lost_and_repeated_queued_messages_are_counted() {
    assert_counted(Fault::LoseQueued, OFFLINE, &["lost"]);
    assert_counted(Fault::LoseQueued, &format!("{OFFLINE} --qos 2 --mqtt 5.0"), &["lost"]);
    assert_counted(Fault::RepeatAcknowledged, OFFLINE, &["duplicate"]);
}

#[test]
fn lost_session_and_its_queued_messages_are_faults() {
    let broker = MockBroker::start(Fault::LoseSession);
    let result = run(&broker, "offline --sessions 40 --messages 3 --stall 4");
    let faults = result.faults();
    let count = |name| faults.iter().find(|fault| fault.0 == name).map_or(0, |fault| fault.1);
    assert!(broker.injected() > 0 && count("protocol") == broker.injected(), "{}", result.json);
    assert!(count("lost") == 3, "{}", result.json);
}

#[test]
fn losses_are_faults_at_fast_subscribers_and_reported_at_slow_ones() {
    let broker = MockBroker::start(Fault::Drop);
    let result = run(&broker, &format!("{SLOW} --rate 500"));
    let lost = result.faults().iter().find(|fault| fault.0 == "lost").map_or(0, |fault| fault.1);
    let dropped = result.number("slow_dropped") as u64;
    assert!(lost > 0 && dropped > 0 && lost + dropped == broker.injected(), "{}", result.json);
    assert_eq!(result.faults().len(), 1, "{}", result.json);
}

#[test]
fn disconnected_slow_subscribers_are_no_fault() {
    let broker = MockBroker::start(Fault::None);
    let result = run(&broker, &format!("{SLOW} --payload 1000000"));
    assert_eq!((result.status, result.faults()), (0, vec![]), "{}", result.json);
    assert_eq!(result.number("slow_cut_off"), 2.0, "{}", result.json);
}

#[test]
fn lost_repeated_and_unexpected_wills_are_counted() {
    assert_counted(Fault::DropWill, &format!("{FLEET} {RECONNECTS}"), &["lost"]);
    assert_counted(Fault::RepeatWill, &format!("{FLEET} {RECONNECTS} --mqtt 5.0"), &["duplicate"]);

    let broker = MockBroker::start(Fault::WillOnDisconnect);
    let result = run(&broker, &format!("{FLEET} --telemetry-qos 60,40,0 --drop-rate 0 --reconnect-rate 1"));
    // At the end of the run, all clients disconnect, and nobody receives their wills.
    let faults = result.faults();
    assert!(matches!(faults[..], [("misrouted", count)] if count <= broker.injected()), "{}", result.json);
}

#[test]
fn logins_are_timed_and_faults_of_logins_and_pairs_are_counted() {
    const LOGINS: &str = "logins --pairs 3 --rate 500 --logins 300 --rounds 2 --warm-up 0.1 --seconds 0.3 \
                          --stall 4 --username u --password p";
    let broker = MockBroker::start(Fault::None);
    for qos in 0..3 {
        let result = run(&broker, &format!("{LOGINS} --qos {qos}"));
        assert_eq!((result.status, result.faults()), (0, vec![]), "{}", result.json);
        for key in ["calm_p99_ms", "logins_p99_ms", "logins_served_per_second", "login_p50_ms"] {
            assert!(result.number(key) > 0.0, "{key}: {}", result.json);
        }
    }
    assert_counted(Fault::RefuseConnect, LOGINS, &["refused"]);
    assert_counted(Fault::Drop, LOGINS, &["lost"]);
}

#[test]
fn commands_lost_while_a_device_is_away_are_counted() {
    assert_counted(Fault::LoseQueued, &format!("{FLEET} {RECONNECTS}"), &["lost"]);
}

#[test]
fn faults_are_counted_in_a_fleet_without_reconnects() {
    let calm = "--drop-rate 0 --reconnect-rate 0 --telemetry-qos 100,0,0";
    assert_counted(Fault::Drop, &format!("{FLEET} {calm}"), &["lost"]);
    assert_counted(Fault::Repeat, &format!("{FLEET} {calm}"), &["duplicate"]);
    assert_counted(Fault::SetDup, &format!("{FLEET} {calm}"), &["dup_flag"]);
}
