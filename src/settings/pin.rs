//! The cores that shards are pinned to: `runtime.pin`.

use super::value::{Allowed, Literal, Refused, Setting, written};
use std::fmt;

/// The cores that the threads of the shards run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// The cores that the process may use, one per shard, in order.
    Auto,
    /// No pinning: the system places the threads.
    None,
    /// These cores, one per shard, in order. There is at least one core, and no core is in the list twice.
    Cores(Vec<usize>),
}

/// Core numbers are below this, like those of the kernel's processor sets.
const CORES_MAX: usize = 1024;

impl Pin {
    /// Reads `auto`, `none`, or core numbers and ranges in the syntax of `taskset`: `0,2-3`.
    pub fn parse(text: &str) -> Option<Pin> {
        match text {
            "auto" => return Some(Pin::Auto),
            "none" => return Some(Pin::None),
            _ => {}
        }
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (core(first)?, core(last)?);
            if first > last {
                return None;
            }
            cores.extend(first..=last);
        }
        let count = cores.len();
        cores.sort_unstable();
        cores.dedup();
        (cores.len() == count).then_some(Pin::Cores(cores))
    }
}

fn core(text: &str) -> Option<usize> {
    let is_number = !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&core| is_number && core < CORES_MAX)
}

/// Core numbers in their order, with ranges: `0,2-3`.
pub fn shown_cores(cores: &[usize]) -> String {
    let runs = cores.chunk_by(|a, b| a + 1 == *b);
    let shown = |run: &[usize]| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    runs.map(shown).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pin::Auto => f.write_str("auto"),
            Pin::None => f.write_str("none"),
            Pin::Cores(cores) => f.write_str(&shown_cores(cores)),
        }
    }
}

impl Setting for Pin {
    fn read(literal: &Literal, _: &Allowed) -> Result<Self, Refused> {
        literal.parsed(Pin::parse)
    }

    fn shown(&self) -> String {
        written(&self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_as_taskset_has_them_and_shown_with_ranges() {
        for (text, cores) in
            [("0", vec![0]), ("3,1", vec![1, 3]), ("0-2,7", vec![0, 1, 2, 7]), ("1023", vec![1023])]
        {
            assert_eq!(Pin::parse(text), Some(Pin::Cores(cores)), "{text}");
        }
        for text in ["auto", "none", "0", "1,3", "0-2,7", "0-1023"] {
            assert_eq!(Pin::parse(text).expect(text).to_string(), text);
        }
        for text in [
            "", "1024", "0-1024", "2-1", "1,1", "0-2,1", "-1", "1-", "+1", " 1", "1,", "1,,2", "one", "1-2-3",
        ] {
            assert_eq!(Pin::parse(text), None, "{text}");
        }
    }
}
