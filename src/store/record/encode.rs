//! Converts records to bytes.

use super::short::{PacketIdPlace, ShortWriter};
use super::{IDS_MAX, Record, StoredMessage, StoredWill, tag};
use crate::base::{DeliveryNumber, Numbered, SessionNumber, Stamp};
use crate::mqtt::{PacketId, SubscriptionOptions};
use crate::session::LOSS_CAUSES;
use crate::store::ClockMark;
use crate::store::rows::DeliveryKey;

/// Appends records to a frame.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    short: ShortWriter,
}

impl Encoder {
    /// Begins a new frame.
    pub(crate) fn begin_frame(&mut self) {
        self.short.begin_frame();
    }

    /// Appends a record to the bytes of its frame. These bytes must keep their offsets in `out`.
    pub(crate) fn encode(&mut self, out: &mut Vec<u8>, record: &Record<'_>) {
        match record {
            Record::Session { sid, client_id, version, expiry_seconds, will } => {
                out.push(tag::SESSION);
                put_varint(out, sid.get());
                put_bytes(out, client_id.as_bytes());
                out.push(*version as u8);
                put_varint(out, u64::from(*expiry_seconds));
                out.push(u8::from(will.is_some()));
                if let Some(will) = will {
                    put_will(out, will);
                }
            }
            Record::Left { sid, at_millis, expiry_seconds } => {
                out.push(tag::LEFT);
                put_varint(out, sid.get());
                put_varint(out, *at_millis);
                put_varint(out, u64::from(*expiry_seconds));
            }
            Record::WillGone { sid } => put_sid(out, tag::WILL_GONE, *sid),
            Record::Ended { sid } => put_sid(out, tag::ENDED, *sid),
            Record::Subscribed { sid, filter, options, subscription_id } => {
                put_sid(out, tag::SUBSCRIBED, *sid);
                put_bytes(out, filter.as_bytes());
                out.push(options_byte(*options));
                put_varint(out, subscription_id.map_or(0, |id| u64::from(id.get())));
            }
            Record::Unsubscribed { sid, filter } => {
                put_sid(out, tag::UNSUBSCRIBED, *sid);
                put_bytes(out, filter.as_bytes());
            }
            Record::Message { number, message } if message.source.is_empty() => {
                self.short.put_message(out, *number, message);
            }
            Record::Message { number, message } => {
                out.push(tag::MESSAGE);
                self.put_number(out, *number);
                put_message(out, message);
            }
            Record::Delivery { sid, number, message, qos, retain, packet_id, subscription_ids, group } => {
                if self.short.put_delivery(out, record) {
                    return;
                }
                put_sid(out, tag::DELIVERY, *sid);
                self.put_number(out, *message);
                self.put_number(out, *number);
                let many = u8::try_from(subscription_ids.len()).unwrap_or(u8::MAX).min(IDS_MAX);
                let (has_id, has_group) = (u8::from(packet_id.is_some()), u8::from(!group.is_empty()));
                out.push(*qos as u8 | u8::from(*retain) << 2 | has_id << 3 | has_group << 4 | many << 5);
                if let Some(packet_id) = packet_id {
                    put_packet_id(out, *packet_id);
                }
                if many == IDS_MAX {
                    put_varint(out, subscription_ids.len() as u64);
                }
                for &id in subscription_ids {
                    put_varint(out, u64::from(id));
                }
                if !group.is_empty() {
                    put_bytes(out, group.as_bytes());
                }
            }
            Record::Started { sid, number, packet_id } => {
                put_sid(out, tag::STARTED, *sid);
                self.put_number(out, *number);
                put_packet_id(out, *packet_id);
            }
            Record::Released { sid, number } => {
                self.short.put_released(out, DeliveryKey { sid: *sid, number: *number })
            }
            Record::Settled { sid, number } => {
                self.short.put_settled(out, DeliveryKey { sid: *sid, number: *number })
            }
            Record::Lost { sid, number, cause, count } => {
                put_sid(out, tag::LOST, *sid);
                self.put_raw(out, number.map_or(0, DeliveryNumber::get));
                out.push(*cause as u8);
                put_varint(out, u64::from(*count));
            }
            Record::LossesTold { sid, left } => {
                put_sid(out, tag::LOSSES_TOLD, *sid);
                put_counts(out, *left);
            }
            Record::Returned { sid, delivery, number } => {
                put_sid(out, tag::RETURNED, *sid);
                self.put_number(out, *delivery);
                self.put_number(out, *number);
            }
            Record::Held { sid, packet_id, payload_bytes } => {
                if !self.short.is_next_held(PacketIdPlace { sid: *sid, packet_id: *packet_id }) {
                    put_sid(out, tag::HELD, *sid);
                    put_packet_id(out, *packet_id);
                } else {
                    out.push(tag::HELD_NEXT);
                }
                put_varint(out, u64::from(*payload_bytes));
            }
            Record::Unheld { sid, packet_id } => {
                if !self.short.is_next_unheld(PacketIdPlace { sid: *sid, packet_id: *packet_id }) {
                    put_sid(out, tag::UNHELD, *sid);
                    put_packet_id(out, *packet_id);
                } else {
                    out.push(tag::UNHELD_NEXT);
                }
            }
            Record::Retained { stamp, message } => {
                out.push(tag::RETAINED);
                put_varint(out, stamp.get());
                put_message(out, message);
            }
            Record::Unretained { topic } => {
                out.push(tag::UNRETAINED);
                put_bytes(out, topic.as_bytes());
            }
            Record::Intent { number, targets, stamp, group, message } => {
                out.push(tag::INTENT);
                self.put_number(out, *number);
                out.extend_from_slice(&targets.to_le_bytes());
                put_varint(out, stamp.map_or(0, Stamp::get));
                put_bytes(out, group.as_bytes());
                put_message(out, message);
            }
            Record::IntentDone { number } => {
                out.push(tag::INTENT_DONE);
                self.put_number(out, *number);
            }
            Record::IntentSeen { number } => {
                out.push(tag::INTENT_SEEN);
                self.put_number(out, *number);
            }
            Record::Alive => out.push(tag::ALIVE),
            Record::Clock(mark) => {
                out.push(tag::CLOCK);
                put_clock(out, mark);
            }
            Record::Will { number, client_id, will } => {
                out.push(tag::WILL);
                self.put_number(out, *number);
                put_bytes(out, client_id.as_bytes());
                put_will(out, will);
            }
            Record::WillOver { number } => {
                out.push(tag::WILL_OVER);
                self.put_number(out, *number);
            }
        }
    }

    fn put_number(&mut self, out: &mut Vec<u8>, number: impl Numbered) {
        self.put_raw(out, number.get());
    }

    fn put_raw(&mut self, out: &mut Vec<u8>, number: u64) {
        put_distance(out, number, &mut self.short.recent.number);
    }
}

/// Writes a number as its distance from `before`, and sets `before` to it.
pub(super) fn put_distance(out: &mut Vec<u8>, number: u64, before: &mut u64) {
    let distance = number.wrapping_sub(*before).cast_signed();
    put_varint(out, (distance.cast_unsigned() << 1) ^ (distance >> 63).cast_unsigned());
    *before = number;
}

pub(crate) fn options_byte(options: SubscriptionOptions) -> u8 {
    options.qos as u8
        | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4
}

fn put_sid(out: &mut Vec<u8>, tag: u8, sid: SessionNumber) {
    out.push(tag);
    put_varint(out, sid.get());
}

pub(crate) fn put_packet_id(out: &mut Vec<u8>, packet_id: PacketId) {
    out.extend_from_slice(&packet_id.get().to_le_bytes());
}

pub(crate) fn put_counts(out: &mut Vec<u8>, counts: [u32; LOSS_CAUSES]) {
    for count in counts {
        put_varint(out, u64::from(count));
    }
}

pub(crate) fn put_message(out: &mut Vec<u8>, message: &StoredMessage<'_>) {
    let expires = u8::from(message.expires_at_millis.is_some());
    let sourced = u8::from(!message.source.is_empty());
    out.push(message.qos as u8 | u8::from(message.retain) << 2 | expires << 3 | sourced << 4);
    if let Some(at) = message.expires_at_millis {
        put_varint(out, at);
    }
    put_bytes(out, message.topic.as_bytes());
    put_runs(out, message.properties);
    put_bytes(out, message.payload);
    if !message.source.is_empty() {
        put_bytes(out, message.source);
    }
}

/// Writes several runs of bytes as one.
pub(super) fn put_runs(out: &mut Vec<u8>, runs: [&[u8]; 3]) {
    put_varint(out, runs.iter().map(|run| run.len() as u64).sum());
    for run in runs {
        out.extend_from_slice(run);
    }
}

pub(crate) fn put_will(out: &mut Vec<u8>, will: &StoredWill<'_>) {
    put_message(out, &will.message);
    put_varint(out, u64::from(will.delay_seconds));
    put_option(out, will.message_expiry_seconds.map(u64::from));
}

pub(crate) fn put_clock(out: &mut Vec<u8>, mark: &ClockMark) {
    let reading = mark.reading;
    for number in [mark.at_millis, reading.wall_millis, reading.boot, reading.boot_millis] {
        put_varint(out, number);
    }
}

fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put_varint(out, value);
    }
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
