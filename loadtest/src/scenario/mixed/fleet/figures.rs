//! The figures of a fleet: during the run, and at the end.

use super::{Fleet, MessageStats};
use crate::report::Report;

impl Fleet {
    pub(in crate::scenario::mixed) fn summary(&self) -> String {
        let (telemetry, commands) = (self.telemetry.delivered, self.commands.delivered);
        let (wills, faults) = (self.wills.delivered, self.faults.total());
        format!("delivered: telemetry {telemetry}, commands {commands}, wills {wills}; {faults} faults")
    }

    /// Reports the figures, and moves the faults into the report.
    pub(in crate::scenario::mixed) fn figures(&mut self, report: &mut Report) {
        let breaks: u64 = self.spec.devices.iter().map(|device| u64::from(device.breaks)).sum();
        let all = |value: u64| value as f64;
        report.figure("telemetry_sent", "telemetry sent", all(self.telemetry_sent), "messages", 0);
        report.figure("telemetry_delivered", "  delivered", all(self.telemetry.delivered), "messages", 0);
        let skipped = self.telemetry_due - self.telemetry_sent;
        report.figure("telemetry_not_sent", "  due while away", all(skipped), "messages, not sent", 0);
        if self.doubtful > 0 {
            let label = "  lost with a connection";
            report.figure("telemetry_doubtful", label, all(self.doubtful), "messages at QoS 0, legal", 0);
        }
        report.figure("commands_sent", "commands sent", all(self.command_publisher.sent), "messages", 0);
        report.figure("commands_delivered", "  delivered", all(self.commands.delivered), "messages", 0);
        quantiles(
            report,
            &self.commands,
            [
                ("command_p50_ms", "  latency p50", "ms, to connected devices"),
                ("command_p99_ms", "  latency p99", "ms, to connected devices"),
            ],
        );
        report.figure("breaks", "connections broken", all(breaks), "connections", 0);
        report.figure("wills_delivered", "  wills delivered", all(self.wills.delivered), "messages", 0);
        quantiles(
            report,
            &self.wills,
            [
                ("will_p50_ms", "  latency p50", "ms, from the break"),
                ("will_p99_ms", "  latency p99", "ms, from the break"),
            ],
        );
        report.figure("goodbyes", "connections closed normally", all(self.disconnects), "connections", 0);
        report.figure("redelivered", "resent after a break", all(self.redelivered), "messages, legal", 0);
        if self.telemetry.latency.is_empty() {
            report.notes.push("no telemetry was delivered".to_owned());
        } else {
            report.latency = Some(("telemetry, scheduled time to receive", self.telemetry.latency.clone()));
        }
        report.faults = self.faults;
        report.details = std::mem::take(&mut self.details);
    }
}

fn quantiles(
    report: &mut Report,
    kind: &MessageStats,
    rows: [(&'static str, &'static str, &'static str); 2],
) {
    if kind.latency.is_empty() {
        return;
    }
    for ((key, label, unit), at) in rows.into_iter().zip([50.0, 99.0]) {
        report.figure(key, label, kind.latency.value_at_percentile(at) as f64 / 1e6, unit, 3);
    }
}
