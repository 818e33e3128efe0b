//! The paths of the admin interface and their handlers.

mod health;
mod shards;

use super::limits::AdminCounts;
use super::metrics;
use super::server::AdminParts;
use crate::broker::questions::{Answer, Question};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response, StatusCode};
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// What handlers work with.
pub(super) struct AdminState {
    pub(super) parts: AdminParts,
    pub(super) counts: AdminCounts,
}

/// All paths.
pub(super) fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/healthz", get(health::health))
        .route("/readyz", get(health::ready))
        .route("/api/v1/shards", get(shards::list))
        .route("/metrics", get(show_metrics))
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

async fn show_metrics(State(state): State<Arc<AdminState>>) -> Response<Body> {
    match metrics::text(&state) {
        Ok(text) => {
            let mut response = Response::new(Body::from(text));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT));
            response
        }
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written"),
    }
}

impl AdminState {
    /// Asks every shard the same. `None` for each shard that has not answered after `patience`.
    async fn ask_all(&self, question: impl Fn() -> Question, patience: Duration) -> Vec<Option<Answer>> {
        let until = Instant::now() + patience;
        let questions = &self.parts.questions;
        let asked: Vec<_> = (0..questions.shards())
            .map(|shard| {
                let (sender, receiver) = oneshot::channel();
                // The receiver may have given up by then.
                let send = move |answer| drop(sender.send(answer));
                questions.ask(shard, question(), send).ok().map(|()| receiver)
            })
            .collect();
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
}
