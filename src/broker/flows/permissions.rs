//! Who a client is and what it may do: between its CONNECT and the session, and afterwards.
//!
//! A login that needs a check is an effect, and the answer comes as [`Shard::handle_verdict`]; meanwhile the CONNECT
//! is kept and nothing more is read. What a client may do is asked here on the way of a message: without an
//! access list that is one look at a flag.

use super::connect::Told;
use super::read::Progress;
use crate::base::Time;
use crate::base::steps;
use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::connections::{Identity, KeptConnect, Stage};
use crate::broker::components::judging::FiltersLeft;
use crate::broker::components::sessions::CHECKED;
use crate::broker::components::timers::Timer;
use crate::broker::{Counter, Effect, EndCause, Event, Limit, MemoryRelief, SLOTS_A_TURN, Shard, Violation};
use crate::mqtt::codec::{Connect, Frame};
use crate::mqtt::{ProtocolVersion, Reason};
use crate::policy::access::{Access, Grant, Login, Verdict};
use crate::policy::acl::Permissions;
use std::net::SocketAddr;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Filters that a turn looks at, and those of one client at a time.
const FILTERS_A_TURN: usize = 1024;
const FILTERS_AT_ONCE: usize = 128;

/// What becomes of a CONNECT.
enum Judged {
    /// The client is let in under this name.
    In(Option<Box<str>>),
    Out(Violation),
    /// Its password is to be checked.
    Ask(Box<Login>),
}

const EVERYTHING: &Permissions = &Permissions::everything();

const ANONYMOUS: Violation = Violation {
    reason: Reason::NotAuthorized,
    cause: "anonymous clients are not allowed (auth.allow_anonymous)",
};
const NO_CERTIFICATE: Violation =
    Violation { reason: Reason::BadUserNameOrPassword, cause: "no client certificate that names a user" };
const BUSY: Violation = Violation { reason: Reason::ServerBusy, cause: "too many logins wait to be checked" };
const UNCHECKED: Violation = Violation {
    reason: Reason::ServerBusy,
    cause: "its login was not checked within limits.connect_seconds",
};
const UNAVAILABLE: Violation = Violation {
    reason: Reason::ServerUnavailable,
    cause: "the server that decides on logins does not answer",
};
const OUTDATED: Violation = Violation {
    reason: Reason::ServerUnavailable,
    cause: "the password file has changed since the password was checked",
};
const WILL_DENIED: Violation =
    Violation { reason: Reason::NotAuthorized, cause: "the client may not publish to its will's topic" };

impl Shard {
    /// What the listeners ask of their clients, by number of the listener, from now on. Clients that are in are
    /// judged anew, some in each turn: what they may not receive any more they do not get, and whose line in the
    /// password file is gone, or another, has to come in anew.
    pub fn handle_access(&mut self, access: Arc<[Access]>) {
        self.access = access;
        self.judging.begin();
        self.turn.put_off();
    }

    /// Is anyone still to be judged?
    pub(in crate::broker) fn is_judging(&self) -> bool {
        self.judging.is_under_way()
    }

    /// Goes on with judging those who are in.
    pub(in crate::broker) fn judge_again(&mut self, now: Time) {
        let mut looked_at = 0;
        while looked_at < FILTERS_A_TURN
            && let Some(slot) = self.judging.next_slot(self.connections.slots())
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
            && let Some(left) = self.judging.pop_filters()
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
            JudgedEnd::More(after) => self.judging.put_off(FiltersLeft { slot, judgement, after }),
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

    /// The name that a client's certificate gives it.
    pub fn handle_certificate_user(&mut self, slot: ConnectionSlot, user: Box<str>) {
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.extras().certificate_user = Some(user);
        }
    }

    /// A login was checked. `serial`: as in [`Effect::Check`].
    pub fn handle_verdict(&mut self, now: Time, slot: ConnectionSlot, serial: u32, verdict: Verdict) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.serial != serial || !matches!(connection.stage, Stage::Check) {
            return;
        }
        let Some(kept) = connection.extras().connect.take() else { return };
        let Ok(mut connect) = kept.decode() else { return };
        let user = self.certificate_user(slot);
        if self.name_after_user(slot, &mut connect, user.as_deref()).is_err() {
            return;
        }
        let refuse = |shard: &mut Shard, violation| {
            shard.refuse(now, slot, Some(Told::of(&connect)), connect.client_id, violation)
        };
        let progress = match verdict {
            Verdict::Good(grant) => {
                // A server that is asked for all lets in clients without any proof too.
                if connect.username.is_some() || connect.password.is_some() {
                    self.note_proof(slot);
                }
                self.let_in(now, slot, &connect, grant)
            }
            Verdict::Bad(cause) => {
                let violation = Violation { reason: Reason::NotAuthorized, cause };
                self.refuse_login(slot, &Told::of(&connect), connect.client_id, violation)
            }
            Verdict::Busy => refuse(self, BUSY),
            Verdict::Unavailable => refuse(self, UNAVAILABLE),
        };
        self.settle(now);
        if let Progress::Next = progress {
            // What the client has sent behind its CONNECT.
            self.read(now, slot, &[]);
            self.settle(now);
        }
    }

    /// The time for CONNECT is over, and the login was not checked: others were before it, or refusals of its address
    /// wait. The client hears that it may try again.
    pub(in crate::broker) fn refuse_unchecked(&mut self, now: Time, slot: ConnectionSlot) {
        self.count(Counter::LimitConnectSeconds, 1);
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(kept) = connection.extras().connect.take() else { return };
        let Ok(mut connect) = kept.decode() else { return };
        let user = self.certificate_user(slot);
        if self.name_after_user(slot, &mut connect, user.as_deref()).is_ok() {
            self.refuse(now, slot, Some(Told::of(&connect)), connect.client_id, UNCHECKED);
        }
    }

    /// Does the connection wait for the answer to its login? Nothing is to be read meanwhile.
    pub fn awaits_verdict(&self, slot: ConnectionSlot) -> bool {
        let waits = |stage: &Stage| matches!(stage, Stage::Check | Stage::Refuse);
        self.connections.get(slot).is_some_and(|connection| waits(&connection.stage))
    }

    /// A CONNECT without enhanced authentication, which is right otherwise.
    pub(in crate::broker) fn admit(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
        packet: Frame<'_>,
    ) -> Progress {
        match self.judge(slot, connect) {
            Judged::In(user) => {
                if self.access_of(slot).is_some_and(|access| access.names_by_certificate) {
                    self.note_proof(slot);
                }
                self.let_in(now, slot, connect, Grant { user, ..Grant::default() })
            }
            Judged::Out(violation) if violation == NO_CERTIFICATE => {
                self.refuse_login(slot, &Told::of(connect), connect.client_id, violation)
            }
            Judged::Out(violation) => {
                self.refuse(now, slot, Some(Told::of(connect)), connect.client_id, violation)
            }
            Judged::Ask(login) => {
                let Some(connection) = self.connections.get_mut(slot) else { return Progress::Gone };
                connection.stage = Stage::Check;
                connection.extras().connect = Some(KeptConnect::of(packet));
                let serial = connection.serial;
                self.effects.push(Effect::Check { slot, serial, login });
                Progress::Next
            }
        }
    }

    fn judge(&self, slot: ConnectionSlot, connect: &Connect<'_>) -> Judged {
        let (Some(connection), Some(access)) = (self.connections.get(slot), self.access_of(slot)) else {
            return Judged::Out(ANONYMOUS);
        };
        let certified = match &connection.extras {
            Some(extras) if access.names_by_certificate => extras.certificate_user.clone(),
            _ => None,
        };
        if access.names_by_certificate && certified.is_none() {
            return Judged::Out(NO_CERTIFICATE);
        }
        let is_certified = certified.is_some();
        let user = certified.or_else(|| connect.username.map(Box::from));
        let is_anonymous_allowed = access.allow_anonymous.unwrap_or(self.terms(slot).allow_anonymous);
        let is_nobody = user.is_none() && connect.password.is_none();
        let is_asked = match (is_certified, is_nobody) {
            (true, _) => access.asks_for_all,
            (false, true) => access.asks_for_all && !is_anonymous_allowed,
            (false, false) => access.asks_for_all || access.checks_passwords,
        };
        if is_asked {
            return Judged::Ask(Box::new(Login {
                client_id: connect.client_id.into(),
                user,
                is_certified,
                password: connect.password.map(|password| Zeroizing::new(password.into())),
                peer: SocketAddr::from(&connection.peer),
                listener: connection.listener.into(),
                version: connect.version,
            }));
        }
        // A name that nobody looks at is as good as none.
        if is_certified || is_anonymous_allowed { Judged::In(user) } else { Judged::Out(ANONYMOUS) }
    }

    /// The client is who it says.
    pub(in crate::broker) fn let_in(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
        grant: Grant,
    ) -> Progress {
        let Grant { user, line, seconds, permissions: granted } = grant;
        let Some(access) = self.access_of(slot) else { return Progress::Gone };
        if let (Some(user), Some(line)) = (&user, line)
            && !access.has_line(user, line)
        {
            // The file has changed while the proof was on its way: the next try is judged by the new one.
            return self.refuse(now, slot, Some(Told::of(connect)), connect.client_id, OUTDATED);
        }
        if let Some(will) = &connect.will {
            let topic = super::mount::mounted(&self.terms(slot).mount_point, will.topic);
            let permissions = access.permissions(user.as_deref(), connect.client_id).and(&granted);
            if !permissions.may_publish(&topic) {
                return self.refuse(now, slot, Some(Told::of(connect)), connect.client_id, WILL_DENIED);
            }
        }
        let ends = seconds.map(|seconds| {
            let end = now.after_millis(seconds.saturating_mul(1000));
            self.timers.schedule(end, Timer::Permission(slot))
        });
        if (user.is_some() || ends.is_some() || !granted.is_everything())
            && let Some(connection) = self.connections.get_mut(slot)
        {
            connection.extras().identity = Identity { user, line, granted, ends, ..Identity::default() };
        }
        self.accept(now, slot, connect)
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

    /// There are as many sessions as there may be, and the client has none of them.
    pub(in crate::broker) fn refuse_session(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
        client_id: &str,
    ) -> Progress {
        self.report(Event::LimitReached { limit: Limit::Sessions, client: client_id.into() });
        // As mosquitto says it: there is room again when another session ends.
        let is_3 = connect.version < ProtocolVersion::V5;
        let reason = if is_3 { Reason::ServerUnavailable } else { Reason::ServerBusy };
        let violation = Violation { reason, cause: "limits.sessions is reached" };
        self.refuse(now, slot, Some(Told::of(connect)), client_id, violation)
    }

    /// The session or the will of a client would take memory that is short.
    pub(in crate::broker) fn refuse_for_memory(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
        client_id: &str,
    ) -> Progress {
        self.report_memory(MemoryRelief::Connect, client_id);
        let is_3 = connect.version < ProtocolVersion::V5;
        let reason = if is_3 { Reason::ServerUnavailable } else { Reason::QuotaExceeded };
        let violation = Violation { reason, cause: "limits.memory_bytes is nearly reached" };
        self.refuse(now, slot, Some(Told::of(connect)), client_id, violation)
    }

    /// The rules of the listener that a connection came in by; none if it has gone.
    pub(in crate::broker) fn access_of(&self, slot: ConnectionSlot) -> Option<&Access> {
        self.access.get(usize::from(self.connections.get(slot)?.listener))
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
            let judgement = self.judging.next_judgement();
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.extras().identity.judgement = Some(judgement);
            }
            self.judging.put_off(FiltersLeft { slot, judgement, after });
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
