//! Mount points: what a listener puts before every topic of its clients, and takes away again.
//!
//! Inside of the broker a topic has its whole name; only the packets of such a client have the short one.

use crate::base::SessionSlot;
use crate::broker::Shard;
use crate::broker::components::sessions::MOUNTED;
use crate::mqtt::TopicFilter;
use std::borrow::Cow;

/// Longest topic name or filter. `[MQTT5-4.7.3-3]`
pub(in crate::broker) const TOPIC_BYTES_MAX: usize = 65_535;

/// The whole name of a topic; without a mount point it is that already.
pub(in crate::broker) fn mounted<'a>(mount_point: &str, topic: &'a str) -> Cow<'a, str> {
    if mount_point.is_empty() { Cow::Borrowed(topic) } else { Cow::Owned(format!("{mount_point}{topic}")) }
}

impl Shard {
    /// The whole text of a filter, to be checked again; `None` without a mount point. That of a shared subscription has its place behind the
    /// share's name.
    pub(in crate::broker) fn mounted_filter(
        &self,
        session: SessionSlot,
        filter: TopicFilter<'_>,
    ) -> Option<String> {
        let text = filter.as_str();
        if self.sessions.slot(session).flags & MOUNTED == 0 {
            return None;
        }
        let mount_point = &self.terms_of_session(session).mount_point;
        let whole = match filter.shared() {
            None => format!("{mount_point}{text}"),
            Some(_) => {
                let share = &text[..text.len() - filter.matching_part().len()];
                format!("{share}{mount_point}{}", filter.matching_part())
            }
        };
        // What is too long is no filter any more.
        Some(if whole.len() > TOPIC_BYTES_MAX { String::new() } else { whole })
    }

    /// The name of a topic as the client of this connection knows it. One that is not below its mount point
    /// (subscribed to by another listener) keeps its whole name, as the mount point itself does: no client takes
    /// an empty topic name. `[MQTT5-4.7.3-1]`
    pub(in crate::broker) fn unmounted<'a>(&self, session: SessionSlot, topic: &'a str) -> &'a str {
        let short = topic.strip_prefix(self.terms_of_session(session).mount_point.as_str());
        short.filter(|short| !short.is_empty()).unwrap_or(topic)
    }
}
