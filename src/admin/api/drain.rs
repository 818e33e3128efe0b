//! `/api/v1/drain`: lets all clients go at a pace, and then stops the broker.

use super::params::JsonBody;
use super::{AdminState, ApiRefusal};
use crate::broker::Counter;
use crate::broker::questions::{DrainOrder, Question};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use utoipa::ToSchema;

/// The time between two looks at whether the last client has gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The largest rate.
const CLIENTS_PER_SECOND_MAX: u32 = 1_000_000;
/// The longest server reference that a packet can carry.
const REFERENCE_BYTES_MAX: usize = u16::MAX as usize;

/// How clients are let go.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDrain {
    /// The number of clients that go in a second: 1 to 1,000,000. 500 if absent.
    clients_per_second: Option<u32>,
    /// The server that 5.0 clients are told to use instead (0x9C). Without it they are told that this one stops (0x8B).
    server_reference: Option<String>,
    /// Whether the broker goes on without clients. If not, it stops when the last one has gone.
    #[serde(default)]
    stay: bool,
}

/// Whether clients are let go.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DrainState {
    /// Whether clients are let go and new ones are refused.
    draining: bool,
    /// The number of clients that are connected.
    clients: u64,
}

/// Whether clients are let go, and how many are left.
#[utoipa::path(get, path = "/api/v1/drain", tag = "broker", responses((status = 200, body = DrainState)))]
pub(super) async fn show(State(state): State<Arc<AdminState>>) -> Json<DrainState> {
    Json(state_of(&state))
}

/// Lets all clients go at a pace. New ones are refused: 5.0 with 0x9C if a server is named and with 0x88 if not, 3.x with
/// return code 3. `/readyz` says so. Sessions stay.
#[utoipa::path(post, path = "/api/v1/drain", tag = "broker", request_body = NewDrain,
    responses((status = 200, body = DrainState), (status = 400, description = "A parameter is wrong")))]
pub(super) async fn begin(
    State(state): State<Arc<AdminState>>,
    JsonBody(new): JsonBody<NewDrain>,
) -> Result<Json<DrainState>, ApiRefusal> {
    let rate = new.clients_per_second.unwrap_or(500);
    if !(1..=CLIENTS_PER_SECOND_MAX).contains(&rate) {
        let words = format!("clients_per_second must be from 1 to {CLIENTS_PER_SECOND_MAX}, and is {rate}");
        return Err(ApiRefusal::bad(words));
    }
    let reference = new.server_reference.as_deref();
    if reference
        .is_some_and(|text| text.is_empty() || text.len() > REFERENCE_BYTES_MAX || text.contains('\0'))
    {
        return Err(ApiRefusal::bad(
            "server_reference must be a text of at most 65,535 bytes, and not empty",
        ));
    }
    let shards = u32::try_from(state.parts.questions.shards()).unwrap_or(u32::MAX);
    let order =
        DrainOrder { clients_per_second: rate.div_ceil(shards), server_reference: reference.map(Into::into) };
    state.parts.control.drains.store(true, Ordering::Release);
    let number = state.drains.fetch_add(1, Ordering::AcqRel) + 1;
    state.ask_every(|| Question::Drain(Some(order.clone()))).await?;
    tracing::info!(
        clients_per_second = rate,
        server_reference = reference,
        stay = new.stay,
        "an operator lets all clients go; new ones are refused"
    );
    if !new.stay {
        tokio::spawn(stop_when_empty(Arc::clone(&state), number));
    }
    Ok(Json(state_of(&state)))
}

/// Lets nobody else go, and new clients in.
#[utoipa::path(delete, path = "/api/v1/drain", tag = "broker",
    responses((status = 200, body = DrainState), (status = 404, description = "No clients are let go")))]
pub(super) async fn end(State(state): State<Arc<AdminState>>) -> Result<Json<DrainState>, ApiRefusal> {
    if !state.parts.control.drains.swap(false, Ordering::AcqRel) {
        return Err(ApiRefusal::missing("no clients are let go"));
    }
    state.ask_every(|| Question::Drain(None)).await?;
    tracing::info!("an operator has ended the drain; clients are welcome again");
    Ok(Json(state_of(&state)))
}

fn state_of(state: &AdminState) -> DrainState {
    let counters = state.parts.shared.counters.iter();
    DrainState {
        draining: state.parts.control.drains.load(Ordering::Acquire),
        clients: counters.fold(0, |sum, shard| sum.wrapping_add(shard.get(Counter::ClientsConnected))),
    }
}

/// Stops the broker when its last client has gone, unless the drain has ended or another one has begun before.
async fn stop_when_empty(state: Arc<AdminState>, number: u64) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let DrainState { draining, clients } = state_of(&state);
        if !draining || state.drains.load(Ordering::Acquire) != number {
            return;
        }
        if clients == 0 {
            tracing::info!("the last client has gone; stopping");
            return (state.parts.stop)();
        }
    }
}
