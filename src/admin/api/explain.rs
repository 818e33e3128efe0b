//! `/api/v1/explain`: whether a client could connect, or would get a message, and why not.

use super::clients::{ClientEvent, LossCounts};
use super::params::Params;
use super::{AdminState, ApiRefusal};
use crate::broker::explain::{ConnectCase, DeliveryCase, Finding, FindingLine, Findings};
use crate::broker::questions::{Answer, Question};
use crate::mqtt::{ProtocolVersion, QoS, check_topic_name};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use utoipa::{IntoParams, ToSchema};

/// The number of shared subscriptions whose homes are asked.
const GROUPS_ASKED: usize = 10;

/// A login.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ConnectParams {
    /// The client identifier. Without it midge would assign one.
    #[serde(default)]
    client: String,
    /// The user name. Without it the client has none.
    user: Option<String>,
    /// The listener, as `/api/v1/listeners` shows its address. The first one if absent.
    listener: Option<String>,
    /// The IP address of the client, for bans.
    #[param(value_type = Option<String>)]
    address: Option<IpAddr>,
    /// The protocol version: "3.1", "3.1.1" or "5.0". "5.0" if absent.
    version: Option<String>,
    /// Clean Start, or Clean Session.
    #[serde(default)]
    clean_start: bool,
}

/// A message.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeliveryParams {
    /// The client that is to get it.
    client: String,
    /// The topic name.
    topic: String,
    /// The QoS with which it is published. 0 if absent.
    #[serde(default)]
    qos: u8,
    /// The length of its payload in bytes.
    #[serde(default)]
    payload_bytes: usize,
    /// The client that publishes it.
    publisher: Option<String>,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Explanation {
    /// Whether it would happen, as far as that can be known before.
    would: bool,
    /// The outcome in words.
    outcome: String,
    /// What was looked at, in the order in which midge looks.
    findings: Vec<ShownFinding>,
    /// The messages that were lost for the client since it was last told. Only of a delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    losses: Option<LossCounts>,
    /// The last events of the client, the newest first. Only of a delivery.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<ClientEvent>,
}

/// Something that was looked at.
#[derive(Debug, Serialize, ToSchema)]
struct ShownFinding {
    /// "good", "bad" if it stands in the way, or "note".
    finding: &'static str,
    subject: &'static str,
    words: String,
}

impl From<FindingLine> for ShownFinding {
    fn from(line: FindingLine) -> ShownFinding {
        let finding = match line.finding {
            Finding::Good => "good",
            Finding::Bad => "bad",
            Finding::Note => "note",
        };
        ShownFinding { finding, subject: line.subject, words: line.words }
    }
}

fn explanation(findings: Findings, outcome: impl FnOnce(Option<&FindingLine>) -> String) -> Explanation {
    let would = findings.obstacle().is_none();
    let outcome = outcome(findings.obstacle());
    let findings = findings.lines.into_iter().map(ShownFinding::from).collect();
    Explanation { would, outcome, findings, losses: None, events: Vec::new() }
}

/// Whether a client could connect now, and why not. No password is taken, so none is checked.
#[utoipa::path(get, path = "/api/v1/explain/connect", tag = "diagnosis", params(ConnectParams),
    responses((status = 200, body = Explanation), (status = 400, description = "A parameter is wrong")))]
pub(super) async fn connect(
    State(state): State<Arc<AdminState>>,
    Params(params): Params<ConnectParams>,
) -> Result<Json<Explanation>, ApiRefusal> {
    let listener = match params.listener.as_deref() {
        Some(address) => state.listener(address)?,
        None => state.parts.control.settings().open_listeners().first().copied().unwrap_or_default(),
    };
    let version = match params.version.as_deref() {
        None | Some("5.0") => ProtocolVersion::V5,
        Some("3.1.1") => ProtocolVersion::V311,
        Some("3.1") => ProtocolVersion::V31,
        Some(other) => {
            return Err(ApiRefusal::bad(format!("version must be 3.1, 3.1.1 or 5.0, and is \"{other}\"")));
        }
    };
    let case = ConnectCase {
        client_id: params.client.as_str().into(),
        user: params.user.clone().map(Into::into),
        listener,
        version,
        clean_start: params.clean_start,
    };
    // A listener that names clients after users has their homes by that name.
    let settings = state.parts.control.settings();
    let names_after_user = settings.terms_of(listener).user_name_as_client_id;
    let named_after = params.user.as_deref().filter(|_| names_after_user);
    let name = named_after.unwrap_or(&params.client);
    let mut findings = of_the_door(&state, listener, params.address);
    match state.ask_home(name, Question::ExplainConnect(Box::new(case))).await? {
        Answer::ExplainConnect(found) => findings.lines.extend(found.lines),
        other => return Err(ApiRefusal::unexpected(&other)),
    }
    Ok(Json(explanation(findings, |obstacle| match obstacle {
        None => "it would be let in, as far as this can be known before".to_owned(),
        Some(line) => format!("it would be refused: {}: {}", line.subject, line.words),
    })))
}

/// What is decided before a byte is read.
fn of_the_door(state: &AdminState, listener: u16, address: Option<IpAddr>) -> Findings {
    let mut found = Findings::default();
    let control = &state.parts.control;
    if control.stop.load(Ordering::Relaxed) {
        found.add(Finding::Bad, "broker", "it is stopping");
    }
    if let Some(address) = address {
        let is_banned = control.is_banned(state.parts.now(), address);
        found.add_if(!is_banned, "address", if is_banned { "it is banned" } else { "it is not banned" });
    }
    let (open, max) = (control.open.load(Ordering::Relaxed), control.connections_max());
    found.add_if(open < max, "connections", format!("{open} of {max} (limits.connections)"));
    let settings = control.settings();
    let of_listener = settings.listener(listener);
    if let Some(max) = of_listener.and_then(|listener| listener.connections) {
        let open = control.open_of(listener);
        found.add_if(open < max, "connections of the listener", format!("{open} of {max}"));
    }
    found
}

/// Whether a client would get a message now, and why not.
#[utoipa::path(get, path = "/api/v1/explain/delivery", tag = "diagnosis", params(DeliveryParams),
    responses((status = 200, body = Explanation), (status = 400, description = "A parameter is wrong")))]
pub(super) async fn delivery(
    State(state): State<Arc<AdminState>>,
    Params(params): Params<DeliveryParams>,
) -> Result<Json<Explanation>, ApiRefusal> {
    let qos = QoS::from_bits(params.qos).ok_or_else(|| ApiRefusal::bad("qos must be 0, 1 or 2"))?;
    check_topic_name(&params.topic).map_err(|error| ApiRefusal::bad(format!("topic: {}", error.words())))?;
    let case = DeliveryCase {
        client_id: params.client.as_str().into(),
        topic: params.topic.as_str().into(),
        qos,
        payload_bytes: params.payload_bytes,
        publisher: params.publisher.clone().map(Into::into),
    };
    let mut findings = Findings::default();
    if let Some(publisher) = &params.publisher {
        let question = Question::ExplainPublish {
            client_id: publisher.as_str().into(),
            topic: params.topic.as_str().into(),
        };
        match state.ask_home(publisher, question).await? {
            Answer::ExplainPublish(found) => findings.lines.extend(found.lines),
            other => return Err(ApiRefusal::unexpected(&other)),
        }
    }
    let found = match state.ask_home(&params.client, Question::ExplainDelivery(Box::new(case))).await? {
        Answer::ExplainDelivery(found) => *found,
        other => return Err(ApiRefusal::unexpected(&other)),
    };
    let depends_on_turn = !found.has_own_match && !found.groups.is_empty();
    findings.lines.extend(found.findings.lines);
    if let Some(member) = found.session {
        for filter in found.groups.iter().take(GROUPS_ASKED) {
            let question = Question::GroupTurn { filter: filter.clone(), member };
            if let Answer::GroupTurn(Some(turn)) = state.ask_home(filter, question).await? {
                let words = match turn.before {
                    Some(0) => {
                        format!("{filter:?}: the next message is the client's, of {} members", turn.members)
                    }
                    Some(before) => {
                        format!("{filter:?}: {before} of {} members have their turn before it", turn.members)
                    }
                    None => format!(
                        "{filter:?}: more of the {} members come before it than can be seen",
                        turn.members
                    ),
                };
                let ready = if turn.is_ready { "" } else { "; it is passed over while others are ready" };
                findings.add(Finding::Note, "shared subscription", words + ready);
            }
        }
    }
    let mut shown = explanation(findings, |obstacle| match obstacle {
        Some(line) => format!("the client would not get it: {}: {}", line.subject, line.words),
        None if depends_on_turn => "one member of the shared subscription gets it".to_owned(),
        None if found.would_wait => "it would wait in the client's queue".to_owned(),
        None => "it would be delivered now".to_owned(),
    });
    if found.session.is_some() {
        shown.losses = Some(LossCounts::from(found.losses));
    }
    shown.events = found.events.into_iter().map(|event| ClientEvent::new(&state, event)).collect();
    Ok(Json(shown))
}
