//! The turns of the shards, as `host` takes them.

use crate::clocks;
use crate::world::{Due, Happening, Job, OVERFLOW_RETRY, Ready, ShardMessage};
use crate::world::{Wake, World, link_of, peer};
use midge::base::{ConnectionSlot, ShardId};
use midge::broker::{Backlog, Effect, Event, Hangup, HoldBack};
use midge::store::segment::BLOCK;
use std::collections::VecDeque;

impl World {
    /// A turn, or the rest of one that was interrupted.
    pub fn go_on(&mut self, shard: usize) {
        let now = self.now;
        let host = &mut self.hosts[shard];
        if host.stalled_until > now {
            let at = host.stalled_until;
            host.due_at = Some(at);
            let run = self.run;
            return self.schedule(at, Due::Turn { shard, run });
        }
        if host.jobs.is_empty() && host.effects.is_empty() {
            // Between two turns, as in `host`; what has come since the last one is read behind it.
            host.jobs.extend(std::mem::take(&mut host.stops).then_some(Job::Shutdown));
            let left = std::mem::take(&mut host.left);
            let ready = std::mem::take(&mut host.ready);
            host.jobs.extend(left.into_iter().chain(ready).map(Job::Ready));
            host.jobs.push_back(Job::Overflow);
            host.takes_rest = host.mails_left.iter().any(|&left| left > 0);
            let boxes = host.boxes.len();
            host.jobs.extend((0..boxes).filter(|&from| from != shard).map(Job::Boxes));
            host.jobs.extend([Job::Time, Job::Turn, Job::Flush]);
        }
        loop {
            while let Some((effect, cause)) = self.hosts[shard].effects.pop_front() {
                self.carry_out(shard, effect, cause);
                if self.rng.chance(self.weather.preempt_permille) {
                    let away = self.rng.range(1, 3000);
                    let run = self.run;
                    let at = self.now + away;
                    self.hosts[shard].due_at = Some(at);
                    return self.schedule(at, Due::Turn { shard, run });
                }
            }
            let Some(job) = self.hosts[shard].jobs.pop_front() else { break };
            self.work(shard, job);
        }
        self.write(shard);
        self.plan_next_turn(shard);
    }

    /// One write at a time is under way.
    pub fn write(&mut self, shard: usize) {
        let took = if self.rng.chance(20) { self.rng.below(30_000) } else { 0 };
        let took = took + self.rng.range(20, self.weather.write_max);
        let host = &mut self.hosts[shard];
        if let Some(disk) = &mut host.disk
            && !disk.is_writing()
            && let Some(batch) = host.machine.take_batch()
        {
            if batch.bytes.len() > BLOCK
                && let Some((down, shards)) = self.cut_while_writing.take()
            {
                let wake = Due::Wake(Wake::PowerOff { down, shards });
                disk.write(batch);
                return self.schedule(self.now + took / 2, wake);
            }
            disk.write(batch);
            let run = self.run;
            self.schedule(self.now + took, Due::Written { shard, run });
        }
        if !self.hosts[shard].machine.is_log_behind() {
            for link in std::mem::take(&mut self.hosts[shard].paused_by_log) {
                let now = self.time();
                if let Some(slot) = self.own_slot(shard, link)
                    && self.hosts[shard].machine.let_go(now, slot, HoldBack::Log)
                {
                    self.resume(link);
                }
            }
        }
    }

    pub fn plan_next_turn(&mut self, shard: usize) {
        let soon = self.rng.range(1, 20);
        let now = self.now;
        let host = &self.hosts[shard];
        let busy = host.machine.has_deferred()
            || host.stops
            || !host.ready.is_empty()
            || !host.left.is_empty()
            || host.boxes.iter().any(|messages| !messages.is_empty());
        let zero = self.clocks.zero;
        let timer = host
            .machine
            .next_deadline()
            .map(|deadline| deadline.as_micros().saturating_add(zero).max(now + 1));
        let retry = host.overflow.iter().any(|list| !list.is_empty()).then_some(now + OVERFLOW_RETRY);
        let at = [busy.then_some(now + soon), timer, retry].into_iter().flatten().min();
        if let Some(at) = at {
            self.wake_shard(shard, at - now);
        }
    }

    pub fn work(&mut self, shard: usize, job: Job) {
        let now = self.time();
        let mut cause = None;
        match job {
            Job::Ready(ready) if self.hosts[shard].machine.is_spent() => {
                self.hosts[shard].left.push_back(ready);
            }
            Job::Ready(Ready::Accept(link)) => {
                let slot = self.give_slot(shard, link);
                self.hosts[shard].machine.handle_open(now, slot, peer(link), 0, false);
                self.mark_readable(link);
            }
            Job::Ready(Ready::Read(link)) => {
                cause = Some(link);
                self.read(shard, link);
            }
            Job::Ready(Ready::Backlogged(link)) => {
                let state = &mut self.links[link];
                state.backlog_told = false;
                let backlog = Backlog { bytes: state.backlog.len(), taken: state.backlog_taken };
                if let Some(slot) = self.own_slot(shard, link).filter(|_| backlog.bytes > 0) {
                    self.hosts[shard].machine.handle_backlog(now, slot, backlog);
                }
            }
            Job::Ready(Ready::Durable(last)) => self.hosts[shard].machine.handle_durable(now, last),
            Job::Ready(Ready::Drained(link)) => {
                if let Some(slot) = self.own_slot(shard, link) {
                    self.hosts[shard].machine.handle_drained(now, slot);
                }
            }
            Job::Shutdown => self.hosts[shard].machine.handle_shutdown(now),
            Job::Overflow => self.empty_overflow(shard),
            Job::Boxes(from) => {
                let host = &mut self.hosts[shard];
                let waiting = match host.takes_rest {
                    true => std::mem::take(&mut host.mails_left[from]),
                    false => host.boxes[from].len(),
                };
                for _ in 0..waiting {
                    host.jobs.push_front(Job::Mail(from));
                }
            }
            Job::Mail(from) if !self.hosts[shard].machine.takes_mails() => {
                self.hosts[shard].mails_left[from] += 1;
            }
            Job::Mail(from) => {
                let message = self.hosts[shard].boxes[from].pop_front();
                match message {
                    Some(ShardMessage::Mail(mail)) => {
                        let from = ShardId::try_from(from).expect("at most 128 shards");
                        self.hosts[shard].machine.handle_mail(now, from, mail);
                    }
                    Some(ShardMessage::Socket { link, bytes }) => {
                        let slot = self.give_slot(shard, link);
                        self.hosts[shard].machine.handle_open(now, slot, peer(link), 0, true);
                        self.hosts[shard].machine.handle_bytes(now, slot, &bytes);
                        self.mark_readable(link);
                    }
                    None => {}
                }
            }
            Job::Time => {
                let machine = &mut self.hosts[shard].machine;
                if machine.next_deadline().is_some_and(|deadline| deadline <= now) {
                    machine.handle_time(now);
                }
            }
            Job::Turn => {
                let host = &mut self.hosts[shard];
                clocks::watch(&mut host.machine, &self.clocks, &mut host.noted_clock, self.now);
                host.machine.note_mails_left(host.mails_left.iter().any(|&left| left > 0));
                host.machine.handle_turn(now);
                self.tell_restored();
            }
            Job::Flush => self.flush(shard),
        }
        self.note_consumed(shard);
        let host = &mut self.hosts[shard];
        for effect in host.machine.take_effects() {
            // What it does to the session is done by now, whenever the rest of the turn is.
            if let Effect::Event(Event::Disconnected { peer, cause, .. }) = &effect {
                let (link, cause) = (link_of(*peer), cause.clone());
                self.happenings.push_back(Happening::Left { link, cause });
            }
            host.effects.push_back((effect, cause));
        }
    }

    /// What the machine has taken of the bytes that it was given: the rest waits in it.
    fn note_consumed(&mut self, shard: usize) {
        for slot in 0..self.hosts[shard].slots.len() {
            let Some(link) = self.hosts[shard].slots[slot] else { continue };
            let state = &mut self.links[link];
            if state.up_given == state.up_consumed || state.closing {
                continue;
            }
            let slot = ConnectionSlot::new(u32::try_from(slot).expect("slots are 32 bits"));
            let machine = &self.hosts[shard].machine;
            let whole = machine.has_connection(slot);
            let upto = state.up_given - machine.unread_bytes(slot) as u64;
            if whole {
                state.up_sure = upto;
            }
            if upto > state.up_consumed {
                state.up_consumed = upto;
                self.happenings.push_back(Happening::Consumed { link, upto, whole });
            }
        }
    }

    /// Once all shards know what the sessions of all want, what fell due while the broker was down is due.
    fn tell_restored(&mut self) {
        if self.is_restored || self.hosts.iter().any(|host| host.machine.is_restoring()) {
            return;
        }
        self.is_restored = true;
        for shard in 0..self.hosts.len() {
            self.hosts[shard].machine.handle_restored();
            self.wake_shard(shard, 1);
        }
    }

    pub fn give_slot(&mut self, shard: usize, link: usize) -> ConnectionSlot {
        let host = &mut self.hosts[shard];
        let slot = match host.free.pop() {
            Some(slot) => slot,
            None => {
                host.slots.push(None);
                ConnectionSlot::new(u32::try_from(host.slots.len() - 1).expect("slots are 32 bits"))
            }
        };
        host.slots[slot.at()] = Some(link);
        let state = &mut self.links[link];
        (state.slot, state.shard, state.readable, state.paused) = (Some(slot), shard, false, false);
        slot
    }

    /// Its slot, if the link is this shard's still.
    pub fn own_slot(&self, shard: usize, link: usize) -> Option<ConnectionSlot> {
        let state = &self.links[link];
        state.slot.filter(|_| state.shard == shard && !state.closing)
    }

    pub fn read(&mut self, shard: usize, link: usize) {
        let now = self.time();
        let Some(slot) = self.own_slot(shard, link) else { return };
        self.links[link].readable = false;
        let state = &mut self.links[link];
        if state.paused && state.hangup == Some(Hangup::Reset) {
            // Told at once: what has come and is not read helps nobody any more.
            state.inbound.clear();
        }
        if state.paused && !state.tells_hangup() {
            return;
        }
        if self.hosts[shard].machine.is_log_far_behind() {
            self.hosts[shard].machine.hold_back(slot, HoldBack::Log);
            self.links[link].paused = true;
            self.hosts[shard].paused_by_log.push(link);
            return;
        }
        let waiting = self.links[link].inbound.len();
        let len = if waiting > 1 && self.rng.chance(100) { self.rng.index(waiting) + 1 } else { waiting };
        if len > 0 {
            let bytes: Vec<u8> = self.links[link].inbound.drain(..len).collect();
            self.links[link].up_given += bytes.len() as u64;
            self.hosts[shard].machine.handle_bytes(now, slot, &bytes);
        } else if let Some(hangup) = self.links[link].hangup.clone() {
            self.hosts[shard].machine.handle_hangup(now, slot, hangup);
            return;
        }
        self.mark_readable(link);
    }

    pub fn flush(&mut self, shard: usize) {
        let mut sent = Vec::new();
        let outbox = self.hosts[shard].machine.outbox();
        for touched in outbox.touched() {
            let bytes: Vec<u8> =
                outbox.segments_of(touched).flat_map(|range| outbox.bytes(range).to_vec()).collect();
            sent.push((touched.slot, bytes));
        }
        outbox.clear();
        for (slot, bytes) in sent {
            let link = self.hosts[shard].slots[slot.at()].expect("bytes go to connections that are open");
            self.put(shard, link, bytes);
        }
        for link in std::mem::take(&mut self.hosts[shard].closes) {
            if let Some(slot) = self.links[link].slot.take() {
                self.hosts[shard].slots[slot.at()] = None;
                self.hosts[shard].free.push(slot);
            }
            self.links[link].closed_at = Some(self.now);
            self.transfer(link);
        }
    }

    pub fn put(&mut self, shard: usize, link: usize, bytes: Vec<u8>) {
        self.links[link].served = true;
        self.links[link].backlog.extend(&bytes);
        self.happenings.push_back(Happening::Sent { link, bytes });
        self.transfer(link);
        let state = &mut self.links[link];
        if !state.backlog.is_empty() {
            (state.backlogged, state.was_backlogged) = (true, true);
            self.tell_backlog(shard, link);
        }
    }

    pub fn carry_out(&mut self, shard: usize, effect: Effect, cause: Option<usize>) {
        match effect {
            Effect::Mail { to, mail } => self.post(shard, usize::from(to), ShardMessage::Mail(mail), cause),
            Effect::Forward(forward) => {
                for (to, mail) in self.hosts[shard].machine.forward_now(*forward) {
                    self.post(shard, usize::from(to), ShardMessage::Mail(mail), cause);
                }
            }
            Effect::Close { slot } => {
                let link = self.link_of(shard, slot);
                self.links[link].closing = true;
                self.hosts[shard].closes.push(link);
                self.happenings.push_back(Happening::Closed { link });
            }
            Effect::HandOver { slot, to, handover } => {
                let link = self.link_of(shard, slot);
                self.hosts[shard].slots[slot.at()] = None;
                self.hosts[shard].free.push(slot);
                self.links[link].slot = None;
                let cut = self.links[link].hangup.is_some();
                self.happenings.push_back(Happening::HandOver { cut });
                if cut {
                    self.links[link].closed_at = Some(self.now);
                    self.happenings.push_back(Happening::Closed { link });
                    return;
                }
                self.links[link].shard = usize::from(to);
                self.post(shard, usize::from(to), ShardMessage::Socket { link, bytes: handover.bytes }, None);
            }
            Effect::Pause { slot } => {
                let link = self.link_of(shard, slot);
                self.links[link].paused = true;
            }
            Effect::Resume { slot } => {
                let link = self.link_of(shard, slot);
                if !self.hosts[shard].machine.is_paused(slot) {
                    self.resume(link);
                }
            }
            // No client has a password.
            Effect::Stream { .. }
            | Effect::Check { .. }
            | Effect::LoginFailed { .. }
            | Effect::LoginSucceeded { .. } => {}
            Effect::Event(event) => self.happenings.push_back(Happening::Told(event)),
        }
    }

    pub fn link_of(&self, shard: usize, slot: ConnectionSlot) -> usize {
        self.hosts[shard].slots[slot.at()].expect("effects name connections that are open")
    }

    pub fn resume(&mut self, link: usize) {
        self.links[link].paused = false;
        self.mark_readable(link);
    }

    pub fn post(&mut self, from: usize, to: usize, message: ShardMessage, cause: Option<usize>) {
        if self.hosts[from].overflow[to].is_empty()
            && self.hosts[to].boxes[from].len() < self.weather.box_capacity
        {
            self.hosts[to].boxes[from].push_back(message);
            let soon = self.rng.range(1, 40);
            return self.wake_shard(to, soon);
        }
        self.happenings.push_back(Happening::BoxFull);
        self.hosts[from].overflow[to].push_back(message);
        self.hosts[from].machine.handle_mesh_full(true);
        if let Some(link) = cause
            && let Some(slot) = self.own_slot(from, link)
            && self.hosts[from].machine.hold_back(slot, HoldBack::Mesh)
        {
            self.links[link].paused = true;
            self.hosts[from].paused_by_mesh.push(link);
        }
    }

    pub fn empty_overflow(&mut self, from: usize) {
        for to in 0..self.hosts.len() {
            while self.hosts[to].boxes[from].len() < self.weather.box_capacity {
                let Some(message) = self.hosts[from].overflow[to].pop_front() else { break };
                self.hosts[to].boxes[from].push_back(message);
                self.wake_shard(to, 1);
            }
        }
        if self.hosts[from].overflow.iter().all(VecDeque::is_empty) {
            self.hosts[from].machine.handle_mesh_full(false);
            if self.hosts.iter().all(|host| host.overflow.iter().all(VecDeque::is_empty)) {
                self.happenings.push_back(Happening::BoxesHaveRoom);
            }
            for link in std::mem::take(&mut self.hosts[from].paused_by_mesh) {
                let now = self.time();
                if let Some(slot) = self.own_slot(from, link)
                    && self.hosts[from].machine.let_go(now, slot, HoldBack::Mesh)
                {
                    self.resume(link);
                }
            }
        }
    }
}
