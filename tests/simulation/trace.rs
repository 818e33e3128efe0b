//! The trace of a run: a fingerprint is always computed, the lines only if they will be read.

use std::collections::VecDeque;
use std::fmt::Write;

/// The largest number of lines that are kept.
const LINES_MAX: usize = 4000;

pub struct Trace {
    hash: u64,
    told: bool,
    lines: VecDeque<String>,
    line: String,
}

impl Trace {
    pub fn new(told: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, told, lines: VecDeque::new(), line: String::new() }
    }

    pub fn note(&mut self, micros: u64, what: std::fmt::Arguments<'_>) {
        self.line.clear();
        let _ = write!(self.line, "{:>6}.{:06} {what}", micros / 1_000_000, micros % 1_000_000);
        for &byte in self.line.as_bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.told {
            if self.lines.len() == LINES_MAX {
                self.lines.pop_front();
            }
            self.lines.push_back(self.line.clone());
        }
    }

    /// The fingerprint of every line so far.
    pub fn fingerprint(&self) -> u64 {
        self.hash
    }

    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
