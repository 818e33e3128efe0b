//! Sends retained messages to a new subscription, at a limited pace.

use crate::base::{Empty, RequestToken, Stamp, TextHash, steps};
use crate::mqtt::{QoS, SubscriptionId};
use crate::session::Message;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// The retained messages of one subscription. They are fetched in batches from one shard after the other.
///
/// At most one batch is on its way or waiting at a time, so a million retained messages need no more memory
/// than a batch.
#[derive(Debug)]
pub struct Replay {
    /// Identifies the replay in queries and batches.
    pub token: RequestToken,
    /// The topic filter.
    pub filter: Rc<str>,
    /// The granted QoS.
    pub qos: QoS,
    /// The subscription identifier, if there is one.
    pub subscription_id: Option<SubscriptionId>,
    /// With No Local: the newest stamp of this shard when the client subscribed. Messages that the client
    /// publishes later are hidden from it as live messages, and are not replayed either. `[MQTT5-3.8.3-3]`
    pub hides_own_after: Option<Stamp>,
    /// The shards that are still to be asked, the current one first.
    pub shards: VecDeque<u16>,
    /// The point at which the current shard continues. `None`: at its start.
    pub cursor: Option<Box<str>>,
    /// The SUBSCRIBE that waits for other shards before its SUBACK and this replay may be sent.
    pub held_by: Option<RequestToken>,
    /// Whether a query is pending.
    pub waiting: bool,
    /// Messages that have arrived and are not sent yet.
    pub ready: VecDeque<Message>,
    /// The number of messages that wait for the log before they are sent.
    pub for_log: u32,
}

impl Replay {
    /// Whether everything is fetched and sent.
    pub fn is_done(&self) -> bool {
        !self.waiting && self.ready.is_empty() && self.shards.is_empty() && self.for_log == 0
    }

    /// Whether this message, which the session itself has published, is hidden from it.
    pub fn hides_own(&self, stamp: Option<Stamp>) -> bool {
        self.hides_own_after.is_some() && stamp > self.hides_own_after
    }

    /// Adds a batch. If `next` is `None`, the current shard is done.
    pub fn handle_batch(&mut self, messages: Vec<Message>, next: Option<Box<str>>) {
        self.waiting = false;
        self.ready.extend(messages);
        if next.is_none() {
            self.shards.pop_front();
        }
        self.cursor = next;
    }
}

/// A live retained message that a client has received while retained messages were being replayed.
#[derive(Debug)]
pub(super) struct Overtaken {
    pub topic_hash: TextHash,
    pub stamp: Option<Stamp>,
    /// The token of the newest replay at that time.
    pub replay: RequestToken,
    /// Whether it waits in the queue. If the queue drops it, the message that the client has received before
    /// counts.
    pub is_queued: bool,
}

/// The replays of a session, in the order of SUBSCRIBE. They are sent one after the other. A client that does
/// not read may have one for each subscription, so each is found without a scan.
#[derive(Debug, Default)]
pub struct Replays {
    /// Tokens increase with each SUBSCRIBE and with each replay.
    by_token: BTreeMap<RequestToken, Box<Replay>>,
    by_filter: BTreeSet<(Rc<str>, RequestToken)>,
    /// The topics whose live retained message has overtaken one of the replays.
    pub(super) overtaken: Vec<Overtaken>,
}

impl Empty for Replays {
    const EMPTY: &Self =
        &Replays { by_token: BTreeMap::new(), by_filter: BTreeSet::new(), overtaken: Vec::new() };
}

impl Replays {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_token.is_empty()
    }

    /// The number of replays.
    pub fn len(&self) -> usize {
        self.by_token.len()
    }

    /// The token of the newest replay.
    pub fn newest(&self) -> Option<RequestToken> {
        self.by_token.last_key_value().map(|(token, _)| *token)
    }

    /// The replay that is being sent.
    pub fn front_mut(&mut self) -> Option<&mut Replay> {
        self.by_token.first_entry().map(|entry| &mut **entry.into_mut())
    }

    /// The replay with this token.
    pub fn get_mut(&mut self, token: RequestToken) -> Option<&mut Replay> {
        self.by_token.get_mut(&token).map(|replay| &mut **replay)
    }

    /// Adds a replay, which is the newest.
    pub fn push(&mut self, replay: Replay) {
        self.by_filter.insert((Rc::clone(&replay.filter), replay.token));
        self.by_token.insert(replay.token, Box::new(replay));
    }

    /// Allows the replays of a SUBSCRIBE to begin. Returns false if it has none. `subscribe` is its token,
    /// which is lower than theirs.
    pub fn start(&mut self, subscribe: RequestToken) -> bool {
        let behind = self.by_token.range_mut(subscribe..).map(|(_, replay)| replay);
        let own = behind.take_while(|replay| {
            steps::walked(1);
            replay.held_by == Some(subscribe)
        });
        own.map(|replay| replay.held_by = None).count() > 0
    }

    /// Forgets the replays of a filter.
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

    /// Forgets the replay that was being sent.
    pub(super) fn pop_front(&mut self) {
        if let Some((token, replay)) = self.by_token.pop_first() {
            self.by_filter.remove(&(replay.filter, token));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Numbered;
    use crate::session::Session;

    #[test]
    fn what_the_queue_drops_makes_no_older_message_follow_one_that_was_sent() {
        let mut session = Session::new("client".into());
        session.replays.filled().push(replay(1, None, "r/+"));
        for (sent, queued) in [(20, [30, 40]), (50, [60, 70])] {
            let at = Stamp::from_number;
            session.note_overtaken(TextHash::new(7), at(sent), false);
            queued.iter().for_each(|&stamp| session.note_overtaken(TextHash::new(7), at(stamp), true));
            assert!(session.is_overtaken(TextHash::new(7), at(sent + 19), RequestToken::new(1)));
            // The oldest is forgotten first, and none of another topic.
            queued.iter().for_each(|&stamp| session.forget_overtaken(TextHash::new(7), at(stamp)));
            session.forget_overtaken(TextHash::new(7), at(sent));
            session.forget_overtaken(TextHash::new(8), at(sent));
            assert!(
                session.is_overtaken(TextHash::new(7), at(sent - 1), RequestToken::new(1)),
                "the client has a newer one"
            );
            assert!(
                !session.is_overtaken(TextHash::new(7), at(queued[0]), RequestToken::new(1)),
                "as a retained message it may come"
            );
        }
    }

    fn replay(token: u64, held_by: Option<RequestToken>, filter: &str) -> Replay {
        Replay {
            token: RequestToken::new(token),
            filter: filter.into(),
            qos: QoS::AtMostOnce,
            subscription_id: None,
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
                // These are the tokens of a SUBSCRIBE with two filters.
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
