//! A listener on an IPv6 address: it serves clients, and log lines and start-up lines write the address in
//! the usual form.

use crate::client::Client;
use crate::needs;
use crate::{Running, config_file, midge, run, stderr};
use std::net::TcpListener;

/// A free port of `[::1]`. `None` if the machine has no IPv6, as in some containers.
fn bind_loopback() -> Option<TcpListener> {
    match TcpListener::bind("[::1]:0") {
        Ok(listener) => Some(listener),
        Err(error) => {
            needs::skips::note("the address [::1]", &error.to_string());
            None
        }
    }
}

fn exchange(subscriber: &mut Client, publisher: &mut Client, topic: &str) {
    subscriber.subscribe(topic, 1);
    assert_eq!(publisher.publish_acknowledged(topic, b"over six", false), 0);
    let message = subscriber.message();
    assert_eq!((message.topic.as_str(), message.payload.as_slice()), (topic, &b"over six"[..]));
}

#[test]
fn ipv6_listener_serves_and_is_written_with_brackets() {
    if bind_loopback().is_none() {
        return;
    }
    for shards in [1, 2] {
        let running =
            Running::start_on("[::1]:0", &format!("six{shards}"), &format!("[runtime]\nshards = {shards}\n"));
        let port = running.address.port();
        assert!(running.address.is_ipv6() && port != 0);
        running.line("the listener", |line| line.contains(&format!("Listening on [::1]:{port} with")));
        running.line("who can come in", |line| {
            line.contains(&format!("Listener [::1]:{port}: only this machine can reach it;"))
        });

        // There are enough names for both shards, so that connections are handed over.
        for number in 0..4 {
            let mut subscriber = running.client(&format!("sub{number}"));
            let mut publisher = running.client(&format!("pub{number}"));
            exchange(&mut subscriber, &mut publisher, &format!("six/{number}"));
            let peer = format!("peer={}", subscriber.local_address());
            assert!(peer.starts_with("peer=[::1]:"), "{peer}");
            subscriber.disconnect();
            for words in ["client connected", "client disconnected"] {
                running.line(words, |line| line.contains(words) && line.contains(&peer));
            }
        }
    }
}

#[test]
fn ipv4_and_ipv6_listeners_serve_side_by_side() {
    let Some(free) = bind_loopback() else { return };
    drop(free);
    let rest = "[[listeners]]\naddress = \"127.0.0.1:0\"\n[runtime]\nshards = 2\n";
    let running = Running::start_on("[::1]:0", "six-and-four", rest);
    let line = running.line("the listeners", |line| line.contains("Listening on "));
    let four = line
        .split(" and ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("a second address in {line}"));
    let mut subscriber = Client::connect(four, "four", true, 0);
    exchange(&mut subscriber, &mut running.client("six"), "both/ways");
}

#[test]
fn taken_ipv6_port_is_named() {
    let Some(taken) = bind_loopback() else { return };
    let address = taken.local_addr().expect("bound");
    let file = config_file("six-taken", &format!("[[listeners]]\naddress = \"{address}\"\n"));
    let output = run(midge().arg("--config").arg(&file));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("can't listen on {address}: another process listens there")), "{said}");
    let output = run(midge().arg("check-config").arg(&file));
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("listens on {address}")));
}

#[test]
fn mosquitto_clients_reach_an_ipv6_listener() {
    if bind_loopback().is_none() {
        return;
    }
    if !needs::has("mosquitto_pub") {
        return;
    }
    let running = Running::start_on("[::1]:0", "six-mosquitto", "[runtime]\nshards = 2\n");
    let port = running.address.port().to_string();
    let published = needs::command("mosquitto_pub")
        .args(["-h", "::1", "-p", &port, "-V", "5", "-q", "1", "-r", "-t", "six/kept", "-m", "hello"])
        .status();
    assert!(published.expect("it was there just now").success());
    let got = needs::command("mosquitto_sub")
        .args(["-h", "::1", "-p", &port, "-V", "311", "-q", "1", "-C", "1", "-W", "60", "-t", "six/#"])
        .output()
        .expect("it comes with mosquitto_pub");
    assert_eq!(String::from_utf8_lossy(&got.stdout), "hello\n", "{got:?}");
}
