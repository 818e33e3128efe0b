//! The comparison of all brokers: medians, ranges and ratios.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::BrokerRun;
use super::broker::BrokerSpec;
use super::outcome::Outcome;
use crate::report::grouped;

pub(super) struct Comparison<'a> {
    brokers: &'a [BrokerSpec],
    baseline: usize,
    scenario: &'a str,
    runs: Vec<BrokerRun>,
    rows: Vec<Row>,
}

/// One figure of all brokers.
struct Row {
    key: String,
    label: String,
    unit: String,
    decimals: usize,
    /// `None` for a broker without this figure in any round.
    cells: Vec<Option<Spread>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// Key, label and decimals of the figures that are compared if a scenario has them. All others
/// whose key ends in one of [`EXTRA_SUFFIXES`] follow.
const ROWS: [(&str, &str, usize); 10] = [
    ("broker_cpu_us", "broker CPU", 3),
    // Explains most of a large ratio: with a large window, some brokers write many messages at
    // once.
    ("deliveries_per_read", "deliveries per read", 1),
    ("delivered_per_second", "delivered", 0),
    ("connections_per_second", "connected", 0),
    ("join_per_second", "connecting", 0),
    ("latency_ms.p50", "latency p50", 3),
    ("latency_ms.p99", "latency p99", 3),
    ("resident_per_connection_bytes", "broker memory", 0),
    ("broker_memory_loaded_kib", "broker memory, loaded", 0),
    ("broker_busy_percent", "broker busy", 1),
];
const EXTRA_SUFFIXES: [&str; 2] = ["_ms", "_per_second"];
/// These figures depend on the flags, not on the broker.
const EXCLUDED: [&str; 1] = ["published_per_second"];

impl Comparison<'_> {
    pub(super) fn new<'a>(
        brokers: &'a [BrokerSpec],
        baseline: usize,
        scenario: &'a str,
        runs: Vec<BrokerRun>,
    ) -> Comparison<'a> {
        let mut comparison = Comparison { brokers, baseline, scenario, runs, rows: Vec::new() };
        comparison.rows = comparison.keys().into_iter().filter_map(|row| comparison.row(row)).collect();
        comparison
    }

    pub(super) fn has_faults(&self) -> bool {
        self.runs.iter().any(|run| run.result.as_ref().map_or(1, Outcome::faults) > 0)
    }

    pub(super) fn has_broker_without_result(&self) -> bool {
        (0..self.brokers.len()).any(|broker| self.outcomes(broker).next().is_none())
    }

    /// A table for people, with a column for each broker.
    pub(super) fn table(&self) -> String {
        let mut lines: Vec<Vec<String>> = Vec::new();
        let mut head = vec![String::new()];
        for (at, broker) in self.brokers.iter().enumerate() {
            let is_baseline = at == self.baseline;
            head.push(if is_baseline { format!("{} (baseline)", broker.name) } else { broker.name.clone() });
        }
        lines.push(head);
        for row in &self.rows {
            let mut line = vec![format!("{}, {}", row.label, row.unit).trim_end_matches(", ").to_owned()];
            line.extend(row.cells.iter().enumerate().map(|(at, cell)| self.cell(row, at, cell.as_ref())));
            lines.push(line);
        }
        let widths: Vec<usize> = (0..=self.brokers.len())
            .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = format!("\ncompare {}\n\n", self.scenario);
        for line in lines {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let _ = writeln!(text, "  {}", cells.collect::<Vec<_>>().join("   ").trim_end());
        }
        let rounds = self.runs.iter().map(|run| run.round).max().unwrap_or(0);
        let _ = writeln!(
            text,
            "\n  median (min to max) of {rounds} rounds, and the ratio to {}; ~ marks overlapping ranges",
            self.brokers[self.baseline].name
        );
        text.push_str(&self.marks());
        text
    }

    pub(super) fn json(&self) -> Value {
        let brokers = self
            .brokers
            .iter()
            .map(|broker| json!({"name": broker.name, "port": broker.port, "command": broker.command}));
        let rows = self.rows.iter().map(|row| {
            let cells = row.cells.iter().zip(self.brokers).map(|(cell, broker)| {
                let ratio = self.ratio(row, cell.as_ref()).map(|ratio| ratio.0);
                let spread = cell.map(
                    |cell| json!({"median": cell.median, "min": cell.min, "max": cell.max, "ratio": ratio}),
                );
                (broker.name.clone(), spread.unwrap_or(Value::Null))
            });
            let cells: serde_json::Map<String, Value> = cells.collect();
            json!({"key": row.key, "unit": row.unit, "brokers": cells})
        });
        let rounds = self.runs.iter().map(|run| {
            let name = &self.brokers[run.broker].name;
            match &run.result {
                Ok(outcome) => json!({
                    "round": run.round, "broker": name, "marks": outcome.marks, "report": outcome.report,
                }),
                Err(error) => json!({"round": run.round, "broker": name, "error": error}),
            }
        });
        json!({
            "scenario": self.scenario,
            "baseline": self.brokers[self.baseline].name,
            "brokers": brokers.collect::<Vec<_>>(),
            "rows": rows.collect::<Vec<_>>(),
            "rounds": rounds.collect::<Vec<_>>(),
        })
    }

    fn cell(&self, row: &Row, broker: usize, cell: Option<&Spread>) -> String {
        let Some(cell) = cell else { return "-".to_owned() };
        let number = |value| grouped(value, row.decimals);
        let mut text = number(cell.median);
        if cell.min < cell.max {
            let _ = write!(text, " ({} to {})", number(cell.min), number(cell.max));
        }
        if broker != self.baseline
            && let Some((ratio, overlaps)) = self.ratio(row, Some(cell))
        {
            let _ = write!(text, "  {ratio:.2}x{}", if overlaps { " ~" } else { "" });
        }
        text
    }

    /// The ratio to the median of the baseline, and whether both ranges overlap.
    fn ratio(&self, row: &Row, cell: Option<&Spread>) -> Option<(f64, bool)> {
        let (cell, base) = (cell?, row.cells[self.baseline]?);
        let overlaps = cell.min <= base.max && base.min <= cell.max;
        (base.median > 0.0).then(|| (cell.median / base.median, overlaps))
    }

    fn marks(&self) -> String {
        let mut text = String::new();
        for run in &self.runs {
            let name = &self.brokers[run.broker].name;
            match &run.result {
                Ok(outcome) => {
                    for mark in &outcome.marks {
                        let _ = writeln!(text, "  ! round {}, {name}: {mark}", run.round);
                    }
                }
                Err(error) => {
                    let _ = writeln!(text, "  ! round {}, {name}: FAILED: {error}", run.round);
                }
            }
        }
        text
    }

    fn outcomes(&self, broker: usize) -> impl Iterator<Item = &Outcome> {
        self.runs.iter().filter(move |run| run.broker == broker).filter_map(|run| run.result.as_ref().ok())
    }

    /// The rows with a figure in any round: key, label, decimals.
    fn keys(&self) -> Vec<(String, String, usize)> {
        let mut keys: Vec<_> =
            ROWS.iter().map(|&(key, label, decimals)| (key.to_owned(), label.to_owned(), decimals)).collect();
        let outcomes = self.runs.iter().filter_map(|run| run.result.as_ref().ok());
        for key in outcomes.flat_map(Outcome::figure_keys) {
            let is_known = EXCLUDED.contains(&key) || keys.iter().any(|row| row.0 == key);
            if let Some(end) = EXTRA_SUFFIXES.iter().find(|end| key.ends_with(*end)).filter(|_| !is_known) {
                let label = key.trim_end_matches(end).replace('_', " ");
                keys.push((key.to_owned(), label, if *end == "_ms" { 1 } else { 0 }));
            }
        }
        keys
    }

    fn row(&self, (key, label, decimals): (String, String, usize)) -> Option<Row> {
        let cells = (0..self.brokers.len())
            .map(|broker| spread(self.outcomes(broker).filter_map(|outcome| outcome.figure(&key)).collect()));
        let cells: Vec<_> = cells.collect();
        let unit = match key.starts_with("latency_ms.") {
            true => "ms".to_owned(),
            false => {
                let all = self.runs.iter().filter_map(|run| run.result.as_ref().ok());
                all.map(|outcome| outcome.unit(&key)).find(|unit| !unit.is_empty()).unwrap_or("").to_owned()
            }
        };
        cells.iter().any(Option::is_some).then_some(Row { key, label, unit, decimals, cells })
    }
}

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (&min, &max) = (values.first()?, values.last()?);
    let (left, right) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    Some(Spread { median: f64::midpoint(left, right), min, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(broker: usize, round: u32, cpu: f64, faults: u64) -> BrokerRun {
        let report = json!({
            "figures": {"broker_cpu_us": cpu, "drain_ms": 12.5},
            "units": {"broker_cpu_us": "us per delivery", "drain_ms": "ms"},
            "latency_ms": {"p50": 1.0}, "faults": {"lost": faults}, "faults_total": faults,
        });
        BrokerRun { broker, round, result: Outcome::parse(report.to_string().as_bytes()) }
    }

    fn specs() -> Vec<BrokerSpec> {
        ["a@1=a", "b@2=b"].map(|text| BrokerSpec::parse(text).unwrap()).into()
    }

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(spread(vec![]), None);
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(spread(vec![4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
    }

    #[test]
    fn ratios_are_to_the_baseline_and_mark_overlapping_ranges() {
        let specs = specs();
        let runs = vec![run(0, 1, 2.0, 0), run(1, 1, 1.0, 0), run(0, 2, 4.0, 0), run(1, 2, 2.0, 0)];
        let comparison = Comparison::new(&specs, 0, "pairs", runs);
        let table = comparison.table();
        assert!(table.contains("3.000 (2.000 to 4.000)"), "{table}");
        assert!(table.contains("1.500 (1.000 to 2.000)  0.50x ~"), "{table}");
        assert!(table.contains("drain, ms") && table.contains("us per delivery"), "{table}");
        assert!(!comparison.has_faults() && !comparison.has_broker_without_result());
        let json = comparison.json();
        assert_eq!(json["rows"][0]["brokers"]["b"]["ratio"], 0.5);
        let runs = vec![run(0, 1, 2.0, 0), run(1, 1, 1.0, 0)];
        let table = Comparison::new(&specs, 1, "pairs", runs).table();
        assert!(table.contains("2.000  2.00x\n") || table.contains("2.000  2.00x  "), "{table}");
    }

    #[test]
    fn failed_and_faulty_rounds_are_listed() {
        let specs = specs();
        let failed = BrokerRun { broker: 1, round: 1, result: Err("gone".to_owned()) };
        let comparison = Comparison::new(&specs, 0, "pairs", vec![run(0, 1, 2.0, 3), failed]);
        let table = comparison.table();
        assert!(table.contains("round 1, a: faults: lost 3"), "{table}");
        assert!(table.contains("round 1, b: FAILED: gone"), "{table}");
        assert!(comparison.has_broker_without_result() && comparison.has_faults());
    }
}
