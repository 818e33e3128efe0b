//! What a start makes of the disks: the checkpoint in memory, the segments that are not in it yet, and damage
//! that must not be there.

use crate::random::Random;
use midge::store::segment::Header;
use midge::store::{Changes, ClockReading, MemoryBase, Restored, Wall};

/// The store of a broker over its starts.
#[derive(Default)]
pub struct Store {
    base: MemoryBase,
    segments: Vec<Vec<u8>>,
}

/// What a recovery did.
pub struct Recovered {
    pub parts: Vec<Restored>,
    pub wall: Wall,
    pub intents: usize,
    pub sessions: usize,
    pub deliveries: usize,
}

impl Store {
    /// The segments of a run that is over.
    pub fn add(&mut self, segments: impl IntoIterator<Item = Vec<u8>>) {
        self.segments.extend(segments);
    }

    /// For a start with this number of shards.
    pub fn recover(
        &mut self,
        shards: usize,
        seed: u64,
        now: ClockReading,
        rng: &mut Random,
    ) -> Result<Recovered, String> {
        let failed = |error: midge::store::StoreError| format!("recovery failed: {error}");
        let mut changes = Changes::new(&self.base).map_err(failed)?;
        for segment in &self.segments {
            let header = Header::decode(segment).ok_or("recovery: a segment without a header")?;
            let replayed = changes.apply_segment(&self.base, &header, segment).map_err(failed)?;
            if !replayed.gaps.is_empty() {
                return Err(format!("recovery: a power cut looks like damage: {:?}", replayed.gaps));
            }
        }
        let intents = changes.resolve_intents(&self.base).map_err(failed)?;
        if changes.ignored() > 0 || changes.bad_rows() > 0 {
            let (ignored, bad) = (changes.ignored(), changes.bad_rows());
            return Err(format!("recovery: {ignored} records name what is not there, {bad} rows are bad"));
        }
        let wall = changes.log_clock(now).wall;
        let (parts, _) = changes.restore(&self.base, shards, seed, wall).map_err(failed)?;
        if intents > 0 || rng.chance(500) {
            self.base.commit(&mut changes);
            self.segments.clear();
        }
        let sessions = parts.iter().map(|part| part.sessions.len()).sum();
        let deliveries =
            parts.iter().flat_map(|part| &part.sessions).map(|session| session.deliveries.len()).sum();
        Ok(Recovered { parts, wall, intents, sessions, deliveries })
    }
}
