//! The clients' reactions to what they receive.

use crate::audit::number_of;
use crate::coverage::Mark;
use crate::kernel::{Acked, Wake};
use crate::sim::Sim;
use midge_kit::codec::Encode;
use midge_kit::codec::{self, Kind, Packet};

impl Sim {
    pub fn received(&mut self, link: usize, bytes: &[u8]) -> Result<(), String> {
        let client = self.audits[&link].client;
        if self.clients[client].link != Some(link) {
            return Ok(());
        }
        self.clients[client].received.extend_from_slice(bytes);
        loop {
            let state = &mut self.clients[client];
            if state.link != Some(link) {
                return Ok(());
            }
            let Some(len) = codec::packet_length(&state.received)?.filter(|&len| len <= state.received.len())
            else {
                return Ok(());
            };
            let bytes: Vec<u8> = state.received.drain(..len).collect();
            let packet = codec::decode(&bytes, state.version())?;
            self.answer(client, link, &packet)?;
        }
    }

    pub fn answer(&mut self, client: usize, link: usize, packet: &Packet) -> Result<(), String> {
        match packet.kind {
            // A client of 3.1 is not told, and would ask for a clean session to be sure. The simulated one
            // knows what it needs.
            Kind::Connack => {
                let present = self.audits[&link].present.unwrap_or(packet.session_present);
                self.resume(client, link, present);
            }
            Kind::Publish => self.take_message(client, link, packet)?,
            Kind::Puback => self.clients[client].outgoing.retain(|out| out.id != packet.id),
            Kind::Pubrec if packet.code >= 0x80 => {
                self.clients[client].outgoing.retain(|out| out.id != packet.id);
            }
            Kind::Pubrec => {
                let state = &mut self.clients[client];
                if let Some(out) = state.outgoing.iter_mut().find(|out| out.id == packet.id) {
                    out.released = true;
                }
                self.release(client, link, packet.id);
            }
            Kind::Pubcomp => self.clients[client].outgoing.retain(|out| out.id != packet.id),
            Kind::Pubrel => {
                self.clients[client].held.remove(&packet.id);
                self.think(client, link, &codec::pubcomp(packet.id), 7, packet.id);
            }
            Kind::Disconnect => self.note(format_args!("client-{client} is told {:02X}", packet.code)),
            Kind::Suback | Kind::Unsuback | Kind::Pingresp | Kind::Auth => {}
        }
        Ok(())
    }

    pub fn release(&mut self, client: usize, link: usize, id: u16) {
        let bytes = codec::pubrel(id).encode(self.clients[client].version());
        self.audits.get_mut(&link).expect("it is audited").releases.insert(id);
        self.say(client, link, &bytes);
    }

    /// Handles CONNACK.
    pub fn resume(&mut self, client: usize, link: usize, present: bool) {
        self.clients[client].up = true;
        // [MQTT5-3.1.2-4]: a clean start whose CONNACK never came has also ended the session, unless the
        // power was cut before that was durable.
        let session = self.audits[&link].session;
        let is_doubtful = session.is_some_and(|session| self.model.sessions[session].doubtful);
        if !present || (self.clients[client].session != session && !is_doubtful) {
            self.clients[client].forget();
        }
        self.clients[client].session = session;
        self.clients[client].is_brief = !self.clients[client].lasting;
        if self.clients[client].plan.keep_alive > 0 {
            self.keep_alive(client, link);
        }
        if present && !self.clients[client].held.is_empty() {
            self.marks.reach(Mark::Qos2OutResumed);
        }
        // [MQTT5-4.4.0-1]
        for out in self.clients[client].outgoing.clone() {
            if out.released {
                self.marks.reach(Mark::Qos2InResumedAtPubrel);
                self.release(client, link, out.id);
            } else {
                self.marks.reach(if out.qos == 2 {
                    Mark::Qos2InResumedAtPublish
                } else {
                    Mark::ClientResent
                });
                self.send_publish(client, link, &out, true);
            }
        }
    }

    pub fn keep_alive(&mut self, client: usize, link: usize) {
        let micros = u64::from(self.clients[client].plan.keep_alive) * 800_000;
        self.world.wake_after(micros, Wake::Ping { client, link });
    }

    pub fn take_message(&mut self, client: usize, link: usize, packet: &Packet) -> Result<(), String> {
        let number = number_of(&packet.payload);
        if packet.qos < 2 || !self.clients[client].held.contains_key(&packet.id) {
            self.deliver(client, link, number, packet)?;
        }
        match packet.qos {
            1 => self.think(client, link, &codec::puback(packet.id), 4, packet.id),
            2 => {
                self.clients[client].held.insert(packet.id, number);
                self.think(client, link, &codec::pubrec(packet.id), 5, packet.id);
            }
            _ => {}
        }
        Ok(())
    }

    /// Delivers a message to the client's application.
    pub fn deliver(
        &mut self,
        client: usize,
        link: usize,
        number: Option<u64>,
        packet: &Packet,
    ) -> Result<(), String> {
        let Some(number) = number else { return Ok(()) };
        let Some(at) = self.audits[&link].session else { return Ok(()) };
        let now = self.world.now;
        let publication = &self.model.publications[number as usize];
        let session = &mut self.model.sessions[at];
        if packet.retain {
            session.got_retained.insert(number, now);
            if publication.retain {
                return Ok(());
            }
        }
        let count = session.got.entry(number).or_default();
        *count += 1;
        if *count > 1 {
            let first = publication.first().unwrap_or(0);
            let was_below = session.sent_below_qos2.contains(&number);
            let forgets = was_below && self.model.cuts.iter().any(|&cut| cut > first);
            if publication.qos == 2 && packet.qos == 2 && publication.routed == 1 && !forgets {
                return Err(format!("client-{client} has QoS 2 message m{number} twice"));
            }
            return Ok(());
        }
        // The order of first copies is checked. A message that its publisher has repeated may come late.
        let publisher = publication.publisher + if publication.is_will { 1000 } else { 0 };
        let key = (publisher, publication.topic.clone(), publication.qos, packet.qos);
        let repeated = publication.processed.len() > 1;
        let newest = session.orders.entry(key).or_default();
        if *newest > number && !repeated && !publication.topic.starts_with("s/") && !publication.is_will {
            return Err(format!("client-{client} has m{number} after m{newest} of the same publisher"));
        }
        *newest = (*newest).max(number);
        Ok(())
    }

    /// Sends acknowledgements in their order, after some time to think.
    pub fn think(&mut self, client: usize, link: usize, ack: &codec::Ack, kind: u8, id: u16) {
        let state = &mut self.clients[client];
        let bytes = ack.encode(state.version());
        let thought = if self.healed {
            20
        } else {
            (u64::from(id) * 7919 + self.world.now) % (state.plan.think_max + 1)
        };
        let now = self.world.now;
        let at = state.thinks_until.max(now + thought).max(state.holds_until);
        state.thinks_until = at;
        let ack = Some(Acked { kind, id });
        self.world.wake_after(at - now, Wake::Send { client, link, bytes, ack });
    }

    pub fn acknowledged(&mut self, link: usize, ack: Acked) {
        let upto = self.world.links[link].up_sent;
        let Some(audit) = self.audits.get_mut(&link) else { return };
        let Some(at) = audit.session else { return };
        if let Some(unsettled) = self.model.sessions[at].unsettled.get_mut(&ack.id) {
            if ack.kind == 5 {
                unsettled.recorded = true;
                return;
            }
            unsettled.acked = Some((link, upto));
        }
        audit.client_settled(ack.id);
    }

    pub fn ended(&mut self, link: usize) {
        let Some(client) = self.audits.get(&link).map(|audit| audit.client) else { return };
        if self.clients[client].link != Some(link) {
            return;
        }
        self.note(format_args!("client-{client} sees the end of #{link}"));
        self.clients[client].up = false;
        if self.healed {
            self.world.wake_after(10_000, Wake::Return { client });
        }
    }
}
