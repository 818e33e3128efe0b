//! `/api/v1/backup`: copies the state of the running broker to a directory.

use super::params::JsonBody;
use super::{AdminState, ApiRefusal};
use crate::broker::questions::Question;
use crate::persistence::{BackupOrder, BackupReport, check_target};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;
use utoipa::ToSchema;

/// How long a request waits for its backup. After that `GET` tells how it goes on.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a backup goes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBackup {
    /// An absolute path on midge's machine, to a directory that does not exist or is empty.
    #[schema(value_type = String)]
    directory: PathBuf,
}

/// The last backup of this run.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::admin) struct BackupState {
    /// "running", "done" or "failed".
    state: &'static str,
    directory: String,
    /// The number of sessions, subscriptions, messages and other rows in it. Absent unless it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    /// Its size. Absent unless it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// Why it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl BackupState {
    fn ended(directory: String, outcome: Result<BackupReport, String>) -> BackupState {
        match outcome {
            Ok(BackupReport { rows, bytes }) => {
                BackupState { state: "done", directory, rows: Some(rows), bytes: Some(bytes), error: None }
            }
            Err(error) => {
                BackupState { state: "failed", directory, rows: None, bytes: None, error: Some(error) }
            }
        }
    }
}

/// How the last backup of this run goes.
#[utoipa::path(get, path = "/api/v1/backup", tag = "broker",
    responses((status = 200, body = BackupState), (status = 404, description = "There was none")))]
pub(super) async fn show(State(state): State<Arc<AdminState>>) -> Result<Json<BackupState>, ApiRefusal> {
    let last = state.backup.lock().unwrap_or_else(PoisonError::into_inner).clone();
    last.map(Json).ok_or_else(|| ApiRefusal::missing("no backup was made in this run"))
}

/// Copies the state to a directory, as of one moment, and verifies the copy. It is a state directory of its own: midge can
/// be started with it. Clients are served meanwhile; what must be kept waits some milliseconds for its acknowledgement.
#[utoipa::path(post, path = "/api/v1/backup", tag = "broker", request_body = NewBackup,
    responses((status = 200, body = BackupState), (status = 202, body = BackupState, description = "It goes on"),
        (status = 400, description = "The directory can't be used, or nothing is kept"),
        (status = 409, description = "Another backup is being made"),
        (status = 500, body = BackupState, description = "It has failed")))]
pub(super) async fn make(
    State(state): State<Arc<AdminState>>,
    JsonBody(new): JsonBody<NewBackup>,
) -> Result<(StatusCode, Json<BackupState>), ApiRefusal> {
    let Some(checkpoint) = &state.parts.checkpoint else {
        return Err(ApiRefusal::bad(
            "nothing is kept, so there is nothing to back up (persistence.directory)",
        ));
    };
    check_target(&new.directory).map_err(ApiRefusal::bad)?;
    let directory = new.directory.display().to_string();
    let running =
        BackupState { state: "running", directory: directory.clone(), rows: None, bytes: None, error: None };
    {
        let mut last = state.backup.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|last| last.state == "running") {
            return Err(ApiRefusal::conflict("another backup is being made"));
        }
        *last = Some(running.clone());
    }
    let (sender, made) = oneshot::channel();
    let control = Arc::clone(&state.parts.control);
    state.parts.control.ask_for_cut(|request| {
        checkpoint.back_up(BackupOrder {
            to: new.directory,
            request,
            is_void: Box::new(move || control.cut.is_given_up(request)),
            // The receiver is there until the answer comes.
            done: Box::new(move |outcome| drop(sender.send(outcome))),
        });
    });
    let noting = Arc::clone(&state);
    let noted = tokio::spawn(async move {
        let dropped = || Err("the thread that makes it has ended".to_owned());
        let ended = BackupState::ended(directory, made.await.unwrap_or_else(|_| dropped()));
        match &ended.error {
            None => tracing::info!(
                directory = ended.directory,
                rows = ended.rows,
                bytes = ended.bytes,
                "a backup is made"
            ),
            Some(error) => tracing::error!(directory = ended.directory, "a backup has failed: {error}"),
        }
        *noting.backup.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended.clone());
        ended
    });
    // Any question rings the bells.
    drop(state.ask_all(|| Question::Alive, PATIENCE).await);
    match timeout(PATIENCE, noted).await {
        Ok(Ok(ended)) => {
            let status =
                if ended.error.is_none() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
            Ok((status, Json(ended)))
        }
        Ok(Err(_)) | Err(_) => Ok((StatusCode::ACCEPTED, Json(running))),
    }
}
