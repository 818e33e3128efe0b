//! The clocks of the machine.
//!
//! The broker's clock is the kernel's boot clock. Nobody can set it, and it runs while the machine is
//! suspended, so keep alives and expiries do not stop with it. The wall clock is only read to be reported.

use crate::base::{ClockReading, Time};
use rustix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The boot clock with its own zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero_micros: u64,
}

impl Clock {
    /// Starts a clock at zero. Also returns a reading of the machine's clocks at this moment.
    pub fn start() -> (Clock, ClockReading) {
        let zero_micros = boot_micros();
        (Clock { zero_micros }, reading_at(zero_micros))
    }

    /// The current time.
    pub fn now(&self) -> Time {
        Time::from_micros(boot_micros().saturating_sub(self.zero_micros))
    }

    /// The current time, and a reading of the machine's clocks.
    pub fn read(&self) -> (Time, ClockReading) {
        let micros = boot_micros();
        (Time::from_micros(micros.saturating_sub(self.zero_micros)), reading_at(micros))
    }
}

fn reading_at(boot_micros: u64) -> ClockReading {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    ClockReading {
        wall_millis: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        boot: boot(),
        boot_millis: boot_micros / 1000,
    }
}

fn boot_micros() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(now.tv_nsec / 1000).unwrap_or_default())
}

/// Identifies the boot of the machine and the time namespace, in which the boot clock may have an offset. 0
/// if it is unknown.
fn boot() -> u64 {
    static BOOT: OnceLock<u64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let Ok(id) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") else { return 0 };
        let namespace = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
        // FNV-1a: the result is stored, so every version must compute the same.
        let bytes = id.trim().bytes().chain(namespace.as_os_str().as_encoded_bytes().iter().copied());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash.max(1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_go_on_from_each_other_and_name_the_same_start_of_the_machine() {
        let (clock, first) = Clock::start();
        let (now, second) = clock.read();
        assert!(clock.now() >= now);
        assert_eq!((first.boot, first.boot != 0), (second.boot, true));
        let passed = second.boot_millis - first.boot_millis;
        assert!(now.as_millis().abs_diff(passed) <= 1, "{now:?} {passed}");
        assert!(first.wall_millis > 1_700_000_000_000);
    }
}
