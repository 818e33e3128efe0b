//! A database of mosquitto: an input is its file.
//!
//! It is read or refused. The imported rows must agree with each other, like those of a log, and a start must
//! restore as many sessions and messages as were reported. Nothing may be larger than the file. A truncated
//! file is not a database, or has less in it.

use midge::persistence::mosquitto::{Database, ImportTerms, take};
use midge::store::segment::Header;
use midge::store::{Changes, ClockReading, MemoryBase, StoreError, Wall, check_rows};

const NOW: ClockReading = ClockReading { wall_millis: 1_800_000_000_000, boot: 7, boot_millis: 9_000 };
const HEADER: Header = Header { epoch: 1, shard: 0, shards: 1, number: 0, first_sequence: 1, seed: 0 };

/// Runs the target.
pub fn run(input: &[u8]) {
    let Ok(database) = Database::parse(input) else { return };
    let things = database.retained.len()
        + database.messages.len()
        + database
            .sessions
            .iter()
            .map(|session| 1 + session.subscriptions.len() + session.deliveries.len())
            .sum::<usize>();
    assert!(things * 6 <= input.len(), "each has the head of a chunk");
    let terms = ImportTerms { now: NOW, written_seconds: 1_799_999_000, ports: &[1883, 8883] };
    let mut base = MemoryBase::default();
    let mut changes = Changes::new(&base).expect("bytes in memory can be read");
    let takings = take(&database, &terms, &mut |frame| {
        changes.apply_frame(&base, &HEADER, frame).expect("a frame of ours");
        // A start would commit after each transaction too: rows do not depend on what is not written yet.
        base.commit(&mut changes);
        Ok::<_, StoreError>(())
    })
    .expect("each frame was applied");
    assert_eq!(changes.ignored(), 0, "no record names what is not there");
    assert_eq!(check_rows(&base).expect("bytes in memory can be read"), [] as [String; 0]);
    let wall = Wall { zero_millis: NOW.wall_millis };
    let (_, counts) = changes.restore(&base, 2, 9, wall).expect("bytes in memory can be read");
    assert_eq!(counts.sessions, takings.sessions);
    assert!(counts.subscriptions <= takings.subscriptions, "of the same filter, the last counts");
    let deliveries = takings.queued + takings.sent + takings.released + takings.passed_on;
    assert_eq!((counts.deliveries, counts.expired), (deliveries, 0));
    assert!(counts.retained <= takings.retained + takings.held, "of the same topic, the last counts");
    assert!(!takings.to_string().is_empty());
}
