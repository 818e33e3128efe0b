//! `/api/v1/shards`: what each shard holds.

use super::{AdminState, answer, error};
use crate::broker::questions::{Answer, Question, ShardFigures};
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long a list waits for the slowest shard.
const PATIENCE: Duration = Duration::from_secs(10);

/// The shards, by number.
pub(super) async fn list(State(state): State<Arc<AdminState>>) -> Response<Body> {
    let answers = state.ask_all(|| Question::Shard, PATIENCE).await;
    let shards: Option<Vec<Value>> = answers
        .into_iter()
        .map(|answer| match answer {
            Some(Answer::Shard(figures)) => Some(shown(&figures)),
            _ => None,
        })
        .collect();
    match shards {
        Some(shards) => answer(StatusCode::OK, &json!({ "shards": shards })),
        None => error(StatusCode::SERVICE_UNAVAILABLE, "a shard did not answer; see /healthz"),
    }
}

fn shown(figures: &ShardFigures) -> Value {
    let ShardFigures {
        shard,
        connections,
        handshakes,
        sessions,
        subscriptions,
        retained,
        kept_bytes,
        journal_bytes,
        has_log_failed,
    } = *figures;
    json!({
        "shard": shard,
        "connections": connections,
        "handshakes": handshakes,
        "sessions": sessions,
        "subscriptions": subscriptions,
        "retained": retained,
        "memory_bytes": kept_bytes,
        "journal_bytes": journal_bytes,
        "log_failed": has_log_failed,
    })
}
