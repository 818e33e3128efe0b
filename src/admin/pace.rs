//! The pace that a client of the admin interface must keep: a connection whose header, or whose reading of an answer,
//! takes too long fails with a time-out. The time between two requests is hyper's to bound.

use super::limits::{ANSWER_TIME, AdminEvent, HEADER_TIME, REQUEST_TIME};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What a connection is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client sends a header.
    Header {
        /// When it must have ended.
        until: Instant,
    },
    /// A request is being answered.
    Answer {
        /// When the client must have taken the answer.
        until: Instant,
    },
    /// The answer is complete, and not all of it is in the socket.
    Flush {
        /// As with `Answer`.
        until: Instant,
    },
    /// The client may send another request.
    Idle,
}

/// The phase of a connection. The connection and its requests share it.
#[derive(Clone)]
pub(super) struct ConnectionPace(Arc<Mutex<Phase>>);

impl ConnectionPace {
    /// A connection has begun.
    pub(super) fn new(now: Instant) -> ConnectionPace {
        ConnectionPace(Arc::new(Mutex::new(Phase::Header { until: now + HEADER_TIME })))
    }

    /// The header is complete.
    pub(super) fn begin_answer(&self, now: Instant) {
        self.set(Phase::Answer { until: now + REQUEST_TIME + ANSWER_TIME });
    }

    /// The answer is complete.
    pub(super) fn end_answer(&self) {
        let mut phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Phase::Answer { until } = *phase {
            *phase = Phase::Flush { until };
        }
    }

    /// Everything that was written is in the socket.
    fn note_flushed(&self) {
        let mut phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*phase, Phase::Flush { .. }) {
            *phase = Phase::Idle;
        }
    }

    /// Bytes have come from the client.
    fn note_bytes(&self, now: Instant) {
        let mut phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase == Phase::Idle {
            *phase = Phase::Header { until: now + HEADER_TIME };
        }
    }

    fn phase(&self) -> Phase {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// When the connection ends unless the phase has changed, and what is counted then.
    fn deadline(&self) -> Option<(Instant, AdminEvent)> {
        match self.phase() {
            Phase::Header { until } => Some((until, AdminEvent::HeaderTime)),
            Phase::Answer { until } | Phase::Flush { until } => Some((until, AdminEvent::RequestTime)),
            Phase::Idle => None,
        }
    }
}

/// A stream that fails when its peer is too slow.
pub(super) struct Paced<S> {
    stream: S,
    pace: ConnectionPace,
    sleep: Pin<Box<Sleep>>,
    /// Called with the bound that was passed.
    late: Box<dyn Fn(AdminEvent) + Send>,
}

impl<S> Paced<S> {
    pub(super) fn new(
        stream: S,
        pace: ConnectionPace,
        now: Instant,
        late: impl Fn(AdminEvent) + Send + 'static,
    ) -> Paced<S> {
        Paced { stream, pace, sleep: Box::pin(sleep_until(now)), late: Box::new(late) }
    }

    /// While the stream has nothing to do: an error if the peer is late, otherwise a wake-up for when it will be.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some((until, event)) = self.pace.deadline() else { return Poll::Pending };
        if self.sleep.deadline() != until {
            self.sleep.as_mut().reset(until);
        }
        ready!(self.sleep.as_mut().poll(cx));
        (self.late)(event);
        // It is reported once.
        self.pace.set(Phase::Idle);
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(done) => {
                self.pace.note_bytes(Instant::now());
                Poll::Ready(done)
            }
            Poll::Pending => self.poll_late(cx).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => self.poll_late(cx).map(Err),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper calls this when it has written everything that it holds.
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.pace.note_flushed();
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_header_has_its_time_and_so_has_an_answer_and_a_pause_has_none_of_ours() {
        let start = Instant::now();
        let pace = ConnectionPace::new(start);
        assert_eq!(pace.deadline(), Some((start + HEADER_TIME, AdminEvent::HeaderTime)));
        let later = start + Duration::from_secs(1);
        pace.note_bytes(later);
        assert_eq!(
            pace.deadline(),
            Some((start + HEADER_TIME, AdminEvent::HeaderTime)),
            "no byte prolongs it"
        );
        pace.begin_answer(later);
        let until = later + REQUEST_TIME + ANSWER_TIME;
        pace.note_bytes(later);
        assert_eq!(pace.deadline(), Some((until, AdminEvent::RequestTime)), "a body or another request");
        pace.note_flushed();
        pace.end_answer();
        assert_eq!(pace.deadline(), Some((until, AdminEvent::RequestTime)), "the client has not taken it");
        pace.note_flushed();
        assert_eq!(pace.deadline(), None);
        pace.note_bytes(later);
        assert_eq!(pace.deadline(), Some((later + HEADER_TIME, AdminEvent::HeaderTime)));
    }
}
