//! The dashboard: a page of the admin interface for people. Its files are in the binary and hold no secret, so they are
//! served without a token. What they show comes from the API, for which the page asks for a token.

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY};
use axum::http::{HeaderValue, Method, Response};
use axum::routing::get;

/// The page and what it loads: path, media type, content.
const FILES: [(&str, &str, &str); 14] = [
    ("/", HTML, include_str!("index.html")),
    ("/dashboard/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("/dashboard/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/dashboard/app.js", SCRIPT, include_str!("app.js")),
    ("/dashboard/api.js", SCRIPT, include_str!("api.js")),
    ("/dashboard/dom.js", SCRIPT, include_str!("dom.js")),
    ("/dashboard/plot.js", SCRIPT, include_str!("plot.js")),
    ("/dashboard/overview.js", SCRIPT, include_str!("overview.js")),
    ("/dashboard/clients.js", SCRIPT, include_str!("clients.js")),
    ("/dashboard/client.js", SCRIPT, include_str!("client.js")),
    ("/dashboard/topics.js", SCRIPT, include_str!("topics.js")),
    ("/dashboard/broker.js", SCRIPT, include_str!("broker.js")),
    ("/dashboard/console.js", SCRIPT, include_str!("console.js")),
    ("/dashboard/mqtt.js", SCRIPT, include_str!("mqtt.js")),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What the page may do: run its own scripts, ask its own server, and open WebSockets for its console.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws: \
     wss:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'";

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// Whether a request is for a file of the dashboard. Everybody may have them.
pub(super) fn is_file(method: &Method, path: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD) && FILES.iter().any(|(known, ..)| *known == path)
}

/// Adds the files to the paths.
pub(super) fn with_files<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    FILES.iter().fold(router, |router, &(path, kind, content)| {
        router.route(path, get(async move || file(kind, content)))
    })
}

fn file(kind: &'static str, content: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(content));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(OPENER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_no_inline_code_and_no_foreign_address() {
        for (path, kind, content) in FILES {
            for forbidden in [
                "http://",
                "https://",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
                "document.write",
            ] {
                let allowed = path.ends_with(".svg") || (path.ends_with("dom.js") && forbidden == "http://");
                assert!(allowed || !content.contains(forbidden), "{forbidden} in {path}");
            }
            assert!(
                kind != HTML
                    || !(content.contains("<style")
                        || content.contains(" style=")
                        || content.contains(" on")),
                "{path}"
            );
        }
    }

    #[test]
    fn each_module_that_is_imported_is_served() {
        for (path, kind, content) in FILES {
            let imports =
                content.lines().filter(|line| kind == SCRIPT && line.starts_with("import ")).map(|line| {
                    let from = line.rsplit("\"./").next().unwrap_or_default();
                    from.trim_end_matches("\";")
                });
            for import in imports {
                let wanted = format!("/dashboard/{import}");
                assert!(FILES.iter().any(|(known, ..)| *known == wanted), "{path} imports {wanted}");
            }
        }
    }
}
