//! `/api/v1/subscriptions`, `/api/v1/groups`, `/api/v1/retained` and `/api/v1/publish`: where messages go, and those
//! that midge keeps for topics.

use super::clients::{ShownSubscription, SubscriptionTerms};
use super::params::{JsonBody, Params, page_length};
use super::{AdminState, ApiRefusal};
use crate::base::SessionKey;
use crate::broker::questions::{
    Answer, GroupSummary, OperatorMessage, Question, RetainedQuery, RetainedSummary, SubscriptionsPage,
    SubscriptionsQuery,
};
use crate::mqtt::{QoS, TopicFilter, check_topic_name};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response};
use axum::response::IntoResponse;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Which subscriptions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SubscriptionsParams {
    /// The beginning of the client identifier.
    #[serde(default)]
    prefix: String,
    /// The filter, as the client has sent it.
    filter: Option<String>,
    /// A topic name that the filter must match.
    topic: Option<String>,
    /// The length of a page: 1 to 1,000. 100 if absent.
    limit: Option<usize>,
    /// The client identifier in `next` of the page before.
    after_client: Option<String>,
    /// The filter in `next` of the page before.
    after_filter: Option<String>,
}

/// A part of the list of subscriptions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SubscriptionList {
    subscriptions: Vec<ClientSubscription>,
    /// The number of all subscriptions that the filter lets through.
    matching: u64,
    /// Where the next page goes on. Absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<SubscriptionPlace>,
}

/// A subscription with its client.
#[derive(Debug, Serialize, ToSchema)]
struct ClientSubscription {
    client_id: String,
    #[serde(flatten)]
    subscription: ShownSubscription,
}

/// The place of a subscription in the list.
#[derive(Debug, Serialize, ToSchema)]
struct SubscriptionPlace {
    after_client: String,
    after_filter: String,
}

/// The subscriptions of all clients.
#[utoipa::path(get, path = "/api/v1/subscriptions", tag = "messages", params(SubscriptionsParams),
    responses((status = 200, body = SubscriptionList), (status = 400, description = "A parameter is wrong")))]
pub(super) async fn subscriptions(
    State(state): State<Arc<AdminState>>,
    Params(params): Params<SubscriptionsParams>,
) -> Result<Json<SubscriptionList>, ApiRefusal> {
    if let Some(topic) = &params.topic {
        check_topic_name(topic).map_err(|error| ApiRefusal::bad(format!("topic: {}", error.words())))?;
    }
    let after = match (params.after_client, params.after_filter) {
        (Some(client), Some(filter)) => Some((client.into(), filter.into())),
        (None, None) => None,
        _ => return Err(ApiRefusal::bad("after_client and after_filter must come together")),
    };
    let query = SubscriptionsQuery {
        prefix: params.prefix.into(),
        filter: params.filter.map(Into::into),
        topic: params.topic.map(Into::into),
        after,
        count: page_length(params.limit)?,
    };
    let answers = state.ask_every(|| Question::Subscriptions(Box::new(query.clone()))).await?;
    let pages = answers.into_iter().filter_map(|answer| match answer {
        Answer::Subscriptions(page) => Some(page),
        _ => None,
    });
    let SubscriptionsPage { subscriptions, matching } = SubscriptionsPage::merge(pages, query.count);
    let is_full = subscriptions.len() == query.count;
    let next = subscriptions.last_key_value().filter(|_| is_full).map(|((client, filter), _)| {
        SubscriptionPlace { after_client: client.clone().into(), after_filter: filter.clone().into() }
    });
    let subscriptions = subscriptions.into_iter().map(|((client, filter), granted)| ClientSubscription {
        client_id: client.into(),
        subscription: ShownSubscription {
            filter: filter.into(),
            options: granted.map(SubscriptionTerms::from),
        },
    });
    Ok(Json(SubscriptionList { subscriptions: subscriptions.collect(), matching, next }))
}

/// Which shared subscriptions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GroupsParams {
    /// The length of a page: 1 to 1,000. 100 if absent.
    limit: Option<usize>,
    /// The value of `next` of the page before.
    after: Option<String>,
}

/// A part of the list of shared subscriptions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupList {
    groups: Vec<Group>,
    /// The parameter `after` of the next page. Absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A shared subscription.
#[derive(Debug, Serialize, ToSchema)]
struct Group {
    filter: String,
    members: usize,
    /// The first members in the order in which they joined, at most 100.
    member_list: Vec<Member>,
}

/// A member of a shared subscription.
#[derive(Debug, Serialize, ToSchema)]
struct Member {
    client_id: String,
    qos: u8,
    /// Whether it can take messages, as far as the group knows.
    ready: bool,
}

/// The shared subscriptions and their members.
#[utoipa::path(get, path = "/api/v1/groups", tag = "messages", params(GroupsParams),
    responses((status = 200, body = GroupList), (status = 400, description = "A parameter is wrong")))]
pub(super) async fn groups(
    State(state): State<Arc<AdminState>>,
    Params(params): Params<GroupsParams>,
) -> Result<Json<GroupList>, ApiRefusal> {
    let count = page_length(params.limit)?;
    let after: Option<Box<str>> = params.after.map(Into::into);
    let answers = state.ask_every(|| Question::Groups { after: after.clone(), count }).await?;
    let mut groups: Vec<GroupSummary> = Vec::new();
    for answer in answers {
        if let Answer::Groups(some) = answer {
            groups.extend(some);
        }
    }
    groups.sort_by(|one, other| one.filter.cmp(&other.filter));
    groups.truncate(count);
    let next = groups.last().filter(|_| groups.len() == count).map(|group| group.filter.clone().into());
    let names = names_of(&state, &groups).await?;
    let member = |key: &SessionKey| names.get(&place(*key)).cloned();
    let groups = groups.iter().map(|group| Group {
        filter: group.filter.clone().into(),
        members: group.members,
        member_list: group
            .first
            .iter()
            // A session that has ended meanwhile is no member any more.
            .filter_map(|listed| Some((member(&listed.key)?, listed)))
            .map(|(client_id, listed)| Member { client_id, qos: listed.qos as u8, ready: listed.is_ready })
            .collect(),
    });
    Ok(Json(GroupList { groups: groups.collect(), next }))
}

/// The key of a session as something that can be ordered.
fn place(key: SessionKey) -> (u16, u32, u32) {
    (key.shard, key.slot.get(), key.generation)
}

/// The client identifiers of members.
async fn names_of(
    state: &AdminState,
    groups: &[GroupSummary],
) -> Result<BTreeMap<(u16, u32, u32), String>, ApiRefusal> {
    let mut by_shard: BTreeMap<u16, Vec<SessionKey>> = BTreeMap::new();
    for member in groups.iter().flat_map(|group| &group.first) {
        by_shard.entry(member.key.shard).or_default().push(member.key);
    }
    let mut names = BTreeMap::new();
    for (shard, keys) in by_shard {
        if let Answer::ClientIds(found) =
            state.ask_one(shard.into(), Question::ClientIds(keys.clone())).await?
        {
            let named = keys.into_iter().zip(found);
            names.extend(named.filter_map(|(key, name)| Some((place(key), String::from(name?)))));
        }
    }
    Ok(names)
}

/// Which retained messages.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RetainedParams {
    /// A topic filter. "#" if absent, which does not match topics that begin with "$".
    filter: Option<String>,
    /// The length of a page: 1 to 1,000. 100 if absent.
    limit: Option<usize>,
    /// The value of `next` of the page before.
    after: Option<String>,
}

/// A part of the list of retained messages.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RetainedList {
    /// The messages by topic. A page may be shorter than asked for although `next` is there.
    messages: Vec<Retained>,
    /// The parameter `after` of the next page. Absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A retained message without its payload.
#[derive(Debug, Serialize, ToSchema)]
struct Retained {
    topic: String,
    qos: u8,
    payload_bytes: usize,
    /// Absent if it does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_seconds: Option<u32>,
}

impl From<RetainedSummary> for Retained {
    fn from(summary: RetainedSummary) -> Retained {
        Retained {
            topic: summary.topic.into(),
            qos: summary.qos as u8,
            payload_bytes: summary.payload_bytes,
            expires_in_seconds: summary.expires_in_seconds,
        }
    }
}

/// The retained messages whose topics match a filter.
#[utoipa::path(get, path = "/api/v1/retained", tag = "messages", params(RetainedParams),
    responses((status = 200, body = RetainedList), (status = 400, description = "A parameter is wrong")))]
pub(super) async fn retained(
    State(state): State<Arc<AdminState>>,
    Params(params): Params<RetainedParams>,
) -> Result<Json<RetainedList>, ApiRefusal> {
    let filter = params.filter.as_deref().unwrap_or("#");
    match TopicFilter::parse(filter) {
        Ok(parsed) if parsed.shared().is_none() => {}
        Ok(_) => return Err(ApiRefusal::bad("filter: retained messages belong to no shared subscription")),
        Err(error) => return Err(ApiRefusal::bad(format!("filter: {}", error.words()))),
    }
    let count = page_length(params.limit)?;
    let query = RetainedQuery { filter: filter.into(), after: params.after.map(Into::into), count };
    let answers = state.ask_every(|| Question::Retained(Box::new(query.clone()))).await?;
    let (mut messages, mut end): (Vec<RetainedSummary>, Option<Box<str>>) = (Vec::new(), None);
    for answer in answers {
        if let Answer::Retained(page) = answer {
            messages.extend(page.messages);
            // Beyond the end of the shortest page nothing is known.
            end = match (end, page.next) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
    }
    messages.sort_by(|one, other| one.topic.cmp(&other.topic));
    if let Some(end) = &end {
        messages.retain(|message| message.topic <= *end);
    }
    let next = match messages.get(count.saturating_sub(1)) {
        Some(last) if messages.len() > count || end.is_some() => Some(last.topic.clone()),
        _ => end,
    };
    messages.truncate(count);
    let messages = messages.into_iter().map(Retained::from).collect();
    Ok(Json(RetainedList { messages, next: next.map(Into::into) }))
}

/// A retained message with its payload.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RetainedContent {
    #[serde(flatten)]
    message: Retained,
    /// The payload, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// The payload in base64, if it is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

/// In which form.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ContentParams {
    /// Whether the answer is the payload alone, as it is.
    #[serde(default)]
    raw: bool,
}

/// The retained message of a topic, with its payload.
#[utoipa::path(get, path = "/api/v1/retained/{topic}", tag = "messages",
    params(("topic" = String, Path, description = "The topic name, slashes as they are"), ContentParams),
    responses((status = 200, body = RetainedContent), (status = 404, description = "There is no such message")))]
pub(super) async fn retained_message(
    State(state): State<Arc<AdminState>>,
    Path(topic): Path<String>,
    Params(params): Params<ContentParams>,
) -> Result<Response<Body>, ApiRefusal> {
    let Answer::RetainedMessage(Some(shown)) =
        state.ask_home(&topic, Question::RetainedMessage(topic.as_str().into())).await?
    else {
        return Err(no_message(&topic));
    };
    let publication = shown.message.as_publication();
    if params.raw {
        let mut response = Response::new(Body::from(publication.payload.to_vec()));
        let kind = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        return Ok(response);
    }
    let text = std::str::from_utf8(publication.payload).ok().map(str::to_owned);
    let content = RetainedContent {
        message: shown.summary.into(),
        payload_base64: text.is_none().then(|| BASE64_STANDARD.encode(publication.payload)),
        payload: text,
    };
    Ok(Json(content).into_response())
}

fn no_message(topic: &str) -> ApiRefusal {
    ApiRefusal::missing(format!("there is no retained message of the topic \"{topic}\""))
}

/// Removes the retained message of a topic. Subscribers are not told.
#[utoipa::path(delete, path = "/api/v1/retained/{topic}", tag = "messages",
    params(("topic" = String, Path, description = "The topic name, slashes as they are")),
    responses((status = 200, description = "It is removed, on the disk too", body = RetainedRemoved),
        (status = 404, description = "There is no such message")))]
pub(super) async fn remove_retained(
    State(state): State<Arc<AdminState>>,
    Path(topic): Path<String>,
) -> Result<Json<RetainedRemoved>, ApiRefusal> {
    match state.ask_home(&topic, Question::RemoveRetained(topic.as_str().into())).await? {
        Answer::RemoveRetained(true) => {
            tracing::info!(topic, "an operator has removed a retained message");
            Ok(Json(RetainedRemoved { removed: true }))
        }
        Answer::RemoveRetained(false) => Err(no_message(&topic)),
        other => Err(ApiRefusal::unexpected(&other)),
    }
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RetainedRemoved {
    removed: bool,
}

/// A message to publish.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMessage {
    topic: String,
    /// The payload as text.
    payload: Option<String>,
    /// The payload in base64, instead of `payload`.
    payload_base64: Option<String>,
    /// 0 if absent.
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: bool,
    /// The Message Expiry Interval.
    message_expiry_seconds: Option<u32>,
}

/// What became of the message.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MessageTaken {
    /// Whether anybody may have it: subscriptions matched on the shard that was asked, or other shards were told.
    has_subscribers: bool,
    /// Whether a session's queue or the store of retained messages was full.
    refused_by_some: bool,
}

/// Publishes a message. The answer comes when it can't be lost any more, as for a client.
#[utoipa::path(post, path = "/api/v1/publish", tag = "messages", request_body = NewMessage,
    responses((status = 200, body = MessageTaken), (status = 400, description = "The message is not valid"),
        (status = 503, description = "The disk is full or has failed")))]
pub(super) async fn publish(
    State(state): State<Arc<AdminState>>,
    JsonBody(new): JsonBody<NewMessage>,
) -> Result<Json<MessageTaken>, ApiRefusal> {
    let payload = match (new.payload, new.payload_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(coded)) => BASE64_STANDARD
            .decode(coded)
            .map_err(|error| ApiRefusal::bad(format!("payload_base64: {error}")))?,
        (None, None) => Vec::new(),
        (Some(_), Some(_)) => return Err(ApiRefusal::bad("there must be one payload, as text or in base64")),
    };
    let qos = QoS::from_bits(new.qos)
        .ok_or_else(|| ApiRefusal::bad(format!("qos must be 0, 1 or 2, and is {}", new.qos)))?;
    if new.topic.len() > usize::from(u16::MAX) {
        return Err(ApiRefusal::bad("topic: it has more than 65,535 bytes"));
    }
    let (retain, expiry_seconds) = (new.retain, new.message_expiry_seconds);
    let message =
        OperatorMessage { topic: new.topic.into(), payload: payload.into(), qos, retain, expiry_seconds };
    match state.ask_one(0, Question::Publish(Box::new(message))).await? {
        Answer::Publish(Ok(published)) => Ok(Json(MessageTaken {
            has_subscribers: published.has_subscribers,
            refused_by_some: published.was_refused,
        })),
        Answer::Publish(Err(violation)) if violation.reason.code() == 0x97 => {
            Err(ApiRefusal::unavailable(violation.to_string()))
        }
        Answer::Publish(Err(violation)) => Err(ApiRefusal::bad(violation.to_string())),
        other => Err(ApiRefusal::unexpected(&other)),
    }
}
