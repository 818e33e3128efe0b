//! `/api/v1/shards`: what each shard holds and does.

use super::{AdminState, ApiRefusal};
use crate::broker::questions::{Answer, Question, ShardFigures};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// The shards.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShardList {
    shards: Vec<ShardState>,
}

/// A shard.
#[derive(Debug, Serialize, ToSchema)]
struct ShardState {
    shard: u16,
    connections: usize,
    /// Connections whose CONNECT is not answered yet.
    handshakes: usize,
    /// Sessions, connected or not.
    sessions: usize,
    /// Subscriptions without shared ones.
    subscriptions: usize,
    /// Retained messages at home here.
    retained_messages: usize,
    /// The bytes that clients make the shard keep.
    memory_bytes: usize,
    /// Bytes that wait for the log.
    journal_bytes: usize,
    /// Whether the log has failed: nothing that must be kept is acknowledged any more.
    log_failed: bool,
}

impl From<ShardFigures> for ShardState {
    fn from(figures: ShardFigures) -> ShardState {
        ShardState {
            shard: figures.shard,
            connections: figures.connections,
            handshakes: figures.handshakes,
            sessions: figures.sessions,
            subscriptions: figures.subscriptions,
            retained_messages: figures.retained,
            memory_bytes: figures.kept_bytes,
            journal_bytes: figures.journal_bytes,
            log_failed: figures.has_log_failed,
        }
    }
}

/// The shards, by number.
#[utoipa::path(get, path = "/api/v1/shards", tag = "broker", responses((status = 200, body = ShardList)))]
pub(super) async fn list(State(state): State<Arc<AdminState>>) -> Result<Json<ShardList>, ApiRefusal> {
    let answers = state.ask_every(|| Question::Shard).await?;
    let shards = answers.into_iter().filter_map(|answer| match answer {
        Answer::Shard(figures) => Some(ShardState::from(*figures)),
        _ => None,
    });
    Ok(Json(ShardList { shards: shards.collect() }))
}
