//! `/api/v1/overview`: the figures of the whole broker in one small answer, for who asks every second.

use super::{AdminState, FIGURES_PATIENCE, figures_of, metrics};
use crate::broker::questions::Question;
use crate::broker::{Counter, HISTOGRAM_MICROS};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use utoipa::ToSchema;

/// The broker at this moment. What only rises counts since the start.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Overview {
    version: &'static str,
    uptime_seconds: f64,
    /// Whether an operator lets all clients go.
    draining: bool,
    /// Whether the log of a shard has failed: nothing that must be kept is acknowledged any more.
    log_failed: bool,
    connections: u64,
    connections_max: u64,
    clients_connected: u64,
    /// Sessions, connected or not.
    sessions: u64,
    subscriptions: u64,
    retained_messages: u64,
    queued_messages: u64,
    /// What clients make midge keep.
    memory_bytes: u64,
    /// Absent if there is no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_max_bytes: Option<u64>,
    /// PUBLISH packets received.
    messages_received: u64,
    /// PUBLISH packets sent.
    messages_sent: u64,
    bytes_received: u64,
    bytes_sent: u64,
    /// Messages dropped for a session.
    messages_dropped: u64,
    /// PUBLISH packets refused.
    messages_refused: u64,
    /// CONNECT packets refused.
    connects_refused: u64,
    commits: Commits,
    /// By number. Empty if a shard has not answered in time.
    shards: Vec<ShardLoad>,
}

/// The writes of the log.
#[derive(Debug, Serialize, ToSchema)]
struct Commits {
    /// The upper bounds of the buckets, in seconds. One more bucket has what took longer.
    bounds_seconds: Vec<f64>,
    /// The number of writes in each bucket.
    counts: Vec<u64>,
    /// The sum of their times.
    sum_seconds: f64,
}

/// What a shard does.
#[derive(Debug, Serialize, ToSchema)]
struct ShardLoad {
    shard: u16,
    connections: usize,
    /// Processor time since the start. Absent if the system does not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    busy_seconds: Option<f64>,
}

/// The figures of the whole broker.
#[utoipa::path(get, path = "/api/v1/overview", tag = "broker", responses((status = 200, body = Overview)))]
pub(super) async fn show(State(state): State<Arc<AdminState>>) -> Json<Overview> {
    let answers = state.ask_all(|| Question::Shard, FIGURES_PATIENCE).await;
    let figures: Option<Vec<_>> = answers.into_iter().map(figures_of).collect();
    let figures = figures.unwrap_or_default();
    let parts = &state.parts;
    let control = &parts.control;
    let settings = control.settings();
    let sum = |counter| metrics::sum(&parts.shared.counters, counter);
    let busy = |shard: u16| {
        let thread = control.threads.get(usize::from(shard))?.load(Ordering::Relaxed);
        metrics::thread_seconds(thread)
    };
    let shards = figures.iter().map(|of_shard| ShardLoad {
        shard: of_shard.shard,
        connections: of_shard.connections,
        busy_seconds: busy(of_shard.shard),
    });
    let memory_max = settings.memory_bytes_max();
    Json(Overview {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: parts.now().as_micros() as f64 / 1e6,
        draining: control.drains.load(Ordering::Relaxed),
        log_failed: figures.iter().any(|figures| figures.has_log_failed),
        connections: control.open.load(Ordering::Relaxed) as u64,
        connections_max: control.connections_max() as u64,
        clients_connected: sum(Counter::ClientsConnected),
        sessions: sum(Counter::Sessions),
        subscriptions: sum(Counter::Subscriptions),
        retained_messages: sum(Counter::Retained),
        queued_messages: sum(Counter::MessagesQueued),
        memory_bytes: sum(Counter::MemoryTotal),
        memory_max_bytes: (memory_max < usize::MAX).then_some(memory_max as u64),
        messages_received: sum(Counter::PublishesReceived),
        messages_sent: sum(Counter::PublishesSent),
        bytes_received: sum(Counter::BytesReceived),
        bytes_sent: sum(Counter::BytesSent),
        messages_dropped: sum(Counter::PublishesDropped),
        messages_refused: sum(Counter::PublishesRefused),
        connects_refused: sum(Counter::ConnectsRefused),
        commits: commits(&state),
        shards: shards.collect(),
    })
}

fn commits(state: &AdminState) -> Commits {
    let mut counts = vec![0; HISTOGRAM_MICROS.len() + 1];
    let mut sum_micros = 0;
    for shard in &state.parts.shared.counters {
        let (of_shard, micros) = shard.kinds.commit.read();
        counts.iter_mut().zip(of_shard).for_each(|(sum, count)| *sum += count);
        sum_micros += micros;
    }
    Commits {
        bounds_seconds: HISTOGRAM_MICROS.iter().map(|&micros| micros as f64 / 1e6).collect(),
        counts,
        sum_seconds: sum_micros as f64 / 1e6,
    }
}
