//! Where and when a run was made: the machine, the kernel, the time, the command line and the
//! broker. Figures mean little without it.

use std::fs;
use std::time::SystemTime;

/// The circumstances of a run, as names and values.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) rows: Vec<(&'static str, String)>,
}

impl Context {
    /// Must be called before the run, because the broker may be gone afterwards.
    pub(crate) fn now(broker_pid: Option<u32>) -> Context {
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut rows = vec![
            ("started", utc(seconds)),
            ("harness", concat!("midge-loadtest ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("command", command_line(std::env::args().skip(1))),
        ];
        if let Some(pid) = broker_pid {
            let name = first_line(&format!("/proc/{pid}/comm")).unwrap_or_else(|| "unknown".to_owned());
            rows.push(("broker", format!("{name}, process {pid}")));
        }
        let cores = std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |n| n.to_string());
        rows.push(("cores", cores));
        rows.extend(field("/proc/cpuinfo", "model name").map(|model| ("CPU", model)));
        let memory = field("/proc/meminfo", "MemTotal").and_then(|total| {
            let kib: f64 = total.split_ascii_whitespace().next()?.parse().ok()?;
            Some(("memory", format!("{:.1} GiB", kib / 1024.0 / 1024.0)))
        });
        rows.extend(memory);
        let system = first_line("/proc/sys/kernel/ostype").zip(first_line("/proc/sys/kernel/osrelease"));
        rows.extend(system.map(|(name, release)| ("kernel", format!("{name} {release}"))));
        let load = first_line("/proc/loadavg").map(|load| {
            let averages: Vec<&str> = load.split(' ').take(3).collect();
            ("load before", format!("{} (1, 5, 15 minutes)", averages.join(", ")))
        });
        rows.extend(load);
        Context { rows }
    }
}

/// The arguments as typed, without the password.
pub(crate) fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let mut words = Vec::new();
    let mut is_secret = false;
    for argument in arguments {
        words.push(match argument.split_once('=') {
            _ if is_secret => "***".to_owned(),
            Some(("--password", _)) => "--password=***".to_owned(),
            _ => argument.clone(),
        });
        is_secret = !is_secret && argument == "--password";
    }
    words.join(" ")
}

/// The value of the first line `name: value` in a file.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let (_, value) =
        text.lines().filter_map(|line| line.split_once(':')).find(|(field, _)| field.trim_end() == name)?;
    Some(value.trim().to_owned())
}

fn first_line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.lines().next()?.to_owned())
}

/// Converts seconds since 1970 to a date and a time of day.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The Gregorian date `days` after 1 January 1970.
fn date(days: u64) -> (u64, u64, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days_and_new_year() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_735_689_599), "2024-12-31 23:59:59 UTC");
        assert_eq!(utc(1_735_689_600), "2025-01-01 00:00:00 UTC");
    }

    #[test]
    fn password_is_not_in_the_command_line() {
        for given in [&["--password", "hush", "--qos", "1"][..], &["--password=hush", "--qos", "1"]] {
            let line = command_line(given.iter().map(|&word| word.to_owned()));
            assert!(!line.contains("hush") && line.contains("***") && line.ends_with("--qos 1"), "{line}");
        }
    }
}
