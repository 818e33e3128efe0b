//! `/healthz` and `/readyz`: for the system that restarts midge, and for the one that sends clients to it.

use super::{AdminState, answer, figures_of};
use crate::broker::questions::Question;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A shard that takes longer is not healthy.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether each shard turns.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, description = "Each shard turns"),
    (status = 503, description = "Some shard has not answered within a second")))]
pub(super) async fn health(State(state): State<Arc<AdminState>>) -> Response<Body> {
    let answers = state.ask_all(|| Question::Alive, PATIENCE).await;
    let silent: Vec<usize> =
        answers.iter().enumerate().filter(|(_, answer)| answer.is_none()).map(|(shard, _)| shard).collect();
    if silent.is_empty() {
        return answer(StatusCode::OK, &json!({ "status": "ok" }));
    }
    let named: Vec<String> = silent.iter().map(ToString::to_string).collect();
    let words = format!("no answer within {} s from shard {}", PATIENCE.as_secs(), named.join(", "));
    let value = json!({ "status": "unhealthy", "error": words, "shards": silent });
    answer(StatusCode::SERVICE_UNAVAILABLE, &value)
}

/// Whether clients should be sent here.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, description = "Clients are welcome"),
    (status = 503, description = "It starts or stops")))]
pub(super) async fn ready(State(state): State<Arc<AdminState>>) -> Response<Body> {
    let control = &state.parts.control;
    let shards = state.parts.questions.shards();
    let settled = control.settled.load(Ordering::Acquire);
    let mut reasons = Vec::new();
    if settled < shards {
        reasons.push(format!("{settled} of {shards} shards have restored their sessions"));
    }
    if control.stop.load(Ordering::Acquire) {
        reasons.push("the broker is stopping".to_owned());
    }
    if control.drains.load(Ordering::Acquire) {
        reasons.push("an operator lets all clients go".to_owned());
    }
    // Before that a shard may not have begun to turn.
    if settled >= shards {
        let answers = state.ask_all(|| Question::Shard, PATIENCE).await;
        for (shard, answer) in answers.into_iter().enumerate() {
            match figures_of(answer) {
                None => reasons.push(format!("shard {shard} does not answer")),
                Some(figures) if figures.has_log_failed => {
                    reasons.push(format!("the log of shard {shard} has failed"));
                }
                Some(_) => {}
            }
        }
    }
    let value = |status: &str| json!({ "status": status, "shards": shards, "settled": settled });
    if reasons.is_empty() {
        return answer(StatusCode::OK, &value("ready"));
    }
    let mut value = value("not ready");
    if let Some(fields) = value.as_object_mut() {
        fields.insert("error".to_owned(), reasons.join("; ").into());
        fields.insert("reasons".to_owned(), reasons.into());
    }
    answer(StatusCode::SERVICE_UNAVAILABLE, &value)
}
