//! `/api/v1/reload` and `/api/v1/log-level`: changes of the configuration and of the log while midge runs. The thread
//! that reads the configuration answers, so neither a shard nor this thread waits for a file.

use super::params::{JsonBody, Params};
use super::{AdminState, ApiRefusal, PATIENCE};
use crate::control::housekeeping::{HouseReply, HouseRequest, LogLevelReport, ReloadRefusal, ReloadReport};
use crate::settings::LogLevel;
use crate::settings::plan::Change;
use crate::settings::value::{Allowed, Literal, Setting};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

/// The longest time for a confirmation, and for a level of the log, in seconds: one day.
const SECONDS_MAX: u32 = 86_400;

/// What a reload has changed, or would change.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReloadAnswer {
    /// Whether the changes are in force. False for a plan.
    done: bool,
    /// Every option that differs between the configuration in force and the files.
    changes: Vec<ChangeAnswer>,
    /// The number of changes that wait for a restart.
    waiting_for_restart: usize,
    /// The number of open connections of listeners that are removed. They are closed.
    disconnected: usize,
    /// Who may connect to listeners that are new or let in others than before, the certificates that are new, and the
    /// addresses that midge listens on now.
    notes: Vec<String>,
    /// Warnings about the configuration and the files that it names.
    warnings: Vec<String>,
    /// The former configuration returns after this time, unless the reload is confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirm_within_seconds: Option<u64>,
}

/// A difference.
#[derive(Debug, Serialize, ToSchema)]
struct ChangeAnswer {
    /// The option, such as `limits.packet_bytes`, or a listener as a whole.
    key: String,
    /// The value in force before. Absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<String>,
    /// The value of the file. Absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<String>,
    /// "at once", "for new connections" or "at restart".
    takes_effect: &'static str,
    /// The clients that notice.
    for_whom: String,
}

impl From<&Change> for ChangeAnswer {
    fn from(change: &Change) -> ChangeAnswer {
        ChangeAnswer {
            key: change.key.clone(),
            old: change.old.clone(),
            new: change.new.clone(),
            takes_effect: change.time.words(),
            for_whom: change.whom.to_string(),
        }
    }
}

impl ReloadAnswer {
    fn new(report: ReloadReport, done: bool) -> ReloadAnswer {
        ReloadAnswer {
            done,
            changes: report.plan.changes.iter().map(ChangeAnswer::from).collect(),
            waiting_for_restart: report.plan.waiting().count(),
            disconnected: report.disconnected,
            notes: report.notes,
            warnings: report.warnings,
            confirm_within_seconds: report.confirm_within.map(|time| time.as_secs()),
        }
    }
}

impl From<ReloadRefusal> for ApiRefusal {
    fn from(refusal: ReloadRefusal) -> ApiRefusal {
        let words = refusal.to_string();
        match refusal {
            ReloadRefusal::Wrong(_) => ApiRefusal::wrong_files(words),
            ReloadRefusal::Unconfirmed(_) | ReloadRefusal::NothingToConfirm => ApiRefusal::conflict(words),
        }
    }
}

/// How to reload.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReloadParams {
    /// The former configuration returns after this time, unless the reload is confirmed: 1 to 86400.
    confirm_seconds: Option<u32>,
}

/// Reads the configuration and the files that it names, and says what a reload would change. Changes nothing.
#[utoipa::path(get, path = "/api/v1/reload", tag = "broker", responses(
    (status = 200, body = ReloadAnswer),
    (status = 422, description = "The configuration or a file is wrong: all errors, one per line")))]
pub(super) async fn plan(State(state): State<Arc<AdminState>>) -> Result<Json<ReloadAnswer>, ApiRefusal> {
    let report = state.ask_house(HouseRequest::Plan).await??;
    Ok(Json(ReloadAnswer::new(report, false)))
}

/// Reads the configuration and the files that it names, and takes all changes that don't need a restart. Takes none if
/// anything is wrong.
#[utoipa::path(post, path = "/api/v1/reload", tag = "broker", params(ReloadParams), responses(
    (status = 200, body = ReloadAnswer),
    (status = 409, description = "An earlier reload waits for its confirmation"),
    (status = 422, description = "The configuration or a file is wrong: all errors, one per line")))]
pub(super) async fn reload(
    State(state): State<Arc<AdminState>>,
    Params(params): Params<ReloadParams>,
) -> Result<Json<ReloadAnswer>, ApiRefusal> {
    let confirm_within =
        params.confirm_seconds.map(|seconds| time("confirm_seconds", seconds)).transpose()?;
    let report = state.ask_house(|reply| HouseRequest::Reload { confirm_within, reply }).await??;
    Ok(Json(ReloadAnswer::new(report, true)))
}

/// That a reload is confirmed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Confirmed {
    confirmed: bool,
}

/// Keeps the configuration of a reload that waits for its confirmation.
#[utoipa::path(post, path = "/api/v1/reload/confirm", tag = "broker", responses(
    (status = 200, body = Confirmed),
    (status = 409, description = "No reload waits for a confirmation")))]
pub(super) async fn confirm(State(state): State<Arc<AdminState>>) -> Result<Json<Confirmed>, ApiRefusal> {
    state.ask_house(HouseRequest::Confirm).await??;
    Ok(Json(Confirmed { confirmed: true }))
}

/// The level of the log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogLevelAnswer {
    /// The level in force.
    level: &'static str,
    /// `log.level` of the configuration.
    configured: &'static str,
    /// The time until the configured level returns. Absent if it does not return by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
}

impl From<LogLevelReport> for LogLevelAnswer {
    fn from(report: LogLevelReport) -> LogLevelAnswer {
        LogLevelAnswer {
            level: report.level.word(),
            configured: report.configured.word(),
            seconds_left: report.left.map(|left| left.as_secs()),
        }
    }
}

/// Another level.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewLogLevel {
    /// "error", "warn", "info", "debug" or "trace".
    level: String,
    /// The configured level returns after this time: 1 to 86400. Without it the level stays until `log.level` changes
    /// or midge stops.
    seconds: Option<u32>,
}

/// The level of the log.
#[utoipa::path(get, path = "/api/v1/log-level", tag = "broker", responses((status = 200, body = LogLevelAnswer)))]
pub(super) async fn log_level(
    State(state): State<Arc<AdminState>>,
) -> Result<Json<LogLevelAnswer>, ApiRefusal> {
    Ok(Json(state.ask_house(HouseRequest::LogLevel).await?.into()))
}

/// Changes the level of the log, for a while or until `log.level` changes.
#[utoipa::path(put, path = "/api/v1/log-level", tag = "broker", request_body = NewLogLevel, responses(
    (status = 200, body = LogLevelAnswer),
    (status = 400, description = "There is no such level, or the time is out of range")))]
pub(super) async fn change_log_level(
    State(state): State<Arc<AdminState>>,
    JsonBody(new): JsonBody<NewLogLevel>,
) -> Result<Json<LogLevelAnswer>, ApiRefusal> {
    let level = level_of(&new.level).ok_or_else(|| {
        let words = LogLevel::WORDS.join(", ");
        ApiRefusal::bad(format!("level: there is no \"{}\"; there are {words}", new.level))
    })?;
    let lasts = new.seconds.map(|seconds| time("seconds", seconds)).transpose()?;
    let report = state.ask_house(|reply| HouseRequest::ChangeLogLevel { level, lasts, reply }).await?;
    Ok(Json(report.into()))
}

fn level_of(word: &str) -> Option<LogLevel> {
    LogLevel::read(&Literal::Text(word.to_owned()), &Allowed::Choice(LogLevel::WORDS)).ok()
}

fn time(name: &str, seconds: u32) -> Result<Duration, ApiRefusal> {
    if (1..=SECONDS_MAX).contains(&seconds) {
        return Ok(Duration::from_secs(seconds.into()));
    }
    Err(ApiRefusal::bad(format!("{name} must be from 1 to {SECONDS_MAX}, and is {seconds}")))
}

impl AdminState {
    /// Asks the thread that reads the configuration.
    async fn ask_house<T: Send + 'static>(
        &self,
        request: impl FnOnce(HouseReply<T>) -> HouseRequest,
    ) -> Result<T, ApiRefusal> {
        let (sender, receiver) = oneshot::channel();
        // The receiver may have given up by then.
        let reply: HouseReply<T> = Box::new(move |answer| drop(sender.send(answer)));
        let busy =
            || ApiRefusal::unavailable("too many requests wait for the thread that reads the configuration");
        self.parts.house.ask(request(reply)).map_err(|_| busy())?;
        match timeout(PATIENCE, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(ApiRefusal::unavailable("midge stops")),
            Err(_) => Err(ApiRefusal::unavailable(
                "the files could not be read in time; midge goes on with it, and the log will tell the result",
            )),
        }
    }
}
