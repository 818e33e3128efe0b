//! The commands that explain what would happen to a login or a message.

use super::commands::{CtlRequest, query};
use super::shown::{events, flag, items};
use super::table::{Column, TextTable};
use super::text_of;
use clap::Subcommand;
use serde_json::Value;
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(super) enum ExplainAction {
    /// Whether a client could connect. No password is taken, so none is checked
    Connect {
        /// The client identifier; without it midge would assign one
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// The user name
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// The listener, by its address; the first one without it
        #[arg(long, value_name = "ADDRESS")]
        listener: Option<String>,
        /// The IP address of the client, for bans
        #[arg(long, value_name = "ADDRESS")]
        address: Option<IpAddr>,
        /// The protocol version
        #[arg(long, value_name = "VERSION", value_parser = ["3.1", "3.1.1", "5.0"])]
        version: Option<String>,
        /// With Clean Start
        #[arg(long)]
        clean_start: bool,
    },
    /// Whether a client would get a message
    Deliver {
        /// The client that is to get it
        #[arg(long, value_name = "ID")]
        client: String,
        /// The topic
        #[arg(long, value_name = "TOPIC")]
        topic: String,
        /// The QoS with which it is published
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
        qos: u8,
        /// The length of its payload in bytes
        #[arg(long, value_name = "BYTES", default_value_t = 0)]
        size: usize,
        /// The client that publishes it
        #[arg(long, value_name = "ID")]
        publisher: Option<String>,
    },
}

impl ExplainAction {
    pub(super) fn request(&self) -> CtlRequest {
        match self {
            ExplainAction::Connect { client, user, listener, address, version, clean_start } => {
                CtlRequest::get(query(
                    "/api/v1/explain/connect",
                    [
                        ("client", client.clone()),
                        ("user", user.clone()),
                        ("listener", listener.clone()),
                        ("address", address.map(|address| address.to_string())),
                        ("version", version.clone()),
                        ("clean_start", clean_start.then(|| "true".to_owned())),
                    ],
                ))
            }
            ExplainAction::Deliver { client, topic, qos, size, publisher } => CtlRequest::get(query(
                "/api/v1/explain/delivery",
                [
                    ("client", Some(client.clone())),
                    ("topic", Some(topic.clone())),
                    ("qos", Some(qos.to_string())),
                    ("payload_bytes", Some(size.to_string())),
                    ("publisher", publisher.clone()),
                ],
            )),
        }
    }
}

/// Whether an answer says that it would not happen.
pub(super) fn says_no(value: &Value) -> bool {
    !flag(value, "would")
}

/// The outcome, and a table of what was looked at.
pub(super) fn explanation(value: &Value) -> String {
    let mut table = TextTable::new([Column::words(""), Column::words("looked at"), Column::words("found")]);
    for line in items(value, "findings") {
        let mark = match text_of(line, "finding").as_str() {
            "good" => "+",
            "bad" => "-",
            _ => " ",
        };
        table.add([mark.to_owned(), text_of(line, "subject"), text_of(line, "words")]);
    }
    let mut words = format!("{}\n\n{table}", text_of(value, "outcome"));
    if let Some(losses) = value.get("losses") {
        let count = |field| text_of(losses, field);
        words += &format!(
            "\nlost since the client was last told: {} by a full queue, {} expired, {} too large, {} withdrawn\n",
            count("queue_full"),
            count("expired"),
            count("too_large"),
            count("withdrawn")
        );
    }
    words + &events(value)
}
