//! The disk of a shard: one segment, written batch by batch, of which a power cut keeps what was durable and
//! any blocks of the batch that was being written. A write may take a part, and the next one goes on: then no block
//! is there behind the first one that is not.

use crate::random::Random;
use midge::store::Batch;
use midge::store::segment::{BLOCK, Header};

pub struct Disk {
    /// All that is durable.
    bytes: Vec<u8>,
    writing: Option<Batch>,
    failed: bool,
}

/// What a power cut made of the batch that was being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    /// Nothing was being written.
    Idle,
    /// None of it is there, or all of it.
    Whole,
    /// Some blocks of it are.
    Part,
}

impl Disk {
    pub fn new(header: &Header) -> Disk {
        Disk { bytes: header.encode().to_vec(), writing: None, failed: false }
    }

    /// No batch can be taken.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some() || self.failed
    }

    pub fn write(&mut self, batch: Batch) {
        self.writing = Some(batch);
    }

    /// No write comes to its end any more.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The batch is durable; the sequence of its last frame.
    pub fn finish(&mut self) -> Option<u64> {
        if self.failed {
            return None;
        }
        let batch = self.writing.take()?;
        self.bytes.extend_from_slice(&batch.bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        Some(batch.last)
    }

    /// What is read after the power cut.
    pub fn power_cut(mut self, rng: &mut Random) -> (Vec<u8>, Torn) {
        let Some(mut batch) = self.writing.take() else { return (self.bytes, Torn::Idle) };
        batch.bytes.resize(batch.bytes.len().next_multiple_of(BLOCK), 0);
        let (blocks, mode) = (batch.bytes.len() / BLOCK, rng.below(3));
        // Not drawn, so that nothing else changes by it.
        let is_short = batch.last % 3 == 0;
        let (mut kept, mut is_cut) = (0, false);
        for block in batch.bytes.chunks(BLOCK) {
            let keeps = match mode {
                0 => false,
                1 => true,
                _ => rng.chance(500) && !is_cut,
            };
            is_cut |= is_short && !keeps;
            kept += usize::from(keeps);
            let zeros = [0; BLOCK];
            self.bytes.extend_from_slice(if keeps { block } else { &zeros });
        }
        (self.bytes, if kept == 0 || kept == blocks { Torn::Whole } else { Torn::Part })
    }
}
