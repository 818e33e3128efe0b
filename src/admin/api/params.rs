//! The parameters of requests. What is wrong with them is said in JSON, like all answers.

use super::ApiRefusal;
use crate::broker::questions::PAGE_MAX;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

/// The parameters after the question mark.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiRefusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Params<T>, ApiRefusal> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Params(params)),
            Err(rejection) => Err(ApiRefusal::bad(rejection.body_text())),
        }
    }
}

/// The body of a request, as JSON whatever its content type.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiRefusal;

    async fn from_request(request: Request, state: &S) -> Result<JsonBody<T>, ApiRefusal> {
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| ApiRefusal::bad(rejection.body_text()))?;
        match Json::from_bytes(&body) {
            Ok(Json(order)) => Ok(JsonBody(order)),
            Err(rejection) => Err(ApiRefusal::bad(rejection.body_text())),
        }
    }
}

/// The length of a page if nobody says otherwise.
const PAGE: usize = 100;

/// The length of a page.
pub(super) fn page_length(limit: Option<usize>) -> Result<usize, ApiRefusal> {
    let limit = limit.unwrap_or(PAGE);
    if (1..=PAGE_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiRefusal::bad(format!("limit must be from 1 to {PAGE_MAX}, and is {limit}")))
}
