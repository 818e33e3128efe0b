//! Floods of the store's log, and damage to it.

use super::open;
use crate::client::Client;
use crate::running::{PATIENCE, Running, midge, run};
use midge_kit::codec::{self, Encode, V5};
use midge_kit::read_packet;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A directory that does not exist yet.
fn fresh(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("attacks-log-{name}"));
    let _ = fs::remove_dir_all(&directory);
    directory
}

fn start(name: &str, directory: &Path, shards: usize, limits: &str) -> Running {
    let rest = format!(
        "[limits]\n{limits}[runtime]\nshards = {shards}\n[persistence]\ndirectory = {:?}\n\
         segment_bytes = 1048576\n",
        directory.display().to_string()
    );
    Running::start(&format!("attacks-log-{name}"), &rest)
}

const TOPIC_BYTES: usize = 60_000;
/// The number of packets that fit into 4 KB.
const PUBLISHES: u16 = 409;

/// A client of 5.0 that has bound alias 1 to a long topic.
fn alias(running: &Running, id: &str) -> TcpStream {
    let mut stream = open(running.address, &codec::connect(V5, id).encode(V5));
    let connack = read_packet(&mut stream).expect("CONNACK");
    assert_eq!((connack[0], connack[3]), (0x20, 0), "it is in");
    let topic = format!("a/{}", "x".repeat(TOPIC_BYTES));
    let bind = codec::publish(topic, "").alias(1).encode(V5);
    stream.write_all(&bind).expect("the broker reads");
    stream
}

/// QoS 1 PUBLISH packets to the alias, with identifiers from 1 on.
fn flood() -> Vec<u8> {
    (1..=PUBLISHES)
        .flat_map(|id| {
            let id = id.to_be_bytes();
            [0x32, 8, 0, 0, id[0], id[1], 3, 0x23, 0, 1]
        })
        .collect()
}

/// The reason codes of all its PUBACKs, in order.
fn pubacks(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket option");
    (1..=PUBLISHES)
        .map(|id| {
            let mut head = [0; 4];
            stream.read_exact(&mut head).expect("a PUBACK");
            assert_eq!((head[0], &head[2..]), (0x40, &id.to_be_bytes()[..]));
            let mut rest = vec![0; usize::from(head[1]) - 2];
            stream.read_exact(&mut rest).expect("a PUBACK");
            rest.first().copied().unwrap_or(0)
        })
        .collect()
}

fn leave_session(running: &Running) {
    let mut away = Client::connect(running.address, "away", false, 3600);
    away.subscribe("a/#", 1);
    away.disconnect();
}

/// The size of all files in the directory.
fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).expect("it is there").flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// 12 times 4 KB cause 290 MB of records.
#[test]
fn a_few_kilobytes_that_become_much_log_cost_bounded_memory_and_do_not_end_it() {
    const PUBLISHERS: usize = 12;
    for shards in [1, 2] {
        let directory = fresh(&format!("flood-{shards}"));
        let limits = "session_queue_policy = \"drop_oldest\"\nsession_queue_messages = 20\n";
        let mut running = start(&format!("flood-{shards}"), &directory, shards, limits);
        leave_session(&running);
        let mut publishers: Vec<TcpStream> =
            (0..PUBLISHERS).map(|n| alias(&running, &format!("p{n}"))).collect();
        let mut other = running.client("other");
        assert_eq!(other.publish_acknowledged("x", b"", false), 0x10);
        let before = running.peak_kib();
        publishers.iter_mut().for_each(|stream| stream.write_all(&flood()).expect("the broker reads"));
        for stream in &mut publishers {
            assert!(pubacks(stream).iter().all(|&reason| reason == 0), "each is kept for a while");
        }
        // This includes the journal, a batch on its way to the disk, boxes, the sockets' buffers, and what
        // the checkpoint collects.
        let grown = running.peak_kib() - before;
        let bound = 220 + 60 * shards as u64;
        assert!(grown < bound << 10, "{grown} KiB more with {shards} shards");
        assert_eq!(other.publish_acknowledged("x", b"", false), 0x10);
        let lines = running.lines();
        assert!(!lines.iter().any(|line| line.contains("has failed")), "{lines:#?}");

        running.kill();
        let verified = run(midge().args(["store", "verify"]).arg(&directory));
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        let running = start(&format!("flood-{shards}"), &directory, shards, limits);
        let peak = running.peak_kib();
        assert!(peak < before + (220 << 10), "a start takes {peak} KiB");
        let mut away = Client::connect(running.address, "away", false, 3600);
        for _ in 0..20 {
            assert_eq!(away.message().topic.len(), TOPIC_BYTES + 2);
        }
        drop(running);
        fs::remove_dir_all(directory).expect("it is ours");
    }
}

#[test]
fn messages_that_a_full_queue_refuses_or_drops_do_not_fill_the_log() {
    for (policy, reason) in [("refuse", 0x97), ("drop_newest", 0)] {
        let directory = fresh(policy);
        let limits = format!("session_queue_policy = \"{policy}\"\nsession_queue_messages = 5\n");
        let running = start(policy, &directory, 1, &limits);
        leave_session(&running);
        let mut publisher = alias(&running, "publisher");
        publisher.write_all(&flood()).expect("the broker reads");
        let told = pubacks(&mut publisher);
        assert_eq!(told[..5], [0; 5]);
        assert!(told[5..].iter().all(|&told| told == reason), "{told:?}");
        // 25 MB were sent. The log has five messages, a segment and the next one.
        let bytes = bytes_below(&directory);
        assert!(bytes < 8 << 20, "{bytes} bytes of log");
    }
}

#[test]
fn a_state_directory_that_is_removed_is_told_as_such_and_nothing_more_is_acknowledged() {
    let directory = fresh("removed");
    let running = start("removed", &directory, 1, "");
    leave_session(&running);
    let mut publisher = running.client("publisher");
    assert_eq!(publisher.publish_acknowledged("a/b", b"x", false), 0);
    fs::remove_dir_all(&directory).expect("it is ours");
    // A write some tenths of a second after the last check notices it, and is not acknowledged.
    let mut stream = publisher.into_stream();
    stream.set_nonblocking(true).expect("a socket option");
    let is_told = || running.lines().iter().any(|line| line.contains("was removed or moved"));
    let until = Instant::now() + PATIENCE;
    let mut acknowledged = 0;
    for number in 1.. {
        if is_told() {
            break;
        }
        assert!(Instant::now() < until, "{acknowledged} messages were acknowledged, and are nowhere");
        let publish = [b"\x32\x09\x00\x03a/b".as_slice(), &u16::to_be_bytes(number), b"\x00x"].concat();
        stream.write_all(&publish).expect("a socket takes a few");
        // These are the PUBACKs that have come, of four bytes each. In the end no more come.
        acknowledged += stream.read(&mut [0; 4096]).unwrap_or(0) / 4;
        std::thread::sleep(Duration::from_millis(100));
    }
    running.line("the directory", |line| line.contains("ERROR") && line.contains("was removed or moved"));
    // Later messages are refused as on a disk that "is full or has failed", which names no cause.
    let is_misjudged = |line: &String| line.contains("ERROR") && line.contains("disk is full");
    assert!(!running.lines().iter().any(is_misjudged), "{:#?}", running.lines());
    let mut other = running.client("other");
    assert_eq!(other.publish_acknowledged("a/b", b"x", false), 0x97, "what must be kept is refused");
    assert_eq!(other.publish_acknowledged("nobody/keeps/it", b"x", false), 0x10);
}

#[test]
fn a_segment_cut_to_nothing_is_told_by_the_tool_and_at_the_start() {
    let directory = fresh("cut");
    let mut running = start("cut", &directory, 1, "");
    leave_session(&running);
    let mut publisher = running.client("publisher");
    for _ in 0..30 {
        assert_eq!(publisher.publish_acknowledged("a/b", &[7; 50_000], false), 0);
    }
    // The last segment has begun, and the file for the next one exists.
    let log = directory.join("log");
    let until = Instant::now() + PATIENCE;
    let segment = loop {
        let mut names: Vec<PathBuf> =
            fs::read_dir(&log).expect("it is there").flatten().map(|entry| entry.path()).collect();
        names.sort();
        let last = names.pop().expect("a segment");
        if names.len() > 1 || last.extension().is_some_and(|end| end == "log") && !has_header(&last) {
            break names.pop().expect("the one before");
        }
        assert!(Instant::now() < until, "{last:?} {names:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    running.kill();
    let verify = || run(midge().args(["store", "verify"]).arg(&directory));
    let sound = verify();
    assert_eq!(sound.status.code(), Some(0), "{}", String::from_utf8_lossy(&sound.stdout));
    fs::write(&segment, b"").expect("it is ours");
    let damaged = verify();
    let told = String::from_utf8_lossy(&damaged.stdout).into_owned();
    assert_eq!(damaged.status.code(), Some(1), "{told}");
    let name = segment.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(told.lines().any(|line| line.contains(name) && line.contains("damaged")), "{told}");
    let running = start("cut", &directory, 1, "");
    running.line("the damage", |line| line.contains("Damage") && line.contains(name));
}

#[test]
fn a_flipped_bit_in_the_checkpoint_costs_nothing_and_lost_blocks_not_all() {
    let directory = fresh("bit");
    let mut running = start("bit", &directory, 2, "");
    let mut publisher = running.client("publisher");
    for number in 0..300 {
        let payload = format!("value-{number}-{}", "x".repeat(200));
        publisher.publish_acknowledged(&format!("state/{number}"), payload.as_bytes(), true);
    }
    running.signal("-TERM");
    assert_eq!(running.wait(), 0);
    let checkpoint = directory.join("checkpoint.redb");
    let sound = fs::read(&checkpoint).expect("it is there");
    // Each page with this value, or with it before, is a leaf. Its key may also be in a branch, which leads
    // to all of them.
    let row = b"value-150-";
    let places: Vec<usize> =
        (0..sound.len() - row.len()).filter(|&at| sound[at..].starts_with(row)).collect();
    for (name, bytes_lost, found) in [("bit", 0, 300..=300), ("block", 512, 200..=299)] {
        let mut bytes = sound.clone();
        for &at in &places {
            match bytes_lost {
                0 => bytes[at] ^= 0x10,
                _ => bytes[at..at + bytes_lost].fill(0xA5),
            }
        }
        let _ = fs::remove_dir_all(directory.join("damaged"));
        fs::write(&checkpoint, &bytes).expect("it is ours");
        let verified = run(midge().args(["store", "verify"]).arg(&directory));
        let told = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert_eq!(verified.status.code(), Some(1), "{told}");
        assert!(told.contains("checkpoint.redb: damaged") && told.contains("can be read"), "{told}");

        let mut running = start(&format!("{name}-again"), &directory, 1, "");
        running.line("the damage", |line| line.contains("Damage") && line.contains("checkpoint.redb"));
        assert!(directory.join("damaged/checkpoint.redb").exists(), "it is set aside");
        // It reports how many it has found, and a subscriber gets the same number.
        let restored = running.line("what is restored", |line| line.contains("retained messages, in"));
        let before = restored.split(" retained messages, in").next().unwrap_or_default();
        let count = before.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number");
        assert!(found.contains(&count), "{name}: {count} of 300");
        let mut reader = running.client("reader");
        reader.subscribe("state/#", 1);
        let topics: BTreeSet<_> = (0..count).map(|_| reader.message().topic).collect();
        assert_eq!(topics.len(), count, "{name}");
        running.signal("-TERM");
        assert_eq!(running.wait(), 0);
        let verified = run(midge().args(["store", "verify"]).arg(&directory));
        assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}

/// Whether the file begins with the header of its own segment.
fn has_header(path: &Path) -> bool {
    let bytes = fs::read(path).unwrap_or_default();
    let number = path.file_stem().and_then(|name| name.to_str()?.rsplit('-').next()?.parse().ok());
    let header = midge::store::segment::Header::decode(&bytes);
    header.is_some_and(|header| Some(header.number) == number)
}
