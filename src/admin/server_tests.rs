//! The bounds on the time of a connection, on a clock that goes on when nothing happens.

use super::*;
use crate::admin::api::AdminState;
use crate::base::ShardId;
use crate::broker::questions::{Answer, ShardFigures};
use crate::control::access_policies::AccessPolicies;
use crate::control::housekeeping;
use crate::control::logins::Logins;
use crate::control::questions::Asked;
use crate::settings::Config;
use axum::routing::get;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle as Task;

type SharedBox = Arc<Mutex<Option<Receiver<Asked>>>>;

/// A broker whose shards answer at once that they are alive, except those named.
fn state(silent: &[bool]) -> Arc<AdminState> {
    state_of(silent, |_| Answer::Alive)
}

/// A broker whose shards give this answer at once, except those named.
fn state_of(silent: &[bool], answer: fn(ShardId) -> Answer) -> Arc<AdminState> {
    let boxes: Vec<SharedBox> = silent.iter().map(|_| SharedBox::default()).collect();
    let bells = (0..).zip(boxes.iter().zip(silent)).map(
        |(shard, (asked, &is_silent))| -> Arc<dyn Fn() + Send + Sync> {
            let asked = Arc::clone(asked);
            Arc::new(move || {
                let asked = asked.lock().unwrap();
                if let Some(asked) =
                    asked.as_ref().filter(|_| !is_silent).and_then(|asked| asked.try_recv().ok())
                {
                    (asked.answer)(answer(shard));
                }
            })
        },
    );
    let (questions, receivers) = Questions::new(bells);
    for (asked, receiver) in boxes.iter().zip(receivers) {
        *asked.lock().unwrap() = Some(receiver);
    }
    let config = Config::default();
    let policies = AccessPolicies::load(&config).unwrap();
    let logins = Logins::start(&policies).unwrap();
    let control = Arc::new(Control::new(&config, policies, 1, Box::new(logins), 7));
    let shared = Arc::new(Shared::new(config, silent.len(), 7).0);
    let (stop, clock) = (Box::new(|| {}), Box::new(|| Time::ZERO));
    let (logins, log_lines) = (Arc::default(), Box::new(|| 0));
    let house = housekeeping::requests().0;
    let parts =
        AdminParts { questions, control, shared, checkpoint: None, logins, log_lines, stop, house, clock };
    Arc::new(AdminState::new(parts, None))
}

/// A served connection, and the time at which it ends.
struct Conversation {
    stream: DuplexStream,
    served: Task<Duration>,
    state: Arc<AdminState>,
}

/// The number of bytes that wait between the ends.
const PIPE_BYTES: usize = 1024;

fn converse(state: Arc<AdminState>, router: Router) -> Conversation {
    let (stream, other) = duplex(PIPE_BYTES);
    let door = Arc::new(Door { router, guard: Guard { remote: None }, state: Arc::clone(&state) });
    let served = tokio::spawn(async move {
        let began = Instant::now();
        serve(other, AdminPeer::Local, &door).await;
        began.elapsed()
    });
    Conversation { stream, served, state }
}

impl Conversation {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The first bytes of an answer.
    async fn answer(&mut self) -> String {
        let mut bytes = vec![0; PIPE_BYTES];
        let length = self.stream.read(&mut bytes).await.unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// Waits until the server has ended the connection. Returns the seconds since its beginning.
    async fn end(self, event: AdminEvent) -> u64 {
        let after = self.served.await.unwrap();
        assert_eq!(self.state.counts.count(event), 1, "{event:?}");
        after.as_secs()
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(test());
}

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn health_names_the_shards_that_do_not_turn() {
    run(|| async {
        for (silent, status, words) in [
            (&[false, false][..], "200 OK", "{\"status\":\"ok\"}"),
            (&[false, true, true], "503 ", "no answer within 1 s from shard 1, 2"),
        ] {
            let state = state(silent);
            let mut talk = converse(Arc::clone(&state), api::router(state));
            talk.send(GET).await;
            let answer = talk.answer().await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(words), "{answer}");
        }
    });
}

#[test]
fn readiness_names_shards_whose_log_has_failed_or_that_do_not_turn() {
    let figures = |shard| {
        Answer::Shard(Box::new(ShardFigures {
            shard,
            connections: 0,
            connections_by_listener: Vec::new(),
            handshakes: 0,
            sessions: 0,
            subscriptions: 0,
            retained: 0,
            kept_bytes: 0,
            journal_bytes: 0,
            has_log_failed: shard == 1,
        }))
    };
    run(|| async move {
        for (silent, settled, status, words) in [
            (&[false][..], 1, "200 OK", "\"ready\""),
            (&[false, false], 2, "503 ", "the log of shard 1 has failed"),
            (&[false, true], 2, "503 ", "shard 1 does not answer"),
            (&[false, false], 1, "503 ", "1 of 2 shards have restored their sessions"),
        ] {
            let state = state_of(silent, figures);
            state.parts.control.settled.store(settled, Ordering::Release);
            let mut talk = converse(Arc::clone(&state), api::router(state));
            talk.send(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let answer = talk.answer().await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(words), "{answer}");
        }
    });
}

#[test]
fn a_header_ends_within_its_time_also_behind_other_requests() {
    run(|| async {
        let state = state(&[false]);
        let mut talk = converse(Arc::clone(&state), api::router(state));
        talk.send(GET).await;
        assert!(talk.answer().await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_secs(20)).await;
        talk.send(b"GET /healthz").await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        talk.send(b" HTTP/1.1\r\n").await;
        assert_eq!(talk.end(AdminEvent::HeaderTime).await, 25);
    });
}

#[test]
fn a_connection_without_requests_ends() {
    run(|| async {
        let state = state(&[false]);
        let mut talk = converse(Arc::clone(&state), api::router(state));
        tokio::time::sleep(Duration::from_secs(4)).await;
        talk.send(GET).await;
        assert!(talk.answer().await.starts_with("HTTP/1.1 200"));
        assert_eq!(talk.end(AdminEvent::Idle).await, 64);
    });
}

#[test]
fn a_request_that_is_not_answered_is_refused() {
    run(|| async {
        let router = Router::new().route("/healthz", get(async || std::future::pending::<()>().await));
        let mut talk = converse(state(&[false]), router);
        talk.send(GET).await;
        let began = Instant::now();
        let answer = talk.answer().await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("did not answer in time"), "{answer}");
        assert_eq!(began.elapsed().as_secs(), REQUEST_TIME.as_secs());
        assert_eq!(talk.state.counts.count(AdminEvent::RequestTime), 1);
    });
}

#[test]
fn a_client_that_does_not_read_its_answer_is_left() {
    run(|| async {
        let router = Router::new().route("/healthz", get(async || "x".repeat(1_000_000)));
        let mut talk = converse(state(&[false]), router);
        talk.send(GET).await;
        talk.answer().await;
        assert_eq!(talk.end(AdminEvent::RequestTime).await, 35);
    });
}

#[test]
fn a_refusal_of_too_many_connections_is_complete() {
    let text = std::str::from_utf8(TOO_MANY).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
}
