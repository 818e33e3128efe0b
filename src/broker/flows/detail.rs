//! The events for the log level debug: subscriptions, and the matches of each PUBLISH.
//!
//! While they are not wanted, each place checks one flag, and nothing is looked up, copied or formatted.

use super::publish::VISITED_A_STEP;
use crate::base::SessionSlot;
use crate::broker::event::beginning;
use crate::broker::fanout::Fanout;
use crate::broker::{Event, Shard};
use crate::mqtt::codec::SubscribeFilter;
use crate::mqtt::{SubscriptionId, SubscriptionOptions, TopicFilter};

/// The number of subscriptions that are reported one by one when they end with their session.
const ENDS_LOGGED_MAX: usize = 100;

impl Shard {
    /// Sets whether events for the log level debug are wanted.
    pub fn handle_detail(&mut self, wanted: bool) {
        self.effects.set_detail(wanted);
    }

    /// Reports that a subscription was made or replaced. `options` are the granted ones.
    pub(in crate::broker) fn detail_subscribed(
        &mut self,
        session: SessionSlot,
        wanted: &SubscribeFilter<'_>,
        options: SubscriptionOptions,
        subscription_id: Option<SubscriptionId>,
        is_new: bool,
    ) {
        if self.effects.tells_detail() {
            let client = self.client_for_log(session);
            let filter = beginning(wanted.filter.as_str());
            self.report(Event::Subscribed { client, filter, options, subscription_id, is_new });
        }
    }

    /// Reports that a client ended a subscription.
    pub(in crate::broker) fn detail_unsubscribed(&mut self, session: SessionSlot, filter: TopicFilter<'_>) {
        if self.effects.tells_detail() {
            let (client, filter) = (self.client_for_log(session), beginning(filter.as_str()));
            self.report(Event::Unsubscribed { client, filter });
        }
    }

    /// Reports that subscriptions end with their session.
    pub(in crate::broker) fn detail_ended<'a>(
        &mut self,
        session: SessionSlot,
        filters: impl ExactSizeIterator<Item = &'a str>,
    ) {
        if !self.effects.tells_detail() || filters.len() == 0 {
            return;
        }
        let unlogged = filters.len().saturating_sub(ENDS_LOGGED_MAX);
        for filter in filters.take(ENDS_LOGGED_MAX) {
            let client = self.client_for_log(session);
            self.report(Event::Unsubscribed { client, filter: beginning(filter) });
        }
        if unlogged > 0 {
            let client = self.client_for_log(session);
            self.report(Event::MoreUnsubscribed { client, filters: unlogged });
        }
    }

    /// Reports a message that is about to go to the subscribers of this shard.
    #[inline(always)]
    pub(in crate::broker) fn detail_matched(&mut self, fanout: &Fanout<'_>) {
        if self.effects.tells_detail() {
            self.report_matched(fanout);
        }
    }

    #[cold]
    fn report_matched(&mut self, fanout: &Fanout<'_>) {
        let publication = &fanout.publication;
        if publication.topic.starts_with("$SYS/") {
            // The broker has many messages of its own, and no client has sent them.
            return;
        }
        let origin = publication.origin;
        let publisher = origin.and_then(|key| self.sessions.resolve(key));
        // The delivery searches the index again, because it may happen much later.
        let matches = self.subscriptions.find(publication.topic, publisher);
        self.spend(matches.visited() as u64 / VISITED_A_STEP);
        let groups =
            if self.groups.is_empty() { 0 } else { self.groups.matching_filters(publication.topic).len() };
        let subscribers = matches.as_slice().len();
        self.subscriptions.recycle(matches);
        self.report(Event::Matched {
            client: publisher.map(|session| self.client_for_log(session)),
            topic: beginning(publication.topic),
            qos: publication.qos,
            retain: publication.retain,
            shard: self.id,
            from: origin.map(|key| key.shard).filter(|&from| from != self.id),
            subscribers,
            groups,
        });
    }

    /// The client of a session, in the form that events use.
    pub(in crate::broker) fn client_for_log(&self, session: SessionSlot) -> Box<str> {
        beginning(&self.sessions.session(session).client_id)
    }
}
