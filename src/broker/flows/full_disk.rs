//! Handling of a full disk, and the publishers that wait for room.
//!
//! While the disk is full, messages that must be kept are refused: 5.0 publishers get 0x97, at QoS 2 before
//! any session gets the message. 3.x has no code for this. An acknowledgement would promise something that is
//! not stored. If the connection were closed, the same message would come again and again, and each session
//! that has room would get it each time. So the PUBLISH of a 3.x client waits before any session gets it: it
//! stays with the connection's unread bytes, and reading stops until every shard's disk has room.

use super::mount::mounted;
use crate::base::Time;
use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::connections::PAUSED_BY_DISK;
use crate::broker::components::timers::Timer;
use crate::broker::{Event, Limit, Shard, Violation};
use crate::mqtt::codec::Publish;
use crate::mqtt::{ProtocolVersion, QoS, Reason};
use std::borrow::Cow;

/// The refusal of a message that must be kept.
pub(in crate::broker) const DISK: Violation =
    Violation { reason: Reason::QuotaExceeded, cause: "the disk is full or has failed" };

/// The interval between checks of the disks. The disks of other shards give no notice.
const RETRY_MILLIS: u64 = 500;
/// The number of connections that continue at once.
const AT_ONCE_MAX: usize = 256;

impl Shard {
    /// Notes whether the log has no room for more. While it has none, messages that must be kept are refused.
    pub fn handle_store_full(&mut self, full: bool) {
        if self.durability.set_full(full) {
            self.shared.note_store_full(full);
        }
    }

    /// Whether the log has no room.
    pub fn is_store_full(&self) -> bool {
        self.durability.is_full()
    }

    /// Notes that the log has failed: nothing more will be durable, and messages that must be kept are
    /// refused.
    pub fn handle_store_failed(&mut self) {
        self.handle_store_full(true);
        self.durability.fail();
        self.note_journal();
    }

    /// Whether a PUBLISH must wait until the disk has room. It is called only while some disk has none. The
    /// connection is not read meanwhile.
    pub(in crate::broker) fn waits_for_disk(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        publish: &Publish<'_>,
    ) -> bool {
        if self.version_of_session(session) == ProtocolVersion::V5 {
            return false;
        }
        let Some(packet_id) = publish.packet_id else { return false };
        let is_repeat =
            publish.qos == QoS::ExactlyOnce && self.sessions.session(session).holds(packet_id.get());
        let topic: Cow<'_, str> = mounted(&self.terms(slot).mount_point, publish.topic);
        if is_repeat
            || self.check_message(slot, &topic, publish.payload).is_err()
            || !self.may_have_to_be_kept(session, publish, &topic)
        {
            return false;
        }
        if self.pause(slot, PAUSED_BY_DISK) {
            let client = self.client_for_log(session);
            self.report(Event::LimitReached { limit: Limit::DiskPause, client });
            self.behind.wait_for_disk(slot);
            self.start_disk_timer(now);
        }
        true
    }

    /// Whether a QoS 2 message of a 5.0 client must be refused because of a full disk. This is decided before
    /// any session gets it: the client may not receive the refusal, and its repeat would be a second copy for
    /// sessions that have it. [MQTT5-4.3.3-10]
    pub(in crate::broker) fn has_no_room_on_disk(
        &mut self,
        session: SessionSlot,
        publish: &Publish<'_>,
        topic: &str,
    ) -> bool {
        self.shared.is_a_store_full() && self.may_have_to_be_kept(session, publish, topic)
    }

    fn start_disk_timer(&mut self, now: Time) {
        if self.behind.needs_disk_timer() {
            self.timers.schedule(now.after_millis(RETRY_MILLIS), Timer::Disk);
        }
    }

    /// Whether a session here keeps it, or a session on another shard may keep it.
    fn may_have_to_be_kept(&mut self, session: SessionSlot, publish: &Publish<'_>, topic: &str) -> bool {
        if (publish.retain && !publish.payload.is_empty())
            || self.interested(topic) != 0
            || self.has_group(topic)
        {
            return true;
        }
        if !self.durability.is_full() {
            return false;
        }
        let matches = self.subscriptions.find(topic, Some(session));
        let mut matched = matches.as_slice().iter();
        let kept = matched.any(|matched| {
            matched.qos != QoS::AtMostOnce
                && self.sessions.slot(SessionSlot::new(matched.subscriber)).sid.is_some()
        });
        self.subscriptions.recycle(matches);
        kept
    }

    /// Continues with connections that wait, when there is room.
    pub(in crate::broker) fn handle_disk_timer(&mut self, now: Time) {
        self.behind.note_disk_timer_fired();
        for _ in 0..AT_ONCE_MAX {
            if self.shared.is_a_store_full() {
                break;
            }
            let Some(slot) = self.behind.pop_for_disk() else { break };
            self.go_on(now, slot, PAUSED_BY_DISK);
        }
        self.start_disk_timer(now);
    }
}
