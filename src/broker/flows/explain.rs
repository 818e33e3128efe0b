//! Explains to an operator whether a client could connect, or would get a message, and why not. Nothing is changed.
//!
//! The order is that of the flows `connect` and `deliver`, which decide when it happens.

use super::connect::version;
use super::mount::mounted;
use super::publish::is_reserved;
use crate::base::{SessionKey, SessionSlot};
use crate::broker::Shard;
use crate::broker::components::sessions::{BACKLOGGED, GATED};
use crate::broker::explain::{ConnectCase, DeliveryCase, DeliveryFindings, Finding, Findings, GroupTurn};
use crate::mqtt::{ProtocolVersion, QoS, TopicFilter, check_topic_name, filter_matches};
use crate::policy::acl::{Permissions, RuleQuestion};
use crate::settings::QueuePolicy;
use std::net::SocketAddr;

/// The number of subscriptions that are compared with a topic.
const FILTERS_LOOKED_AT: usize = 10_000;
/// The number of matching subscriptions that are named.
const FILTERS_NAMED: usize = 20;
/// About the size of a PUBLISH without topic and payload: the fixed header, a packet identifier and an empty list of
/// properties.
const HEADER_BYTES: usize = 10;

impl Shard {
    /// Whether a client could connect. The client identifier must be at home here.
    pub(in crate::broker) fn explain_connect(&self, case: &ConnectCase) -> Findings {
        let mut found = Findings::default();
        let config = &self.settings.config;
        let terms = self.settings.terms_of(case.listener);
        let is_taken = terms.versions.has(version(case.version));
        let words = if is_taken { "the listener takes it" } else { "the listener does not take it (0x84)" };
        found.add_if(is_taken, "version", words);
        let mut client_id = &*case.client_id;
        if terms.user_name_as_client_id {
            match case.user.as_deref().filter(|user| !user.is_empty()) {
                Some(user) => {
                    client_id = user;
                    let words =
                        format!("the user name {user:?} takes its place (listeners.user_name_as_client_id)");
                    found.add(Finding::Note, "client identifier", words);
                }
                None => {
                    let words = "no user name to be the client identifier (listeners.user_name_as_client_id)";
                    found.add(Finding::Bad, "client identifier", words);
                }
            }
        }
        self.explain_client_id(client_id, case, &mut found);
        self.explain_proof(case, &mut found);
        let session = self.sessions.find(client_id).filter(|_| !client_id.is_empty());
        match session {
            Some(session) => self.explain_session(session, case, &mut found),
            None => {
                let sessions = self.shared.sessions();
                let words = format!("{sessions} of {} (limits.sessions)", config.limits.sessions);
                found.add_if(sessions < config.limits.sessions, "a new session", words);
            }
        }
        if self.is_memory_tight() {
            let is_bad = session.is_none() || case.clean_start;
            let finding = if is_bad { Finding::Bad } else { Finding::Note };
            found.add(
                finding,
                "memory",
                "limits.memory_bytes is reached: new sessions and wills are refused",
            );
        }
        if let Some(access) = self.access.of(case.listener) {
            let permissions = access.permissions(case.user.as_deref(), client_id);
            let words = match &access.acl {
                None => "there is no access list: the client may do everything",
                Some(_) if permissions.is_everything() => "the access list allows everything",
                Some(_) => {
                    "an access list decides what the client may do; ask with explain deliver, or trace it"
                }
            };
            found.add(Finding::Note, "access list", words);
        }
        found
    }

    fn explain_client_id(&self, client_id: &str, case: &ConnectCase, found: &mut Findings) {
        let config = &self.settings.config;
        let terms = self.settings.terms_of(case.listener);
        let is_too_long = client_id.len() > config.limits.client_id_bytes
            || (case.version == ProtocolVersion::V31
                && config.protocol.strict_31
                && client_id.chars().count() > 23);
        let prefix = config.auth.client_id_prefix.as_str();
        let (is_good, words) = if client_id.is_empty() && !terms.zero_length_client_id {
            (false, "it is empty, and protocol.zero_length_client_id is false".to_owned())
        } else if is_too_long {
            (false, "it is longer than limits.client_id_bytes or the 23 characters of 3.1".to_owned())
        } else if !client_id.is_empty() && !client_id.starts_with(prefix) {
            (false, format!("it does not begin with auth.client_id_prefix, {prefix:?}"))
        } else if client_id.is_empty() {
            (true, "midge assigns one".to_owned())
        } else {
            (true, format!("{client_id:?} can be used; its home is shard {}", self.id))
        };
        found.add_if(is_good, "client identifier", words);
    }

    fn explain_proof(&self, case: &ConnectCase, found: &mut Findings) {
        let Some(access) = self.access.of(case.listener) else { return };
        let terms = self.settings.terms_of(case.listener);
        let may_be_anonymous = access.allow_anonymous.unwrap_or(terms.allow_anonymous);
        if access.names_by_certificate {
            let words = "the certificate of the client must give its user name; it can't be known before";
            return found.add(Finding::Note, "login", words);
        }
        let Some(user) = case.user.as_deref() else {
            let is_good = may_be_anonymous;
            let words = match (is_good, access.asks_for_all) {
                (true, _) => "clients may connect without a user name (allow_anonymous)",
                (false, true) => "the webhook is asked; it can't be known before",
                (false, false) => "a user name and a proof are needed (allow_anonymous is false)",
            };
            let finding = match (is_good, access.asks_for_all) {
                (true, _) => Finding::Good,
                (false, true) => Finding::Note,
                (false, false) => Finding::Bad,
            };
            return found.add(finding, "login", words);
        };
        let config = &self.settings.config;
        let listener = config.listeners.get(usize::from(case.listener));
        let takes_tokens = listener.is_some_and(|listener| config.means(listener).tokens);
        let in_file = access.passwords.as_ref().map(|file| file.line(user).is_some());
        match in_file {
            Some(true) => {
                let words = format!("{user:?} is in the password file; the password is not looked at here");
                found.add(Finding::Good, "login", words);
            }
            Some(false) if !access.asks_for_all && !takes_tokens => {
                found.add(Finding::Bad, "login", format!("{user:?} is not in the password file (0x87)"));
            }
            _ if access.asks_for_all || access.checks_passwords => {
                let words = "a token or the webhook decides; it can't be known before";
                found.add(Finding::Note, "login", words);
            }
            _ if may_be_anonymous => {
                let words = "nothing proves user names at this listener; anybody may connect";
                found.add(Finding::Good, "login", words);
            }
            _ => found.add(Finding::Bad, "login", "nothing at this listener can prove a user name"),
        }
    }

    fn explain_session(&self, session: SessionSlot, case: &ConnectCase, found: &mut Findings) {
        let entry = self.sessions.slot(session);
        if let Some(connection) = entry.connection.and_then(|slot| self.connections.get(slot)) {
            let peer = SocketAddr::from(&connection.peer);
            let words = format!("the client is connected from {peer}; that connection would end (0x8E)");
            found.add(Finding::Note, "takeover", words);
        }
        let state = self.sessions.session(session);
        let words = match case.clean_start {
            true => format!(
                "it would end: {} subscriptions and {} queued messages are lost",
                state.subscriptions().len(),
                state.queue.len()
            ),
            false => format!(
                "it would go on: {} subscriptions, {} queued messages",
                state.subscriptions().len(),
                state.queue.len()
            ),
        };
        found.add(Finding::Note, "session", words);
    }

    /// Whether a client would get a message. Its client identifier must be at home here.
    pub(in crate::broker) fn explain_delivery(&self, case: &DeliveryCase) -> DeliveryFindings {
        let mut all = DeliveryFindings::default();
        let found = &mut all.findings;
        if check_topic_name(&case.topic).is_err() {
            found.add(Finding::Bad, "topic", "it is no topic name");
            return all;
        }
        if is_reserved(&case.topic) {
            found.add(Finding::Note, "topic", "only midge itself publishes to it");
        }
        let Some(session) = self.sessions.find(&case.client_id) else {
            let words = format!(
                "the client {:?} has no session: it never connected, or its session has ended",
                case.client_id
            );
            found.add(Finding::Bad, "session", words);
            return all;
        };
        let entry = self.sessions.slot(session);
        let state = self.sessions.session(session);
        all.session = Some(self.sessions.key(session));
        all.losses = state.losses().copied().unwrap_or_default();
        let connection = entry.connection.and_then(|slot| Some((slot, self.connections.get(slot)?)));
        let words = match connection {
            Some((_, connection)) => format!("connected from {}", SocketAddr::from(&connection.peer)),
            None => "the client is away".to_owned(),
        };
        found.add(Finding::Good, "session", words);
        let Some(granted) = self.explain_match(session, case, &mut all) else { return all };
        let found = &mut all.findings;
        let upgrade = self.settings.config.protocol.upgrade_outgoing_qos;
        let qos = if upgrade { granted } else { case.qos.min(granted) };
        found.add(
            Finding::Good,
            "QoS",
            format!("published at {}, granted {}, delivered at {}", case.qos as u8, granted as u8, qos as u8),
        );
        match connection.and_then(|(slot, _)| self.permissions(slot)) {
            Some(permissions) => explain_rule(permissions, RuleQuestion::Receive(&case.topic), found),
            None => found.add(Finding::Note, "access list", "it is asked when the client returns"),
        }
        let bytes = HEADER_BYTES + case.topic.len() + case.payload_bytes;
        if entry.packet_bytes_max < u32::MAX {
            let words = format!("about {bytes} bytes, the client takes {}", entry.packet_bytes_max);
            found.add_if(bytes <= entry.packet_bytes_max as usize, "Maximum Packet Size", words);
        }
        self.explain_place(session, case, qos, &mut all);
        all
    }

    /// The highest QoS of the subscriptions that match. `None` if none does.
    fn explain_match(
        &self,
        session: SessionSlot,
        case: &DeliveryCase,
        all: &mut DeliveryFindings,
    ) -> Option<QoS> {
        let state = self.sessions.session(session);
        let own = case.publisher.as_deref() == Some(&*case.client_id);
        let (mut best, mut matching, mut kept_back) = (None, 0usize, 0usize);
        for text in state.subscriptions().iter().take(FILTERS_LOOKED_AT) {
            let Ok(filter) = TopicFilter::parse(text) else { continue };
            if !filter_matches(filter.matching_part(), &case.topic) {
                continue;
            }
            matching += 1;
            let found = &mut all.findings;
            if filter.shared().is_some() {
                all.groups.push(text.into());
                best = best.max(Some(QoS::AtMostOnce));
                found.add(Finding::Good, "subscription", format!("{text:?} matches"));
                continue;
            }
            let Some(granted) = self.subscriptions.granted(filter.matching_part(), session) else { continue };
            let is_kept_back = own && granted.no_local;
            kept_back += usize::from(is_kept_back);
            if !is_kept_back {
                best = best.max(Some(granted.qos));
                all.has_own_match = true;
            }
            if matching <= FILTERS_NAMED {
                let no_local = if is_kept_back { ", and No Local keeps it back" } else { "" };
                let words = format!("{text:?} matches at QoS {}{no_local}", granted.qos as u8);
                let finding = if is_kept_back { Finding::Note } else { Finding::Good };
                found.add(finding, "subscription", words);
            }
        }
        let found = &mut all.findings;
        if matching == 0 {
            let words = format!("none of its {} subscriptions matches", state.subscriptions().len());
            found.add(Finding::Bad, "subscription", words);
        } else if kept_back == matching {
            found.add(
                Finding::Bad,
                "No Local",
                "the client is the publisher, and all its subscriptions have No Local",
            );
        } else if matching > FILTERS_NAMED {
            found.add(Finding::Good, "subscription", format!("{} more match", matching - FILTERS_NAMED));
        }
        best
    }

    /// Whether the message would be sent, wait in the queue, or be dropped.
    fn explain_place(&self, session: SessionSlot, case: &DeliveryCase, qos: QoS, all: &mut DeliveryFindings) {
        let (entry, state) = (self.sessions.slot(session), self.sessions.session(session));
        let config = &self.settings.config;
        let found = &mut all.findings;
        let is_backlogged = entry.flags & BACKLOGGED != 0;
        if qos == QoS::AtMostOnce {
            match entry.connection {
                Some(_) if is_backlogged => {
                    let words = "the client does not read; midge drops QoS 0 above limits.backlog_bytes";
                    found.add(Finding::Note, "connection", words);
                }
                Some(_) if entry.flags & GATED == 0 => {
                    found.add(Finding::Good, "connection", "it takes messages");
                }
                _ if config.protocol.queue_qos0 => {
                    all.would_wait = true;
                    found.add(Finding::Note, "queue", "it would wait: protocol.queue_qos0 is true");
                }
                _ => found.add(Finding::Bad, "queue", "QoS 0 is not queued for a client that is away"),
            }
            return;
        }
        if self.is_unkept(session) {
            return found.add(
                Finding::Bad,
                "disk",
                "it is full or has failed, and the session is kept on it",
            );
        }
        let can_send = entry.connection.is_some()
            && !is_backlogged
            && entry.flags & GATED == 0
            && state.queue.is_empty()
            && state.inflight.has_room();
        if can_send {
            let words = format!("it takes messages; {} wait for its acknowledgement", state.inflight.len());
            return found.add(Finding::Good, "connection", words);
        }
        all.would_wait = true;
        let why = match entry.connection {
            None => "the client is away".to_owned(),
            Some(_) if is_backlogged => "the client does not read as fast as it gets messages".to_owned(),
            Some(_) if !state.inflight.has_room() => {
                format!("{} messages wait for its acknowledgement, its Receive Maximum", state.inflight.len())
            }
            Some(_) => "earlier messages wait".to_owned(),
        };
        found.add(Finding::Note, "queue", format!("it would wait: {why}"));
        let limits = &config.limits;
        let bytes = case.topic.len() + case.payload_bytes;
        let is_full = state.queue.len() >= limits.session_queue_messages
            || state.queue.bytes() + bytes > limits.session_queue_bytes
            || self.memory.queues_excess(bytes) > 0;
        let words = format!(
            "{} of {} messages, {} of {} bytes",
            state.queue.len(),
            limits.session_queue_messages,
            state.queue.bytes(),
            limits.session_queue_bytes
        );
        if !is_full {
            return found.add(Finding::Good, "queue", words);
        }
        match self.queue_policy(session) {
            QueuePolicy::DropOldest => {
                found.add(
                    Finding::Note,
                    "queue",
                    format!("{words}: full, and its oldest message would be dropped"),
                );
            }
            QueuePolicy::DropNewest => {
                found.add(Finding::Bad, "queue", format!("{words}: full, and this message would be dropped"));
            }
            QueuePolicy::Refuse => {
                found.add(Finding::Bad, "queue", format!("{words}: full, and the message would be refused"));
            }
        }
    }

    /// Whether a client may publish to a topic. `None` if it is not connected, so that its rules are not known.
    pub(in crate::broker) fn explain_publish(&self, client_id: &str, topic: &str) -> Findings {
        let mut found = Findings::default();
        let connected =
            self.sessions.find(client_id).and_then(|session| self.sessions.slot(session).connection);
        let Some((slot, permissions)) = connected.and_then(|slot| Some((slot, self.permissions(slot)?)))
        else {
            found.add(
                Finding::Note,
                "publisher",
                format!("{client_id:?} is not connected; its rules are asked then"),
            );
            return found;
        };
        let terms = self.terms(slot);
        let topic = mounted(&terms.mount_point, topic);
        explain_rule(permissions, RuleQuestion::Publish(&topic), &mut found);
        found
    }

    /// When a member of a shared subscription has its turn.
    pub(in crate::broker) fn group_turn(&self, filter: &str, member: SessionKey) -> Option<GroupTurn> {
        let members = self.groups.members(self.groups.slot_of(filter)?)?;
        let mut in_turn = members.in_turn().filter_map(|place| members.get(place));
        Some(GroupTurn {
            members: members.len(),
            before: in_turn.position(|other| other.key == member),
            is_ready: !self.groups.is_busy(member),
        })
    }
}

fn explain_rule(permissions: &Permissions, question: RuleQuestion<'_>, found: &mut Findings) {
    let verdict = permissions.verdict(question);
    let subject = match question {
        RuleQuestion::Publish(_) => "access list for the publisher",
        RuleQuestion::Receive(_) | RuleQuestion::Subscribe(_) => "access list",
    };
    found.add_if(verdict.is_allowed(), subject, verdict.to_string());
}
