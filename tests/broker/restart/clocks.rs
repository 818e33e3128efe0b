//! A machine whose wall clock is set, as NTP does on a machine without a battery clock.
//!
//! The program runs with a preloaded library that adds an offset to the kernel's wall clock. The offset in
//! seconds is in a file, and may change at any time.

use super::{Device, Message, command, fresh};
use crate::running::{PATIENCE, Running};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static volatile int64_t *offset;
    int result = syscall(SYS_clock_gettime, clock, time);
    if (clock != CLOCK_REALTIME || result != 0) return result;
    if (!offset) {
        int file = open(getenv("MIDGE_TEST_OFFSET"), O_RDONLY);
        void *page = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
        if (file < 0 || page == MAP_FAILED) abort();
        offset = page;
    }
    time->tv_sec += *offset;
    return 0;
}
"#;

/// The library, compiled once.
fn library() -> &'static Path {
    static LIBRARY_FILE: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY_FILE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (source, library) = (folder.join("clock.c"), folder.join("libclock.so"));
        fs::write(&source, LIBRARY).expect("the target folder can be written");
        let mut cc = Command::new("cc");
        let compiled = cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
        assert!(compiled.expect("a C compiler is there: ring needs it too").success());
        library
    })
}

/// A machine and its wall clock.
struct Machine {
    name: String,
    directory: PathBuf,
    offset: PathBuf,
}

impl Machine {
    fn new(name: &str, offset_seconds: i64) -> Machine {
        let offset = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clock-{name}"));
        let machine = Machine { name: name.to_owned(), directory: fresh(name), offset };
        machine.set(offset_seconds);
        machine
    }

    /// Sets the offset. The file stays the same one, because the program has mapped it.
    fn set(&self, offset_seconds: i64) {
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&self.offset);
        let file = file.expect("the target folder can be written");
        file.write_all_at(&offset_seconds.to_ne_bytes(), 0).expect("eight bytes");
    }

    fn start(&self) -> Running {
        let mut command = command(&self.name, &self.directory, 2);
        command.env("LD_PRELOAD", library()).env("MIDGE_TEST_OFFSET", &self.offset);
        Running::start_command(command).expect("it starts")
    }
}

/// Lets clients connect until the broker has noticed the clock.
fn await_notice(broker: &Running) {
    let until = Instant::now() + PATIENCE;
    while !broker.lines().iter().any(|line| line.contains("the wall clock was set")) {
        assert!(Instant::now() < until, "no word of it: {:#?}", broker.lines());
        Device::connect(broker.address, "passing", 0, None).leave();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Checks the publisher's intervals of an hour: they are not longer than before, and shorter by no more than
/// the test has taken.
fn check(messages: &[Message], topics: &[&str], began: Instant) {
    let taken = u32::try_from(began.elapsed().as_secs()).expect("a short test") + 1;
    assert_eq!(messages.iter().map(|message| &*message.topic).collect::<Vec<_>>(), topics, "{messages:?}");
    for message in messages {
        let expected = if message.topic == "cmd/a" { None } else { Some(3600 - taken..=3600) };
        let told = message.expiry_seconds;
        assert!(expected.is_none_or(|range| told.is_some_and(|told| range.contains(&told))), "{message:?}");
    }
}

fn survives(name: &str, before: i64, after: i64, down: i64) {
    let machine = Machine::new(name, before);
    let mut broker = machine.start();
    let began = Instant::now();
    if before != after {
        // Its log has begun before the clock is set.
        Device::connect(broker.address, "first", 0, None).leave();
        machine.set(after);
        await_notice(&broker);
    }
    let mut sleeper = Device::connect(broker.address, "sleeper", 86_400, None);
    sleeper.subscribe("cmd/#");
    sleeper.leave();
    let mut publisher = Device::connect(broker.address, "publisher", 0, None);
    publisher.publish("cmd/a", "1", false, None);
    publisher.publish("cmd/b", "2", false, Some(3600));
    publisher.publish("state/r", "3", true, Some(3600));
    broker.kill();
    machine.set(down);
    let broker = machine.start();
    let mut sleeper = Device::connect(broker.address, "sleeper", 86_400, None);
    assert!(sleeper.is_present, "{name}");
    check(&sleeper.messages(2), &["cmd/a", "cmd/b"], began);
    let mut late = Device::connect(broker.address, "late", 0, None);
    late.subscribe("state/r");
    check(&[late.message()], &["state/r"], began);
    let lines = broker.lines();
    assert!(!lines.iter().any(|line| line.contains("The wall clock")), "nothing is in doubt: {lines:#?}");
}

/// [MQTT5-3.3.2-5] [MQTT5-3.3.2-6]
#[test]
fn a_clock_that_ntp_sets_after_the_start_loses_nothing() {
    for (name, offset) in [("hours", -10_800), ("a-day", -90_000), ("decades", -1_700_000_000)] {
        survives(&format!("ntp-{name}"), offset, 0, 0);
    }
}

#[test]
fn a_clock_that_is_set_back_lets_no_expiry_grow() {
    for (name, offset) in [("hours", 10_800), ("decades", 1_000_000_000)] {
        survives(&format!("back-{name}"), offset, 0, 0);
    }
}

#[test]
fn a_clock_that_is_set_while_the_broker_is_down_loses_nothing_and_lets_no_expiry_grow() {
    for (name, offset) in [("ahead", 1_000_000_000), ("behind", -1_700_000_000)] {
        survives(&format!("down-{name}"), 0, 0, offset);
    }
}
