//! Recovery from real files: cut, damaged, and with other numbers of shards.

use super::*;
use crate::base::nth;
use crate::mqtt::QoS;
use crate::store::state::tests::{Frames, Model, delivery, described, session, stored, subscribed};
use crate::store::{Base, Journal, Record, Wall, check_rows, rows::Table};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

pub(in crate::persistence) const WALL: Wall = Wall { zero_millis: 0 };

/// The directory of one test, with its path. It is removed when this is dropped.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("midge-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Scratch(std::env::temp_dir().join(name))
    }

    pub(crate) fn open(&self) -> StoreDirectory {
        StoreDirectory::open(&self.0).unwrap()
    }

    /// Copies the files as a crash would leave them now.
    fn copied(&self) -> Scratch {
        let copy = Scratch::new();
        let directory = copy.open();
        for name in ["log", "damaged"] {
            for entry in fs::read_dir(self.0.join(name)).unwrap() {
                let from = entry.unwrap().path();
                fs::copy(&from, directory.path().join(name).join(from.file_name().unwrap())).unwrap();
            }
        }
        let checkpoint = self.0.join("checkpoint.redb");
        if checkpoint.exists() {
            fs::copy(checkpoint, directory.checkpoint()).unwrap();
        }
        copy
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes the log of a shard like the log writer does. A block of zeros follows.
pub(in crate::persistence) struct Log {
    directory: PathBuf,
    journal: Journal,
    pub(in crate::persistence) header: Header,
    bytes: Vec<u8>,
}

impl Log {
    pub(in crate::persistence) fn new(directory: &StoreDirectory, epoch: u64, shard: u16) -> Log {
        Log {
            directory: directory.log(),
            journal: Journal::new(LogName { epoch, shard }),
            header: Header { epoch, shard, shards: 4, number: 0, first_sequence: 1, seed: 5 },
            bytes: Vec::new(),
        }
    }

    /// Adds a frame, which is a batch.
    pub(in crate::persistence) fn frame(&mut self, millis: u64, records: &[Record<'_>]) {
        self.journal.set_wall(Wall { zero_millis: millis });
        records.iter().for_each(|record| self.journal.record(record));
        let Some(batch) = self.journal.take() else { return };
        if self.bytes.is_empty() {
            self.header.first_sequence = batch.first;
            self.bytes = self.header.encode().to_vec();
        }
        self.bytes.extend_from_slice(&batch.bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    pub(in crate::persistence) fn path(&self) -> PathBuf {
        let Header { epoch, shard, number, .. } = self.header;
        self.directory.join(crate::store::segment::file_name(LogName { epoch, shard }, number))
    }

    /// Writes the segment to the file.
    pub(in crate::persistence) fn write(&mut self) -> PathBuf {
        if self.bytes.is_empty() {
            self.bytes = self.header.encode().to_vec();
        }
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len() + BLOCK, 0);
        fs::write(self.path(), bytes).unwrap();
        self.path()
    }

    /// Writes the segment over the blocks of an old file. Blocks that the crash left unwritten show the old
    /// content. `keeps` returns whether a block was written.
    fn write_over(&self, old: &[u8], keeps: impl Fn(usize) -> bool) -> PathBuf {
        let mut bytes = old.to_vec();
        bytes.resize(old.len().max(self.bytes.len()), 0);
        for (block, new) in self.bytes.chunks(BLOCK).enumerate().filter(|&(block, _)| keeps(block)) {
            bytes[block * BLOCK..][..new.len()].copy_from_slice(new);
        }
        fs::write(self.path(), bytes).unwrap();
        self.path()
    }

    /// Ends the segment.
    pub(in crate::persistence) fn seal(&mut self) -> PathBuf {
        let path = self.write();
        self.bytes.clear();
        self.header.number += 1;
        path
    }
}

fn recovered(scratch: &Scratch, shards: usize) -> (Vec<String>, RecoveryReport, u64) {
    let directory = scratch.open();
    let recovery = recover(&directory, shards, 9, None).unwrap();
    let lines = described(&recovery.parts);
    recovery.checkpoint.stop();
    assert_eq!(directory.segments().unwrap(), []);
    let image = Image::open(&directory.checkpoint()).unwrap();
    assert_eq!(check_rows(&image).unwrap(), [] as [String; 0]);
    (lines, recovery.report, recovery.epoch)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_was_written_is_found_by_any_number_of_shards_after_any_number_of_starts() {
    for seed in 0..12 {
        let scratch = Scratch::new();
        let (mut frames, mut model, mut turn) = (Frames::new(seed), Model::default(), 0);
        for start in 0..5 {
            let epoch = start + 1;
            let directory = scratch.open();
            let mut log = Log::new(&directory, epoch, 0);
            for _ in 0..3 {
                for _ in 0..(seed * 7) % 40 {
                    turn += 1;
                    let records = frames.next_frame();
                    model.apply_frame(turn, &records);
                    log.frame(turn, &records);
                }
                log.seal();
            }
            drop(directory);
            for shards in [1, 5] {
                let (lines, report, next) = recovered(&scratch.copied(), shards);
                assert_eq!(lines, model.described(), "seed {seed}, start {start}");
                assert_eq!((&report.damage[..], next), (&[][..], epoch + 1));
            }
            // The checkpoint is merged sometimes, because the epochs would pile up otherwise.
            if (seed + start) % 2 == 0 {
                let (lines, _, _) = recovered(&scratch, 2);
                assert_eq!(lines, model.described());
                let (again, report, _) = recovered(&scratch, 3);
                assert_eq!((again, report.segments), (lines, 0));
            }
            model.begin_epoch();
        }
    }
}

#[test]
fn a_torn_end_is_cut_and_told_and_the_next_start_is_clean() {
    let scratch = Scratch::new();
    let mut log = Log::new(&scratch.open(), 1, 0);
    log.frame(1, &[session(4, "a")]);
    log.frame(2, &[session(8, "b")]);
    let path = log.write();
    flip(&path, 2 * BLOCK + 20);
    let (lines, report, epoch) = recovered(&scratch, 2);
    assert_eq!(lines.len(), 1);
    assert_eq!((&report.torn[..], report.damage.len(), epoch), (&[(path, 2 * BLOCK)][..], 0, 2));
    let (again, report, _) = recovered(&scratch, 2);
    assert_eq!((again, report.torn.len()), (lines, 0));
}

/// A log with one session whose first segment is in the checkpoint, and the file of that segment, full of
/// frames that are not valid any more. Some of them are longer than a block.
fn log_with_an_old_file(scratch: &Scratch) -> (Log, Vec<u8>) {
    let directory = scratch.open();
    let mut log = Log::new(&directory, 1, 0);
    for sid in 1..=20 {
        let long = "x".repeat(if sid % 3 == 0 { 6000 } else { 10 });
        log.frame(sid, &[session(sid, &long)]);
        log.frame(sid, &[Record::Ended { sid: nth(sid) }]);
    }
    log.frame(21, &[session(21, "the one that stays")]);
    let old = fs::read(log.seal()).unwrap();
    drop(directory);
    // The log is empty now.
    let (lines, _, _) = recovered(scratch, 1);
    assert_eq!(lines.len(), 1);
    (log, old)
}

#[test]
fn of_a_segment_written_over_an_old_one_its_own_frames_alone_are_read() {
    let scratch = Scratch::new();
    let (mut log, old) = log_with_an_old_file(&scratch);
    log.frame(22, &[session(22, "new")]);
    log.write_over(&old, |_| true);
    let (lines, report, _) = recovered(&scratch, 2);
    assert_eq!((lines.len(), report.frames, report.ignored), (2, 1, 0), "{lines:?}");
    assert_eq!(report.damage, []);
}

#[test]
fn whatever_a_crash_leaves_of_a_write_over_an_old_segment_no_old_frame_is_read() {
    let long = |letter: &str| letter.repeat(9000);
    let before = Scratch::new();
    let (mut log, old) = log_with_an_old_file(&before);
    log.frame(22, &[session(22, &long("y"))]);
    let first = log.bytes.len() / BLOCK;
    log.frame(23, &[session(23, &long("z")), session(24, "w")]);
    let blocks = log.bytes.len() / BLOCK;
    assert_eq!((first, blocks), (4, 7));
    // First, any blocks of the first write, including the header, and none of the second write. Then all of
    // the first, and any blocks of the second.
    let of_first = (0..1 << first).map(|kept| (kept, kept == (1 << first) - 1, false));
    let of_second = (0..1 << (blocks - first))
        .map(|kept| (kept << first | ((1 << first) - 1), true, kept == (1 << (blocks - first)) - 1));
    for (kept, has_first, has_second) in of_first.chain(of_second) {
        let scratch = before.copied();
        log.directory = scratch.0.join("log");
        log.write_over(&old, |block| kept >> block & 1 == 1);
        let (lines, report, _) = recovered(&scratch, 2);
        let sessions = 1 + usize::from(has_first) + 2 * usize::from(has_second);
        assert_eq!(lines.len(), sessions, "{kept:b}");
        assert_eq!(report.frames, u64::from(has_first) + u64::from(has_second), "{kept:b}");
        assert_eq!((&report.damage[..], report.ignored), (&[][..], 0), "{kept:b}");
    }
}

#[test]
fn a_file_that_waits_for_its_segment_is_none() {
    let scratch = Scratch::new();
    let (log, old) = log_with_an_old_file(&scratch);
    // The file has the name of a later segment. Under its own name it is known to be finished.
    let path = log.write_over(&old, |_| false);
    fs::write(scratch.open().segment_path(1, 0, 0), &old).unwrap();
    let (lines, report, _) = recovered(&scratch, 2);
    assert_eq!((lines.len(), report.segments, report.damage.len(), report.torn.len()), (1, 0, 0, 0));
    assert!(!path.exists());
}

#[test]
fn a_segment_cut_at_any_byte_gives_the_frames_before() {
    let whole = {
        let scratch = Scratch::new();
        let mut log = Log::new(&scratch.open(), 1, 0);
        (1..=3).for_each(|sid| log.frame(sid, &[session(sid, &format!("client {sid}"))]));
        fs::read(log.write()).unwrap()
    };
    for len in (1..whole.len()).step_by(311).filter(|len| len % BLOCK != 0) {
        let scratch = Scratch::new();
        let directory = scratch.open();
        let path = directory.segment_path(1, 0, 0);
        fs::write(&path, &whole[..len]).unwrap();
        drop(directory);
        let (lines, report, _) = recovered(&scratch, 1);
        let batches = [BLOCK, 2 * BLOCK, 3 * BLOCK].iter().filter(|&&at| len >= at + 60).count();
        assert_eq!(lines.len(), batches, "{len}");
        let told: Vec<&str> = report.damage.iter().map(|damage| &*damage.what).collect();
        assert_eq!(told, [format!("the file was cut to {len} bytes")]);
    }
    // Except for the first, a crash leaves a whole number of blocks.
    for blocks in 0..5 {
        let scratch = Scratch::new();
        fs::write(scratch.open().segment_path(1, 0, 0), &whole[..blocks * BLOCK]).unwrap();
        let (lines, report, _) = recovered(&scratch, 1);
        assert_eq!(lines.len(), blocks.saturating_sub(1).min(3), "{blocks}");
        assert_eq!(report.damage.len(), usize::from(blocks == 0), "{blocks}");
    }
}

#[test]
fn a_damaged_segment_is_set_aside_and_what_can_be_read_of_it_is_used() {
    let scratch = Scratch::new();
    let mut log = Log::new(&scratch.open(), 1, 3);
    (1..=3).for_each(|sid| log.frame(sid, &[session(sid, &format!("client {sid}"))]));
    let path = log.seal();
    log.frame(4, &[session(4, "client 4")]);
    log.seal();
    flip(&path, 2 * BLOCK + 20);
    let (lines, report, _) = recovered(&scratch, 2);
    let sids: Vec<&str> = lines.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(sids, ["1", "3", "4"]);
    let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
    let aside = scratch.0.join("damaged").join(path.file_name().unwrap());
    assert_eq!((&damage.path, damage.aside.as_ref()), (&path, Some(&aside)));
    assert!(damage.to_string().contains("from byte 8192 to 12288"), "{damage}");
    assert!(aside.exists() && !path.exists());
    assert_eq!(recovered(&scratch, 2).0, lines);
}

#[test]
fn a_torn_end_that_the_log_went_on_after_is_damage() {
    let scratch = Scratch::new();
    let mut log = Log::new(&scratch.open(), 1, 0);
    log.frame(1, &[session(4, "a")]);
    log.frame(2, &[session(8, "b")]);
    let path = log.seal();
    log.frame(3, &[session(12, "c")]);
    log.seal();
    flip(&path, 2 * BLOCK + 20);
    let (lines, report, _) = recovered(&scratch, 2);
    assert_eq!((lines.len(), report.torn.len(), report.damage.len()), (2, 0, 1));
    assert!(report.damage[0].what.contains("frames 2 to 2"), "{}", report.damage[0]);
    assert_eq!(report.damage[0].path, path);
}

#[test]
fn a_segment_without_a_header_and_one_that_is_missing_are_told() {
    let scratch = Scratch::new();
    let mut log = Log::new(&scratch.open(), 1, 0);
    for number in 1..=4 {
        log.frame(number, &[session(number, &format!("client {number}"))]);
        let path = log.seal();
        match number {
            2 => flip(&path, 20),
            3 => fs::remove_file(&path).unwrap(),
            _ => {}
        }
    }
    let (lines, report, _) = recovered(&scratch, 2);
    assert_eq!(lines.len(), 2);
    let told: Vec<&str> = report.damage.iter().map(|damage| &*damage.what).collect();
    assert_eq!(
        told,
        [
            "the header of the segment can't be read",
            "segments 1 to 2 of its log are not there or can't be read"
        ]
    );
}

/// Gives a segment another version, as the midge of that version would.
pub(in crate::persistence) fn set_version(path: &Path, version: u32) {
    let mut bytes = fs::read(path).unwrap();
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..56]);
    bytes[56..60].copy_from_slice(&checksum.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

/// The error text of a start that is refused. All files must be unchanged after it.
pub(in crate::persistence) fn refused(scratch: &Scratch) -> String {
    let error = recover(&scratch.open(), 2, 9, None).unwrap_err().to_string();
    assert_eq!(fs::read_dir(scratch.0.join("damaged")).unwrap().count(), 0, "nothing is set aside");
    error
}

#[test]
fn a_log_of_another_version_stops_the_start_and_is_not_set_aside() {
    let scratch = Scratch::new();
    let mut log = Log::new(&scratch.open(), 1, 0);
    let paths: Vec<PathBuf> = (1..=3)
        .map(|number| {
            log.frame(number, &[session(number, &format!("client {number}"))]);
            log.seal()
        })
        .collect();
    // The start is also refused if an earlier segment is damaged, which would be set aside otherwise.
    flip(&paths[0], BLOCK + 20);
    for version in [0, 1, 4, u32::MAX] {
        set_version(&paths[2], version);
        let files: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        let error = refused(&scratch);
        let words = format!("in format version {version}; this one reads versions 2 and 3.");
        assert!(error.contains(&words) && error.contains(paths[2].to_str().unwrap()), "{error}");
        let left: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(files == left);
    }
    flip(&paths[0], BLOCK + 20);
    set_version(&paths[2], 2);
    let copy = scratch.copied();
    assert_eq!(recovered(&scratch, 2).0.len(), 3);
    // Without the right checksum, another version is a flipped bit.
    flip(&copy.0.join("log").join(paths[2].file_name().unwrap()), 8);
    let (lines, report, _) = recovered(&copy, 2);
    assert_eq!((lines.len(), report.damage.len()), (2, 1));
}

#[test]
fn segments_made_for_later_are_no_damage() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let mut log = Log::new(&directory, 3, 0);
    log.frame(1, &[session(4, "a")]);
    let first = log.seal();
    // An unused file, an unfinished file, and a file that was another segment before.
    fs::write(directory.segment_path(3, 0, 1), vec![0; 3 * BLOCK]).unwrap();
    fs::write(directory.segment_path(3, 1, 0), vec![0; 3 * BLOCK]).unwrap();
    let unfinished = directory.log().join("0000000003-000-0000000002.log.new");
    fs::write(&unfinished, b"").unwrap();
    fs::copy(first, directory.segment_path(3, 2, 0)).unwrap();
    fs::write(directory.log().join("notes.txt"), b"not ours").unwrap();
    drop(directory);
    let (lines, report, epoch) = recovered(&scratch, 2);
    assert_eq!((lines.len(), report.segments, report.damage.len(), epoch), (1, 1, 0, 4));
    assert!(scratch.0.join("log/notes.txt").exists());
    assert!(!unfinished.exists());
}

/// The log of a process that was killed: segments 0 to 2, and the file for the next one.
fn killed(directory: &StoreDirectory) -> [PathBuf; 4] {
    let mut log = Log::new(directory, 1, 0);
    let mut paths = [(); 4].map(|()| PathBuf::new());
    for (number, path) in paths.iter_mut().enumerate().take(3) {
        let sid = number as u64 + 1;
        log.frame(sid, &[session(sid, &format!("client {sid}"))]);
        *path = log.seal();
    }
    paths[3] = log.path();
    fs::write(&paths[3], vec![0; 3 * BLOCK]).unwrap();
    paths
}

#[test]
fn a_segment_that_is_cut_to_nothing_or_missing_is_told_though_it_is_the_last() {
    let whole = Scratch::new();
    killed(&whole.open());
    assert_eq!(recovered(&whole, 2).1.damage, []);
    for lost in 0..3 {
        for way in 0..4 {
            let scratch = Scratch::new();
            let paths = killed(&scratch.open());
            match way {
                0 => fs::write(&paths[lost], b"").unwrap(),
                1 => fs::remove_file(&paths[lost]).unwrap(),
                2 => fs::write(&paths[lost], vec![0; 3 * BLOCK]).unwrap(),
                // The file of another segment.
                _ => drop(fs::copy(&paths[(lost + 1) % 3], &paths[lost]).unwrap()),
            }
            let (lines, report, _) = recovered(&scratch, 2);
            assert_eq!(lines.len(), 2, "{lost} {way}");
            let told: Vec<&str> = report.damage.iter().map(|damage| &*damage.what).collect();
            let missing = format!("segments {lost} to {lost} of its log are not there or can't be read");
            let wanted =
                if way == 0 { vec!["the file was cut to 0 bytes", &missing] } else { vec![&*missing] };
            assert_eq!(told, wanted, "{lost} {way}");
            assert!(lost < 2 || report.damage.iter().all(|damage| damage.path == paths[lost]));
        }
    }
    // The whole log is missing, except the file for its next segment.
    let scratch = Scratch::new();
    let paths = killed(&scratch.open());
    paths[..3].iter().for_each(|path| fs::remove_file(path).unwrap());
    let (_, report, _) = recovered(&scratch, 2);
    assert!(report.damage[0].what.contains("segments 0 to 2"), "{:?}", report.damage);
    // Segments that are in the checkpoint are not missing.
    let scratch = Scratch::new();
    let paths = killed(&scratch.open());
    let spare = fs::read(&paths[3]).unwrap();
    recovered(&scratch, 2);
    fs::write(&paths[3], spare).unwrap();
    assert_eq!(recovered(&scratch, 2).1.damage, []);
}

#[test]
fn a_log_of_many_changes_is_kept_piece_by_piece() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let mut log = Log::new(&directory, 1, 0);
    let long = "x".repeat(60_000);
    for number in 1..=2400 {
        let id = format!("{number}{long}");
        log.frame(number, &[session(number, &id)]);
        if number > 500 {
            log.frame(number, &[Record::Ended { sid: nth(number - 500) }]);
        }
        if number % 40 == 0 {
            log.seal();
        }
    }
    log.seal();
    let mut report = RecoveryReport::default();
    let mut image = open_image(&directory, &mut report).unwrap();
    let recovered = recover_from(&directory, &mut image, 2, 9, None, report, true);
    let Ok(Recovered { changes, parts, report, pending, .. }) = recovered else { panic!("it can be read") };
    assert_eq!(parts.iter().map(|part| part.sessions.len()).sum::<usize>(), 500);
    assert!(changes.bytes() < CHANGES_BYTES_WANTED + (8 << 20), "{}", changes.bytes());
    assert!(!pending.is_empty() && pending.len() < 60, "{}", pending.len());
    assert_eq!(report.segments, 61);
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_log_is_used() {
    for damage in 0..4 {
        let scratch = Scratch::new();
        let mut log = Log::new(&scratch.open(), 1, 0);
        for number in 1..=200 {
            log.frame(number, &[session(number, &format!("client {number}"))]);
        }
        log.seal();
        assert_eq!(recovered(&scratch, 2).0.len(), 200);
        let mut log = Log::new(&scratch.open(), 2, 0);
        let is_mended = damage == 2;
        log.header.number = if is_mended { 0 } else { 7 };
        let record =
            [session(300, "client 300"), Record::Left { sid: nth(1), at_millis: 4, expiry_seconds: 6 }];
        log.frame(1, &record);
        log.seal();
        let path = scratch.0.join("checkpoint.redb");
        let mut bytes = fs::read(&path).unwrap();
        match damage {
            0 => bytes[..512].fill(0xA5),
            1 => bytes.truncate(100),
            // A flipped bit in a page of rows.
            2 => {
                let at = bytes.windows(10).position(|window| window == b"client 150").unwrap();
                bytes[at] ^= 1;
            }
            _ => bytes = b"not a database".to_vec(),
        }
        fs::write(&path, bytes).unwrap();
        let (lines, report, epoch) = recovered(&scratch, 2);
        let wanted = if is_mended { (201, 0, 3) } else { (1, 1, 3) };
        assert_eq!((lines.len(), report.ignored, epoch), wanted, "{damage}");
        let [told] = &report.damage[..] else { panic!("{:?}", report.damage) };
        assert_eq!((&told.path, told.aside.as_ref().unwrap().exists()), (&path, true));
        assert_eq!(recovered(&scratch, 2).0, lines);
    }
}

#[test]
fn intents_are_resolved_at_the_end_of_their_epoch_and_kept_before_the_shards_start() {
    // [MQTT5-4.3.3-1]
    let scratch = Scratch::new();
    let directory = scratch.open();
    let homes = crate::base::Homes::new(4, 5);
    let client = (0..).map(|salt| format!("c{salt}")).find(|client| homes.home_of(client) == 2).unwrap();
    let mut target = Log::new(&directory, 1, 2);
    target.frame(1, &[session(6, &client), subscribed(6, "t", QoS::ExactlyOnce)]);
    target.write();
    let mut origin = Log::new(&directory, 1, 0);
    let message = stored("t", b"m", QoS::ExactlyOnce);
    origin.frame(1, &[Record::Intent { number: nth(8), targets: 0b100, stamp: None, group: "", message }]);
    origin.write();
    let recovery = recover(&directory, 2, 9, None).unwrap();
    assert_eq!((recovery.report.intents, recovery.report.restored.deliveries), (1, 1));
    assert_eq!(directory.segments().unwrap(), [], "they are in the checkpoint");
    let number = recovery.parts.iter().flat_map(|part| &part.sessions).next().unwrap().deliveries[0].number;
    assert!(recovery.parts.iter().all(|part| part.next_number > number.get()));
    // The next epoch continues with the state that it was given.
    let mut log = Log::new(&directory, recovery.epoch, 1);
    log.frame(2, &[Record::Settled { sid: nth(6), number }]);
    log.write();
    drop(recovery);
    let recovery = recover(&directory, 2, 9, None).unwrap();
    assert_eq!((recovery.report.restored.deliveries, recovery.report.ignored), (0, 0));
}

#[test]
fn messages_of_one_log_are_settled_by_another() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let mut log = Log::new(&directory, 1, 0);
    let message = stored("t", b"m", QoS::AtLeastOnce);
    let records = [
        session(4, "a"),
        session(8, "b"),
        Record::Message { number: nth(12), message },
        delivery(4, 16, 12),
        delivery(8, 20, 12),
    ];
    log.frame(1, &records);
    log.write();
    drop(recover(&directory, 2, 9, None).unwrap());
    for (shard, (sid, number)) in [(0, (4, 16)), (1, (8, 20))] {
        let mut log = Log::new(&directory, 2, shard);
        log.frame(2, &[Record::Settled { sid: nth(sid), number: nth(number) }]);
        log.write();
    }
    drop(recover(&directory, 2, 9, None).unwrap());
    let image = Image::open(&directory.checkpoint()).unwrap();
    let mut rows = 0;
    image.scan(Table::Messages, &[], None, &mut |_, _| rows += 1).unwrap();
    assert_eq!(rows, 0);
}
