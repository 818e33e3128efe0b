//! The reference: what was asked of the broker and when, in plain lists, and what follows from it.
//!
//! It shares no code with the product and knows nothing of shards. Where the order of two things can't be known
//! from the outside (a publication on its way while a SUBSCRIBE is), both outcomes are allowed.

use crate::spans::Spans;
use std::collections::{BTreeMap, BTreeSet};

/// Within so many microseconds, what a shard has done is known to all: longer than any stall of shards.
pub const GRACE: u64 = 700_000;

/// A message that somebody published, or a will.
#[derive(Debug)]
pub struct Publication {
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    /// An empty retained one: it removes.
    pub clears: bool,
    /// Bytes of the payload.
    pub len: usize,
    /// The client; wills are a publisher of their own.
    pub publisher: usize,
    pub is_will: bool,
    pub sent_at: u64,
    /// When the broker had read it whole, each time.
    pub processed: Vec<u64>,
    /// How often it may have been published by that.
    pub routed: usize,
    /// The publisher's session when it was processed last.
    pub session: Option<usize>,
    /// When the broker first sent PUBACK or PUBREC for it.
    pub acked_at: Option<u64>,
    /// With a code of 0x80 or above.
    pub refused: bool,
    /// A will that must not be published, and since when.
    pub dropped_at: Option<u64>,
    /// A will that may not have been published.
    pub doubtful: bool,
    /// A will that is not published in the moment in which it is due: by when it is. See [`Will::by_clock`] and
    /// [`Model::started`].
    pub published_by: Option<u64>,
    /// The run of the broker that processed it last.
    pub run: u32,
}

impl Publication {
    pub fn first(&self) -> Option<u64> {
        self.processed.first().copied()
    }

    pub fn last(&self) -> Option<u64> {
        self.processed.last().copied()
    }

    /// When it has surely been processed the last time.
    pub fn latest(&self) -> Option<u64> {
        self.last().max(self.published_by)
    }

    /// Had it been processed at this time, and was its publisher still to hear what became of it?
    pub fn waits_at(&self, time: u64) -> bool {
        self.first().is_some_and(|first| first <= time) && self.acked_at.is_none_or(|acked| acked > time)
    }
}

#[derive(Debug)]
pub struct Grant {
    pub qos: u8,
    pub no_local: bool,
    pub as_published: bool,
    pub handling: u8,
    pub identifier: u32,
    pub sent_at: u64,
    pub acked_at: Option<u64>,
    pub link: usize,
    /// It made the subscription, as far as is known.
    pub is_new: bool,
}

/// A subscription from its SUBSCRIBE to its end.
#[derive(Debug)]
pub struct Coverage {
    pub filter: String,
    pub from_may: u64,
    pub from_sure: Option<u64>,
    pub until_sure: Option<u64>,
    pub until_may: Option<u64>,
    pub grants: Vec<Grant>,
}

impl Coverage {
    pub fn matches(&self, topic: &str) -> bool {
        matches(matching_part(&self.filter), topic)
    }

    pub fn is_shared(&self) -> bool {
        self.filter.starts_with("$share/")
    }

    /// Surely in force while this publication was on its way.
    pub fn surely_covers(&self, publication: &Publication) -> bool {
        let Some((first, last)) = publication.first().zip(publication.last()) else { return false };
        self.from_sure.is_some_and(|from| from < first)
            && self.until_sure.is_none_or(|until| until > last + GRACE)
    }

    /// Perhaps in force while this publication was on its way.
    pub fn may_cover(&self, publication: &Publication) -> bool {
        let Some(last) = publication.last() else { return false };
        let first = publication.first().unwrap_or(last);
        // What a member of a group has not settled comes later, to the one that is a member then; and after a
        // power cut, a will comes when it is due.
        let late = self.is_shared() || (publication.is_will && publication.doubtful);
        (late || self.from_may <= last + GRACE) && self.until_may.is_none_or(|until| until >= first)
    }
}

/// A QoS 1 or 2 message between the broker and a session.
#[derive(Debug)]
pub struct Unsettled {
    pub number: Option<u64>,
    pub qos: u8,
    pub link: usize,
    /// The client has acknowledged it for good: on which connection, and where in what it sent.
    pub acked: Option<(usize, u64)>,
    /// The client has sent PUBREC.
    pub recorded: bool,
    /// From before a power cut: the broker may not remember.
    pub stale: bool,
}

/// A session of the broker, from the CONNACK that began it.
#[derive(Debug)]
pub struct Session {
    pub client: usize,
    /// How long it outlives its connection, microseconds; none: for ever.
    pub expiry: Option<u64>,
    pub link: usize,
    /// When its present connection was accepted.
    pub connected_at: u64,
    pub closed_at: Option<u64>,
    pub over_at: Option<u64>,
    pub coverages: Vec<Coverage>,
    pub unsettled: BTreeMap<u16, Unsettled>,
    /// Live copies sent, without DUP, by message.
    pub fresh_copies: BTreeMap<u64, u32>,
    /// Messages that were sent live below QoS 2, whatever they are sent at after a power cut.
    pub sent_below_qos2: BTreeSet<u64>,
    /// What the client has got, by message: live, and as a retained one.
    pub got: BTreeMap<u64, u32>,
    pub got_retained: BTreeMap<u64, u64>,
    /// The newest order by publisher, topic and both QoS.
    pub orders: BTreeMap<(usize, String, u8, u8), u64>,
    /// Retained publications sent live on the present connection, by topic.
    pub live_retained: BTreeMap<String, Vec<u64>>,
    /// Its queue was full: by its policy, something is dropped.
    pub lossy: bool,
    /// So many of its messages were lost for a full queue, as the broker has told.
    pub told_losses: u64,
    /// So many were excused by that.
    pub missing: u64,
    /// The CONNACK of its present connection has been sent.
    pub is_promised: bool,
    /// A power cut came before it was promised: which of its client's sessions is there after it is not known.
    pub doubtful: bool,
    /// A power cut ended its connection at a time that the broker knows to a minute: until its client is back, it
    /// may have expired or not.
    pub expiry_doubtful: bool,
}

impl Session {
    pub fn coverages_of<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Coverage> {
        self.coverages.iter().filter(move |coverage| coverage.matches(topic))
    }

    pub fn has_unacknowledged(&self) -> bool {
        self.unsettled.values().any(|unsettled| unsettled.acked.is_none())
    }

    pub fn is_alive_at_end(&self) -> bool {
        self.over_at.is_none()
    }
}

/// The will of a connection.
#[derive(Debug)]
pub struct Will {
    pub number: u64,
    pub delay: u64,
    /// When it is to be published, once its connection has ended.
    pub due_at: Option<u64>,
    /// Its session ended with the broker: it is due at the next start.
    pub due_at_start: bool,
    /// It is due when a timer fires, which may be a while after the deadline: "The Server delays publishing the
    /// Client's Will Message until the Will Delay Interval has passed or the Session ends" [MQTT5 §3.1.3.2.2], and how
    /// soon after that, the standard leaves open. Another client's will may be published meanwhile, and so be the
    /// older one of the topic.
    pub by_clock: bool,
    /// A power cut came while it waited or was just published: if it is there still, the next start publishes it, or
    /// what was left of its delay after that.
    pub waits_for_start: bool,
}

/// All of it.
#[derive(Default)]
pub struct Model {
    pub publications: Vec<Publication>,
    pub sessions: Vec<Session>,
    /// The latest session of each client.
    pub latest: BTreeMap<usize, usize>,
    /// By connection.
    pub wills: BTreeMap<usize, Will>,
    /// Connections whose DISCONNECT with 0x00 has ended them.
    pub farewells: BTreeSet<usize>,
    /// Connections whose DISCONNECT with 0x00 the broker has read, whatever has ended them.
    pub farewells_read: BTreeSet<usize>,
    pub run: u32,
    /// Some box was full: the order of retained and live messages has no guarantee.
    pub box_full: Spans,
    /// The disk of some shard was full: what would have to be kept is refused or waits.
    pub disk_full: Spans,
    pub full_disks: BTreeSet<usize>,
    /// The disk of some shard had failed: what comes then may be forgotten with the power.
    pub disk_failed: Spans,
    /// Does a power cut leave anything?
    pub persistent: bool,
    /// When the power was cut.
    pub cuts: Vec<u64>,
    /// When the broker started without knowing how long it had been down.
    pub clock_lost_at: Vec<u64>,
}

impl Model {
    pub fn publish(&mut self, publication: Publication) -> u64 {
        self.publications.push(publication);
        self.publications.len() as u64 - 1
    }

    pub fn publication(&self, number: u64) -> Option<&Publication> {
        self.publications.get(usize::try_from(number).ok()?)
    }

    pub fn publication_mut(&mut self, number: u64) -> &mut Publication {
        let at = usize::try_from(number).expect("numbers are indices");
        &mut self.publications[at]
    }

    /// The broker says in CONNACK whether there is a session: may it?
    pub fn check_present(
        &self,
        client: usize,
        clean: bool,
        present: bool,
        now: u64,
        sent_at: u64,
    ) -> Result<(), String> {
        let Some(session) = self.latest.get(&client).map(|&at| &self.sessions[at]) else {
            return if present {
                Err("session present for a client that has had none".into())
            } else {
                Ok(())
            };
        };
        if session.doubtful || session.expiry_doubtful {
            return Ok(());
        }
        if clean {
            return if present { Err("session present after a clean start".into()) } else { Ok(()) };
        }
        let is_counted = |closed: u64| self.clock_lost_at.iter().all(|&lost| lost < closed);
        let surely_over = session.over_at.is_some_and(|at| at + GRACE < sent_at)
            || session.expiry == Some(0)
            || (session.expiry.zip(session.closed_at))
                .is_some_and(|(expiry, closed)| closed + expiry + GRACE < sent_at);
        let surely_over =
            surely_over && (session.expiry == Some(0) || session.closed_at.is_none_or(is_counted));
        let surely_there = session.over_at.is_none()
            && session.expiry.is_none_or(|expiry| {
                expiry > 0 && session.closed_at.is_none_or(|closed| closed + expiry > now + GRACE)
            });
        match present {
            true if surely_over => Err("session present, though the session is over".into()),
            false if surely_there => Err("no session present, though there is one".into()),
            _ => Ok(()),
        }
    }

    /// A connection has ended for the broker.
    pub fn closed(&mut self, link: usize, now: u64) {
        let session = self.sessions.iter_mut().rev().find(|session| session.link == link);
        let Some(session) = session.filter(|session| session.closed_at.is_none()) else { return };
        session.closed_at = Some(now);
        let expiry = session.expiry;
        if expiry == Some(0) {
            session.over_at.get_or_insert(now);
        }
        if let Some(will) = self.wills.get_mut(&link) {
            if self.farewells.contains(&link) {
                self.publications[will.number as usize].dropped_at = Some(now);
            } else {
                let delay = expiry.map_or(will.delay, |expiry| will.delay.min(expiry));
                (will.due_at, will.by_clock) = (Some(now + delay), delay > 0);
            }
        }
    }

    /// A CONNACK has left: the connection has its session.
    pub fn accepted(
        &mut self,
        client: usize,
        link: usize,
        present: bool,
        expiry: Option<u64>,
        now: u64,
    ) -> usize {
        if let Some(&at) = self.latest.get(&client) {
            let old = self.sessions[at].link;
            self.closed(old, now);
            self.settle_will(old, present, now);
            let session = &mut self.sessions[at];
            if present {
                (session.link, session.connected_at) = (link, now);
                (session.closed_at, session.over_at) = (None, None);
                session.expiry = expiry;
                session.is_promised = false;
                session.expiry_doubtful = false;
                session.live_retained.clear();
                return at;
            }
            session.over_at.get_or_insert(now);
        }
        self.sessions.push(Session {
            client,
            expiry,
            link,
            connected_at: now,
            closed_at: None,
            over_at: None,
            coverages: Vec::new(),
            unsettled: BTreeMap::new(),
            fresh_copies: BTreeMap::new(),
            sent_below_qos2: BTreeSet::new(),
            got: BTreeMap::new(),
            got_retained: BTreeMap::new(),
            orders: BTreeMap::new(),
            live_retained: BTreeMap::new(),
            lossy: false,
            told_losses: 0,
            missing: 0,
            is_promised: false,
            doubtful: false,
            expiry_doubtful: false,
        });
        let at = self.sessions.len() - 1;
        self.latest.insert(client, at);
        at
    }

    /// The client is back before or after its will was due.
    fn settle_will(&mut self, link: usize, present: bool, now: u64) {
        let Some(will) = self.wills.get_mut(&link) else { return };
        let Some(due_at) = will.due_at else { return };
        let publication = &mut self.publications[will.number as usize];
        if due_at <= now {
            // The timer may have come later than the client.
            publication.doubtful |= present && will.delay > 0 && due_at + GRACE > now;
        } else if present {
            publication.dropped_at = Some(now);
            will.due_at = None;
        } else {
            (will.due_at, will.by_clock) = (Some(now), false);
        }
    }

    /// The session of a will may be ending with the CONNECT that its client has sent: the will is due.
    pub fn will_may_be_due(&mut self, number: u64, now: u64) {
        let mut wills = self.wills.values_mut();
        if let Some(will) = wills.find(|will| will.number == number)
            && will.due_at.is_some_and(|due| due > now)
        {
            (will.due_at, will.by_clock) = (Some(now), false);
        }
    }

    /// What the clock does to wills and sessions.
    pub fn pass(&mut self, now: u64) {
        for will in self.wills.values_mut() {
            let publication = &mut self.publications[will.number as usize];
            if let Some(due) = will.due_at
                && due <= now
                && publication.processed.is_empty()
                && publication.dropped_at.is_none()
            {
                publication.sent_at = due;
                publication.processed.push(due);
                publication.routed += 1;
                publication.run = self.run;
                if will.by_clock {
                    publication.published_by = publication.published_by.max(Some(due + GRACE));
                }
            }
        }
        for session in &mut self.sessions {
            if let (Some(closed), Some(expiry)) = (session.closed_at, session.expiry)
                && closed + expiry <= now
            {
                session.over_at.get_or_insert(closed + expiry);
            }
        }
    }

    /// A disk that was full is so no more.
    pub fn disk_has_room(&mut self, shard: usize, now: u64) {
        self.full_disks.remove(&shard);
        if self.full_disks.is_empty() {
            self.disk_full.end(now);
        }
    }

    /// May a message have found a full disk, so that no session and no retained store has kept it? For what is
    /// acknowledged it is no excuse.
    pub fn may_be_unkept(&self, publication: &Publication) -> bool {
        let (first, last) = (publication.first().unwrap_or(0), publication.last().unwrap_or(0));
        publication.acked_at.is_none()
            && (self.disk_full.touch(first, last + GRACE) || self.disk_failed.touch(first, last + GRACE))
    }

    /// The broker starts, and publishes the wills that are due since the power cut or fell due while it was down. In
    /// which order, nothing says: order is promised for what comes "from any given Client" [MQTT5-4.6.0-5], and each is
    /// another client's. So each of them may be the last one of its topic, and so what is retained.
    pub fn started(&mut self, now: u64) {
        for will in self.wills.values_mut() {
            let at_start = std::mem::take(&mut will.due_at_start);
            if at_start {
                will.due_at = Some(now);
            }
            if std::mem::take(&mut will.waits_for_start) || at_start {
                let delay = if at_start { 0 } else { will.delay };
                self.publications[will.number as usize].published_by = Some(now + delay + GRACE);
            }
        }
    }

    /// The power failed.
    pub fn power_cut(&mut self, now: u64) {
        self.pass(now);
        self.run += 1;
        self.cuts.push(now);
        let is_clean = |session: &&Session| session.expiry == Some(0) && session.is_promised;
        let was_open: BTreeSet<usize> = (self.sessions.iter().filter(|session| session.closed_at.is_none()))
            .filter(is_clean)
            .map(|session| session.link)
            .collect();
        // A disk that had failed has kept nothing of what came then.
        let fails = self.disk_failed.is_open();
        self.full_disks.clear();
        self.disk_full.end(now);
        self.disk_failed.end(now);
        self.box_full.end(now);
        for session in &mut self.sessions {
            let forgotten = self.disk_failed.touch(session.connected_at, session.connected_at)
                || session.over_at.is_some_and(|over| self.disk_failed.touch(over, over));
            session.doubtful |= fails && forgotten;
            let was_over = session.over_at.is_some_and(|over| over + GRACE < now);
            // As far as the disk knows, one that has left a moment ago, or while it had failed, was there until now; and
            // every start before the client is back puts its end at that start, for up to a minute.
            let was_connected = session.closed_at.is_none_or(|closed| {
                closed + GRACE > now || (fails && self.disk_failed.touch(closed, closed))
            });
            // A broker that stops waits for seconds until a full disk has room for the ends of its connections.
            let is_unwritten =
                session.closed_at.is_some_and(|closed| self.disk_full.touch(closed, closed + GRACE));
            session.expiry_doubtful |= is_unwritten && session.expiry != Some(0);
            session.closed_at.get_or_insert(now);
            if was_over || !self.persistent || (session.expiry == Some(0) && session.is_promised) {
                session.over_at.get_or_insert(now);
            } else {
                // How long it had been without its connection is not known exactly.
                session.doubtful |= !session.is_promised;
                session.expiry_doubtful |= was_connected && session.expiry.is_some();
            }
            for unsettled in session.unsettled.values_mut() {
                unsettled.stale = true;
            }
        }
        for (link, will) in &mut self.wills {
            let publication = &mut self.publications[will.number as usize];
            // A full disk may not have taken that it was dropped, or published.
            let before = |at: u64| at + GRACE < now && !fails && !self.disk_full.touch(at, at + GRACE);
            // Its session may have ended without a word of it on the disk.
            let is_kept = self.persistent
                && self.sessions.iter().any(|session| {
                    session.client == publication.publisher && !session.over_at.is_some_and(before)
                });
            if publication.dropped_at.is_some_and(before) || publication.first().is_some_and(before) {
                continue;
            }
            let is_open = was_open.contains(link) && !self.farewells.contains(link);
            if self.persistent && is_open && !fails && publication.processed.is_empty() {
                // [MQTT5-3.1.2-8]
                will.due_at_start = true;
                // While the disk is full the will of a session that ends with its connection is in memory alone.
                let mut sessions = self.sessions.iter().filter(|session| session.link == *link);
                publication.doubtful |= sessions.any(|session| {
                    let came = session.connected_at;
                    session.expiry == Some(0) && self.disk_full.touch(came.saturating_sub(GRACE), came)
                });
                continue;
            }
            if is_kept {
                // Whether it was published, or not to be, is forgotten perhaps.
                publication.doubtful = true;
                publication.dropped_at = None;
                will.due_at = Some(now);
                (will.waits_for_start, will.by_clock) = (true, false);
                if !publication.processed.is_empty() {
                    publication.processed.push(now);
                    publication.routed += 1;
                }
            } else if publication.processed.is_empty() {
                publication.dropped_at.get_or_insert(now);
                will.due_at = None;
            }
        }
    }

    /// Is it surely kept, if it was retained?
    pub fn is_kept(&self, publication: &Publication) -> bool {
        publication.run == self.run || (self.persistent && publication.acked_at.is_some())
    }
}

/// The part of a filter that topic names are compared with.
pub fn matching_part(filter: &str) -> &str {
    match filter.strip_prefix("$share/") {
        Some(rest) => rest.split_once('/').map_or("", |(_, part)| part),
        None => filter,
    }
}

/// Chapter 4.7, word for word.
pub fn matches(filter: &str, topic: &str) -> bool {
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    levels_match(&filter, &topic)
}

fn levels_match(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) => true,
        ([], []) => true,
        ([level, filter @ ..], [name, topic @ ..]) => {
            (*level == "+" || level == name) && levels_match(filter, topic)
        }
        // "sport/#" matches "sport".
        _ => false,
    }
}
