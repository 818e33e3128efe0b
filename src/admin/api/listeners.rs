//! `/api/v1/listeners`, `/api/v1/limits` and `/api/v1/bans`: where clients come in, and what keeps them out.

use super::params::JsonBody;
use super::{AdminState, ApiRefusal};
use crate::broker::Counter;
use crate::broker::questions::{Answer, Question};
use crate::policy::address_gate::counted_with;
use crate::settings::ListenerProtocol;
use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use utoipa::ToSchema;

const DAY_SECONDS: i64 = 86_400;

/// The listeners.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ListenerList {
    listeners: Vec<Listener>,
}

/// A listener.
#[derive(Debug, Serialize, ToSchema)]
struct Listener {
    /// The address as it is configured.
    address: String,
    /// "mqtt" or "websocket".
    protocol: &'static str,
    tls: bool,
    /// Connections that are open, those that are still being admitted included.
    connections: usize,
    /// The bound of the listener's own. Absent if only `limits.connections` bounds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    connections_max: Option<usize>,
    certificates: Vec<Certificate>,
}

/// A certificate that midge shows to clients.
#[derive(Debug, Serialize, ToSchema)]
struct Certificate {
    file: String,
    subject: String,
    serial: String,
    /// Seconds since 1970.
    not_before: i64,
    /// Seconds since 1970.
    not_after: i64,
    /// Whole days until it ends. Negative if it has ended.
    days_left: i64,
}

/// The listeners with their connections and certificates.
#[utoipa::path(get, path = "/api/v1/listeners", tag = "broker", responses((status = 200, body = ListenerList)))]
pub(super) async fn list(State(state): State<Arc<AdminState>>) -> Result<Json<ListenerList>, ApiRefusal> {
    let mut connections: Vec<usize> = Vec::new();
    for answer in state.ask_every(|| Question::Shard).await? {
        let Answer::Shard(figures) = answer else { continue };
        let missing = figures.connections_by_listener.len().saturating_sub(connections.len());
        connections.extend(std::iter::repeat_n(0, missing));
        for (sum, more) in connections.iter_mut().zip(figures.connections_by_listener) {
            *sum += more;
        }
    }
    let now = unix_seconds();
    let settings = state.parts.control.settings();
    let open = settings.open_listeners().iter();
    let open = open.filter_map(|&number| Some((number, settings.listener(number)?)));
    let listeners = open.map(|(number, listener)| Listener {
        address: listener.address.to_string(),
        protocol: match listener.protocol {
            ListenerProtocol::WebSocket => "websocket",
            ListenerProtocol::Mqtt => "mqtt",
        },
        tls: !listener.tls_certificates.is_empty(),
        connections: connections.get(usize::from(number)).copied().unwrap_or(0),
        connections_max: listener.connections,
        certificates: state
            .parts
            .control
            .certificates(number)
            .into_iter()
            .map(|certificate| Certificate {
                file: certificate.file.display().to_string(),
                days_left: (certificate.not_after - now).div_euclid(DAY_SECONDS),
                subject: certificate.subject,
                serial: certificate.serial,
                not_before: certificate.not_before,
                not_after: certificate.not_after,
            })
            .collect(),
    });
    Ok(Json(ListenerList { listeners: listeners.collect() }))
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The limits.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LimitList {
    limits: Vec<LimitState>,
}

/// A limit.
#[derive(Debug, Serialize, ToSchema)]
struct LimitState {
    /// The key in the configuration.
    key: &'static str,
    /// The value in force. Absent if there is no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<u64>,
    /// How much of it is used now. Absent if the limit is not about the broker as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<u64>,
    /// How often it was reached since the start. Limits of one kind share a count.
    reached: u64,
}

/// The limits with their values, their use and how often they were reached.
#[utoipa::path(get, path = "/api/v1/limits", tag = "broker", responses((status = 200, body = LimitList)))]
pub(super) async fn limits(State(state): State<Arc<AdminState>>) -> Json<LimitList> {
    let parts = &state.parts;
    let settings = parts.control.settings();
    let (limits, runtime, persistence) =
        (&settings.config.limits, &settings.config.runtime, &settings.config.persistence);
    let sum = |counter| parts.shared.counters.iter().map(|counters| counters.get(counter)).sum::<u64>();
    let used = |counter| Some(sum(counter));
    let bound = |value: usize| Some(value as u64).filter(|&value| value != usize::MAX as u64);
    let open = parts.control.open.load(Ordering::Relaxed) as u64;
    let rows = [
        ("limits.connections", bound(parts.control.connections_max()), Some(open), Counter::LimitConnections),
        ("limits.handshakes", bound(limits.handshakes), None, Counter::LimitHandshakes),
        (
            "limits.handshakes_per_address",
            bound(limits.handshakes_per_address),
            None,
            Counter::LimitHandshakesPerAddress,
        ),
        ("limits.connect_seconds", Some(limits.connect_seconds.into()), None, Counter::LimitConnectSeconds),
        ("limits.connect_bytes", bound(limits.connect_bytes), None, Counter::LimitConnectBytes),
        ("limits.packet_bytes", bound(limits.packet_bytes), None, Counter::LimitPacketBytes),
        ("limits.sessions", bound(limits.sessions), used(Counter::Sessions), Counter::LimitSessions),
        (
            "limits.subscriptions_total",
            bound(limits.subscriptions_total),
            used(Counter::Subscriptions),
            Counter::LimitSubscriptions,
        ),
        (
            "limits.subscriptions_per_client",
            bound(limits.subscriptions_per_client),
            None,
            Counter::LimitSubscriptions,
        ),
        ("limits.topic_levels", bound(limits.topic_levels), None, Counter::LimitTopicLevels),
        (
            "limits.retained_messages",
            bound(limits.retained_messages),
            used(Counter::Retained),
            Counter::LimitRetained,
        ),
        (
            "limits.retained_bytes",
            bound(limits.retained_bytes),
            used(Counter::RetainedBytes),
            Counter::LimitRetained,
        ),
        (
            "limits.queue_bytes_total",
            bound(limits.queue_bytes_total),
            used(Counter::BytesQueued),
            Counter::DroppedQueueFull,
        ),
        (
            "limits.session_queue_messages",
            bound(limits.session_queue_messages),
            None,
            Counter::DroppedQueueFull,
        ),
        ("limits.session_queue_bytes", bound(limits.session_queue_bytes), None, Counter::DroppedQueueFull),
        ("limits.backlog_bytes", bound(limits.backlog_bytes), None, Counter::LimitBacklog),
        (
            "limits.memory_bytes",
            bound(settings.memory_bytes_max()),
            used(Counter::MemoryTotal),
            Counter::LimitMemory,
        ),
        ("runtime.mesh_capacity", bound(runtime.mesh_capacity), None, Counter::LimitMesh),
        ("persistence.log_bytes", bound(persistence.log_bytes), None, Counter::LimitLogBytes),
    ];
    let limits =
        rows.map(|(key, value, used, reached)| LimitState { key, value, used, reached: sum(reached) });
    Json(LimitList { limits: limits.into() })
}

/// The banned addresses.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BanList {
    bans: Vec<Banned>,
}

/// A banned address.
#[derive(Debug, Serialize, ToSchema)]
struct Banned {
    /// The address, or the network of IPv6 that counts as one.
    network: String,
    /// Absent if it does not end by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
}

/// The bans, without those of `gate.banned`.
#[utoipa::path(get, path = "/api/v1/bans", tag = "broker", responses((status = 200, body = BanList)))]
pub(super) async fn bans(State(state): State<Arc<AdminState>>) -> Json<BanList> {
    let now = state.parts.now();
    let mut bans: Vec<Banned> = state
        .parts
        .control
        .bans(now)
        .into_iter()
        .map(|ban| Banned {
            network: ban.network.to_string(),
            seconds_left: (ban.until_millis != u64::MAX)
                .then(|| ban.until_millis.saturating_sub(now.as_micros() / 1000).div_ceil(1000)),
        })
        .collect();
    bans.sort_by(|one, other| one.network.cmp(&other.network));
    Json(BanList { bans })
}

/// An address to ban.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBan {
    #[schema(value_type = String)]
    address: IpAddr,
    /// How long. Without it the ban stays until it is removed or midge stops.
    seconds: Option<u32>,
}

/// Bans an address: new connections are closed. Open ones stay.
#[utoipa::path(post, path = "/api/v1/bans", tag = "broker", request_body = NewBan,
    responses((status = 200, body = BanList), (status = 400, description = "gate.exempt protects the address")))]
pub(super) async fn ban(
    State(state): State<Arc<AdminState>>,
    JsonBody(new): JsonBody<NewBan>,
) -> Result<Json<BanList>, ApiRefusal> {
    if !state.parts.control.ban(state.parts.now(), new.address, new.seconds) {
        return Err(ApiRefusal::bad(format!("gate.exempt protects {}", new.address)));
    }
    tracing::info!(address = %counted_with(new.address), seconds = new.seconds, "an operator has banned an address");
    Ok(bans(State(state)).await)
}

/// Ends the ban of an address.
#[utoipa::path(delete, path = "/api/v1/bans/{address}", tag = "broker",
    params(("address" = String, Path, description = "The IP address")),
    responses((status = 200, body = BanList), (status = 404, description = "It is not banned")))]
pub(super) async fn unban(
    State(state): State<Arc<AdminState>>,
    Path(address): Path<String>,
) -> Result<Json<BanList>, ApiRefusal> {
    let parsed: IpAddr =
        address.parse().map_err(|_| ApiRefusal::bad(format!("\"{address}\" is not an IP address")))?;
    if !state.parts.control.unban(state.parts.now(), parsed) {
        return Err(ApiRefusal::missing(format!("{address} is not banned, or by gate.banned")));
    }
    tracing::info!(address = %counted_with(parsed), "an operator has ended a ban");
    Ok(bans(State(state)).await)
}
