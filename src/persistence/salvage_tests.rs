//! Real checkpoints with flipped bits and lost blocks, and what a start recovers from them.

use super::super::StoreDirectory;
use super::super::recovery::tests::{Log, Scratch, refused};
use super::super::recovery::{RecoveryReport, recover};
use super::*;
use crate::base::Random;
use crate::base::nth;
use crate::mqtt::QoS;
use crate::store::check_rows;
use crate::store::state::tests::{delivery, described, session, stored, subscribed};
use crate::store::{Base, Record, RestoredCounts};
use std::fs;
use std::path::PathBuf;

const SESSIONS: u64 = 150;

/// Creates a checkpoint of several commits. It has sessions with subscriptions and queued messages, some of
/// which two sessions share, and retained messages. Most rows are small, and one is larger than a page that
/// is repaired.
fn fill(scratch: &Scratch) -> RestoredCounts {
    for epoch in 1..=4 {
        let directory = scratch.open();
        let mut log = Log::new(&directory, epoch, 0);
        for turn in 0..SESSIONS {
            let sid = 10 * (1 + turn);
            if epoch == 1 {
                let filter = format!("meters/{turn}/#");
                log.frame(
                    turn,
                    &[session(sid, &format!("client {turn}")), subscribed(sid, &filter, QoS::AtLeastOnce)],
                );
            }
            let number = 1_000_000 * epoch + 10 * turn;
            let payload = vec![b'a' + (turn % 26) as u8; if (epoch, turn) == (2, 7) { 30_000 } else { 300 }];
            let message = stored("meters/x", &payload, QoS::AtLeastOnce);
            let other = if turn % 5 == 0 && turn > 0 { sid - 10 } else { sid };
            let mut records =
                vec![Record::Message { number: nth(number), message }, delivery(sid, number + 1, number)];
            if other != sid {
                records.push(delivery(other, number + 2, number));
            }
            log.frame(turn, &records);
            let topic = format!("state/{epoch}/{turn}");
            log.frame(
                turn,
                &[Record::Retained { stamp: nth(number), message: stored(&topic, b"on", QoS::AtMostOnce) }],
            );
        }
        log.seal();
        drop(directory);
        recover(&scratch.open(), 2, 9, None).unwrap().checkpoint.stop();
    }
    let (_, report) = recovered(scratch);
    assert_eq!(report.damage, []);
    report.restored
}

/// What a start recovers. Afterwards the store must be intact and stay so.
fn recovered(scratch: &Scratch) -> (Vec<String>, RecoveryReport) {
    let directory = scratch.open();
    let recovery = recover(&directory, 2, 9, None).unwrap();
    let lines = described(&recovery.parts);
    recovery.checkpoint.stop();
    let image = Image::open(&directory.checkpoint()).unwrap();
    assert_eq!(check_rows(&image).unwrap(), [] as [String; 0]);
    assert!(!directory.unfinished_checkpoint().exists());
    (lines, recovery.report)
}

/// A new store whose checkpoint has these bytes.
fn with(bytes: &[u8]) -> Scratch {
    let scratch = Scratch::new();
    fs::write(scratch.open().checkpoint(), bytes).unwrap();
    scratch
}

/// The number of sessions, subscriptions, queued messages and retained messages.
fn things(counts: &RestoredCounts) -> u64 {
    counts.sessions + counts.subscriptions + counts.deliveries + counts.retained
}

/// The file after a clean stop, and the file that a process leaves if it is killed after a commit.
fn files() -> ([Vec<u8>; 2], Vec<String>, RestoredCounts) {
    let scratch = Scratch::new();
    let counts = fill(&scratch);
    let directory = scratch.open();
    let recovery = recover(&directory, 2, 9, None).unwrap();
    let lines = described(&recovery.parts);
    let mut log = Log::new(&directory, recovery.epoch, 0);
    log.frame(1, &[Record::Ended { sid: nth(77) }]);
    recovery.checkpoint.submit(log.seal(), 8192);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while recovery.checkpoint.log_bytes() > 0 {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let killed = fs::read(directory.checkpoint()).unwrap();
    recovery.checkpoint.stop();
    let clean = fs::read(directory.checkpoint()).unwrap();
    ([clean, killed], lines, counts)
}

#[test]
fn one_flipped_bit_costs_nothing_but_what_is_in_a_large_page() {
    let (files, lines, counts) = files();
    let mut random = Random::new(41);
    let (mut told, mut lost) = (0, Vec::new());
    for round in 0..60 {
        let bytes = &files[round % 2];
        let mut flipped = bytes.clone();
        // Some flips hit the head, which is small.
        let at = if round % 10 == 9 { random.index(320) } else { random.index(bytes.len()) };
        flipped[at] ^= 1 << random.index(8);
        let scratch = with(&flipped);
        let (found, report) = recovered(&scratch);
        let missing = things(&counts) - things(&report.restored);
        if missing > 0 {
            assert!(!report.damage.is_empty(), "byte {at}: a loss is told");
            lost.push((at, missing));
        } else {
            assert_eq!(found, lines, "byte {at}");
        }
        told += usize::from(!report.damage.is_empty());
        for damage in &report.damage {
            let aside = damage.aside.as_ref().expect("it is set aside");
            assert_eq!(fs::read(aside).unwrap(), flipped, "as it was found");
            assert!(damage.what.contains("can be read"), "{damage}");
        }
        // The repair lasts.
        assert_eq!(recovered(&scratch).1.damage, [], "byte {at}");
    }
    println!("60 bits: {told} told, lost of {}: {lost:?}", things(&counts));
    assert!(told > 15, "most pages of the file are in use");
    let large = lost.iter().filter(|(_, missing)| *missing > 1);
    assert_eq!(large.count(), 0, "{lost:?}");
}

#[test]
fn a_block_that_is_lost_costs_what_it_led_to_and_no_more() {
    let (files, _, counts) = files();
    let mut random = Random::new(5);
    let (mut told, mut lost) = (0, Vec::new());
    for round in 0..60 {
        let mut bytes = files[round % 2].clone();
        // The damage is after the head, because without the head nothing can be found.
        let from = 4096 + random.index(bytes.len() - 4096 - 512);
        bytes[from..from + 512].fill(0xA5);
        let scratch = with(&bytes);
        let (_, report) = recovered(&scratch);
        told += usize::from(!report.damage.is_empty());
        let missing = things(&counts) - things(&report.restored);
        if missing > 0 {
            assert!(!report.damage.is_empty(), "byte {from}: a loss is told");
            lost.push(missing);
        }
        assert_eq!(recovered(&scratch).1.damage, []);
    }
    lost.sort_unstable();
    println!("60 blocks: {told} told, {} with a loss, of {}: {lost:?}", lost.len(), things(&counts));
    let all = lost.iter().filter(|&&missing| missing == things(&counts)).count();
    assert!(told > 15 && all <= 2, "only the list of tables leads to everything: {lost:?}");
    let few = lost.iter().filter(|&&missing| missing * 10 < things(&counts)).count();
    assert!(few * 2 > lost.len(), "most cost less than a tenth: {lost:?}");
}

#[test]
fn a_lost_summary_is_made_anew_and_no_number_is_given_twice() {
    let (files, lines, counts) = files();
    // The summary has its own page. Its table is the first one.
    let scratch = with(&files[0]);
    let path: PathBuf = scratch.0.join("checkpoint.redb");
    let image = Image::open(&path).unwrap();
    let meta = crate::store::Changes::new(&image).unwrap().meta().clone();
    drop(image);
    let mut encoded = Vec::new();
    meta.encode(&mut encoded);
    let mut bytes = fs::read(&path).unwrap();
    let copies: Vec<usize> =
        (0..bytes.len() - encoded.len()).filter(|&at| bytes[at..].starts_with(&encoded)).collect();
    assert!(!copies.is_empty());
    for at in copies {
        bytes[at..at + 4].copy_from_slice(b"lost");
    }
    fs::write(&path, bytes).unwrap();
    let directory = scratch.open();
    let recovery = recover(&directory, 2, 9, None).unwrap();
    // Only the time at which each session was last connected is lost.
    assert_eq!((described(&recovery.parts).len(), recovery.report.restored), (lines.len(), counts));
    let highest = 4_000_000 + 10 * (SESSIONS - 1) + 1;
    assert!(
        recovery
            .parts
            .iter()
            .all(|part| part.next_number > highest && part.last_stamp >= Some(nth(highest - 1)))
    );
    assert_eq!(recovery.report.damage.len(), 1);
    assert!(recovery.report.has_lost_meta);
}

#[test]
fn a_file_of_anything_is_no_checkpoint_and_ends_nothing() {
    let (files, ..) = files();
    let mut random = Random::new(1);
    for round in 0..30 {
        let mut bytes = files[round % 2].clone();
        match round % 5 {
            0 => bytes.truncate(random.index(bytes.len())),
            1 => bytes.iter_mut().for_each(|byte| *byte = random.index(256) as u8),
            2 => bytes[..4096].fill(0),
            3 => (0..200).for_each(|_| {
                let at = random.index(bytes.len());
                bytes[at] ^= 1 << random.index(8);
            }),
            _ => {
                // Swapped blocks.
                let blocks = bytes.len() / 4096;
                for _ in 0..20 {
                    let (from, to) = (random.index(blocks) * 4096, random.index(blocks) * 4096);
                    bytes.copy_within(from..from + 4096, to);
                }
            }
        }
        let scratch = with(&bytes);
        recovered(&scratch);
        assert_eq!(recovered(&scratch).1.damage, []);
    }
}

#[test]
fn a_new_checkpoint_that_was_not_finished_is_begun_anew() {
    let (files, lines, _) = files();
    let mut bytes = files[0].clone();
    // Every page that contains it now or did before.
    let places: Vec<usize> =
        (0..bytes.len() - 11).filter(|&at| bytes[at..].starts_with(b"state/3/100")).collect();
    places.iter().for_each(|&at| bytes[at] ^= 4);
    let scratch = with(&bytes);
    let directory: StoreDirectory = scratch.open();
    fs::write(directory.unfinished_checkpoint(), b"half of it").unwrap();
    drop(directory);
    let (found, report) = recovered(&scratch);
    assert_eq!((found, report.damage.len()), (lines, 1));
}

/// Gives the rows of a checkpoint a version.
fn set_version(scratch: &Scratch, version: u8) {
    let directory = scratch.open();
    let mut image = Image::open(&directory.checkpoint()).unwrap();
    let mut meta = image.get(Table::Meta, META_KEY).unwrap().unwrap();
    meta[0] = version;
    image.add(&[(Table::Meta, Row::from_slice(META_KEY), meta)]).unwrap();
}

#[test]
fn a_checkpoint_of_another_version_stops_the_start_and_is_not_set_aside() {
    let scratch = Scratch::new();
    let counts = fill(&scratch);
    let path = scratch.0.join("checkpoint.redb");
    let sound = fs::read(&path).unwrap();
    for version in [0, 1, 3, 255] {
        fs::write(&path, &sound).unwrap();
        set_version(&scratch, version);
        let words = format!("in format version {version}; this one reads version 2.");
        let error = refused(&scratch);
        assert!(error.contains(&words), "{error}");
        // The library does not open it any more. The version is found in the intact pages.
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(9).position(|window| window == b"client 77").unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = refused(&scratch);
        assert!(error.contains(&words), "damaged too: {error}");
    }
    fs::write(&path, &sound).unwrap();
    assert_eq!(recovered(&scratch).1.restored, counts);
}

#[test]
fn a_checkpoint_of_another_format_of_its_library_is_not_set_aside() {
    let scratch = Scratch::new();
    let counts = fill(&scratch);
    let path = scratch.0.join("checkpoint.redb");
    let sound = fs::read(&path).unwrap();
    for format in [1, 2, 4] {
        let mut bytes = sound.clone();
        for at in [64, 192] {
            let slot: &mut [u8] = &mut bytes[at..at + 128];
            slot[0] = format;
            let checksum = xxhash_rust::xxh3::xxh3_128(&slot[..112]);
            slot[112..].copy_from_slice(&checksum.to_le_bytes());
        }
        fs::write(&path, &bytes).unwrap();
        let error = refused(&scratch);
        assert!(error.contains(&format!("in format version {format}; this one reads version 3.")), "{error}");
        assert!(fs::read(&path).unwrap() == bytes, "nothing was changed");
    }
    fs::write(&path, &sound).unwrap();
    assert_eq!(recovered(&scratch).1.restored, counts);
}
