//! `/api/v1/shards`: what each shard holds and does.

use super::{AdminState, ApiRefusal, metrics};
use crate::broker::Counter;
use crate::broker::questions::{Answer, Question, ShardFigures};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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
    /// Messages in the queues of its sessions.
    queued_messages: u64,
    queued_bytes: u64,
    /// Retained messages at home here.
    retained_messages: usize,
    /// The bytes that clients make the shard keep.
    memory_bytes: usize,
    /// Bytes that wait for the log.
    journal_bytes: usize,
    /// Processor time of the shard since its start, of itself and of the kernel for it. Absent if the system does not
    /// tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    busy_seconds: Option<f64>,
    /// How often it has stopped reading because the box of another shard was full.
    mesh_waits: u64,
    /// Whether the log has failed: nothing that must be kept is acknowledged any more.
    log_failed: bool,
}

impl ShardState {
    fn new(state: &AdminState, figures: ShardFigures) -> ShardState {
        let (parts, shard) = (&state.parts, usize::from(figures.shard));
        let thread = parts.control.threads.get(shard).map(|thread| thread.load(Ordering::Relaxed));
        let counters = parts.shared.counters.get(shard);
        // A difference that is below zero for a moment reads as a huge number.
        let level = |counter| {
            let value = counters.map(|counters| counters.get(counter));
            value.filter(|value| i64::try_from(*value).is_ok()).unwrap_or_default()
        };
        let waits = counters.map(|counters| counters.get(Counter::LimitMesh));
        ShardState {
            shard: figures.shard,
            connections: figures.connections,
            handshakes: figures.handshakes,
            sessions: figures.sessions,
            subscriptions: figures.subscriptions,
            queued_messages: level(Counter::MessagesQueued),
            queued_bytes: level(Counter::BytesQueued),
            retained_messages: figures.retained,
            memory_bytes: figures.kept_bytes,
            journal_bytes: figures.journal_bytes,
            busy_seconds: thread.and_then(metrics::thread_seconds),
            mesh_waits: waits.unwrap_or_default(),
            log_failed: figures.has_log_failed,
        }
    }
}

/// The shards, by number.
#[utoipa::path(get, path = "/api/v1/shards", tag = "broker", responses((status = 200, body = ShardList)))]
pub(super) async fn list(State(state): State<Arc<AdminState>>) -> Result<Json<ShardList>, ApiRefusal> {
    let answers = state.ask_every(|| Question::Shard).await?;
    let shards = answers.into_iter().filter_map(|answer| match answer {
        Answer::Shard(figures) => Some(ShardState::new(&state, *figures)),
        _ => None,
    });
    Ok(Json(ShardList { shards: shards.collect() }))
}
