//! A run: the plan's actions, the clients' reactions to the broker's answers, and the model of all of it.

use crate::audit::{Audit, number_of};
use crate::client::Client;
use crate::clocks;
use crate::coverage::{Mark, Marks};
use crate::kernel::{Happening, Wake};
use crate::model::Model;
use crate::packet_text::described;
use crate::plan::Plan;
use crate::random::{self, Random};
use crate::tls::RunTls;
use crate::trace::Trace;
use crate::verdict;
use crate::wire::BALANCER;
use crate::world::{self, World};
use midge::broker::{EndCause, Event, Limit};
use midge::mqtt::Reason;
use midge::session::LossCause;
use midge::settings::{Config, ListenerProtocol, QueuePolicy};
use midge::store::segment::BLOCK;
use midge_kit::codec::{self, Version};
use midge_kit::codec::{Kind, Packet};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::panic::AssertUnwindSafe;

/// The result of a run.
pub struct Outcome {
    #[allow(dead_code, reason = "the tests compare it")]
    pub fingerprint: u64,
    pub failure: Option<String>,
    pub lines: Vec<String>,
    pub marks: Marks,
    /// The number of packets that the broker has sent.
    pub packets: u64,
    pub publications: usize,
}

pub struct Sim {
    pub world: World,
    pub model: Model,
    pub clients: Vec<Client>,
    pub marks: Marks,
    pub audits: BTreeMap<usize, Audit>,
    /// The items that each connection's client has sent, with the positions of their ends in its bytes.
    pub sent: BTreeMap<usize, VecDeque<(u64, Item)>>,
    pub plan: Plan,
    pub trace: Trace,
    pub packets: u64,
    /// Whether faults have ended.
    pub healed: bool,
    pub rng: Random,
}

/// Something that affects the model when the broker has read it.
pub enum Item {
    Publish(u64),
    /// DISCONNECT with 0x00.
    Farewell,
}

pub const SECOND: u64 = 1_000_000;
/// The time after the faults by which everything that is due must have arrived.
const DRAIN: u64 = 40 * SECOND;

impl Sim {
    /// Runs a plan.
    pub fn run(plan: &Plan, told: bool) -> Outcome {
        let tls = plan.layers.tls.then(|| RunTls::new(plan.seed));
        let world = World::new(plan, config(plan, tls.as_ref()), tls);
        let clients = plan.clients.iter().enumerate().map(|(at, plan)| Client::new(at, plan.clone()));
        let mut sim = Sim {
            world,
            model: Model { persistent: plan.persistent, ..Model::default() },
            clients: clients.collect(),
            marks: Marks::default(),
            audits: BTreeMap::new(),
            sent: BTreeMap::new(),
            plan: plan.clone(),
            trace: Trace::new(told),
            packets: 0,
            healed: false,
            rng: random::of_seed(plan.seed ^ 0x73_746f_7265),
        };
        // (With `panic = "abort"`, as in a release, a panic ends everything.)
        let played = std::panic::catch_unwind(AssertUnwindSafe(|| sim.play()));
        let failure = played.unwrap_or_else(|panic| Err(format!("panic: {}", words_of(&*panic)))).err();
        if let Some(failure) = &failure {
            sim.note(format_args!("FAILURE: {failure}"));
        }
        Outcome {
            fingerprint: sim.trace.fingerprint(),
            failure,
            marks: sim.marks,
            packets: sim.packets,
            publications: sim.model.publications.len(),
            lines: sim.trace.into_lines(),
        }
    }

    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.world.now, what);
    }

    pub fn play(&mut self) -> Result<(), String> {
        for at in 0..self.plan.actions.len() {
            let after = self.plan.actions[at].at;
            self.world.wake_after(after, Wake::Action(at));
        }
        let last = self.plan.actions.last().map_or(0, |planned| planned.at);
        self.until(self.world.now + last + SECOND)?;
        self.heal();
        self.until(self.world.now + DRAIN)?;
        self.model.pass(self.world.now);
        verdict::check(self)?;
        self.ask_for_losses()?;
        for mark in verdict::marks(self) {
            self.marks.reach(mark);
        }
        self.end()?;
        verdict::check_leaks(self)
    }

    /// Ends the faults: all clients can connect again, and return to the sessions that they have.
    pub fn heal(&mut self) {
        self.note(format_args!("-- no more faults"));
        self.healed = true;
        // A cut that waits for bytes could come at any later time, because pings are bytes too.
        self.world.links.iter_mut().for_each(|link| link.up_cut_after = None);
        for client in 0..self.clients.len() {
            self.clients[client].holds_until = 0;
            self.clients[client].away = false;
            let up = self.clients[client].link.is_some_and(|link| !self.world.links[link].severed);
            if !(up && self.clients[client].up) {
                self.world.wake_after(client as u64 * 1000 + 1, Wake::Return { client });
            }
        }
    }

    /// Resumes every session once more, so that all losses are reported.
    pub fn ask_for_losses(&mut self) -> Result<(), String> {
        for client in 0..self.clients.len() {
            if self.clients[client].lasting {
                self.connect(client, 0, false, true, None);
            }
        }
        self.until(self.world.now + 5 * SECOND)?;
        verdict::check_losses(self)
    }

    /// Ends every session.
    pub fn end(&mut self) -> Result<(), String> {
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
        // This lasts until the retained messages that can expire have expired, because their timer is not a
        // leak.
        self.until(self.world.now + 4000 * SECOND)
    }

    pub fn until(&mut self, end: u64) -> Result<(), String> {
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

    pub fn handle(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Received { link, bytes } => self.received(link, &bytes),
            Happening::Secured { link, resumed } => {
                self.note(format_args!("#{link} is secured{}", if resumed { " again" } else { "" }));
                self.marks.reach(if resumed { Mark::TlsResumed } else { Mark::TlsHandshake });
                Ok(())
            }
            Happening::HandshakeWaits => {
                self.marks.reach(Mark::TlsHandshakeWaits);
                Ok(())
            }
            Happening::Ended { link } => {
                self.ended(link);
                Ok(())
            }
            Happening::Sent { link, bytes } => self.audit(link, &bytes),
            Happening::Consumed { link, upto, whole } => {
                if whole {
                    self.world.links[link].up_sure = upto;
                }
                self.consumed(link, upto, whole);
                Ok(())
            }
            Happening::Closed { link } => {
                self.note(format_args!("broker closes #{link}"));
                self.model.closed(link, self.world.now);
                Ok(())
            }
            Happening::Left { link, cause } => self.left(link, &cause),
            Happening::Told(event) => self.told(&event),
            Happening::BoxFull => {
                self.marks.reach(Mark::MeshBoxFull);
                self.model.box_full.begin(self.world.now);
                Ok(())
            }
            Happening::BoxesHaveRoom => {
                self.model.box_full.end(self.world.now);
                Ok(())
            }
            Happening::HandOver { cut } => {
                self.marks.reach(if cut { Mark::HandOverCut } else { Mark::HandOver });
                if self.plan.layers.tls && !cut {
                    self.marks.reach(Mark::TlsHandOver);
                }
                Ok(())
            }
            Happening::DiskHasRoom { shard } => {
                self.model.disk_has_room(shard, self.world.now);
                Ok(())
            }
            Happening::Broken(why) => Err(why),
            Happening::Woken(Wake::PowerOn { shards }) => self.power_on(shards),
            Happening::Woken(wake) => {
                self.woken(wake);
                Ok(())
            }
        }
    }

    pub fn told(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::LimitReached {
                limit: Limit::SessionQueue(_) | Limit::SessionQueueOldest(_) | Limit::SessionQueueNewest(_),
                client,
            } => {
                self.marks.reach(Mark::QueueFull);
                let at = self.clients.iter().position(|known| *known.name == **client);
                if let Some(&session) = at.and_then(|at| self.model.latest.get(&at)) {
                    self.model.sessions[session].lossy = true;
                }
                self.note(format_args!("broker: the queue of {client} is full"));
            }
            Event::LimitReached { limit, client } => self.note(format_args!("broker: {limit:?} of {client}")),
            Event::Losses { client, is_back: true, losses, .. } => {
                let at = self.clients.iter().position(|known| *known.name == **client);
                if let Some(&session) = at.and_then(|at| self.model.latest.get(&at)) {
                    self.model.sessions[session].told_losses += u64::from(losses.of(LossCause::QueueFull));
                }
                self.note(format_args!("broker: {client} has lost {:?}", losses.counts()));
            }
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

    /// Records that the broker has ended the connection of an accepted client. Only a DISCONNECT that was
    /// read removes a will. [MQTT5-3.1.2-8] [MQTT5-3.14.4-3]
    pub fn left(&mut self, link: usize, cause: &EndCause) -> Result<(), String> {
        let has_arrived = self.model.farewells_read.contains(&link);
        let says_so = matches!(cause, EndCause::Disconnect(Reason::Success));
        if says_so && !has_arrived {
            return Err(format!("#{link} is said to have sent a DISCONNECT, which has not arrived"));
        }
        if has_arrived && !says_so {
            return Err(format!("#{link} has sent DISCONNECT, and ended for another cause: {cause}"));
        }
        if says_so {
            self.model.farewells.insert(link);
        }
        self.model.closed(link, self.world.now);
        Ok(())
    }

    /// Records that the broker has accepted a CONNECT. Its CONNACK may have to wait.
    pub fn accepted(&mut self, link: usize, present: bool) -> Result<(), String> {
        let now = self.world.now;
        let Some(audit) = self.audits.get_mut(&link) else { return Err("nobody's CONNECT".into()) };
        let client = audit.client;
        self.model.pass(now);
        self.model
            .check_present(client, audit.clean, present, now, audit.connect_sent_at)
            .map_err(|why| format!("to client-{client} on #{link}: {why}"))?;
        audit.present = Some(present);
        audit.session = Some(self.model.accepted(client, link, present, audit.expiry, now));
        self.note(format_args!("broker: client-{client} on #{link} is in, session present {present}"));
        Ok(())
    }

    pub fn woken(&mut self, wake: Wake) {
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
                self.world.empty_disk(shard);
            }
            Wake::Ping { client, link } => {
                if self.clients[client].link == Some(link) && self.clients[client].up {
                    self.world.send(link, &codec::pingreq());
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
                let clean = !lasting && self.clients[client].version() != Version::V5;
                let shard = client % self.world.shard_count();
                self.connect(client, shard, clean, lasting, None);
            }
        }
    }

    pub fn consumed(&mut self, link: usize, upto: u64, whole: bool) {
        let (now, run) = (self.world.now, self.model.run);
        let may_refuse = self.plan.queue_policy == QueuePolicy::Refuse;
        let session = self.audits.get(&link).and_then(|audit| audit.session);
        let Some(items) = self.sent.get_mut(&link) else { return };
        while items.front().is_some_and(|(end, _)| *end <= upto) {
            match items.pop_front() {
                Some((_, Item::Publish(number))) => {
                    let publication = &self.model.publications[number as usize];
                    // A repeated QoS 2 message is not a new one, unless the session is another one, or the
                    // message was refused [MQTT5-4.3.3-9] and a power cut may have prevented the answer.
                    let unsaid = may_refuse && self.model.cuts.iter().any(|&cut| publication.waits_at(cut));
                    let publication = self.model.publication_mut(number);
                    if publication.qos < 2 || publication.session != session || publication.refused || unsaid
                    {
                        publication.session = session;
                        publication.routed += 1;
                    }
                    publication.processed.push(now);
                    publication.run = run;
                    // It may have ignored the rest of what it had read when the connection ended.
                    publication.doubtful = !whole && publication.acked_at.is_none();
                }
                Some((_, Item::Farewell)) => {
                    self.model.farewells_read.insert(link);
                }
                None => {}
            }
        }
    }

    pub fn audit(&mut self, link: usize, bytes: &[u8]) -> Result<(), String> {
        let now = self.world.now;
        let Some(audit) = self.audits.get_mut(&link) else { return Err("bytes to nobody".into()) };
        let client = audit.client;
        let packets = audit.sent(bytes).map_err(|why| format!("to client-{client} on #{link}: {why}"))?;
        for packet in packets {
            self.packets += 1;
            self.trace.note(now, format_args!("  broker > #{link} client-{client}: {}", described(&packet)));
            self.expect_will(&packet);
            let audit = self.audits.get_mut(&link).expect("it is audited");
            let links = &self.world.links;
            let consumed = |link: usize| links[link].up_sure;
            let five = audit.version == Version::V5;
            let remarks = audit
                .judge(&mut self.model, link, &packet, now, consumed)
                .map_err(|why| format!("to client-{client} on #{link}: {why}"))?;
            for mark in remarks.0 {
                self.marks.reach(mark);
            }
            if five {
                self.check_expiry(&packet).map_err(|why| format!("to client-{client} on #{link}: {why}"))?;
            }
        }
        Ok(())
    }

    fn check_expiry(&self, packet: &Packet) -> Result<(), String> {
        let Some(number) = number_of(&packet.payload).filter(|_| packet.kind == Kind::Publish) else {
            return Ok(());
        };
        let Some(publication) = self.model.publication(number) else { return Ok(()) };
        let version = self.clients[publication.publisher].version();
        let (model, clocks) = (&self.model, &self.world.clocks);
        clocks::check_expiry((self.plan.seed, version), (model, clocks), (number, packet), self.world.now)
    }

    /// Expects a will whose session a clean start may have ended, before CONNACK confirms it.
    pub fn expect_will(&mut self, packet: &Packet) {
        let Some(number) = number_of(&packet.payload).filter(|_| packet.kind == Kind::Publish) else {
            return;
        };
        let Some(publication) = self.model.publication(number) else { return };
        let starts_clean =
            |audit: &Audit| audit.client == publication.publisher && audit.clean && audit.session.is_none();
        if publication.is_will
            && publication.processed.is_empty()
            && self.audits.values().rev().any(starts_clean)
        {
            self.model.will_may_be_due(number, self.world.now);
        }
    }
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without words")
}

pub fn config(plan: &Plan, tls: Option<&RunTls>) -> Config {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    let directory = if plan.persistent { "kept" } else { "" };
    config.persistence.directory = directory.to_string();
    config.persistence.sync = plan.sync;
    config.persistence.segment_bytes = [3, 5, 16, 256][(plan.seed / 7 % 4) as usize] * BLOCK;
    config.auth.allow_anonymous = Some(true);
    let (layers, listener) = (plan.layers, &mut config.listeners[0]);
    if let Some(tls) = tls {
        tls.configure(listener);
    }
    if layers.websocket {
        listener.protocol = ListenerProtocol::WebSocket;
    }
    if layers.proxy {
        listener.proxy_trusted = vec![Ipv4Addr::from(BALANCER.0).to_string()];
    }
    config.limits.session_queue_messages = plan.queue_messages;
    config.limits.session_queue_policy = plan.queue_policy;
    config.protocol.topic_alias_maximum_out = plan.aliases_out;
    config
}
