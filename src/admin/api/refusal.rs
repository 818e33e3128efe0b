//! Why a request gets no answer, as JSON with a status.

use super::error;
use crate::broker::questions::Answer;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// See the module.
#[derive(Debug)]
pub(super) struct ApiRefusal {
    status: StatusCode,
    words: String,
}

impl ApiRefusal {
    fn new(status: StatusCode, words: impl Into<String>) -> ApiRefusal {
        ApiRefusal { status, words: words.into() }
    }

    /// Something in the request is wrong.
    pub(super) fn bad(words: impl Into<String>) -> ApiRefusal {
        ApiRefusal::new(StatusCode::BAD_REQUEST, words)
    }

    /// What the request is about is not there.
    pub(super) fn missing(words: impl Into<String>) -> ApiRefusal {
        ApiRefusal::new(StatusCode::NOT_FOUND, words)
    }

    /// The files of the operator are wrong.
    pub(super) fn wrong_files(words: impl Into<String>) -> ApiRefusal {
        ApiRefusal::new(StatusCode::UNPROCESSABLE_ENTITY, words)
    }

    /// Something else must be done before.
    pub(super) fn conflict(words: impl Into<String>) -> ApiRefusal {
        ApiRefusal::new(StatusCode::CONFLICT, words)
    }

    /// The broker can't do it now.
    pub(super) fn unavailable(words: impl Into<String>) -> ApiRefusal {
        ApiRefusal::new(StatusCode::SERVICE_UNAVAILABLE, words)
    }

    /// A shard has answered another question.
    pub(super) fn unexpected(answer: &Answer) -> ApiRefusal {
        let words = match answer {
            Answer::Failed(violation) => format!("it was done, and the log has failed: {violation}"),
            _ => "a shard has given an answer to another question".to_owned(),
        };
        ApiRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, words)
    }
}

impl IntoResponse for ApiRefusal {
    fn into_response(self) -> Response {
        error(self.status, &self.words)
    }
}
