//! Mount points: the prefix that a listener adds to every topic of its clients, and removes again.
//!
//! Inside the broker a topic has its full name. Only the packets of such a client have the short one.

use crate::base::SessionSlot;
use crate::broker::Shard;
use crate::broker::components::sessions::MOUNTED;
use crate::mqtt::TopicFilter;
use std::borrow::Cow;

/// The maximum length of a topic name or filter. `[MQTT5-4.7.3-3]`
pub(in crate::broker) const TOPIC_BYTES_MAX: usize = 65_535;

/// The full name of a topic. Without a mount point that is the topic itself.
pub(in crate::broker) fn mounted<'a>(mount_point: &str, topic: &'a str) -> Cow<'a, str> {
    if mount_point.is_empty() { Cow::Borrowed(topic) } else { Cow::Owned(format!("{mount_point}{topic}")) }
}

impl Shard {
    /// The full text of a filter, which must be checked again. `None` without a mount point. In a shared
    /// subscription, the mount point goes after the share name.
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
        // A text that is too long is not a valid filter.
        Some(if whole.len() > TOPIC_BYTES_MAX { String::new() } else { whole })
    }

    /// The name of a topic as the client of this connection knows it. A topic outside its mount point
    /// (subscribed to through another listener) keeps its full name, and so does the mount point itself,
    /// because an empty topic name is not allowed. `[MQTT5-4.7.3-1]`
    pub(in crate::broker) fn unmounted<'a>(&self, session: SessionSlot, topic: &'a str) -> &'a str {
        let short = topic.strip_prefix(self.terms_of_session(session).mount_point.as_str());
        short.filter(|short| !short.is_empty()).unwrap_or(topic)
    }
}
