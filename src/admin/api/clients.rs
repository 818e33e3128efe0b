//! `/api/v1/clients` and `/api/v1/sessions`: who is connected, whose session waits, one of them in detail, and its end.

use super::params::{Params, page_length};
use super::{AdminState, ApiRefusal, shown_address};
use crate::broker::questions::{
    Answer, ClientDetails, ClientOrder, ClientRank, ClientSubscription, ClientSummary, ClientsPage,
    ClientsQuery, ConnectionSummary, PastEvent, Question,
};
use crate::mqtt::{ProtocolVersion, SubscriptionId};
use crate::session::{LossCause, Losses, NEVER_EXPIRES};
use crate::topic::GrantedOptions;
use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Which clients, and in which order.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ClientsParams {
    /// The beginning of the client identifier.
    #[serde(default)]
    prefix: String,
    /// The user name. Only connected clients have one.
    user: Option<String>,
    /// The listener, as `/api/v1/listeners` shows its address.
    listener: Option<String>,
    /// The IP address of a connected client.
    #[param(value_type = Option<String>)]
    address: Option<IpAddr>,
    /// Whether the client is connected.
    state: Option<ClientState>,
    /// The order.
    #[serde(default)]
    sort: Sort,
    /// The length of a page: 1 to 1,000. 100 if absent.
    limit: Option<usize>,
    /// The value of `next` of the page before.
    after: Option<String>,
}

/// Whether a client is connected.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ClientState {
    Connected,
    Away,
}

/// The order of a list. Numbers fall.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Sort {
    #[default]
    ClientId,
    Messages,
    Bytes,
    /// Messages a second, over one minute.
    Rate,
    Queue,
    Lost,
}

/// A part of the list of clients.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClientList {
    clients: Vec<ShownClient>,
    /// The number of all clients that the filter lets through.
    matching: u64,
    /// The parameter `after` of the next page. Absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A client.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownClient {
    client_id: String,
    connected: bool,
    /// The protocol version of the last connection: "3.1", "3.1.1" or "5.0".
    protocol: &'static str,
    /// The address of the listener that the client used last. Absent if that was before the last restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    /// The Session Expiry Interval. Absent if the session does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_expiry_seconds: Option<u32>,
    /// Whether the session survives a restart of the broker.
    kept: bool,
    subscriptions: usize,
    queued_messages: usize,
    queued_bytes: usize,
    /// Messages that were sent and are not acknowledged.
    inflight_messages: usize,
    /// Messages of QoS 1 and 2 that were lost for the client since it was last told.
    lost_messages: u64,
    /// The connection, if the client is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<ClientConnection>,
}

/// The connection of a client.
#[derive(Debug, Serialize, ToSchema)]
struct ClientConnection {
    /// The address and the port of the client. "unix" for a Unix-domain socket.
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    connected_seconds: u64,
    /// The effective keep alive. 0 if there is none.
    keep_alive_seconds: u16,
    messages_received: u64,
    bytes_received: u64,
    messages_sent: u64,
    bytes_sent: u64,
    /// Messages a second, averaged over one and five minutes.
    received_per_second_1m: f32,
    received_per_second_5m: f32,
    sent_per_second_1m: f32,
    sent_per_second_5m: f32,
    /// Bytes that the client's socket has not taken.
    backlog_bytes: usize,
    /// Why midge does not read from the client at the moment. Empty if it reads.
    paused_by: Vec<&'static str>,
}

/// A client in detail.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClientDetail {
    #[serde(flatten)]
    client: ShownClient,
    /// The first subscriptions, by filter, at most 1,000. `subscriptions` has the number of all.
    subscription_list: Vec<ShownSubscription>,
    losses: LossCounts,
    /// QoS 2 packet identifiers of the client that wait for a PUBREL.
    unreleased_messages: usize,
    /// The Maximum Packet Size of the client. Absent if it has set none.
    #[serde(skip_serializing_if = "Option::is_none")]
    packet_bytes_max: Option<u32>,
    /// Absent without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<ClientTls>,
    #[serde(skip_serializing_if = "Option::is_none")]
    will: Option<Will>,
    /// The last events of the client since the start of the broker, the newest first, at most 32.
    events: Vec<ClientEvent>,
}

/// What TLS tells of a connection.
#[derive(Debug, Serialize, ToSchema)]
struct ClientTls {
    /// "TLS 1.2" or "TLS 1.3".
    version: &'static str,
    cipher_suite: &'static str,
    /// The subject of the client's certificate in the form of RFC 2253. Absent if it has shown none.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_subject: Option<String>,
}

/// Something that has happened to a client.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClientEvent {
    /// When it happened last (RFC 3339).
    at: String,
    /// How often it has happened.
    count: u32,
    /// What has happened.
    what: &'static str,
    /// The rest in words.
    words: String,
}

impl ClientEvent {
    pub(super) fn new(state: &AdminState, event: PastEvent) -> ClientEvent {
        ClientEvent {
            at: state.shown_time(event.last),
            count: event.count,
            what: event.what,
            words: event.words.into(),
        }
    }
}

/// A subscription of a client.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownSubscription {
    pub(super) filter: String,
    /// The options. Absent for a shared subscription, whose options are with its group.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) options: Option<SubscriptionTerms>,
}

/// The options of a subscription.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SubscriptionTerms {
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_id: Option<u32>,
}

/// Messages that were lost for a client since it was last told, by cause.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LossCounts {
    queue_full: u32,
    expired: u32,
    too_large: u32,
    withdrawn: u32,
    /// The time of the first loss, in milliseconds since 1970. Absent if nothing was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_millis: Option<u64>,
    /// The time of the last loss, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_millis: Option<u64>,
}

impl From<Losses> for LossCounts {
    fn from(losses: Losses) -> LossCounts {
        let times = Some(losses.times()).filter(|_| !losses.is_empty());
        LossCounts {
            queue_full: losses.of(LossCause::QueueFull),
            expired: losses.of(LossCause::Expired),
            too_large: losses.of(LossCause::TooLarge),
            withdrawn: losses.of(LossCause::Withdrawn),
            first_millis: times.map(|times| times.first_millis),
            last_millis: times.map(|times| times.last_millis),
        }
    }
}

/// The will of a client, without its payload.
#[derive(Debug, Serialize, ToSchema)]
struct Will {
    topic: String,
    qos: u8,
    retain: bool,
    payload_bytes: usize,
    delay_seconds: u32,
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClientEnd {
    /// Whether the client was connected.
    was_connected: bool,
    /// Whether its session has ended. Without Session Expiry Interval it ends with the connection.
    session_ended: bool,
}

/// What ends.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EndParams {
    /// Whether the session ends too, connected or not.
    #[serde(default)]
    session: bool,
}

/// The clients with a session, connected or not.
#[utoipa::path(get, path = "/api/v1/clients", tag = "clients", params(ClientsParams),
    responses((status = 200, body = ClientList), (status = 400, description = "A parameter is wrong")))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Params(params): Params<ClientsParams>,
) -> Result<Json<ClientList>, ApiRefusal> {
    list_of(&state, params).await
}

/// The sessions whose clients are not connected. The parameters are those of `/api/v1/clients`.
#[utoipa::path(get, path = "/api/v1/sessions", tag = "clients", params(ClientsParams),
    responses((status = 200, body = ClientList), (status = 400, description = "A parameter is wrong")))]
pub(super) async fn list_away(
    State(state): State<Arc<AdminState>>,
    Params(mut params): Params<ClientsParams>,
) -> Result<Json<ClientList>, ApiRefusal> {
    if params.state.is_some() {
        return Err(ApiRefusal::bad(
            "state is for /api/v1/clients: a session in this list has no connection",
        ));
    }
    params.state = Some(ClientState::Away);
    list_of(&state, params).await
}

async fn list_of(state: &AdminState, params: ClientsParams) -> Result<Json<ClientList>, ApiRefusal> {
    let listener = match &params.listener {
        Some(address) => Some(state.listener(address)?),
        None => None,
    };
    let query = ClientsQuery {
        prefix: params.prefix.into(),
        user: params.user.map(Into::into),
        listener,
        address: params.address,
        is_connected: params.state.map(|state| state == ClientState::Connected),
        order: match params.sort {
            Sort::ClientId => ClientOrder::ClientId,
            Sort::Messages => ClientOrder::Messages,
            Sort::Bytes => ClientOrder::Bytes,
            Sort::Rate => ClientOrder::Rate,
            Sort::Queue => ClientOrder::Queue,
            Sort::Lost => ClientOrder::Lost,
        },
        after: params.after.as_deref().map(rank).transpose()?,
        count: page_length(params.limit)?,
    };
    let answers = state.ask_every(|| Question::Clients(Box::new(query.clone()))).await?;
    let pages = answers.into_iter().filter_map(|answer| match answer {
        Answer::Clients(page) => Some(page),
        _ => None,
    });
    let ClientsPage { clients, matching } = ClientsPage::merge(pages, query.count);
    let is_full = clients.len() == query.count;
    let next =
        clients.last().filter(|_| is_full).map(|(rank, _)| format!("{}:{}", rank.number.0, rank.client_id));
    let clients = clients.into_iter().map(|(rank, summary)| client(state, rank.client_id, summary)).collect();
    Ok(Json(ClientList { clients, matching, next }))
}

/// Reads the parameter `after`: a number, a colon and a client identifier.
fn rank(after: &str) -> Result<ClientRank, ApiRefusal> {
    let parts = after.split_once(':').and_then(|(number, client_id)| Some((number.parse().ok()?, client_id)));
    let (number, client_id) =
        parts.ok_or_else(|| ApiRefusal::bad("after must be the value of next of the page before"))?;
    Ok(ClientRank { number: Reverse(number), client_id: client_id.into() })
}

/// One client in detail.
#[utoipa::path(get, path = "/api/v1/clients/{client_id}", tag = "clients",
    params(("client_id" = String, Path, description = "The client identifier, percent-encoded")),
    responses((status = 200, body = ClientDetail), (status = 404, description = "There is no such session")))]
pub(super) async fn show(
    State(state): State<Arc<AdminState>>,
    Path(client_id): Path<String>,
) -> Result<Json<ClientDetail>, ApiRefusal> {
    match state.ask_home(&client_id, Question::Client(client_id.as_str().into())).await? {
        Answer::Client(Some(details)) => Ok(Json(detail(&state, client_id.into(), *details))),
        _ => Err(ApiRefusal::missing(format!("there is no session of a client \"{client_id}\""))),
    }
}

/// Disconnects a client. A 5.0 client is told 0x98, "Administrative action".
#[utoipa::path(delete, path = "/api/v1/clients/{client_id}", tag = "clients",
    params(("client_id" = String, Path, description = "The client identifier, percent-encoded"), EndParams),
    responses((status = 200, body = ClientEnd), (status = 404, description = "There is no such session")))]
pub(super) async fn end(
    State(state): State<Arc<AdminState>>,
    Path(client_id): Path<String>,
    Params(params): Params<EndParams>,
) -> Result<Json<ClientEnd>, ApiRefusal> {
    let question =
        Question::Disconnect { client_id: client_id.as_str().into(), ends_session: params.session };
    match state.ask_home(&client_id, question).await? {
        Answer::Disconnect(done) if done.was_connected || done.has_session_ended => {
            tracing::info!(
                client = client_id,
                was_connected = done.was_connected,
                session_ended = done.has_session_ended,
                "an operator has ended a client's connection or session"
            );
            Ok(Json(ClientEnd { was_connected: done.was_connected, session_ended: done.has_session_ended }))
        }
        // It is away, and its session should stay.
        Answer::Disconnect(_) => Err(ApiRefusal::missing(format!("no client \"{client_id}\" is connected"))),
        other => Err(ApiRefusal::unexpected(&other)),
    }
}

fn client(state: &AdminState, client_id: Box<str>, summary: ClientSummary) -> ShownClient {
    ShownClient {
        client_id: client_id.into(),
        connected: summary.connection.is_some(),
        protocol: match summary.version {
            ProtocolVersion::V31 => "3.1",
            ProtocolVersion::V311 => "3.1.1",
            ProtocolVersion::V5 => "5.0",
        },
        listener: summary.listener.and_then(|listener| state.address_of(listener)),
        session_expiry_seconds: (summary.expiry_seconds != NEVER_EXPIRES).then_some(summary.expiry_seconds),
        kept: summary.is_kept,
        subscriptions: summary.subscriptions,
        queued_messages: summary.queued,
        queued_bytes: summary.queued_bytes,
        inflight_messages: summary.inflight,
        lost_messages: summary.lost,
        connection: summary.connection.map(connection),
    }
}

fn connection(summary: ConnectionSummary) -> ClientConnection {
    ClientConnection {
        peer: shown_address(summary.peer),
        user: summary.user.map(Into::into),
        connected_seconds: summary.seconds,
        keep_alive_seconds: summary.keep_alive_seconds,
        messages_received: summary.messages_in,
        bytes_received: summary.bytes_in,
        messages_sent: summary.messages_out,
        bytes_sent: summary.bytes_out,
        received_per_second_1m: summary.load.received_1,
        received_per_second_5m: summary.load.received_5,
        sent_per_second_1m: summary.load.sent_1,
        sent_per_second_5m: summary.load.sent_5,
        backlog_bytes: summary.backlog_bytes,
        paused_by: summary.paused_by,
    }
}

fn detail(state: &AdminState, client_id: Box<str>, details: ClientDetails) -> ClientDetail {
    ClientDetail {
        client: client(state, client_id, details.summary),
        subscription_list: details.subscriptions.into_iter().map(subscription).collect(),
        losses: LossCounts::from(details.losses),
        unreleased_messages: details.held,
        packet_bytes_max: details.packet_bytes_max,
        tls: details.security.map(|security| ClientTls {
            version: security.version,
            cipher_suite: security.cipher_suite,
            certificate_subject: security.certificate_subject.map(Into::into),
        }),
        will: details.will.map(|will| Will {
            topic: will.topic.into(),
            qos: will.qos as u8,
            retain: will.retain,
            payload_bytes: will.payload_bytes,
            delay_seconds: will.delay_seconds,
        }),
        events: details.events.into_iter().map(|event| ClientEvent::new(state, event)).collect(),
    }
}

fn subscription(subscription: ClientSubscription) -> ShownSubscription {
    ShownSubscription {
        filter: subscription.filter.into(),
        options: subscription.granted.map(SubscriptionTerms::from),
    }
}

impl From<GrantedOptions> for SubscriptionTerms {
    fn from(granted: GrantedOptions) -> SubscriptionTerms {
        SubscriptionTerms {
            qos: granted.qos as u8,
            no_local: granted.no_local,
            retain_as_published: granted.retain_as_published,
            subscription_id: granted.subscription_id.map(SubscriptionId::get),
        }
    }
}
