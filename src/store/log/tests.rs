mod disk;

use std::path::Path;

use self::disk::{Disk, Kind};
use super::*;
use crate::mqtt::QoS;
use crate::store::segment::{SegmentReader, Step, UNFINISHED, parse_file_name};
use crate::store::{Journal, Record, StoredMessage, Wall};

const NAME: LogName = LogName { epoch: 3, shard: 1 };
const SEGMENT: usize = 16 * BLOCK;

/// A log in its own directory, and the journal that fills it.
struct Bench {
    directory: PathBuf,
    disk: Disk,
    spares: Spares,
    journal: Journal,
    log: LogWriter,
    now: Time,
}

impl Bench {
    fn new(test: &str, sync: SyncPolicy) -> Bench {
        let root = std::env::temp_dir();
        let directory = root.join(format!("midge-log-{}-{test}-{sync:?}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let mut disk = Disk::default();
        let config = config(directory.clone(), sync);
        let spares = config.spares.clone();
        let now = Time::from_millis(1);
        let log = start(config, &mut disk, now).unwrap();
        assert!(!disk.is_busy());
        let mut journal = Journal::new(NAME);
        journal.set_wall(Wall { zero_millis: 1 });
        Bench { directory, disk, spares, journal, log, now }
    }

    /// A batch of one frame with this number of blocks.
    fn batch(&mut self, blocks: usize) -> Batch {
        let payload = vec![7; (blocks - 1) * BLOCK];
        let properties = [&[][..]; 3];
        let (topic, qos) = ("t", QoS::AtLeastOnce);
        let message = StoredMessage {
            topic,
            properties,
            payload: &payload,
            qos,
            retain: false,
            expires_at_millis: None,
            source: &[],
        };
        self.journal.record(&Record::Message { number: crate::base::MessageNumber::new(5), message });
        let batch = self.journal.take().unwrap();
        assert_eq!(batch.bytes.len().div_ceil(BLOCK), blocks);
        batch
    }

    fn submit(&mut self, blocks: usize) -> u64 {
        let batch = self.batch(blocks);
        let last = batch.last;
        self.log.submit(batch, &mut self.disk);
        last
    }

    fn poll(&mut self) -> Vec<LogEvent> {
        std::iter::from_fn(|| self.log.poll(self.now, &mut self.disk)).collect()
    }

    /// Lets the disk complete everything that is not held back.
    fn settle(&mut self) -> Vec<LogEvent> {
        let mut events = self.poll();
        while let Some(done) = self.disk.finish_one() {
            self.log.handle_done(done, self.now, &mut self.disk);
            events.extend(self.poll());
        }
        events
    }

    fn write(&mut self, blocks: usize) -> Vec<LogEvent> {
        self.submit(blocks);
        self.settle()
    }

    fn close(&mut self) -> Vec<LogEvent> {
        self.log.close();
        let events = self.settle();
        assert!(self.log.is_closed() && !self.disk.is_busy());
        assert_eq!(self.disk.open_files(), 0);
        events
    }

    /// The segments in order, each with its number and the sequences in it. A file that has not begun is left
    /// out.
    fn read(&self) -> Vec<(u64, Vec<u64>)> {
        read_log(&self.directory)
    }

    fn done(self) {
        std::fs::remove_dir_all(self.directory).unwrap();
    }
}

fn start(config: LogConfig, disk: &mut Disk, now: Time) -> io::Result<LogWriter> {
    let mut start = LogStart::begin(config, disk);
    loop {
        let done = disk.finish_one().expect("a log that begins waits for the disk");
        match start.handle_done(done, now, disk)? {
            Start::UnderWay(further) => start = *further,
            Start::Begun(log) => return Ok(*log),
        }
    }
}

fn config(directory: PathBuf, sync: SyncPolicy) -> LogConfig {
    let spares = Spares::new(NAME.epoch, 2);
    LogConfig { directory, name: NAME, shards: 2, seed: 77, segment_bytes: SEGMENT, sync, spares }
}

fn files(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn read_log(directory: &Path) -> Vec<(u64, Vec<u64>)> {
    let mut segments = Vec::new();
    for file in files(directory) {
        let (name, number) = parse_file_name(&file).unwrap();
        assert_eq!(name, NAME);
        let bytes = std::fs::read(directory.join(&file)).unwrap();
        let Some(header) = Header::decode(&bytes).filter(|header| header.number == number) else { continue };
        assert_eq!((header.epoch, header.shard, header.shards, header.seed), (3, 1, 2, 77));
        let mut reader = SegmentReader::new(&bytes, &header);
        let mut sequences = Vec::new();
        loop {
            match reader.step() {
                Step::Frame(frame) => sequences.push(frame.sequence),
                Step::End { .. } => break,
                Step::Damage { from, to } => panic!("damage from {from} to {to}"),
            }
        }
        assert_eq!(header.first_sequence, sequences.first().copied().unwrap_or(header.first_sequence));
        segments.push((number, sequences));
    }
    segments
}

/// One letter for each event.
fn short(events: &[LogEvent]) -> String {
    let letters = events.iter().map(|event| match event {
        LogEvent::Durable { .. } => 'd',
        LogEvent::Sealed { .. } => 's',
        LogEvent::Full { .. } => 'f',
        LogEvent::HasRoom => 'r',
        LogEvent::Failed { .. } => 'x',
    });
    letters.collect()
}

fn sorted(events: &[LogEvent]) -> String {
    let mut letters: Vec<char> = short(events).chars().collect();
    letters.sort_unstable();
    letters.into_iter().collect()
}

#[test]
fn what_is_durable_is_read_back() {
    for sync in [SyncPolicy::Always, SyncPolicy::Interval, SyncPolicy::Off] {
        let mut bench = Bench::new("read-back", sync);
        assert_eq!(bench.read(), [(0, vec![])]);
        for blocks in [1, 2, 1, 3] {
            let last = bench.submit(blocks);
            let events = bench.settle();
            assert!(matches!(events[..], [LogEvent::Durable { last: durable }] if durable == last));
            assert_eq!(bench.read(), [(0, (1..=last).collect())], "{sync:?}");
        }
        bench.done();
    }
}

#[test]
fn a_batch_is_not_durable_before_its_write_is_over() {
    let mut bench = Bench::new("held", SyncPolicy::Always);
    bench.settle();
    bench.disk.held = Some(Kind::Write);
    bench.submit(1);
    assert_eq!(short(&bench.settle()), "");
    assert!(!bench.log.is_idle());
    assert!(bench.disk.is_busy());
    bench.disk.held = None;
    assert_eq!(short(&bench.settle()), "d");
    assert!(bench.log.is_idle());
    bench.done();
}

#[test]
fn a_write_that_takes_a_part_is_gone_on_with() {
    for sync in [SyncPolicy::Always, SyncPolicy::Interval, SyncPolicy::Off] {
        let mut bench = Bench::new("short", sync);
        bench.settle();
        bench.disk.takes = Some(3 * BLOCK);
        let before = bench.disk.count(Kind::Write);
        assert_eq!(short(&bench.write(13)), "d", "a short write is no failed disk");
        assert_eq!(bench.disk.count(Kind::Write) - before, 5);
        // The first batch of the next segment, with its header.
        assert_eq!(short(&bench.write(5)), "sd");
        bench.disk.takes = None;
        // A partial block is written again. Only the reported length counts.
        bench.disk.tells = Some(BLOCK + 100);
        let before = bench.disk.count(Kind::Write);
        assert_eq!(short(&bench.write(4)), "d");
        assert_eq!(bench.disk.count(Kind::Write) - before, 4);
        bench.disk.tells = None;
        assert_eq!(short(&bench.write(1)), "d");
        assert_eq!(bench.read(), [(0, vec![1]), (1, vec![2, 3, 4])]);
        bench.done();
    }
}

#[test]
fn a_part_of_a_batch_is_not_durable() {
    let mut bench = Bench::new("short-held", SyncPolicy::Always);
    bench.settle();
    bench.disk.takes = Some(2 * BLOCK);
    // Each part waits for the part before.
    bench.disk.spared = 3;
    bench.disk.failing = Some((Kind::Write, libc::EIO));
    bench.submit(9);
    assert_eq!(short(&bench.settle()), "x");
    assert_eq!(bench.read(), [(0, vec![])], "a torn batch is none");
    bench.done();
}

#[test]
fn a_write_that_takes_nothing_is_a_failure() {
    for taken in [0, BLOCK - 1] {
        let mut bench = Bench::new("takes-nothing", SyncPolicy::Always);
        bench.settle();
        bench.disk.tells = Some(taken);
        let events = bench.write(2);
        assert!(matches!(&events[..], [LogEvent::Failed { cause }]
                if cause.kind() == io::ErrorKind::WriteZero && cause.to_string().contains("of 8192 bytes")));
        bench.done();
    }
}

#[test]
fn a_long_frame_is_written_in_parts() {
    let mut bench = Bench::new("parts", SyncPolicy::Always);
    bench.settle();
    bench.disk.begun.clear();
    // The header alone, then 20 MiB.
    assert_eq!(short(&bench.write(5120)), "sd");
    assert_eq!(bench.disk.count(Kind::Write), 4);
    assert_eq!(bench.read(), [(0, vec![]), (1, vec![1])]);
    bench.done();
}

#[test]
fn a_full_segment_is_sealed_and_the_next_one_was_made_before() {
    for sync in [SyncPolicy::Always, SyncPolicy::Interval, SyncPolicy::Off] {
        let mut bench = Bench::new("rotation", sync);
        // The header and three batches of five blocks fill it completely.
        for _ in 0..3 {
            assert_eq!(short(&bench.write(5)), "d");
        }
        let spare = file_name(NAME, 1);
        assert_eq!(files(&bench.directory), [file_name(NAME, 0), spare]);
        let events = bench.write(1);
        assert!(
            matches!(&events[..], [LogEvent::Sealed { path, bytes }, LogEvent::Durable { last: 4 }]
                    if *path == bench.directory.join(file_name(NAME, 0)) && *bytes == SEGMENT as u64),
            "{events:?}"
        );
        assert_eq!(bench.read(), [(0, vec![1, 2, 3]), (1, vec![4])]);
        // A batch that does not fit leaves room at the end.
        bench.write(10);
        let events = bench.write(5);
        assert!(matches!(&events[0], LogEvent::Sealed { bytes, .. } if *bytes == 12 * BLOCK as u64));
        assert_eq!(bench.read()[2], (2, vec![6]));
        bench.done();
    }
}

#[test]
fn the_directory_knows_the_next_segment_before_it_is_used() {
    let mut bench = Bench::new("directory", SyncPolicy::Always);
    bench.write(15);
    bench.disk.begun.clear();
    bench.disk.held = Some(Kind::SyncDirectory);
    bench.submit(15);
    assert_eq!(short(&bench.settle()), "sd");
    bench.submit(15);
    assert_eq!(short(&bench.settle()), "");
    // The header and the batch of the previous segment.
    assert_eq!(bench.disk.count(Kind::Write), 2);
    bench.disk.held = None;
    assert_eq!(short(&bench.settle()), "sd");
    bench.done();
}

#[test]
fn a_batch_larger_than_a_segment_makes_a_larger_file() {
    let mut bench = Bench::new("large", SyncPolicy::Always);
    bench.write(1);
    assert_eq!(short(&bench.write(40)), "sd");
    let large = std::fs::metadata(bench.directory.join(file_name(NAME, 1))).unwrap();
    assert_eq!(large.len(), 41 * BLOCK as u64);
    assert_eq!(short(&bench.write(1)), "sd");
    assert_eq!(bench.read(), [(0, vec![1]), (1, vec![2]), (2, vec![3])]);
    bench.done();
}

#[test]
fn nobody_else_may_read_a_segment() {
    use std::os::unix::fs::PermissionsExt;
    let mut bench = Bench::new("mode", SyncPolicy::Always);
    bench.settle();
    for file in files(&bench.directory) {
        let mode = std::fs::metadata(bench.directory.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    bench.done();
}

#[test]
fn without_room_for_the_next_segment_the_batch_that_needs_it_waits() {
    for error in [libc::ENOSPC, libc::EDQUOT] {
        let mut bench = Bench::new("full", SyncPolicy::Always);
        bench.disk.failing = Some((Kind::Preallocate, error));
        let events = bench.settle();
        assert!(matches!(&events[..], [LogEvent::Full { cause }] if matches!(cause.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)));
        assert_eq!(files(&bench.directory), [file_name(NAME, 0)]);
        // The current segment has room.
        assert_eq!(short(&bench.write(5)), "d");
        assert_eq!(short(&bench.write(15)), "");
        assert!(!bench.log.is_idle());
        // The log tries again, and reports it once.
        for attempt in 2..5 {
            assert_eq!(bench.log.wake_at(), Some(bench.now.after(RETRY)));
            bench.now = bench.now.after(RETRY);
            assert_eq!(short(&bench.settle()), "");
            assert_eq!(bench.disk.count(Kind::Create), 1 + attempt);
        }
        bench.disk.failing = None;
        bench.now = bench.now.after(RETRY);
        assert_eq!(short(&bench.settle()), "rsd");
        assert!(bench.log.is_idle());
        assert_eq!(bench.read(), [(0, vec![1]), (1, vec![2])]);
        bench.done();
    }
}

#[test]
fn without_room_for_a_large_batch_it_waits() {
    let mut bench = Bench::new("full-large", SyncPolicy::Always);
    bench.settle();
    bench.disk.failing = Some((Kind::Preallocate, libc::ENOSPC));
    assert_eq!(short(&bench.write(40)), "f");
    bench.now = bench.now.after(RETRY);
    assert_eq!(short(&bench.settle()), "");
    bench.disk.failing = None;
    bench.now = bench.now.after(RETRY);
    assert_eq!(short(&bench.settle()), "rsd");
    assert_eq!(bench.read(), [(0, vec![]), (1, vec![1])]);
    bench.done();
}

#[test]
fn after_a_failed_write_nothing_is_durable() {
    let mut bench = Bench::new("write-fails", SyncPolicy::Always);
    assert_eq!(short(&bench.write(1)), "d");
    bench.disk.failing = Some((Kind::Write, libc::EIO));
    assert_eq!(short(&bench.write(1)), "x");
    bench.disk.failing = None;
    assert!(!bench.log.is_idle());
    bench.now = bench.now.after(Duration::from_secs(5));
    assert_eq!(short(&bench.settle()), "");
    assert_eq!(bench.log.wake_at(), None);
    let writes = bench.disk.count(Kind::Write);
    assert_eq!(short(&bench.close()), "");
    assert_eq!(bench.disk.count(Kind::Write), writes);
    bench.done();
}

#[test]
fn after_a_failed_sync_not_even_the_write_under_way_is_durable() {
    let mut bench = Bench::new("sync-fails", SyncPolicy::Interval);
    bench.settle();
    assert_eq!(short(&bench.write(1)), "d");
    bench.disk.failing = Some((Kind::Sync, libc::EIO));
    bench.disk.held = Some(Kind::Write);
    bench.submit(1);
    bench.now = bench.now.after(SYNC_INTERVAL);
    assert_eq!(short(&bench.settle()), "x");
    bench.disk.failing = None;
    bench.disk.held = None;
    assert_eq!(short(&bench.settle()), "");
    assert!(!bench.log.is_idle());
    bench.done();
}

#[test]
fn a_new_segment_that_may_not_stay_is_a_failure() {
    for operation in [Kind::Sync, Kind::SyncDirectory] {
        let mut bench = Bench::new("spare-sync", SyncPolicy::Always);
        bench.disk.failing = Some((operation, libc::EIO));
        assert_eq!(short(&bench.settle()), "x");
        assert!(!bench.log.is_idle());
        bench.done();
    }
}

#[test]
fn with_always_the_write_itself_ends_on_the_disk() {
    let mut bench = Bench::new("dsync", SyncPolicy::Always);
    bench.settle();
    bench.disk.begun.clear();
    bench.write(1);
    assert_eq!(bench.disk.begun, [Kind::Write]);
    bench.write(15);
    bench.write(15);
    // This suffices only because the files are opened with write-through, which must stay so.
    assert_eq!(bench.disk.writes_through, [true; 4]);
    bench.done();
}

#[test]
fn without_always_a_write_ends_in_the_disks_memory() {
    for sync in [SyncPolicy::Interval, SyncPolicy::Off] {
        let mut bench = Bench::new("no-dsync", sync);
        bench.write(15);
        bench.write(15);
        assert_eq!(bench.disk.writes_through, [false; 3]);
        bench.done();
    }
}

#[test]
fn with_interval_the_disk_is_told_once_a_second_while_there_is_something_new() {
    let mut bench = Bench::new("interval", SyncPolicy::Interval);
    bench.settle();
    let before = bench.disk.count(Kind::Sync);
    assert_eq!(bench.log.wake_at(), None);
    for round in 1..4 {
        assert_eq!(short(&bench.write(1)), "d");
        assert_eq!(bench.log.wake_at(), Some(bench.now.after(SYNC_INTERVAL)));
        bench.now = bench.now.after(SYNC_INTERVAL / 2);
        assert_eq!(short(&bench.write(1)), "d");
        assert_eq!(bench.disk.count(Kind::Sync), before + round - 1);
        bench.now = bench.now.after(SYNC_INTERVAL / 2);
        assert_eq!(short(&bench.settle()), "");
        assert_eq!(bench.disk.count(Kind::Sync), before + round);
        // Without new data there is nothing to report.
        bench.now = bench.now.after(2 * SYNC_INTERVAL);
        bench.settle();
        assert_eq!(bench.disk.count(Kind::Sync), before + round);
        assert_eq!(bench.log.wake_at(), None);
    }
    bench.done();
}

#[test]
fn with_interval_a_segment_is_on_the_disk_before_the_next_one_is_written() {
    let mut bench = Bench::new("interval-order", SyncPolicy::Interval);
    bench.write(15);
    bench.disk.begun.clear();
    bench.disk.held = Some(Kind::Sync);
    bench.submit(1);
    assert_eq!(short(&bench.settle()), "");
    assert_eq!(bench.disk.count(Kind::Write), 0);
    bench.disk.held = None;
    assert_eq!(short(&bench.settle()), "sd");
    bench.disk.failing = Some((Kind::Sync, libc::EIO));
    assert_eq!(short(&bench.write(15)), "x");
    bench.done();
}

#[test]
fn with_off_the_disk_is_not_told_of_batches() {
    let mut bench = Bench::new("off", SyncPolicy::Off);
    bench.settle();
    let before = bench.disk.count(Kind::Sync);
    for _ in 0..3 {
        bench.write(1);
        bench.now = bench.now.after(2 * SYNC_INTERVAL);
    }
    bench.settle();
    assert_eq!(bench.disk.count(Kind::Sync), before);
    bench.done();
}

#[test]
fn a_segment_made_from_an_old_one_holds_nothing_old() {
    let mut bench = Bench::new("recycle", SyncPolicy::Always);
    for _ in 0..3 {
        bench.write(5);
    }
    // The old file, of the same log, is reused for the segment after the next.
    let Some(LogEvent::Sealed { path, .. }) = bench.write(15).into_iter().next() else { panic!() };
    bench.settle();
    assert!(bench.spares.give(&path));
    assert_eq!(short(&bench.write(15)), "sd");
    assert_eq!(files(&bench.directory), [1, 2, 3].map(|number| file_name(NAME, number)));
    assert!(!path.exists());
    assert_eq!(bench.read().len(), 2, "it has not begun");
    assert_eq!(short(&bench.write(1)), "sd");
    assert_eq!(bench.read()[2], (3, vec![6]));
    bench.done();
}

#[test]
fn an_old_segment_of_another_size_or_that_can_not_be_had_is_removed() {
    let mut bench = Bench::new("recycle-size", SyncPolicy::Always);
    bench.settle();
    for (number, bytes) in [(90, BLOCK), (91, SEGMENT)] {
        let old = bench.directory.join(file_name(NAME, number));
        std::fs::write(&old, vec![1; bytes]).unwrap();
        assert!(bench.spares.give(&old));
        bench.disk.failing = Some((Kind::Rename, libc::EIO)).filter(|_| bytes == SEGMENT);
        let numbers = files(&bench.directory).len();
        assert_eq!(short(&bench.write(15)), if bytes == SEGMENT { "sd" } else { "d" });
        assert_eq!(short(&bench.write(15)), "sd");
        assert!(!old.exists());
        assert!(files(&bench.directory).len() >= numbers);
    }
    assert_eq!(bench.read().len(), 4);
    bench.done();
}

#[test]
fn an_old_segment_is_the_room_that_was_missing() {
    let mut bench = Bench::new("recycle-full", SyncPolicy::Always);
    bench.write(15);
    bench.disk.failing = Some((Kind::Preallocate, libc::ENOSPC));
    // The next segment fails while the current one is written.
    assert_eq!(sorted(&bench.write(15)), "dfs");
    assert_eq!(short(&bench.write(15)), "");
    assert!(bench.spares.give(&bench.directory.join(file_name(NAME, 0))));
    bench.now = bench.now.after(RETRY);
    // And there is none for the segment after it.
    assert_eq!(sorted(&bench.settle()), "dfrs");
    bench.done();
}

#[test]
fn without_room_what_others_have_in_reserve_is_removed() {
    let mut bench = Bench::new("recycle-others", SyncPolicy::Always);
    let reserve = bench.directory.join(file_name(LogName { shard: 0, ..NAME }, 4));
    std::fs::write(&reserve, vec![1; SEGMENT]).unwrap();
    assert!(bench.spares.give(&reserve));
    bench.disk.failing = Some((Kind::Preallocate, libc::ENOSPC));
    assert_eq!(short(&bench.settle()), "f");
    assert!(!reserve.exists());
    bench.done();
}

#[test]
fn closing_writes_what_was_submitted_and_leaves_no_spare() {
    for sync in [SyncPolicy::Always, SyncPolicy::Interval, SyncPolicy::Off] {
        let mut bench = Bench::new("close", sync);
        bench.write(1);
        bench.submit(1);
        let synced = bench.disk.count(Kind::Sync);
        let events = bench.close();
        assert!(matches!(&events[..], [LogEvent::Durable { last: 2 }, LogEvent::Sealed { bytes, .. }]
                if *bytes == 3 * BLOCK as u64));
        let wanted = usize::from(sync == SyncPolicy::Interval);
        assert_eq!(bench.disk.count(Kind::Sync) - synced, wanted);
        assert_eq!(files(&bench.directory), [file_name(NAME, 0)]);
        assert_eq!(bench.read(), [(0, vec![1, 2])]);
        bench.done();
    }
}

#[test]
fn closing_goes_over_to_the_next_segment_if_it_must() {
    for blocks in [15, 40] {
        let mut bench = Bench::new("close-over", SyncPolicy::Always);
        // The log is not polled, so the spare is not even begun.
        bench.submit(15);
        assert_eq!(short(&bench.settle()), "d");
        bench.submit(blocks);
        assert_eq!(short(&bench.close()), "sds");
        assert_eq!(bench.read(), [(0, vec![1]), (1, vec![2])]);
        bench.done();
    }
    // The log also ends if this is impossible.
    let mut bench = Bench::new("close-full", SyncPolicy::Always);
    bench.disk.failing = Some((Kind::Preallocate, libc::ENOSPC));
    bench.submit(20);
    assert_eq!(short(&bench.close()), "fs");
    bench.done();
}

#[test]
fn a_log_begins_only_where_it_can_be_written() {
    let config = config(std::env::temp_dir().join("midge-is-not-there"), SyncPolicy::Always);
    let error = start(config, &mut Disk::default(), Time::from_millis(1)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("can't create"), "{error}");
}

#[test]
fn a_file_for_later_has_its_length_before_its_name_and_comes_after_the_segment_before_it_has_begun() {
    let mut bench = Bench::new("names", SyncPolicy::Always);
    bench.write(15);
    bench.disk.held = Some(Kind::Write);
    bench.submit(1);
    assert_eq!(short(&bench.settle()), "");
    // The second segment has not begun, and there is none after it.
    assert_eq!(files(&bench.directory), [0, 1].map(|number| file_name(NAME, number)));
    bench.disk.held = Some(Kind::Preallocate);
    let events = bench.settle();
    assert_eq!(files(&bench.directory)[2], file_name(NAME, 2) + UNFINISHED);
    assert_eq!(short(&events), "sd");
    bench.disk.held = None;
    bench.settle();
    assert_eq!(files(&bench.directory)[2], file_name(NAME, 2));
    for file in files(&bench.directory) {
        assert_eq!(std::fs::metadata(bench.directory.join(file)).unwrap().len(), SEGMENT as u64);
    }
    bench.done();
}

#[test]
fn a_log_whose_directory_is_removed_or_moved_ends_and_says_so() {
    for (way, moves) in [("removed", false), ("moved", true)] {
        let mut bench = Bench::new(way, SyncPolicy::Always);
        bench.settle();
        bench.now = bench.now.after(LOOK_INTERVAL);
        assert_eq!(short(&bench.write(1)), "d");
        let away = bench.directory.with_extension("away");
        std::fs::rename(&bench.directory, &away).unwrap();
        if !moves {
            std::fs::remove_dir_all(&away).unwrap();
        }
        // The log notices this before it reports the data as durable, unless it has just checked.
        bench.now = bench.now.after(LOOK_INTERVAL);
        let events = bench.write(1);
        let [LogEvent::Failed { cause }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(cause.kind(), io::ErrorKind::NotFound);
        assert!(cause.to_string().contains("can't find"), "{cause}");
        assert!(!bench.log.is_idle());
        let _ = std::fs::remove_dir_all(away);
    }
}

#[test]
fn the_next_segment_of_a_log_whose_directory_is_gone_is_no_full_disk() {
    let mut bench = Bench::new("gone", SyncPolicy::Always);
    bench.write(15);
    std::fs::remove_dir_all(&bench.directory).unwrap();
    let events = bench.write(1);
    let Some(LogEvent::Failed { cause }) = events.last() else { panic!("{events:?}") };
    assert!(cause.to_string().contains("can't create"), "{cause}");
    assert!(!short(&events).contains('f'), "{events:?}");
}

#[test]
fn a_failure_ends_the_log_however_much_is_under_way() {
    for (blocks, failing) in [(1, Kind::Write), (15, Kind::Write), (1, Kind::Create)] {
        let mut bench = Bench::new("ends", SyncPolicy::Interval);
        bench.write(5);
        bench.settle();
        // The file of the next segment can't be created any more either.
        let _ = std::fs::remove_dir_all(&bench.directory);
        bench.disk.failing = Some((failing, libc::ENOENT));
        bench.submit(blocks);
        bench.now = bench.now.after(SYNC_INTERVAL);
        bench.log.close();
        assert_eq!(short(&bench.settle()), "x");
        assert!(bench.log.is_closed() && !bench.disk.is_busy());
        assert_eq!(bench.disk.open_files(), 0);
    }
}

#[test]
fn sealing_early_begins_the_next_segment_and_waits_for_it() {
    let mut bench = Bench::new("early", SyncPolicy::Always);
    bench.log.seal(&mut bench.disk);
    assert!(!bench.log.is_sealing(), "an empty segment stays");
    bench.disk.held = Some(Kind::Create);
    bench.write(2);
    bench.log.seal(&mut bench.disk);
    assert_eq!(short(&bench.settle()), "");
    assert!(bench.log.is_sealing());
    bench.disk.held = None;
    let events = bench.settle();
    assert!(
        matches!(&events[..], [LogEvent::Sealed { bytes, .. }, LogEvent::Durable { last: 1 }] if *bytes == 3 * BLOCK as u64),
        "{events:?}"
    );
    assert!(!bench.log.is_sealing());
    assert_eq!(short(&bench.write(1)), "d");
    assert_eq!(bench.read(), [(0, vec![1]), (1, vec![2])]);
    bench.done();
}
