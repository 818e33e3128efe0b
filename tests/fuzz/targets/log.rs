//! The logs that a start reads: an input is a segment, its frames alone, or the bodies of frames.
//!
//! Reading must end for any input, no frame may count partially, the resulting rows must agree with each
//! other, and it must be possible to distribute them to any number of shards. Readable records must stay the
//! same when they are written again and read back.

use midge::store::segment::{BLOCK, FRAME_HEAD, Header, LogName, SegmentReader, Step};
use midge::store::{ApplyError, Changes, Journal, MemoryBase, Record, Wall, check_rows, open_body};

const HEADER: Header = Header { epoch: 1, shard: 0, shards: 4, number: 0, first_sequence: 1, seed: 5 };
const WALL: Wall = Wall { zero_millis: 1_000_000 };

/// Runs the target. The first byte gives the meaning of the rest.
pub fn run(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    match kind % 3 {
        0 => apply_segment(rest),
        1 => {
            let mut segment = HEADER.encode().to_vec();
            for chunk in chunks(rest) {
                segment.extend_from_slice(chunk);
                segment.resize(segment.len().next_multiple_of(BLOCK), 0);
            }
            apply_segment(&segment);
        }
        _ => apply_bodies(chunks(rest)),
    }
}

/// Parts, each with its length in two bytes before it.
fn chunks(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let (chunk, tail) = tail.split_at(usize::from(u16::from_le_bytes(*length)).min(tail.len()));
        chunks.push(chunk);
        rest = tail;
    }
    chunks
}

fn apply_segment(bytes: &[u8]) {
    let header = Header::decode(bytes).unwrap_or(HEADER);
    let mut reader = SegmentReader::new(bytes, &header);
    let (mut frames, mut at) = (0, 0);
    loop {
        match reader.step() {
            Step::Frame(frame) => {
                assert!(frame.at >= at, "reading goes on");
                at = frame.at + frame.body.len();
                frames += 1;
            }
            Step::Damage { from, to } => {
                assert!(at <= from && from < to, "reading goes on");
                at = to;
            }
            Step::End { .. } => break,
        }
    }
    let mut base = MemoryBase::default();
    let mut changes = Changes::new(&base).expect("memory can be read");
    let replayed = changes.apply_segment(&base, &header, bytes).expect("memory can be read");
    assert!(replayed.frames <= frames);
    finish(&mut base, &mut changes);
}

fn apply_bodies(bodies: Vec<&[u8]>) {
    let mut base = MemoryBase::default();
    let mut changes = Changes::new(&base).expect("memory can be read");
    for (at, body) in bodies.into_iter().enumerate() {
        write_again(body);
        let header = Header { shard: at as u16 % 4, ..HEADER };
        match changes.apply_frame(&base, &header, body) {
            Ok(()) | Err(ApplyError::Bad(_)) => {}
            Err(ApplyError::Store(error)) => panic!("{error}"),
        }
        changes.finish_segment(&base, &header, at as u64).expect("memory can be read");
        if at % 3 == 2 {
            commit(&mut base, &mut changes);
        }
    }
    finish(&mut base, &mut changes);
}

/// Writes the valid records of a frame as this midge does, up to the first invalid one, and reads them back.
fn write_again(body: &[u8]) {
    let records = records_of(body);
    let mut journal = Journal::new(LogName { epoch: 1, shard: 0 });
    records.iter().for_each(|record| journal.record(record));
    let batch = journal.take();
    assert_eq!(batch.is_none(), records.is_empty());
    if let Some(batch) = batch {
        assert_eq!(records_of(&batch.bytes[FRAME_HEAD..]), records);
    }
}

fn records_of(body: &[u8]) -> Vec<Record<'_>> {
    let Ok((_, mut decoder)) = open_body(body) else { return Vec::new() };
    std::iter::from_fn(|| decoder.read_next().ok().flatten()).collect()
}

fn finish(base: &mut MemoryBase, changes: &mut Changes) {
    commit(base, changes);
    changes.resolve_intents(base).expect("memory can be read");
    let (_, counts) = changes.restore(base, 3, 7, WALL).expect("memory can be read");
    commit(base, changes);
    let mut changes = Changes::new(base).expect("memory can be read");
    let (parts, again) = changes.restore(base, 1, 7, WALL).expect("memory can be read");
    assert_eq!(midge::store::RestoredCounts { expired: 0, ..counts }, again);
    assert_eq!(parts[0].sessions.len() as u64, counts.sessions);
}

fn commit(base: &mut MemoryBase, changes: &mut Changes) {
    base.commit(changes);
    assert_eq!(check_rows(base).expect("memory can be read"), [] as [String; 0]);
}
