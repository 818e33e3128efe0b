//! The paced sending of retained messages to a new subscription.

use crate::base::{Empty, RequestToken, TextHash, steps};
use crate::mqtt::QoS;
use crate::session::Message;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// One subscription's retained messages, fetched in batches from one shard after the other.
///
/// At most one batch is on its way or waiting at a time, so a million retained messages cost
/// the broker no more than a batch.
#[derive(Debug)]
pub struct Replay {
    /// Names the replay in queries and batches.
    pub token: RequestToken,
    /// The topic filter.
    pub filter: Rc<str>,
    /// Granted QoS.
    pub qos: QoS,
    /// Subscription identifier, 0: none.
    pub subscription_id: u32,
    /// With No Local: the newest stamp here when the client subscribed. What it publishes after that is hidden from it
    /// as a live message, and comes as no retained one either. `[MQTT5-3.8.3-3]`
    pub hides_own_after: Option<u64>,
    /// Shards still to be asked, the present one first.
    pub shards: VecDeque<u16>,
    /// Where the present shard goes on; none: from its start.
    pub cursor: Option<Box<str>>,
    /// The SUBSCRIBE that waits for other shards before its SUBACK and this replay may leave.
    pub held_by: Option<RequestToken>,
    /// A query is on its way.
    pub waiting: bool,
    /// Messages that have arrived and are not yet sent.
    pub ready: VecDeque<Message>,
    /// Messages that wait for the log, to be sent then.
    pub for_log: u32,
}

impl Replay {
    /// Everything fetched and sent?
    pub fn is_done(&self) -> bool {
        !self.waiting && self.ready.is_empty() && self.shards.is_empty() && self.for_log == 0
    }

    /// Is this message, which the session itself has published, hidden from it?
    pub fn hides_own(&self, stamp: u64) -> bool {
        self.hides_own_after.is_some_and(|newest| stamp > newest)
    }

    /// Takes a batch in. `next` none: the present shard is done.
    pub fn handle_batch(&mut self, messages: Vec<Message>, next: Option<Box<str>>) {
        self.waiting = false;
        self.ready.extend(messages);
        if next.is_none() {
            self.shards.pop_front();
        }
        self.cursor = next;
    }
}

/// A live retained message that a client got while retained messages were being replayed.
#[derive(Debug)]
pub(super) struct Overtaken {
    pub topic_hash: TextHash,
    pub stamp: u64,
    /// Token of the newest replay at that time.
    pub replay: RequestToken,
    /// It waits in the queue, which may drop it: then what the client has got before counts.
    pub is_queued: bool,
}

/// The replays of a session, in the order of SUBSCRIBE: one after the other is sent. A client that does not read may
/// have as many as subscriptions, so each is found without a walk.
#[derive(Debug, Default)]
pub struct Replays {
    /// Tokens rise with each SUBSCRIBE, and with each replay.
    by_token: BTreeMap<RequestToken, Box<Replay>>,
    by_filter: BTreeSet<(Rc<str>, RequestToken)>,
    /// Topics whose live retained message overtook one of them.
    pub(super) overtaken: Vec<Overtaken>,
}

impl Empty for Replays {
    const EMPTY: &Self =
        &Replays { by_token: BTreeMap::new(), by_filter: BTreeSet::new(), overtaken: Vec::new() };
}

impl Replays {
    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.by_token.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_token.len()
    }

    /// Token of the newest.
    pub fn newest(&self) -> Option<RequestToken> {
        self.by_token.last_key_value().map(|(token, _)| *token)
    }

    /// The one that is being sent.
    pub fn front_mut(&mut self) -> Option<&mut Replay> {
        self.by_token.first_entry().map(|entry| &mut **entry.into_mut())
    }

    /// The one with this token.
    pub fn get_mut(&mut self, token: RequestToken) -> Option<&mut Replay> {
        self.by_token.get_mut(&token).map(|replay| &mut **replay)
    }

    /// One more, the newest.
    pub fn push(&mut self, replay: Replay) {
        self.by_filter.insert((Rc::clone(&replay.filter), replay.token));
        self.by_token.insert(replay.token, Box::new(replay));
    }

    /// Those of a SUBSCRIBE may begin; false if there is none. `subscribe`: its token, older than theirs.
    pub fn start(&mut self, subscribe: RequestToken) -> bool {
        let behind = self.by_token.range_mut(subscribe..).map(|(_, replay)| replay);
        let own = behind.take_while(|replay| {
            steps::walked(1);
            replay.held_by == Some(subscribe)
        });
        own.map(|replay| replay.held_by = None).count() > 0
    }

    /// Forgets those of a filter.
    pub fn drop_filter(&mut self, filter: &str) {
        let from = (Rc::from(filter), RequestToken::new(1));
        while let Some((_, token)) =
            self.by_filter.range(&from..).next().filter(|(have, _)| **have == *filter)
        {
            steps::walked(1);
            let token = *token;
            self.by_token.remove(&token);
            self.by_filter.remove(&(Rc::clone(&from.0), token));
        }
    }

    /// Forgets the one that was being sent.
    pub(super) fn pop_front(&mut self) {
        if let Some((token, replay)) = self.by_token.pop_first() {
            self.by_filter.remove(&(replay.filter, token));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;

    #[test]
    fn what_the_queue_drops_makes_no_older_message_follow_one_that_was_sent() {
        let mut session = Session::new("client".into());
        session.replays.filled().push(replay(1, None, "r/+"));
        for (sent, queued) in [(20, [30, 40]), (50, [60, 70])] {
            session.note_overtaken(TextHash::new(7), sent, false);
            queued.iter().for_each(|&stamp| session.note_overtaken(TextHash::new(7), stamp, true));
            assert!(session.is_overtaken(TextHash::new(7), sent + 19, RequestToken::new(1)));
            // The oldest first, and none of another topic.
            queued.iter().for_each(|&stamp| session.forget_overtaken(TextHash::new(7), stamp));
            session.forget_overtaken(TextHash::new(7), sent);
            session.forget_overtaken(TextHash::new(8), sent);
            assert!(
                session.is_overtaken(TextHash::new(7), sent - 1, RequestToken::new(1)),
                "the client has a newer one"
            );
            assert!(
                !session.is_overtaken(TextHash::new(7), queued[0], RequestToken::new(1)),
                "as a retained message it may come"
            );
        }
    }

    fn replay(token: u64, held_by: Option<RequestToken>, filter: &str) -> Replay {
        Replay {
            token: RequestToken::new(token),
            filter: filter.into(),
            qos: QoS::AtMostOnce,
            subscription_id: 0,
            hides_own_after: None,
            shards: VecDeque::new(),
            cursor: None,
            held_by,
            waiting: false,
            ready: VecDeque::new(),
            for_log: 0,
        }
    }

    #[test]
    fn replays_that_nobody_reads_cost_few_steps_each() {
        const SUBSCRIBES: u64 = 10_000;
        let mut replays = Replays::default();
        let ((), steps) = steps::of(|| {
            for subscribe in 1..=SUBSCRIBES {
                // Tokens of a SUBSCRIBE with two filters.
                let token = subscribe * 3;
                let held_by = Some(RequestToken::new(token));
                replays.push(replay(token + 1, held_by, &format!("a/{subscribe}")));
                replays.push(replay(token + 2, held_by, "same"));
            }
            for subscribe in (1..=SUBSCRIBES).rev() {
                let token = RequestToken::new(subscribe * 3);
                assert!(replays.start(token) && !replays.start(token));
                replays.drop_filter(&format!("a/{subscribe}"));
                replays.drop_filter("other");
            }
        });
        assert!(steps <= SUBSCRIBES * 6, "{steps}");
        assert_eq!(
            (replays.len() as u64, replays.newest().map(RequestToken::get)),
            (SUBSCRIBES, Some(SUBSCRIBES * 3 + 2))
        );
        assert_eq!(replays.front_mut().map(|replay| replay.token.get()), Some(5));
        replays.pop_front();
        assert_eq!(replays.front_mut().map(|replay| (replay.token.get(), replay.held_by)), Some((8, None)));
        assert!(
            replays.get_mut(RequestToken::new(5)).is_none()
                && replays.get_mut(RequestToken::new(8)).is_some()
        );
        replays.drop_filter("same");
        assert!(replays.is_empty() && replays.by_filter.is_empty());
    }
}
