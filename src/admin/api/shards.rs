//! `/api/v1/shards`: what each shard holds.

use super::{AdminState, answer, error};
use crate::broker::questions::{Answer, Question, ShardFigures};
use crate::settings::Listener;
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
            Some(Answer::Shard(figures)) => Some(shown(&figures, &state.parts.shared.config.listeners)),
            _ => None,
        })
        .collect();
    match shards {
        Some(shards) => answer(StatusCode::OK, &json!({ "shards": shards })),
        None => error(StatusCode::SERVICE_UNAVAILABLE, "a shard did not answer; see /healthz"),
    }
}

fn shown(figures: &ShardFigures, listeners: &[Listener]) -> Value {
    let ShardFigures {
        shard,
        connections,
        connections_by_listener,
        handshakes,
        sessions,
        subscriptions,
        retained,
        kept_bytes,
        journal_bytes,
        has_log_failed,
    } = figures;
    let by_listener: Vec<Value> = listeners
        .iter()
        .zip(connections_by_listener)
        .map(|(listener, open)| json!({ "address": listener.address.to_string(), "connections": open }))
        .collect();
    json!({
        "shard": shard,
        "connections": connections,
        "listeners": by_listener,
        "handshakes": handshakes,
        "sessions": sessions,
        "subscriptions": subscriptions,
        "retained": retained,
        "memory_bytes": kept_bytes,
        "journal_bytes": journal_bytes,
        "log_failed": has_log_failed,
    })
}
