//! The publisher of a retained message, which is stored with the message. With
//! `protocol.check_retain_source`, the access list is also checked when retained messages are sent. The
//! client of a will is stored too, because it has gone when the list is checked.
//!
//! The source goes with the message as bytes: to its home, into its store and onto the disk. Without an
//! access list it is not recorded, and without the option it is not checked.

use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::Shard;
use crate::policy::access::Access;
use crate::policy::acl::Permissions;
use crate::session::{Message, Publication};

/// A publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source<'a> {
    /// The number of the publisher's listener: its place in the configuration.
    listener: u16,
    user: Option<&'a str>,
    client_id: &'a str,
}

/// Stands in place of a user name's length.
const NO_USER: u32 = u32::MAX;

impl<'a> Source<'a> {
    fn encode(&self) -> Vec<u8> {
        let user = self.user.unwrap_or_default();
        let user_len = self.user.map_or(NO_USER, |user| u32::try_from(user.len()).unwrap_or(NO_USER));
        let mut bytes = Vec::with_capacity(6 + user.len() + self.client_id.len());
        bytes.extend_from_slice(&self.listener.to_le_bytes());
        bytes.extend_from_slice(&user_len.to_le_bytes());
        bytes.extend_from_slice(user.as_bytes());
        bytes.extend_from_slice(self.client_id.as_bytes());
        bytes
    }

    fn decode(bytes: &'a [u8]) -> Option<Source<'a>> {
        let (listener, rest) = bytes.split_first_chunk()?;
        let (user_len, rest) = rest.split_first_chunk()?;
        let (user, client_id) = match u32::from_le_bytes(*user_len) {
            NO_USER => (None, rest),
            len => {
                let (user, client_id) = rest.split_at_checked(usize::try_from(len).ok()?)?;
                (Some(std::str::from_utf8(user).ok()?), client_id)
            }
        };
        let client_id = std::str::from_utf8(client_id).ok()?;
        Some(Source { listener: u16::from_le_bytes(*listener), user, client_id })
    }
}

/// The source of a message that a client has published to another broker.
pub fn source_bytes(listener: u16, user: Option<&str>, client_id: &str) -> Vec<u8> {
    Source { listener, user, client_id }.encode()
}

impl Shard {
    /// The source of a client's message. Empty if nothing will check it.
    pub(in crate::broker) fn source_of(
        &self,
        slot: ConnectionSlot,
        session: SessionSlot,
        retain: bool,
    ) -> Vec<u8> {
        if !retain || !self.settings.config.protocol.check_retain_source {
            return Vec::new();
        }
        let Some(connection) = self.connections.get(slot) else { return Vec::new() };
        let listener = self.listener_of(connection.entrance);
        if self.access.of(listener).is_none_or(|access| access.acl.is_none()) {
            return Vec::new();
        }
        self.source_of_will(slot, session)
    }

    /// The source of a will. It does not depend on the present rules, because they may have changed when it
    /// is published.
    pub(in crate::broker) fn source_of_will(&self, slot: ConnectionSlot, session: SessionSlot) -> Vec<u8> {
        let Some(connection) = self.connections.get(slot) else { return Vec::new() };
        let (listener, user) = (self.listener_of(connection.entrance), self.user(slot));
        Source { listener, user, client_id: &self.sessions.session(session).client_id }.encode()
    }

    /// Whether the client of a will would be allowed to publish it now. If its listener is gone, it would
    /// not. A will without a source is from an earlier version of midge, and was checked at CONNECT.
    pub(in crate::broker) fn lets_will(&self, will: &Publication<'_>) -> bool {
        if will.source.is_empty() {
            return true;
        }
        let Some(source) = Source::decode(will.source) else { return false };
        let access = self.access.of(source.listener);
        access.is_some_and(|access| access.permissions(source.user, source.client_id).may_publish(will.topic))
    }
}

/// The client identifier in a source. Empty if there is none.
pub(in crate::broker) fn client_of_source(source: &[u8]) -> &str {
    Source::decode(source).map_or("", |source| source.client_id)
}

/// Checks messages one after the other. Messages of one publisher tend to be consecutive.
pub(in crate::broker) struct SourceCheck<'a> {
    /// By the number of the listener. `None` if nothing is checked.
    access: Option<&'a [Access]>,
    last: Option<(Vec<u8>, Option<Permissions>)>,
}

impl<'a> SourceCheck<'a> {
    pub(in crate::broker) fn new(is_on: bool, access: &'a [Access]) -> SourceCheck<'a> {
        SourceCheck { access: is_on.then_some(access), last: None }
    }

    /// Whether the publisher of a message would be allowed to publish it now. If its listener is gone, it
    /// would be.
    pub(in crate::broker) fn lets(&mut self, topic: &str, message: &Message) -> bool {
        let (Some(access), bytes) = (self.access, message.source()) else { return true };
        if bytes.is_empty() {
            return true;
        }
        if self.last.as_ref().is_none_or(|(of, _)| of != bytes) {
            // If a source can't be read, the publisher is unknown and nothing is allowed.
            let permissions = Source::decode(bytes).map(|source| {
                let access = access.get(usize::from(source.listener));
                access.map_or(Permissions::everything(), |access| {
                    access.permissions(source.user, source.client_id)
                })
            });
            self.last = Some((bytes.to_vec(), permissions));
        }
        let permissions = self.last.as_ref().and_then(|(_, permissions)| permissions.as_ref());
        permissions.is_some_and(|permissions| permissions.may_publish(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_comes_back_as_it_was_and_not_when_it_is_cut() {
        for user in [None, Some(""), Some("user")] {
            let source = Source { listener: 258, user, client_id: "ä" };
            let bytes = source.encode();
            assert_eq!(Source::decode(&bytes), Some(source));
            assert_eq!(Source::decode(&bytes[..5]), None);
        }
        assert_eq!(Source::decode(&[0, 0, 1, 0, 0, 0]), None);
    }
}
