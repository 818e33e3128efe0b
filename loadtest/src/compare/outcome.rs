//! The outcome of one round: the figures in the JSON report of the scenario.

use serde_json::Value;

use crate::report::{BUSY_MAX, STARVED_MAX, grouped};

#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) report: Value,
    /// Reasons to doubt the round.
    pub(super) marks: Vec<String>,
}

impl Outcome {
    /// # Errors
    /// The bytes are not a report.
    pub(super) fn parse(json: &[u8]) -> Result<Outcome, String> {
        let report: Value =
            serde_json::from_slice(json).map_err(|error| format!("unreadable report: {error}"))?;
        if !report["figures"].is_object() || !report["faults_total"].is_u64() {
            return Err("the report has no figures".to_owned());
        }
        let mut outcome = Outcome { report, marks: Vec::new() };
        outcome.marks = outcome.find_marks();
        Ok(outcome)
    }

    /// A figure by its key, or a latency by the name of its percentile.
    pub(super) fn figure(&self, key: &str) -> Option<f64> {
        match key.strip_prefix("latency_ms.") {
            Some(percentile) => self.report["latency_ms"][percentile].as_f64(),
            None => self.report["figures"][key].as_f64(),
        }
    }

    pub(super) fn figure_keys(&self) -> impl Iterator<Item = &str> {
        self.report["figures"].as_object().into_iter().flatten().map(|(key, _)| key.as_str())
    }

    pub(super) fn unit(&self, key: &str) -> &str {
        self.report["units"][key].as_str().unwrap_or("")
    }

    pub(super) fn faults(&self) -> u64 {
        self.report["faults_total"].as_u64().unwrap_or(0)
    }

    /// One line of progress.
    pub(super) fn summary(&self) -> String {
        let mut parts = Vec::new();
        if let Some(cpu) = self.figure("broker_cpu_us") {
            parts.push(format!("{cpu:.3} {}", self.unit("broker_cpu_us")));
        }
        let rates = ["delivered_per_second", "connections_per_second", "join_per_second"];
        if let Some((key, rate)) = rates.iter().find_map(|key| Some((key, self.figure(key)?))) {
            parts.push(format!("{} {}", grouped(rate, 0), self.unit(key)));
        }
        parts.push(match self.faults() {
            0 => "no faults".to_owned(),
            faults => format!("{faults} FAULTS"),
        });
        parts.extend(self.marks.iter().skip(usize::from(self.faults() > 0)).cloned());
        parts.join(", ")
    }

    fn find_marks(&self) -> Vec<String> {
        let mut marks = Vec::new();
        if self.faults() > 0 {
            let kinds = self.report["faults"].as_object().into_iter().flatten();
            let kinds: Vec<String> = kinds
                .filter(|(_, count)| count.as_u64().is_some_and(|count| count > 0))
                .map(|(kind, count)| format!("{kind} {count}"))
                .collect();
            marks.push(format!("faults: {}", kinds.join(", ")));
        }
        let limits = [
            ("own_busy_percent", BUSY_MAX, "the harness was the limit: busy"),
            ("broker_starved_percent", STARVED_MAX, "the broker waited for a CPU"),
            ("own_starved_percent", STARVED_MAX, "the harness waited for a CPU"),
        ];
        for (key, share_max, words) in limits {
            if let Some(percent) = self.figure(key).filter(|percent| *percent > share_max * 100.0) {
                marks.push(format!("{words} {percent:.0} % of the time"));
            }
        }
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubtful_rounds_are_marked() {
        let json =
            br#"{"figures":{"own_busy_percent":95,"broker_starved_percent":50,"own_starved_percent":1},
            "faults":{"lost":2,"qos":0},"faults_total":2}"#;
        let outcome = Outcome::parse(json).unwrap();
        assert_eq!(outcome.marks.len(), 3, "{:?}", outcome.marks);
        assert_eq!(outcome.marks[0], "faults: lost 2");
        let json = br#"{"figures":{"own_busy_percent":90},"faults":{},"faults_total":0}"#;
        assert!(Outcome::parse(json).unwrap().marks.is_empty());
        assert!(Outcome::parse(b"{}").is_err() && Outcome::parse(b"").is_err());
    }
}
