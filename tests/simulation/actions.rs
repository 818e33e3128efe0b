//! The actions of the clients and the world that the plan asks for, and their effect on the model.

use crate::audit::Audit;
use crate::client::Outgoing;
use crate::clocks;
use crate::coverage::Mark;
use crate::disk::Torn;
use crate::kernel::Wake;
use crate::model::{Coverage, Grant, Publication, Will};
use crate::packet_text::shown;
use crate::plan::{Action, Cut, FILTERS, FilterPlan, PowerCut, TOPICS, WillPlan};
use crate::sim::{Item, SECOND, Sim, config};
use midge::settings::SyncPolicy;
use midge::store::Wall;
use midge_kit::codec::{self, Encode, Version};

impl Sim {
    pub fn act(&mut self, client: usize, action: Action) {
        match action {
            Action::Connect { shard, clean, lasting, will } => {
                if self.world.is_serving() && !self.clients[client].away {
                    self.connect(client, shard, clean, lasting, will);
                }
            }
            Action::Knock { shard } => {
                if self.world.is_serving() && !self.clients[client].away {
                    let lasting = self.clients[client].lasting;
                    let before = self.clients[client].link;
                    self.connect(client, shard, false, lasting, None);
                    if let Some(link) = self.clients[client].link.filter(|&link| Some(link) != before) {
                        self.world.leave(link);
                        self.world.wake_after(100_000, Wake::Return { client });
                    }
                }
            }
            Action::Disconnect { keeps_will, back_after } => {
                self.say_farewell(client, keeps_will);
                match back_after {
                    Some(after) => self.world.wake_after(after, Wake::Return { client }),
                    None => self.clients[client].away = true,
                }
            }
            Action::Subscribe { filters } => self.subscribe(client, &filters),
            Action::Unsubscribe { filter } => self.unsubscribe(client, FILTERS[filter]),
            Action::Publish { topic, qos, retain, bytes, count } => {
                for _ in 0..count {
                    self.publish(client, TOPICS[topic], qos, retain, Some(bytes));
                }
            }
            Action::Clear { topic, qos } => self.publish(client, TOPICS[topic], qos, true, None),
            Action::Cut { how, back_after } => self.cut(client, how, back_after),
            Action::Stall { up, down } => {
                if let Some(link) = self.clients[client].link {
                    self.note(format_args!("network: #{link} stalls"));
                    self.world.stall(link, up, down);
                }
            }
            Action::HoldAcks { micros } => self.clients[client].holds_until = self.world.now + micros,
            Action::StallShard { shard, micros } => {
                self.note(format_args!("shard {shard} gets no core for {micros} us"));
                self.world.stall_shard(shard, micros);
            }
            Action::DiskFull { shard, micros } => {
                // Without a sync, a stop loses what the full disk has no room for.
                let may = self.plan.persistent && self.plan.sync == SyncPolicy::Always;
                if may && self.world.fill_disk(shard) {
                    self.note(format_args!("the disk of shard {shard} is full"));
                    self.marks.reach(Mark::DiskFull);
                    self.model.disk_full.begin(self.world.now);
                    self.model.full_disks.insert(shard);
                    self.world.wake_after(micros, Wake::DiskHasRoom { shard });
                }
            }
            Action::SetClock { step_millis } => {
                self.note(format_args!("the wall clock is set by {step_millis} ms"));
                self.marks.reach(Mark::ClockSet);
                let now = self.world.now;
                self.world.clocks.set(now, step_millis);
            }
            Action::DiskFails { shard, micros } => {
                let may = self.plan.persistent && self.plan.sync == SyncPolicy::Always;
                if may && self.world.fail_disk(shard) {
                    self.note(format_args!("the disk of shard {shard} fails"));
                    self.marks.reach(Mark::DiskFailed);
                    self.model.disk_failed.begin(self.world.now);
                    let shards = self.plan.shards;
                    self.world.wake_after(micros, Wake::PowerOff { down: 1000, shards });
                }
            }
            Action::PowerCut { down, shards, when: PowerCut::Now } => self.power_cut(down, shards),
            Action::PowerCut { down, shards, when: PowerCut::Writing } => {
                self.world.cut_power_while_writing(down, shards);
            }
            Action::PowerCut { down, shards, when: PowerCut::Stopped } => {
                if self.world.is_serving() {
                    self.note(format_args!("-- the broker is told to stop"));
                    self.world.shut_down();
                    self.world.wake_after(300_000, Wake::PowerOff { down, shards });
                }
            }
        }
    }

    pub fn power_cut(&mut self, down: u64, shards: usize) {
        if !self.world.has_served() {
            return;
        }
        if self.plan.sync != SyncPolicy::Always && !self.world.has_stopped() {
            if self.world.is_stopping() {
                self.world.wake_after(50_000, Wake::PowerOff { down, shards });
            }
            return;
        }
        if self.plan.sync == SyncPolicy::Off {
            // The broker never asks for it: what it has written is safe after the machine has synced it by
            // itself.
            self.world.disk.sync_all();
        }
        if let Some(left) = self.world.must_wait() {
            return self.world.wake_after(left, Wake::PowerOff { down, shards });
        }
        self.note(format_args!("-- the power goes for {down} us; then {shards} shards"));
        let noted: Vec<_> = self.world.shards.iter().map(|shard| shard.noted_clock.get()).collect();
        if self.world.power_off() == Torn::Part {
            self.marks.reach(Mark::TornBatch);
        }
        self.marks.reach(Mark::PowerCut);
        let waits =
            |p: &Publication| p.qos == 2 && p.acked_at.is_none() && !p.processed.is_empty() && !p.is_will;
        if self.model.publications.iter().any(waits) {
            self.marks.reach(Mark::PowerCutBeforePubrec);
        }
        // A failed disk does not keep the clock either.
        let keeps_clock = !self.model.disk_failed.is_open() && !self.model.disk_full.is_open();
        self.model.power_cut(self.world.now);
        let now = self.world.now;
        self.world.clocks.stop(now, keeps_clock, &noted);
        self.world.wake_after(down, Wake::PowerOn { shards });
        for client in 0..self.clients.len() {
            let after = down + self.rng.below(300_000);
            self.world.wake_after(after, Wake::Return { client });
        }
    }

    pub fn power_on(&mut self, shards: usize) -> Result<(), String> {
        let mut parts = Vec::new();
        let now = self.world.now;
        let down = now - self.model.cuts.last().copied().unwrap_or(now);
        let clocks = self.world.clocks.start(now, down);
        // The zero of its clock is a little before now.
        let reading = self.world.clocks.reading(self.world.clocks.zero);
        let mut wall = Wall { zero_millis: reading.wall_millis };
        if self.plan.persistent {
            let recovered = self.world.recover(shards)?;
            wall = recovered.wall;
            self.note(format_args!(
                "-- recovered {} sessions, {} deliveries, {} intents{clocks}",
                recovered.sessions, recovered.deliveries, recovered.intents
            ));
            if recovered.intents > 0 {
                self.marks.reach(Mark::IntentRecovered);
            }
            if recovered.deliveries > 0 {
                self.marks.reach(Mark::DeliveryRecovered);
            }
            parts = recovered.parts;
        }
        self.model.started(now);
        self.model.clock_lost_at.clone_from(&self.world.clocks.lost_at);
        let config = config(&self.plan, self.world.tls.as_ref());
        self.world.power_on(shards, config, wall, parts);
        Ok(())
    }

    pub fn cut(&mut self, client: usize, how: Cut, back_after: u64) {
        let Some(link) = self.clients[client].link else { return };
        self.note(format_args!("network: #{link} of client-{client} is cut, {how:?}"));
        match how {
            Cut::Reset => self.world.sever(link, Some(300), Some(300), true),
            Cut::End => self.world.sever(link, Some(300), Some(300), false),
            Cut::AtByte(bytes) => {
                let cut_after = self.world.links[link].up_arrived + bytes;
                self.world.links[link].up_cut_after = Some(cut_after);
            }
            Cut::HalfOpen => self.world.sever(link, None, Some(500), false),
        }
        self.world.wake_after(back_after + 1000, Wake::Return { client });
    }

    /// The broker must have seen the previous CONNECT, or be unable to.
    pub fn may_connect(&self, client: usize) -> bool {
        let client = &self.clients[client];
        client.link.is_none_or(|link| self.world.connect_is_settled(link, client.connect_len))
    }

    pub fn connect(
        &mut self,
        client: usize,
        shard: usize,
        clean: bool,
        lasting: bool,
        will: Option<WillPlan>,
    ) {
        if !self.may_connect(client) {
            return;
        }
        let old = self.clients[client].link.filter(|&link| !self.world.links[link].ended);
        let five = self.clients[client].version() == Version::V5;
        let (clean, lasting) = if five { (clean, lasting) } else { (!lasting, lasting) };
        let link = self.world.open(shard % self.world.shard_count());
        let will = will.map(|will| self.make_will(client, link, five, &will));
        let bytes = self.clients[client].connect(clean, lasting, will);
        let now = self.world.now;
        let state = &mut self.clients[client];
        if std::mem::take(&mut state.is_brief) {
            // Whatever CONNACK will say, the broker's half of the session has ended too.
            state.forget();
        }
        (state.link, state.up, state.lasting) = (Some(link), false, lasting);
        state.connect_len = bytes.len() as u64;
        state.received.clear();
        state.aliases.clear();
        state.thinks_until = now;
        let mut audit = Audit::new(client, state.version(), clean, now);
        let expiry = state.expiry_seconds(lasting);
        audit.expiry = (expiry != u32::MAX).then(|| u64::from(expiry) * SECOND);
        audit.receive_maximum = state.plan.receive_maximum.map_or(1000, usize::from);
        audit.packet_max = state.plan.packet_max;
        audit.aliases_max = state.plan.aliases.min(self.plan.aliases_out);
        self.audits.insert(link, audit);
        let taken = old.map_or("", |_| ", taking over");
        self.note(format_args!(
            "client-{client} connects as #{link} to shard {shard}{taken}: clean {clean}, lasting {lasting}"
        ));
        if old.is_some() {
            self.marks.reach(Mark::Takeover);
            if self.model.latest.get(&client).is_some_and(|&at| self.model.sessions[at].has_unacknowledged())
            {
                self.marks.reach(Mark::TakeoverDuringInflight);
            }
        }
        self.world.send(link, &bytes);
    }

    pub fn make_will(&mut self, client: usize, link: usize, five: bool, will: &WillPlan) -> codec::Will {
        let topic = TOPICS[will.topic];
        let number = self.model.publish(Publication {
            topic: topic.into(),
            qos: will.qos,
            retain: will.retain,
            clears: false,
            len: 0,
            publisher: client,
            is_will: true,
            sent_at: self.world.now,
            processed: Vec::new(),
            routed: 0,
            session: None,
            acked_at: None,
            refused: false,
            dropped_at: None,
            doubtful: false,
            published_by: None,
            run: self.model.run,
        });
        let delay_seconds = if five { will.delay_seconds } else { 0 };
        self.model.wills.insert(
            link,
            Will {
                number,
                delay: u64::from(delay_seconds) * SECOND,
                due_at: None,
                due_at_start: false,
                by_clock: false,
                waits_for_start: false,
            },
        );
        let mut made = codec::will(topic, format!("m{number};")).qos(will.qos);
        made.retain = will.retain;
        if delay_seconds > 0 { made.delay(delay_seconds) } else { made }
    }

    pub fn say_farewell(&mut self, client: usize, keeps_will: bool) {
        let Some(link) = self.clients[client].link else { return };
        if !self.clients[client].up {
            return;
        }
        let code = if keeps_will && self.clients[client].version() == Version::V5 { 4 } else { 0 };
        self.note(format_args!("client-{client} says DISCONNECT {code:02X} on #{link}"));
        let end = self.world.send(link, &codec::disconnect(code));
        if code == 0 {
            self.sent.entry(link).or_default().push_back((end, Item::Farewell));
        }
        self.world.leave(link);
        self.clients[client].up = false;
    }

    /// Sends on an open connection.
    pub fn say(&mut self, client: usize, link: usize, bytes: &[u8]) -> u64 {
        let end = self.world.send(link, bytes);
        self.note(format_args!("client-{client} #{link} > {}", shown(bytes)));
        end
    }

    pub fn subscribe(&mut self, client: usize, filters: &[FilterPlan]) {
        let Some((link, session)) = self.session_of(client) else { return };
        let version = self.clients[client].version();
        let audit = &self.audits[&link];
        let id = self.clients[client]
            .free_id(|id| audit.subscribes.contains_key(&id) || audit.unsubscribes.contains_key(&id));
        let now = self.world.now;
        let mut packet = codec::subscribe(id);
        let mut grants = Vec::new();
        let identifier = filters.first().map_or(0, |filter| filter.identifier);
        for wanted in filters {
            let filter = FILTERS[wanted.filter];
            let five = version == Version::V5;
            let handling = if five { wanted.handling } else { 0 };
            let (no_local, as_published) = (five && wanted.no_local, five && wanted.as_published);
            let options = wanted.qos
                | if no_local { codec::NO_LOCAL } else { 0 }
                | if as_published { codec::AS_PUBLISHED } else { 0 }
                | handling << 4;
            packet = packet.filter(filter, options);
            let coverages = &mut self.model.sessions[session].coverages;
            let open = coverages.iter().rposition(|have| have.filter == filter && have.until_sure.is_none());
            // An UNSUBSCRIBE without its UNSUBACK may never have arrived. [MQTT5-3.3.1-10]
            let is_new = coverages.iter().all(|have| have.filter != filter || have.until_may.is_some());
            let at = open.unwrap_or_else(|| {
                coverages.push(Coverage {
                    filter: filter.into(),
                    from_may: now,
                    from_sure: None,
                    until_sure: None,
                    until_may: None,
                    grants: Vec::new(),
                });
                coverages.len() - 1
            });
            coverages[at].grants.push(Grant {
                qos: wanted.qos,
                no_local,
                as_published,
                handling,
                identifier: if five { identifier } else { 0 },
                sent_at: now,
                acked_at: None,
                link,
                is_new,
            });
            grants.push((at, coverages[at].grants.len() - 1));
        }
        if identifier != 0 && version == Version::V5 {
            packet = packet.identifier(identifier);
        }
        self.audits.get_mut(&link).expect("a connection that is up is audited").subscribes.insert(id, grants);
        self.say(client, link, &packet.encode(version));
    }

    pub fn unsubscribe(&mut self, client: usize, filter: &str) {
        let Some((link, session)) = self.session_of(client) else { return };
        let now = self.world.now;
        let coverages = &mut self.model.sessions[session].coverages;
        let open = coverages.iter().rposition(|have| have.filter == filter && have.until_sure.is_none());
        let Some(at) = open else { return };
        coverages[at].until_sure = Some(now);
        let audit = self.audits.get_mut(&link).expect("a connection that is up is audited");
        let id = self.clients[client]
            .free_id(|id| audit.subscribes.contains_key(&id) || audit.unsubscribes.contains_key(&id));
        audit.unsubscribes.insert(id, at);
        let packet = codec::unsubscribe(id).filter(filter).encode(self.clients[client].version());
        self.say(client, link, &packet);
    }

    /// The connection of a connected client, and its session in the model.
    pub fn session_of(&self, client: usize) -> Option<(usize, usize)> {
        let link = self.clients[client].link.filter(|_| self.clients[client].up)?;
        if self.world.links[link].ended {
            return None;
        }
        Some((link, self.audits.get(&link)?.session?))
    }

    pub fn publish(&mut self, client: usize, topic: &str, qos: u8, retain: bool, bytes: Option<usize>) {
        let Some((link, _)) = self.session_of(client) else { return };
        if self.clients[client].is_full() {
            return;
        }
        let number = self.model.publish(Publication {
            topic: topic.into(),
            qos,
            retain,
            clears: bytes.is_none(),
            len: bytes.unwrap_or(0),
            publisher: client,
            is_will: false,
            sent_at: self.world.now,
            processed: Vec::new(),
            routed: 0,
            session: None,
            acked_at: None,
            refused: false,
            dropped_at: None,
            doubtful: false,
            published_by: None,
            run: self.model.run,
        });
        let mut payload = Vec::new();
        if let Some(bytes) = bytes {
            payload = format!("m{number};").into_bytes();
            payload.resize(payload.len() + bytes, b'.');
        }
        let audit = &self.audits[&link];
        let id = if qos > 0 {
            self.clients[client]
                .free_id(|id| audit.subscribes.contains_key(&id) || audit.unsubscribes.contains_key(&id))
        } else {
            0
        };
        let out = Outgoing { id, number, qos, topic: topic.into(), payload, retain, released: false };
        self.send_publish(client, link, &out, false);
        if qos > 0 {
            self.clients[client].outgoing.push_back(out);
        }
    }

    pub fn send_publish(&mut self, client: usize, link: usize, out: &Outgoing, duplicate: bool) {
        let expiry = clocks::expiry_of(self.plan.seed, out.number, &out.topic, out.retain);
        let bytes = self.clients[client].publish(out, duplicate, expiry);
        let end = self.world.send(link, &bytes);
        self.note(format_args!(
            "client-{client} #{link} > PUBLISH m{} {} QoS {}{}{} id {} ({} bytes)",
            out.number,
            out.topic,
            out.qos,
            if out.retain { " retain" } else { "" },
            if duplicate { " DUP" } else { "" },
            out.id,
            bytes.len()
        ));
        self.sent.entry(link).or_default().push_back((end, Item::Publish(out.number)));
        let audit = self.audits.get_mut(&link).expect("a connection that is up is audited");
        if out.qos > 0 {
            audit.publishes.insert(out.id, out.number);
        }
    }
}
