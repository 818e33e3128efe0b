//! Applies the bytes of a segment to the state, and tells what was wrong with them.

use super::StoreError;
use super::base::Base;
use super::passing::{Passing, Reading};
use super::segment::{Header, Place, Walk};
use super::source::Source;
use super::state::Changes;

/// A stretch of a segment that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Offset of its first byte.
    pub from: usize,
    /// Offset of the byte after its last.
    pub to: usize,
    /// What it is, as a part of a sentence.
    pub what: String,
}

/// What a segment was found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Frames applied.
    pub frames: u64,
    /// Sequence of the last frame; 0: there is none.
    pub last_sequence: u64,
    /// Offset of the end of what was written.
    pub end: usize,
    /// An unfinished batch stands at the end, which no one was told to be durable.
    pub torn: bool,
    /// What could not be read, though something later could.
    pub gaps: Vec<Gap>,
}

impl Changes {
    /// Applies all frames of a segment that can be read, and marks it as applied. `bytes` is the whole
    /// segment, `header` its header.
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

    /// As [`Changes::apply_segment`], of a segment that need not be in memory. It is read twice.
    pub(crate) fn apply_source<S: Source>(
        &mut self,
        base: &dyn Base,
        header: &Header,
        source: &mut S,
    ) -> Result<Replayed, StoreError>
    where
        StoreError: From<S::Error>,
    {
        let mut replayed = Replayed::default();
        let Reading { mut bad, passing } = Reading::of(source, header)?;
        self.passing = passing;
        let mut walk = Walk::new(header);
        loop {
            match walk.next(source)? {
                Place::Frame(frame) => {
                    replayed.last_sequence = frame.sequence;
                    if bad.front().is_some_and(|(at, _)| *at == frame.at) {
                        let (from, bad) = bad.pop_front().expect("it is there");
                        let what = format!("a frame whose records can't be read ({bad})");
                        replayed.add_gap(Gap { from, to: frame.body().end, what });
                        continue;
                    }
                    let body = source.bytes(frame.body())?;
                    self.apply_sound_frame(base, header, body)?;
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
    /// The first ones are told one by one.
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

/// Further gaps of a segment are told as one with the last.
const GAPS_MAX: usize = 50;
