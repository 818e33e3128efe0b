//! Messages to other shards, messages from them, and the receipts for both.

use crate::base::{IntentNumber, ShardId, Ticket, Time};
use crate::broker::components::outgoing::{Onward, Posting};
use crate::broker::components::replies::{AfterLog, Intent, Intents, Purpose};
use crate::broker::fanout::Fanout;
use crate::broker::outcome::{Outcome, Receipt};
use crate::broker::{Counter, Mail, Shard};
use crate::mqtt::QoS;
use crate::session::{KeptMessage, Message};
use crate::store::Record;
use smallvec::SmallVec;

impl Shard {
    /// Sends a message to every other shard that may have subscribers, and to the home of a retained one. Returns whether
    /// there is any.
    pub(in crate::broker) fn send_to_others(
        &mut self,
        fanout: &mut Fanout<'_>,
        retained_home: Option<ShardId>,
    ) -> bool {
        let retained_home = retained_home.filter(|&home| home != self.id);
        if fanout.intended {
            return self.intend(fanout, retained_home);
        }
        match retained_home {
            Some(home) => self.forward_retained(fanout, home),
            None => return self.forward(fanout),
        }
        true
    }

    /// Sends a message to every shard that may have subscribers. Returns whether there is any.
    fn forward(&mut self, fanout: &mut Fanout<'_>) -> bool {
        let targets = self.interested(fanout.publication.topic);
        self.count(Counter::Forwarded, u64::from(targets.count_ones()));
        let ticket = fanout.await_receipts(targets.count_ones());
        let mut others = shards_of(targets);
        if let Some(first) = others.next() {
            let message = fanout.to_message();
            for to in others {
                self.post(to, Mail::Publish { message: message.clone(), ticket, intent: None });
            }
            self.post(first, Mail::Publish { message, ticket, intent: None });
        }
        targets != 0
    }

    /// Sends a retained message to its home, and then to every shard that may have subscribers.
    fn forward_retained(&mut self, fanout: &mut Fanout<'_>, home: ShardId) {
        let ticket = fanout.await_receipts(1);
        self.post_retained(Onward { message: fanout.to_message(), home, ticket, intent: None, targets: 0 });
    }

    fn post_retained(&mut self, onward: Onward) {
        self.count(Counter::Forwarded, 1);
        let Onward { ref message, home, ticket, intent, .. } = onward;
        self.post(home, Mail::Publish { message: message.clone(), ticket, intent });
        self.outgoing.post_onward(onward);
    }

    /// The next mail to another shard. The host must call this again when the mail is in that shard's box, or
    /// after others that wait for room there. `is_open` returns whether no mails wait for a shard's box.
    pub fn next_mail(&mut self, is_open: impl Fn(ShardId) -> bool) -> Option<(ShardId, Mail)> {
        loop {
            match self.outgoing.pop(&is_open)? {
                Posting::Mail(to, mail) => return Some((to, mail)),
                Posting::Onward(onward) => self.send_on(*onward),
            }
        }
    }

    /// The number of mails to other shards that have not been taken.
    pub fn mails_left(&self) -> usize {
        self.outgoing.len()
    }

    /// Forwards a retained message to the shards that are interested now, because its home has it.
    fn send_on(&mut self, onward: Onward) {
        let Onward { message, home, ticket, intent, targets } = onward;
        let wanted = (self.interested(message.as_publication().topic) | targets) & !(1 << home);
        if let Some(ticket) = ticket {
            self.replies.add_to_ticket(ticket, (wanted & !targets).count_ones(), Intents::new());
        }
        let wanted: SmallVec<[ShardId; 4]> = shards_of(wanted).collect();
        for to in wanted.into_iter().rev() {
            let intent = if targets >> to & 1 == 1 { intent } else { None };
            self.outgoing.post_first(to, Mail::Publish { message: message.clone(), ticket, intent });
        }
    }

    /// Records the targets of a message. It is sent after the log has the record. Returns whether there are any.
    fn intend(&mut self, fanout: &mut Fanout<'_>, retained_home: Option<ShardId>) -> bool {
        let mut targets = self.interested(fanout.publication.topic);
        if let Some(home) = retained_home {
            targets |= 1 << home;
        }
        if targets == 0 {
            return false;
        }
        if let Some(home) = retained_home {
            // The home stores the message at once, and delivers it with the intent: a client that has seen it
            // live here must not get an older one from there.
            self.post(home, Mail::Retain { message: fanout.to_message() });
        }
        let ticket = fanout.await_receipts(targets.count_ones());
        let number: IntentNumber = self.durability.next_number();
        fanout.intents.push(number);
        let stamp = if retained_home.is_some() { fanout.publication.stamp } else { None };
        let message = self.stored(&fanout.publication);
        self.durability.record(&Record::Intent { number, targets, stamp, group: "", message });
        let message = fanout.to_message();
        let intent = Intent { number, ticket, targets, retained_home, message };
        self.wait_for_log(self.durability.mark(), AfterLog::Intent(Box::new(intent)));
        true
    }

    /// Sends a message after the log has its intent.
    pub(in crate::broker) fn forward_intent(&mut self, intent: Intent) {
        let Intent { number, ticket, targets, retained_home, message } = intent;
        match retained_home {
            Some(home) => {
                let targets = targets & !(1 << home);
                self.post_retained(Onward { message, home, ticket, intent: Some(number), targets });
            }
            None => {
                self.count(Counter::Forwarded, u64::from(targets.count_ones()));
                for to in shards_of(targets) {
                    self.post(to, Mail::Publish { message: message.clone(), ticket, intent: Some(number) });
                }
            }
        }
    }

    /// Handles a message from another shard.
    pub(in crate::broker) fn handle_forwarded(
        &mut self,
        now: Time,
        from: ShardId,
        message: Message,
        ticket: Option<Ticket>,
        intent: Option<IntentNumber>,
    ) {
        if message.qos() == QoS::AtMostOnce && !message.is_retained() && ticket.is_none() {
            // No session keeps it, and nothing waits for a receipt.
            self.route(now, &mut Fanout::new(message.as_publication(), now));
            return;
        }
        let message = KeptMessage::new(message, self.memory.account());
        let publication = message.as_publication();
        let mut hash = None;
        if publication.retain {
            hash = Some(self.shared.hash(publication.topic));
            self.stamps.note(publication.stamp);
        }
        let mut fanout = Fanout::of(&message, now);
        fanout.topic_hash = hash;
        self.track(from, ticket, &mut fanout, |shard, fanout| {
            if let Some(number) = intent {
                shard.durability.record(&Record::IntentSeen { number });
                // Messages that go from here to members of shared subscriptions must not be lost either.
                (fanout.intended, fanout.promised) = (true, true);
            }
            let is_home = hash.is_some_and(|hash| shard.shared.home(hash) == shard.id);
            let kept = if is_home { shard.retain(now, fanout) } else { Outcome::default() };
            let mut outcome = shard.route(now, fanout);
            outcome.merge(kept);
            outcome
        });
    }

    /// Handles a message of another shard, and gives a receipt when it is durable here and on the shards to
    /// which it was forwarded. Without a ticket nothing waits for a receipt.
    pub(in crate::broker) fn track(
        &mut self,
        from: ShardId,
        ticket: Option<Ticket>,
        fanout: &mut Fanout<'_>,
        handle: impl FnOnce(&mut Shard, &mut Fanout<'_>) -> Outcome,
    ) {
        let before = self.durability.count();
        fanout.ticket = ticket.map(|_| self.replies.next_ticket());
        let outcome = handle(self, fanout);
        let Some(ticket) = ticket else { return };
        let mark = self.durability.mark_since(before);
        if fanout.missing > 0 {
            let intents = std::mem::take(&mut fanout.intents);
            self.replies.open_ticket(
                fanout.missing,
                outcome,
                intents,
                Purpose::Receipt { to: from, ticket, mark },
            );
        } else {
            self.give_receipt(from, mark, Receipt { ticket, outcome });
        }
    }

    /// The other shards that may have subscribers for a topic name, as a bit mask.
    pub fn interested(&mut self, topic: &str) -> u128 {
        let hash = self.shared.hash(topic);
        let mut targets: u128 = 0;
        for shard in self.other_shards() {
            if self.shared.interest[usize::from(shard)].may_want(hash) {
                targets |= 1 << shard;
            }
        }
        targets |= self.interest.foreign(topic);
        targets
    }
}

/// The shards of a bit mask, in order.
pub(in crate::broker) fn shards_of(mut mask: u128) -> impl Iterator<Item = ShardId> {
    std::iter::from_fn(move || {
        let shard = ShardId::try_from(mask.trailing_zeros()).ok().filter(|_| mask != 0)?;
        mask &= mask - 1;
        Some(shard)
    })
}
