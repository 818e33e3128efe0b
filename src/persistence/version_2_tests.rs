//! A store that was written by a midge with version 2 of the log. It must be readable as long as version 3 is
//! the version that is written.
//!
//! `fixtures` has its files without their zeros: the length of the file, and then for each stretch without
//! zeros its position, its length and its bytes. `version-2.txt` lists the content, with a line for each
//! session, retained message and will.

use super::recovery::tests::Scratch;
use super::tools::{dump, verify};
use super::{Image, recover};
use crate::store::rows::Table;
use crate::store::segment::{Header, SegmentReader, Step};
use crate::store::state::tests::described;
use crate::store::{Base, open_body};
use std::fs;

const CHECKPOINT: &[u8] = include_bytes!("fixtures/version-2.checkpoint");
/// Two segments of the start whose earlier segments are in the checkpoint.
const SEGMENTS: [(&str, &[u8]); 2] = [
    ("0000000002-000-0000000000.log", include_bytes!("fixtures/version-2.log-0")),
    ("0000000002-000-0000000001.log", include_bytes!("fixtures/version-2.log-1")),
];
const CONTENT: &str = include_str!("fixtures/version-2.txt");

/// Restores a file with its zeros.
fn whole(mut parts: &[u8]) -> Vec<u8> {
    let number = |from: &mut &[u8]| {
        let (number, rest) = from.split_first_chunk::<4>().unwrap();
        *from = rest;
        u32::from_le_bytes(*number) as usize
    };
    let mut bytes = vec![0; number(&mut parts)];
    while !parts.is_empty() {
        let (at, len) = (number(&mut parts), number(&mut parts));
        bytes[at..at + len].copy_from_slice(&parts[..len]);
        parts = &parts[len..];
    }
    bytes
}

fn store() -> Scratch {
    let scratch = Scratch::new();
    let directory = scratch.open();
    fs::write(directory.checkpoint(), whole(CHECKPOINT)).unwrap();
    for (name, segment) in SEGMENTS {
        fs::write(directory.log().join(name), whole(segment)).unwrap();
    }
    scratch
}

#[test]
fn a_store_of_version_2_is_read_by_a_start_and_by_the_tools() {
    for (_, segment) in SEGMENTS {
        assert_eq!(whole(segment)[8..12], 2u32.to_le_bytes());
    }
    let scratch = store();
    let mut told = Vec::new();
    assert!(verify(&scratch.0, &mut told).unwrap(), "{}", String::from_utf8_lossy(&told));
    let mut dumped = Vec::new();
    dump(&scratch.0, &mut dumped).unwrap();
    let dumped = String::from_utf8(dumped).unwrap();
    assert!(dumped.lines().count() > 20 && !dumped.contains("damaged"), "{dumped}");
    for shards in [1, 3] {
        let scratch = store();
        let recovery = recover(&scratch.open(), shards, 9, None).unwrap();
        assert_eq!(described(&recovery.parts), CONTENT.lines().collect::<Vec<_>>());
        assert_eq!((&recovery.report.damage[..], recovery.report.segments), (&[][..], 2));
        assert_eq!((recovery.epoch, recovery.report.bad_rows), (3, 0));
        recovery.checkpoint.stop();
    }
}

#[test]
fn the_store_of_version_2_has_records_of_every_kind_and_rows_of_all_tables_but_two() {
    let mut names = std::collections::BTreeSet::new();
    for (_, segment) in SEGMENTS {
        let bytes = whole(segment);
        let mut reader = SegmentReader::new(&bytes, &Header::decode(&bytes).unwrap());
        while let Step::Frame(frame) = reader.step() {
            let (_, mut records) = open_body(frame.body).unwrap();
            while let Some(record) = records.read_next().unwrap() {
                let text = format!("{record:?}");
                names.insert(text.split([' ', '(']).next().unwrap().to_owned());
            }
        }
    }
    // These are all kinds of version 2. `record::tests` has a body with each of them in each form.
    assert_eq!(names.len(), 25, "{names:?}");
    let scratch = store();
    let image = Image::open(&scratch.open().checkpoint()).unwrap();
    for table in Table::ALL {
        let mut rows = 0;
        image.scan(table, &[], None, &mut |_, _| rows += 1).unwrap();
        // The start that made the checkpoint has carried the intents to their targets.
        assert_eq!(rows > 0, !matches!(table, Table::Intents | Table::Seen), "{table:?}");
    }
}
