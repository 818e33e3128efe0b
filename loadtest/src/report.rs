//! The result of a run: figures, latencies, faults and notes, as a table for people or as JSON for
//! programs.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use crate::context::Context;
use crate::latency::bins;
use crate::net::Handshakes;
use crate::process_usage::{CpuUsage, Memory};
use crate::timeline::Timeline;
use crate::verify::Faults;

/// One measured number.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// Name in JSON, with the unit at its end.
    pub(crate) key: &'static str,
    /// Name in the table.
    pub(crate) label: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) decimals: usize,
}

/// All results of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    /// The settings of the run, in the order of the flags.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// The main figure comes first.
    pub(crate) figures: Vec<Figure>,
    /// What the latencies measure, and the latencies in nanoseconds.
    pub(crate) latency: Option<(&'static str, Histogram<u64>)>,
    /// What the timeline counts, such as deliveries, and the timeline.
    pub(crate) timeline: Option<(&'static str, Timeline)>,
    /// Start and end of the measured time, in nanoseconds since the start of the run.
    pub(crate) measured: Option<(u64, u64)>,
    pub(crate) faults: Faults,
    /// The first few details on faults, such as why a connection ended.
    pub(crate) details: Vec<String>,
    /// What a reader must know to judge the figures.
    pub(crate) notes: Vec<String>,
}

/// Above this share of a core, the harness may have slowed the broker down.
pub(crate) const BUSY_MAX: f64 = 0.9;

/// Above this share of the time without a CPU, the figures of the broker are not reliable.
pub(crate) const STARVED_MAX: f64 = 0.1;

pub(crate) const PERCENTILES: [(&str, f64); 4] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// An empty histogram from one microsecond to an hour.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).expect("the bounds are valid")
}

impl Report {
    pub(crate) fn new(scenario: &'static str, settings: Vec<(&'static str, String)>) -> Report {
        Report {
            scenario,
            settings,
            figures: Vec::new(),
            latency: None,
            timeline: None,
            measured: None,
            faults: Faults::default(),
            details: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn figure(
        &mut self,
        key: &'static str,
        label: &'static str,
        value: f64,
        unit: &'static str,
        decimals: usize,
    ) {
        self.figures.push(Figure { key, label, value, unit, decimals });
    }

    /// Stores the timeline of the run. `of` names the work that it counts.
    pub(crate) fn timeline(&mut self, of: &'static str, timeline: &Timeline) {
        self.timeline = Some((of, timeline.clone()));
    }

    /// Adds the main figure: the CPU time of the broker per unit of work, also split into user and
    /// system time.
    pub(crate) fn broker_cpu(&mut self, used: &CpuUsage, work: u64, wall_seconds: f64, per: &'static str) {
        if work > 0 {
            let micros = |seconds: f64| seconds * 1e6 / work as f64;
            self.figure("broker_cpu_us", "broker CPU", micros(used.total_seconds), per, 3);
            self.figure("broker_cpu_user_us", "  user", micros(used.user_seconds), per, 3);
            self.figure("broker_cpu_system_us", "  system", micros(used.system_seconds), per, 3);
        }
        let busy = used.total_seconds / wall_seconds * 100.0;
        self.figure("broker_busy_percent", "broker busy", busy, "% of a core", 1);
        let starved = used.starved_seconds / wall_seconds;
        self.figure("broker_starved_percent", "broker waited for a CPU", starved * 100.0, "% of the time", 1);
        if starved > STARVED_MAX {
            self.notes.push(format!(
                "the broker waited for a CPU {:.0} % of the time, because something else ran there. Such a broker \
                 batches more and seems cheaper. Repeat the run.",
                starved * 100.0
            ));
        }
    }

    /// Adds the CPU time of the harness, and a note if it may have been the limit.
    pub(crate) fn own_cpu(&mut self, used: &CpuUsage, work: u64, wall_seconds: f64, per: &'static str) {
        if work > 0 {
            self.figure("own_cpu_us", "harness CPU", used.total_seconds * 1e6 / work as f64, per, 3);
        }
        let busy = used.total_seconds / wall_seconds;
        self.figure("own_busy_percent", "harness busy", busy * 100.0, "% of a core", 1);
        let starved = used.starved_seconds / wall_seconds;
        self.figure("own_starved_percent", "harness waited for a CPU", starved * 100.0, "% of the time", 1);
        if starved > STARVED_MAX {
            self.notes.push(format!(
                "the harness waited for a CPU {:.0} % of the time: the measured latencies are too long.",
                starved * 100.0
            ));
        }
        if busy > BUSY_MAX {
            self.notes.push(format!(
                "THE HARNESS WAS THE LIMIT: its thread was busy {:.0} % of the time. \
                 Wall-clock rates and latencies say little about the broker.",
                busy * 100.0
            ));
        }
    }

    pub(crate) fn broker_memory(&mut self, stages: &[(&'static str, &'static str, Memory)]) {
        for &(key, label, memory) in stages {
            self.figure(key, label, memory.resident as f64 / 1024.0, "KiB resident", 0);
        }
    }

    /// Adds the TLS handshakes, if there were any.
    pub(crate) fn handshakes(&mut self, made: &Handshakes) {
        if let Some(suite) = &made.suite {
            self.settings.push(("agreed on", suite.clone()));
            self.figure("tls_full", "full TLS handshakes", made.full as f64, "", 0);
            self.figure("tls_resumed", "  resumed", made.resumed as f64, "", 0);
        }
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("\n{}\n", self.scenario);
        let settings: Vec<String> =
            self.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let _ = writeln!(text, "  {}\n", settings.join(", "));
        for figure in &self.figures {
            let value = grouped(figure.value, figure.decimals);
            let _ = writeln!(text, "  {:<28} {value:>16} {}", figure.label, figure.unit);
        }
        if let Some((of, histogram)) = &self.latency {
            let _ = writeln!(text, "\n  latency, {of}, ms ({} samples)", histogram.len());
            for (name, value) in latency_rows(histogram) {
                let _ = writeln!(text, "  {name:<28} {value:>16.3}");
            }
        }
        let _ = writeln!(text);
        if self.faults.total() == 0 {
            let _ = writeln!(text, "  faults                                       none");
        }
        for (name, count) in self.faults.rows().into_iter().filter(|row| row.1 > 0) {
            let _ = writeln!(text, "  FAULT {name:<22} {count:>16}");
        }
        for detail in &self.details {
            let _ = writeln!(text, "        {detail}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "  note: {note}");
        }
        text
    }

    /// One JSON object on one line.
    pub(crate) fn json(&self, context: &Context) -> String {
        let settings = self.settings.iter().map(|(name, value)| (*name, quoted(value)));
        let figures = self.figures.iter().map(|figure| (figure.key, number(figure.value)));
        let faults = self.faults.rows().map(|(name, count)| (name, count.to_string()));
        let mut fields = vec![
            ("scenario", quoted(self.scenario)),
            ("settings", object(settings)),
            ("figures", object(figures)),
            ("faults", object(faults.into_iter())),
            ("faults_total", self.faults.total().to_string()),
            ("details", array(&self.details)),
            ("notes", array(&self.notes)),
        ];
        if let Some((of, histogram)) = &self.latency {
            let rows = latency_rows(histogram);
            let rows = rows.iter().map(|(name, value)| (*name, number(*value)));
            fields.push(("latency_of", quoted(of)));
            fields.push(("latency_samples", histogram.len().to_string()));
            fields.push(("latency_ms", object(rows)));
            let bins = bins(histogram).into_iter().filter(|bin| bin.count > 0);
            let bins = bins.map(|bin| format!("[{:.0},{:.0},{}]", bin.from, bin.to, bin.count));
            fields.push(("latency_bins_from_to_nanos_count", list(bins)));
        }
        let units = self.figures.iter().map(|figure| (figure.key, quoted(figure.unit)));
        fields.push(("units", object(units)));
        let context = context.rows.iter().map(|(name, value)| (*name, quoted(value)));
        fields.push(("context", object(context)));
        fields.extend(self.samples());
        object(fields.into_iter())
    }

    /// The timeline for JSON: cumulative values, times in seconds since the start of the run.
    fn samples(&self) -> Vec<(&'static str, String)> {
        let Some((of, timeline)) = &self.timeline else { return Vec::new() };
        let seconds = |nanos: u64| format!("{:.3}", nanos as f64 / 1e9);
        let rows = timeline.samples().iter().map(|sample| {
            let broker = sample.broker_nanos.map_or_else(|| "null".to_owned(), seconds);
            format!("[{},{},{broker}]", seconds(sample.nanos), sample.work)
        });
        let mut fields =
            vec![("samples_of", quoted(of)), ("samples_seconds_work_broker_cpu_seconds", list(rows))];
        if let Some((from, to)) = self.measured {
            fields.push(("measured_from_to_seconds", list([seconds(from), seconds(to)].into_iter())));
        }
        fields
    }
}

/// Percentiles and maximum in milliseconds.
pub(crate) fn latency_rows(histogram: &Histogram<u64>) -> Vec<(&'static str, f64)> {
    let millis = |nanos: u64| nanos as f64 / 1e6;
    let mut rows: Vec<_> =
        PERCENTILES.iter().map(|&(name, at)| (name, millis(histogram.value_at_percentile(at)))).collect();
    rows.push(("max", millis(histogram.max())));
    rows
}

/// A number with its digits in groups of three.
pub(crate) fn grouped(value: f64, decimals: usize) -> String {
    let plain = format!("{value:.decimals$}");
    let (whole, fraction) = plain.split_once('.').map_or((plain.as_str(), None), |(w, f)| (w, Some(f)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut text = sign.to_owned();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if let Some(fraction) = fraction {
        text.push('.');
        text.push_str(fraction);
    }
    text
}

fn number(value: f64) -> String {
    // JSON has no infinity and no NaN.
    if value.is_finite() { format!("{value}") } else { "null".to_owned() }
}

fn object(fields: impl Iterator<Item = (&'static str, String)>) -> String {
    let fields: Vec<String> = fields.map(|(name, value)| format!("{}:{value}", quoted(name))).collect();
    format!("{{{}}}", fields.join(","))
}

fn array(items: &[String]) -> String {
    list(items.iter().map(|item| quoted(item)))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control < ' ' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!(grouped(1_234_567.891, 2), "1,234,567.89");
        assert_eq!(grouped(-999.0, 0), "-999");
        assert_eq!(grouped(1000.0, 0), "1,000");
    }

    #[test]
    fn json_escapes_strings_and_replaces_nan() {
        let mut report = Report::new("pairs", vec![("host", "a\"b\\c\n".to_owned())]);
        report.figure("x_us", "x", f64::NAN, "us", 1);
        let json = report.json(&Context { rows: Vec::new() });
        assert!(json.contains(r#""host":"a\"b\\c\u000a""#), "{json}");
        assert!(json.contains(r#""x_us":null"#), "{json}");
    }
}
