//! Answers that wait: for the log to be durable, and for the receipts of other shards.
//!
//! Whatever the machine says to someone about something that must survive is said only once the record
//! of it is durable. A connection's answers keep their order (`[MQTT5-4.6.0-2]`), so each that waits
//! holds up those behind it; without anything that waits there is no list, and an answer goes out at
//! once. A ticket counts the receipts that are missing for a publish that other shards take part in.

use super::deliver::Fanout;
use super::enqueue::Taken;
use super::full_disk::DISK;
use crate::base::ConnectionKey;
use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::base::{SessionKey, ShardId};
use crate::broker::components::budget::WORK_AN_ANSWER;
use crate::broker::components::connections::PAUSED_BY_OWED;
use crate::broker::components::owed::OwedList;
use crate::broker::components::sessions::GATED;
use crate::broker::{Counter, EndCause, Mail, Shard, Violation};
use crate::mqtt::codec::{Ack, AckKind, encode_ack, encode_pingresp};
use crate::mqtt::{PacketId, ProtocolVersion, QoS, Reason};
use crate::session::KeptMessage;
use crate::session::Losses;
use crate::store::Record;
use ahash::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::rc::Rc;

/// What a shard says of a message that it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// From the mail.
    pub ticket: u64,
    /// What became of the message.
    pub outcome: Outcome,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Subscriptions that it matched.
    pub matched: bool,
    /// A session's queue or the retained store is full, and a publisher that can be told is told.
    pub refused: bool,
    /// The disk has no room to keep it for those who should have it later.
    pub unkept: bool,
}

impl Outcome {
    pub(in crate::broker) fn merge(&mut self, other: Outcome) {
        self.matched |= other.matched;
        self.refused |= other.refused;
        self.unkept |= other.unkept;
    }

    /// What became of it for one session.
    pub(in crate::broker) fn note(&mut self, taken: Taken) {
        self.refused |= taken == Taken::Refused;
        self.unkept |= taken == Taken::Unkept;
    }

    /// Is it anything but a success for a publisher of this version?
    ///
    /// 3.x has no code for a full queue. The message is dropped for the full session alone then, and acknowledged:
    /// a publisher that is closed sends it again, and every other session gets it once more each time.
    /// [MQTT311-4.3.3-2] A full disk is another matter: an acknowledgement would promise what is not there.
    pub(in crate::broker) fn is_refused_for(self, version: ProtocolVersion) -> bool {
        self.unkept || (self.refused && version == ProtocolVersion::V5)
    }
}

/// An answer.
pub(in crate::broker) enum Owing {
    Ack(Ack),
    Packet(Box<[u8]>),
    /// SUBACK, and the token of the replays that begin behind it.
    Suback {
        packet: Box<[u8]>,
        token: u64,
    },
    /// CONNACK; the session is resumed behind it, and its client has been told of these losses.
    Connack {
        packet: Box<[u8]>,
        told: Option<Box<Losses>>,
    },
    Pong,
    /// What the publisher gets of its own message, behind its PUBREC.
    Own(Box<OwnDelivery>),
    /// No answer but the end of the connection: a client of 3.x has no other way to learn that its message is not
    /// kept.
    End,
}

/// A message on its way back to its publisher.
pub(in crate::broker) struct OwnDelivery {
    pub message: Rc<KeptMessage>,
    pub topic_hash: u64,
    pub granted: QoS,
    pub retain_as_published: bool,
    pub subscription_ids: SmallVec<[u32; 4]>,
}

/// The receipts that are missing for one message.
struct Ticket {
    missing: u32,
    outcome: Outcome,
    /// Intents that are done with the last of them.
    intents: Intents,
    purpose: Purpose,
}

/// Numbers of intents in the log.
pub(in crate::broker) type Intents = SmallVec<[u64; 2]>;

/// What is done when all receipts are there.
#[derive(Clone, Copy)]
pub(in crate::broker) enum Purpose {
    Answer(PublishAnswer),
    /// This shard was sent the message itself.
    Receipt {
        to: ShardId,
        ticket: u64,
        mark: u64,
    },
    /// Its intents are done, and nobody waits for more.
    Intents,
    /// Its publisher is read on.
    ReadOn(ConnectionKey),
}

/// The acknowledgement of a publish.
#[derive(Clone, Copy)]
pub(in crate::broker) struct PublishAnswer {
    pub slot: ConnectionSlot,
    pub session: SessionKey,
    pub kind: AckKind,
    pub packet_id: PacketId,
    /// The connection, if it is not read until then.
    pub reads_on: Option<ConnectionKey>,
    /// The last of the connection's answers that wait for it, by its number in the list.
    pub owed: Option<u64>,
}

/// A QoS 1 PUBLISH that is large, or behind one; or a QoS 2 PUBLISH, which the client must not get twice, and so only
/// once its packet identifier and all that it came from are durable.
#[derive(Clone, Copy)]
pub(in crate::broker) struct FirstSending {
    pub session: SessionKey,
    pub connection: ConnectionKey,
    pub packet_id: PacketId,
    /// Of the delivery.
    pub number: u64,
    /// The token of the replay that it is of; 0: of none.
    pub replay: u64,
    pub qos: QoS,
}

/// What waits for the log.
pub(in crate::broker) enum ForLog {
    /// The first answers of this connection.
    Owed {
        slot: ConnectionSlot,
    },
    /// A PUBLISH that is not sent before.
    Publish(FirstSending),
    /// `[MQTT5-4.3.3-4]`: the client forgets the identifier with it, and so must we.
    Pubrel {
        session: SessionKey,
        connection: ConnectionKey,
        packet_id: PacketId,
    },
    Receipt {
        to: ShardId,
        receipt: Receipt,
    },
    /// A QoS 2 message on its way to other shards.
    Intent(Box<super::publish::Intent>),
    /// The same, to a member of a shared subscription, or what one gives back to its group.
    Mail(ShardId, Box<Mail>),
}

/// Everything that waits.
pub(in crate::broker) struct Waits {
    lists: HashMap<ConnectionSlot, OwedList, RandomState>,
    /// Empty lists, kept for the next.
    spare: Vec<OwedList>,
    tickets: VecDeque<Option<Ticket>>,
    /// Number of the first of `tickets`.
    first_ticket: u64,
    /// In the order of marks.
    for_log: VecDeque<(u64, ForLog)>,
    /// By receiver.
    receipts: Vec<Vec<Receipt>>,
}

/// A connection that is owed more answers than this times Receive Maximum, or [`OWED_BASIS_MIN`], is not read
/// until it is owed half of that. A client that does not wait for its acknowledgements has no other bound; one
/// that keeps to Receive Maximum never gets here. No answer that waits needs anything from the client, so it
/// comes.
const OWED_FACTOR: usize = 8;
const OWED_BASIS_MIN: usize = 1000;

/// Lists that are kept though empty.
const SPARE_MAX: usize = 256;

impl Waits {
    pub(in crate::broker) fn new(shards: usize, seed: u64) -> Waits {
        Waits {
            lists: HashMap::with_hasher(RandomState::with_seeds(seed, 0x6f77, 0x6564, 0x61)),
            spare: Vec::new(),
            tickets: VecDeque::new(),
            first_ticket: 1,
            for_log: VecDeque::new(),
            receipts: (0..shards).map(|_| Vec::new()).collect(),
        }
    }

    /// The number that the next ticket will have.
    pub(in crate::broker) fn next_ticket(&self) -> u64 {
        self.first_ticket + self.tickets.len() as u64
    }

    fn ticket_mut(&mut self, ticket: u64) -> Option<&mut Option<Ticket>> {
        let at = usize::try_from(ticket.checked_sub(self.first_ticket)?).ok()?;
        self.tickets.get_mut(at)
    }

    /// The publish of a ticket that is open, if its answer goes to this connection.
    fn answer_mut(&mut self, ticket: u64, slot: ConnectionSlot) -> Option<&mut PublishAnswer> {
        match self.ticket_mut(ticket)? {
            Some(Ticket { purpose: Purpose::Answer(answer), .. }) => {
                Some(answer).filter(|to| to.slot == slot)
            }
            _ => None,
        }
    }

    fn is_open(&self, ticket: u64) -> bool {
        let Some(at) = ticket.checked_sub(self.first_ticket) else { return false };
        usize::try_from(at).ok().and_then(|at| self.tickets.get(at)).is_some_and(Option::is_some)
    }

    pub(in crate::broker) fn awaits_log(&self) -> bool {
        !self.for_log.is_empty()
    }

    pub(in crate::broker) fn forget(&mut self, slot: ConnectionSlot) {
        if let Some(mut list) = self.lists.remove(&slot) {
            list.clear();
            self.keep(list);
        }
    }

    fn keep(&mut self, list: OwedList) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(list);
        }
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.spare = Vec::new();
        self.lists.shrink_to_fit();
        self.tickets.shrink_to_fit();
        self.for_log.shrink_to_fit();
    }
}

impl Shard {
    /// Answers a connection: now, or once the log is durable up to `mark`, the ticket is complete, and
    /// whatever the connection was owed before has gone out.
    pub(in crate::broker) fn answer(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        mark: u64,
        ticket: u64,
        answer: Owing,
    ) {
        let waits = mark > self.journal.durable() || ticket != 0;
        if !waits && !self.is_owed(slot) {
            self.send_owed(now, slot, answer);
            return;
        }
        if mark > self.journal.durable() {
            self.wait_for_log(mark, ForLog::Owed { slot });
        }
        let newest = self.waits.answer_mut(ticket, slot).and_then(|answer| answer.owed);
        let Waits { lists, spare, .. } = &mut self.waits;
        let list = lists.entry(slot).or_insert_with(|| spare.pop().unwrap_or_default());
        let number = list.push(mark, ticket, newest, answer);
        let owed = list.len();
        if let Some(answer) = self.waits.answer_mut(ticket, slot) {
            answer.owed = Some(number);
        }
        if owed > self.owed_max(slot) && self.pause(slot, PAUSED_BY_OWED) {
            self.count(Counter::LimitAnswers, 1);
        }
    }

    fn owed_max(&self, slot: ConnectionSlot) -> usize {
        OWED_FACTOR * usize::from(self.terms(slot).receive_maximum).max(OWED_BASIS_MIN)
    }

    /// `what` is done once the log is durable up to `mark`, and after what waits already.
    pub(in crate::broker) fn wait_for_log(&mut self, mark: u64, what: ForLog) {
        if self.journal.has_failed() {
            // It would wait for ever, and take room.
            self.waits.for_log = VecDeque::new();
            return;
        }
        let mark = mark.max(self.waits.for_log.back().map_or(0, |(last, _)| *last));
        self.waits.for_log.push_back((mark, what));
        self.has_put_off |= self.has_durable();
    }

    fn send_owed(&mut self, now: Time, slot: ConnectionSlot, answer: Owing) {
        let Some(session) = self.connections.session_of(slot) else { return };
        let version = self.version_of_session(session);
        match answer {
            Owing::Ack(ack) => {
                if ack.kind == AckKind::Pubrec && ack.reason.is_error() {
                    // From now on the identifier's next message is a new one. [MQTT5-4.3.3-9]
                    let released = self.sessions.session_mut(session).release(ack.packet_id.get());
                    self.note_released(released.iter().len());
                }
                self.send_packet(slot, |out| encode_ack(out, version, ack));
            }
            Owing::Packet(packet) => self.send_packet(slot, |out| out.extend_from_slice(&packet)),
            Owing::Suback { packet, token } => {
                self.send_packet(slot, |out| out.extend_from_slice(&packet));
                self.start_replays(now, session, token);
            }
            Owing::Connack { packet, told } => {
                self.send_packet(slot, |out| out.extend_from_slice(&packet));
                self.sessions.slot_mut(session).flags &= !GATED;
                if let Some(told) = told {
                    self.note_losses_told(session, &told);
                }
                self.resume(now, session);
            }
            Owing::Pong => self.send_packet(slot, encode_pingresp),
            Owing::Own(own) => {
                let OwnDelivery { message, topic_hash, granted, retain_as_published, subscription_ids } =
                    *own;
                let mut fanout = Fanout::of(&message, now, topic_hash);
                self.deliver(
                    now,
                    &mut fanout,
                    session,
                    granted,
                    retain_as_published,
                    &subscription_ids,
                    None,
                );
            }
            Owing::End => self.end_connection(now, slot, EndCause::Violation(DISK)),
        }
    }

    /// Does a connection wait for an answer?
    pub(in crate::broker) fn is_owed(&self, slot: ConnectionSlot) -> bool {
        !self.waits.lists.is_empty() && self.waits.lists.contains_key(&slot)
    }

    /// Sends what a connection is owed, as far as nothing waits.
    fn send_ready(&mut self, now: Time, slot: ConnectionSlot) {
        let durable = self.journal.durable();
        let left = loop {
            // What is sent may end the connection, and with it the list.
            let Some(list) = self.waits.lists.get_mut(&slot) else { return };
            match list.front() {
                Some(owed) if owed.ticket == 0 && owed.mark <= durable => {
                    if let Some(owed) = list.pop_front() {
                        self.send_owed(now, slot, owed.answer);
                    }
                }
                Some(_) => break list.len(),
                None => break 0,
            }
        };
        if left <= self.owed_max(slot) / 2 {
            self.unpause(now, slot, PAUSED_BY_OWED);
        }
        if left == 0 {
            self.waits.forget(slot);
        }
    }

    /// The log is durable up to `last`. Takes effect once and for all; what was waiting for it goes out.
    pub fn handle_durable(&mut self, now: Time, last: u64) {
        self.journal.set_now(now);
        self.journal.set_durable(last);
        self.release_durable(now);
        self.has_put_off |= self.has_durable();
        self.settle(now);
    }

    /// Is there something that the log has, and that has not gone out?
    pub(in crate::broker) fn has_durable(&self) -> bool {
        self.waits.for_log.front().is_some_and(|(mark, _)| *mark <= self.journal.durable())
    }

    /// What has waited for the log and need not any more, as far as the turn allows.
    pub(in crate::broker) fn release_durable(&mut self, now: Time) {
        while !self.is_spent()
            && let Some((mark, _)) = self.waits.for_log.front()
            && *mark <= self.journal.durable()
        {
            let Some((_, what)) = self.waits.for_log.pop_front() else { break };
            self.spend(WORK_AN_ANSWER);
            match what {
                ForLog::Owed { slot } => self.send_ready(now, slot),
                ForLog::Publish(sending) => self.send_durable_publish(now, sending),
                ForLog::Pubrel { session, connection, packet_id } => {
                    self.send_durable_pubrel(session, connection, packet_id);
                }
                ForLog::Receipt { to, receipt } => self.waits.receipts[usize::from(to)].push(receipt),
                ForLog::Intent(intent) => self.forward_intent(*intent),
                ForLog::Mail(to, mail) => self.post(to, *mail),
            }
        }
    }

    /// Opens a ticket for the number of receipts that the next one was announced to need.
    pub(in crate::broker) fn open_ticket(
        &mut self,
        missing: u32,
        outcome: Outcome,
        intents: Intents,
        purpose: Purpose,
    ) {
        self.waits.tickets.push_back(Some(Ticket { missing, outcome, intents, purpose }));
    }

    /// More receipts are to come for a ticket that is open.
    pub(in crate::broker) fn extend_ticket(&mut self, ticket: u64, by: u32) {
        if let Some(Some(ticket)) = self.waits.ticket_mut(ticket) {
            ticket.missing += by;
        }
    }

    /// The same, and intents are done with the last of them.
    pub(in crate::broker) fn add_to_ticket(&mut self, ticket: u64, missing: u32, intents: Intents) {
        if let Some(Some(ticket)) = self.waits.ticket_mut(ticket) {
            ticket.missing += missing;
            ticket.intents.extend(intents);
        }
    }

    /// The answer of a ticket goes to this connection, if the ticket is open.
    pub(in crate::broker) fn redirect_ticket(&mut self, ticket: u64, to: ConnectionSlot) {
        if let Some(Some(Ticket { purpose: Purpose::Answer(answer), .. })) = self.waits.ticket_mut(ticket)
            && answer.slot != to
        {
            (answer.slot, answer.owed) = (to, None);
        }
    }

    /// Does a ticket still wait for receipts?
    pub(in crate::broker) fn is_ticket_open(&self, ticket: u64) -> bool {
        self.waits.is_open(ticket)
    }

    pub(in crate::broker) fn handle_receipts(&mut self, now: Time, receipts: &[Receipt]) {
        for receipt in receipts {
            let Some(place) = self.waits.ticket_mut(receipt.ticket) else { continue };
            let Some(ticket) = place else { continue };
            ticket.outcome.merge(receipt.outcome);
            ticket.missing -= 1;
            if ticket.missing > 0 {
                continue;
            }
            let Some(done) = place.take() else { continue };
            while let Some(None) = self.waits.tickets.front() {
                self.waits.tickets.pop_front();
                self.waits.first_ticket += 1;
            }
            for &number in &done.intents {
                self.journal.record(&Record::IntentDone { number });
            }
            match done.purpose {
                Purpose::Answer(answer) => self.finish_publish(now, receipt.ticket, &answer, done.outcome),
                Purpose::Receipt { to, ticket, mark } => {
                    self.give_receipt(to, mark, Receipt { ticket, outcome: done.outcome });
                }
                Purpose::Intents => {}
                Purpose::ReadOn(key) => self.read_on_later(key),
            }
        }
    }

    /// Every shard has the message of a publish, or has refused it.
    fn finish_publish(&mut self, now: Time, ticket: u64, answer: &PublishAnswer, outcome: Outcome) {
        if let Some(key) = answer.reads_on {
            self.read_on_later(key);
        }
        let mut mark = 0;
        let session = self.sessions.resolve(answer.session);
        let version = session.map_or(ProtocolVersion::V5, |session| self.sessions.slot(session).version);
        if outcome.is_refused_for(version)
            && let Some(session) = session
        {
            self.report_quota(session);
            let is_held = answer.kind == AckKind::Pubrec
                && if version == ProtocolVersion::V5 {
                    self.refuse_held(session, answer.packet_id)
                } else {
                    self.release_held(session, answer.packet_id)
                };
            if is_held && self.sid(session).is_some() {
                mark = self.journal.mark();
            }
        }
        let Some(list) = self.waits.lists.get_mut(&answer.slot) else { return };
        if let Some(newest) = answer.owed {
            list.for_ticket(ticket, newest, |owed| {
                owed.ticket = 0;
                owed.mark = owed.mark.max(mark);
                owed.answer = publish_answer(version, answer.kind, answer.packet_id, outcome);
            });
        }
        if mark > self.journal.durable() {
            self.wait_for_log(mark, ForLog::Owed { slot: answer.slot });
        }
        self.send_ready(now, answer.slot);
    }

    /// Tells another shard what became of its message, once what it became is durable.
    pub(in crate::broker) fn give_receipt(&mut self, to: ShardId, mark: u64, receipt: Receipt) {
        if mark > self.journal.durable() {
            self.wait_for_log(mark, ForLog::Receipt { to, receipt });
        } else {
            self.waits.receipts[usize::from(to)].push(receipt);
        }
    }

    /// One mail a turn and shard, whatever came together; false if there was nothing.
    pub(in crate::broker) fn post_receipts(&mut self) -> bool {
        let mut posted = false;
        for to in 0..self.waits.receipts.len() {
            if !self.waits.receipts[to].is_empty() {
                let receipts = std::mem::take(&mut self.waits.receipts[to]);
                let to = ShardId::try_from(to).expect("at most 128 shards");
                self.post(to, Mail::Receipts(receipts));
                posted = true;
            }
        }
        posted
    }
}

/// What a publisher is told.
pub(in crate::broker) fn publish_answer(
    version: ProtocolVersion,
    kind: AckKind,
    packet_id: PacketId,
    outcome: Outcome,
) -> Owing {
    let reason = if outcome.is_refused_for(version) {
        if version < ProtocolVersion::V5 {
            // Rare: the disk of another shard has become full since `waits_for_disk` asked. The client connects
            // and sends the message again, which waits for room then; on this connection it never would.
            return Owing::End;
        }
        Reason::QuotaExceeded
    } else if !outcome.matched && kind == AckKind::Puback {
        // As mosquitto: 0x10 in PUBACK alone.
        Reason::NoMatchingSubscribers
    } else {
        Reason::Success
    };
    Owing::Ack(Ack { kind, packet_id, reason })
}

/// A bound keeps a message from a session that should get it.
pub(in crate::broker) const QUOTA: Violation = Violation {
    reason: Reason::QuotaExceeded,
    cause: "a bound for queued or retained messages is reached, or the disk is full",
};
