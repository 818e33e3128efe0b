use super::*;
use crate::mqtt::QoS;
use crate::store::segment::{SegmentReader, Step, UNFINISHED, parse_file_name};
use crate::store::{Journal, Record, StoredMessage};
use std::cell::Cell;
use std::future::Future;
use std::path::Path;

use super::super::executor::make_executor;
use super::disk::Operation;
use glommio::Placement;
use glommio::timer::sleep;

/// Makes the disk fail, or wait, and remembers what was done to it.
#[derive(Debug, Default)]
pub(super) struct Twin {
    failing: Cell<Option<(Operation, i32)>>,
    /// So many of those that are to fail don't, before the others do.
    spared: Cell<usize>,
    held: Cell<Option<Operation>>,
    done: RefCell<Vec<Operation>>,
    /// The most bytes that a write takes.
    takes: Cell<Option<usize>>,
    /// The most bytes that a write says it took.
    tells: Cell<Option<usize>>,
}

impl Twin {
    pub(super) async fn before(&self, operation: Operation) -> io::Result<()> {
        self.done.borrow_mut().push(operation);
        while self.held.get() == Some(operation) {
            sleep(Duration::from_micros(200)).await;
        }
        match self.failing.get() {
            Some((failing, error)) if failing == operation => match self.spared.get().checked_sub(1) {
                Some(left) => {
                    self.spared.set(left);
                    Ok(())
                }
                None => Err(io::Error::from_raw_os_error(error)),
            },
            _ => Ok(()),
        }
    }

    pub(super) fn takes(&self, bytes: usize) -> usize {
        self.takes.get().map_or(bytes, |max| max.min(bytes))
    }

    pub(super) fn tells(&self, written: usize) -> usize {
        self.tells.get().map_or(written, |max| max.min(written))
    }

    fn count(&self, operation: Operation) -> usize {
        self.done.borrow().iter().filter(|&&done| done == operation).count()
    }
}

const NAME: LogName = LogName { epoch: 3, shard: 1 };
const SEGMENT: usize = 16 * BLOCK;

/// A log in a directory of its own, and the journal that fills it.
struct Bench {
    directory: PathBuf,
    twin: Rc<Twin>,
    outstanding: Outstanding,
    spares: Spares,
    journal: Journal,
    log: LogWriter,
    now: Instant,
}

impl Bench {
    async fn new(test: &str, sync: SyncPolicy) -> Bench {
        Bench::in_directory(std::env::temp_dir(), test, sync).await
    }

    async fn in_directory(root: PathBuf, test: &str, sync: SyncPolicy) -> Bench {
        let directory = root.join(format!("midge-log-{}-{test}-{sync:?}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let disk = Disk::default();
        let twin = disk.twin.clone();
        let outstanding = Outstanding::new();
        let config = config(directory.clone(), sync);
        let spares = config.spares.clone();
        let log = LogWriter::start_on(disk, config, &outstanding).await.unwrap();
        let mut journal = Journal::new(NAME);
        journal.set_wall(crate::store::Wall { zero_millis: 1 });
        Bench { directory, twin, outstanding, spares, journal, log, now: Instant::now() }
    }

    /// A batch of one frame, so many blocks long.
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
        self.journal.record(&Record::Message { number: 5, message });
        let batch = self.journal.take().unwrap();
        assert_eq!(batch.bytes.len().div_ceil(BLOCK), blocks);
        batch
    }

    fn submit(&mut self, blocks: usize) -> u64 {
        let batch = self.batch(blocks);
        let last = batch.last;
        self.log.submit(batch);
        last
    }

    /// Lets the tasks run, then polls.
    async fn poll(&mut self) -> Vec<LogEvent> {
        sleep(Duration::from_millis(2)).await;
        std::iter::from_fn(|| self.log.poll(self.now)).collect()
    }

    /// Polls until no task is under way.
    async fn settle(&mut self) -> Vec<LogEvent> {
        let mut events = self.poll().await;
        let until = Instant::now() + Duration::from_secs(10);
        while self.outstanding.count() > 0 {
            assert!(Instant::now() < until, "{:?}", self.log);
            events.extend(self.poll().await);
        }
        events.extend(self.poll().await);
        assert_eq!(self.outstanding.count(), 0);
        events
    }

    async fn write(&mut self, blocks: usize) -> Vec<LogEvent> {
        self.submit(blocks);
        self.settle().await
    }

    /// The segments in order: number, and the sequences in it. A file that has not begun is none.
    fn read(&self) -> Vec<(u64, Vec<u64>)> {
        read_log(&self.directory)
    }

    fn done(self) {
        std::fs::remove_dir_all(self.directory).unwrap();
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

/// One letter for each event: what came, in short.
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

fn on_executor<F: Future<Output = ()>>(test: F) {
    make_executor(Placement::Unbound).unwrap().run(test);
}

#[test]
fn what_is_durable_is_read_back() {
    on_executor(async {
        for sync in [SyncPolicy::Always, SyncPolicy::Interval, SyncPolicy::Off] {
            let mut bench = Bench::new("read-back", sync).await;
            assert_eq!(bench.read(), [(0, vec![])]);
            for blocks in [1, 2, 1, 3] {
                let last = bench.submit(blocks);
                let events = bench.settle().await;
                assert!(matches!(events[..], [LogEvent::Durable { last: durable }] if durable == last));
                assert_eq!(bench.read(), [(0, (1..=last).collect())], "{sync:?}");
            }
            bench.done();
        }
    });
}

#[test]
fn a_batch_is_not_durable_before_its_write_is_over() {
    on_executor(async {
        let mut bench = Bench::new("held", SyncPolicy::Always).await;
        bench.settle().await;
        bench.twin.held.set(Some(Operation::Write));
        bench.submit(1);
        assert_eq!(short(&bench.poll().await), "");
        assert!(!bench.log.is_idle());
        assert_eq!(bench.outstanding.count(), 1);
        bench.twin.held.set(None);
        assert_eq!(short(&bench.settle().await), "d");
        assert!(bench.log.is_idle());
        bench.done();
    });
}

#[test]
fn a_write_that_takes_a_part_is_gone_on_with() {
    on_executor(async {
        for sync in [SyncPolicy::Always, SyncPolicy::Interval, SyncPolicy::Off] {
            let mut bench = Bench::new("short", sync).await;
            bench.settle().await;
            bench.twin.takes.set(Some(3 * BLOCK));
            let before = bench.twin.count(Operation::Write);
            assert_eq!(short(&bench.write(13).await), "d", "a short write is no failed disk");
            assert_eq!(bench.twin.count(Operation::Write) - before, 5);
            // The first batch of the next segment, with its header.
            assert_eq!(short(&bench.write(5).await), "sd");
            bench.twin.takes.set(None);
            // A part of a block is written again; what is told as written is what counts.
            bench.twin.tells.set(Some(BLOCK + 100));
            let before = bench.twin.count(Operation::Write);
            assert_eq!(short(&bench.write(4).await), "d");
            assert_eq!(bench.twin.count(Operation::Write) - before, 4);
            bench.twin.tells.set(None);
            assert_eq!(short(&bench.write(1).await), "d");
            assert_eq!(bench.read(), [(0, vec![1]), (1, vec![2, 3, 4])]);
            bench.done();
        }
    });
}

#[test]
fn a_part_of_a_batch_is_not_durable() {
    on_executor(async {
        let mut bench = Bench::new("short-held", SyncPolicy::Always).await;
        bench.settle().await;
        bench.twin.takes.set(Some(2 * BLOCK));
        // Each part waits for the one before.
        bench.twin.spared.set(3);
        bench.twin.failing.set(Some((Operation::Write, libc::EIO)));
        bench.submit(9);
        assert_eq!(short(&bench.settle().await), "x");
        assert_eq!(bench.read(), [(0, vec![])], "a torn batch is none");
        bench.done();
    });
}

#[test]
fn a_write_that_takes_nothing_is_a_failure() {
    on_executor(async {
        for taken in [0, BLOCK - 1] {
            let mut bench = Bench::new("takes-nothing", SyncPolicy::Always).await;
            bench.settle().await;
            bench.twin.tells.set(Some(taken));
            let events = bench.write(2).await;
            assert!(matches!(&events[..], [LogEvent::Failed { cause }]
                if cause.kind() == io::ErrorKind::WriteZero && cause.to_string().contains("of 8192 bytes")));
            bench.done();
        }
    });
}

#[test]
fn a_long_frame_is_written_in_parts() {
    on_executor(async {
        let mut bench = Bench::new("parts", SyncPolicy::Always).await;
        bench.settle().await;
        bench.twin.done.borrow_mut().clear();
        // 20 MiB and the header.
        assert_eq!(short(&bench.write(5120).await), "sd");
        assert_eq!(bench.twin.count(Operation::Write), 3);
        assert_eq!(bench.read(), [(0, vec![]), (1, vec![1])]);
        bench.done();
    });
}

#[test]
fn a_full_segment_is_sealed_and_the_next_one_was_made_before() {
    on_executor(async {
        for sync in [SyncPolicy::Always, SyncPolicy::Interval, SyncPolicy::Off] {
            let mut bench = Bench::new("rotation", sync).await;
            // The header and three batches of five blocks fill it to the brim.
            for _ in 0..3 {
                assert_eq!(short(&bench.write(5).await), "d");
            }
            let spare = file_name(NAME, 1);
            assert_eq!(files(&bench.directory), [file_name(NAME, 0), spare]);
            let events = bench.write(1).await;
            assert!(
                matches!(&events[..], [LogEvent::Sealed { path, bytes }, LogEvent::Durable { last: 4 }]
                    if *path == bench.directory.join(file_name(NAME, 0)) && *bytes == SEGMENT as u64),
                "{events:?}"
            );
            assert_eq!(bench.read(), [(0, vec![1, 2, 3]), (1, vec![4])]);
            // One that does not fit leaves room behind.
            bench.write(10).await;
            let events = bench.write(5).await;
            assert!(matches!(&events[0], LogEvent::Sealed { bytes, .. } if *bytes == 12 * BLOCK as u64));
            assert_eq!(bench.read()[2], (2, vec![6]));
            bench.done();
        }
    });
}

#[test]
fn the_directory_knows_the_next_segment_before_it_is_used() {
    on_executor(async {
        let mut bench = Bench::new("directory", SyncPolicy::Always).await;
        bench.write(15).await;
        bench.twin.done.borrow_mut().clear();
        bench.twin.held.set(Some(Operation::SyncDirectory));
        bench.submit(15);
        let mut events = Vec::new();
        while !bench.log.is_idle() {
            events.extend(bench.poll().await);
        }
        assert_eq!(short(&events), "sd");
        bench.submit(15);
        for _ in 0..5 {
            assert_eq!(short(&bench.poll().await), "");
        }
        assert_eq!(bench.twin.count(Operation::Write), 1);
        bench.twin.held.set(None);
        assert_eq!(short(&bench.settle().await), "sd");
        bench.done();
    });
}

#[test]
fn a_batch_larger_than_a_segment_makes_a_larger_file() {
    on_executor(async {
        let mut bench = Bench::new("large", SyncPolicy::Always).await;
        bench.write(1).await;
        assert_eq!(short(&bench.write(40).await), "sd");
        let large = std::fs::metadata(bench.directory.join(file_name(NAME, 1))).unwrap();
        assert_eq!(large.len(), 41 * BLOCK as u64);
        assert_eq!(short(&bench.write(1).await), "sd");
        assert_eq!(bench.read(), [(0, vec![1]), (1, vec![2]), (2, vec![3])]);
        bench.done();
    });
}

#[test]
fn nobody_else_may_read_a_segment() {
    use std::os::unix::fs::PermissionsExt;
    on_executor(async {
        let mut bench = Bench::new("mode", SyncPolicy::Always).await;
        bench.settle().await;
        for file in files(&bench.directory) {
            let mode = std::fs::metadata(bench.directory.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        bench.done();
    });
}

#[test]
fn without_room_for_the_next_segment_the_batch_that_needs_it_waits() {
    on_executor(async {
        for error in [libc::ENOSPC, libc::EDQUOT] {
            let mut bench = Bench::new("full", SyncPolicy::Always).await;
            bench.twin.failing.set(Some((Operation::Preallocate, error)));
            let events = bench.settle().await;
            assert!(matches!(&events[..], [LogEvent::Full { cause }] if matches!(cause.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)));
            assert_eq!(files(&bench.directory), [file_name(NAME, 0)]);
            // The current one has room.
            assert_eq!(short(&bench.write(5).await), "d");
            assert_eq!(short(&bench.write(15).await), "");
            assert!(!bench.log.is_idle());
            // Tried again, and said once.
            for attempt in 2..5 {
                assert_eq!(bench.log.wake_at(), Some(bench.now + RETRY));
                bench.now += RETRY;
                assert_eq!(short(&bench.settle().await), "");
                assert_eq!(bench.twin.count(Operation::Create), 1 + attempt);
            }
            bench.twin.failing.set(None);
            bench.now += RETRY;
            assert_eq!(short(&bench.settle().await), "rsd");
            assert!(bench.log.is_idle());
            assert_eq!(bench.read(), [(0, vec![1]), (1, vec![2])]);
            bench.done();
        }
    });
}

#[test]
fn without_room_for_a_large_batch_it_waits() {
    on_executor(async {
        let mut bench = Bench::new("full-large", SyncPolicy::Always).await;
        bench.settle().await;
        bench.twin.failing.set(Some((Operation::Preallocate, libc::ENOSPC)));
        assert_eq!(short(&bench.write(40).await), "f");
        bench.now += RETRY;
        assert_eq!(short(&bench.settle().await), "");
        bench.twin.failing.set(None);
        bench.now += RETRY;
        assert_eq!(short(&bench.settle().await), "rsd");
        assert_eq!(bench.read(), [(0, vec![]), (1, vec![1])]);
        bench.done();
    });
}

#[test]
fn after_a_failed_write_nothing_is_durable() {
    on_executor(async {
        let mut bench = Bench::new("write-fails", SyncPolicy::Always).await;
        assert_eq!(short(&bench.write(1).await), "d");
        bench.twin.failing.set(Some((Operation::Write, libc::EIO)));
        assert_eq!(short(&bench.write(1).await), "x");
        bench.twin.failing.set(None);
        assert!(!bench.log.is_idle());
        bench.now += Duration::from_secs(5);
        assert_eq!(short(&bench.settle().await), "");
        assert_eq!(bench.log.wake_at(), None);
        let writes = bench.twin.count(Operation::Write);
        let Bench { log, twin, directory, .. } = bench;
        assert_eq!(short(&log.close().await), "");
        assert_eq!(twin.count(Operation::Write), writes);
        std::fs::remove_dir_all(directory).unwrap();
    });
}

#[test]
fn after_a_failed_sync_not_even_the_write_under_way_is_durable() {
    on_executor(async {
        let mut bench = Bench::new("sync-fails", SyncPolicy::Interval).await;
        bench.settle().await;
        assert_eq!(short(&bench.write(1).await), "d");
        bench.twin.failing.set(Some((Operation::Sync, libc::EIO)));
        bench.twin.held.set(Some(Operation::Write));
        bench.submit(1);
        bench.now += SYNC_INTERVAL;
        assert_eq!(short(&bench.poll().await), "");
        assert_eq!(short(&bench.poll().await), "x");
        bench.twin.failing.set(None);
        bench.twin.held.set(None);
        assert_eq!(short(&bench.settle().await), "");
        assert!(!bench.log.is_idle());
        bench.done();
    });
}

#[test]
fn a_new_segment_that_may_not_stay_is_a_failure() {
    on_executor(async {
        for operation in [Operation::Sync, Operation::SyncDirectory] {
            let mut bench = Bench::new("spare-sync", SyncPolicy::Always).await;
            bench.twin.failing.set(Some((operation, libc::EIO)));
            assert_eq!(short(&bench.settle().await), "x");
            assert!(!bench.log.is_idle());
            bench.done();
        }
    });
}

#[test]
fn with_always_the_write_itself_ends_on_the_disk() {
    on_executor(async {
        let mut bench = Bench::new("dsync", SyncPolicy::Always).await;
        bench.settle().await;
        bench.twin.done.borrow_mut().clear();
        bench.write(1).await;
        assert_eq!(*bench.twin.done.borrow(), [Operation::Write]);
        // `O_DSYNC` is what makes this enough, and nothing may take it away.
        let segment = bench.directory.join(file_name(NAME, 0));
        let flags = open_flags(&segment).unwrap();
        assert_eq!(flags & libc::O_DSYNC, libc::O_DSYNC);
        bench.done();
    });
}

/// The flags of the descriptor this process has on a file.
fn open_flags(path: &Path) -> Option<i32> {
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let info = std::path::Path::new("/proc/self/fdinfo").join(entry.file_name());
            let info = std::fs::read_to_string(info).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            return Some(i32::from_str_radix(flags.trim(), 8).unwrap());
        }
    }
    None
}

#[test]
fn with_interval_the_disk_is_told_once_a_second_while_there_is_something_new() {
    on_executor(async {
        let mut bench = Bench::new("interval", SyncPolicy::Interval).await;
        bench.settle().await;
        let before = bench.twin.count(Operation::Sync);
        assert_eq!(bench.log.wake_at(), None);
        for round in 1..4 {
            assert_eq!(short(&bench.write(1).await), "d");
            assert_eq!(bench.log.wake_at(), Some(bench.now + SYNC_INTERVAL));
            bench.now += SYNC_INTERVAL / 2;
            assert_eq!(short(&bench.write(1).await), "d");
            assert_eq!(bench.twin.count(Operation::Sync), before + round - 1);
            bench.now += SYNC_INTERVAL / 2;
            assert_eq!(short(&bench.settle().await), "");
            assert_eq!(bench.twin.count(Operation::Sync), before + round);
            // Nothing new, nothing to tell.
            bench.now += 2 * SYNC_INTERVAL;
            bench.settle().await;
            assert_eq!(bench.twin.count(Operation::Sync), before + round);
            assert_eq!(bench.log.wake_at(), None);
        }
        bench.done();
    });
}

#[test]
fn with_interval_a_segment_is_on_the_disk_before_the_next_one_is_written() {
    on_executor(async {
        let mut bench = Bench::new("interval-order", SyncPolicy::Interval).await;
        bench.write(15).await;
        bench.twin.done.borrow_mut().clear();
        bench.twin.held.set(Some(Operation::Sync));
        bench.submit(1);
        for _ in 0..5 {
            assert_eq!(short(&bench.poll().await), "");
        }
        assert_eq!(bench.twin.count(Operation::Write), 0);
        bench.twin.held.set(None);
        assert_eq!(short(&bench.settle().await), "sd");
        bench.twin.failing.set(Some((Operation::Sync, libc::EIO)));
        assert_eq!(short(&bench.write(15).await), "x");
        bench.done();
    });
}

#[test]
fn with_off_the_disk_is_not_told_of_batches() {
    on_executor(async {
        let mut bench = Bench::new("off", SyncPolicy::Off).await;
        bench.settle().await;
        let before = bench.twin.count(Operation::Sync);
        for _ in 0..3 {
            bench.write(1).await;
            bench.now += 2 * SYNC_INTERVAL;
        }
        bench.settle().await;
        assert_eq!(bench.twin.count(Operation::Sync), before);
        bench.done();
    });
}

#[test]
fn a_segment_made_from_an_old_one_holds_nothing_old() {
    on_executor(async {
        let mut bench = Bench::new("recycle", SyncPolicy::Always).await;
        for _ in 0..3 {
            bench.write(5).await;
        }
        // The old one, of the same log, comes back as the segment after the next.
        let Some(LogEvent::Sealed { path, .. }) = bench.write(15).await.into_iter().next() else { panic!() };
        bench.settle().await;
        assert!(bench.spares.give(&path));
        assert_eq!(short(&bench.write(15).await), "sd");
        assert_eq!(files(&bench.directory), [1, 2, 3].map(|number| file_name(NAME, number)));
        assert!(!path.exists());
        assert_eq!(bench.read().len(), 2, "it has not begun");
        assert_eq!(short(&bench.write(1).await), "sd");
        assert_eq!(bench.read()[2], (3, vec![6]));
        bench.done();
    });
}

#[test]
fn an_old_segment_of_another_size_or_that_can_not_be_had_is_removed() {
    on_executor(async {
        let mut bench = Bench::new("recycle-size", SyncPolicy::Always).await;
        bench.settle().await;
        for (number, bytes) in [(90, BLOCK), (91, SEGMENT)] {
            let old = bench.directory.join(file_name(NAME, number));
            std::fs::write(&old, vec![1; bytes]).unwrap();
            assert!(bench.spares.give(&old));
            bench.twin.failing.set(Some((Operation::Rename, libc::EIO)).filter(|_| bytes == SEGMENT));
            let numbers = files(&bench.directory).len();
            assert_eq!(short(&bench.write(15).await), if bytes == SEGMENT { "sd" } else { "d" });
            assert_eq!(short(&bench.write(15).await), "sd");
            assert!(!old.exists());
            assert!(files(&bench.directory).len() >= numbers);
        }
        assert_eq!(bench.read().len(), 4);
        bench.done();
    });
}

#[test]
fn an_old_segment_is_the_room_that_was_missing() {
    on_executor(async {
        let mut bench = Bench::new("recycle-full", SyncPolicy::Always).await;
        bench.write(15).await;
        bench.twin.failing.set(Some((Operation::Preallocate, libc::ENOSPC)));
        // The next one fails while this one is written to.
        assert_eq!(sorted(&bench.write(15).await), "dfs");
        assert_eq!(short(&bench.write(15).await), "");
        assert!(bench.spares.give(&bench.directory.join(file_name(NAME, 0))));
        bench.now += RETRY;
        // And none for the one after it.
        assert_eq!(sorted(&bench.settle().await), "dfrs");
        bench.done();
    });
}

#[test]
fn without_room_what_others_have_in_reserve_is_removed() {
    on_executor(async {
        let mut bench = Bench::new("recycle-others", SyncPolicy::Always).await;
        let reserve = bench.directory.join(file_name(LogName { shard: 0, ..NAME }, 4));
        std::fs::write(&reserve, vec![1; SEGMENT]).unwrap();
        assert!(bench.spares.give(&reserve));
        bench.twin.failing.set(Some((Operation::Preallocate, libc::ENOSPC)));
        assert_eq!(short(&bench.settle().await), "f");
        assert!(!reserve.exists());
        bench.done();
    });
}

#[test]
fn closing_writes_what_was_submitted_and_leaves_no_spare() {
    on_executor(async {
        for sync in [SyncPolicy::Always, SyncPolicy::Interval, SyncPolicy::Off] {
            let mut bench = Bench::new("close", sync).await;
            bench.write(1).await;
            bench.submit(1);
            let Bench { log, directory, twin, .. } = bench;
            let synced = twin.count(Operation::Sync);
            let events = log.close().await;
            assert!(matches!(&events[..], [LogEvent::Durable { last: 2 }, LogEvent::Sealed { bytes, .. }]
                if *bytes == 3 * BLOCK as u64));
            let wanted = usize::from(sync == SyncPolicy::Interval);
            assert_eq!(twin.count(Operation::Sync) - synced, wanted);
            assert_eq!(files(&directory), [file_name(NAME, 0)]);
            assert_eq!(read_log(&directory), [(0, vec![1, 2])]);
            std::fs::remove_dir_all(directory).unwrap();
        }
    });
}

#[test]
fn closing_goes_over_to_the_next_segment_if_it_must() {
    on_executor(async {
        for blocks in [15, 40] {
            let mut bench = Bench::new("close-over", SyncPolicy::Always).await;
            // Not polled: the spare is not even begun.
            bench.submit(15);
            assert_eq!(short(&bench.settle().await), "d");
            bench.submit(blocks);
            let Bench { log, directory, .. } = bench;
            assert_eq!(short(&log.close().await), "sds");
            assert_eq!(read_log(&directory), [(0, vec![1]), (1, vec![2])]);
            std::fs::remove_dir_all(directory).unwrap();
        }
        // And ends if it can't.
        let mut bench = Bench::new("close-full", SyncPolicy::Always).await;
        bench.twin.failing.set(Some((Operation::Preallocate, libc::ENOSPC)));
        bench.submit(20);
        let Bench { log, directory, .. } = bench;
        assert_eq!(short(&log.close().await), "fs");
        std::fs::remove_dir_all(directory).unwrap();
    });
}

#[test]
fn a_log_begins_only_where_it_can_be_written() {
    on_executor(async {
        let outstanding = Outstanding::new();
        let config = config(std::env::temp_dir().join("midge-is-not-there"), SyncPolicy::Always);
        let error = LogWriter::start(config, &outstanding).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("can't create"), "{error}");
        assert_eq!(outstanding.count(), 0);
    });
}

#[test]
fn a_file_for_later_has_its_length_before_its_name_and_comes_after_the_segment_before_it_has_begun() {
    on_executor(async {
        let mut bench = Bench::new("names", SyncPolicy::Always).await;
        bench.write(15).await;
        bench.twin.held.set(Some(Operation::Write));
        bench.submit(1);
        for _ in 0..5 {
            assert_eq!(short(&bench.poll().await), "");
        }
        // The second segment has not begun, and there is none behind it.
        assert_eq!(files(&bench.directory), [0, 1].map(|number| file_name(NAME, number)));
        bench.twin.held.set(Some(Operation::Preallocate));
        let mut events = Vec::new();
        while files(&bench.directory).len() < 3 {
            events.extend(bench.poll().await);
        }
        assert_eq!(files(&bench.directory)[2], file_name(NAME, 2) + UNFINISHED);
        assert_eq!(short(&events), "sd");
        bench.twin.held.set(None);
        bench.settle().await;
        assert_eq!(files(&bench.directory)[2], file_name(NAME, 2));
        for file in files(&bench.directory) {
            assert_eq!(std::fs::metadata(bench.directory.join(file)).unwrap().len(), SEGMENT as u64);
        }
        bench.done();
    });
}

#[test]
fn a_log_whose_directory_is_removed_or_moved_ends_and_says_so() {
    on_executor(async {
        for (way, moves) in [("removed", false), ("moved", true)] {
            let mut bench = Bench::new(way, SyncPolicy::Always).await;
            bench.settle().await;
            bench.now += LOOK_INTERVAL;
            assert_eq!(short(&bench.write(1).await), "d");
            let away = bench.directory.with_extension("away");
            std::fs::rename(&bench.directory, &away).unwrap();
            if !moves {
                std::fs::remove_dir_all(&away).unwrap();
            }
            // Found out before what was written is called durable, if it was not looked at just before.
            bench.now += LOOK_INTERVAL;
            let events = bench.write(1).await;
            let [LogEvent::Failed { cause }] = &events[..] else { panic!("{events:?}") };
            assert_eq!(cause.kind(), io::ErrorKind::NotFound);
            assert!(cause.to_string().contains("can't find"), "{cause}");
            assert!(!bench.log.is_idle());
            let _ = std::fs::remove_dir_all(away);
        }
    });
}

#[test]
fn the_next_segment_of_a_log_whose_directory_is_gone_is_no_full_disk() {
    on_executor(async {
        let mut bench = Bench::new("gone", SyncPolicy::Always).await;
        bench.write(15).await;
        std::fs::remove_dir_all(&bench.directory).unwrap();
        let events = bench.write(1).await;
        let Some(LogEvent::Failed { cause }) = events.last() else { panic!("{events:?}") };
        assert!(cause.to_string().contains("can't create"), "{cause}");
        assert!(!short(&events).contains('f'), "{events:?}");
    });
}

#[test]
fn memory_file_systems_take_a_log_too() {
    let memory = PathBuf::from("/dev/shm");
    if !memory.is_dir() {
        return;
    }
    on_executor(async {
        let mut bench = Bench::in_directory(memory, "tmpfs", SyncPolicy::Always).await;
        assert_eq!(short(&bench.write(15).await), "d");
        assert_eq!(short(&bench.write(5).await), "sd");
        assert_eq!(bench.read(), [(0, vec![1]), (1, vec![2])]);
        bench.done();
    });
}
