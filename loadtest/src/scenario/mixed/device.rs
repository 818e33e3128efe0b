//! One device: its connection, its telemetry in flight, the commands it received, and its will.

use crate::codec;
use crate::inbox::Inbox;
use crate::verify::Stream;

/// The state of a device over all of its connections.
#[derive(Debug, Default)]
pub(super) struct Device {
    pub(super) state: DeviceState,
    pub(super) connections: u32,
    /// When its current connection was established.
    pub(super) up_since: u64,
    pub(super) qos: u8,
    /// Telemetry messages that were sent for the first time.
    pub(super) sent: u32,
    /// Telemetry messages that are not completely acknowledged, in the order of sending.
    pub(super) pending: Vec<Pending>,
    last_id: u16,
    /// Sequence numbers that were resent after a reconnect. At QoS 1 these may arrive twice.
    pub(super) resent: Vec<u32>,
    /// QoS 0 messages that were in flight when the connection broke. These may be lost.
    pub(super) in_doubt: Vec<u32>,
    /// Number of broken connections, which is the number of wills to expect.
    pub(super) breaks: u32,
    pub(super) broke_nanos: u64,
    pub(super) inbox: Inbox,
    pub(super) commands: Stream,
}

/// The state of the connection of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum DeviceState {
    /// There is no connection, or it is not established yet.
    #[default]
    Away,
    Up,
    /// DISCONNECT was sent, and the broker must close the connection.
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
    /// PUBREC has arrived. Only PUBREL and PUBCOMP are missing.
    pub(super) received: bool,
}

/// Maximum number of telemetry messages in flight per device. Messages above it are not sent.
pub(super) const PENDING_MAX: usize = 64;

impl Device {
    pub(super) fn new(qos: u8) -> Device {
        Device { qos, ..Device::default() }
    }

    /// Adds a message to those in flight. Returns its identifier, or `None` if the limit is
    /// reached.
    pub(super) fn add_pending(&mut self, sequence: u32, sent_nanos: u64) -> Option<u16> {
        if self.pending.len() >= PENDING_MAX {
            return None;
        }
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            // There are far more identifiers than messages in flight.
            if self.pending.iter().all(|pending| pending.id != self.last_id) {
                break;
            }
        }
        self.pending.push(Pending { id: self.last_id, sequence, sent_nanos, received: false });
        Some(self.last_id)
    }

    /// Handles a PUBACK, PUBREC or PUBCOMP (`kind`). Returns whether it matches a message in
    /// flight.
    pub(super) fn handle_ack(&mut self, kind: u8, id: u16, failed: bool, out: &mut Vec<u8>) -> bool {
        let Some(at) = self.pending.iter().position(|pending| pending.id == id) else { return false };
        match (kind, self.qos, self.pending[at].received) {
            // After a message is resent, the broker may send PUBREC again.
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
