//! Replies. They are sent at once, or when the log and the other shards have what they promise.
//!
//! If a reply depends on something that must survive, the machine sends it only when the record is durable.
//! The replies of a connection keep their order (`[MQTT5-4.6.0-2]`), so each waiting reply holds up the later
//! ones. If nothing waits, there is no list, and a reply is sent at once.

use super::full_disk::DISK;
use crate::base::ConnectionSlot;
use crate::base::ShardId;
use crate::base::Time;
use crate::base::{LogMark, Ticket};
use crate::broker::components::budget::WORK_AN_ANSWER;
use crate::broker::components::connections::PAUSED_BY_REPLIES;
use crate::broker::components::replies::{
    AfterLog, CompleteTicket, OwnDelivery, PublishAnswer, Purpose, Reply,
};
use crate::broker::components::sessions::GATED;
use crate::broker::fanout::Fanout;
use crate::broker::outcome::{Outcome, Receipt};
use crate::broker::{Counter, EndCause, Mail, Shard, Violation};
use crate::mqtt::codec::{Ack, AckKind, encode_ack, encode_pingresp};
use crate::mqtt::{PacketId, ProtocolVersion, Reason};
use crate::store::Record;

/// A connection is not read if it waits for more replies than the maximum of [`PENDING_BASIS_MIN`] and this
/// factor times Receive Maximum. It is read again at half that number. There is no other bound for a client
/// that does not wait for its acknowledgements. A client that respects Receive Maximum never reaches it. No
/// waiting reply needs anything from the client, so each will come.
const PENDING_FACTOR: usize = 8;
const PENDING_BASIS_MIN: usize = 1000;

impl Shard {
    /// Sends a reply to a connection: now, or when the log is durable up to `mark`, the ticket is complete,
    /// and earlier replies to the connection have been sent.
    pub(in crate::broker) fn reply(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        mark: LogMark,
        ticket: Option<Ticket>,
        reply: Reply,
    ) {
        let is_durable = mark <= self.durability.durable();
        if is_durable && ticket.is_none() && !self.replies.are_pending(slot) {
            self.send_reply(now, slot, reply);
            return;
        }
        if !is_durable {
            self.wait_for_log(mark, AfterLog::Replies { slot });
        }
        let pending = self.replies.push(slot, mark, ticket, reply);
        if pending > self.replies_max(slot) && self.pause(slot, PAUSED_BY_REPLIES) {
            self.count(Counter::LimitAnswers, 1);
        }
    }

    fn replies_max(&self, slot: ConnectionSlot) -> usize {
        PENDING_FACTOR * usize::from(self.terms(slot).receive_maximum).max(PENDING_BASIS_MIN)
    }

    /// Adds an item that waits until the log is durable up to `mark`, and until the earlier items are done.
    pub(in crate::broker) fn wait_for_log(&mut self, mark: LogMark, what: AfterLog) {
        if self.durability.has_failed() {
            self.replies.give_up_waiting_for_log();
            return;
        }
        self.replies.wait_for_log(mark, what);
        let has_more = self.has_durable();
        self.turn.put_off_if(has_more);
    }

    fn send_reply(&mut self, now: Time, slot: ConnectionSlot, reply: Reply) {
        let Some(session) = self.connections.session_of(slot) else { return };
        let version = self.version_of_session(session);
        match reply {
            Reply::Ack(ack) => {
                if ack.kind == AckKind::Pubrec && ack.reason.is_error() {
                    // From now on the next message with this identifier is a new one. [MQTT5-4.3.3-9]
                    let released = self.sessions.session_mut(session).release(ack.packet_id.get());
                    self.note_released(released.iter().len());
                }
                self.send_packet(slot, |out| encode_ack(out, version, ack));
            }
            Reply::Packet(packet) => self.send_packet(slot, |out| out.extend_from_slice(&packet)),
            Reply::Suback { packet, token } => {
                self.send_packet(slot, |out| out.extend_from_slice(&packet));
                self.start_replays(now, session, token);
            }
            Reply::Connack { since, packet, losses } => {
                self.kinds().connack.note(now.micros_since(since));
                self.send_packet(slot, |out| out.extend_from_slice(&packet));
                self.sessions.slot_mut(session).flags &= !GATED;
                if let Some(losses) = losses {
                    self.note_losses_reported(session, &losses);
                }
                self.resume(now, session);
            }
            Reply::Pong => self.send_packet(slot, encode_pingresp),
            Reply::Own(own) => {
                let OwnDelivery { message, topic_hash, granted, retain_as_published, subscription_ids } =
                    *own;
                let mut fanout = Fanout::of(&message, now);
                fanout.topic_hash = topic_hash;
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
            Reply::End => self.end_connection(now, slot, EndCause::Violation(DISK)),
        }
    }

    /// Sends the replies that a connection waits for, as far as nothing holds them up.
    fn send_ready(&mut self, now: Time, slot: ConnectionSlot) {
        if !self.replies.are_pending(slot) {
            return;
        }
        let durable = self.durability.durable();
        while let Some(reply) = self.replies.pop_ready(slot, durable) {
            self.send_reply(now, slot, reply);
        }
        // A reply may have ended the connection, and its list with it.
        if !self.replies.are_pending(slot) {
            return;
        }
        let left = self.replies.pending(slot);
        if left <= self.replies_max(slot) / 2 {
            self.unpause(now, slot, PAUSED_BY_REPLIES);
        }
        if left == 0 {
            self.replies.forget(slot);
        }
    }

    /// Notes that the log is durable up to the frame with the sequence `last`. Items that waited for it are
    /// handled.
    pub fn handle_durable(&mut self, now: Time, last: u64) {
        self.durability.set_now(now);
        self.durability.set_durable(last);
        self.release_durable(now);
        let has_more = self.has_durable();
        self.turn.put_off_if(has_more);
        self.settle(now);
    }

    /// Whether the log has something that was not handled yet.
    pub(in crate::broker) fn has_durable(&self) -> bool {
        self.replies.has_durable(self.durability.durable())
    }

    /// Handles items that no longer wait for the log, as far as the turn allows.
    pub(in crate::broker) fn release_durable(&mut self, now: Time) {
        while !self.is_spent()
            && let Some(what) = self.replies.pop_durable(self.durability.durable())
        {
            self.spend(WORK_AN_ANSWER);
            match what {
                AfterLog::Replies { slot } => self.send_ready(now, slot),
                AfterLog::Publish(sending) => self.send_durable_publish(now, sending),
                AfterLog::Pubrel { session, connection, packet_id } => {
                    self.send_durable_pubrel(session, connection, packet_id);
                }
                AfterLog::Receipt { to, receipt } => self.replies.push_receipt(to, receipt),
                AfterLog::Intent(intent) => self.forward_intent(*intent),
                AfterLog::Mail(to, mail) => self.post(to, *mail),
                AfterLog::Order => {}
            }
        }
    }

    pub(in crate::broker) fn handle_receipts(&mut self, now: Time, receipts: &[Receipt]) {
        for receipt in receipts {
            let Some(complete) = self.replies.take_receipt(receipt) else { continue };
            let CompleteTicket { outcome, intents, purpose } = complete;
            for number in intents {
                self.durability.record(&Record::IntentDone { number });
            }
            match purpose {
                Purpose::Answer(answer) => self.finish_publish(now, receipt.ticket, &answer, outcome),
                Purpose::Receipt { to, ticket, mark } => {
                    self.give_receipt(to, mark, Receipt { ticket, outcome });
                }
                Purpose::Intents => {}
                Purpose::ReadOn(key) => self.read_on_later(key),
            }
        }
    }

    /// Answers a publish after every shard has the message or has refused it.
    fn finish_publish(&mut self, now: Time, ticket: Ticket, answer: &PublishAnswer, outcome: Outcome) {
        if let Some(key) = answer.reads_on {
            self.read_on_later(key);
        }
        let mut mark = LogMark::START;
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
                mark = self.durability.mark();
            }
        }
        let reply = || publish_reply(version, answer.kind, answer.packet_id, outcome);
        if !self.replies.complete(ticket, answer, mark, reply) {
            return;
        }
        if mark > self.durability.durable() {
            self.wait_for_log(mark, AfterLog::Replies { slot: answer.slot });
        }
        self.send_ready(now, answer.slot);
    }

    /// Tells another shard the outcome of its message, when that outcome is durable.
    pub(in crate::broker) fn give_receipt(&mut self, to: ShardId, mark: LogMark, receipt: Receipt) {
        if mark > self.durability.durable() {
            self.wait_for_log(mark, AfterLog::Receipt { to, receipt });
        } else {
            self.replies.push_receipt(to, receipt);
        }
    }

    /// Sends the collected receipts, in one mail per turn and shard. Returns `false` if there were none.
    pub(in crate::broker) fn post_receipts(&mut self) -> bool {
        let mut posted = false;
        for to in 0..ShardId::try_from(self.shared.shards()).expect("at most 128 shards") {
            if let Some(receipts) = self.replies.take_receipts(to) {
                self.post(to, Mail::Receipts(receipts));
                posted = true;
            }
        }
        posted
    }
}

/// The reply to a publisher.
pub(in crate::broker) fn publish_reply(
    version: ProtocolVersion,
    kind: AckKind,
    packet_id: PacketId,
    outcome: Outcome,
) -> Reply {
    let reason = if outcome.is_refused_for(version) {
        if version < ProtocolVersion::V5 {
            // This is rare: the disk of another shard has become full since `waits_for_disk` was called. The
            // client connects again and sends the message again, which then waits for room. On this
            // connection it would never do so.
            return Reply::End;
        }
        Reason::QuotaExceeded
    } else if !outcome.matched && kind == AckKind::Puback {
        // As in mosquitto, only PUBACK has 0x10.
        Reason::NoMatchingSubscribers
    } else {
        Reason::Success
    };
    Reply::Ack(Ack { kind, packet_id, reason })
}

/// The refusal if a bound keeps a message from a session that should get it.
pub(in crate::broker) const QUOTA: Violation = Violation {
    reason: Reason::QuotaExceeded,
    cause: "a bound for queued or retained messages is reached, or the disk is full or has failed",
};
