//! A model of the state in plain maps.

use super::super::super::{RestoredDelivery, RestoredSession, RestoredState, RestoredSubscription};
use super::{Restored, described};
use crate::base::{DeliveryNumber, MessageNumber, SessionNumber, WillNumber};
use crate::mqtt::{PacketId, ProtocolVersion, QoS, SubscriptionId, SubscriptionOptions};
use crate::session::Message;
use crate::session::{Losses, Will};
use crate::store::{Record, StoredWill};
use std::collections::BTreeMap;

#[derive(Default)]
pub(crate) struct Model {
    sessions: BTreeMap<SessionNumber, ModelSession>,
    retained: BTreeMap<String, Message>,
    wills: BTreeMap<WillNumber, Will>,
    /// The messages of the frame that is being applied.
    messages: BTreeMap<MessageNumber, Message>,
    millis: u64,
    frame_millis: u64,
}

struct ModelSession {
    client_id: String,
    version: ProtocolVersion,
    expiry_seconds: u32,
    left: Option<u64>,
    will: Option<Will>,
    subscriptions: BTreeMap<String, (SubscriptionOptions, Option<SubscriptionId>)>,
    deliveries: BTreeMap<DeliveryNumber, ModelDelivery>,
    held: BTreeMap<PacketId, u32>,
    losses: Losses,
}

struct ModelDelivery {
    message: Message,
    qos: QoS,
    retain: bool,
    packet_id: Option<PacketId>,
    released: bool,
    ids: Vec<u32>,
    group: String,
}

impl Model {
    pub(crate) fn apply_frame(&mut self, millis: u64, records: &[Record<'_>]) {
        self.millis = self.millis.max(millis);
        self.frame_millis = millis;
        records.iter().for_each(|record| self.apply(record));
    }

    /// The broker was killed and starts again.
    #[cfg(feature = "runtime")]
    pub(crate) fn begin_epoch(&mut self) {
        for session in self.sessions.values_mut() {
            session.left.get_or_insert(self.millis);
        }
    }

    fn session(&mut self, sid: SessionNumber, change: impl FnOnce(&mut ModelSession)) {
        self.sessions.get_mut(&sid).map(change);
    }

    fn apply(&mut self, record: &Record<'_>) {
        match record.clone() {
            Record::Session { sid, client_id, version, expiry_seconds, will } => {
                let session = self.sessions.entry(sid).or_insert_with(|| ModelSession {
                    client_id: client_id.to_owned(),
                    version,
                    expiry_seconds,
                    left: None,
                    will: None,
                    subscriptions: BTreeMap::new(),
                    deliveries: BTreeMap::new(),
                    held: BTreeMap::new(),
                    losses: Losses::default(),
                });
                session.version = version;
                session.expiry_seconds = expiry_seconds;
                session.left = None;
                session.will = will.map(|will| will_of(&will, None));
            }
            Record::Left { sid, at_millis, expiry_seconds } => self.session(sid, |session| {
                session.left = Some(at_millis);
                session.expiry_seconds = expiry_seconds;
            }),
            Record::WillGone { sid } => self.session(sid, |session| session.will = None),
            Record::Ended { sid } => drop(self.sessions.remove(&sid)),
            Record::Subscribed { sid, filter, options, subscription_id } => self.session(sid, |session| {
                session.subscriptions.insert(filter.to_owned(), (options, subscription_id));
            }),
            Record::Unsubscribed { sid, filter } => {
                self.session(sid, |session| {
                    session.subscriptions.remove(filter);
                });
            }
            Record::Message { number, message } => {
                self.messages.insert(number, message.to_message(None, None));
            }
            Record::Delivery { sid, number, message, qos, retain, packet_id, subscription_ids, group } => {
                let Some(message) = self.messages.get(&message).cloned() else { return };
                let ids = subscription_ids.to_vec();
                let row = ModelDelivery {
                    message,
                    qos,
                    retain,
                    packet_id,
                    released: false,
                    ids,
                    group: group.to_owned(),
                };
                self.session(sid, |session| drop(session.deliveries.insert(number, row)));
            }
            Record::Started { sid, number, packet_id } => self.session(sid, |session| {
                if let Some(row) = session.deliveries.get_mut(&number) {
                    row.packet_id = Some(packet_id);
                }
            }),
            Record::Released { sid, number } => self.session(sid, |session| {
                if let Some(row) = session.deliveries.get_mut(&number) {
                    row.released = true;
                }
            }),
            // These groups have no other members.
            Record::Settled { sid, number } | Record::Returned { sid, delivery: number, .. } => {
                self.session(sid, |session| drop(session.deliveries.remove(&number)));
            }
            Record::Lost { sid, number, cause, count } => {
                let millis = self.frame_millis;
                self.session(sid, |session| {
                    number.map(|number| session.deliveries.remove(&number));
                    session.losses.set(cause, count, millis);
                });
            }
            Record::LossesTold { sid, left } => self.session(sid, |session| session.losses.leave(left)),
            Record::Held { sid, packet_id, payload_bytes } => {
                self.session(sid, |session| {
                    session.held.insert(packet_id, payload_bytes);
                });
            }
            Record::Unheld { sid, packet_id } => {
                self.session(sid, |session| {
                    session.held.remove(&packet_id);
                });
            }
            Record::Retained { stamp, message } => {
                self.retained.insert(message.topic.to_owned(), message.to_message(None, Some(stamp)));
            }
            Record::Unretained { topic } => drop(self.retained.remove(topic)),
            Record::Will { number, will, .. } => {
                drop(self.wills.insert(number, will_of(&will, Some(number))))
            }
            Record::WillOver { number } => drop(self.wills.remove(&number)),
            Record::Intent { .. }
            | Record::IntentDone { .. }
            | Record::IntentSeen { .. }
            | Record::Alive
            | Record::Clock(_) => {}
        }
    }

    /// As [`described`].
    pub(crate) fn described(&self) -> Vec<String> {
        let sessions = self.sessions.iter().map(|(&sid, session)| self.restored(sid, session)).collect();
        let retained = self.retained.values().cloned().collect();
        let wills = self.wills.values().map(copied).collect();
        described(&[Restored { sessions, retained, wills, ..Restored::default() }])
    }

    fn restored(&self, sid: SessionNumber, session: &ModelSession) -> RestoredSession {
        let mut deliveries = Vec::new();
        for (&number, row) in &session.deliveries {
            let state = match (row.packet_id, row.released) {
                (None, _) => RestoredState::Queued,
                (Some(packet_id), false) => RestoredState::Sent(packet_id),
                (Some(packet_id), true) => RestoredState::Released(packet_id),
            };
            deliveries.push(RestoredDelivery {
                number,
                message: row.message.clone(),
                qos: row.qos,
                retain: row.retain,
                subscription_ids: row.ids.clone(),
                group: (!row.group.is_empty()).then(|| (*row.group).into()),
                state,
            });
        }
        let (mut sent, queued): (Vec<_>, Vec<_>) =
            deliveries.into_iter().partition(|row| row.state != RestoredState::Queued);
        sent.extend(queued);
        let will = session.will.as_ref().map(copied);
        let row = |(filter, &(options, subscription_id)): (
            &String,
            &(SubscriptionOptions, Option<SubscriptionId>),
        )| { RestoredSubscription { filter: (**filter).into(), options, subscription_id } };
        RestoredSession {
            sid,
            client_id: (*session.client_id).into(),
            version: session.version,
            expiry_seconds: session.expiry_seconds,
            left_at_millis: session.left.unwrap_or(self.millis),
            will,
            subscriptions: session.subscriptions.iter().map(row).collect(),
            deliveries: sent,
            losses: session.losses,
            held: session.held.iter().map(|(&id, &bytes)| (id, bytes as usize)).collect(),
        }
    }
}

fn will_of(will: &StoredWill<'_>, number: Option<WillNumber>) -> Will {
    Will {
        message: will.message.to_message(None, None),
        delay_seconds: will.delay_seconds,
        message_expiry_seconds: will.message_expiry_seconds,
        number,
    }
}

fn copied(will: &Will) -> Will {
    Will { message: will.message.clone(), ..*will }
}
