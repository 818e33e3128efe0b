//! Refused topic filters of a SUBSCRIBE. Each is counted, and the first ones of a packet are reported one by
//! one.

use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::requests::RefusedFilters;
use crate::broker::event::beginning;
use crate::broker::{Counter, Event, Limit, Shard};
use crate::mqtt::Reason;
use crate::mqtt::TopicFilter;

/// The number of refused filters of a packet that are reported one by one. A packet may have tens of
/// thousands.
const LOGGED_MAX: u32 = 20;

/// The reason why a well-formed filter is refused.
pub(in crate::broker) struct RefusedFilter {
    pub reason: Reason,
    /// The bound that was reached, if that is the cause.
    pub limit: Option<Limit>,
}

impl From<Reason> for RefusedFilter {
    fn from(reason: Reason) -> RefusedFilter {
        RefusedFilter { reason, limit: None }
    }
}

impl Shard {
    /// Counts a filter that was refused, and reports it if not too many are reported already.
    pub(in crate::broker) fn report_refused_filter(
        &mut self,
        session: SessionSlot,
        filter: TopicFilter<'_>,
        refused: &RefusedFilter,
        of_packet: &mut RefusedFilters,
    ) {
        self.count(Counter::SubscriptionsRefused, 1);
        if refused.limit.is_none() && refused.reason == Reason::NotAuthorized {
            self.kinds().denied.add(1, 1);
        }
        if of_packet.logged == LOGGED_MAX {
            of_packet.unlogged += 1;
            if let Some(limit) = refused.limit {
                // The event would have counted it.
                self.count(limit.counter(), 1);
            }
            return;
        }
        of_packet.logged += 1;
        let client = self.client_for_log(session);
        if let Some(limit) = refused.limit {
            return self.report(Event::LimitReached { limit, client });
        }
        let reason = refused.reason;
        let slot = self.sessions.slot(session).connection;
        let rule = (reason == Reason::NotAuthorized)
            .then(|| self.permissions(slot?).map(|permissions| permissions.why_no_subscribe(filter.as_str())))
            .flatten();
        let (user, filter) = (slot.and_then(|slot| self.user_for_log(slot)), beginning(filter.as_str()));
        self.report(Event::SubscribeRefused { client, user, filter, rule, reason });
    }

    /// Reports how many more filters of a packet were refused, after all were checked.
    pub(in crate::broker) fn report_unlogged_filters(
        &mut self,
        session: SessionSlot,
        of_packet: &mut RefusedFilters,
    ) {
        let filters = std::mem::take(&mut of_packet.unlogged);
        if filters > 0 {
            let (client, slot) = (self.client_for_log(session), self.sessions.slot(session).connection);
            let user = slot.and_then(|slot| self.user_for_log(slot));
            self.report(Event::MoreSubscribesRefused { client, user, filters });
        }
    }

    fn user_for_log(&self, slot: ConnectionSlot) -> Option<Box<str>> {
        let extras = self.connections.get(slot).and_then(|connection| connection.extras.as_ref())?;
        extras.identity.user.as_deref().map(beginning)
    }
}
