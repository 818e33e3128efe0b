//! The bounds of the admin interface. Each has a counter, and a log line that is not written more than once in a while.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The number of connections. Further ones get 503 and are closed.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// The time for the header of a request, from its first byte or, for the first request, from the start of the
/// connection. Then the connection is closed.
pub(super) const HEADER_TIME: Duration = Duration::from_secs(5);
/// The size of the header of a request. A larger one gets 431.
pub(super) const HEADER_BYTES_MAX: usize = 16 * 1024;
/// The number of header fields. A request with more gets 431.
pub(super) const HEADER_FIELDS_MAX: usize = 64;
/// The time from the end of the header until the answer is there. Then the client gets 503.
pub(super) const REQUEST_TIME: Duration = Duration::from_secs(30);
/// The time that the client has to take an answer, beyond [`REQUEST_TIME`]. Then the connection is closed.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The size of the body of a request. A larger one gets 413.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The time between two requests. Then the connection is closed.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(60);

/// The time between two log lines about the same thing.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// What is counted and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdminEvent {
    /// [`CONNECTIONS_MAX`] was reached.
    Connections,
    /// [`HEADER_TIME`] has passed.
    HeaderTime,
    /// [`HEADER_BYTES_MAX`] or [`HEADER_FIELDS_MAX`] was exceeded.
    Header,
    /// [`REQUEST_TIME`] or [`ANSWER_TIME`] has passed.
    RequestTime,
    /// [`BODY_BYTES_MAX`] was exceeded.
    Body,
    /// [`IDLE_TIME`] has passed.
    Idle,
    /// A request without a known token.
    LoginFailed,
    /// A TLS handshake that has failed.
    TlsFailed,
    /// A request that its sender may not make.
    Forbidden,
    /// A connection could not be accepted.
    AcceptFailed,
}

impl AdminEvent {
    /// The bounds, in order, and their names in the metrics.
    pub(super) const LIMITS: [(AdminEvent, &'static str); 6] = [
        (AdminEvent::Connections, "connections"),
        (AdminEvent::HeaderTime, "header_time"),
        (AdminEvent::Header, "header_size"),
        (AdminEvent::RequestTime, "request_time"),
        (AdminEvent::Body, "body_size"),
        (AdminEvent::Idle, "idle_time"),
    ];
    const ALL: usize = AdminEvent::AcceptFailed as usize + 1;

    /// What a log line says.
    fn words(self) -> String {
        let seconds = |time: Duration| time.as_secs();
        match self {
            AdminEvent::Connections => {
                format!(
                    "{CONNECTIONS_MAX} connections are open, the largest number; another one is refused with 503"
                )
            }
            AdminEvent::HeaderTime => {
                format!("a header did not end within {} s; the connection is closed", seconds(HEADER_TIME))
            }
            AdminEvent::Header => format!(
                "a header had more than {HEADER_BYTES_MAX} bytes or {HEADER_FIELDS_MAX} fields; it is refused with 431"
            ),
            AdminEvent::RequestTime => format!(
                "a request was not answered within {} s, or its answer not read; it has ended",
                seconds(REQUEST_TIME)
            ),
            AdminEvent::Body => {
                format!("a body had more than {BODY_BYTES_MAX} bytes; the request is refused with 413")
            }
            AdminEvent::Idle => {
                format!("no request within {} s; the connection is closed", seconds(IDLE_TIME))
            }
            AdminEvent::LoginFailed => "a request without a known token is refused with 401".to_owned(),
            AdminEvent::TlsFailed => "a TLS handshake has failed".to_owned(),
            AdminEvent::Forbidden => "a request is refused with 403".to_owned(),
            AdminEvent::AcceptFailed => "a connection can't be accepted".to_owned(),
        }
    }
}

/// Counts what happens.
#[derive(Default)]
pub(super) struct AdminCounts {
    events: [AtomicU64; AdminEvent::ALL],
    lines: [Mutex<Line>; AdminEvent::ALL],
    /// Requests that were answered, whatever the answer.
    pub(super) requests: AtomicU64,
    /// Connections that are open.
    pub(super) open: AtomicUsize,
}

/// The last log line about something.
#[derive(Default)]
struct Line {
    written: Option<Instant>,
    left_out: u64,
}

impl AdminCounts {
    /// Counts and logs something. `detail` says who it was and why; it must not contain a token.
    pub(super) fn note(&self, event: AdminEvent, now: Instant, detail: &str) {
        let index = event as usize;
        let (Some(count), Some(line)) = (self.events.get(index), self.lines.get(index)) else { return };
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = line.lock().unwrap_or_else(PoisonError::into_inner).due(now) {
            let words = event.words();
            match (event, left_out) {
                (AdminEvent::Idle, _) => tracing::debug!("admin interface: {words} ({detail})"),
                (_, 0) => tracing::warn!("admin interface: {words} ({detail})"),
                (_, more) => tracing::warn!(
                    "admin interface: {words} ({detail}; {more} times more since the last line)"
                ),
            }
        }
    }

    /// How often something has happened.
    pub(super) fn count(&self, event: AdminEvent) -> u64 {
        self.events.get(event as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl Line {
    /// Returns the number of lines that were left out if another one may be written.
    fn due(&mut self, now: Instant) -> Option<u64> {
        if self.written.is_some_and(|written| now.saturating_duration_since(written) < LINE_INTERVAL) {
            self.left_out += 1;
            return None;
        }
        self.written = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_logged_once_in_a_while() {
        let (mut line, start) = (Line::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(line.due(start), Some(0));
        for _ in 0..100 {
            assert_eq!(line.due(after(1)), None);
        }
        assert_eq!(line.due(after(10)), Some(100));
        assert_eq!((line.due(after(11)), line.due(after(21))), (None, Some(1)));
        let counts = AdminCounts::default();
        for _ in 0..3 {
            counts.note(AdminEvent::AcceptFailed, start, "");
        }
        assert_eq!((counts.count(AdminEvent::AcceptFailed), counts.count(AdminEvent::Idle)), (3, 0));
    }

    #[test]
    fn a_limit_is_listed_at_its_place() {
        for (index, (event, _)) in AdminEvent::LIMITS.into_iter().enumerate() {
            assert_eq!(event as usize, index);
        }
    }
}
