//! A message that goes to many subscribers, and the parts of it that are already encoded in this turn's
//! arena.
//!
//! A message is encoded once per variant (protocol, QoS, RETAIN) and turn. At QoS 1 and 2 the packet
//! identifiers may differ. Subscribers with the same next identifier share the variant. The others get a copy
//! with two bytes changed.

use crate::base::ConnectionSlot;
use crate::base::MemoryAccount;
use crate::base::MessageNumber;
use crate::base::SessionSlot;
use crate::base::TextHash;
use crate::base::Ticket;
use crate::base::Time;
use crate::broker::components::convoys::OwnMatch;
use crate::broker::components::outbox::{Outbox, Range};
use crate::broker::components::replies::Intents;
use crate::mqtt::codec::{PublishHeader, encode_publish};
use crate::mqtt::{PacketId, ProtocolVersion, QoS};
use crate::session::KeptMessage;
use crate::session::{Message, Publication};
use std::rc::Rc;

/// A payload up to this size is copied after each header. If it is larger, all headers refer to one copy.
const COPIED_PAYLOAD_MAX: usize = 512;
/// A message that goes to many subscribers.
pub(in crate::broker) struct Fanout<'a> {
    pub publication: Publication<'a>,
    /// The hash of the topic of a retained message, when it is known.
    pub topic_hash: Option<TextHash>,
    pub expiry_seconds: Option<u32>,
    pub kept: Option<Rc<KeptMessage>>,
    /// The message's number in the log, if it is in the log.
    pub number: Option<MessageNumber>,
    pub encoded: Encoded,
    /// The ticket that counts the receipts of other shards, if anything waits for them.
    pub ticket: Option<Ticket>,
    /// The number of receipts that are expected.
    pub missing: u32,
    /// Whether it goes to other shards as intents. `intents` has their numbers.
    pub intended: bool,
    pub intents: Intents,
    /// Whether the message must not be refused because of a full disk. This holds if another shard's log has
    /// it for this one, or if a member of a group had it and has ended. A refusal would lose the message, or
    /// the sessions that have taken it would get it again when its publisher repeats it. Its receipt waits
    /// for room on the disk.
    pub promised: bool,
    /// The publisher, which is served last.
    pub own: Option<SessionSlot>,
    pub own_delivery: Option<OwnMatch>,
}

/// The parts of a message that are already in this turn's arena.
#[derive(Default)]
pub(in crate::broker) struct Encoded {
    variants: [Option<Variant>; 12],
    payload: Option<Range>,
}

/// The message that was last sent to sessions one by one, from queues or after the log had it. It is encoded
/// once for all of them in the same turn.
pub(in crate::broker) struct RecentMessage {
    pub message: Rc<KeptMessage>,
    pub expiry_seconds: Option<u32>,
    /// The turn of the outbox.
    pub turn: u64,
    pub encoded: Encoded,
}

/// The bytes of one variant in this turn's arena.
#[derive(Clone, Copy)]
pub(in crate::broker) struct Variant {
    pub head: Range,
    pub payload: Option<Range>,
    packet_id: Option<PacketId>,
    /// The offset of the packet identifier from the start of the head.
    id_at: u32,
}

impl Variant {
    /// The variant for a full outbox, which notes the connections that would have been sent it.
    const NOTHING: Variant =
        Variant { head: Range { start: 0, len: 0 }, payload: None, packet_id: None, id_at: 0 };

    /// Sends it to a connection.
    pub(in crate::broker) fn send(self, outbox: &mut Outbox, slot: ConnectionSlot) {
        outbox.send_message(slot, self.head);
        if let Some(payload) = self.payload {
            outbox.send(slot, payload);
        }
    }

    pub(in crate::broker) fn len(&self) -> u32 {
        self.head.len + self.payload.map_or(0, |range| range.len)
    }
}

impl<'a> Fanout<'a> {
    pub(in crate::broker) fn new(publication: Publication<'a>, now: Time) -> Fanout<'a> {
        Fanout {
            publication,
            topic_hash: None,
            expiry_seconds: publication.expiry_seconds_left(now),
            kept: None,
            number: None,
            encoded: Encoded::default(),
            ticket: None,
            missing: 0,
            intended: false,
            intents: Intents::new(),
            promised: false,
            own: None,
            own_delivery: None,
        }
    }

    /// Expects more receipts, and returns the ticket to send with the message.
    pub(in crate::broker) fn await_receipts(&mut self, count: u32) -> Option<Ticket> {
        self.missing += if self.ticket.is_none() { 0 } else { count };
        self.ticket
    }

    /// A fan-out of a message that is already stored.
    pub(in crate::broker) fn of(message: &'a Rc<KeptMessage>, now: Time) -> Fanout<'a> {
        let mut fanout = Fanout::new(message.as_publication(), now);
        fanout.kept = Some(Rc::clone(message));
        fanout
    }

    /// The message in a form that outlives the read buffer. It is copied at most once.
    pub(in crate::broker) fn keep(&mut self, account: &MemoryAccount) -> Rc<KeptMessage> {
        let kept = || KeptMessage::new(self.publication.to_message(), account);
        Rc::clone(self.kept.get_or_insert_with(kept))
    }

    /// The message to send to another shard. It is copied only if it is not stored already.
    pub(in crate::broker) fn to_message(&self) -> Message {
        self.kept.as_deref().map_or_else(|| self.publication.to_message(), |kept| Message::clone(kept))
    }

    /// The header of this message for a subscriber with this form.
    pub(in crate::broker) fn header(&self, form: WireForm, packet_id: Option<PacketId>) -> PublishHeader<'a> {
        PublishHeader {
            version: form.version,
            dup: false,
            qos: form.qos,
            retain: form.retain,
            packet_id,
            topic: self.publication.topic,
            topic_alias: None,
            message_expiry_seconds: self.expiry_seconds,
            forward: self.publication.forward,
            subscription_ids: &[],
        }
    }

    /// The variant with this packet identifier. It is encoded at most once.
    pub(in crate::broker) fn variant(
        &mut self,
        outbox: &mut Outbox,
        form: WireForm,
        packet_id: Option<PacketId>,
    ) -> Variant {
        let at = form.index();
        let variant = match self.encoded.variants[at] {
            Some(variant) if variant.packet_id == packet_id => return variant,
            Some(variant) => renumber(outbox, variant, packet_id),
            None => self.encode(outbox, &self.header(form, packet_id)),
        };
        self.encoded.variants[at] = Some(variant);
        variant
    }

    pub(in crate::broker) fn encode(&mut self, outbox: &mut Outbox, header: &PublishHeader<'_>) -> Variant {
        if outbox.is_full() {
            return Variant::NOTHING;
        }
        let payload = self.publication.payload;
        let start = outbox.arena_bytes();
        let id_at = encode_publish(outbox.arena_mut(), header, payload.len());
        let mut head = outbox.range_since(start);
        if payload.len() <= COPIED_PAYLOAD_MAX {
            outbox.arena_mut().extend_from_slice(payload);
            head = outbox.range_since(start);
        } else if self.encoded.payload.is_none() {
            let start = outbox.arena_bytes();
            outbox.arena_mut().extend_from_slice(payload);
            self.encoded.payload = Some(outbox.range_since(start));
        }
        Variant {
            head,
            payload: if payload.len() <= COPIED_PAYLOAD_MAX { None } else { self.encoded.payload },
            packet_id: header.packet_id,
            id_at: u32::try_from(id_at.saturating_sub(start)).expect("a header has less than 2^28 bytes"),
        }
    }
}

/// Copies a variant's head with another packet identifier.
fn renumber(outbox: &mut Outbox, variant: Variant, packet_id: Option<PacketId>) -> Variant {
    if outbox.is_full() || variant.head.len == 0 {
        return Variant::NOTHING;
    }
    let from = variant.head.start as usize;
    let start = outbox.arena_bytes();
    let arena = outbox.arena_mut();
    arena.extend_from_within(from..from + variant.head.len as usize);
    if let Some(packet_id) = packet_id {
        let at = start + variant.id_at as usize;
        arena[at..at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
    }
    Variant { head: outbox.range_since(start), packet_id, ..variant }
}

/// The properties that make the bytes for two subscribers equal, except for the packet identifier.
#[derive(Clone, Copy)]
pub(in crate::broker) struct WireForm {
    pub version: ProtocolVersion,
    pub qos: QoS,
    pub retain: bool,
}

impl WireForm {
    fn index(self) -> usize {
        // 3.1 and 3.1.1 have the same format.
        usize::from(self.version == ProtocolVersion::V5) * 6
            + self.qos as usize * 2
            + usize::from(self.retain)
    }
}
