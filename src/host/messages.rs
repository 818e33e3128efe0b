//! Connects the host to the mesh. Mails and connections go into the boxes of other shards, and arrive in its
//! own. If a box is full, midge stops reading from the connections that have filled it.

use super::admission::source;
use super::connections::ConnectionEntry;
use super::{ARENA_BYTES_MAX, Host, Io};
use crate::base::ConnectionSlot;
use crate::base::ShardId;
use crate::base::Time;
use crate::broker::{Counter, Handover, HoldBack, Mail};
use crate::broker::{Event, Limit};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;

/// A message in the mesh: a mail of the machine, or a socket that moves to its home shard.
pub enum ShardMessage<S> {
    /// A mail.
    Mail(Mail),
    /// A connection whose client identifier has its home on the receiving shard.
    Socket(Box<Arrival<S>>),
}

impl<S> ShardMessage<S> {
    /// The bytes that it takes besides its place in a box.
    fn bytes(&self) -> usize {
        match self {
            ShardMessage::Mail(mail) => mail.message_bytes(),
            ShardMessage::Socket(arrival) => arrival.handover.bytes.len() + arrival.unsent.len(),
        }
    }
}

/// A connection that moves to another shard.
pub struct Arrival<S> {
    socket: S,
    handover: Handover,
    connection: Option<Box<ConnectionEntry>>,
    /// The unsent answers of the layers.
    unsent: Vec<u8>,
}

/// Messages for a box that is full. The connections that have caused them are not read, so the list is
/// bounded by the output of a turn and the answers for other shards.
pub(super) type Overflow<S> = VecDeque<ShardMessage<S>>;

impl<I: Io> Host<I> {
    /// Whether there are mails that may be taken.
    pub(super) fn has_mails(&self) -> bool {
        self.io.has_messages() && self.machine.takes_mails()
    }

    pub(super) fn take_mails(&mut self) -> io::Result<()> {
        if self.shared.shards() == 1 {
            return Ok(());
        }
        self.empty_overflow(self.now());
        let is_stopping = self.control.stop.load(Ordering::Acquire);
        let own = usize::from(self.machine.id());
        // Everything that was there at the last count is taken, possibly in several turns. See
        // `Shard::note_mails_left`.
        if self.mails_left.iter().all(|&left| left == 0) {
            for from in (0..self.shared.shards()).filter(|&from| from != own) {
                self.mails_left[from] = self.io.waiting(from);
            }
        }
        for from in (0..self.shared.shards()).filter(|&from| from != own) {
            if self.mails_left[from] == 0 {
                continue;
            }
            // The sender's turn may have begun after this one, and its times must not be in the future.
            let now = self.now();
            self.worked_at = now;
            // If no mails are taken, the boxes fill and their writers stop reading. The log continues without
            // them.
            while self.mails_left[from] > 0 && (self.machine.takes_mails() || is_stopping) {
                let Some(message) = self.io.receive(from) else { break };
                self.mails_left[from] -= 1;
                match message {
                    ShardMessage::Mail(mail) => {
                        self.machine.handle_mail(
                            now,
                            ShardId::try_from(from).expect("at most 128 shards"),
                            mail,
                        );
                    }
                    ShardMessage::Socket(arrival) => {
                        let Arrival { socket, handover, connection, unsent } = *arrival;
                        let Handover { peer, listener, user, bytes } = handover;
                        // The sender may know a listener that this shard has not seen.
                        self.look_at_changes(now);
                        let slot = self.io.adopt(socket);
                        self.connections.note_listener(slot, listener);
                        self.connections.insert(slot, connection);
                        self.layers.adopt(slot, &unsent, self.machine.outbox());
                        let address = source(&self.connections, slot, peer);
                        let has_room = address.is_none_or(|address| self.begin_handshake(now, slot, address));
                        self.machine.handle_open(now, slot, peer, listener, true);
                        if !has_room || !self.in_force.settings.is_open(listener) {
                            self.machine.handle_turned_away(now, slot);
                        }
                        if let Some(user) = user {
                            self.machine.handle_certificate_user(slot, user);
                        }
                        self.machine.handle_bytes(now, slot, &bytes);
                        self.carry_out(now, None);
                        if self.reads_once(slot) {
                            self.io.receive_once(slot);
                        }
                    }
                }
                self.carry_out(now, None);
                if self.machine.outbox().arena_bytes() > ARENA_BYTES_MAX {
                    self.flush()?;
                }
            }
        }
        self.machine.note_mails_left(self.mails_left.iter().any(|&left| left > 0));
        Ok(())
    }

    pub(super) fn hand_over(&mut self, now: Time, slot: ConnectionSlot, to: ShardId, handover: Handover) {
        self.end_handshake(slot);
        let connection = self.connections.take(slot);
        let unsent = self.layers.take_unsent(slot, self.machine.outbox());
        match self.io.detach(slot) {
            Some(socket) => {
                // Its home counts it from now on.
                self.connections.take_listener(slot);
                let arrival = Arrival { socket, handover, connection, unsent };
                self.send(now, to, ShardMessage::Socket(Box::new(arrival)), None);
            }
            // The peer has disconnected while its CONNECT was read, so its layers are not needed any more.
            None => {
                let connection = connection.map(|mut entry| {
                    entry.layered = None;
                    entry
                });
                self.shared.counters[usize::from(self.machine.id())].add(Counter::ConnectionsClosed, 1);
                self.forget(now, slot, connection);
                self.io.close(slot);
            }
        }
    }

    /// Sends the machine's mails, up to a retained message whose home has no room for it.
    pub(super) fn send_mails(&mut self, now: Time, cause: Option<ConnectionSlot>) {
        if self.shared.shards() == 1 {
            return;
        }
        while let Some((to, mail)) =
            self.machine.next_mail(|shard| self.overflow[usize::from(shard)].is_empty())
        {
            self.send(now, to, ShardMessage::Mail(mail), cause);
        }
        let held_before = std::mem::replace(&mut self.mails_held, self.machine.mails_left());
        if self.mails_held > held_before {
            self.note_mesh_full(now, cause);
        }
    }

    /// Puts a message into its box, or after those that wait for room there.
    fn send(
        &mut self,
        now: Time,
        to: ShardId,
        message: ShardMessage<I::Socket>,
        cause: Option<ConnectionSlot>,
    ) {
        let at = usize::from(to);
        let message = if self.overflow[at].is_empty() {
            let bytes = message.bytes();
            match self.io.send(at, message, bytes) {
                Ok(()) => return,
                Err(message) => message,
            }
        } else {
            message
        };
        self.overflow[at].push_back(message);
        self.overflowing += 1;
        self.note_mesh_full(now, cause);
    }

    /// Counts a waiting message.
    fn note_mesh_full(&mut self, now: Time, cause: Option<ConnectionSlot>) {
        self.machine.handle_mesh_full(true);
        if let Some(slot) = cause
            && self.pause(slot, HoldBack::Mesh)
        {
            self.paused_by_mesh.insert(slot);
            self.shared.counters[usize::from(self.machine.id())].add(Counter::LimitMesh, 1);
            self.write_event(now, Event::LimitReached { limit: Limit::Mesh, client: "".into() });
        }
    }

    fn empty_overflow(&mut self, now: Time) {
        if self.overflowing == 0 {
            return;
        }
        for to in 0..self.overflow.len() {
            while let Some(message) = self.overflow[to].pop_front() {
                let bytes = message.bytes();
                match self.io.send(to, message, bytes) {
                    Ok(()) => self.overflowing -= 1,
                    Err(message) => {
                        self.overflow[to].push_front(message);
                        break;
                    }
                }
            }
        }
        self.send_mails(now, None);
        if self.overflowing == 0 {
            self.overflow.iter_mut().for_each(|list| *list = Overflow::new());
            self.machine.handle_mesh_full(false);
            for slot in std::mem::take(&mut self.paused_by_mesh) {
                self.resume(now, slot, HoldBack::Mesh);
            }
        }
    }
}
