//! The gate, source by source and second by second.

use super::sources::tests::{capacity, check as check_sources};
use super::*;
use crate::base::Random;
use crate::settings::Config;
use std::net::{Ipv4Addr, Ipv6Addr};

fn off() -> AddressGateSettings {
    AddressGateSettings { delay_base_millis: 0, addresses_max: 1000, ..AddressGateSettings::default() }
}

fn gate(settings: AddressGateSettings) -> AddressGate {
    AddressGate::new(settings, 7)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(number))
}

fn check(gate: &AddressGate) {
    check_sources(&gate.sources);
}

#[test]
fn a_source_may_open_a_burst_and_then_its_rate() {
    let mut gate = gate(AddressGateSettings { connects_per_second: 10, connects_burst: 5, ..off() });
    let (one, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
    let start = 1_000_000;
    for _ in 0..5 {
        assert_eq!(gate.open(start, one), Admission::Admit);
    }
    assert_eq!(gate.open(start, one), Admission::TooFast);
    assert_eq!(gate.open(start + 99, one), Admission::TooFast);
    assert_eq!(gate.open(start + 100, one), Admission::Admit);
    assert_eq!(gate.open(start + 100, one), Admission::TooFast);
    assert_eq!(gate.open(start, other), Admission::Admit, "each source has a rate of its own");
    // After a pause the whole burst is available again, and no more.
    let admitted = (0..20).filter(|_| gate.open(start + 60_000, one) == Admission::Admit).count();
    assert_eq!(admitted, 5);
    check(&gate);
}

#[test]
fn over_a_long_time_the_rate_is_kept() {
    let mut gate = gate(AddressGateSettings { connects_per_second: 3, connects_burst: 0, ..off() });
    let admitted = (0..100_000).filter(|&now| gate.open(now, v4(1)) == Admission::Admit).count();
    assert!((295..=301).contains(&admitted), "{admitted} in 100 s");
}

#[test]
fn rate_zero_admits_all_and_remembers_nobody() {
    let mut gate = gate(off());
    for number in 0..10_000 {
        assert_eq!(gate.open(5, v4(number % 10)), Admission::Admit);
    }
    assert!(gate.is_empty());
}

#[test]
fn refusals_are_delayed_twice_as_long_each_time_up_to_a_maximum() {
    let settings = AddressGateSettings {
        failures_before_delay: 2,
        delay_base_millis: 100,
        delay_max_millis: 1000,
        failures_forget_seconds: 60,
        ..off()
    };
    let mut gate = gate(settings);
    let delays: Vec<u64> = (0..100)
        .map(|now| match gate.failed(now, v4(1)) {
            Penalty::None => 0,
            Penalty::Delay { millis } => millis,
            Penalty::Ban { .. } => panic!("bans are off"),
        })
        .collect();
    assert_eq!(delays[..8], [0, 0, 100, 200, 400, 800, 1000, 1000]);
    assert!(delays[8..].iter().all(|&millis| millis == 1000));
    assert_eq!(gate.failed(99 + 60_000, v4(1)), Penalty::None, "a minute without failures heals");
}

#[test]
fn a_success_forgives_one_failure() {
    let mut gate = gate(AddressGateSettings { ban_after_failures: 3, ..off() });
    assert_eq!(gate.failed(0, v4(1)), Penalty::None);
    assert_eq!(gate.failed(1, v4(1)), Penalty::None);
    gate.succeeded(2, v4(1));
    gate.succeeded(2, v4(2));
    assert_eq!(gate.failed(3, v4(1)), Penalty::None);
    assert_eq!(gate.failed(4, v4(1)), Penalty::Ban { until_millis: 300_004 });
    check(&gate);
}

#[test]
fn a_banned_source_is_refused_until_its_time_is_over() {
    let mut gate = gate(AddressGateSettings { ban_after_failures: 2, ban_seconds: 10, ..off() });
    gate.failed(1000, v4(1));
    assert_eq!(gate.failed(1000, v4(1)), Penalty::Ban { until_millis: 11_000 });
    assert_eq!(gate.open(1001, v4(1)), Admission::Banned { until_millis: 11_000 });
    // Connections that were open before the ban do not extend it.
    assert_eq!(gate.failed(5000, v4(1)), Penalty::None);
    assert_eq!(gate.open(10_999, v4(1)), Admission::Banned { until_millis: 11_000 });
    assert_eq!(gate.bans(10_999).count(), 1);
    assert_eq!(gate.bans(11_000).count(), 0);
    assert_eq!(gate.open(11_000, v4(1)), Admission::Admit);
    assert_eq!(gate.failed(11_001, v4(1)), Penalty::None, "the count begins anew");
    check(&gate);
}

#[test]
fn flapping_bans() {
    let mut gate = gate(AddressGateSettings { flap_connects: 3, flap_seconds: 10, ban_seconds: 60, ..off() });
    assert_eq!(gate.closed(0, v4(1), 10_000), None, "it lived long enough");
    assert!(gate.is_empty());
    assert_eq!(gate.closed(1000, v4(1), 5), None);
    assert_eq!(gate.closed(2000, v4(1), 9_999), None);
    // The time is over, so a new count begins.
    assert_eq!(gate.closed(11_000, v4(1), 5), None);
    assert_eq!(gate.closed(12_000, v4(1), 5), None);
    assert_eq!(gate.closed(13_000, v4(1), 5), Some(73_000));
    assert_eq!(gate.closed(13_000, v4(1), 5), None);
    assert_eq!(gate.open(13_001, v4(1)), Admission::Banned { until_millis: 73_000 });
    check(&gate);
}

#[test]
fn bans_by_hand_come_and_go() {
    let mut gate = gate(off());
    assert!(gate.ban(0, ip("192.0.2.7"), u64::MAX));
    assert!(gate.ban(0, ip("2001:db8::1"), 500));
    assert!(gate.ban(0, ip("192.0.2.8"), 0), "a ban that has ended is none");
    let bans: Vec<String> = gate.bans(1).map(|ban| format!("{} {}", ban.network, ban.until_millis)).collect();
    assert_eq!(bans, ["2001:db8::/64 500", "192.0.2.7/32 18446744073709551615"]);
    assert_eq!(gate.open(u64::MAX - 1, ip("192.0.2.7")), Admission::Banned { until_millis: u64::MAX });
    assert!(gate.unban(1, ip("192.0.2.7")));
    assert!(!gate.unban(1, ip("192.0.2.7")));
    assert!(!gate.unban(1, ip("192.0.2.9")));
    assert_eq!(gate.open(1, ip("192.0.2.7")), Admission::Admit);
    check(&gate);
}

#[test]
fn an_ipv6_network_is_one_source_and_a_mapped_address_is_ipv4() {
    let mut gate = gate(off());
    gate.ban(0, ip("2001:db8:0:1::1"), 100);
    assert_eq!(gate.open(1, ip("2001:db8:0:1:ffff:ffff:ffff:ffff")), Admission::Banned { until_millis: 100 });
    assert_eq!(gate.open(1, ip("2001:db8:0:2::1")), Admission::Admit);
    gate.ban(0, ip("192.0.2.1"), 100);
    assert_eq!(gate.open(1, ip("::ffff:192.0.2.1")), Admission::Banned { until_millis: 100 });
    assert_eq!(gate.open(1, ip("::ffff:192.0.2.2")), Admission::Admit);
    // The same bits in the upper half of an IPv6 address and in an IPv4 address are two sources.
    gate.ban(0, ip("0:0:0:5::"), 100);
    assert_eq!(gate.open(1, ip("0.0.0.5")), Admission::Admit);
}

#[test]
fn exempt_networks_are_never_counted() {
    let exempt = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()].into();
    let mut gate = gate(AddressGateSettings {
        connects_per_second: 1,
        connects_burst: 1,
        ban_after_failures: 1,
        flap_connects: 1,
        exempt,
        ..off()
    });
    for address in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8:5::1"] {
        for now in 0..5 {
            assert_eq!(gate.open(now, ip(address)), Admission::Admit);
            assert_eq!(gate.failed(now, ip(address)), Penalty::None);
            assert_eq!(gate.closed(now, ip(address), 0), None);
        }
        assert!(!gate.ban(0, ip(address), 100));
    }
    assert!(gate.is_empty());
    assert!(matches!(gate.failed(0, ip("11.0.0.1")), Penalty::Ban { .. }));
}

#[test]
fn a_million_addresses_stay_within_the_bound_and_free_nobody() {
    let settings = AddressGateSettings {
        connects_per_second: 1,
        connects_burst: 1,
        ban_after_failures: 3,
        ban_seconds: 3600,
        addresses_max: 10_000,
        ..off()
    };
    let mut gate = gate(settings);
    gate.ban(0, ip("192.0.2.1"), 3_600_000);
    gate.failed(0, ip("192.0.2.2"));
    gate.failed(0, ip("192.0.2.2"));
    for number in 0..1_000_000_u32 {
        let address = match number % 2 {
            0 => v4(0x0a00_0000 + number),
            _ => IpAddr::V6(Ipv6Addr::from_bits(u128::from(number) << 64)),
        };
        assert_eq!(gate.open(u64::from(number / 1000), address), Admission::Admit);
    }
    assert_eq!(gate.len(), 10_000);
    assert!(capacity(&gate.sources) <= 16_384);
    assert!(matches!(gate.open(1000, ip("192.0.2.1")), Admission::Banned { .. }));
    assert!(
        matches!(gate.failed(1000, ip("192.0.2.2")), Penalty::Ban { .. }),
        "failures outlast the flood too"
    );
    check(&gate);
}

#[test]
fn room_is_made_by_the_clean_then_the_failing_then_the_banned() {
    let mut gate = gate(AddressGateSettings { connects_per_second: 1, addresses_max: 4, ..off() });
    gate.ban(0, v4(1), 1000);
    gate.ban(0, v4(2), 1000);
    gate.failed(0, v4(3));
    gate.open(0, v4(4));
    gate.open(0, v4(5));
    assert_eq!(gate.sources.find(SourceAddress::V4(4)), None);
    gate.failed(0, v4(5));
    gate.open(0, v4(6));
    assert_eq!(gate.sources.find(SourceAddress::V4(3)), None, "of the failing, the one seen longest ago");
    gate.failed(0, v4(6));
    gate.ban(0, v4(5), 1000);
    gate.ban(0, v4(6), 1000);
    gate.open(1, v4(1));
    gate.open(1, v4(7));
    assert_eq!(gate.sources.find(SourceAddress::V4(2)), None, "of the banned, the one seen longest ago");
    check(&gate);
}

#[test]
fn whatever_happens_the_lists_hold_together() {
    let settings = AddressGateSettings {
        connects_per_second: 2,
        connects_burst: 3,
        ban_after_failures: 4,
        ban_seconds: 1,
        failures_forget_seconds: 2,
        flap_connects: 3,
        flap_seconds: 1,
        addresses_max: 50,
        ..off()
    };
    let mut gate = gate(settings);
    let mut random = Random::new(3);
    let mut now = 0;
    for step in 0..50_000 {
        let number = random.next_u64() as u32;
        let address = v4(number % 100);
        now += u64::from(number >> 8 & 31);
        match number >> 16 & 7 {
            0..=2 => drop(gate.open(now, address)),
            3 => drop(gate.failed(now, address)),
            4 => gate.succeeded(now, address),
            5 => drop(gate.closed(now, address, 5)),
            6 => drop(gate.ban(now, address, now + 100)),
            _ => drop(gate.unban(now, address)),
        }
        if step % 100 == 0 {
            check(&gate);
        }
    }
    check(&gate);
}

#[test]
fn settings_without_a_file_are_the_defaults() {
    assert_eq!(AddressGateSettings::from(&Config::default()), AddressGateSettings::default());
}

#[test]
fn listed_networks_are_banned_for_ever_but_for_the_exempt() {
    let settings = AddressGateSettings {
        banned: ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()].into(),
        exempt: ["10.1.0.0/16".parse().unwrap()].into(),
        ..off()
    };
    let mut gate = gate(settings);
    assert!(!gate.is_open_to_all());
    for address in ["10.0.0.1", "::ffff:10.2.0.1", "2001:db8::1"] {
        assert_eq!(gate.open(5, ip(address)), Admission::Banned { until_millis: u64::MAX }, "{address}");
    }
    for address in ["10.1.0.1", "11.0.0.1", "2001:db9::1"] {
        assert_eq!(gate.open(5, ip(address)), Admission::Admit, "{address}");
    }
    assert!(gate.is_empty(), "an address that stands in a list need not be remembered");
}

#[test]
fn a_source_that_is_not_admitted_is_told_of_once_a_minute() {
    let mut gate = gate(off());
    let told =
        |gate: &mut AddressGate, now, text| gate.tell(now, ip(text)).map(|network| network.to_string());
    assert_eq!(told(&mut gate, 500, "192.0.2.1").as_deref(), Some("192.0.2.1/32"));
    assert_eq!(told(&mut gate, 59_999, "192.0.2.1"), None);
    assert_eq!(told(&mut gate, 59_999, "2001:db8::1").as_deref(), Some("2001:db8::/64"));
    assert_eq!(told(&mut gate, 60_000, "2001:db8::2"), None);
    assert!(told(&mut gate, 60_000, "192.0.2.1").is_some());
    check(&gate);
}

#[test]
fn other_settings_forget_no_ban_and_no_failure() {
    let settings = AddressGateSettings { ban_after_failures: 2, ban_seconds: 10, ..off() };
    let mut gate = gate(settings);
    gate.failed(0, v4(1));
    gate.failed(0, v4(1));
    gate.failed(0, v4(2));
    gate.tell(0, v4(3));
    gate.change(AddressGateSettings { ban_after_failures: 2, ban_seconds: 99, ..off() });
    assert_eq!(gate.open(1, v4(1)), Admission::Banned { until_millis: 10_000 });
    assert_eq!(gate.failed(1, v4(2)), Penalty::Ban { until_millis: 99_001 });
    assert_eq!(gate.len(), 3);
    check(&gate);
    // With fewer places, the clean sources are forgotten first, then the banned ones that were seen longest
    // ago.
    gate.open(2, v4(1));
    gate.change(AddressGateSettings { addresses_max: 1, ..off() });
    assert_eq!(gate.open(3, v4(1)), Admission::Banned { until_millis: 10_000 });
    assert_eq!(gate.open(3, v4(2)), Admission::Admit);
    assert_eq!(gate.len(), 1);
    check(&gate);
}

#[test]
fn logins_of_a_source_are_checked_as_its_refusals_allow() {
    let settings = AddressGateSettings {
        failures_before_delay: 2,
        delay_base_millis: 100,
        delay_max_millis: 1000,
        failures_forget_seconds: 60,
        exempt: [Network::new(v4(9), 32).unwrap()].into(),
        ..off()
    };
    let mut gate = gate(settings);
    let start = 1_000_000;
    let source = v4(1);
    assert_eq!(gate.login_turn(start, source), LoginTurn::Free);
    assert_eq!(gate.len(), 0, "asking remembers nothing");
    gate.failed(start, source);
    assert_eq!(gate.login_turn(start, source), LoginTurn::Free, "the next one is refused at once too");
    gate.failed(start, source);
    assert_eq!(gate.login_turn(start, source), LoginTurn::One, "the refusal of the next one waits");
    assert_eq!(gate.failed(start, source), Penalty::Delay { millis: 100 });
    let until = LoginTurn::Until(Time::from_millis(start + 100));
    assert_eq!(gate.login_turn(start, source), until);
    assert_eq!(gate.login_turn(start + 99, source), until);
    assert_eq!(gate.login_turn(start + 100, source), LoginTurn::One);
    assert_eq!(gate.login_turn(start, v4(2)), LoginTurn::Free, "another source");
    // Each further failure waits longer, and a successful login removes one.
    assert_eq!(gate.failed(start + 100, source), Penalty::Delay { millis: 200 });
    assert_eq!(gate.login_turn(start + 299, source), LoginTurn::Until(Time::from_millis(start + 300)));
    gate.succeeded(start + 300, source);
    gate.succeeded(start + 300, source);
    gate.succeeded(start + 300, source);
    assert_eq!(gate.login_turn(start + 300, source), LoginTurn::Free);
    // Forgotten failures and exempt addresses do not count.
    gate.failed(start + 400, source);
    gate.failed(start + 400, source);
    assert_eq!(gate.login_turn(start + 60_399, source), LoginTurn::One);
    assert_eq!(gate.login_turn(start + 60_400, source), LoginTurn::Free);
    for _ in 0..5 {
        gate.failed(start, v4(9));
    }
    assert_eq!(gate.login_turn(start, v4(9)), LoginTurn::Free);
    assert!(gate.ban(start, source, start + 500));
    assert_eq!(gate.login_turn(start + 499, source), LoginTurn::Banned);
    check(&gate);
}
