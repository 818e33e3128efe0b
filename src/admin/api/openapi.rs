//! `/openapi.json`: the description of all paths, for programs.

use super::{backup, clients, drain, explain, health, house, listeners, messages, overview, shards, trace};
use axum::Json;
use utoipa::OpenApi;

/// The description.
#[derive(OpenApi)]
#[openapi(
    info(title = "midge", description = "The admin interface of midge, an MQTT broker"),
    paths(
        health::health,
        health::ready,
        super::show_metrics,
        clients::list,
        clients::list_away,
        clients::show,
        clients::end,
        messages::subscriptions,
        messages::groups,
        messages::retained,
        messages::retained_message,
        messages::remove_retained,
        messages::publish,
        overview::show,
        shards::list,
        listeners::list,
        listeners::limits,
        listeners::bans,
        listeners::ban,
        listeners::unban,
        backup::show,
        backup::make,
        drain::show,
        drain::begin,
        drain::end,
        trace::follow,
        explain::connect,
        explain::delivery,
        house::plan,
        house::reload,
        house::confirm,
        house::log_level,
        house::change_log_level,
    )
)]
struct Description;

pub(super) async fn show() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}
