//! Wills, and expired sessions.

use super::{Device, Message, fresh, start};
use std::time::Duration;

fn message(topic: &str, payload: &str) -> Message {
    Message { topic: topic.into(), payload: payload.into(), expiry_seconds: None }
}

/// A device without a kept session and its broker lose power together. [MQTT5-3.1.2-8]
#[test]
fn a_device_with_a_clean_session_is_shown_offline_after_the_broker_was_killed() {
    let directory = fresh("offline");
    let mut broker = start("offline", &directory, 2);
    let mut watcher = Device::connect(broker.address, "watcher", 1_000_000, None);
    watcher.subscribe("state/#");
    watcher.leave();
    let mut devices = Vec::new();
    for number in 0..8 {
        let topic = format!("state/{number}");
        let mut device = Device::connect(broker.address, &format!("device{number}"), 0, Some((&topic, 0)));
        device.publish(&topic, "online", true, None);
        devices.push(device);
    }
    // These send DISCONNECT. What their sessions send next is on the disk after that.
    devices.drain(6..).for_each(Device::leave);
    for number in 6..8 {
        Device::connect(broker.address, &format!("device{number}"), 1_000_000, None).leave();
    }
    broker.kill();
    for (round, shards) in [(1, 3), (2, 1)] {
        let mut broker = start("offline", &directory, shards);
        let mut watcher = Device::connect(broker.address, "watcher", 1_000_000, None);
        assert!(watcher.is_present);
        if round == 1 {
            let all = |state: &'static str, devices: std::ops::Range<usize>| {
                devices.map(move |number| message(&format!("state/{number}"), state))
            };
            // These are the devices' messages before the kill, and then the wills.
            let mut expected: Vec<Message> = all("online", 0..8).chain(all("offline", 0..6)).collect();
            expected.sort_by(|a, b| a.topic.cmp(&b.topic));
            assert_eq!(watcher.messages(14), expected, "each device is online before it is offline");
            watcher.await_disk();
        }
        assert_eq!(watcher.received(), [], "told once");
        watcher.leave();
        for number in 0..8 {
            let topic = format!("state/{number}");
            let mut late = Device::connect(broker.address, "late", 0, None);
            late.subscribe(&topic);
            let state = if number < 6 { "offline" } else { "online" };
            assert_eq!(late.message(), message(&topic, state));
        }
        broker.kill();
    }
}

#[test]
fn a_device_that_is_back_at_once_is_shown_online() {
    let directory = fresh("back");
    let mut broker = start("back", &directory, 2);
    let device = Device::connect(broker.address, "device", 0, Some(("state/1", 0)));
    broker.kill();
    drop(device);
    let broker = start("back", &directory, 2);
    let mut device = Device::connect(broker.address, "device", 0, Some(("state/1", 0)));
    device.publish("state/1", "online", true, None);
    let mut late = Device::connect(broker.address, "late", 0, None);
    late.subscribe("state/1");
    assert_eq!(late.message(), message("state/1", "online"));
}

#[test]
fn a_will_of_a_kept_session_waits_for_its_delay_over_a_kill_unless_its_client_is_back() {
    let directory = fresh("delay");
    let mut broker = start("delay", &directory, 2);
    let mut watcher = Device::connect(broker.address, "watcher", 1_000_000, None);
    watcher.subscribe("state/#");
    watcher.leave();
    let gone = Device::connect(broker.address, "gone", 1_000_000, Some(("state/gone", 2)));
    let back = Device::connect(broker.address, "back", 1_000_000, Some(("state/back", 1_000)));
    broker.kill();
    drop((gone, back));
    let broker = start("delay", &directory, 2);
    let back = Device::connect(broker.address, "back", 1_000_000, None);
    assert!(back.is_present);
    let mut watcher = Device::connect(broker.address, "watcher", 1_000_000, None);
    assert_eq!(watcher.message(), message("state/gone", "offline"));
    back.leave();
    assert_eq!(watcher.received(), []);
}

/// [MQTT5-3.1.2-23]
#[test]
fn a_session_that_ended_while_the_broker_was_down_is_not_resumed_by_the_first_connect() {
    let directory = fresh("over");
    let mut broker = start("over", &directory, 2);
    for number in 0..20 {
        Device::connect(broker.address, &format!("device{number}"), 1, None).leave();
    }
    // These are on the disk after those, on both shards.
    for number in 0..20 {
        Device::connect(broker.address, &format!("other{number}"), 1_000_000, None).leave();
    }
    broker.kill();
    // A longer time works too.
    std::thread::sleep(Duration::from_secs(2));
    let broker = start("over", &directory, 2);
    for number in 0..20 {
        let device = Device::connect(broker.address, &format!("device{number}"), 1, None);
        assert!(!device.is_present, "session {number} was over before the start");
    }
}
