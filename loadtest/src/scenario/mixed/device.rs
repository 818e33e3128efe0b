//! One device: its connection, the telemetry it has in flight, the commands it got, its will.

use crate::codec;
use crate::inbox::Inbox;
use crate::verify::Stream;

/// What a device remembers, over all of its connections.
#[derive(Debug, Default)]
pub(super) struct Device {
    pub(super) state: DeviceState,
    pub(super) connections: u32,
    /// Since when its connection stands.
    pub(super) up_since: u64,
    pub(super) qos: u8,
    /// Telemetry messages sent for the first time.
    pub(super) sent: u32,
    /// Sent and not completely acknowledged, in the order of sending.
    pub(super) pending: Vec<Pending>,
    last_id: u16,
    /// Sequence numbers that were sent again after a reconnect: at QoS 1 these may come twice.
    pub(super) resent: Vec<u32>,
    /// QoS 0 messages on their way when the connection broke: these may be lost.
    pub(super) in_doubt: Vec<u32>,
    /// Connections that broke, and so wills that are due.
    pub(super) breaks: u32,
    pub(super) broke_nanos: u64,
    pub(super) inbox: Inbox,
    pub(super) commands: Stream,
}

/// How a device's connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum DeviceState {
    /// None, or not yet answered.
    #[default]
    Away,
    Up,
    /// DISCONNECT was sent; the broker is to close.
    Leaving {
        since: u64,
    },
}

/// A telemetry message at QoS 1 or 2 in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) id: u16,
    pub(super) sequence: u32,
    pub(super) sent_nanos: u64,
    /// PUBREC came: only PUBREL and PUBCOMP are left.
    pub(super) received: bool,
}

/// Telemetry in flight per device; what becomes due above it is not sent.
pub(super) const PENDING_MAX: usize = 64;

impl Device {
    pub(super) fn new(qos: u8) -> Device {
        Device { qos, ..Device::default() }
    }

    /// Adds a message to those in flight and returns its identifier, or `None` if there are enough.
    pub(super) fn add_pending(&mut self, sequence: u32, sent_nanos: u64) -> Option<u16> {
        if self.pending.len() >= PENDING_MAX {
            return None;
        }
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            // Far fewer are in flight than there are identifiers.
            if self.pending.iter().all(|pending| pending.id != self.last_id) {
                break;
            }
        }
        self.pending.push(Pending { id: self.last_id, sequence, sent_nanos, received: false });
        Some(self.last_id)
    }

    /// Takes a PUBACK, PUBREC or PUBCOMP (`kind`). Whether it fits something in flight.
    pub(super) fn handle_ack(&mut self, kind: u8, id: u16, failed: bool, out: &mut Vec<u8>) -> bool {
        let Some(at) = self.pending.iter().position(|pending| pending.id == id) else { return false };
        match (kind, self.qos, self.pending[at].received) {
            // After a resend the broker may answer the same identifier with PUBREC again.
            (codec::PUBREC, 2, _) if !failed => {
                self.pending[at].received = true;
                codec::put_ack(out, codec::PUBREL, id);
            }
            (codec::PUBACK, 1, _) | (codec::PUBREC, 2, false) | (codec::PUBCOMP, 2, true) => {
                self.pending.remove(at);
            }
            _ => return false,
        }
        true
    }
}
