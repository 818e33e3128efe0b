//! Implements the host's kernel interface on the shard's ring.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Bell, BindOptions, Buffer, Clock, MeshEnd, Net, Sleeping, heap};
use crate::base::log_files::{FileDone, FileId, FileOperation, LogFiles, LogWork};
use crate::base::{ClockReading, ConnectionSlot, Time};
use crate::broker::outbox::Outbox;
use crate::host::{Io, IoEvent, ShardMessage, SocketEnd};
use crate::settings::Limits;

/// The ring of a shard, its end of the mesh, and the clock.
pub struct ShardIo {
    net: Net,
    mesh: MeshEnd<ShardMessage<OwnedFd>>,
    sleeping: Arc<Sleeping>,
    clock: Clock,
}

impl ShardIo {
    /// Joins them, and returns when all shards have done so: every ring must be known before the first
    /// connection. The bell wakes the shard.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub fn join(
        mut net: Net,
        mesh: MeshEnd<ShardMessage<OwnedFd>>,
        bell: &Bell,
        clock: Clock,
    ) -> io::Result<ShardIo> {
        net.watch(bell.to_fd()?, 0);
        mesh.set_ring(net.ring_fd());
        // This takes about a millisecond.
        while !mesh.has_all_rings() {
            std::thread::yield_now();
        }
        Ok(ShardIo { sleeping: mesh.sleeping(), net, mesh, clock })
    }

    /// Wakes the sleeping shards to which this turn has sent something, with the turn's batch.
    fn wake_others(&mut self) {
        for ring in self.mesh.wakes() {
            self.net.wake(ring);
        }
    }
}

impl Io for ShardIo {
    type Listener = OwnedFd;
    type Socket = OwnedFd;
    type Buffer = Buffer;

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn read_clock(&self) -> (Time, ClockReading) {
        self.clock.read()
    }

    fn poll(&mut self, events: &mut Vec<IoEvent<Buffer>>) {
        self.net.poll(events);
    }

    fn flush(&mut self, outbox: &Outbox, events: &mut Vec<IoEvent<Buffer>>) -> io::Result<()> {
        self.wake_others();
        self.net.flush(outbox, events)
    }

    fn park(
        &mut self,
        outbox: &Outbox,
        events: &mut Vec<IoEvent<Buffer>>,
        deadline: Option<Duration>,
        takes_mails: bool,
    ) -> io::Result<()> {
        self.wake_others();
        let mesh = &self.mesh;
        self.net.park(outbox, events, deadline, &self.sleeping, || takes_mails && mesh.any_ready())
    }

    fn set_backlog_bytes_max(&mut self, bytes: usize) {
        self.net.set_backlog_bytes_max(bytes);
    }

    fn listen(&mut self, listener: u16, socket: OwnedFd) {
        self.net.listen(listener, socket);
    }

    fn close_listener(&mut self, listener: u16) {
        self.net.close_listener(listener);
    }

    fn tune_listeners(&mut self, limits: &Limits) -> io::Result<()> {
        self.net.tune_listeners(&BindOptions::of(limits))
    }

    fn stop_listening(&mut self) {
        self.net.stop_listening();
    }

    fn connections(&self) -> usize {
        self.net.connections()
    }

    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        self.net.bytes(buffer)
    }

    fn give_back(&mut self, buffer: Buffer) {
        self.net.give_back(buffer);
    }

    fn hold(&mut self, slot: ConnectionSlot, buffer: Buffer, consumed: usize) {
        self.net.hold(slot, buffer, consumed);
    }

    fn hold_hangup(&mut self, slot: ConnectionSlot, cause: SocketEnd) -> bool {
        self.net.hold_hangup(slot, cause)
    }

    fn is_held(&self, slot: ConnectionSlot) -> bool {
        self.net.is_held(slot)
    }

    fn receive_once(&mut self, slot: ConnectionSlot) {
        self.net.receive_once(slot);
    }

    fn receive_stream(&mut self, slot: ConnectionSlot) {
        self.net.receive_stream(slot);
    }

    fn pause(&mut self, slot: ConnectionSlot) {
        self.net.pause(slot);
    }

    fn resume(&mut self, slot: ConnectionSlot) {
        self.net.resume(slot);
    }

    fn close(&mut self, slot: ConnectionSlot) {
        self.net.close(slot);
    }

    fn abort(&mut self, slot: ConnectionSlot) {
        self.net.abort(slot);
    }

    fn detach(&mut self, slot: ConnectionSlot) -> Option<OwnedFd> {
        self.net.detach(slot)
    }

    fn adopt(&mut self, socket: OwnedFd) -> ConnectionSlot {
        self.net.adopt(socket)
    }

    fn send(
        &mut self,
        to: usize,
        message: ShardMessage<OwnedFd>,
        bytes: usize,
    ) -> Result<(), ShardMessage<OwnedFd>> {
        self.mesh.send(to, message, bytes)
    }

    fn waiting(&self, from: usize) -> usize {
        self.mesh.waiting(from)
    }

    fn receive(&mut self, from: usize) -> Option<ShardMessage<OwnedFd>> {
        self.mesh.receive(from)
    }

    fn has_messages(&self) -> bool {
        self.mesh.any_ready()
    }

    fn next_file_done(&mut self) -> Option<FileDone> {
        self.net.next_file_done()
    }

    fn await_files(&mut self, patience: Duration) -> io::Result<()> {
        self.net.await_files(patience)
    }

    fn give_memory_back(&mut self) {
        self.net.give_memory_back();
        heap::give_heap_back();
    }
}

impl LogFiles for ShardIo {
    fn begin(&mut self, work: LogWork, operation: FileOperation) {
        self.net.begin(work, operation);
    }

    fn write(&mut self, work: LogWork, file: FileId, at: u64, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        self.net.write(work, file, at, bytes, fill);
    }

    fn close_file(&mut self, file: FileId) {
        self.net.close_file(file);
    }

    fn is_found(&self, path: &Path, file: FileId) -> io::Result<bool> {
        self.net.is_found(path, file)
    }
}
