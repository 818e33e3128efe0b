//! A client that publishes a numbered list of messages with a bounded number of them in flight. It
//! stores retained messages, fills the queues of sessions, and sends commands to a fleet.

use crate::codec::{self, Packet};
use crate::connector::detail;
use crate::net::Net;
use crate::verify::{AckResult, Faults, InFlight};

/// The publications of client `client`.
#[derive(Debug)]
pub(crate) struct BulkPublisher {
    client: usize,
    qos: u8,
    /// Messages with a lower number may be sent.
    until: u64,
    pub(crate) sent: u64,
    /// Publications that the broker refused with a reason code.
    pub(crate) refused: u64,
    flight: InFlight,
}

/// Writes after this number of bytes, even if more could be sent.
const WRITE_MAX: usize = 128 * 1024;

impl BulkPublisher {
    /// `window` is the maximum number of unacknowledged publications above QoS 0.
    pub(crate) fn new(client: usize, qos: u8, window: usize) -> BulkPublisher {
        BulkPublisher { client, qos, until: 0, sent: 0, refused: 0, flight: InFlight::new(window) }
    }

    /// Applies the Receive Maximum of the broker.
    pub(crate) fn set_receive_maximum(&mut self, receive_maximum: u16) {
        self.flight.set_receive_maximum(receive_maximum);
    }

    /// Allows the messages below number `until` to be sent.
    pub(crate) fn allow(&mut self, until: u64) {
        self.until = until;
    }

    /// Whether all allowed messages are sent and acknowledged.
    pub(crate) fn is_done(&self, net: &Net) -> bool {
        self.sent >= self.until && self.flight.len() == 0 && !net.is_blocked(self.client)
    }

    /// Number of unacknowledged publications.
    pub(crate) fn in_flight(&self) -> u64 {
        self.flight.len() as u64
    }

    /// Sends what may be sent. `put` appends message `number` with the packet identifier `id`.
    pub(crate) fn pump(&mut self, net: &mut Net, mut put: impl FnMut(u64, u16, &mut Vec<u8>)) {
        let mut more = true;
        while more && !net.is_blocked(self.client) && net.is_open(self.client) {
            net.send(self.client, |out| {
                more = loop {
                    if self.sent >= self.until {
                        break false;
                    }
                    let id = if self.qos == 0 { Some(0) } else { self.flight.take_id(self.qos) };
                    let Some(id) = id else { break false };
                    put(self.sent, id, out);
                    self.sent += 1;
                    if out.len() >= WRITE_MAX {
                        break true;
                    }
                };
            });
        }
    }

    /// Handles an acknowledgement, and appends the answer to `out`. Returns whether the packet was
    /// an acknowledgement.
    pub(crate) fn handle_ack(
        &mut self,
        packet: Packet<'_>,
        out: &mut Vec<u8>,
        faults: &mut Faults,
        details: &mut Vec<String>,
    ) -> bool {
        let kind = packet.kind();
        if !matches!(kind, codec::PUBACK | codec::PUBREC | codec::PUBCOMP) {
            return false;
        }
        let (id, reason) = match codec::ack(packet) {
            Ok(ack) => ack,
            Err(malformed) => {
                faults.protocol += 1;
                detail(details, || format!("publisher: {malformed}"));
                return true;
            }
        };
        let failed = reason >= 0x80;
        if failed {
            // Only the first refusal is reported, because more of them would leave no room for
            // other details.
            if self.refused == 0 {
                detail(details, || format!("publisher: refused with {reason:#04x}"));
            }
            self.refused += 1;
            faults.refused += 1;
        }
        match self.flight.handle_ack(kind, id, failed) {
            AckResult::Done => {}
            AckResult::Release => codec::put_ack(out, codec::PUBREL, id),
            AckResult::Unknown => {
                faults.protocol += 1;
                detail(details, || "publisher: acknowledgement that matches nothing in flight".to_owned());
            }
        }
        true
    }
}
