//! Replies that wait for the log to be durable, or for the receipts of other shards.
//!
//! This component owns the replies of each connection in order, the tickets that count receipts, other items
//! that wait for the log, and the receipts for other shards.

mod list;

use crate::base::{
    ConnectionKey, ConnectionSlot, DeliveryNumber, IntentNumber, LogMark, RequestToken, SessionKey, ShardId,
    TextHash, Ticket, Time,
};
use crate::broker::Mail;
use crate::broker::outcome::{Outcome, Receipt};
use crate::mqtt::codec::{Ack, AckKind};
use crate::mqtt::{PacketId, QoS};
use crate::session::{KeptMessage, Losses, Message};
use ahash::RandomState;
use hashbrown::HashMap;
use list::ReplyList;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::rc::Rc;

/// An answer.
pub(in crate::broker) enum Reply {
    Ack(Ack),
    Packet(Box<[u8]>),
    /// SUBACK, and the token of the replays that begin after it.
    Suback {
        packet: Box<[u8]>,
        token: RequestToken,
    },
    /// CONNACK. The session is resumed after it, and its client has been told about these losses. `since` is the time of
    /// the last packet of the handshake.
    Connack {
        since: Time,
        packet: Box<[u8]>,
        losses: Option<Box<Losses>>,
    },
    Pong,
    /// The delivery of the publisher's own message, after its PUBREC.
    Own(Box<OwnDelivery>),
    /// The end of the connection instead of an answer: a client of 3.x can't learn in another way that its
    /// message is not kept.
    End,
}

/// A message that goes back to its publisher.
pub(in crate::broker) struct OwnDelivery {
    pub message: Rc<KeptMessage>,
    pub topic_hash: Option<TextHash>,
    pub granted: QoS,
    pub retain_as_published: bool,
    pub subscription_ids: SmallVec<[u32; 4]>,
}

/// The receipts that are missing for one message.
struct OpenTicket {
    missing: u32,
    outcome: Outcome,
    /// The intents that are done with the last receipt.
    intents: Intents,
    purpose: Purpose,
}

/// The numbers of intents in the log.
pub(in crate::broker) type Intents = SmallVec<[IntentNumber; 2]>;

/// The action when all receipts have arrived.
#[derive(Clone, Copy)]
pub(in crate::broker) enum Purpose {
    Answer(PublishAnswer),
    /// Send a receipt: another shard sent the message to this one.
    Receipt {
        to: ShardId,
        ticket: Ticket,
        mark: LogMark,
    },
    /// End the intents. Nothing else waits.
    Intents,
    /// Read from the publisher again.
    ReadOn(ConnectionKey),
}

/// The acknowledgement of a PUBLISH.
#[derive(Clone, Copy)]
pub(in crate::broker) struct PublishAnswer {
    pub slot: ConnectionSlot,
    pub session: SessionKey,
    pub kind: AckKind,
    pub packet_id: PacketId,
    /// The connection, if it is not read until then.
    pub reads_on: Option<ConnectionKey>,
    /// The number of the last of the connection's replies that wait for the ticket.
    pub reply: Option<u64>,
}

/// A PUBLISH that waits before it is sent: a QoS 1 PUBLISH that is large or follows such a one, or a QoS 2
/// PUBLISH. The client must not get the latter twice, so it is sent only after its packet identifier and
/// everything that it results from are durable.
#[derive(Clone, Copy)]
pub(in crate::broker) struct FirstSending {
    pub session: SessionKey,
    pub connection: ConnectionKey,
    pub packet_id: PacketId,
    /// The number of the delivery.
    pub number: DeliveryNumber,
    /// The token of its replay, if it has one.
    pub replay: Option<RequestToken>,
    pub qos: QoS,
}

/// An item that waits for the log.
pub(in crate::broker) enum AfterLog {
    /// The first replies of this connection.
    Replies {
        slot: ConnectionSlot,
    },
    /// A PUBLISH that must not be sent earlier.
    Publish(FirstSending),
    /// A PUBREL. `[MQTT5-4.3.3-4]`: the client forgets the identifier with it, and midge must forget it too.
    Pubrel {
        session: SessionKey,
        connection: ConnectionKey,
        packet_id: PacketId,
    },
    Receipt {
        to: ShardId,
        receipt: Receipt,
    },
    /// A QoS 2 message for other shards.
    Intent(Box<Intent>),
    /// The same, for a member of a shared subscription, or a message that a member returns to its group.
    Mail(ShardId, Box<Mail>),
    /// An order of an operator, which looks for itself. It makes the log write soon.
    Order,
}

/// A QoS 2 message that goes to other shards after the log has it together with the packet identifier that is
/// held for it. Whatever happens after that, each of them gets it once.
pub(in crate::broker) struct Intent {
    pub number: IntentNumber,
    pub ticket: Option<Ticket>,
    pub targets: u128,
    pub retained_home: Option<ShardId>,
    pub message: Message,
}

/// See the module.
pub(in crate::broker) struct Replies {
    lists: HashMap<ConnectionSlot, ReplyList, RandomState>,
    /// Empty lists for reuse.
    spare: Vec<ReplyList>,
    tickets: VecDeque<Option<OpenTicket>>,
    /// The number of the first ticket in `tickets`.
    first_ticket: u64,
    /// In the order of marks.
    after_log: VecDeque<(LogMark, AfterLog)>,
    /// By receiver.
    receipts: Vec<Vec<Receipt>>,
}

/// A ticket whose receipts have all arrived.
pub(in crate::broker) struct CompleteTicket {
    pub outcome: Outcome,
    pub intents: Intents,
    pub purpose: Purpose,
}

/// The number of empty lists that are kept.
const SPARE_MAX: usize = 256;

impl Replies {
    pub(in crate::broker) fn new(shards: usize, seed: u64) -> Replies {
        Replies {
            lists: HashMap::with_hasher(RandomState::with_seeds(seed, 0x6f77, 0x6564, 0x61)),
            spare: Vec::new(),
            tickets: VecDeque::new(),
            first_ticket: 1,
            after_log: VecDeque::new(),
            receipts: (0..shards).map(|_| Vec::new()).collect(),
        }
    }

    /// The next ticket that will be opened.
    pub(in crate::broker) fn next_ticket(&self) -> Ticket {
        Ticket::new(self.first_ticket + self.tickets.len() as u64)
    }

    fn ticket_mut(&mut self, ticket: Ticket) -> Option<&mut Option<OpenTicket>> {
        let at = usize::try_from(ticket.get().checked_sub(self.first_ticket)?).ok()?;
        self.tickets.get_mut(at)
    }

    /// Opens the next ticket with the number of receipts that were announced for it.
    pub(in crate::broker) fn open_ticket(
        &mut self,
        missing: u32,
        outcome: Outcome,
        intents: Intents,
        purpose: Purpose,
    ) {
        self.tickets.push_back(Some(OpenTicket { missing, outcome, intents, purpose }));
    }

    /// Adds receipts to an open ticket, and intents that are done with the last of them.
    pub(in crate::broker) fn add_to_ticket(&mut self, ticket: Ticket, missing: u32, intents: Intents) {
        if let Some(Some(ticket)) = self.ticket_mut(ticket) {
            ticket.missing += missing;
            ticket.intents.extend(intents);
        }
    }

    /// Redirects the answer of a ticket to this connection, if the ticket is open.
    pub(in crate::broker) fn redirect_ticket(&mut self, ticket: Ticket, to: ConnectionSlot) {
        if let Some(Some(OpenTicket { purpose: Purpose::Answer(answer), .. })) = self.ticket_mut(ticket)
            && answer.slot != to
        {
            (answer.slot, answer.reply) = (to, None);
        }
    }

    /// Whether a ticket still waits for receipts.
    pub(in crate::broker) fn is_ticket_open(&self, ticket: Ticket) -> bool {
        let Some(at) = ticket.get().checked_sub(self.first_ticket) else { return false };
        usize::try_from(at).ok().and_then(|at| self.tickets.get(at)).is_some_and(Option::is_some)
    }

    /// Takes a receipt, and returns the ticket if it was the last one.
    pub(in crate::broker) fn take_receipt(&mut self, receipt: &Receipt) -> Option<CompleteTicket> {
        let place = self.ticket_mut(receipt.ticket)?;
        let ticket = place.as_mut()?;
        ticket.outcome.merge(receipt.outcome);
        ticket.missing -= 1;
        if ticket.missing > 0 {
            return None;
        }
        let OpenTicket { outcome, intents, purpose, .. } = place.take()?;
        while let Some(None) = self.tickets.front() {
            self.tickets.pop_front();
            self.first_ticket += 1;
        }
        Some(CompleteTicket { outcome, intents, purpose })
    }

    /// Appends a reply to those of a connection. It waits for the log and for a ticket. Returns the number of
    /// replies that wait.
    pub(in crate::broker) fn push(
        &mut self,
        slot: ConnectionSlot,
        mark: LogMark,
        ticket: Option<Ticket>,
        reply: Reply,
    ) -> usize {
        let newest = ticket.and_then(|ticket| self.answer_mut(ticket, slot)).and_then(|answer| answer.reply);
        let Replies { lists, spare, .. } = self;
        let list = lists.entry(slot).or_insert_with(|| spare.pop().unwrap_or_default());
        let number = list.push(mark, ticket, newest, reply);
        let len = list.len();
        if let Some(answer) = ticket.and_then(|ticket| self.answer_mut(ticket, slot)) {
            answer.reply = Some(number);
        }
        len
    }

    /// The answer of an open ticket, if it goes to this connection.
    fn answer_mut(&mut self, ticket: Ticket, slot: ConnectionSlot) -> Option<&mut PublishAnswer> {
        match self.ticket_mut(ticket)? {
            Some(OpenTicket { purpose: Purpose::Answer(answer), .. }) => {
                Some(answer).filter(|to| to.slot == slot)
            }
            _ => None,
        }
    }

    /// Whether a connection waits for a reply.
    pub(in crate::broker) fn are_pending(&self, slot: ConnectionSlot) -> bool {
        !self.lists.is_empty() && self.lists.contains_key(&slot)
    }

    /// The number of replies that a connection waits for.
    pub(in crate::broker) fn pending(&self, slot: ConnectionSlot) -> usize {
        self.lists.get(&slot).map_or(0, ReplyList::len)
    }

    /// The next reply of a connection, if it waits for nothing any more.
    pub(in crate::broker) fn pop_ready(&mut self, slot: ConnectionSlot, durable: LogMark) -> Option<Reply> {
        let list = self.lists.get_mut(&slot)?;
        list.front().filter(|next| next.ticket.is_none() && next.mark <= durable)?;
        list.pop_front().map(|next| next.reply)
    }

    /// Notes that a ticket is complete. The replies of a connection that wait for it now wait only for the
    /// log, up to `mark`.
    pub(in crate::broker) fn complete(
        &mut self,
        ticket: Ticket,
        answer: &PublishAnswer,
        mark: LogMark,
        reply: impl Fn() -> Reply,
    ) -> bool {
        let Some(list) = self.lists.get_mut(&answer.slot) else { return false };
        if let Some(newest) = answer.reply {
            list.for_ticket(ticket, newest, |pending| {
                pending.ticket = None;
                pending.mark = pending.mark.max(mark);
                pending.reply = reply();
            });
        }
        true
    }

    /// Drops all replies of a connection.
    pub(in crate::broker) fn forget(&mut self, slot: ConnectionSlot) {
        if let Some(mut list) = self.lists.remove(&slot) {
            list.clear();
            if self.spare.len() < SPARE_MAX {
                self.spare.push(list);
            }
        }
    }

    /// Adds an item that waits until the log is durable up to `mark`, and until the earlier items are done.
    pub(in crate::broker) fn wait_for_log(&mut self, mark: LogMark, what: AfterLog) {
        let mark = mark.max(self.after_log.back().map_or(LogMark::START, |(last, _)| *last));
        self.after_log.push_back((mark, what));
    }

    /// Drops everything that waits for the log, because the log will never be durable.
    pub(in crate::broker) fn give_up_waiting_for_log(&mut self) {
        self.after_log = VecDeque::new();
    }

    /// Whether anything waits for the log.
    pub(in crate::broker) fn await_log(&self) -> bool {
        !self.after_log.is_empty()
    }

    /// Whether an item is ready that waited for the log.
    pub(in crate::broker) fn has_durable(&self, durable: LogMark) -> bool {
        self.after_log.front().is_some_and(|(mark, _)| *mark <= durable)
    }

    /// The next ready item.
    pub(in crate::broker) fn pop_durable(&mut self, durable: LogMark) -> Option<AfterLog> {
        if !self.has_durable(durable) {
            return None;
        }
        self.after_log.pop_front().map(|(_, what)| what)
    }

    /// Adds a receipt for another shard. It is sent with the others of this turn.
    pub(in crate::broker) fn push_receipt(&mut self, to: ShardId, receipt: Receipt) {
        self.receipts[usize::from(to)].push(receipt);
    }

    /// Takes the receipts for a shard, if there are any.
    pub(in crate::broker) fn take_receipts(&mut self, to: ShardId) -> Option<Vec<Receipt>> {
        let receipts = &mut self.receipts[usize::from(to)];
        (!receipts.is_empty()).then(|| std::mem::take(receipts))
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.spare = Vec::new();
        self.lists.shrink_to_fit();
        self.tickets.shrink_to_fit();
        self.after_log.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies() -> Replies {
        Replies::new(2, 1)
    }

    fn slot() -> ConnectionSlot {
        ConnectionSlot::new(3)
    }

    fn receipt(ticket: Ticket, refused: bool) -> Receipt {
        Receipt { ticket, outcome: Outcome { refused, ..Outcome::default() } }
    }

    #[test]
    fn a_reply_waits_for_those_before_it_whatever_it_waits_for_itself() {
        let mut replies = replies();
        assert_eq!(replies.push(slot(), LogMark::behind(2), None, Reply::Pong), 1);
        assert_eq!(replies.push(slot(), LogMark::START, None, Reply::End), 2);
        assert!(replies.pop_ready(slot(), LogMark::behind(1)).is_none());
        assert!(matches!(replies.pop_ready(slot(), LogMark::behind(2)), Some(Reply::Pong)));
        assert!(matches!(replies.pop_ready(slot(), LogMark::START), Some(Reply::End)));
        assert!(replies.pop_ready(slot(), LogMark::behind(9)).is_none());
    }

    #[test]
    fn a_ticket_is_complete_with_its_last_receipt_and_joins_the_outcomes() {
        let mut replies = replies();
        let tickets = [0; 3].map(|_| {
            let ticket = replies.next_ticket();
            replies.open_ticket(2, Outcome::default(), Intents::new(), Purpose::Intents);
            ticket
        });
        replies.add_to_ticket(tickets[1], 1, Intents::new());
        assert!(replies.take_receipt(&receipt(tickets[1], true)).is_none());
        assert!(replies.take_receipt(&receipt(tickets[1], false)).is_none());
        let done = replies.take_receipt(&receipt(tickets[1], false)).expect("it was the third");
        assert!(done.outcome.refused);
        assert!(!replies.is_ticket_open(tickets[1]) && replies.is_ticket_open(tickets[0]));
        assert!(replies.take_receipt(&receipt(tickets[1], false)).is_none(), "one too many changes nothing");
        for ticket in [tickets[0], tickets[2]] {
            replies.take_receipt(&receipt(ticket, false));
            assert!(replies.take_receipt(&receipt(ticket, false)).is_some());
        }
        assert!(replies.tickets.is_empty(), "tickets that are complete take no memory");
        assert!(replies.next_ticket() != tickets[2], "a number is given once");
    }

    #[test]
    fn what_waits_for_the_log_comes_in_its_order() {
        let mut replies = replies();
        for mark in [5, 3, 7] {
            replies.wait_for_log(LogMark::behind(mark), AfterLog::Replies { slot: slot() });
        }
        assert!(!replies.has_durable(LogMark::behind(4)), "the second waits for the first");
        assert!(
            replies.pop_durable(LogMark::behind(5)).is_some()
                && replies.pop_durable(LogMark::behind(5)).is_some()
        );
        assert!(replies.pop_durable(LogMark::behind(5)).is_none() && replies.await_log());
        replies.give_up_waiting_for_log();
        assert!(!replies.await_log());
    }

    #[test]
    fn replies_of_an_ended_connection_are_forgotten_and_receipts_go_to_their_shard() {
        let mut replies = replies();
        replies.push(slot(), LogMark::NEVER, None, Reply::Pong);
        assert!(replies.are_pending(slot()));
        replies.forget(slot());
        assert!(!replies.are_pending(slot()) && replies.pending(slot()) == 0);
        replies.push(slot(), LogMark::START, None, Reply::Pong);
        assert_eq!(replies.pending(slot()), 1, "a list that is used again is empty");
        let ticket = replies.next_ticket();
        replies.push_receipt(1, receipt(ticket, false));
        assert!(replies.take_receipts(0).is_none());
        assert_eq!(replies.take_receipts(1).map(|receipts| receipts.len()), Some(1));
        assert!(replies.take_receipts(1).is_none());
    }
}
