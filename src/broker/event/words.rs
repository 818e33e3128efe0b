//! An event in words, for an operator who looks at one client.

use super::{Event, LOGGED_CHARACTERS_MAX};
use std::fmt::Write;
use std::net::SocketAddr;

/// What an operator sees of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventWords<'a> {
    /// The client identifier. Empty if it is not known.
    pub client: &'a str,
    /// The address of the peer.
    pub peer: Option<SocketAddr>,
    /// The topic name, or its beginning.
    pub topic: Option<&'a str>,
    /// What has happened, in a word or two.
    pub what: &'static str,
    /// The rest.
    pub words: String,
}

impl Event {
    /// The client identifier, or its beginning. `None` if the event is about no client.
    pub fn client(&self) -> Option<&str> {
        let client = match self {
            Event::Connected { client, .. }
            | Event::Disconnected { client, .. }
            | Event::Refused { client, .. }
            | Event::PublishRefused { client, .. }
            | Event::SubscribeRefused { client, .. }
            | Event::MoreSubscribesRefused { client, .. }
            | Event::Losses { client, .. }
            | Event::DroppedForSlow { client, .. }
            | Event::LimitReached { client, .. } => client,
            Event::ConnectionRefused { .. }
            | Event::Unconnected { .. }
            | Event::TurnedAway { .. }
            | Event::Banned { .. }
            | Event::Subscribed { .. }
            | Event::Unsubscribed { .. }
            | Event::MoreUnsubscribed { .. }
            | Event::Matched { .. } => return None,
        };
        Some(client).filter(|client| !client.is_empty()).map(|client| &**client)
    }

    /// Whether the event is about this client. Some events have only the beginning of a long client identifier.
    pub fn is_about(&self, client_id: &str) -> bool {
        self.client().is_some_and(|client| {
            client == client_id
                || (client_id.starts_with(client) && client.chars().count() == LOGGED_CHARACTERS_MAX)
        })
    }

    /// Whether a client may cause the event many times over, so that it is counted rather than kept each time.
    pub fn may_repeat(&self) -> bool {
        !matches!(self, Event::Connected { .. } | Event::Disconnected { .. })
    }

    /// The event in words. `None` if it is not about a client, or if a trace shows the same in another way.
    pub fn in_words(&self) -> Option<EventWords<'_>> {
        let (what, words) = self.parts()?;
        let (peer, topic) = match self {
            Event::Connected { peer, .. }
            | Event::Disconnected { peer, .. }
            | Event::Refused { peer, .. }
            | Event::ConnectionRefused { peer, .. }
            | Event::Unconnected { peer, .. } => (Some(*peer), None),
            Event::PublishRefused { topic, .. } => (None, Some(&**topic)),
            _ => (None, None),
        };
        Some(EventWords { client: self.client().unwrap_or_default(), peer, topic, what, words })
    }

    fn parts(&self) -> Option<(&'static str, String)> {
        Some(match self {
            Event::Connected { keep_alive_seconds, session_present, session_expiry_seconds, .. } => {
                let session = if *session_present { "its session goes on" } else { "a new session" };
                let words = format!(
                    "{session}, keep alive {keep_alive_seconds} s, session expiry {session_expiry_seconds} s"
                );
                ("accepted", words)
            }
            Event::Disconnected { seconds, queued, cause, .. } => {
                let words =
                    format!("{cause}; connected for {seconds} s, {queued} messages wait in its queue");
                ("connection ended", words)
            }
            Event::Refused { violation, .. } => ("connect refused", violation.to_string()),
            Event::ConnectionRefused { limit, .. } => {
                ("connection refused", format!("{}: {}", limit.key(), limit.consequence()))
            }
            Event::Unconnected { cause, .. } => ("connection ended", cause.to_string()),
            Event::PublishRefused { topic, rule, violation, .. } => {
                let mut words = format!("{topic:?}: {violation}");
                if let Some(rule) = rule {
                    // A string takes everything.
                    let _ = write!(words, " by {rule}");
                }
                ("publish refused", words)
            }
            Event::SubscribeRefused { filter, rule, reason, .. } => {
                let mut words = format!("{filter:?}: {} (0x{:02X})", reason.words(), reason.code());
                if let Some(rule) = rule {
                    let _ = write!(words, " by {rule}");
                }
                ("subscribe refused", words)
            }
            Event::MoreSubscribesRefused { filters, .. } => {
                ("subscribe refused", format!("{filters} more filters"))
            }
            Event::Losses { is_back, losses, .. } => {
                let [queue_full, expired, too_large, withdrawn] = losses.counts();
                let words = format!(
                    "{queue_full} by a full queue, {expired} expired, {too_large} too large, {withdrawn} not \
                     allowed any more; {}",
                    if *is_back { "the client is told" } else { "its session has ended" }
                );
                ("lost", words)
            }
            Event::DroppedForSlow { messages, .. } => {
                ("dropped", format!("{messages} messages of QoS 0 while the client did not read"))
            }
            Event::LimitReached { limit, .. } => {
                ("limit reached", format!("{}: {}", limit.key(), limit.consequence()))
            }
            // They name no client.
            Event::TurnedAway { .. } | Event::Banned { .. } => return None,
            // SUBACK and UNSUBACK show the same, and so do the lines of a message's way.
            Event::Subscribed { .. }
            | Event::Unsubscribed { .. }
            | Event::MoreUnsubscribed { .. }
            | Event::Matched { .. } => return None,
        })
    }
}
