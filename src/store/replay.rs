//! Applies the bytes of a segment to the state, and reports what was wrong with them.

use super::StoreError;
use super::base::Base;
use super::passing::{Passing, Reading};
use super::segment::{Header, Place, Walk};
use super::source::Source;
use super::state::Changes;

/// A part of a segment that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The offset of its first byte.
    pub from: usize,
    /// The offset of the byte after its last.
    pub to: usize,
    /// A description, as a part of a sentence.
    pub what: String,
}

/// The findings about a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// The number of frames applied.
    pub frames: u64,
    /// The sequence of the last frame. 0 if there is none.
    pub last_sequence: u64,
    /// The offset of the end of the written data.
    pub end: usize,
    /// Whether there is an unfinished batch at the end. It was never reported as durable.
    pub torn: bool,
    /// The parts that could not be read although something after them could.
    pub gaps: Vec<Gap>,
}

impl Changes {
    /// Applies all readable frames of a segment, and marks the segment as applied. `bytes` is the whole
    /// segment, and `header` its header.
    ///
    /// # Errors
    /// [`StoreError`] if the base can't be read.
    pub fn apply_segment(
        &mut self,
        base: &dyn Base,
        header: &Header,
        bytes: &[u8],
    ) -> Result<Replayed, StoreError> {
        self.apply_source(base, header, &mut { bytes })
    }

    /// As [`Changes::apply_segment`], for a segment that need not be in memory. It is read twice.
    pub(crate) fn apply_source<S: Source>(
        &mut self,
        base: &dyn Base,
        header: &Header,
        source: &mut S,
    ) -> Result<Replayed, StoreError>
    where
        StoreError: From<S::Error>,
    {
        let reading = Reading::of(source, header)?;
        self.apply_read(base, header, source, reading)
    }

    /// Applies what was read.
    pub(super) fn apply_read<S: Source>(
        &mut self,
        base: &dyn Base,
        header: &Header,
        source: &mut S,
        mut reading: Reading,
    ) -> Result<Replayed, StoreError>
    where
        StoreError: From<S::Error>,
    {
        let mut replayed = Replayed::default();
        self.passing = std::mem::take(&mut reading.passing);
        let mut walk = Walk::new(header);
        let mut frames = 0;
        loop {
            match walk.next(source)? {
                Place::Frame(frame) => {
                    replayed.last_sequence = frame.sequence;
                    let passing = reading.nothing_but(frames);
                    frames += 1;
                    if reading.bad.front().is_some_and(|(at, _)| *at == frame.at) {
                        let (from, bad) = reading.bad.pop_front().expect("it is there");
                        let what = format!("a frame whose records can't be read ({bad})");
                        replayed.add_gap(Gap { from, to: frame.body().end, what });
                        continue;
                    }
                    let body = source.bytes(frame.body())?;
                    match passing {
                        Some(highest) => self.pass_frame(header, body, highest),
                        None => self.apply_sound_frame(base, header, body)?,
                    }
                    replayed.frames += 1;
                }
                Place::Damage { from, to } => {
                    replayed.add_gap(Gap { from, to, what: "bytes that can't be read".to_owned() });
                }
                Place::End { at, torn } => {
                    replayed.end = at;
                    replayed.torn = torn;
                    break;
                }
            }
        }
        self.passing = Passing::default();
        let last = replayed.last_sequence.max(header.first_sequence.saturating_sub(1));
        self.finish_segment(base, header, last)?;
        Ok(replayed)
    }
}

impl Replayed {
    /// Adds a gap. The first [`GAPS_MAX`] are listed one by one.
    fn add_gap(&mut self, gap: Gap) {
        let is_full = self.gaps.len() >= GAPS_MAX;
        match self.gaps.last_mut() {
            Some(last) if is_full => {
                last.what = "frames and bytes that can't be read".to_owned();
                last.to = gap.to;
            }
            _ => self.gaps.push(gap),
        }
    }
}

/// The largest number of gaps that are listed for a segment. Further ones are merged with the last.
const GAPS_MAX: usize = 50;
