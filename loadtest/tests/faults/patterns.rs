//! The scenarios with sessions, retained messages, wills and shared subscriptions against the toy.

use super::toy::{Toy, Vice};
use super::{counts, outcome};

const WILDCARD: &str = "wildcard --filters 300 --subscribers 10 --batch 7 --topics 20 --publishers 2 \
                        --matches 3 --warm-up 0.1 --seconds 0.3 --stall 4";
const SHARED: &str = "shared --publishers 3 --members 4 --warm-up 0.1 --seconds 0.3 --stall 4";
const RETAINED: &str = "retained --messages 500 --subscribers 2 --stall 4";
const OFFLINE: &str = "offline --sessions 5 --messages 200 --stall 4";
const SLOW: &str = "slow --subscribers 5 --slow 2 --warm-up 0.1 --seconds 0.3 --stall 4";
const FLEET: &str = "mixed --devices 40 --backends 1 --telemetry-rate 5 --command-rate 9 --away 0.2 \
                     --seconds 2.5 --stall 4";
/// At QoS 0 and 1 only: the toy does not know a QoS 2 message that is sent again.
const BREAKS: &str = "--telemetry-qos 60,40,0 --drop-rate 1 --reconnect-rate 1";

#[test]
fn a_clean_broker_gives_no_fault_in_the_scenarios_with_state() {
    let toy = Toy::start(Vice::None);
    for version in ["3.1.1", "5.0"] {
        for (scenario, levels) in
            [(WILDCARD, 0..3), (SHARED, 0..3), (RETAINED, 0..3), (OFFLINE, 1..3), (SLOW, 0..3)]
        {
            for qos in levels {
                // A slow pace fits the buffers of the slow ones.
                let pace = if scenario == SLOW { "--rate 200" } else { "" };
                let outcome = outcome(&toy, &format!("{scenario} --qos {qos} {pace} --mqtt {version}"));
                assert_eq!((outcome.status, outcome.faults()), (0, vec![]), "{}", outcome.json);
                assert!(outcome.number("delivered") > 0.0, "{}", outcome.json);
            }
        }
        let outcome = outcome(&toy, &format!("{FLEET} {BREAKS} --mqtt {version}"));
        assert_eq!((outcome.status, outcome.faults()), (0, vec![]), "{}", outcome.json);
        assert!(outcome.number("commands_delivered") > 0.0, "{}", outcome.json);
        assert!(outcome.number("breaks") > 30.0, "{}", outcome.json);
        assert_eq!(outcome.number("wills_delivered"), outcome.number("breaks"), "{}", outcome.json);
    }
}

#[test]
fn faults_among_wildcard_filters_are_counted() {
    counts(Vice::Drop, WILDCARD, &["lost"]);
    counts(Vice::Repeat, &format!("{WILDCARD} --qos 1"), &["duplicate"]);
    counts(Vice::Misroute, WILDCARD, &["misrouted"]);
}

#[test]
fn a_message_that_two_members_of_a_group_get_is_a_duplicate_and_one_that_none_gets_is_lost() {
    for qos in 0..3 {
        counts(Vice::RepeatInGroup, &format!("{SHARED} --qos {qos}"), &["duplicate"]);
        counts(Vice::Drop, &format!("{SHARED} --qos {qos}"), &["lost"]);
    }
}

#[test]
fn a_member_of_a_group_that_gets_messages_out_of_order_is_noticed() {
    let toy = Toy::start(Vice::Swap);
    let outcome = outcome(&toy, SHARED);
    let faults = outcome.faults();
    let reordered = faults.iter().find(|fault| fault.0 == "reordered").map_or(0, |fault| fault.1);
    assert!(reordered > 0 && reordered <= toy.done(), "{}", outcome.json);
}

#[test]
fn retained_messages_that_are_lost_repeated_unmarked_or_not_cleared_are_counted() {
    for qos in ["0", "1", "2 --mqtt 5.0"] {
        counts(Vice::LoseRetained, &format!("{RETAINED} --qos {qos}"), &["lost"]);
        counts(Vice::RepeatRetained, &format!("{RETAINED} --qos {qos}"), &["duplicate"]);
        counts(Vice::ForgetRetainFlag, &format!("{RETAINED} --qos {qos}"), &["retain_flag"]);
        counts(Vice::KeepCleared, &format!("{RETAINED} --qos {qos}"), &["duplicate"]);
    }
}

#[test]
fn retained_messages_stay_when_asked_to() {
    let toy = Toy::start(Vice::KeepCleared);
    let outcome = outcome(&toy, &format!("{RETAINED} --keep"));
    assert_eq!((outcome.status, toy.done()), (0, 0), "{}", outcome.json);
}

#[test]
fn queued_messages_that_are_lost_or_come_again_are_counted() {
    counts(Vice::LoseQueued, OFFLINE, &["lost"]);
    counts(Vice::LoseQueued, &format!("{OFFLINE} --qos 2 --mqtt 5.0"), &["lost"]);
    counts(Vice::RepeatAcknowledged, OFFLINE, &["duplicate"]);
}

#[test]
fn a_session_that_is_gone_is_a_fault_and_so_is_what_was_queued_for_it() {
    let toy = Toy::start(Vice::LoseSession);
    let outcome = outcome(&toy, "offline --sessions 40 --messages 3 --stall 4");
    let faults = outcome.faults();
    let count = |name| faults.iter().find(|fault| fault.0 == name).map_or(0, |fault| fault.1);
    assert!(toy.done() > 0 && count("protocol") == toy.done(), "{}", outcome.json);
    assert!(count("lost") == 3, "{}", outcome.json);
}

#[test]
fn losses_of_the_fast_subscribers_are_faults_and_those_of_slow_ones_are_told() {
    let toy = Toy::start(Vice::Drop);
    let outcome = outcome(&toy, &format!("{SLOW} --rate 500"));
    let lost = outcome.faults().iter().find(|fault| fault.0 == "lost").map_or(0, |fault| fault.1);
    let dropped = outcome.number("slow_dropped") as u64;
    assert!(lost > 0 && dropped > 0 && lost + dropped == toy.done(), "{}", outcome.json);
    assert_eq!(outcome.faults().len(), 1, "{}", outcome.json);
}

#[test]
fn slow_subscribers_that_are_cut_off_are_no_fault() {
    let toy = Toy::start(Vice::None);
    let outcome = outcome(&toy, &format!("{SLOW} --payload 1000000"));
    assert_eq!((outcome.status, outcome.faults()), (0, vec![]), "{}", outcome.json);
    assert_eq!(outcome.number("slow_cut_off"), 2.0, "{}", outcome.json);
}

#[test]
fn wills_that_are_lost_or_come_again_or_unasked_are_counted() {
    counts(Vice::DropWill, &format!("{FLEET} {BREAKS}"), &["lost"]);
    counts(Vice::RepeatWill, &format!("{FLEET} {BREAKS} --mqtt 5.0"), &["duplicate"]);

    let toy = Toy::start(Vice::WillOnDisconnect);
    let outcome = outcome(&toy, &format!("{FLEET} --telemetry-qos 60,40,0 --drop-rate 0 --reconnect-rate 1"));
    // Those at the end of the run, when everybody leaves, are seen by nobody.
    let faults = outcome.faults();
    assert!(matches!(faults[..], [("misrouted", count)] if count <= toy.done()), "{}", outcome.json);
}

#[test]
fn logins_beside_pairs_are_timed_and_their_faults_and_those_of_the_pairs_counted() {
    const LOGINS: &str = "logins --pairs 3 --rate 500 --logins 300 --rounds 2 --warm-up 0.1 --seconds 0.3 \
                          --stall 4 --username u --password p";
    let toy = Toy::start(Vice::None);
    for qos in 0..3 {
        let outcome = outcome(&toy, &format!("{LOGINS} --qos {qos}"));
        assert_eq!((outcome.status, outcome.faults()), (0, vec![]), "{}", outcome.json);
        for key in ["calm_p99_ms", "logins_p99_ms", "logins_served_per_second", "login_p50_ms"] {
            assert!(outcome.number(key) > 0.0, "{key}: {}", outcome.json);
        }
    }
    counts(Vice::RefuseConnect, LOGINS, &["refused"]);
    counts(Vice::Drop, LOGINS, &["lost"]);
}

#[test]
fn commands_that_are_lost_while_a_device_is_away_are_counted() {
    counts(Vice::LoseQueued, &format!("{FLEET} {BREAKS}"), &["lost"]);
}

#[test]
fn faults_in_a_fleet_without_breaks_are_counted_as_everywhere() {
    let calm = "--drop-rate 0 --reconnect-rate 0 --telemetry-qos 100,0,0";
    counts(Vice::Drop, &format!("{FLEET} {calm}"), &["lost"]);
    counts(Vice::Repeat, &format!("{FLEET} {calm}"), &["duplicate"]);
    counts(Vice::SetDup, &format!("{FLEET} {calm}"), &["dup_flag"]);
}
