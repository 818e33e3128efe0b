//! What a client may do, from the moment it is let in, and what changes that: new rules, a new password file, bans, the
//! end of what it was let in with. It is asked here on the way of a message: without an access list that is one look at a
//! flag.

use crate::base::Time;
use crate::base::steps;
use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::access::FiltersLeft;
use crate::broker::components::connections::Identity;
use crate::broker::components::sessions::CHECKED;
use crate::broker::components::timers::Timer;
use crate::broker::{Counter, EndCause, SLOTS_A_TURN, Shard};
use crate::policy::access::Access;
use crate::policy::acl::Permissions;
use std::net::SocketAddr;
use std::sync::Arc;

/// Filters that a turn looks at, and those of one client at a time.
const FILTERS_A_TURN: usize = 1024;
const FILTERS_AT_ONCE: usize = 128;

const EVERYTHING: &Permissions = &Permissions::everything();

impl Shard {
    /// What the listeners ask of their clients, by number of the listener, from now on. Clients that are in are
    /// judged anew, some in each turn: what they may not receive any more they do not get, and whose line in the
    /// password file is gone, or another, has to come in anew.
    pub fn handle_access(&mut self, access: Arc<[Access]>) {
        self.access.set(access);
        self.turn.put_off();
    }

    /// Is anyone still to be judged?
    pub(in crate::broker) fn is_judging(&self) -> bool {
        self.access.is_under_way()
    }

    /// Goes on with judging those who are in.
    pub(in crate::broker) fn judge_again(&mut self, now: Time) {
        let mut looked_at = 0;
        while looked_at < FILTERS_A_TURN
            && let Some(slot) = self.access.next_slot(self.connections.slots())
        {
            looked_at += FILTERS_A_TURN / SLOTS_A_TURN as usize;
            let Some(session) = self.connections.session_of(slot) else { continue };
            if self.is_proof_gone(slot) {
                self.end_connection(now, slot, EndCause::Revoked);
            } else {
                looked_at += self.grant(slot, session);
            }
        }
        while looked_at < FILTERS_A_TURN
            && let Some(left) = self.access.pop_filters()
        {
            looked_at += 1 + self.judge_filters(left);
        }
    }

    /// Goes on with the filters of one client; how many it has looked at.
    fn judge_filters(&mut self, left: FiltersLeft) -> usize {
        let FiltersLeft { slot, judgement, after } = left;
        let Some(session) = self.connections.session_of(slot) else { return 0 };
        let extras = self.connections.get(slot).and_then(|connection| connection.extras.as_ref());
        if extras.is_none_or(|extras| extras.identity.judgement != Some(judgement)) {
            // Another connection, or another judgement, or what it gets has to be looked at anyhow.
            return 0;
        }
        let filters = self.sessions.session(session).subscriptions().after(&after);
        let Some(permissions) = self.permissions(slot) else { return 0 };
        let judged = judge_some(filters, permissions);
        let looked_at = judged.looked_at;
        match judged.end {
            JudgedEnd::More(after) => self.access.put_off(FiltersLeft { slot, judgement, after }),
            JudgedEnd::All => {
                self.sessions.slot_mut(session).flags &= !CHECKED;
                self.forget_judgement(slot);
            }
            JudgedEnd::NotAllReceived => self.forget_judgement(slot),
        }
        looked_at
    }

    /// What the client gets is looked at, or it is not, whatever its other filters are.
    fn forget_judgement(&mut self, slot: ConnectionSlot) {
        if let Some(extras) = self.connections.get_mut(slot).and_then(|connection| connection.extras.as_mut())
        {
            extras.identity.judgement = None;
        }
    }

    fn is_proof_gone(&self, slot: ConnectionSlot) -> bool {
        let identity = self
            .connections
            .get(slot)
            .and_then(|connection| connection.extras.as_ref())
            .map(|extras| &extras.identity);
        match identity {
            Some(Identity { user: Some(user), line: Some(line), .. }) => {
                self.access_of(slot).is_none_or(|access| !access.has_line(user, *line))
            }
            _ => false,
        }
    }

    /// Ends the connections of those who are banned from now on, in some slots from this one on. Gives where to go on
    /// in the next turn, if not all is done.
    pub fn handle_bans(
        &mut self,
        now: Time,
        from: u32,
        is_banned: impl Fn(ConnectionSlot, SocketAddr) -> bool,
    ) -> Option<u32> {
        let slots = self.connections.slots();
        let to = from.saturating_add(SLOTS_A_TURN).min(slots);
        for slot in (from..to).map(ConnectionSlot::new) {
            let peer = self.connections.get(slot).map(|connection| SocketAddr::from(&connection.peer));
            if peer.is_some_and(|peer| is_banned(slot, peer)) {
                self.end_connection(now, slot, EndCause::Banned);
            }
        }
        self.settle(now);
        (to < slots).then_some(to)
    }

    /// The user that the client of a connection has proved to be.
    pub(in crate::broker) fn user(&self, slot: ConnectionSlot) -> Option<&str> {
        self.connections.get(slot)?.extras.as_ref()?.identity.user.as_deref()
    }

    /// The wall clock was set by so many milliseconds. What clients were let in with ends by it, and only by it.
    pub fn handle_wall_step(&mut self, now: Time, step_millis: i64) {
        for slot in (0..self.connections.slots()).map(ConnectionSlot::new) {
            let Some(connection) = self.connections.get(slot) else { continue };
            let Some(timer) = connection.extras.as_ref().and_then(|extras| extras.identity.ends) else {
                continue;
            };
            let Some(deadline) = self.timers.deadline(timer) else { continue };
            let by = step_millis.unsigned_abs();
            let deadline = if step_millis < 0 {
                deadline.after_millis(by)
            } else {
                now.after_millis(deadline.millis_since(now).saturating_sub(by))
            };
            self.timers.cancel(timer);
            let timer = self.timers.schedule(deadline, Timer::Permission(slot));
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.extras().identity.ends = Some(timer);
            }
        }
    }

    /// What a client was let in with has run out.
    pub(in crate::broker) fn handle_permission_end(&mut self, now: Time, slot: ConnectionSlot) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let has_ended = self.timers.take_fired(&mut connection.extras().identity.ends);
        if has_ended {
            self.end_connection(now, slot, EndCause::PermissionEnded);
        }
    }

    /// The rules of the listener that a connection came in by; none if it has gone.
    pub(in crate::broker) fn access_of(&self, slot: ConnectionSlot) -> Option<&Access> {
        self.access.of(self.connections.get(slot)?.listener.into())
    }

    /// Works out what the client of a session may do, and whether each message for it must be looked at. Of many
    /// filters it looks at some, and leaves the others for later; each message is looked at till then. How many it
    /// has looked at.
    pub(in crate::broker) fn grant(&mut self, slot: ConnectionSlot, session: SessionSlot) -> usize {
        let Some(access) = self.access_of(slot) else { return 0 };
        let identity = self
            .connections
            .get(slot)
            .and_then(|connection| connection.extras.as_ref())
            .map(|extras| &extras.identity);
        let user = identity.and_then(|identity| identity.user.as_deref());
        let client_id = &self.sessions.session(session).client_id;
        let mut permissions = access.permissions(user, client_id);
        if let Some(identity) = identity {
            permissions = permissions.and(&identity.granted);
        }
        let judged = match permissions.is_everything() {
            true => FiltersJudged { looked_at: 0, end: JudgedEnd::All },
            false => judge_some(self.sessions.session(session).subscriptions().iter(), &permissions),
        };
        let is_checked = !matches!(judged.end, JudgedEnd::All);
        let entry = self.sessions.slot_mut(session);
        entry.flags = if is_checked { entry.flags | CHECKED } else { entry.flags & !CHECKED };
        self.forget_judgement(slot);
        let Some(connection) = self.connections.get_mut(slot) else { return judged.looked_at };
        if !permissions.is_everything() {
            connection.extras().identity.permissions = Some(permissions);
        } else if let Some(extras) = &mut connection.extras {
            extras.identity.permissions = None;
        }
        if let JudgedEnd::More(after) = judged.end {
            let judgement = self.access.next_judgement();
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.extras().identity.judgement = Some(judgement);
            }
            self.access.put_off(FiltersLeft { slot, judgement, after });
            self.turn.put_off();
        }
        judged.looked_at
    }

    /// None for a connection that has gone: its client may do nothing.
    pub(in crate::broker) fn permissions(&self, slot: ConnectionSlot) -> Option<&Permissions> {
        let extras = self.connections.get(slot)?.extras.as_ref();
        Some(extras.and_then(|extras| extras.identity.permissions.as_ref()).unwrap_or(EVERYTHING))
    }

    /// May the client of this connection publish to a topic name?
    pub(in crate::broker) fn may_publish(&self, slot: ConnectionSlot, topic: &str) -> bool {
        self.permissions(slot).is_some_and(|permissions| permissions.may_publish(topic))
    }

    /// May the client of a session subscribe to a topic filter? Notes if what it then gets must be looked at.
    pub(in crate::broker) fn may_subscribe(&mut self, session: SessionSlot, filter: &str) -> bool {
        let Some(slot) = self.sessions.slot(session).connection else { return false };
        let Some(permissions) = self.permissions(slot) else { return false };
        if permissions.is_everything() {
            return true;
        }
        let (granted, receives_all) =
            (permissions.may_subscribe(filter), permissions.receives_all_of(filter));
        if granted && !receives_all {
            let entry = self.sessions.slot_mut(session);
            entry.flags |= CHECKED;
            self.forget_judgement(slot);
        }
        granted
    }

    /// May the client of a session be sent a message with this topic name? Only asked when the session is
    /// [`CHECKED`]. One without a connection is asked when it is back.
    pub(in crate::broker) fn may_receive(&self, session: SessionSlot, topic: &str) -> bool {
        let may_now = |slot| self.permissions(slot).is_some_and(|permissions| permissions.may_receive(topic));
        let may = self.sessions.slot(session).connection.is_none_or(may_now);
        if !may {
            self.count(Counter::DroppedDenied, 1);
        }
        may
    }
}

/// What came of looking at some filters.
struct FiltersJudged {
    looked_at: usize,
    end: JudgedEnd,
}

enum JudgedEnd {
    /// All that they match is received.
    All,
    /// There is one that matches what the client may not receive.
    NotAllReceived,
    /// There are more behind this one.
    More(Box<str>),
}

/// Looks at the first [`FILTERS_AT_ONCE`] of some filters.
fn judge_some<'a>(filters: impl Iterator<Item = &'a str>, permissions: &Permissions) -> FiltersJudged {
    let mut filters = filters.peekable();
    for looked_at in 1..=FILTERS_AT_ONCE {
        let Some(filter) = filters.next() else {
            return FiltersJudged { looked_at: looked_at - 1, end: JudgedEnd::All };
        };
        steps::walked(1);
        if !permissions.receives_all_of(filter) {
            return FiltersJudged { looked_at, end: JudgedEnd::NotAllReceived };
        }
        if looked_at == FILTERS_AT_ONCE && filters.peek().is_some() {
            return FiltersJudged { looked_at, end: JudgedEnd::More(filter.into()) };
        }
    }
    FiltersJudged { looked_at: FILTERS_AT_ONCE, end: JudgedEnd::All }
}
