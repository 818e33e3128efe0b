//! The last events of the clients of a shard, for an operator who asks about one of them. An event is kept when it has
//! been logged, so that keeping it costs no more than freeing it later.

use crate::base::Time;
use crate::broker::Event;
use crate::broker::questions::PastEvent;
use std::collections::VecDeque;
use std::mem::discriminant;

/// The number of events that are kept, and the bytes of their client identifiers.
const EVENTS_MAX: usize = 4096;
const BYTES_MAX: usize = 1 << 20;
/// The number of the newest events among which a repeated one is looked for.
const LOOKED_AT: usize = 8;
/// The number of events that are shown of a client.
const SHOWN_MAX: usize = 32;

/// See the module.
#[derive(Default)]
pub(super) struct EventHistory {
    events: VecDeque<KeptEvent>,
    bytes: usize,
}

struct KeptEvent {
    first: Time,
    last: Time,
    /// How often it has happened.
    count: u32,
    event: Event,
}

impl EventHistory {
    /// Keeps an event, if it is about a client.
    pub(super) fn keep(&mut self, now: Time, event: Event) {
        let Some(client) = event.client() else { return };
        if client.len() > BYTES_MAX / 2 {
            return;
        }
        let is_same = |kept: &&mut KeptEvent| {
            discriminant(&kept.event) == discriminant(&event) && kept.event.client() == Some(client)
        };
        if event.may_repeat()
            && let Some(kept) = self.events.iter_mut().rev().take(LOOKED_AT).find(is_same)
        {
            kept.last = now;
            kept.count = kept.count.saturating_add(1);
            kept.event = event;
            return;
        }
        self.bytes += client.len();
        self.events.push_back(KeptEvent { first: now, last: now, count: 1, event });
        while self.events.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.event.client().map_or(0, str::len);
        }
    }

    /// The last events of a client, the newest first.
    pub(super) fn of(&self, client_id: &str) -> Vec<PastEvent> {
        // Some events have only the beginning of a long client identifier.
        let is_of = |kept: &&KeptEvent| kept.event.is_about(client_id);
        let shown = |kept: &KeptEvent| {
            let words = kept.event.in_words()?;
            let (first, last, count) = (kept.first, kept.last, kept.count);
            Some(PastEvent { first, last, count, what: words.what, words: words.words.into() })
        };
        self.events.iter().rev().filter(is_of).filter_map(shown).take(SHOWN_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Limit;

    fn limit(client: &str) -> Event {
        Event::LimitReached { limit: Limit::BacklogDrop, client: client.into() }
    }

    fn dropped(client: &str, messages: u64) -> Event {
        Event::DroppedForSlow { client: client.into(), messages }
    }

    #[test]
    fn a_client_has_its_last_events_and_not_those_of_others() {
        let mut history = EventHistory::default();
        let at = Time::from_millis;
        history.keep(at(1), limit("a"));
        history.keep(at(2), limit("b"));
        history.keep(at(3), limit("a"));
        history.keep(at(4), dropped("a", 7));
        let shown = history.of("a");
        let parts: Vec<_> =
            shown.iter().map(|event| (event.what, event.count, event.first, event.last)).collect();
        assert_eq!(parts, [("dropped", 1, at(4), at(4)), ("limit reached", 2, at(1), at(3))]);
        assert!(shown[0].words.starts_with("7 messages"), "{shown:?}");
        assert!(history.of("").is_empty() && history.of("c").is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_bytes() {
        let mut history = EventHistory::default();
        for number in 0..2 * EVENTS_MAX {
            history.keep(Time::ZERO, limit(&format!("client-{number}")));
        }
        assert_eq!(history.events.len(), EVENTS_MAX);
        assert!(history.of("client-0").is_empty());
        for letter in ["x", "y", "z"] {
            history.keep(Time::ZERO, limit(&letter.repeat(BYTES_MAX / 2)));
        }
        assert!(history.bytes <= BYTES_MAX && history.events.len() == 2, "{}", history.events.len());
        let counted: usize = history.events.iter().filter_map(|kept| kept.event.client()).map(str::len).sum();
        assert_eq!(counted, history.bytes);
    }
}
