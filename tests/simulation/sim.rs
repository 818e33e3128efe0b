//! A run: the plan's actions, what the clients make of the broker's answers, and the books kept of it all.

use crate::audit::{Audit, number_of};
use crate::books::{Books, Coverage, Grant, Publication, Will};
use crate::client::{Client, Outgoing};
use crate::disk::Torn;
use crate::marks::{Mark, Marks};
use crate::plan::{Action, Cut, FILTERS, FilterPlan, Plan, PowerCut, TOPICS, WillPlan};
use crate::read::{self, Kind, Packet};
use crate::recovery::Store;
use crate::rng::Rng;
use crate::story::Story;
use crate::verdict;
use crate::world::{self, Acked, Happening, Wake, World};
use crate::write::{self, Encode, Version};
use midge::config::Config;
use midge::shard::{EndCause, Event, Limit};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;

/// How a run ended.
pub struct Outcome {
    #[allow(dead_code, reason = "the tests compare it")]
    pub fingerprint: u64,
    pub failure: Option<String>,
    pub lines: Vec<String>,
    pub marks: Marks,
    /// Packets that the broker sent.
    pub packets: u64,
    pub publications: usize,
}

pub struct Sim {
    pub world: World,
    pub books: Books,
    pub clients: Vec<Client>,
    pub marks: Marks,
    audits: BTreeMap<usize, Audit>,
    /// What each connection's client has sent, with where in its bytes it ends.
    sent: BTreeMap<usize, VecDeque<(u64, Item)>>,
    plan: Plan,
    story: Story,
    packets: u64,
    /// No more faults.
    healed: bool,
    store: Store,
    rng: Rng,
    /// Sockets whose clients had gone when they were to be handed over, in this run of the broker.
    pub hand_overs_cut: u64,
}

/// Something that means something to the books once the broker has read it.
enum Item {
    Publish(u64),
    Farewell,
}

const SECOND: u64 = 1_000_000;
/// After the faults: by then all that is due must have arrived.
const DRAIN: u64 = 40 * SECOND;

impl Sim {
    /// Runs a plan.
    pub fn run(plan: &Plan, told: bool) -> Outcome {
        let world = World::new(plan.shards, config(plan), plan.weather, plan.seed);
        let clients = plan.clients.iter().enumerate().map(|(at, plan)| Client::new(at, plan.clone()));
        let mut sim = Sim {
            world,
            books: Books { persistent: plan.persistent, ..Books::default() },
            clients: clients.collect(),
            marks: Marks::default(),
            audits: BTreeMap::new(),
            sent: BTreeMap::new(),
            plan: plan.clone(),
            story: Story::new(told),
            packets: 0,
            healed: false,
            hand_overs_cut: 0,
            store: Store::default(),
            rng: Rng::new(plan.seed ^ 0x73_746f_7265),
        };
        // (With `panic = "abort"`, as in a release, a panic ends everything.)
        let played = std::panic::catch_unwind(AssertUnwindSafe(|| sim.play()));
        let failure = played.unwrap_or_else(|panic| Err(format!("panic: {}", words_of(&*panic)))).err();
        if let Some(failure) = &failure {
            sim.note(format_args!("FAILURE: {failure}"));
        }
        Outcome {
            fingerprint: sim.story.fingerprint(),
            failure,
            marks: sim.marks,
            packets: sim.packets,
            publications: sim.books.publications.len(),
            lines: sim.story.into_lines(),
        }
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.story.note(self.world.now, what);
    }

    fn play(&mut self) -> Result<(), String> {
        for at in 0..self.plan.actions.len() {
            let after = self.plan.actions[at].at;
            self.world.wake_after(after, Wake::Action(at));
        }
        let last = self.plan.actions.last().map_or(0, |planned| planned.at);
        self.until(self.world.now + last + SECOND)?;
        self.heal();
        self.until(self.world.now + DRAIN)?;
        self.books.pass(self.world.now);
        verdict::check(self)?;
        for mark in verdict::marks(self) {
            self.marks.reach(mark);
        }
        self.end()?;
        verdict::check_leaks(self)
    }

    /// Everybody gets through again, and comes back to the session that it has.
    fn heal(&mut self) {
        self.note(format_args!("-- no more faults"));
        self.healed = true;
        for client in 0..self.clients.len() {
            self.clients[client].holds_until = 0;
            self.clients[client].away = false;
            let up = self.clients[client].link.is_some_and(|link| !self.world.links[link].severed);
            if !(up && self.clients[client].up) {
                self.world.wake_after(client as u64 * 1000 + 1, Wake::Return { client });
            }
        }
    }

    /// Every session is ended.
    fn end(&mut self) -> Result<(), String> {
        self.note(format_args!("-- the end of all sessions"));
        for client in 0..self.clients.len() {
            if self.clients[client].up {
                self.say_farewell(client, false);
            }
        }
        self.until(self.world.now + 10 * SECOND)?;
        for client in 0..self.clients.len() {
            self.connect(client, 0, true, false, None);
        }
        self.until(self.world.now + 5 * SECOND)?;
        for client in 0..self.clients.len() {
            self.say_farewell(client, false);
        }
        self.until(self.world.now + 200 * SECOND)
    }

    fn until(&mut self, end: u64) -> Result<(), String> {
        loop {
            let more = self.world.step(end);
            while let Some(happening) = self.world.happenings.pop_front() {
                self.handle(happening)?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Received { link, bytes } => self.received(link, &bytes),
            Happening::Ended { link } => {
                self.ended(link);
                Ok(())
            }
            Happening::Sent { link, bytes } => self.audit(link, &bytes),
            Happening::Consumed { link, upto, whole } => {
                self.consumed(link, upto, whole);
                Ok(())
            }
            Happening::Closed { link } => {
                self.note(format_args!("broker closes #{link}"));
                self.books.closed(link, self.world.now);
                Ok(())
            }
            Happening::Told(event) => self.told(&event),
            Happening::BoxFull => {
                self.marks.reach(Mark::MeshBoxFull);
                self.books.box_was_full = true;
                Ok(())
            }
            Happening::HandOver { cut } => {
                self.marks.reach(if cut { Mark::HandOverCut } else { Mark::HandOver });
                self.hand_overs_cut += u64::from(cut);
                Ok(())
            }
            Happening::Woken(Wake::PowerOn { shards }) => self.power_on(shards),
            Happening::Woken(wake) => {
                self.woken(wake);
                Ok(())
            }
        }
    }

    fn told(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::LimitReached { limit: Limit::SessionQueue, client } => {
                self.marks.reach(Mark::QueueFull);
                self.books.queue_was_full = true;
                let at = self.clients.iter().position(|known| *known.name == **client);
                if let Some(&session) = at.and_then(|at| self.books.latest.get(&at)) {
                    self.books.sessions[session].lossy = true;
                }
                self.note(format_args!("broker: the queue of {client} is full"));
            }
            Event::LimitReached { limit, client } => self.note(format_args!("broker: {limit:?} of {client}")),
            Event::Disconnected { client, cause, .. } => {
                if *cause == EndCause::KeepAlive {
                    self.marks.reach(Mark::KeepAliveLapsed);
                }
                self.note(format_args!("broker: {client} {cause}"));
            }
            Event::Connected { peer, session_present, .. } => {
                return self.accepted(world::link_of(*peer), *session_present);
            }
            _ => {}
        }
        Ok(())
    }

    /// The broker has taken a CONNECT in; its CONNACK may have to wait.
    fn accepted(&mut self, link: usize, present: bool) -> Result<(), String> {
        let now = self.world.now;
        let Some(audit) = self.audits.get_mut(&link) else { return Err("nobody's CONNECT".into()) };
        let client = audit.client;
        self.books.pass(now);
        self.books
            .check_present(client, audit.clean, present, now, audit.connect_sent_at)
            .map_err(|why| format!("to client-{client} on #{link}: {why}"))?;
        audit.present = Some(present);
        audit.session = Some(self.books.accepted(client, link, present, audit.expiry, now));
        self.note(format_args!("broker: client-{client} on #{link} is in, session present {present}"));
        Ok(())
    }

    fn woken(&mut self, wake: Wake) {
        match wake {
            Wake::Action(at) => {
                let planned = self.plan.actions[at].clone();
                self.act(planned.client, planned.action);
            }
            Wake::Send { client, link, bytes, ack } => {
                if self.clients[client].link == Some(link) && self.clients[client].up {
                    self.say(client, link, &bytes);
                    if let Some(ack) = ack {
                        self.acknowledged(link, ack);
                    }
                }
            }
            Wake::PowerOff { down, shards } => self.power_cut(down, shards),
            Wake::PowerOn { .. } => {}
            Wake::DiskHasRoom { shard } => {
                self.world.set_disk_full(shard, false);
            }
            Wake::Ping { client, link } => {
                if self.clients[client].link == Some(link) && self.clients[client].up {
                    self.world.send(link, &write::pingreq());
                    self.keep_alive(client, link);
                }
            }
            Wake::Return { client } => {
                if !self.world.is_serving() {
                    return self.world.wake_after(100_000, Wake::Return { client });
                }
                let up = self.clients[client].link.is_some_and(|link| {
                    let link = &self.world.links[link];
                    !link.severed && !link.ended
                });
                if up || self.clients[client].away {
                    return;
                }
                if !self.may_connect(client) {
                    return self.world.wake_after(50_000, Wake::Return { client });
                }
                let lasting = self.clients[client].lasting;
                let clean = !lasting && self.clients[client].version() == Version::V311;
                let shard = client % self.world.shards();
                self.connect(client, shard, clean, lasting, None);
            }
        }
    }

    fn act(&mut self, client: usize, action: Action) {
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
                if self.plan.persistent && self.world.set_disk_full(shard, true) {
                    self.note(format_args!("the disk of shard {shard} is full"));
                    self.marks.reach(Mark::DiskFull);
                    self.books.store_was_full();
                    self.world.wake_after(micros, Wake::DiskHasRoom { shard });
                }
            }
            Action::DiskFails { shard, micros } => {
                if self.plan.persistent && self.world.fail_disk(shard) {
                    self.note(format_args!("the disk of shard {shard} fails"));
                    self.marks.reach(Mark::DiskFailed);
                    self.books.store_was_full();
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

    fn power_cut(&mut self, down: u64, shards: usize) {
        if !self.world.is_serving() {
            return;
        }
        self.note(format_args!("-- the power goes for {down} us; then {shards} shards"));
        let disks = self.world.power_off();
        for (_, torn) in &disks {
            if *torn == Torn::Part {
                self.marks.reach(Mark::TornBatch);
            }
        }
        self.store.add(disks.into_iter().map(|(segment, _)| segment));
        self.marks.reach(Mark::PowerCut);
        let waits = |p: &Publication| p.qos == 2 && !p.acked && !p.processed.is_empty() && !p.is_will;
        if self.books.publications.iter().any(waits) {
            self.marks.reach(Mark::PowerCutBeforePubrec);
        }
        self.books.power_cut(self.world.now);
        self.world.wake_after(down, Wake::PowerOn { shards });
        for client in 0..self.clients.len() {
            let after = down + self.rng.below(300_000);
            self.world.wake_after(after, Wake::Return { client });
        }
    }

    fn power_on(&mut self, shards: usize) -> Result<(), String> {
        self.hand_overs_cut = 0;
        let mut parts = Vec::new();
        if self.plan.persistent {
            let recovered = self.store.recover(shards, self.plan.seed, &mut self.rng)?;
            self.note(format_args!(
                "-- recovered {} sessions, {} deliveries, {} intents",
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
        self.books.started_at = self.world.now;
        self.world.power_on(shards, config(&self.plan), parts);
        Ok(())
    }

    fn cut(&mut self, client: usize, how: Cut, back_after: u64) {
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

    /// The broker must have seen the CONNECT before, or be unable to.
    fn may_connect(&self, client: usize) -> bool {
        let client = &self.clients[client];
        client.link.is_none_or(|link| self.world.connect_is_settled(link, client.connect_len))
    }

    fn connect(&mut self, client: usize, shard: usize, clean: bool, lasting: bool, will: Option<WillPlan>) {
        if !self.may_connect(client) {
            return;
        }
        let old = self.clients[client].link.filter(|&link| !self.world.links[link].ended);
        let five = self.clients[client].version() == Version::V5;
        let (clean, lasting) = if five { (clean, lasting) } else { (!lasting, lasting) };
        let link = self.world.open(shard % self.world.shards());
        let will = will.map(|will| self.make_will(client, link, five, &will));
        let bytes = self.clients[client].connect(clean, lasting, will);
        let now = self.world.now;
        let state = &mut self.clients[client];
        (state.link, state.up, state.lasting) = (Some(link), false, lasting);
        state.connect_len = bytes.len() as u64;
        state.received.clear();
        state.aliases.clear();
        state.thinks_until = now;
        let mut audit = Audit::new(client, state.version(), clean, now);
        let expiry = state.expiry_seconds(lasting);
        audit.expiry = (expiry != u32::MAX).then(|| u64::from(expiry) * SECOND);
        audit.receive_maximum = state.plan.receive_maximum.map_or(1000, usize::from);
        audit.aliases_max = state.plan.aliases.min(self.plan.aliases_out);
        self.audits.insert(link, audit);
        let taken = old.map_or("", |_| ", taking over");
        self.note(format_args!(
            "client-{client} connects as #{link} to shard {shard}{taken}: clean {clean}, lasting {lasting}"
        ));
        if old.is_some() {
            self.marks.reach(Mark::Takeover);
            if self.books.latest.get(&client).is_some_and(|&at| self.books.sessions[at].has_unacknowledged())
            {
                self.marks.reach(Mark::TakeoverDuringInflight);
            }
        }
        self.world.send(link, &bytes);
    }

    fn make_will(&mut self, client: usize, link: usize, five: bool, will: &WillPlan) -> write::Will {
        let topic = TOPICS[will.topic];
        let number = self.books.publish(Publication {
            topic: topic.into(),
            qos: will.qos,
            retain: will.retain,
            clears: false,
            publisher: client,
            is_will: true,
            sent_at: self.world.now,
            processed: Vec::new(),
            routed: 0,
            session: None,
            acked: false,
            refused: false,
            dropped_at: None,
            doubtful: false,
            run: self.books.run,
        });
        let delay_seconds = if five { will.delay_seconds } else { 0 };
        self.books
            .wills
            .insert(link, Will { number, delay: u64::from(delay_seconds) * SECOND, due_at: None });
        let mut made = write::will(topic, format!("m{number};")).qos(will.qos);
        made.retain = will.retain;
        if delay_seconds > 0 { made.delay(delay_seconds) } else { made }
    }

    fn say_farewell(&mut self, client: usize, keeps_will: bool) {
        let Some(link) = self.clients[client].link else { return };
        if !self.clients[client].up {
            return;
        }
        let code = if keeps_will && self.clients[client].version() == Version::V5 { 4 } else { 0 };
        self.note(format_args!("client-{client} says DISCONNECT {code:02X} on #{link}"));
        let end = self.world.send(link, &write::disconnect(code));
        if code == 0 {
            self.sent.entry(link).or_default().push_back((end, Item::Farewell));
        }
        self.world.leave(link);
        self.clients[client].up = false;
    }

    /// Sends on a connection that is up.
    fn say(&mut self, client: usize, link: usize, bytes: &[u8]) -> u64 {
        let end = self.world.send(link, bytes);
        self.note(format_args!("client-{client} #{link} > {}", shown(bytes)));
        end
    }

    fn subscribe(&mut self, client: usize, filters: &[FilterPlan]) {
        let Some((link, session)) = self.session_of(client) else { return };
        let version = self.clients[client].version();
        let audit = &self.audits[&link];
        let id = self.clients[client]
            .free_id(|id| audit.subscribes.contains_key(&id) || audit.unsubscribes.contains_key(&id));
        let now = self.world.now;
        let mut packet = write::subscribe(id);
        let mut grants = Vec::new();
        let identifier = filters.first().map_or(0, |filter| filter.identifier);
        for wanted in filters {
            let filter = FILTERS[wanted.filter];
            let five = version == Version::V5;
            let handling = if five { wanted.handling } else { 0 };
            let (no_local, as_published) = (five && wanted.no_local, five && wanted.as_published);
            let options = wanted.qos
                | if no_local { write::NO_LOCAL } else { 0 }
                | if as_published { write::AS_PUBLISHED } else { 0 }
                | handling << 4;
            packet = packet.filter(filter, options);
            let coverages = &mut self.books.sessions[session].coverages;
            let open = coverages.iter().rposition(|have| have.filter == filter && have.until_sure.is_none());
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
                is_new: open.is_none(),
            });
            grants.push((at, coverages[at].grants.len() - 1));
        }
        if identifier != 0 && version == Version::V5 {
            packet = packet.identifier(identifier);
        }
        self.audits.get_mut(&link).expect("a connection that is up is audited").subscribes.insert(id, grants);
        self.say(client, link, &packet.encode(version));
    }

    fn unsubscribe(&mut self, client: usize, filter: &str) {
        let Some((link, session)) = self.session_of(client) else { return };
        let now = self.world.now;
        let coverages = &mut self.books.sessions[session].coverages;
        let open = coverages.iter().rposition(|have| have.filter == filter && have.until_sure.is_none());
        let Some(at) = open else { return };
        coverages[at].until_sure = Some(now);
        let audit = self.audits.get_mut(&link).expect("a connection that is up is audited");
        let id = self.clients[client]
            .free_id(|id| audit.subscribes.contains_key(&id) || audit.unsubscribes.contains_key(&id));
        audit.unsubscribes.insert(id, at);
        let packet = write::unsubscribe(id).filter(filter).encode(self.clients[client].version());
        self.say(client, link, &packet);
    }

    /// The connection of a client that is up, and its session in the books.
    fn session_of(&self, client: usize) -> Option<(usize, usize)> {
        let link = self.clients[client].link.filter(|_| self.clients[client].up)?;
        if self.world.links[link].ended {
            return None;
        }
        Some((link, self.audits.get(&link)?.session?))
    }

    fn publish(&mut self, client: usize, topic: &str, qos: u8, retain: bool, bytes: Option<usize>) {
        let Some((link, _)) = self.session_of(client) else { return };
        if self.clients[client].is_full() {
            return;
        }
        let number = self.books.publish(Publication {
            topic: topic.into(),
            qos,
            retain,
            clears: bytes.is_none(),
            publisher: client,
            is_will: false,
            sent_at: self.world.now,
            processed: Vec::new(),
            routed: 0,
            session: None,
            acked: false,
            refused: false,
            dropped_at: None,
            doubtful: false,
            run: self.books.run,
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

    fn send_publish(&mut self, client: usize, link: usize, out: &Outgoing, duplicate: bool) {
        let bytes = self.clients[client].publish(out, duplicate);
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

    fn consumed(&mut self, link: usize, upto: u64, whole: bool) {
        let (now, run) = (self.world.now, self.books.run);
        let forgets = self.books.queue_was_full;
        let session = self.audits.get(&link).and_then(|audit| audit.session);
        let Some(items) = self.sent.get_mut(&link) else { return };
        while items.front().is_some_and(|(end, _)| *end <= upto) {
            match items.pop_front() {
                Some((_, Item::Publish(number))) => {
                    let publication = self.books.publication_mut(number);
                    // A repeat of a QoS 2 message is none, unless it was refused (which may not have
                    // been said), or the session is another.
                    if publication.qos < 2 || publication.session != session || publication.refused || forgets
                    {
                        publication.session = session;
                        publication.routed += 1;
                    }
                    publication.processed.push(now);
                    publication.run = run;
                    // The rest of what it read when the connection ended it may have left.
                    publication.doubtful = !whole && !publication.acked;
                }
                Some((_, Item::Farewell)) => {
                    self.books.farewells.insert(link);
                }
                None => {}
            }
        }
    }

    fn audit(&mut self, link: usize, bytes: &[u8]) -> Result<(), String> {
        let now = self.world.now;
        let Some(audit) = self.audits.get_mut(&link) else { return Err("bytes to nobody".into()) };
        let client = audit.client;
        let packets = audit.sent(bytes).map_err(|why| format!("to client-{client} on #{link}: {why}"))?;
        for packet in packets {
            self.packets += 1;
            self.story.note(now, format_args!("  broker > #{link} client-{client}: {}", described(&packet)));
            self.expect_will(&packet);
            let audit = self.audits.get_mut(&link).expect("it is audited");
            let links = &self.world.links;
            let consumed = |link: usize| links[link].up_sure;
            let remarks = audit
                .judge(&mut self.books, link, &packet, now, consumed)
                .map_err(|why| format!("to client-{client} on #{link}: {why}"))?;
            for remark in remarks.0 {
                self.marks.remark(remark);
            }
        }
        Ok(())
    }

    /// A clean start may have ended the session of a will, before CONNACK says so.
    fn expect_will(&mut self, packet: &Packet) {
        let Some(number) = number_of(&packet.payload).filter(|_| packet.kind == Kind::Publish) else {
            return;
        };
        let Some(publication) = self.books.publication(number) else { return };
        let starts_clean =
            |audit: &Audit| audit.client == publication.publisher && audit.clean && audit.session.is_none();
        if publication.is_will
            && publication.processed.is_empty()
            && self.audits.values().rev().any(starts_clean)
        {
            self.books.will_may_be_due(number, self.world.now);
        }
    }

    fn received(&mut self, link: usize, bytes: &[u8]) -> Result<(), String> {
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
            let Some(len) = read::packet_length(&state.received)?.filter(|&len| len <= state.received.len())
            else {
                return Ok(());
            };
            let bytes: Vec<u8> = state.received.drain(..len).collect();
            let packet = read::packet(&bytes, state.version())?;
            self.answer(client, link, &packet)?;
        }
    }

    fn answer(&mut self, client: usize, link: usize, packet: &Packet) -> Result<(), String> {
        match packet.kind {
            Kind::Connack => self.resume(client, link, packet.session_present),
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
                self.think(client, link, &write::pubcomp(packet.id), 7, packet.id);
            }
            Kind::Disconnect => self.note(format_args!("client-{client} is told {:02X}", packet.code)),
            Kind::Suback | Kind::Unsuback | Kind::Pingresp | Kind::Auth => {}
        }
        Ok(())
    }

    fn release(&mut self, client: usize, link: usize, id: u16) {
        let bytes = write::pubrel(id).encode(self.clients[client].version());
        self.audits.get_mut(&link).expect("it is audited").releases.insert(id);
        self.say(client, link, &bytes);
    }

    /// CONNACK has come.
    fn resume(&mut self, client: usize, link: usize, present: bool) {
        self.clients[client].up = true;
        if !present {
            self.clients[client].forget();
        }
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

    fn keep_alive(&mut self, client: usize, link: usize) {
        let micros = u64::from(self.clients[client].plan.keep_alive) * 800_000;
        self.world.wake_after(micros, Wake::Ping { client, link });
    }

    fn take_message(&mut self, client: usize, link: usize, packet: &Packet) -> Result<(), String> {
        let number = number_of(&packet.payload);
        if packet.qos < 2 || !self.clients[client].held.contains_key(&packet.id) {
            self.deliver(client, link, number, packet)?;
        }
        match packet.qos {
            1 => self.think(client, link, &write::puback(packet.id), 4, packet.id),
            2 => {
                self.clients[client].held.insert(packet.id, number);
                self.think(client, link, &write::pubrec(packet.id), 5, packet.id);
            }
            _ => {}
        }
        Ok(())
    }

    /// The application of the client has a message.
    fn deliver(
        &mut self,
        client: usize,
        link: usize,
        number: Option<u64>,
        packet: &Packet,
    ) -> Result<(), String> {
        let Some(number) = number else { return Ok(()) };
        let Some(at) = self.audits[&link].session else { return Ok(()) };
        let now = self.world.now;
        let publication = &self.books.publications[number as usize];
        let session = &mut self.books.sessions[at];
        if packet.retain {
            session.got_retained.insert(number, now);
            if publication.retain {
                return Ok(());
            }
        }
        let count = session.got.entry(number).or_default();
        *count += 1;
        if *count > 1 {
            // Known: to a group's member on another shard it may get before the publisher's identifier is
            // durable.
            // And when the disk has failed, it sends on what it can't remember.
            let known = (publication.topic.starts_with("s/") || self.books.store_was_full)
                && !self.books.cuts.is_empty();
            if known && publication.qos == 2 && packet.qos == 2 {
                self.marks.reach(Mark::KnownGroupTwice);
            } else if publication.qos == 2 && packet.qos == 2 && publication.routed == 1 {
                return Err(format!("client-{client} has QoS 2 message m{number} twice"));
            }
            return Ok(());
        }
        // Order among first copies. A message that its publisher repeated may come late.
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

    /// Acknowledgements leave in their order, after some thought.
    fn think(&mut self, client: usize, link: usize, ack: &write::Ack, kind: u8, id: u16) {
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

    fn acknowledged(&mut self, link: usize, ack: Acked) {
        let upto = self.world.links[link].up_sent;
        let Some(audit) = self.audits.get_mut(&link) else { return };
        let Some(at) = audit.session else { return };
        if let Some(unsettled) = self.books.sessions[at].unsettled.get_mut(&ack.id) {
            if ack.kind == 5 {
                unsettled.recorded = true;
                return;
            }
            unsettled.acked = Some((link, upto));
        }
        audit.client_settled(ack.id);
    }

    fn ended(&mut self, link: usize) {
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

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without words")
}

fn config(plan: &Plan) -> Config {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    let directory = if plan.persistent { "kept" } else { "" };
    config.persistence.directory = directory.to_string();
    config.limits.session_queue_messages = plan.queue_messages;
    config.protocol.topic_alias_maximum_out = plan.aliases_out;
    config
}

fn shown(bytes: &[u8]) -> String {
    let names = [
        "?",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
    let body = bytes.get(2..).unwrap_or_default();
    let id = body.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
    let name = names[usize::from(bytes[0] >> 4)];
    if matches!(bytes[0] >> 4, 8 | 10) {
        let text: String = body[2..]
            .iter()
            .map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { ' ' })
            .collect();
        return format!("{name} {id} {text}");
    }
    format!("{name} {id}")
}

fn described(packet: &Packet) -> String {
    match packet.kind {
        Kind::Publish => {
            let number = number_of(&packet.payload).map_or("empty".into(), |number| format!("m{number}"));
            let retain = if packet.retain { " retain" } else { "" };
            let duplicate = if packet.duplicate { " DUP" } else { "" };
            format!(
                "PUBLISH {number} {} QoS {}{retain}{duplicate} id {}",
                packet.topic_text(),
                packet.qos,
                packet.id
            )
        }
        Kind::Connack => format!("CONNACK {:02X}, session present {}", packet.code, packet.session_present),
        kind => format!("{kind:?} {} {:02X} {:02X?}", packet.id, packet.code, packet.codes),
    }
}
