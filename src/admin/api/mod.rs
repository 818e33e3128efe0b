//! The paths of the admin interface and their handlers.

mod backup;
mod clients;
mod drain;
mod explain;
mod health;
mod house;
mod listeners;
mod messages;
mod openapi;
mod overview;
mod params;
mod refusal;
mod shards;
mod trace;

use super::access::SharedAccess;
use super::dashboard;
use super::limits::AdminCounts;
use super::metrics;
use super::server::AdminParts;
use crate::base::Time;
use crate::broker::questions::{Answer, Question, ShardFigures};
use crate::host::UNIX_PEER;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response, StatusCode};
use axum::routing::{delete, get, post};
use refusal::ApiRefusal;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// What handlers work with.
pub(super) struct AdminState {
    pub(super) parts: AdminParts,
    /// Who may use the address, if it has a port.
    pub(super) access: Option<SharedAccess>,
    pub(super) counts: AdminCounts,
    /// The number of the next trace.
    pub(super) next_trace: AtomicU64,
    /// The number of drains that have begun.
    pub(super) drains: AtomicU64,
    /// The last backup of this run.
    pub(super) backup: Mutex<Option<backup::BackupState>>,
}

/// An answer that goes on until its reader leaves, and whose parts come in time.
#[derive(Clone, Copy)]
pub(super) struct GoesOn;

/// How long a question waits for the slowest shard. A list of a million sessions takes a second of the time that shards
/// have for questions.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a scrape waits for the slowest shard. The counters need no answer.
const FIGURES_PATIENCE: Duration = Duration::from_secs(1);

fn figures_of(answer: Option<Answer>) -> Option<ShardFigures> {
    match answer {
        Some(Answer::Shard(figures)) => Some(*figures),
        _ => None,
    }
}

/// All paths.
pub(super) fn router(state: Arc<AdminState>) -> Router {
    dashboard::with_files(Router::new())
        .route("/healthz", get(health::health))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(show_metrics))
        .route("/openapi.json", get(openapi::show))
        .route("/api/v1/clients", get(clients::list))
        .route("/api/v1/clients/{client_id}", get(clients::show).delete(clients::end))
        .route("/api/v1/sessions", get(clients::list_away))
        .route("/api/v1/subscriptions", get(messages::subscriptions))
        .route("/api/v1/groups", get(messages::groups))
        .route("/api/v1/retained", get(messages::retained))
        .route("/api/v1/retained/{*topic}", get(messages::retained_message).delete(messages::remove_retained))
        .route("/api/v1/publish", post(messages::publish))
        .route("/api/v1/overview", get(overview::show))
        .route("/api/v1/shards", get(shards::list))
        .route("/api/v1/listeners", get(listeners::list))
        .route("/api/v1/limits", get(listeners::limits))
        .route("/api/v1/bans", get(listeners::bans).post(listeners::ban))
        .route("/api/v1/bans/{address}", delete(listeners::unban))
        .route("/api/v1/backup", get(backup::show).post(backup::make))
        .route("/api/v1/drain", get(drain::show).post(drain::begin).delete(drain::end))
        .route("/api/v1/trace", get(trace::follow))
        .route("/api/v1/explain/connect", get(explain::connect))
        .route("/api/v1/explain/delivery", get(explain::delivery))
        .route("/api/v1/reload", get(house::plan).post(house::reload))
        .route("/api/v1/reload/confirm", post(house::confirm))
        .route("/api/v1/log-level", get(house::log_level).put(house::change_log_level))
        .fallback(async || error(StatusCode::NOT_FOUND, "there is no such path"))
        .method_not_allowed_fallback(async || {
            error(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
        })
        .with_state(state)
}

/// A JSON answer.
fn answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer that says what is wrong.
pub(super) fn error(status: StatusCode, words: &str) -> Response<Body> {
    answer(status, &json!({ "error": words }))
}

/// The address of a client. One on a Unix-domain socket has none.
fn shown_address(peer: SocketAddr) -> String {
    if peer == UNIX_PEER { "unix".to_owned() } else { peer.to_string() }
}

/// The counts of the broker in OpenMetrics.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "The metrics in OpenMetrics", body = String)))]
async fn show_metrics(State(state): State<Arc<AdminState>>) -> Response<Body> {
    let answers = state.ask_all(|| Question::Shard, FIGURES_PATIENCE).await;
    let figures: Option<Vec<_>> = answers.into_iter().map(figures_of).collect();
    match metrics::text(&state, figures.unwrap_or_default()) {
        Ok(text) => {
            let mut response = Response::new(Body::from(text));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT));
            response
        }
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written"),
    }
}

impl AdminState {
    pub(super) fn new(parts: AdminParts, access: Option<SharedAccess>) -> AdminState {
        AdminState {
            parts,
            access,
            counts: AdminCounts::default(),
            next_trace: AtomicU64::new(1),
            drains: AtomicU64::new(0),
            backup: Mutex::new(None),
        }
    }

    /// Asks every shard the same. `None` for each shard that has not answered after `patience`.
    async fn ask_all(&self, question: impl Fn() -> Question, patience: Duration) -> Vec<Option<Answer>> {
        let until = Instant::now() + patience;
        let asked: Vec<_> =
            (0..self.parts.questions.shards()).map(|shard| self.begin_to_ask(shard, question())).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for receiver in asked {
            let answer = match receiver {
                Some(receiver) => timeout_at(until, receiver).await.ok().and_then(Result::ok),
                None => None,
            };
            answers.push(answer);
        }
        answers
    }

    /// Asks a shard. `None` if too many questions wait for it.
    fn begin_to_ask(&self, shard: usize, question: Question) -> Option<oneshot::Receiver<Answer>> {
        let (sender, receiver) = oneshot::channel();
        // The receiver may have given up by then.
        let send = move |answer| drop(sender.send(answer));
        self.parts.questions.ask(shard, question, send).ok().map(|()| receiver)
    }

    /// Asks every shard the same. All must answer.
    async fn ask_every(&self, question: impl Fn() -> Question) -> Result<Vec<Answer>, ApiRefusal> {
        let answers = self.ask_all(question, PATIENCE).await;
        answers.into_iter().collect::<Option<Vec<Answer>>>().ok_or_else(no_answer)
    }

    /// Asks one shard.
    async fn ask_one(&self, shard: usize, question: Question) -> Result<Answer, ApiRefusal> {
        let receiver = self.begin_to_ask(shard, question).ok_or_else(no_answer)?;
        let answer = timeout_at(Instant::now() + PATIENCE, receiver).await;
        answer.ok().and_then(Result::ok).ok_or_else(no_answer)
    }

    /// Asks the shard on which a client identifier or a topic name is at home.
    async fn ask_home(&self, text: &str, question: Question) -> Result<Answer, ApiRefusal> {
        let shared = &self.parts.shared;
        self.ask_one(shared.home(shared.hash(text)).into(), question).await
    }

    /// A time of the shards' clock by the wall clock (RFC 3339).
    fn shown_time(&self, at: Time) -> String {
        let ago = self.parts.now().since(at);
        let at = OffsetDateTime::now_utc() - ago;
        let millis = at.millisecond();
        let whole = at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default();
        format!("{}.{millis:03}Z", whole.trim_end_matches('Z'))
    }

    /// The number of the listener with this address.
    fn listener(&self, address: &str) -> Result<u16, ApiRefusal> {
        let settings = self.parts.control.settings();
        let shown = |number: u16| settings.listener(number).map(|listener| listener.address.to_string());
        let mut open = settings.open_listeners().iter().copied();
        open.find(|&number| shown(number).as_deref() == Some(address)).ok_or_else(|| {
            let all: Vec<String> = settings.open_listeners().iter().copied().filter_map(shown).collect();
            ApiRefusal::bad(format!("listener: there is no \"{address}\"; there are {}", all.join(", ")))
        })
    }

    /// The address of a listener.
    fn address_of(&self, listener: u16) -> Option<String> {
        let settings = self.parts.control.settings();
        settings.listener(listener).map(|listener| listener.address.to_string())
    }
}

fn no_answer() -> ApiRefusal {
    ApiRefusal::unavailable("a shard did not answer in time; see /healthz")
}
