//! The kernel interface of a shard's host, in the simulation.

use crate::clocks;
use crate::kernel::{Due, Happening, Kernel, Posted, Ready, Wake};
use crate::socket::Came;
use crate::wire::BALANCER;
use crate::world::{link_of, peer};
use midge::base::log_files::{FileDone, FileId, FileOperation, LogFiles, LogWork};
use midge::base::{ClockReading, ConnectionSlot, Time};
use midge::broker::Event;
use midge::broker::outbox::Outbox;
use midge::host::{Io, IoEvent, ShardMessage, SocketEnd};
use midge::settings::Limits;
use midge::store::segment::BLOCK;
use std::io;
use std::path::Path;
use std::time::Duration;

/// It holds the kernel while the shard has its turn.
pub struct SimIo {
    pub shard: usize,
    pub kernel: Option<Box<Kernel>>,
}

/// Received bytes.
pub struct Received {
    link: usize,
    bytes: Vec<u8>,
}

impl SimIo {
    pub fn new(shard: usize, kernel: Option<Box<Kernel>>) -> SimIo {
        SimIo { shard, kernel }
    }

    fn kernel(&self) -> &Kernel {
        self.kernel.as_ref().expect("it is the shard's turn")
    }

    fn kernel_mut(&mut self) -> &mut Kernel {
        self.kernel.as_mut().expect("it is the shard's turn")
    }

    /// The connection in a slot, if the host still has it.
    fn link(&self, slot: ConnectionSlot) -> Option<usize> {
        self.kernel().link_at(self.shard, slot)
    }

    /// Emits the machine's events so far, before whatever is done next.
    pub fn tell_events(&mut self) {
        let shard = self.shard;
        let kernel = self.kernel_mut();
        let told = std::mem::take(&mut *kernel.shards[shard].told.borrow_mut());
        for event in told {
            // Its effect on the session is complete now, whenever the rest of the turn is.
            if let Event::Disconnected { peer, cause, .. } = &event {
                let (link, cause) = (link_of(*peer), cause.clone());
                let at = kernel.turn.map_or(kernel.now, |(_, at)| at);
                let is_close = |brought: &(u64, Happening)| matches!(&brought.1, Happening::Closed { link: closed } if *closed == link);
                let place = kernel.brought.iter().position(is_close).unwrap_or(kernel.brought.len());
                kernel.brought.insert(place, (at, Happening::Left { link, cause }));
            }
            kernel.tell(Happening::Told(event));
        }
    }

    fn after_effect(&mut self) {
        self.tell_events();
        self.kernel_mut().after_effect();
    }

    fn put(&mut self, link: usize, bytes: Vec<u8>) {
        let kernel = self.kernel_mut();
        let now = kernel.now;
        let state = &mut kernel.links[link];
        state.sent_at = now;
        state.backlog.extend(&bytes);
        match state.take_sent(&bytes) {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => {
                state.served = true;
                kernel.tell(Happening::Sent { link, bytes });
            }
            Err(why) => kernel.tell(Happening::Broken(why)),
        }
        kernel.transfer(link);
        let state = &mut kernel.links[link];
        if !state.backlog.is_empty() {
            (state.backlogged, state.was_backlogged) = (true, true);
            kernel.tell_backlog(link);
        }
    }

    fn send_all(&mut self, outbox: &Outbox) {
        self.tell_events();
        let shard = self.shard;
        for touched in outbox.touched() {
            let bytes = outbox.segments_of(touched).flat_map(|range| outbox.bytes(range).to_vec()).collect();
            let slot = self.kernel().shards[shard].slots[touched.slot.at()];
            self.put(slot.expect("bytes go to connections that are open"), bytes);
        }
        let kernel = self.kernel_mut();
        for link in std::mem::take(&mut kernel.shards[shard].closes) {
            kernel.take_slot(link);
            let state = &mut kernel.links[link];
            state.closed_at = Some(kernel.now);
            // Without it, the client can't know that nothing is missing.
            if state.served && state.tls.as_ref().is_some_and(|tls| !tls.is_closed()) {
                kernel.tell(Happening::Broken(format!("#{link} is closed without close_notify")));
            }
            kernel.transfer(link);
        }
    }

    fn read(&mut self, link: usize, events: &mut Vec<IoEvent<Received>>) {
        let shard = self.shard;
        let kernel = self.kernel_mut();
        kernel.links[link].is_ready = false;
        let state = &mut kernel.links[link];
        let Some(slot) = state.slot.filter(|_| state.shard == shard && !state.closing) else { return };
        let rng = &mut kernel.rng;
        let came = state.socket.take(|len| if len > 1 && rng.chance(100) { rng.index(len) + 1 } else { len });
        events.extend(came.into_iter().map(|came| match came {
            Came::Bytes(bytes) => IoEvent::Received { slot, buffer: Received { link, bytes } },
            Came::End(cause) => IoEvent::Hangup { slot, cause },
        }));
        if state.socket.is_ready() {
            state.is_ready = true;
            kernel.shards[shard].ready.push_back(Ready::Read(link));
        }
    }

    fn change(&mut self, slot: ConnectionSlot, change: impl FnOnce(&mut crate::socket::Socket)) {
        if let Some(link) = self.link(slot) {
            let kernel = self.kernel_mut();
            change(&mut kernel.links[link].socket);
            kernel.look_at(link);
        }
    }
}

impl Io for SimIo {
    type Listener = ();
    type Socket = usize;
    type Buffer = Received;

    fn now(&self) -> Time {
        self.kernel().time()
    }

    fn read_clock(&self) -> (Time, ClockReading) {
        let kernel = self.kernel();
        let at = kernel.turn.map_or(kernel.now, |(_, at)| at);
        clocks::look(&kernel.shards[self.shard].noted_clock, &kernel.clocks, at);
        (kernel.time(), kernel.clocks.reading(at))
    }

    fn poll(&mut self, events: &mut Vec<IoEvent<Received>>) {
        let shard = self.shard;
        let state = &mut self.kernel_mut().shards[shard];
        let freed = std::mem::take(&mut state.freed);
        state.free.extend(freed);
        for ready in std::mem::take(&mut state.ready) {
            let kernel = self.kernel_mut();
            match ready {
                Ready::Accept(link) => {
                    let slot = kernel.give_slot(shard, link);
                    let peer = if kernel.layers.proxy { BALANCER.into() } else { peer(link) };
                    events.push(IoEvent::Accepted { listener: 0, slot, peer });
                    kernel.look_at(link);
                }
                Ready::Read(link) => self.read(link, events),
                Ready::Backlogged(link) => {
                    let link = &mut kernel.links[link];
                    link.backlog_told = false;
                    let bytes = u32::try_from(link.backlog.len()).expect("backlogs are bounded");
                    if let Some(slot) =
                        link.slot.filter(|_| bytes > 0 && link.shard == shard && !link.closing)
                    {
                        events.push(IoEvent::Backlogged { slot, bytes, taken: link.backlog_taken });
                    }
                }
                Ready::Drained(link) => {
                    let link = &kernel.links[link];
                    if let Some(slot) = link.slot.filter(|_| link.shard == shard && !link.closing) {
                        events.push(IoEvent::Drained { slot });
                    }
                }
            }
        }
    }

    fn flush(&mut self, outbox: &Outbox, _events: &mut Vec<IoEvent<Received>>) -> io::Result<()> {
        self.send_all(outbox);
        // It takes time, which loops of the host wait for.
        let kernel = self.kernel_mut();
        kernel.now += 100;
        kernel.turn = kernel.turn.map(|(shard, at)| (shard, at + 100));
        Ok(())
    }

    fn park(
        &mut self,
        outbox: &Outbox,
        events: &mut Vec<IoEvent<Received>>,
        deadline: Option<Duration>,
        takes_mails: bool,
    ) -> io::Result<()> {
        self.send_all(outbox);
        let shard = self.shard;
        let kernel = self.kernel_mut();
        let deadline = if events.is_empty() { deadline } else { Some(Duration::ZERO) };
        let now = kernel.now;
        let state = &mut kernel.shards[shard];
        state.wait =
            deadline.map(|wait| now.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)));
        state.takes_mails = takes_mails;
        Ok(())
    }

    fn set_backlog_bytes_max(&mut self, _bytes: usize) {}

    fn listen(&mut self, _listener: u16, (): ()) {
        let shard = self.shard;
        let state = &mut self.kernel_mut().shards[shard];
        (state.is_listening, state.has_listened) = (true, true);
    }

    fn close_listener(&mut self, listener: u16) {
        // A simulated broker has one listener.
        debug_assert_eq!(listener, 0, "there is one");
        self.stop_listening();
    }

    fn tune_listeners(&mut self, _: &Limits) -> io::Result<()> {
        Ok(())
    }

    fn stop_listening(&mut self) {
        let shard = self.shard;
        self.kernel_mut().shards[shard].is_listening = false;
    }

    fn connections(&self) -> usize {
        self.kernel().shards[self.shard].slots.iter().flatten().count()
    }

    fn bytes<'a>(&'a self, buffer: &'a Received) -> &'a [u8] {
        &buffer.bytes
    }

    fn give_back(&mut self, buffer: Received) {
        let kernel = self.kernel_mut();
        let link = &mut kernel.links[buffer.link];
        // The machine has not seen the bytes that came after the end.
        if link.closing || link.closed_at.is_some() {
            return;
        }
        link.up_given += buffer.bytes.len() as u64;
        let is_handshaking = link.tls.is_some() && !link.served;
        kernel.unread.insert(buffer.link);
        // A handshake takes its time, which the host measures. What came before it has its own time.
        if is_handshaking {
            self.tell_events();
            let kernel = self.kernel_mut();
            let took = kernel.rng.range(50..=1200);
            kernel.now += took;
            kernel.turn = kernel.turn.map(|(shard, at)| (shard, at + took));
        }
    }

    fn hold(&mut self, slot: ConnectionSlot, buffer: Received, consumed: usize) {
        if let Some(link) = self.link(slot) {
            let kernel = self.kernel_mut();
            if kernel.links[link].tls.is_some() && !kernel.links[link].served {
                kernel.tell(Happening::HandshakeWaits);
            }
        }
        self.change(slot, |socket| socket.hold(&buffer.bytes[consumed..]));
    }

    fn hold_hangup(&mut self, slot: ConnectionSlot, cause: SocketEnd) -> bool {
        let Some(link) = self.link(slot) else { return false };
        self.kernel_mut().links[link].socket.hold_end(cause)
    }

    fn is_held(&self, slot: ConnectionSlot) -> bool {
        self.link(slot).is_some_and(|link| self.kernel().links[link].socket.is_held())
    }

    fn receive_once(&mut self, slot: ConnectionSlot) {
        self.change(slot, |socket| socket.receive_once());
    }

    fn receive_stream(&mut self, slot: ConnectionSlot) {
        self.change(slot, |socket| socket.receive_stream());
        self.after_effect();
    }

    fn pause(&mut self, slot: ConnectionSlot) {
        self.change(slot, |socket| socket.pause());
        self.after_effect();
    }

    fn resume(&mut self, slot: ConnectionSlot) {
        self.change(slot, |socket| socket.resume());
        self.after_effect();
    }

    fn close(&mut self, slot: ConnectionSlot) {
        if let Some(link) = self.link(slot) {
            self.tell_events();
            let shard = self.shard;
            let kernel = self.kernel_mut();
            kernel.links[link].closing = true;
            kernel.shards[shard].closes.push(link);
            kernel.tell(Happening::Closed { link });
            self.after_effect();
        }
    }

    fn abort(&mut self, slot: ConnectionSlot) {
        if let Some(link) = self.link(slot) {
            self.tell_events();
            let kernel = self.kernel_mut();
            kernel.take_slot(link);
            let now = kernel.now;
            let state = &mut kernel.links[link];
            (state.closing, state.closed_at) = (true, Some(now));
            let latency = state.latency;
            kernel.tell(Happening::Closed { link });
            kernel.sever(link, None, Some(latency), true);
            self.after_effect();
        }
    }

    fn detach(&mut self, slot: ConnectionSlot) -> Option<usize> {
        let link = self.link(slot)?;
        self.tell_events();
        let kernel = self.kernel_mut();
        let state = &kernel.links[link];
        // The driver may or may not know that the peer has gone.
        let is_known = state.socket.ended().is_some() && kernel.rng.chance(500);
        let cut = is_known || !state.socket.can_move() || !state.backlog.is_empty();
        kernel.tell(Happening::HandOver { cut });
        if cut {
            return None;
        }
        kernel.take_slot(link);
        Some(link)
    }

    fn adopt(&mut self, link: usize) -> ConnectionSlot {
        let shard = self.shard;
        let kernel = self.kernel_mut();
        kernel.links[link].socket.adopt();
        kernel.give_slot(shard, link)
    }

    fn send(
        &mut self,
        to: usize,
        message: ShardMessage<usize>,
        _bytes: usize,
    ) -> Result<(), ShardMessage<usize>> {
        self.tell_events();
        let from = self.shard;
        let kernel = self.kernel_mut();
        if kernel.shards[to].boxes[from].len() >= kernel.weather.box_capacity {
            kernel.shards[from].found_box_full = true;
            if !std::mem::replace(&mut kernel.shards[from].is_overflowing, true) {
                kernel.tell(Happening::BoxFull);
            }
            return Err(message);
        }
        let soon = kernel.rng.range(1..=40);
        let now = kernel.now;
        let place = &mut kernel.shards[to].boxes[from];
        let at = place.back().map_or(0, |last: &Posted| last.at).max(now + soon);
        place.push_back(Posted { at, message });
        kernel.wake_shard(to, at - now);
        self.after_effect();
        Ok(())
    }

    fn waiting(&self, from: usize) -> usize {
        let kernel = self.kernel();
        let seen = kernel.turn.map_or(kernel.now, |(_, at)| at);
        kernel.shards[self.shard].boxes[from].iter().take_while(|posted| posted.at <= seen).count()
    }

    fn receive(&mut self, from: usize) -> Option<ShardMessage<usize>> {
        if self.waiting(from) == 0 {
            return None;
        }
        let shard = self.shard;
        self.kernel_mut().shards[shard].boxes[from].pop_front().map(|posted| posted.message)
    }

    fn has_messages(&self) -> bool {
        (0..self.kernel().shards.len()).any(|from| self.waiting(from) > 0)
    }

    fn next_file_done(&mut self) -> Option<FileDone> {
        let shard = self.shard;
        self.kernel_mut().shards[shard].files_done.pop_front()
    }

    fn await_files(&mut self, patience: Duration) -> io::Result<()> {
        let shard = self.shard;
        let kernel = self.kernel_mut();
        let under_way = kernel.disk.under_way(shard);
        let took =
            if under_way.is_empty() { u64::try_from(patience.as_micros()).unwrap_or(u64::MAX) } else { 100 };
        kernel.now += took;
        kernel.shards[shard].waited_until = kernel.now;
        kernel.turn = kernel.turn.map(|(shard, at)| (shard, at + took));
        under_way.into_iter().for_each(|number| kernel.finish_file(number));
        Ok(())
    }

    fn give_memory_back(&mut self) {}
}

impl LogFiles for SimIo {
    fn begin(&mut self, work: LogWork, operation: FileOperation) {
        let shard = self.shard;
        let kernel = self.kernel_mut();
        let number = kernel.disk.begin((shard, kernel.now), work, operation);
        let took = kernel.rng.range(5..=kernel.weather.write_max);
        kernel.schedule(kernel.now + took, Due::FileDone { number });
    }

    fn write(&mut self, work: LogWork, file: FileId, at: u64, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        let shard = self.shard;
        let kernel = self.kernel_mut();
        let mut buffer = vec![0xAA; bytes];
        fill(&mut buffer);
        let at = usize::try_from(at).expect("files are small");
        let number = kernel.disk.write((shard, kernel.now), (work, file), at, buffer, &mut kernel.rng);
        let late = if kernel.rng.chance(20) { kernel.rng.below(30_000) } else { 0 };
        let took = late + kernel.rng.range(20..=kernel.weather.write_max);
        if bytes > BLOCK
            && let Some((down, shards)) = kernel.cut_while_writing.take()
        {
            kernel.schedule(kernel.now + took / 2, Due::Wake(Wake::PowerOff { down, shards }));
        }
        kernel.schedule(kernel.now + took, Due::FileDone { number });
    }

    fn close_file(&mut self, file: FileId) {
        self.kernel_mut().disk.close(file);
    }

    fn is_found(&self, path: &Path, file: FileId) -> io::Result<bool> {
        Ok(self.kernel().disk.is_found(path, file))
    }
}
