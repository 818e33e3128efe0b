//! `/metrics`: the counters of the shards, of the admin interface and of the process, as OpenMetrics text.
//!
//! Names follow Prometheus: the unit at the end in base units, then `_total` for what only rises. The encoder adds the
//! latter. A name has no label in it.

mod families;
mod kinds;
mod process;

use super::access::SharedAccess;
use super::api::AdminState;
use super::limits::AdminEvent;
use crate::broker::questions::ShardFigures;
use crate::broker::{Counter, Counters};
use families::{FAMILIES, Family, Kind};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) use process::thread_seconds;

/// The media type of the text.
pub(super) const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text.
///
/// # Errors
/// The encoder fails.
pub(super) fn text(state: &Arc<AdminState>, figures: Vec<ShardFigures>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot { state: Arc::clone(state), figures }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// Reads the counters when it is encoded.
struct Snapshot {
    state: Arc<AdminState>,
    /// What the shards have answered. Empty if not all have: what depends on it is left out then.
    figures: Vec<ShardFigures>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot")
    }
}

/// The sum of a counter over the shards. A shard may have subtracted what another one has added.
pub(super) fn sum(counters: &[Counters], counter: Counter) -> u64 {
    counters.iter().fold(0, |sum, shard| sum.wrapping_add(shard.get(counter)))
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut page = Page(encoder);
        self.write_broker(&mut page)?;
        for family in FAMILIES {
            self.write_family(&mut page, family)?;
        }
        self.write_kinds(&mut page)?;
        self.write_logins(&mut page)?;
        self.write_log(&mut page)?;
        self.write_shards(&mut page)?;
        self.write_listeners(&mut page)?;
        self.write_admin(&mut page)?;
        process::write(&mut page)
    }
}

impl Snapshot {
    fn write_broker(&self, page: &mut Page<'_>) -> fmt::Result {
        let parts = &self.state.parts;
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        build.encode(page.descriptor("midge_build", "The version of midge", MetricType::Info)?)?;
        page.gauge("midge_shards", "Shards", number_of(parts.questions.shards()))?;
        let control = &parts.control;
        let open = control.open.load(Ordering::Relaxed);
        page.gauge("midge_connections", "Connections that are open", number_of(open))?;
        let connections_max = number_of(control.connections_max());
        page.gauge("midge_connections_max", "The limit on connections", connections_max)?;
        let settings = control.settings();
        let memory_max = settings.memory_bytes_max();
        if memory_max < usize::MAX {
            let max = number_of(memory_max);
            page.gauge("midge_memory_max_bytes", "The limit on what clients make midge keep", max)?;
        }
        let limits = &settings.config.limits;
        for (name, help, max) in [
            ("midge_sessions_max", "The limit on sessions", limits.sessions),
            ("midge_subscriptions_max", "The limit on subscriptions", limits.subscriptions_total),
            ("midge_queued_max_bytes", "The limit on bytes in queues", limits.queue_bytes_total),
            ("midge_retained_messages_max", "The limit on retained messages", limits.retained_messages),
            ("midge_retained_max_bytes", "The limit on bytes of retained messages", limits.retained_bytes),
        ] {
            page.gauge(name, help, number_of(max))?;
        }
        let of_all = |counter| sum(&parts.shared.counters, counter);
        let away = of_all(Counter::Sessions).saturating_sub(of_all(Counter::ClientsConnected));
        page.gauge("midge_sessions_away", "Sessions whose clients are not connected", away)?;
        let reloads = &control.reloads;
        let help = "Reloads of the configuration";
        let mut encoder = page.descriptor("midge_config_reloads", help, MetricType::Counter)?;
        for (result, count) in [("good", &reloads.good), ("failed", &reloads.failed)] {
            let count = count.load(Ordering::Relaxed);
            Kind::Counter.write(count, &mut encoder.encode_family(&[("result", result)])?)?;
        }
        let has_failed = u64::from(reloads.has_failed.load(Ordering::Relaxed));
        page.gauge(
            "midge_config_last_reload_failed",
            "1 if the last reload has changed nothing",
            has_failed,
        )?;
        let drains = u64::from(control.drains.load(Ordering::Relaxed));
        page.gauge("midge_draining", "1 while an operator lets all clients go", drains)?;
        Ok(())
    }

    fn write_family(&self, page: &mut Page<'_>, family: &Family) -> fmt::Result {
        let counters = &self.state.parts.shared.counters;
        let mut encoder = page.descriptor(family.name, family.help, family.kind.metric_type())?;
        let Some(label) = family.label else {
            return family.members.iter().try_for_each(|(_, counter)| {
                let value = sum(counters, *counter);
                family.kind.write(value, &mut encoder)
            });
        };
        let mut named = 0u64;
        for (value, counter) in family.members {
            let count = sum(counters, *counter);
            named = named.wrapping_add(count);
            family.kind.write(count, &mut encoder.encode_family(&[(label, *value)])?)?;
        }
        if let Some(all) = family.all {
            let other = sum(counters, all).saturating_sub(named);
            family.kind.write(other, &mut encoder.encode_family(&[(label, "other")])?)?;
        }
        Ok(())
    }

    /// What tells whether the load is spread evenly.
    fn write_shards(&self, page: &mut Page<'_>) -> fmt::Result {
        let threads = self.state.parts.control.threads.iter().map(|thread| thread.load(Ordering::Relaxed));
        let busy: Vec<(String, f64)> = (0..self.state.parts.questions.shards())
            .zip(threads)
            .filter_map(|(shard, thread)| Some((shard.to_string(), process::thread_seconds(thread)?)))
            .collect();
        if !busy.is_empty() {
            let help = "Processor time of a shard, of itself and of the kernel for it";
            let mut encoder = page.descriptor("midge_shard_busy_seconds", help, MetricType::Counter)?;
            for (shard, seconds) in busy {
                let label = [("shard", shard)];
                ConstCounter::new(seconds).encode(encoder.encode_family(&label)?)?;
            }
        }
        for family in families::OF_SHARDS {
            let mut encoder = page.descriptor(family.name, family.help, family.kind.metric_type())?;
            for (shard, counters) in self.state.parts.shared.counters.iter().enumerate() {
                let shard = shard.to_string();
                for (_, counter) in family.members {
                    let label = [("shard", shard.as_str())];
                    family.kind.write(counters.get(*counter), &mut encoder.encode_family(&label)?)?;
                }
            }
        }
        Ok(())
    }

    /// The connections and certificates of each listener.
    fn write_listeners(&self, page: &mut Page<'_>) -> fmt::Result {
        let parts = &self.state.parts;
        let settings = parts.control.settings();
        let open = settings.open_listeners();
        let listeners = || open.iter().filter_map(|&number| Some((number, settings.listener(number)?)));
        let help = "Connections of a listener";
        let mut encoder = page.descriptor("midge_listener_connections", help, MetricType::Gauge)?;
        for (number, listener) in listeners() {
            let label = [("listener", listener.address.to_string())];
            let open = number_of(parts.control.open_of(number));
            Kind::Gauge.write(open, &mut encoder.encode_family(&label)?)?;
        }
        if listeners().any(|(_, listener)| listener.connections.is_some()) {
            let help = "The limit on connections of a listener";
            let mut encoder = page.descriptor("midge_listener_connections_max", help, MetricType::Gauge)?;
            for (_, listener) in listeners() {
                let Some(max) = listener.connections else { continue };
                let label = [("listener", listener.address.to_string())];
                Kind::Gauge.write(number_of(max), &mut encoder.encode_family(&label)?)?;
            }
        }
        let access = self.state.access.as_ref().map(SharedAccess::current);
        let of_admin = access.into_iter().flat_map(|access| access.certificates());
        let certificates: Vec<_> = listeners()
            .flat_map(|(number, listener)| {
                let address = listener.address.to_string();
                parts.control.certificates(number).into_iter().map(move |own| (address.clone(), own))
            })
            .chain(of_admin.map(|own| ("admin".to_owned(), own)))
            .collect();
        if certificates.is_empty() {
            return Ok(());
        }
        let help = "The end of a certificate, in seconds since 1970";
        let name = "midge_certificate_expiry_timestamp_seconds";
        let mut encoder = page.descriptor(name, help, MetricType::Gauge)?;
        for (listener, own) in certificates {
            let labels = [("listener", listener), ("file", own.file.display().to_string())];
            encoder.encode_family(&labels)?.encode_gauge(&own.not_after)?;
        }
        Ok(())
    }

    fn write_admin(&self, page: &mut Page<'_>) -> fmt::Result {
        let counts = &self.state.counts;
        let open = counts.open.load(Ordering::Relaxed);
        page.gauge("midge_admin_connections", "Connections to the admin interface", number_of(open))?;
        let requests = counts.requests.load(Ordering::Relaxed);
        page.counter("midge_admin_requests", "Requests to the admin interface", requests)?;
        let failed = counts.count(AdminEvent::LoginFailed);
        page.counter("midge_admin_logins_failed", "Requests without a known token", failed)?;
        let failed = counts.count(AdminEvent::TlsFailed);
        page.counter("midge_admin_tls_handshakes_failed", "TLS handshakes that have failed there", failed)?;
        let forbidden = counts.count(AdminEvent::Forbidden);
        page.counter("midge_admin_requests_forbidden", "Requests that their sender may not make", forbidden)?;
        let failed = counts.count(AdminEvent::AcceptFailed);
        page.counter("midge_admin_accepts_failed", "Connections that could not be accepted", failed)?;
        let help = "How often a limit of the admin interface was reached";
        let mut encoder = page.descriptor("midge_admin_limit_reached", help, MetricType::Counter)?;
        for (limit, name) in AdminEvent::LIMITS {
            Kind::Counter.write(counts.count(limit), &mut encoder.encode_family(&[("limit", name)])?)?;
        }
        Ok(())
    }
}

/// Writes families one after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn descriptor<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        Kind::Gauge.write(value, &mut self.descriptor(name, help, MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        Kind::Counter.write(value, &mut self.descriptor(name, help, MetricType::Counter)?)
    }

    /// A number that is no integer.
    fn fraction(&mut self, name: &str, help: &str, kind: Kind, value: f64) -> fmt::Result {
        let encoder = self.descriptor(name, help, kind.metric_type())?;
        match kind {
            Kind::Counter => ConstCounter::new(value).encode(encoder),
            Kind::Gauge => ConstGauge::new(value).encode(encoder),
        }
    }
}

fn number_of(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

impl Kind {
    fn metric_type(self) -> MetricType {
        match self {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        }
    }

    fn write(self, value: u64, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match self {
            Kind::Counter => encoder.encode_counter::<[(&str, &str); 0], u64, u64>(&value, None),
            // A gauge is a sum to which shards add and from which they subtract at slightly different times.
            Kind::Gauge => encoder.encode_gauge(&value.cast_signed()),
        }
    }
}
