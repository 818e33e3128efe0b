//! The reference: the requests to the broker with their times, in plain lists, and what follows from them.
//!
//! It shares no code with the product and knows no shards. If the order of two things can't be known from the
//! outside (such as a publication during a SUBSCRIBE), both outcomes are allowed.

use crate::spans::Spans;
use std::collections::{BTreeMap, BTreeSet};

/// Within this many microseconds all shards know what one has done. It is longer than any stall of shards.
pub const GRACE: u64 = 700_000;

/// A message that a client has published, or a will.
#[derive(Debug)]
pub struct Publication {
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    /// Whether it is an empty retained message, which removes one.
    pub clears: bool,
    /// The length of the payload in bytes.
    pub len: usize,
    /// The client. A will counts as another publisher.
    pub publisher: usize,
    pub is_will: bool,
    pub sent_at: u64,
    /// The times at which the broker had completely read it.
    pub processed: Vec<u64>,
    /// How often it may have been published because of that.
    pub routed: usize,
    /// The publisher's session when it was last processed.
    pub session: Option<usize>,
    /// The time at which the broker first sent PUBACK or PUBREC for it.
    pub acked_at: Option<u64>,
    /// Whether that had a code of 0x80 or above.
    pub refused: bool,
    /// The time since which a will must not be published.
    pub dropped_at: Option<u64>,
    /// Whether a will may not have been published.
    pub doubtful: bool,
    /// For a will that is not published at the moment when it is due: the time by which it is. See
    /// [`Will::by_clock`] and [`Model::started`].
    pub published_by: Option<u64>,
    /// The run of the broker that has last processed it.
    pub run: u32,
}

impl Publication {
    pub fn first(&self) -> Option<u64> {
        self.processed.first().copied()
    }

    pub fn last(&self) -> Option<u64> {
        self.processed.last().copied()
    }

    /// The latest time by which it was processed for certain.
    pub fn latest(&self) -> Option<u64> {
        self.last().max(self.published_by)
    }

    /// Whether it had been processed at this time, while its publisher had not learned the result.
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
    /// Whether it created the subscription, as far as is known.
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

    /// Whether it was certainly in force while this publication was on its way.
    pub fn surely_covers(&self, publication: &Publication) -> bool {
        let Some((first, last)) = publication.first().zip(publication.last()) else { return false };
        self.from_sure.is_some_and(|from| from < first)
            && self.until_sure.is_none_or(|until| until > last + GRACE)
    }

    /// Whether it may have been in force while this publication was on its way.
    pub fn may_cover(&self, publication: &Publication) -> bool {
        let Some(last) = publication.last() else { return false };
        let first = publication.first().unwrap_or(last);
        // A message that a group member has not settled goes later to another member of that time. After a
        // power cut, a will is published when it is due.
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
    /// The final acknowledgement of the client: the connection, and the position in what it has sent.
    pub acked: Option<(usize, u64)>,
    /// Whether the client has sent PUBREC.
    pub recorded: bool,
    /// Whether it is from before a power cut, so that the broker may not remember it.
    pub stale: bool,
}

/// A session of the broker, from the CONNACK that began it.
#[derive(Debug)]
pub struct Session {
    pub client: usize,
    /// How long it outlives its connection, in microseconds. `None`: without end.
    pub expiry: Option<u64>,
    pub link: usize,
    /// The time at which its current connection was accepted.
    pub connected_at: u64,
    pub closed_at: Option<u64>,
    pub over_at: Option<u64>,
    pub coverages: Vec<Coverage>,
    pub unsettled: BTreeMap<u16, Unsettled>,
    /// The number of live copies sent without DUP, by message.
    pub fresh_copies: BTreeMap<u64, u32>,
    /// Messages that were sent live below QoS 2, whatever their QoS after a power cut is.
    pub sent_below_qos2: BTreeSet<u64>,
    /// The messages that the client has received, live and retained.
    pub got: BTreeMap<u64, u32>,
    pub got_retained: BTreeMap<u64, u64>,
    /// The newest order by publisher, topic and both QoS.
    pub orders: BTreeMap<(usize, String, u8, u8), u64>,
    /// Retained publications that were sent live on the current connection, by topic.
    pub live_retained: BTreeMap<String, Vec<u64>>,
    /// Whether its queue was full, so that its policy drops messages.
    pub lossy: bool,
    /// The number of its messages that were lost because of a full queue, as the broker has reported.
    pub told_losses: u64,
    /// The number of messages that this excused.
    pub missing: u64,
    /// Whether the CONNACK of its current connection was sent.
    pub is_promised: bool,
    /// Whether a power cut came before that, so that it is not known which of its client's sessions exists
    /// afterwards.
    pub doubtful: bool,
    /// Whether a power cut ended its connection at a time that the broker knows only to a minute. Until its
    /// client is back, it may or may not have expired.
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
    /// The time at which it must be published, after its connection has ended.
    pub due_at: Option<u64>,
    /// Whether its session ended with the broker, so that it is due at the next start.
    pub due_at_start: bool,
    /// Whether it is due when a timer fires, which may be some time after the deadline: "The Server delays
    /// publishing the Client's Will Message until the Will Delay Interval has passed or the Session ends"
    /// [MQTT5 §3.1.3.2.2]. The standard does not say how soon after that. Another client's will may be
    /// published in between, and would then be the older one of the topic.
    pub by_clock: bool,
    /// Whether a power cut came while it waited or was just published. If it still exists, the next start
    /// publishes it, or the rest of its delay begins then.
    pub waits_for_start: bool,
}

/// The whole model.
#[derive(Default)]
pub struct Model {
    pub publications: Vec<Publication>,
    pub sessions: Vec<Session>,
    /// The latest session of each client.
    pub latest: BTreeMap<usize, usize>,
    /// By connection.
    pub wills: BTreeMap<usize, Will>,
    /// Connections that have ended by a DISCONNECT with 0x00.
    pub farewells: BTreeSet<usize>,
    /// Connections whose DISCONNECT with 0x00 the broker has read, whatever has ended them.
    pub farewells_read: BTreeSet<usize>,
    pub run: u32,
    /// Times in which a box was full: the order of retained and live messages has no guarantee.
    pub box_full: Spans,
    /// Times in which a disk was full: messages that would have to be kept are refused or wait.
    pub disk_full: Spans,
    pub full_disks: BTreeSet<usize>,
    /// Times in which a disk had failed: messages of these times may be lost with the power.
    pub disk_failed: Spans,
    /// Whether anything survives a power cut.
    pub persistent: bool,
    /// The times of the power cuts.
    pub cuts: Vec<u64>,
    /// The times at which the broker has started without knowing how long it was down.
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

    /// Checks the session present flag of CONNACK.
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

    /// Records that a connection has ended for the broker.
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

    /// Records that CONNACK was sent: the connection has its session.
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

    /// Settles a will after its client is back, before or after the will was due.
    fn settle_will(&mut self, link: usize, present: bool, now: u64) {
        let Some(will) = self.wills.get_mut(&link) else { return };
        let Some(due_at) = will.due_at else { return };
        let publication = &mut self.publications[will.number as usize];
        if due_at <= now {
            // The timer may have fired later than the client came.
            publication.doubtful |= present && will.delay > 0 && due_at + GRACE > now;
        } else if present {
            publication.dropped_at = Some(now);
            will.due_at = None;
        } else {
            (will.due_at, will.by_clock) = (Some(now), false);
        }
    }

    /// Records that a will may be due: its session may be ending with the CONNECT that its client has sent.
    pub fn will_may_be_due(&mut self, number: u64, now: u64) {
        let mut wills = self.wills.values_mut();
        if let Some(will) = wills.find(|will| will.number == number)
            && will.due_at.is_some_and(|due| due > now)
        {
            (will.due_at, will.by_clock) = (Some(now), false);
        }
    }

    /// Applies the passage of time to wills and sessions.
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

    /// Records that a full disk has room again.
    pub fn disk_has_room(&mut self, shard: usize, now: u64) {
        self.full_disks.remove(&shard);
        if self.full_disks.is_empty() {
            self.disk_full.end(now);
        }
    }

    /// Whether a message may have met a full disk, so that no session and no retained store has kept it. For
    /// an acknowledged message this is no excuse.
    pub fn may_be_unkept(&self, publication: &Publication) -> bool {
        let (first, last) = (publication.first().unwrap_or(0), publication.last().unwrap_or(0));
        publication.acked_at.is_none()
            && (self.disk_full.touch(first, last + GRACE) || self.disk_failed.touch(first, last + GRACE))
    }

    /// Starts the broker: it publishes the wills that are due since the power cut or fell due while it was
    /// down. Their order is not defined, because order is promised for messages "from any given Client"
    /// [MQTT5-4.6.0-5], and each will belongs to another client. So each of them may be the last one of its
    /// topic, and the retained one.
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

    /// Records a power cut.
    pub fn power_cut(&mut self, now: u64) {
        self.pass(now);
        self.run += 1;
        self.cuts.push(now);
        let is_clean = |session: &&Session| session.expiry == Some(0) && session.is_promised;
        let was_open: BTreeSet<usize> = (self.sessions.iter().filter(|session| session.closed_at.is_none()))
            .filter(is_clean)
            .map(|session| session.link)
            .collect();
        // A disk that had failed has kept nothing of that time.
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
            // For the disk, a connection that ended a moment ago, or while the disk had failed, existed until
            // now. Every start before the client is back moves its end to that start, for up to a minute.
            let was_connected = session.closed_at.is_none_or(|closed| {
                closed + GRACE > now || (fails && self.disk_failed.touch(closed, closed))
            });
            // A stopping broker waits for seconds until a full disk has room for the ends of its connections.
            let is_unwritten =
                session.closed_at.is_some_and(|closed| self.disk_full.touch(closed, closed + GRACE));
            session.expiry_doubtful |= is_unwritten && session.expiry != Some(0);
            session.closed_at.get_or_insert(now);
            if was_over || !self.persistent || (session.expiry == Some(0) && session.is_promised) {
                session.over_at.get_or_insert(now);
            } else {
                // It is not exactly known how long it was without its connection.
                session.doubtful |= !session.is_promised;
                session.expiry_doubtful |= was_connected && session.expiry.is_some();
            }
            for unsettled in session.unsettled.values_mut() {
                unsettled.stale = true;
            }
        }
        for (link, will) in &mut self.wills {
            let publication = &mut self.publications[will.number as usize];
            // A full disk may not have recorded that the will was dropped or published.
            let before = |at: u64| at + GRACE < now && !fails && !self.disk_full.touch(at, at + GRACE);
            // Its session may have ended without a record on the disk.
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
                // While the disk is full, the will of a session that ends with its connection is in memory
                // only.
                let mut sessions = self.sessions.iter().filter(|session| session.link == *link);
                publication.doubtful |= sessions.any(|session| {
                    let came = session.connected_at;
                    session.expiry == Some(0) && self.disk_full.touch(came.saturating_sub(GRACE), came)
                });
                continue;
            }
            if is_kept {
                // It may be forgotten whether it was published, or must not be published.
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

    /// Whether it is certainly kept, if it was retained.
    pub fn is_kept(&self, publication: &Publication) -> bool {
        publication.run == self.run || (self.persistent && publication.acked_at.is_some())
    }
}

/// The part of a filter that is compared with topic names.
pub fn matching_part(filter: &str) -> &str {
    match filter.strip_prefix("$share/") {
        Some(rest) => rest.split_once('/').map_or("", |(_, part)| part),
        None => filter,
    }
}

/// Chapter 4.7, literally.
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
