//! Checks what the broker has sent against the model, packet by packet when it is sent, whether or not it
//! arrives.

use crate::coverage::Mark;
use crate::model::{GRACE, Grant, Model, Publication, Session, Unsettled};
use midge_kit::codec::{self, Kind, Packet};
use midge_kit::codec::{SUBSCRIPTION_ID, TOPIC_ALIAS, Version};
use std::collections::{BTreeMap, BTreeSet};

/// The model's view of a connection.
pub struct Audit {
    pub client: usize,
    pub version: Version,
    pub clean: bool,
    pub connect_sent_at: u64,
    /// The session expiry that CONNECT asked for.
    pub expiry: Option<u64>,
    pub receive_maximum: usize,
    pub aliases_max: u16,
    pub packet_max: Option<u32>,
    pub session: Option<usize>,
    /// The session present flag that CONNACK must have.
    pub present: Option<bool>,
    pub accepted: bool,
    /// Pending SUBSCRIBE packets, by packet identifier: coverage and grant of each filter.
    pub subscribes: BTreeMap<u16, Vec<(usize, usize)>>,
    pub unsubscribes: BTreeMap<u16, usize>,
    /// Pending publications, by packet identifier.
    pub publishes: BTreeMap<u16, u64>,
    /// Pending PUBREL packets.
    pub releases: BTreeSet<u16>,
    buffer: Vec<u8>,
    aliases: BTreeMap<u16, String>,
    outstanding: BTreeSet<u16>,
    said_farewell: bool,
}

/// The rare paths that an audited packet has shown.
#[derive(Default)]
pub struct Remarks(pub Vec<Mark>);

impl Audit {
    pub fn new(client: usize, version: Version, clean: bool, now: u64) -> Audit {
        Audit {
            client,
            version,
            clean,
            connect_sent_at: now,
            expiry: Some(0),
            receive_maximum: usize::from(u16::MAX),
            aliases_max: 0,
            packet_max: None,
            session: None,
            present: None,
            accepted: false,
            subscribes: BTreeMap::new(),
            unsubscribes: BTreeMap::new(),
            publishes: BTreeMap::new(),
            releases: BTreeSet::new(),
            buffer: Vec::new(),
            aliases: BTreeMap::new(),
            outstanding: BTreeSet::new(),
            said_farewell: false,
        }
    }

    /// Records that the client has sent an acknowledgement that frees the identifier.
    pub fn client_settled(&mut self, id: u16) {
        self.outstanding.remove(&id);
    }

    /// Takes bytes that the broker has sent. Returns the packets that they complete.
    pub fn sent(&mut self, bytes: &[u8]) -> Result<Vec<Packet>, String> {
        self.buffer.extend_from_slice(bytes);
        let mut packets = Vec::new();
        while let Some(len) = codec::packet_length(&self.buffer)?.filter(|&len| len <= self.buffer.len()) {
            // [MQTT5-3.1.2-24]
            if let Some(max) = self.packet_max.filter(|&max| len > max as usize) {
                return Err(format!("a packet of {len} bytes to a client that takes {max}"));
            }
            let bytes: Vec<u8> = self.buffer.drain(..len).collect();
            packets.push(codec::decode(&bytes, self.version)?);
        }
        Ok(packets)
    }

    /// Checks a packet.
    pub fn judge(
        &mut self,
        model: &mut Model,
        link: usize,
        packet: &Packet,
        now: u64,
        consumed: impl Fn(usize) -> u64,
    ) -> Result<Remarks, String> {
        let mut remarks = Remarks::default();
        if self.said_farewell {
            return Err(format!("{:?} after DISCONNECT", packet.kind));
        }
        if !self.accepted && !matches!(packet.kind, Kind::Connack | Kind::Auth) {
            return Err(format!("{:?} before CONNACK", packet.kind));
        }
        match packet.kind {
            Kind::Connack => self.connack(model, packet, now)?,
            Kind::Publish => self.publish(model, link, packet, now, consumed, &mut remarks)?,
            Kind::Puback | Kind::Pubrec => self.acknowledge(model, packet, now)?,
            Kind::Pubrel => self.release(model, link, packet, &mut remarks)?,
            Kind::Pubcomp => {
                if !self.releases.contains(&packet.id) {
                    return Err(format!("PUBCOMP {} that answers no PUBREL", packet.id));
                }
            }
            Kind::Suback => self.suback(model, packet, now)?,
            Kind::Unsuback => self.unsuback(model, packet, now)?,
            Kind::Disconnect => self.said_farewell = true,
            Kind::Pingresp | Kind::Auth => {}
        }
        Ok(remarks)
    }

    fn connack(&mut self, model: &mut Model, packet: &Packet, now: u64) -> Result<(), String> {
        if self.accepted {
            return Err("a second CONNACK".into());
        }
        if packet.code != 0 {
            return Err(format!("CONNACK with {:02X} for a CONNECT that is right", packet.code));
        }
        self.accepted = true;
        // 3.1 has no such flag.
        let present = self.present.map(|present| present && self.version != Version::V31);
        if present != Some(packet.session_present) {
            return Err(format!("CONNACK says session present {}", packet.session_present));
        }
        let session = self.session_mut(model)?;
        (session.connected_at, session.is_promised) = (now, true);
        Ok(())
    }

    fn acknowledge(&mut self, model: &mut Model, packet: &Packet, now: u64) -> Result<(), String> {
        let Some(&number) = self.publishes.get(&packet.id) else {
            return Err(format!("{:?} {} that answers no PUBLISH", packet.kind, packet.id));
        };
        let publication = model.publication_mut(number);
        let expected = if publication.qos == 1 { Kind::Puback } else { Kind::Pubrec };
        if packet.kind != expected {
            return Err(format!("{:?} {} for QoS {}", packet.kind, packet.id, publication.qos));
        }
        if publication.processed.is_empty() {
            return Err(format!(
                "{:?} {} for m{number}, which the broker has not read",
                packet.kind, packet.id
            ));
        }
        publication.acked_at.get_or_insert(now);
        publication.refused |= packet.code >= 0x80;
        Ok(())
    }

    fn release(
        &mut self,
        model: &mut Model,
        link: usize,
        packet: &Packet,
        remarks: &mut Remarks,
    ) -> Result<(), String> {
        let session = self.session_mut(model)?;
        if session.doubtful {
            return Ok(());
        }
        match session.unsettled.get(&packet.id) {
            Some(unsettled) if unsettled.qos == 2 && unsettled.recorded => {
                if unsettled.link != link {
                    remarks.0.push(Mark::Qos2OutResumedAtPubrel);
                }
                Ok(())
            }
            _ => Err(format!("PUBREL {} that no PUBREC asked for", packet.id)),
        }
    }

    fn suback(&mut self, model: &mut Model, packet: &Packet, now: u64) -> Result<(), String> {
        let Some(grants) = self.subscribes.remove(&packet.id) else {
            return Err(format!("SUBACK {} that answers no SUBSCRIBE", packet.id));
        };
        if grants.len() != packet.codes.len() {
            return Err(format!("SUBACK with {} codes for {} filters", packet.codes.len(), grants.len()));
        }
        let session = self.session_mut(model)?;
        for (&(coverage, grant), &code) in grants.iter().zip(&packet.codes) {
            let coverage = &mut session.coverages[coverage];
            if code != coverage.grants[grant].qos {
                return Err(format!("SUBACK grants {code:02X} for {}", coverage.filter));
            }
            coverage.grants[grant].acked_at = Some(now);
            coverage.from_sure.get_or_insert(now);
        }
        Ok(())
    }

    fn unsuback(&mut self, model: &mut Model, packet: &Packet, now: u64) -> Result<(), String> {
        let Some(coverage) = self.unsubscribes.remove(&packet.id) else {
            return Err(format!("UNSUBACK {} that answers no UNSUBSCRIBE", packet.id));
        };
        let session = self.session_mut(model)?;
        session.coverages[coverage].until_may.get_or_insert(now);
        Ok(())
    }

    fn session_mut<'a>(&self, model: &'a mut Model) -> Result<&'a mut Session, String> {
        let at = self.session.ok_or("a packet for a session before CONNACK")?;
        Ok(&mut model.sessions[at])
    }

    fn publish(
        &mut self,
        model: &mut Model,
        link: usize,
        packet: &Packet,
        now: u64,
        consumed: impl Fn(usize) -> u64,
        remarks: &mut Remarks,
    ) -> Result<(), String> {
        let topic = self.topic_of(packet)?;
        model.pass(now);
        let number = number_of(&packet.payload);
        let at = self.session.ok_or("PUBLISH before CONNACK")?;
        if packet.qos > 0 {
            let restarted = has_restarted(model, number);
            let persistent = model.persistent;
            let session = &mut model.sessions[at];
            self.identifier(session, persistent, restarted, link, packet, number, consumed, remarks)?;
        }
        let Some(number) = number else {
            return if packet.payload.is_empty() { Ok(()) } else { Err("a payload that nobody sent".into()) };
        };
        let Some(publication) = model.publication(number) else {
            return Err(format!("m{number}, which nobody sent"));
        };
        if publication.topic != topic {
            return Err(format!("m{number} to {topic} instead of {}", publication.topic));
        }
        if publication.processed.is_empty() {
            return Err(format!("m{number}, which the broker should not have published: {publication:?}"));
        }
        if packet.duplicate {
            return Ok(());
        }
        let session = &model.sessions[at];
        let live = is_live(session, publication, packet);
        if live != Some(true) {
            let as_retained = check_retained(model, session, link, number, now, packet.qos);
            match (live, as_retained) {
                (Some(false), Err(why)) => return Err(format!("m{number}: {why}")),
                (_, Err(_)) => {}
                (_, Ok(())) => {
                    if model.sessions[at].live_retained.contains_key(&topic) {
                        remarks.0.push(Mark::RetainedAfterLive);
                    }
                    return Ok(());
                }
            }
        }
        check_live((model, session), publication, number, packet, now)?;
        let publication = &model.publications[number as usize];
        let first = publication.first().unwrap_or(0);
        let is_shared = topic.starts_with("s/");
        if packet.qos < 2 {
            model.sessions[at].sent_below_qos2.insert(number);
        }
        // A power cut may undo the subscription that made it QoS 1. It is then sent again, at QoS 2.
        let forgets = model.sessions[at].sent_below_qos2.contains(&number) || is_shared;
        let cuts = model.cuts.iter().filter(|&&cut| forgets && cut > first).count();
        // Each of its copies may be sent again after each cut.
        let allowed = (publication.routed * (1 + cuts)) as u32;
        // A session on another shard may have kept a message that was not acknowledged before a power cut,
        // while the home of retained messages has not: neither had promised it to anyone.
        let retain = publication.retain && model.is_kept(publication);
        let session = &mut model.sessions[at];
        let copies = session.fresh_copies.entry(number).or_default();
        *copies += 1;
        if *copies > allowed && live == Some(true) {
            return Err(format!("m{number} {copies} times without DUP to client {}", session.client));
        }
        if retain {
            session.live_retained.entry(topic).or_default().push(number);
        }
        Ok(())
    }

    fn topic_of(&mut self, packet: &Packet) -> Result<String, String> {
        let topic = packet.topic_text();
        let Some(alias) = packet.number(TOPIC_ALIAS) else { return Ok(topic) };
        let alias = u16::try_from(alias).map_err(|_| "a topic alias above 65535")?;
        if alias > self.aliases_max {
            return Err(format!("topic alias {alias}, and the client takes {}", self.aliases_max));
        }
        if !topic.is_empty() {
            self.aliases.insert(alias, topic.clone());
            return Ok(topic);
        }
        self.aliases.get(&alias).cloned().ok_or(format!("topic alias {alias} is not bound"))
    }

    #[allow(clippy::too_many_arguments, reason = "a packet has that many sides")]
    fn identifier(
        &mut self,
        session: &mut Session,
        persistent: bool,
        restarted: bool,
        link: usize,
        packet: &Packet,
        number: Option<u64>,
        consumed: impl Fn(usize) -> u64,
        remarks: &mut Remarks,
    ) -> Result<(), String> {
        self.outstanding.insert(packet.id);
        if self.outstanding.len() > self.receive_maximum {
            return Err(format!("{} messages inflight, above Receive Maximum", self.outstanding.len()));
        }
        let known = session.unsettled.get_mut(&packet.id);
        if packet.duplicate {
            let is_other = known.as_ref().is_none_or(|known| known.number != number);
            if restarted && is_other && known.as_ref().is_none_or(|old| old.acked.is_some() || old.stale) {
                // Its identifier was in the log, and a start can't know whether it was sent. DUP says that it
                // "might be re-delivery of an earlier attempt". [MQTT5 §3.3.1.1]
                let new =
                    Unsettled { number, qos: packet.qos, link, acked: None, recorded: false, stale: false };
                session.unsettled.insert(packet.id, new);
                return Ok(());
            }
            let Some(known) = known else {
                return Err(format!("DUP for identifier {}, which was never used", packet.id));
            };
            if known.number != number || known.qos != packet.qos {
                return Err(format!("DUP for identifier {} with another message", packet.id));
            }
            if known.link == link {
                return Err(format!("DUP for identifier {} on the same connection", packet.id));
            }
            if let Some((acked_on, upto)) = known.acked
                && consumed(acked_on) >= upto
                && !known.stale
            {
                return Err(format!("DUP for identifier {}, which was acknowledged", packet.id));
            }
            remarks.0.push(if packet.qos == 2 { Mark::ResentQos2 } else { Mark::ResentQos1 });
            if known.recorded {
                remarks.0.push(Mark::ResentThoughRecorded);
            }
            (known.link, known.stale, known.acked) = (link, false, None);
            return Ok(());
        }
        let repeats = known.as_ref().is_some_and(|known| known.link == link && known.number == number);
        if persistent && packet.qos == 2 && repeats {
            return Err(format!("m{number:?} went out twice on a connection"));
        }
        if let Some(known) = known.filter(|known| known.acked.is_none() && !known.stale) {
            return Err(format!("identifier {} for m{number:?} while m{:?} has it", packet.id, known.number));
        }
        let new = Unsettled { number, qos: packet.qos, link, acked: None, recorded: false, stale: false };
        session.unsettled.insert(packet.id, new);
        Ok(())
    }
}

/// Whether the power was cut after the broker has read this message. A message without a number may be any.
fn has_restarted(model: &Model, number: Option<u64>) -> bool {
    let first = number.and_then(|number| model.publication(number)).and_then(Publication::first);
    model.persistent && model.cuts.iter().any(|&cut| cut > first.unwrap_or(0))
}

/// The number at the beginning of a payload.
pub fn number_of(payload: &[u8]) -> Option<u64> {
    let text = payload.strip_prefix(b"m")?;
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    std::str::from_utf8(&text[..end]).ok()?.parse().ok()
}

/// Whether it is a live message. `None`: both are possible.
fn is_live(session: &Session, publication: &Publication, packet: &Packet) -> Option<bool> {
    if !packet.retain {
        return Some(true);
    }
    let as_published = session
        .coverages_of(&publication.topic)
        .any(|coverage| coverage.may_cover(publication) && coverage.grants.iter().any(|g| g.as_published));
    if publication.retain && as_published { None } else { Some(false) }
}

fn check_live(
    (model, session): (&Model, &Session),
    publication: &Publication,
    number: u64,
    packet: &Packet,
    now: u64,
) -> Result<(), String> {
    let possible: Vec<_> =
        session.coverages_of(&publication.topic).filter(|coverage| coverage.may_cover(publication)).collect();
    if session.doubtful {
        return Ok(());
    }
    // A message that waits for room in a box meets the subscriptions that exist when it arrives.
    let last = publication.latest().unwrap_or(now);
    if possible.is_empty() && model.box_full.touch(last, now) {
        return Ok(());
    }
    if possible.is_empty() {
        return Err(format!("m{number} to client {}, which has no subscription for it", session.client));
    }
    let mut grants = possible.iter().flat_map(|coverage| &coverage.grants);
    let own = session.client == publication.publisher;
    if own && grants.clone().all(|grant| grant.no_local) {
        return Err(format!("m{number} to its publisher, in spite of No Local"));
    }
    if !grants.any(|grant| grant.qos.min(publication.qos) == packet.qos) {
        return Err(format!("m{number} with QoS {}, which no subscription grants", packet.qos));
    }
    let mut grants = possible.iter().flat_map(|coverage| &coverage.grants);
    if !packet.retain && publication.retain && grants.clone().all(|grant| grant.as_published) {
        return Err(format!("m{number} without RETAIN, in spite of Retain As Published"));
    }
    for identifier in packet.identifiers() {
        if !grants.clone().any(|grant| grant.identifier == identifier) {
            return Err(format!("m{number} with subscription identifier {identifier}"));
        }
    }
    if let [only] = possible[..]
        && let [grant] = &only.grants[..]
        && grant.identifier != 0
        && only.surely_covers(publication)
        && packet.number(SUBSCRIPTION_ID).is_none()
    {
        return Err(format!("m{number} without its subscription identifier"));
    }
    let _ = grants.next();
    Ok(())
}

/// Whether this message may be sent as a retained one now.
fn check_retained(
    model: &Model,
    session: &Session,
    link: usize,
    number: u64,
    now: u64,
    qos: u8,
) -> Result<(), String> {
    let publication = &model.publications[number as usize];
    if !publication.retain {
        return Err("sent as a retained message, which it is not".into());
    }
    if !model.persistent && publication.run != model.run {
        return Err("retained from before the power cut".into());
    }
    if session.doubtful {
        return Ok(());
    }
    // At QoS 2 it may have waited for the log with its packet identifier, while its connection ended.
    let outlives = model.persistent && qos == 2;
    let asked: Vec<&Grant> = session
        .coverages_of(&publication.topic)
        .filter(|coverage| !coverage.is_shared())
        .flat_map(|coverage| &coverage.grants)
        .filter(|grant| (grant.link == link || outlives) && grant.handling != 2)
        .collect();
    let Some(first_asked) = asked.iter().map(|grant| grant.sent_at).min() else {
        return Err("retained, and nobody has subscribed".into());
    };
    // A client's packets are read in order: what it publishes after its SUBSCRIBE is live, and hidden.
    let own = session.client == publication.publisher && !publication.is_will;
    if own && asked.iter().all(|grant| grant.no_local && grant.sent_at < publication.sent_at) {
        return Err(format!("m{number} to its publisher as a retained message, in spite of No Local"));
    }
    let last = publication.latest().unwrap_or(now);
    // A batch or a message that waits for room in a box arrives late.
    let delayed = model.box_full.touch(last, now);
    let newer = model.publications.iter().find(|other| {
        other.topic == publication.topic
            && other.retain
            && !other.refused
            && !other.doubtful
            && model.is_kept(other)
            && !model.may_be_unkept(other)
            && other.first().is_some_and(|first| first > last)
            && other.latest().is_some_and(|end| end + GRACE < first_asked)
    });
    if let Some(newer) = newer.filter(|_| !delayed) {
        return Err(format!("retained, though a newer one was there before the SUBSCRIBE: {newer:?}"));
    }
    // A message that its home has refused, for example because of a full disk, is not retained there.
    let live = session.live_retained.get(&publication.topic).into_iter().flatten();
    let mut live = live.map(|&number| &model.publications[number as usize]);
    let overtaken = live.any(|live| {
        live.first().is_some_and(|first| first > last) && !live.refused && !model.may_be_unkept(live)
    });
    if overtaken && !delayed {
        return Err("an older retained message after a newer live one".into());
    }
    Ok(())
}
