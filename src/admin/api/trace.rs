//! `/api/v1/trace`: what happens to a client, a topic or an address, line by line as it happens.

use super::{AdminState, ApiRefusal, GoesOn, shown_address};
use crate::base::ShardId;
use crate::broker::questions::{Answer, Question};
use crate::broker::trace::{
    TRACE_SECONDS_MAX, TRACES_MAX, TraceDirection, TraceId, TraceLine, TraceOrder, TracePage, TraceTarget,
};
use crate::mqtt::TopicFilter;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use utoipa::{IntoParams, ToSchema};

use super::params::Params;

/// The time between two looks at the shards.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a shard has for its lines.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// After so long without a line an empty one is sent, which shows whether the reader is still there.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The length of a trace if nobody says otherwise, in seconds.
const SECONDS: u32 = 60;

/// What is traced: exactly one of `client`, `topic` and `address`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TraceParams {
    /// A client identifier.
    client: Option<String>,
    /// A topic filter. It shows the messages whose topics match.
    topic: Option<String>,
    /// An IP address.
    #[param(value_type = Option<String>)]
    address: Option<IpAddr>,
    /// Whether the beginning of payloads is shown.
    #[serde(default)]
    payload: bool,
    /// When it ends by itself: 1 to 3,600 seconds. 60 if absent.
    seconds: Option<u32>,
}

/// A line of a trace.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownLine {
    /// When it happened (RFC 3339).
    at: String,
    shard: ShardId,
    /// The client identifier. Absent if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    /// The address and the port of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    /// "in" from the client, "out" to it, "none" for what the broker has decided.
    direction: &'static str,
    /// The type of the packet, or what was decided.
    packet: &'static str,
    /// The rest in words.
    detail: String,
    /// The size of the packet. Absent if it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    /// The beginning of the payload, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// The beginning of the payload in hexadecimal digits, if it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

/// A line that says that others are missing.
#[derive(Debug, Serialize)]
struct LeftOutLine {
    left_out: u64,
}

/// The last line.
#[derive(Debug, Serialize)]
struct EndLine {
    end: &'static str,
}

/// What happens to a client, a topic or an address, as it happens: one JSON object a line. The last one has the field
/// `end`; one with the field `left_out` has the number of lines that were too many. An empty line says nothing.
#[utoipa::path(get, path = "/api/v1/trace", tag = "diagnosis", params(TraceParams),
    responses((status = 200, description = "Lines of JSON", body = ShownLine, content_type = "application/x-ndjson"),
        (status = 400, description = "A parameter is wrong"), (status = 503, description = "Too many traces run")))]
pub(super) async fn follow(
    State(state): State<Arc<AdminState>>,
    Params(params): Params<TraceParams>,
) -> Result<Response, ApiRefusal> {
    let order = TraceOrder {
        id: TraceId(state.next_trace.fetch_add(1, Ordering::Relaxed)),
        seconds: seconds(params.seconds)?,
        shows_payload: params.payload,
        target: target(params)?,
    };
    let begun = state.ask_every(|| Question::TraceBegin(Box::new(order.clone()))).await;
    let run_everywhere =
        |answers: &Vec<Answer>| answers.iter().all(|answer| matches!(answer, Answer::TraceBegin(true)));
    match begun {
        Ok(answers) if run_everywhere(&answers) => {}
        Ok(_) => {
            end(&state, order.id);
            return Err(ApiRefusal::unavailable(format!("{TRACES_MAX} traces run already, as many as may")));
        }
        Err(refusal) => {
            end(&state, order.id);
            return Err(refusal);
        }
    }
    tracing::info!(target = ?order.target, seconds = order.seconds, "an operator has begun a trace");
    let (sender, lines) = mpsc::channel(64);
    tokio::spawn(async move {
        let until = Instant::now() + Duration::from_secs(order.seconds.into());
        let why = pass_on(&state, order.id, &sender, until).await;
        end(&state, order.id);
        if let Some(why) = why {
            // The reader may have left.
            let _ = sender.send(line(&EndLine { end: why })).await;
        }
    });
    let mut response = Response::new(Body::new(LineBody(lines)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response.extensions_mut().insert(GoesOn);
    Ok(response)
}

fn seconds(asked: Option<u32>) -> Result<u32, ApiRefusal> {
    let seconds = asked.unwrap_or(SECONDS);
    if (1..=TRACE_SECONDS_MAX).contains(&seconds) {
        return Ok(seconds);
    }
    Err(ApiRefusal::bad(format!("seconds must be from 1 to {TRACE_SECONDS_MAX}, and is {seconds}")))
}

fn target(params: TraceParams) -> Result<TraceTarget, ApiRefusal> {
    match (params.client, params.topic, params.address) {
        (Some(client), None, None) => Ok(TraceTarget::Client(client.into())),
        (None, Some(topic), None) => match TopicFilter::parse(&topic) {
            Ok(filter) if filter.shared().is_none() => Ok(TraceTarget::Topic(topic.into())),
            Ok(_) => Err(ApiRefusal::bad("topic: a shared subscription; give the filter behind its name")),
            Err(error) => Err(ApiRefusal::bad(format!("topic: {}", error.words()))),
        },
        (None, None, Some(address)) => Ok(TraceTarget::Address(address)),
        _ => Err(ApiRefusal::bad("exactly one of client, topic and address must be given")),
    }
}

/// Ends a trace on all shards. One that can't be asked now ends it unread.
fn end(state: &AdminState, id: TraceId) {
    for shard in 0..state.parts.questions.shards() {
        drop(state.begin_to_ask(shard, Question::TraceEnd(id)));
    }
}

/// Passes the lines of all shards on. Returns why it ends, or `None` if the reader has left.
async fn pass_on(
    state: &AdminState,
    id: TraceId,
    sender: &mpsc::Sender<Bytes>,
    until: Instant,
) -> Option<&'static str> {
    let mut last_sent = Instant::now();
    loop {
        if timeout(LOOK_INTERVAL, sender.closed()).await.is_ok() {
            return None;
        }
        let is_over = Instant::now() >= until;
        let answers = state.ask_all(|| Question::TraceRead(id), LOOK_PATIENCE).await;
        let mut lines: Vec<(ShardId, TraceLine)> = Vec::new();
        let mut left_out = 0;
        let mut runs = false;
        for (shard, answer) in (0..).zip(answers) {
            if let Some(Answer::TraceRead(Some(TracePage { lines: of_shard, left_out: more }))) = answer {
                runs = true;
                left_out += more;
                lines.extend(of_shard.into_iter().map(|line| (shard, line)));
            }
        }
        // Within a shard they are in order.
        lines.sort_by_key(|(_, line)| line.at);
        let mut texts: Vec<Bytes> =
            lines.into_iter().map(|(shard, traced)| line(&shown(state, shard, traced))).collect();
        if left_out > 0 {
            texts.push(line(&LeftOutLine { left_out }));
        }
        if texts.is_empty() && last_sent.elapsed() >= SILENCE_MAX {
            texts.push(Bytes::from_static(b"\n"));
        }
        for text in texts {
            last_sent = Instant::now();
            sender.send(text).await.ok()?;
        }
        if is_over {
            return Some("the time is over");
        }
        if !runs {
            return Some("no shard follows it any more");
        }
    }
}

fn shown(state: &AdminState, shard: ShardId, traced: TraceLine) -> ShownLine {
    let (payload, payload_hex) = match traced.payload {
        None => (None, None),
        Some(payload) => match std::str::from_utf8(&payload) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(payload.iter().map(|byte| format!("{byte:02x}")).collect())),
        },
    };
    ShownLine {
        at: state.shown_time(traced.at),
        shard,
        client: Some(traced.client.into()).filter(|client: &String| !client.is_empty()),
        peer: traced.peer.map(shown_address),
        direction: match traced.direction {
            TraceDirection::In => "in",
            TraceDirection::Out => "out",
            TraceDirection::Inside => "none",
        },
        packet: traced.what,
        detail: traced.words.into(),
        bytes: Some(traced.bytes).filter(|&bytes| bytes > 0),
        payload,
        payload_hex,
    }
}

/// A line of JSON.
fn line(value: &impl Serialize) -> Bytes {
    // Nothing in these types can fail to be written.
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    text.into()
}

/// Lines as the body of an answer.
struct LineBody(mpsc::Receiver<Bytes>);

impl hyper::body::Body for LineBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|text| text.map(|text| Ok(Frame::data(text))))
    }
}
