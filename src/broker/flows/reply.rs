//! Replies: sent at once, or when the log and the other shards have what they promise.
//!
//! Whatever the machine says to someone about something that must survive is said only once the record
//! of it is durable. The replies of a connection keep their order (`[MQTT5-4.6.0-2]`), so each that waits
//! holds up those behind it; without anything that waits there is no list, and a reply goes out at
//! once.

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

/// A connection that waits for more replies than this times Receive Maximum, or [`PENDING_BASIS_MIN`], is not read
/// until it waits for half of that. A client that does not wait for its acknowledgements has no other bound; one
/// that keeps to Receive Maximum never gets here. No reply that waits needs anything from the client, so it
/// comes.
const PENDING_FACTOR: usize = 8;
const PENDING_BASIS_MIN: usize = 1000;

impl Shard {
    /// Replies to a connection: now, or once the log is durable up to `mark`, the ticket is complete, and
    /// whatever the connection waited for before has gone out.
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

    /// `what` is done once the log is durable up to `mark`, and after what waits already.
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
                    // From now on the identifier's next message is a new one. [MQTT5-4.3.3-9]
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
            Reply::Connack { packet, told } => {
                self.send_packet(slot, |out| out.extend_from_slice(&packet));
                self.sessions.slot_mut(session).flags &= !GATED;
                if let Some(told) = told {
                    self.note_losses_told(session, &told);
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
        // What was sent may have ended the connection, and with it the list.
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

    /// The log is durable up to the frame with the sequence `last`. Takes effect once and for all; what was waiting for
    /// it goes out.
    pub fn handle_durable(&mut self, now: Time, last: u64) {
        self.durability.set_now(now);
        self.durability.set_durable(last);
        self.release_durable(now);
        let has_more = self.has_durable();
        self.turn.put_off_if(has_more);
        self.settle(now);
    }

    /// Is there something that the log has, and that has not gone out?
    pub(in crate::broker) fn has_durable(&self) -> bool {
        self.replies.has_durable(self.durability.durable())
    }

    /// What has waited for the log and need not any more, as far as the turn allows.
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

    /// Every shard has the message of a publish, or has refused it.
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

    /// Tells another shard what became of its message, once what it became is durable.
    pub(in crate::broker) fn give_receipt(&mut self, to: ShardId, mark: LogMark, receipt: Receipt) {
        if mark > self.durability.durable() {
            self.wait_for_log(mark, AfterLog::Receipt { to, receipt });
        } else {
            self.replies.push_receipt(to, receipt);
        }
    }

    /// One mail a turn and shard, whatever came together; false if there was nothing.
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

/// What a publisher is told.
pub(in crate::broker) fn publish_reply(
    version: ProtocolVersion,
    kind: AckKind,
    packet_id: PacketId,
    outcome: Outcome,
) -> Reply {
    let reason = if outcome.is_refused_for(version) {
        if version < ProtocolVersion::V5 {
            // Rare: the disk of another shard has become full since `waits_for_disk` asked. The client connects
            // and sends the message again, which waits for room then; on this connection it never would.
            return Reply::End;
        }
        Reason::QuotaExceeded
    } else if !outcome.matched && kind == AckKind::Puback {
        // As mosquitto: 0x10 in PUBACK alone.
        Reason::NoMatchingSubscribers
    } else {
        Reason::Success
    };
    Reply::Ack(Ack { kind, packet_id, reason })
}

/// A bound keeps a message from a session that should get it.
pub(in crate::broker) const QUOTA: Violation = Violation {
    reason: Reason::QuotaExceeded,
    cause: "a bound for queued or retained messages is reached, or the disk is full or has failed",
};
