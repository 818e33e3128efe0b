//! A backup of a broker that serves: another broker starts with it, and everything is there.

use super::{get_unix, socket_path, unix_rows, wait_for};
use crate::client::Client;
use crate::{Running, midge, run};
use midge_kit::ScratchFolder;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

fn rows(socket: &Path, state: &Path) -> String {
    format!("{}[persistence]\ndirectory = \"{}\"\n", unix_rows(socket), state.display())
}

fn back_up(socket: &Path, to: &str) -> Output {
    run(midge().args(["ctl", "--admin", &format!("unix:{}", socket.display()), "backup", to]))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[test]
fn a_broker_starts_with_what_was_acknowledged_before_and_without_gaps() {
    let scratch = ScratchFolder::new("admin-backup");
    let (state, copy) = (scratch.join("state"), scratch.join("copy"));
    let socket = socket_path("backup");
    let running = Running::start("admin-backup", &rows(&socket, &state));
    wait_for(200, || get_unix(&socket, "/readyz"));
    // Two clients are at home on both shards, with some probability; four nearly always.
    for number in 0..4 {
        let mut kept = Client::connect(running.address, &format!("kept-{number}"), true, 3600);
        kept.subscribe("numbers", 1);
        kept.disconnect();
    }
    running.client("r").publish_acknowledged("retained", b"here", true);
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let publisher = std::thread::spawn({
        let (stop, acknowledged, address) = (Arc::clone(&stop), Arc::clone(&acknowledged), running.address);
        move || {
            let mut client = Client::connect(address, "p", true, 0);
            while !stop.load(Ordering::Acquire) {
                let next = acknowledged.load(Ordering::Acquire) + 1;
                assert_eq!(client.publish_acknowledged("numbers", &next.to_be_bytes(), false), 0);
                acknowledged.store(next, Ordering::Release);
            }
        }
    });
    while acknowledged.load(Ordering::Acquire) < 50 {
        std::thread::yield_now();
    }
    let before = acknowledged.load(Ordering::Acquire);
    let made = back_up(&socket, &copy.display().to_string());
    assert!(made.status.success() && said(&made).contains("verified"), "{}", said(&made));
    let again = back_up(&socket, &copy.display().to_string());
    assert!(again.status.code() == Some(1) && said(&again).contains("is not empty"), "{}", said(&again));
    stop.store(true, Ordering::Release);
    publisher.join().expect("each message is acknowledged");
    let after = acknowledged.load(Ordering::Acquire);
    drop(running);

    let verified = run(midge().args(["store", "verify"]).arg(&copy));
    assert!(verified.status.success(), "{}", said(&verified));
    let restored = Running::start("admin-backup-restored", &rows(&socket_path("backup-restored"), &copy));
    for number in 0..4 {
        let mut kept = Client::connect(restored.address, &format!("kept-{number}"), false, 3600);
        restored.client("end").publish_acknowledged("numbers", b"end", false);
        let mut last = 0;
        loop {
            let message = kept.message();
            let Ok(payload) = message.payload.as_slice().try_into() else { break };
            let next = u32::from_be_bytes(payload);
            assert_eq!(next, last + 1, "kept-{number} has a gap");
            last = next;
        }
        assert!((before..=after).contains(&last), "kept-{number} has {last}; {before} to {after} were sent");
    }
    let mut reader = restored.client("reader");
    reader.subscribe("retained", 1);
    assert_eq!(reader.message().payload, b"here");
}

#[test]
fn what_cannot_be_backed_up_is_said() {
    let socket = socket_path("backup-none");
    let running = Running::start("admin-backup-none", &unix_rows(&socket));
    wait_for(200, || get_unix(&socket, "/readyz"));
    let none = back_up(&socket, "/nowhere");
    assert!(none.status.code() == Some(1) && said(&none).contains("nothing is kept"), "{}", said(&none));
    drop(running);
    let scratch = ScratchFolder::new("admin-backup-bad");
    let state = scratch.join("state");
    let _running = Running::start("admin-backup-bad", &rows(&socket, &state));
    wait_for(200, || get_unix(&socket, "/readyz"));
    let relative = back_up(&socket, "copy");
    assert!(
        relative.status.code() == Some(1) && said(&relative).contains("an absolute path"),
        "{}",
        said(&relative)
    );
    let own = back_up(&socket, &state.display().to_string());
    assert_eq!(own.status.code(), Some(1), "{}", said(&own));
    let file = scratch.join("file");
    std::fs::write(&file, "").expect("it can be written");
    let below = back_up(&socket, &file.join("copy").display().to_string());
    assert_eq!(below.status.code(), Some(1), "{}", said(&below));
    assert_eq!(get_unix(&socket, "/api/v1/backup").status, 404, "none was begun");
}
