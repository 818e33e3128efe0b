//! The metrics that count by kind: packets by type, messages by QoS, ends and refusals by reason, times.

use super::{Kind, Page, Snapshot, number_of};
use crate::broker::{Counter, EndCause, HANDSHAKES, HISTOGRAM_MICROS, Histogram, KindCounters};
use crate::control::login_counts::{LOGIN_RESULTS, LoginMethod};
use crate::host::SealedSegments;
use crate::mqtt::Reason;
use prometheus_client::encoding::MetricEncoder;
use prometheus_client::metrics::MetricType;
use std::fmt;

/// The number of PUBLISH among the types of packets.
const PUBLISH: usize = 3;

/// What clients send, by the number of the type, and its label.
const FROM_CLIENTS: [(usize, &str); 11] = [
    (1, "connect"),
    (PUBLISH, "publish"),
    (4, "puback"),
    (5, "pubrec"),
    (6, "pubrel"),
    (7, "pubcomp"),
    (8, "subscribe"),
    (10, "unsubscribe"),
    (12, "pingreq"),
    (14, "disconnect"),
    (15, "auth"),
];

/// What clients get.
const TO_CLIENTS: [(usize, &str); 11] = [
    (2, "connack"),
    (PUBLISH, "publish"),
    (4, "puback"),
    (5, "pubrec"),
    (6, "pubrel"),
    (7, "pubcomp"),
    (9, "suback"),
    (11, "unsuback"),
    (13, "pingresp"),
    (14, "disconnect"),
    (15, "auth"),
];

/// Reasons that are shown even if they were never given, so that the first time is seen as a rise.
const CONNECT_REASONS: [Reason; 9] = [
    Reason::MalformedPacket,
    Reason::ProtocolError,
    Reason::UnsupportedProtocolVersion,
    Reason::ClientIdentifierNotValid,
    Reason::NotAuthorized,
    Reason::ServerUnavailable,
    Reason::ServerBusy,
    Reason::PacketTooLarge,
    Reason::QuotaExceeded,
];
const PUBLISH_REASONS: [Reason; 5] = [
    Reason::NotAuthorized,
    Reason::TopicNameInvalid,
    Reason::PacketTooLarge,
    Reason::QuotaExceeded,
    Reason::ImplementationSpecificError,
];

impl Snapshot {
    pub(super) fn write_kinds(&self, page: &mut Page<'_>) -> fmt::Result {
        let ended = EndCause::LABELS.into_iter().enumerate();
        let ended = ended.map(|(place, reason)| (reason.into(), self.sum(|kinds| kinds.ended.get(place))));
        let help = "Connections that have ended after they were admitted, by cause";
        family(page, "midge_connections_ended", help, "reason", ended)?;
        let refused = self.by_reason(&CONNECT_REASONS, |kinds, code| kinds.refused.get(code));
        family(page, "midge_connects_refused", "CONNECT packets refused", "reason", refused)?;
        let received = FROM_CLIENTS.into_iter();
        let received = received
            .map(|(kind, name)| (name.to_owned(), self.sum(|kinds| kinds.packets_received.get(kind))));
        family(page, "midge_packets_received", "Control packets received", "type", received)?;
        let sent = TO_CLIENTS.into_iter().map(|(kind, name)| {
            let of_kind = |kinds: &KindCounters| match kind {
                PUBLISH => kinds.publishes_sent.sum(),
                other => kinds.packets_sent.get(other),
            };
            (name.to_owned(), self.sum(of_kind))
        });
        family(page, "midge_packets_sent", "Control packets sent", "type", sent)?;
        let by_qos = |of: fn(&KindCounters, usize) -> u64| {
            (0..3).map(move |qos| (qos.to_string(), self.sum(|kinds| of(kinds, qos))))
        };
        let received = by_qos(|kinds, qos| kinds.publishes_received.get(qos));
        family(page, "midge_messages_received", "PUBLISH packets received", "qos", received)?;
        let sent = by_qos(|kinds, qos| kinds.publishes_sent.get(qos));
        family(page, "midge_messages_sent", "PUBLISH packets sent", "qos", sent)?;
        let refused = self.by_reason(&PUBLISH_REASONS, |kinds, code| kinds.publishes_refused.get(code));
        family(page, "midge_messages_refused", "PUBLISH packets refused", "reason", refused)?;
        let receive = super::sum(&self.state.parts.shared.counters, Counter::DroppedDenied);
        let denied = [
            ("publish".to_owned(), self.sum(|kinds| kinds.denied.get(0))),
            ("subscribe".to_owned(), self.sum(|kinds| kinds.denied.get(1))),
            ("receive".to_owned(), receive),
        ];
        family(page, "midge_acl_denials", "What access lists have denied", "action", denied.into_iter())?;
        self.write_handshakes(page)?;
        let help = "From the turn with the last packet of a handshake to that with CONNACK, with the login and the disk";
        self.write_histogram(page, "midge_connack_seconds", help, |kinds| &kinds.connack)?;
        let help = "From the beginning of a write of the log to its end";
        self.write_histogram(page, "midge_log_commit_seconds", help, |kinds| &kinds.commit)
    }

    fn write_handshakes(&self, page: &mut Page<'_>) -> fmt::Result {
        let name = "midge_tls_handshakes";
        let mut encoder = page.descriptor(name, "TLS handshakes", MetricType::Counter)?;
        for (place, (version, is_resumed)) in HANDSHAKES.into_iter().enumerate() {
            let resumed = if is_resumed { "true" } else { "false" };
            let labels = [("version", version), ("resumed", resumed), ("result", "good")];
            let count = self.sum(|kinds| kinds.handshakes.get(place));
            Kind::Counter.write(count, &mut encoder.encode_family(&labels)?)?;
        }
        let labels = [("version", "unknown"), ("resumed", "false"), ("result", "failed")];
        let failed = self.sum(|kinds| kinds.handshakes_failed.get(0));
        Kind::Counter.write(failed, &mut encoder.encode_family(&labels)?)
    }

    pub(super) fn write_logins(&self, page: &mut Page<'_>) -> fmt::Result {
        let logins = &self.state.parts.logins;
        let help = "Logins that were checked, by the proof that decided";
        let mut encoder = page.descriptor("midge_logins", help, MetricType::Counter)?;
        for (method, name) in LoginMethod::ALL {
            for (result, count) in LOGIN_RESULTS.into_iter().zip(logins.results(method)) {
                let labels = [("method", name), ("result", result)];
                Kind::Counter.write(count, &mut encoder.encode_family(&labels)?)?;
            }
        }
        for (place, result) in ["good", "bad"].into_iter().enumerate() {
            let labels = [("method", "enhanced"), ("result", result)];
            let count = self.sum(|kinds| kinds.exchanges.get(place));
            Kind::Counter.write(count, &mut encoder.encode_family(&labels)?)?;
        }
        let help = "How long the check of a login has taken, with the wait for a thread";
        let mut encoder = page.descriptor("midge_login_seconds", help, MetricType::Histogram)?;
        for (method, name) in LoginMethod::ALL {
            let (counts, sum_micros) = logins.times(method);
            write_buckets(&mut encoder.encode_family(&[("method", name)])?, &counts, sum_micros)?;
        }
        Ok(())
    }

    /// The log of the broker's state, and that for people.
    pub(super) fn write_log(&self, page: &mut Page<'_>) -> fmt::Result {
        let parts = &self.state.parts;
        if let Some(checkpoint) = &parts.checkpoint {
            let bytes = SealedSegments::log_bytes(checkpoint);
            let help = "Bytes of full segments of the log that are not in the checkpoint yet";
            page.gauge("midge_log_bytes", help, bytes)?;
            let max = number_of(parts.control.settings().config.persistence.log_bytes);
            page.gauge("midge_log_max_bytes", "The limit on these bytes", max)?;
        }
        if !self.figures.is_empty() {
            let failed = self.figures.iter().filter(|figures| figures.has_log_failed).count();
            let help = "Shards whose log has failed, so that they acknowledge nothing that must be kept";
            page.gauge("midge_log_failed_shards", help, number_of(failed))?;
            let waiting = self.figures.iter().map(|figures| figures.journal_bytes).sum();
            page.gauge("midge_log_waiting_bytes", "Bytes that wait to be written", number_of(waiting))?;
        }
        let help = "Lines of the log for people that were dropped because too many waited";
        page.counter("midge_log_lines_dropped", help, (parts.log_lines)())
    }

    /// The sum over the shards.
    fn sum(&self, of: impl Fn(&KindCounters) -> u64) -> u64 {
        let counters = self.state.parts.shared.counters.iter();
        counters.fold(0, |sum, shard| sum.wrapping_add(of(&shard.kinds)))
    }

    /// The counts of the reasons that were given, and of some others.
    fn by_reason(
        &self,
        always: &'static [Reason],
        of: fn(&KindCounters, usize) -> u64,
    ) -> impl Iterator<Item = (String, u64)> {
        (0..=u8::MAX).filter_map(Reason::from_code).filter_map(move |reason| {
            let count = self.sum(|kinds| of(kinds, usize::from(reason.code())));
            (count > 0 || always.contains(&reason)).then(|| (reason.words().replace([' ', '-'], "_"), count))
        })
    }

    fn write_histogram(
        &self,
        page: &mut Page<'_>,
        name: &str,
        help: &str,
        of: fn(&KindCounters) -> &Histogram,
    ) -> fmt::Result {
        let mut counts = [0; HISTOGRAM_MICROS.len() + 1];
        let mut sum_micros = 0u64;
        for shard in &self.state.parts.shared.counters {
            let (of_shard, micros) = of(&shard.kinds).read();
            for (sum, count) in counts.iter_mut().zip(of_shard) {
                *sum += count;
            }
            sum_micros += micros;
        }
        write_buckets(&mut page.descriptor(name, help, MetricType::Histogram)?, &counts, sum_micros)
    }
}

fn write_buckets(
    encoder: &mut MetricEncoder<'_>,
    counts: &[u64; HISTOGRAM_MICROS.len() + 1],
    sum_micros: u64,
) -> fmt::Result {
    let bounds = HISTOGRAM_MICROS.into_iter().map(|micros| micros as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
    let (sum, count) = (sum_micros as f64 / 1e6, counts.iter().sum());
    encoder.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)
}

/// Writes a counter with one label.
fn family(
    page: &mut Page<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    members: impl Iterator<Item = (String, u64)>,
) -> fmt::Result {
    let mut encoder = page.descriptor(name, help, MetricType::Counter)?;
    for (value, count) in members {
        Kind::Counter.write(count, &mut encoder.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}
