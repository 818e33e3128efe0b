//! Mails of other shards, and those of this shard to itself: one match, with a method for each.

use crate::base::{ShardId, Time};
use crate::broker::components::queries::RetainedMail;
use crate::broker::fanout::Fanout;
use crate::broker::{Mail, Shard};
use crate::session::KeptMessage;

impl Shard {
    /// Handles any mail.
    pub(in crate::broker) fn deliver_mail(&mut self, now: Time, from: ShardId, mail: Mail) {
        match mail {
            Mail::Publish { message, ticket, intent } => {
                self.handle_forwarded(now, from, message, ticket, intent)
            }
            Mail::Retain { message } => {
                let message = KeptMessage::new(message, self.memory.account());
                let hash = self.shared.hash(message.as_publication().topic);
                self.stamps.note(message.stamp());
                let mut fanout = Fanout::of(&message, now);
                fanout.topic_hash = Some(hash);
                fanout.promised = true;
                self.retain(now, &mut fanout);
            }
            Mail::Receipts(receipts) => self.handle_receipts(now, &receipts),
            Mail::InterestAdd { filter, token } => self.handle_interest(from, &filter, Some(token)),
            Mail::InterestRemove { filter } => self.handle_interest(from, &filter, None),
            Mail::InterestKnown { token } | Mail::GroupJoined { token } | Mail::GroupLeft { token } => {
                self.handle_answer(now, token)
            }
            Mail::GroupJoin { filter, member, token } => {
                self.handle_group_join(now, from, &filter, member, token)
            }
            Mail::GroupLeave { filter, member, token } => {
                self.handle_group_leave(from, &filter, member, token)
            }
            Mail::GroupReady { member, ready } => self.handle_group_ready(member, ready),
            Mail::GroupDeliver { group, member, message, ticket, intent } => {
                let message = KeptMessage::new(message, self.memory.account());
                let mut fanout = Fanout::of(&message, now);
                self.track(from, ticket, &mut fanout, |shard, fanout| {
                    shard.handle_group_deliver(now, &group, member, intent, fanout)
                });
            }
            Mail::GroupReturn { group, message, ticket, intent } => {
                let message = KeptMessage::new(message, self.memory.account());
                let mut fanout = Fanout::of(&message, now);
                self.track(from, ticket, &mut fanout, |shard, fanout| {
                    shard.handle_group_return(now, &group, intent, fanout)
                });
            }
            Mail::RetainedQuery { token, session, filter, after } => {
                self.arrive(RetainedMail::Query { session, token, filter, after });
            }
            Mail::RetainedBatch { token, session, messages, next } if from == self.id => {
                self.handle_retained_batch(now, session, token, messages, next);
            }
            Mail::RetainedBatch { token, session, messages, next } => {
                self.arrive(RetainedMail::Batch { session, token, messages, next });
            }
        }
    }
}
