//! The traces that run: what each one shows, and its lines until they are read.
//!
//! A trace ends at its time, at an order, or when nobody reads it. Its lines are bounded in number, size and rate.

use crate::base::Time;
use crate::broker::trace::{
    TRACED_PAYLOAD_BYTES_MAX, TRACED_PER_SECOND_MAX, TRACES_MAX, TraceDirection, TraceId, TraceLine,
    TraceOrder, TracePage, TraceTarget,
};
use crate::mqtt::filter_matches;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

/// The number of lines of a trace that wait to be read.
const LINES_WAITING_MAX: usize = 2000;
/// Their size in bytes.
const BYTES_WAITING_MAX: usize = 1 << 20;
/// A trace that is not read for so long ends: whoever has begun it is gone.
const UNREAD_MILLIS_MAX: u64 = 15_000;

/// See the module.
#[derive(Default)]
pub(in crate::broker) struct Traces {
    list: Vec<RunningTrace>,
}

struct RunningTrace {
    order: TraceOrder,
    until: Time,
    read_at: Time,
    lines: VecDeque<TraceLine>,
    bytes: usize,
    left_out: u64,
    /// The second of the shard's clock that is counted, and the lines in it.
    second: u64,
    in_second: u32,
}

/// Who and what something is about. It is shown by each trace of one of them.
#[derive(Clone, Copy, Default)]
pub(in crate::broker) struct TraceAbout<'a> {
    pub client: Option<&'a str>,
    pub peer: Option<SocketAddr>,
    pub topic: Option<&'a str>,
    /// The client that has published what `client` receives.
    pub publisher: Option<&'a str>,
}

/// What is shown.
pub(in crate::broker) struct TraceSight<'a> {
    pub direction: TraceDirection,
    pub what: &'static str,
    pub words: String,
    pub bytes: usize,
    pub payload: &'a [u8],
}

impl TraceSight<'_> {
    /// A decision.
    pub(in crate::broker) fn inside(what: &'static str, words: impl Into<String>) -> TraceSight<'static> {
        TraceSight { direction: TraceDirection::Inside, what, words: words.into(), bytes: 0, payload: &[] }
    }
}

impl Traces {
    /// Whether any trace runs. All else is asked only if one does.
    #[inline(always)]
    pub(in crate::broker) fn is_on(&self) -> bool {
        !self.list.is_empty()
    }

    /// Begins a trace. Returns false if as many run as may.
    pub(in crate::broker) fn begin(&mut self, now: Time, order: TraceOrder) -> bool {
        self.end_late(now);
        if self.list.len() >= TRACES_MAX {
            return false;
        }
        self.list.push(RunningTrace {
            until: now.after_seconds(order.seconds),
            order,
            read_at: now,
            lines: VecDeque::new(),
            bytes: 0,
            left_out: 0,
            second: 0,
            in_second: 0,
        });
        true
    }

    /// Takes the lines of a trace. `None` if it has ended.
    pub(in crate::broker) fn read(&mut self, now: Time, id: TraceId) -> Option<TracePage> {
        let trace = self.list.iter_mut().find(|trace| trace.order.id == id)?;
        trace.read_at = now;
        trace.bytes = 0;
        let page = TracePage {
            lines: std::mem::take(&mut trace.lines).into(),
            left_out: std::mem::take(&mut trace.left_out),
        };
        let is_over = now >= trace.until && page.lines.is_empty();
        self.end_late(now);
        (!is_over).then_some(page)
    }

    /// Ends a trace. Its lines are lost.
    pub(in crate::broker) fn end(&mut self, id: TraceId) {
        self.list.retain(|trace| trace.order.id != id);
    }

    /// Ends traces that nobody reads. One whose time is over keeps its lines until they are read.
    fn end_late(&mut self, now: Time) {
        self.list.retain(|trace| now.millis_since(trace.read_at) < UNREAD_MILLIS_MAX);
    }

    /// Whether a trace shows topics, so that every message may matter.
    pub(in crate::broker) fn follows_topics(&self) -> bool {
        self.list.iter().any(|trace| matches!(trace.order.target, TraceTarget::Topic(_)))
    }

    /// Whether a trace shows what is about this.
    pub(in crate::broker) fn follows(&self, about: &TraceAbout<'_>) -> bool {
        self.list.iter().any(|trace| trace.follows(about))
    }

    /// Shows something to the traces that follow it.
    pub(in crate::broker) fn show(&mut self, now: Time, about: &TraceAbout<'_>, sight: &TraceSight<'_>) {
        self.end_late(now);
        for trace in &mut self.list {
            if trace.follows(about) && now < trace.until {
                trace.add(now, about, sight);
            }
        }
    }

    /// Notes lines that were not even made.
    pub(in crate::broker) fn leave_out(&mut self, lines: u64) {
        for trace in &mut self.list {
            trace.left_out += lines;
        }
    }
}

impl RunningTrace {
    fn follows(&self, about: &TraceAbout<'_>) -> bool {
        match &self.order.target {
            TraceTarget::Client(client) => [about.client, about.publisher].contains(&Some(client)),
            TraceTarget::Topic(filter) => about.topic.is_some_and(|topic| filter_matches(filter, topic)),
            TraceTarget::Address(address) => about.peer.is_some_and(|peer| same(peer.ip(), *address)),
        }
    }

    fn add(&mut self, now: Time, about: &TraceAbout<'_>, sight: &TraceSight<'_>) {
        let second = now.millis_since(Time::ZERO) / 1000;
        if self.second != second {
            (self.second, self.in_second) = (second, 0);
        }
        let payload = &sight.payload[..sight.payload.len().min(TRACED_PAYLOAD_BYTES_MAX)];
        let shows_payload = self.order.shows_payload && !payload.is_empty();
        let client = about.client.unwrap_or_default();
        let bytes = size_of::<TraceLine>() + client.len() + sight.words.len() + payload.len();
        if self.in_second >= TRACED_PER_SECOND_MAX
            || self.lines.len() >= LINES_WAITING_MAX
            || self.bytes + bytes > BYTES_WAITING_MAX
        {
            self.left_out += 1;
            return;
        }
        self.in_second += 1;
        self.bytes += bytes;
        self.lines.push_back(TraceLine {
            at: now,
            client: client.into(),
            peer: about.peer,
            direction: sight.direction,
            what: sight.what,
            words: sight.words.as_str().into(),
            bytes: sight.bytes,
            payload: shows_payload.then(|| payload.into()),
        });
    }
}

/// Whether two addresses are one, whichever way an IPv4 address is written.
fn same(one: IpAddr, other: IpAddr) -> bool {
    one.to_canonical() == other.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(id: u64, target: TraceTarget) -> TraceOrder {
        TraceOrder { id: TraceId(id), target, shows_payload: true, seconds: 60 }
    }

    fn seconds(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    fn lines(traces: &mut Traces, now: Time, id: u64) -> Option<usize> {
        traces.read(now, TraceId(id)).map(|page| page.lines.len())
    }

    #[test]
    fn a_trace_shows_what_it_follows_and_nothing_else() {
        let mut traces = Traces::default();
        assert!(!traces.is_on());
        assert!(traces.begin(seconds(1), order(1, TraceTarget::Client("c".into()))));
        assert!(traces.begin(seconds(1), order(2, TraceTarget::Topic("a/+".into()))));
        assert!(traces.begin(seconds(1), order(3, TraceTarget::Address([192, 0, 2, 1].into()))));
        assert!(traces.is_on() && traces.follows_topics());
        let peer = Some("[::ffff:192.0.2.1]:9".parse().expect("an address"));
        for (about, expected) in [
            (TraceAbout { client: Some("c"), ..TraceAbout::default() }, [1, 0, 0]),
            (TraceAbout { publisher: Some("c"), client: Some("d"), ..TraceAbout::default() }, [1, 0, 0]),
            (TraceAbout { topic: Some("a/b"), ..TraceAbout::default() }, [0, 1, 0]),
            (TraceAbout { topic: Some("b"), peer, ..TraceAbout::default() }, [0, 0, 1]),
            (TraceAbout::default(), [0, 0, 0]),
        ] {
            assert_eq!(traces.follows(&about), expected != [0, 0, 0]);
            traces.show(seconds(2), &about, &TraceSight::inside("decided", "so"));
            let shown = [1, 2, 3].map(|id| lines(&mut traces, seconds(2), id));
            assert_eq!(shown, expected.map(Some));
        }
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let mut traces = Traces::default();
        let about = TraceAbout { client: Some("c"), ..TraceAbout::default() };
        traces.begin(seconds(1), order(1, TraceTarget::Client("c".into())));
        let sight = TraceSight { payload: &[7; 300], ..TraceSight::inside("decided", "so") };
        for _ in 0..TRACED_PER_SECOND_MAX + 5 {
            traces.show(seconds(1), &about, &sight);
        }
        let page = traces.read(seconds(1), TraceId(1)).expect("it runs");
        assert_eq!((page.lines.len(), page.left_out), (TRACED_PER_SECOND_MAX as usize, 5));
        assert_eq!(page.lines[0].payload.as_deref(), Some(&[7; TRACED_PAYLOAD_BYTES_MAX][..]));
        for second in 2..6 {
            for _ in 0..TRACED_PER_SECOND_MAX {
                traces.show(seconds(second), &about, &sight);
            }
        }
        let page = traces.read(seconds(6), TraceId(1)).expect("it runs");
        assert!(page.lines.len() <= LINES_WAITING_MAX && page.left_out > 0, "{}", page.lines.len());
        let huge = TraceSight::inside("decided", "x".repeat(BYTES_WAITING_MAX));
        traces.show(seconds(7), &about, &huge);
        assert_eq!(
            traces.read(seconds(7), TraceId(1)).map(|page| (page.lines.len(), page.left_out)),
            Some((0, 1))
        );
    }

    #[test]
    fn a_trace_ends_at_its_time_at_an_order_or_unread() {
        let mut traces = Traces::default();
        let about = TraceAbout { client: Some("c"), ..TraceAbout::default() };
        let sight = TraceSight::inside("decided", "so");
        let target = || TraceTarget::Client("c".into());
        traces.begin(seconds(0), TraceOrder { seconds: 5, ..order(1, target()) });
        traces.show(seconds(4), &about, &sight);
        traces.show(seconds(5), &about, &sight);
        assert_eq!(lines(&mut traces, seconds(6), 1), Some(1), "those before its end");
        assert_eq!(lines(&mut traces, seconds(6), 1), None);
        traces.end(TraceId(1));
        assert!(!traces.is_on());
        traces.begin(seconds(10), order(2, target()));
        traces.show(seconds(26), &about, &sight);
        assert!(!traces.is_on(), "nobody reads it");
        for id in 0..TRACES_MAX as u64 {
            assert!(traces.begin(seconds(30), order(id, target())));
        }
        assert!(!traces.begin(seconds(30), order(99, target())));
        assert!(traces.begin(seconds(50), order(99, target())), "the others are unread");
    }
}
