//! The reasons why a connection is not read. A pause does not count against the client's keep alive.
//!
//! The reasons of the machine and of its host are stored together in the connection, and end with it.

use super::Connection;
use crate::base::Time;

/// The client has asked for more than it reads.
pub(in crate::broker) const PAUSED_BY_BACKLOG: u16 = 1;
/// Too many answers wait for the log or for other shards.
pub(in crate::broker) const PAUSED_BY_REPLIES: u16 = 2;
/// It waits for its own bucket.
pub(in crate::broker) const PAUSED_BY_RATE: u16 = 4;
/// It waits for the bucket of its listener.
pub(in crate::broker) const PAUSED_BY_LANE: u16 = 8;
/// The packets that were received before the pause are being handled.
pub(in crate::broker) const GOES_ON: u16 = 16;

/// Memory is short, and the client is sending a large packet.
pub(in crate::broker) const PAUSED_BY_MEMORY: u16 = 32;
/// It brings more data than the disk or another shard takes.
pub(in crate::broker) const PAUSED_BY_ROOM: u16 = 64;
/// Its next message must be stored, and the disk is full.
pub(in crate::broker) const PAUSED_BY_DISK: u16 = 128;
/// Its turn is over, or one of its packets is still being handled. Its other packets are handled later.
pub(in crate::broker) const PAUSED_BY_WORK: u16 = 256;

/// A reason of the host for not reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum HoldBack {
    /// The box of another shard is full.
    Mesh = 512,
    /// The disk is behind.
    Log = 1024,
    /// A handshake waits for the next turn.
    Turn = 2048,
}

impl Connection {
    pub(in crate::broker) fn is_paused_by(&self, why: u16) -> bool {
        self.paused & why != 0
    }

    /// Why it is not read, in the words of an operator.
    pub(in crate::broker) fn paused_by(&self) -> impl Iterator<Item = &'static str> {
        const WORDS: [(u16, &str); 11] = [
            (PAUSED_BY_BACKLOG, "limits.backlog_bytes"),
            (PAUSED_BY_REPLIES, "waiting acknowledgements"),
            (PAUSED_BY_RATE, "rate of the client"),
            (PAUSED_BY_LANE, "rate of the listener"),
            (PAUSED_BY_MEMORY, "limits.memory_bytes"),
            (PAUSED_BY_ROOM, "other shards or the disk are behind"),
            (PAUSED_BY_DISK, "the disk is full"),
            (PAUSED_BY_WORK, "its turn"),
            (HoldBack::Mesh as u16, "other shards are behind"),
            (HoldBack::Log as u16, "the disk is behind"),
            (HoldBack::Turn as u16, "its turn"),
        ];
        WORDS.into_iter().filter(|(why, _)| self.is_paused_by(*why)).map(|(_, words)| words)
    }

    /// Whether its next packet must wait for a bucket.
    pub(in crate::broker) fn waits_for_rate(&self) -> bool {
        self.is_paused_by(PAUSED_BY_RATE | PAUSED_BY_LANE)
    }

    /// Whether it has received packets that can't be handled yet.
    pub(in crate::broker) fn has_unhandled(&self) -> bool {
        self.is_paused_by(PAUSED_BY_RATE | PAUSED_BY_LANE | PAUSED_BY_ROOM | PAUSED_BY_DISK | PAUSED_BY_WORK)
    }

    /// Ends some reasons, so that its next packet may be taken while nothing more is read.
    pub(in crate::broker) fn begin_going_on(&mut self, why: u16) {
        self.paused = self.paused & !why | GOES_ON;
    }

    /// Notes that the received packets have been taken. Returns whether it stays paused.
    pub(in crate::broker) fn end_going_on(&mut self) -> bool {
        self.paused &= !GOES_ON;
        self.paused != 0
    }

    /// Counts a pause of midge not as silence of the client. `[MQTT5-3.1.2-22]` If the client is paused
    /// because it asks for more than it reads, its socket must have taken something.
    pub(in crate::broker) fn forgive_pauses(&mut self, now: Time) {
        let heard = match self.paused {
            0 => return,
            PAUSED_BY_BACKLOG => self.slow.as_ref().map_or(now, |slow| slow.progressed_at),
            _ => now,
        };
        if heard > self.last_packet {
            self.hear(heard);
        }
    }

    pub(in crate::broker) fn hear(&mut self, at: Time) {
        self.last_packet = at;
        if let Some(partial) = &mut self.partial {
            partial.count_anew(at);
        }
    }
}
