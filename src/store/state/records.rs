//! The effect of each record on the rows.

use super::Changes;
use crate::base::Stamp;
use crate::store::base::Base;
use crate::store::record::put_varint;
use crate::store::rows::{
    self, DeliveryRow, IntentRow, Presence, RetainedRow, SessionRow, SubscriptionRow, Table, WillRow,
};
use crate::store::segment::Header;
use crate::store::{DeliveryKey, Record, StoreError, StoredMessage};

impl Changes {
    pub(super) fn apply(
        &mut self,
        base: &dyn Base,
        header: &Header,
        record: &Record<'_>,
    ) -> Result<(), StoreError> {
        match record {
            Record::Session { sid, client_id, version, expiry_seconds, will } => {
                self.raise(*sid);
                let presence = Presence::Connected { epoch: header.epoch };
                let row = SessionRow {
                    version: *version,
                    expiry_seconds: *expiry_seconds,
                    presence,
                    client_id,
                    will: *will,
                };
                self.sessions.insert(*sid, true);
                self.set(Table::Sessions, &rows::key(*sid), |out| row.encode(out));
                Ok(())
            }
            Record::Left { sid, at_millis, expiry_seconds } => self.change_session(base, *sid, |row| {
                row.presence = Presence::Left { at_millis: *at_millis };
                row.expiry_seconds = *expiry_seconds;
            }),
            Record::WillGone { sid } => self.change_session(base, *sid, |row| row.will = None),
            Record::Ended { sid } => self.end_session(base, *sid),
            Record::Subscribed { sid, filter, options, subscription_id } => {
                if self.knows(base, *sid)? {
                    let row = SubscriptionRow { options: *options, subscription_id: *subscription_id };
                    let key = rows::subscription_key(*sid, filter);
                    self.set(Table::Subscriptions, &key, |out| row.encode(out));
                }
                Ok(())
            }
            Record::Unsubscribed { sid, filter } => {
                if self.knows(base, *sid)? {
                    self.remove(Table::Subscriptions, &rows::subscription_key(*sid, filter));
                }
                Ok(())
            }
            // `apply_sound_frame` handles these. It adds a message with its first delivery, and knows the
            // time of a loss.
            Record::Message { .. } | Record::Lost { .. } => Ok(()),
            Record::LossesTold { sid, left } => self.change_losses(base, *sid, |losses| losses.leave(*left)),
            Record::Delivery { sid, number, message, qos, retain, packet_id, subscription_ids, group } => {
                let row = DeliveryRow {
                    message: *message,
                    qos: *qos,
                    retain: *retain,
                    packet_id: *packet_id,
                    released: false,
                    subscription_ids: subscription_ids.clone(),
                    group,
                };
                self.raise(*number);
                self.raise(*message);
                if self.knows(base, *sid)? {
                    self.deliver(base, DeliveryKey { sid: *sid, number: *number }, &row)
                } else {
                    Ok(())
                }
            }
            Record::Started { sid, number, packet_id } => {
                self.change_delivery(base, DeliveryKey { sid: *sid, number: *number }, |row| {
                    row.packet_id = Some(*packet_id)
                })
            }
            Record::Released { sid, number } => {
                self.change_delivery(base, DeliveryKey { sid: *sid, number: *number }, |row| {
                    row.released = true
                })
            }
            Record::Settled { sid, number } => {
                self.raise(*sid);
                self.raise(*number);
                let was_there = self.settle(base, &DeliveryKey { sid: *sid, number: *number }.row())?;
                self.ignored += u64::from(!was_there);
                Ok(())
            }
            Record::Returned { sid, delivery, number } => {
                self.raise(*sid);
                self.raise(*delivery);
                self.note_intent(header.shard, *number);
                self.return_delivery(base, &DeliveryKey { sid: *sid, number: *delivery }.row(), *number)
            }
            Record::Held { sid, packet_id, payload_bytes } => {
                if self.knows(base, *sid)? {
                    let key = rows::pair_key(*sid, packet_id.get());
                    self.set(Table::Held, &key, |out| put_varint(out, u64::from(*payload_bytes)));
                }
                Ok(())
            }
            Record::Unheld { sid, packet_id } => {
                if self.knows(base, *sid)? {
                    self.remove(Table::Held, &rows::pair_key(*sid, packet_id.get()));
                }
                Ok(())
            }
            Record::Retained { stamp, message } => {
                self.retain(*stamp, message);
                Ok(())
            }
            Record::Unretained { topic } => {
                self.remove(Table::Retained, topic.as_bytes());
                Ok(())
            }
            Record::Intent { number, targets, stamp, group, message } => {
                self.note_intent(header.shard, *number);
                self.meta.last_stamp = self.meta.last_stamp.max(*stamp);
                let row = IntentRow { targets: *targets, stamp: *stamp, group, message: *message };
                self.set(Table::Intents, &rows::key(*number), |out| row.encode(out));
                Ok(())
            }
            Record::IntentDone { number } => {
                self.raise(*number);
                let was_there = self.has_row(base, Table::Intents, &rows::key(*number))?;
                self.ignored += u64::from(!was_there);
                self.remove(Table::Intents, &rows::key(*number));
                Ok(())
            }
            Record::IntentSeen { number } => {
                self.raise(*number);
                self.set(Table::Seen, &rows::pair_key(*number, header.shard), |_| {});
                Ok(())
            }
            Record::Alive => Ok(()),
            Record::Clock(mark) => {
                if self.meta.clock.is_none_or(|last| last.at_millis <= mark.at_millis) {
                    self.meta.clock = Some(*mark);
                }
                Ok(())
            }
            Record::Will { number, client_id, will } => {
                self.raise(*number);
                let row = WillRow { client_id, will: *will };
                self.set(Table::Wills, &rows::key(*number), |out| row.encode(out));
                Ok(())
            }
            Record::WillOver { number } => {
                self.raise(*number);
                let was_there = self.has_row(base, Table::Wills, &rows::key(*number))?;
                self.ignored += u64::from(!was_there);
                self.remove(Table::Wills, &rows::key(*number));
                Ok(())
            }
        }
    }

    pub(crate) fn retain(&mut self, stamp: Stamp, message: &StoredMessage<'_>) {
        self.meta.last_stamp = self.meta.last_stamp.max(Some(stamp));
        let row = RetainedRow { stamp, message: *message };
        self.set(Table::Retained, message.topic.as_bytes(), |out| row.encode(out));
    }
}
