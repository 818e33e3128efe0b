//! The meaning of the server's answer. It depends on the status, the body and the clock only. Anything
//! unexpected is an error, so that nobody is admitted by mistake.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{WebhookAnswer, WebhookGrant};

/// The body of an answer.
pub(super) enum Body {
    /// The complete body.
    Whole(Vec<u8>),
    /// The body was longer than the limit.
    TooLong,
}

/// Reads an answer. An `allow` that has expired at the wall clock `now_unix_seconds` counts as `deny`.
pub(super) fn read(status: u16, body: Body, now_unix_seconds: u64) -> Result<WebhookAnswer, String> {
    match (status, body) {
        (401 | 403, _) => Ok(WebhookAnswer::Deny),
        (200, Body::Whole(bytes)) => decision(&bytes, now_unix_seconds),
        (204, Body::Whole(_)) => Ok(WebhookAnswer::Allow(Arc::default())),
        (200 | 204, Body::TooLong) => Err("its answer is longer than 64 KiB".into()),
        (300..=399, _) => Err(format!("it redirects (status {status}), which is not followed")),
        _ => Err(format!("it answers with status {status}")),
    }
}

fn decision(bytes: &[u8], now_unix_seconds: u64) -> Result<WebhookAnswer, String> {
    let answer: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|_| "its answer is no JSON object".to_owned())?;
    match member(&answer, "result").and_then(Value::as_str) {
        Some("deny") => Ok(WebhookAnswer::Deny),
        Some("ignore") => Ok(WebhookAnswer::Ignore),
        Some("allow") => {
            let grant = grant(&answer).map_err(|name| format!("its answer has an unusable \"{name}\""))?;
            if grant.expires_at.is_some_and(|end| end <= now_unix_seconds) {
                return Ok(WebhookAnswer::Deny);
            }
            Ok(WebhookAnswer::Allow(Arc::new(grant)))
        }
        _ => Err("its answer has no \"result\" of \"allow\", \"deny\" or \"ignore\"".into()),
    }
}

/// The details of an `allow`. The error is the name of the member that can't be used.
fn grant(answer: &Map<String, Value>) -> Result<WebhookGrant, &'static str> {
    let user = match member(answer, "user") {
        None => None,
        Some(Value::String(user)) if !user.is_empty() && !user.contains(char::is_control) => {
            Some(user.clone())
        }
        Some(_) => return Err("user"),
    };
    let expires_at = match member(answer, "expires_at") {
        None => None,
        Some(end) => Some(end.as_u64().ok_or("expires_at")?),
    };
    let (publish, subscribe) = match member(answer, "acl") {
        None => (None, None),
        Some(Value::Object(acl)) => (filters(acl, "publish")?, filters(acl, "subscribe")?),
        Some(_) => return Err("acl"),
    };
    Ok(WebhookGrant { user, expires_at, publish, subscribe })
}

fn filters(acl: &Map<String, Value>, name: &'static str) -> Result<Option<Vec<String>>, &'static str> {
    match member(acl, name) {
        None => Ok(None),
        Some(Value::Array(filters)) => {
            let strings = filters.iter().map(|filter| filter.as_str().map(str::to_owned));
            strings.collect::<Option<_>>().map(Some).ok_or(name)
        }
        Some(_) => Err(name),
    }
}

/// A member of an object. `null` counts as missing.
fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;

    fn answer(status: u16, body: &str) -> Result<WebhookAnswer, String> {
        read(status, Body::Whole(body.as_bytes().to_vec()), 1_000)
    }

    fn allowed(body: &str) -> WebhookGrant {
        match answer(200, body).unwrap() {
            WebhookAnswer::Allow(grant) => WebhookGrant::clone(&grant),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_decision_is_read_with_what_comes_along() {
        assert_eq!(allowed(r#"{"result":"allow"}"#), WebhookGrant::default());
        assert_eq!(
            allowed(r#"{"result":"allow","user":null,"acl":null,"more":[1]}"#),
            WebhookGrant::default()
        );
        let grant = allowed(
            r#"{"result":"allow","user":"u","expires_at":1001,"acl":{"publish":["a/#"],"subscribe":[]}}"#,
        );
        assert_eq!(grant.user.as_deref(), Some("u"));
        assert_eq!(grant.expires_at, Some(1_001));
        assert_eq!(grant.publish, Some(vec!["a/#".to_owned()]));
        assert_eq!(grant.subscribe, Some(Vec::new()));
        assert_eq!(answer(200, r#"{"result":"deny","user":7}"#), Ok(WebhookAnswer::Deny));
        assert_eq!(answer(200, r#" {"result":"ignore"} "#), Ok(WebhookAnswer::Ignore));
        assert_eq!(answer(200, r#"{"result":"allow","expires_at":1000}"#), Ok(WebhookAnswer::Deny));
        assert_eq!(answer(204, ""), Ok(WebhookAnswer::Allow(Arc::default())));
        for status in [401, 403] {
            assert_eq!(answer(status, r#"{"result":"allow"}"#), Ok(WebhookAnswer::Deny));
            assert_eq!(read(status, Body::TooLong, 0), Ok(WebhookAnswer::Deny));
        }
    }

    #[test]
    fn what_was_not_agreed_is_an_error() {
        for status in [0, 100, 199, 201, 202, 206, 301, 302, 307, 308, 400, 404, 429, 500, 502, 503, 999] {
            assert!(answer(status, r#"{"result":"allow"}"#).is_err(), "{status}");
        }
        for body in [
            "",
            "allow",
            "\"allow\"",
            "[]",
            "{}",
            "null",
            r#"{"result":"Allow"}"#,
            r#"{"result":true}"#,
            r#"{"result":["allow"]}"#,
            r#"{"result":"allow"} {"#,
            r#"{"result":"allow""#,
            r#"{"result":"allow","user":""}"#,
            r#"{"result":"allow","user":"a\nb"}"#,
            r#"{"result":"allow","user":1}"#,
            r#"{"result":"allow","expires_at":"1001"}"#,
            r#"{"result":"allow","expires_at":-1}"#,
            r#"{"result":"allow","expires_at":1001.5}"#,
            r#"{"result":"allow","acl":[]}"#,
            r#"{"result":"allow","acl":{"publish":"a"}}"#,
            r#"{"result":"allow","acl":{"subscribe":[1]}}"#,
        ] {
            assert!(answer(200, body).is_err(), "{body}");
        }
        assert!(read(200, Body::TooLong, 0).is_err());
        assert!(read(200, Body::Whole(vec![0xff; 9]), 0).is_err());
        let deep = format!(r#"{{"result":"allow","x":{}"#, "[".repeat(60_000));
        assert!(answer(200, &deep).is_err());
    }

    #[test]
    fn fifty_thousand_mutated_answers_do_not_panic() {
        let whole =
            br#"{"result":"allow","user":"u","expires_at":2000,"acl":{"publish":["a/#"],"subscribe":["b"]}}"#;
        let mut random = Random::new(1);
        let mut next = |bound: usize| random.index(bound.max(1));
        let mut allowed = 0;
        for _ in 0..50_000 {
            let mut body = whole.to_vec();
            for _ in 0..=next(4) {
                let at = next(body.len());
                match next(4) {
                    0 if !body.is_empty() => body[at] = next(256) as u8,
                    1 if !body.is_empty() => drop(body.remove(at)),
                    2 => body.insert(at, b"{}[]\",:0-\\ue"[next(12)]),
                    _ => body.truncate(body.len() - next(3).min(body.len())),
                }
            }
            let status = [200, 200, 200, 204, 401, 500][next(6)];
            allowed +=
                usize::from(matches!(read(status, Body::Whole(body), 1_000), Ok(WebhookAnswer::Allow(_))));
        }
        assert!(allowed > 0, "some mutations are harmless");
    }
}
