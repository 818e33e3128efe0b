//! The time of a start with 1,000,000 retained messages and 100,000 sessions that have 1,000,000 messages
//! queued. First everything is in the log, then everything is in the checkpoint. The target is less than 5
//! seconds.
//!
//! `cargo bench --bench recovery` prints seconds. It writes to the directory for temporary files.

#![allow(clippy::disallowed_methods, reason = "a measurement reads clocks and writes files")]

use midge::base::{DeliveryNumber, MessageNumber, SessionNumber, Stamp};
use midge::mqtt::SubscriptionOptions;
use midge::mqtt::{ProtocolVersion, QoS};
use midge::persistence::{StoreDirectory, recover};
use midge::store::segment::{BLOCK, Header, LogName};
use midge::store::{Journal, Record, StoredMessage, Wall};
use smallvec::SmallVec;
use std::path::Path;
use std::time::Instant;

const RETAINED: u64 = 1_000_000;
const SESSIONS: u64 = 100_000;
const QUEUED_PER_SESSION: u64 = 10;
const PAYLOAD: [u8; 100] = [b'x'; 100];
const SHARDS: u16 = 4;
const SEGMENT_BYTES: usize = 64 << 20;
const NOW_MILLIS: u64 = 1_800_000_000_000;

fn main() {
    let path = std::env::temp_dir().join(format!("midge-recovery-{}", std::process::id()));
    let directory = StoreDirectory::open(&path).expect("a directory for temporary files");
    let bytes: usize = (0..SHARDS).map(|shard| write_log(&directory, shard)).sum();
    println!("log of {} MiB in {SHARDS} shards", bytes >> 20);

    let recovery = timed("recovery from the log", &directory);
    let begun = Instant::now();
    recovery.checkpoint.stop();
    let image = std::fs::metadata(path.join("checkpoint.redb")).expect("there is one").len();
    println!("checkpoint of it: {:.2} s, {} MiB", begun.elapsed().as_secs_f64(), image >> 20);
    drop(recovery.parts);

    let recovery = timed("recovery from the checkpoint", &directory);
    recovery.checkpoint.stop();
    std::fs::remove_dir_all(&path).expect("it is ours");
}

fn timed(what: &str, directory: &StoreDirectory) -> midge::persistence::Recovery {
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let recovery = recover(directory, 2, 7, None).expect("it can be read");
    println!("{what}: {:.2} s, of which {:.2} on a core", begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let restored = recovery.report.restored;
    assert_eq!((restored.retained, restored.sessions), (RETAINED, SESSIONS));
    assert_eq!(restored.deliveries, SESSIONS * QUEUED_PER_SESSION);
    assert!(recovery.report.damage.is_empty(), "{:?}", recovery.report.damage);
    recovery
}

/// The processor time of this thread. It does not include the rest of the machine's work.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Writes the part of one shard, in segments. Returns their length.
fn write_log(directory: &StoreDirectory, shard: u16) -> usize {
    let mut log = Log {
        directory,
        journal: Journal::new(LogName { epoch: 1, shard }),
        header: Header { epoch: 1, shard, shards: SHARDS, number: 0, first_sequence: 1, seed: 3 },
        segment: Vec::new(),
        written: 0,
    };
    log.journal.set_wall(Wall { zero_millis: NOW_MILLIS });
    let mut number = u64::from(SHARDS) + u64::from(shard);
    let mut next = || {
        number += u64::from(SHARDS);
        number
    };
    let mine = |count: u64| (u64::from(shard)..count).step_by(usize::from(SHARDS));
    let mut sids = Vec::new();
    for client in mine(SESSIONS) {
        let (sid, client_id) = (SessionNumber::new(next()), format!("device-{client:08}"));
        let version = ProtocolVersion::V5;
        log.record(&Record::Session {
            sid,
            client_id: &client_id,
            version,
            expiry_seconds: 86_400,
            will: None,
        });
        let filter = format!("fleet/{client_id}/commands/#");
        let options = SubscriptionOptions::v3(QoS::AtLeastOnce);
        log.record(&Record::Subscribed { sid, filter: &filter, options, subscription_id: None });
        log.record(&Record::Left { sid, at_millis: NOW_MILLIS, expiry_seconds: 86_400 });
        sids.push((sid, format!("fleet/{client_id}/commands/set")));
    }
    // They are in the order of their arrival.
    for _ in 0..QUEUED_PER_SESSION {
        for (sid, topic) in &sids {
            let (message, delivery) = (MessageNumber::new(next()), DeliveryNumber::new(next()));
            log.record(&Record::Message { number: message, message: stored(topic, false) });
            log.record(&Record::Delivery {
                sid: *sid,
                number: delivery,
                message,
                qos: QoS::AtLeastOnce,
                retain: false,
                packet_id: None,
                subscription_ids: SmallVec::new(),
                group: "",
            });
        }
    }
    for place in mine(RETAINED) {
        // They are in no particular order.
        let place = place * 7_777_777 % RETAINED;
        let topic = format!("fleet/device-{:08}/status/v{}", place / 10, place % 10);
        log.record(&Record::Retained { stamp: Stamp::new(place + 1), message: stored(&topic, true) });
    }
    log.end_segment();
    log.written
}

fn stored(topic: &str, retain: bool) -> StoredMessage<'_> {
    let qos = QoS::AtLeastOnce;
    StoredMessage {
        topic,
        properties: [&[]; 3],
        payload: &PAYLOAD,
        qos,
        retain,
        expires_at_millis: None,
        source: &[],
    }
}

/// Writes a log as the log writer does.
struct Log<'a> {
    directory: &'a StoreDirectory,
    journal: Journal,
    header: Header,
    segment: Vec<u8>,
    written: usize,
}

impl Log<'_> {
    fn record(&mut self, record: &Record<'_>) {
        self.journal.record(record);
        // A message and its deliveries belong to one frame.
        if matches!(record, Record::Message { .. }) {
            return;
        }
        self.journal.seal_if_long();
        if self.journal.waiting_bytes() > 1 << 20 {
            self.take();
        }
        if self.segment.len() > SEGMENT_BYTES {
            self.end_segment();
        }
    }

    fn take(&mut self) {
        let Some(batch) = self.journal.take() else { return };
        if self.segment.is_empty() {
            self.header.first_sequence = batch.first;
            self.segment.extend_from_slice(&self.header.encode());
        }
        self.segment.extend_from_slice(&batch.bytes);
        self.segment.resize(self.segment.len().next_multiple_of(BLOCK), 0);
    }

    fn end_segment(&mut self) {
        self.take();
        let Header { epoch, shard, number, .. } = self.header;
        let path = self.directory.segment_path(epoch, shard, number);
        self.written += self.segment.len();
        std::fs::write(Path::new(&path), &self.segment).expect("there is room");
        self.segment.clear();
        self.header.number += 1;
    }
}
