//! The permissions of a client after it is accepted, and what changes them: new rules, a new password file,
//! bans, and the end of its login. They are checked for each message. Without an access list, that check is a
//! single flag.

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

/// The number of filters that a turn checks, and of filters of one client that are checked at once.
const FILTERS_A_TURN: usize = 1024;
const FILTERS_AT_ONCE: usize = 128;

const EVERYTHING: &Permissions = &Permissions::everything();

impl Shard {
    /// Sets the access rules of the listeners, by number. Connected clients are checked again, some in each
    /// turn. They do not receive messages that are not allowed any more. If a client's line in the password
    /// file has changed or is gone, it must log in again.
    pub fn handle_access(&mut self, access: Arc<[Access]>) {
        self.access.set(access);
        self.turn.put_off();
    }

    /// Whether any client must still be checked.
    pub(in crate::broker) fn is_judging(&self) -> bool {
        self.access.is_under_way()
    }

    /// Continues to check connected clients.
    pub(in crate::broker) fn judge_again(&mut self, now: Time) {
        let mut looked_at = 0;
        while looked_at < FILTERS_A_TURN
            && let Some(slot) = self.access.next_slot(self.connections.slots())
        {
            looked_at += FILTERS_A_TURN / SLOTS_A_TURN as usize;
            let Some(session) = self.connections.session_of(slot) else { continue };
            self.change_pace(now, slot);
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

    /// Continues with the filters of one client. Returns the number of checked filters.
    fn judge_filters(&mut self, left: FiltersLeft) -> usize {
        let FiltersLeft { slot, judgement, after } = left;
        let Some(session) = self.connections.session_of(slot) else { return 0 };
        let extras = self.connections.get(slot).and_then(|connection| connection.extras.as_ref());
        if extras.is_none_or(|extras| extras.identity.judgement != Some(judgement)) {
            // The connection or the judgement is a different one, or the client's messages must be checked
            // anyway.
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

    /// Ends a judgement: the client's messages are either checked or not, whatever its other filters are.
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

    /// Ends the connections that the operator does not want any more, in some slots from this one on. `why` gets the
    /// address of the peer and the number of the listener. Returns the slot from which to continue in the next
    /// turn, if any are left.
    pub fn handle_unwanted(
        &mut self,
        now: Time,
        from: u32,
        why: impl Fn(ConnectionSlot, SocketAddr, u16) -> Option<EndCause>,
    ) -> Option<u32> {
        let slots = self.connections.slots();
        let to = from.saturating_add(SLOTS_A_TURN).min(slots);
        for slot in (from..to).map(ConnectionSlot::new) {
            let Some(connection) = self.connections.get(slot) else { continue };
            let listener = self.listener_of(connection.entrance);
            if let Some(cause) = why(slot, SocketAddr::from(&connection.peer), listener) {
                self.end_connection(now, slot, cause);
            }
        }
        self.settle(now);
        (to < slots).then_some(to)
    }

    /// The user that the client of a connection has proved to be.
    pub(in crate::broker) fn user(&self, slot: ConnectionSlot) -> Option<&str> {
        self.connections.get(slot)?.extras.as_ref()?.identity.user.as_deref()
    }

    /// Notes that the wall clock was set by this many milliseconds. The ends of logins, and only these,
    /// depend on it.
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

    /// Ends the connection of a client whose login has expired.
    pub(in crate::broker) fn handle_permission_end(&mut self, now: Time, slot: ConnectionSlot) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let has_ended = self.timers.take_fired(&mut connection.extras().identity.ends);
        if has_ended {
            self.end_connection(now, slot, EndCause::PermissionEnded);
        }
    }

    /// The rules of a connection's listener. `None` if the connection has ended.
    pub(in crate::broker) fn access_of(&self, slot: ConnectionSlot) -> Option<&Access> {
        self.access.of(self.listener_of(self.connections.get(slot)?.entrance))
    }

    /// Determines the permissions of a session's client, and whether each message for it must be checked. If
    /// there are many filters, it checks some and leaves the others for later. Until then, each message is
    /// checked. Returns the number of checked filters.
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

    /// The permissions of a connection's client. `None` if the connection has ended: then nothing is allowed.
    pub(in crate::broker) fn permissions(&self, slot: ConnectionSlot) -> Option<&Permissions> {
        let extras = self.connections.get(slot)?.extras.as_ref();
        Some(extras.and_then(|extras| extras.identity.permissions.as_ref()).unwrap_or(EVERYTHING))
    }

    /// Whether the client of this connection may publish to a topic name.
    pub(in crate::broker) fn may_publish(&self, slot: ConnectionSlot, topic: &str) -> bool {
        self.permissions(slot).is_some_and(|permissions| permissions.may_publish(topic))
    }

    /// Whether the client of a session may subscribe to a topic filter. Notes if messages for it must then be
    /// checked.
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

    /// Whether the client of a session may receive a message with this topic name. It is called only if the
    /// session is [`CHECKED`]. Without a connection the check is made when the client returns.
    pub(in crate::broker) fn may_receive(&self, session: SessionSlot, topic: &str) -> bool {
        let may_now = |slot| self.permissions(slot).is_some_and(|permissions| permissions.may_receive(topic));
        let may = self.sessions.slot(session).connection.is_none_or(may_now);
        if !may {
            self.count(Counter::DroppedDenied, 1);
        }
        may
    }
}

/// The result of checking some filters.
struct FiltersJudged {
    looked_at: usize,
    end: JudgedEnd,
}

enum JudgedEnd {
    /// The client may receive all matches of the filters.
    All,
    /// A filter matches a topic that the client may not receive.
    NotAllReceived,
    /// There are more filters after this one.
    More(Box<str>),
}

/// Checks the first [`FILTERS_AT_ONCE`] filters.
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
