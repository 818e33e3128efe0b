//! Decides when memory is freed: some time after many connections or many bytes have gone. At that time
//! tables are far too large, some buffers were only needed for the peak, and the allocator keeps all of this.
//! Without a change no timer runs.

use crate::base::Time;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tidy {
    /// The number of connections when memory was last freed.
    connections: usize,
    /// The largest number of bytes that were kept since then.
    bytes_max: usize,
    /// The time of the next run.
    at: Option<Time>,
    /// Only because of bytes, memory is not freed again before this time.
    not_before: Time,
}

/// The connections and bytes of a shard at this time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) connections: usize,
    /// The approximate number of bytes that are kept.
    pub(super) bytes: usize,
}

/// The delay between the moment when freeing memory becomes useful and the run.
const DELAY_MILLIS: u64 = 300;
/// With fewer connections, freeing memory is not useful.
const CONNECTIONS_MIN: usize = 256;
/// With fewer bytes, freeing memory is not useful.
const BYTES_MIN: usize = 8 << 20;
/// The smallest pause between two runs because of bytes. Queues may fill and drain all day, and each run
/// visits every free part of the heap.
const PAUSE_SECONDS: u32 = 30;

impl Tidy {
    /// The time at which it is due.
    pub(super) fn at(&self) -> Option<Time> {
        self.at
    }

    /// Whether it is due now. The host calls this once per turn.
    pub(super) fn is_due(&mut self, now: Time, kept: Kept) -> bool {
        let Kept { connections, bytes } = kept;
        self.bytes_max = self.bytes_max.max(bytes);
        match self.at {
            None => {
                let far = (self.connections / 2).max(CONNECTIONS_MIN);
                let gone = self.bytes_max - bytes;
                if connections.abs_diff(self.connections) > far {
                    self.at = Some(now.after_millis(DELAY_MILLIS));
                } else if gone > (self.bytes_max / 2).max(BYTES_MIN) {
                    self.at = Some(now.after_millis(DELAY_MILLIS).max(self.not_before));
                }
                false
            }
            Some(at) if at <= now => {
                *self = Tidy {
                    connections,
                    bytes_max: bytes,
                    at: None,
                    not_before: now.after_seconds(PAUSE_SECONDS),
                };
                true
            }
            Some(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first time at which it is due, checked every 100 ms, in milliseconds.
    fn due(tidy: &mut Tidy, from: u64, to: u64, connections: usize, bytes: usize) -> Option<u64> {
        let kept = Kept { connections, bytes };
        (from..to).step_by(100).find(|&millis| tidy.is_due(Time::from_millis(millis), kept))
    }

    #[test]
    fn memory_is_given_back_after_many_connections_or_many_bytes_have_gone() {
        let mut tidy = Tidy::default();
        assert_eq!(due(&mut tidy, 0, 5000, 256, 1 << 30), None, "what comes is no reason");
        assert_eq!(due(&mut tidy, 5000, 9000, 257, 1 << 30), Some(5300));
        assert_eq!(due(&mut tidy, 9000, 20_000, 260, 600 << 20), None, "not most of them");
        assert_eq!(due(&mut tidy, 20_000, 50_000, 260, 1 << 20), Some(35_300), "not so soon again");
        assert_eq!(tidy.at(), None);
        assert_eq!(due(&mut tidy, 90_000, 99_000, 260, 0), None, "few bytes");
        assert_eq!(due(&mut tidy, 100_000, 100_100, 260, 9 << 20), None);
        assert_eq!(due(&mut tidy, 110_000, 120_000, 260, 0), Some(110_300));
        assert_eq!(due(&mut tidy, 120_000, 130_000, 260, 0), None, "once");
    }
}
