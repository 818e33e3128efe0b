//! The commands that ask the API: each is a request, and a way to show its answer.

use super::house::{LogLevelArgs, ReloadArgs, log_level};
use super::table::{Column, TextTable};
use super::text_of;
use axum::http::Method;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::IpAddr;

/// What the admin interface is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CtlRequest {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Value>,
}

impl CtlRequest {
    pub(super) fn get(path: impl Into<String>) -> CtlRequest {
        CtlRequest { method: Method::GET, path: path.into(), body: None }
    }

    fn delete(path: impl Into<String>) -> CtlRequest {
        CtlRequest { method: Method::DELETE, path: path.into(), body: None }
    }

    pub(super) fn post(path: &str, body: impl Into<Option<Value>>) -> CtlRequest {
        CtlRequest { method: Method::POST, path: path.to_owned(), body: body.into() }
    }

    pub(super) fn put(path: &str, body: Value) -> CtlRequest {
        CtlRequest { method: Method::PUT, path: path.to_owned(), body: Some(body) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(super) enum ApiAction {
    /// The clients with a session, connected or not
    Clients(ClientsArgs),
    /// One client in detail
    Client {
        /// The client identifier
        client_id: String,
    },
    /// Disconnect a client; exit status 1 if it is not there
    Disconnect {
        /// The client identifier
        client_id: String,
        /// End its session too, connected or not
        #[arg(long)]
        session: bool,
    },
    /// The sessions whose clients are not connected
    Sessions(PageArgs),
    /// The subscriptions of all clients
    Subscriptions(SubscriptionsArgs),
    /// The shared subscriptions and their members
    Groups(PageArgs),
    /// Retained messages
    Retained {
        #[command(subcommand)]
        action: RetainedAction,
    },
    /// Publish a message
    Publish(PublishArgs),
    /// The listeners with their connections and certificates
    Listeners,
    /// The limits, how much of them is used, and how often they were reached
    Limits,
    /// What each shard holds
    Shards,
    /// Banned addresses
    Bans {
        #[command(subcommand)]
        action: BanAction,
    },
    /// Read the configuration and its files again, all or nothing; exit status 1 if they are wrong
    Reload(ReloadArgs),
    /// The level of the log, or another one, for a while
    LogLevel(LogLevelArgs),
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct PageArgs {
    /// Only those whose client identifier (of groups: nothing) begins with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// At most so many, up to 1,000
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
    /// Go on after this: the last line of the page before names it
    #[arg(long, value_name = "NEXT")]
    after: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct ClientsArgs {
    #[command(flatten)]
    page: PageArgs,
    /// Only clients with this user name
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only clients of this listener, by its address
    #[arg(long, value_name = "ADDRESS")]
    listener: Option<String>,
    /// Only clients that are connected from this IP address
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// Only clients that are connected, or that are not
    #[arg(long)]
    state: Option<ConnectedOrAway>,
    /// The order; numbers fall
    #[arg(long)]
    sort: Option<ClientSort>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ConnectedOrAway {
    Connected,
    Away,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ClientSort {
    #[value(name = "client_id")]
    ClientId,
    Messages,
    Bytes,
    Queue,
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct SubscriptionsArgs {
    /// Only clients whose identifier begins with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Only this filter
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// Only filters that match this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// At most so many, up to 1,000
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
    /// Go on after this client and filter
    #[arg(long, num_args = 2, value_names = ["CLIENT", "FILTER"])]
    after: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(super) enum RetainedAction {
    /// The retained messages whose topics match a filter
    List {
        /// The filter
        #[arg(default_value = "#")]
        filter: String,
        /// At most so many, up to 1,000
        #[arg(long, value_name = "NUMBER")]
        limit: Option<usize>,
        /// Go on after this topic
        #[arg(long, value_name = "TOPIC")]
        after: Option<String>,
    },
    /// The retained message of a topic
    Get {
        /// The topic
        topic: String,
    },
    /// Remove the retained message of a topic; subscribers are not told
    Delete {
        /// The topic
        topic: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct PublishArgs {
    /// The topic
    topic: String,
    /// The payload
    #[arg(default_value = "")]
    payload: String,
    /// The QoS
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Retain the message
    #[arg(short, long)]
    retain: bool,
    /// The Message Expiry Interval
    #[arg(long, value_name = "SECONDS")]
    expiry: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(super) enum BanAction {
    /// The bans, without those of gate.banned
    List,
    /// Ban an address: new connections are closed
    Add {
        /// The IP address
        address: IpAddr,
        /// How long; without it until it is removed or midge stops
        #[arg(long)]
        seconds: Option<u32>,
    },
    /// End the ban of an address
    Remove {
        /// The IP address
        address: IpAddr,
    },
}

impl ApiAction {
    /// The request.
    pub(super) fn request(&self) -> CtlRequest {
        match self {
            ApiAction::Clients(args) => {
                let state =
                    args.state.and_then(|state| Some(state.to_possible_value()?.get_name().to_owned()));
                let sort = args.sort.and_then(|sort| Some(sort.to_possible_value()?.get_name().to_owned()));
                let own = [
                    ("user", args.user.clone()),
                    ("listener", args.listener.clone()),
                    ("address", args.address.map(|address| address.to_string())),
                    ("state", state),
                    ("sort", sort),
                ];
                CtlRequest::get(query("/api/v1/clients", args.page.params().into_iter().chain(own)))
            }
            ApiAction::Client { client_id } => {
                CtlRequest::get(format!("/api/v1/clients/{}", coded(client_id, "")))
            }
            ApiAction::Disconnect { client_id, session } => {
                CtlRequest::delete(format!("/api/v1/clients/{}?session={session}", coded(client_id, "")))
            }
            ApiAction::Sessions(page) => CtlRequest::get(query("/api/v1/sessions", page.params())),
            ApiAction::Subscriptions(args) => {
                let after = args.after.as_deref().unwrap_or_default();
                let params = [
                    ("prefix", args.prefix.clone()),
                    ("filter", args.filter.clone()),
                    ("topic", args.topic.clone()),
                    ("limit", args.limit.map(|limit| limit.to_string())),
                    ("after_client", after.first().cloned()),
                    ("after_filter", after.get(1).cloned()),
                ];
                CtlRequest::get(query("/api/v1/subscriptions", params))
            }
            ApiAction::Groups(page) => CtlRequest::get(query("/api/v1/groups", page.params())),
            ApiAction::Retained { action: RetainedAction::List { filter, limit, after } } => {
                let params = [
                    ("filter", Some(filter.clone())),
                    ("limit", limit.map(|limit| limit.to_string())),
                    ("after", after.clone()),
                ];
                CtlRequest::get(query("/api/v1/retained", params))
            }
            ApiAction::Retained { action: RetainedAction::Get { topic } } => {
                CtlRequest::get(format!("/api/v1/retained/{}", coded(topic, "/")))
            }
            ApiAction::Retained { action: RetainedAction::Delete { topic } } => {
                CtlRequest::delete(format!("/api/v1/retained/{}", coded(topic, "/")))
            }
            ApiAction::Publish(args) => CtlRequest::post(
                "/api/v1/publish",
                json!({
                    "topic": args.topic,
                    "payload": args.payload,
                    "qos": args.qos,
                    "retain": args.retain,
                    "message_expiry_seconds": args.expiry,
                }),
            ),
            ApiAction::Listeners => CtlRequest::get("/api/v1/listeners"),
            ApiAction::Limits => CtlRequest::get("/api/v1/limits"),
            ApiAction::Shards => CtlRequest::get("/api/v1/shards"),
            ApiAction::Bans { action: BanAction::List } => CtlRequest::get("/api/v1/bans"),
            ApiAction::Bans { action: BanAction::Add { address, seconds } } => CtlRequest::post(
                "/api/v1/bans",
                json!({ "address": address.to_string(), "seconds": seconds }),
            ),
            ApiAction::Bans { action: BanAction::Remove { address } } => {
                CtlRequest::delete(format!("/api/v1/bans/{address}"))
            }
            ApiAction::Reload(args) => args.request(),
            ApiAction::LogLevel(args) => args.request(),
        }
    }

    /// The answer for people.
    pub(super) fn shown(&self, value: &Value) -> String {
        match self {
            ApiAction::Clients(_) | ApiAction::Sessions(_) => clients(value),
            ApiAction::Client { .. } => client(value),
            ApiAction::Disconnect { .. } => {
                match (flag(value, "was_connected"), flag(value, "session_ended")) {
                    (true, true) => "disconnected, and the session has ended".to_owned(),
                    (true, false) => "disconnected".to_owned(),
                    (false, _) => "the session has ended".to_owned(),
                }
            }
            ApiAction::Subscriptions(_) => subscriptions(value),
            ApiAction::Groups(_) => groups(value),
            ApiAction::Retained { action: RetainedAction::List { .. } } => retained(value),
            ApiAction::Retained { action: RetainedAction::Get { .. } } => fields(value),
            ApiAction::Retained { action: RetainedAction::Delete { .. } } => "removed".to_owned(),
            ApiAction::Publish(_) => {
                let to =
                    if flag(value, "has_subscribers") { "published" } else { "published; nobody subscribes" };
                let refused =
                    if flag(value, "refused_by_some") { "; a queue or the store was full" } else { "" };
                format!("{to}{refused}")
            }
            ApiAction::Listeners => listeners(value),
            ApiAction::Limits => {
                table(value, "limits", &[("key", false), ("value", true), ("used", true), ("reached", true)])
            }
            ApiAction::Shards => table(
                value,
                "shards",
                &[
                    ("shard", true),
                    ("connections", true),
                    ("handshakes", true),
                    ("sessions", true),
                    ("subscriptions", true),
                    ("retained_messages", true),
                    ("memory_bytes", true),
                    ("journal_bytes", true),
                    ("log_failed", false),
                ],
            ),
            ApiAction::Reload(args) => args.shown(value),
            ApiAction::LogLevel(_) => log_level(value),
            ApiAction::Bans { .. } => table(value, "bans", &[("network", false), ("seconds_left", true)]),
        }
    }
}

impl PageArgs {
    fn params(&self) -> [(&'static str, Option<String>); 3] {
        [
            ("prefix", self.prefix.clone()),
            ("limit", self.limit.map(|limit| limit.to_string())),
            ("after", self.after.clone()),
        ]
    }
}

/// A path with the parameters that have a value.
fn query(path: &str, params: impl IntoIterator<Item = (&'static str, Option<String>)>) -> String {
    let mut path = path.to_owned();
    let mut mark = '?';
    for (name, value) in params {
        if let Some(value) = value {
            path.extend([mark.to_string().as_str(), name, "=", &coded(&value, "")]);
            mark = '&';
        }
    }
    path
}

/// Percent-encodes everything but the unreserved characters (RFC 3986, section 2.3) and those of `also`.
fn coded(text: &str, also: &str) -> String {
    let mut coded = String::new();
    for byte in text.bytes() {
        let plain = char::from(byte);
        if plain.is_ascii_alphanumeric()
            || "-._~".contains(plain)
            || (byte.is_ascii() && also.contains(plain))
        {
            coded.push(plain);
        } else {
            // A string takes everything.
            let _ = write!(coded, "%{byte:02X}");
        }
    }
    coded
}

pub(super) fn flag(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or(false)
}

pub(super) fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// A table of the objects in a list. Fields of numbers stand at the right.
pub(super) fn table(value: &Value, list: &str, columns: &[(&str, bool)]) -> String {
    let mut table = TextTable::new(columns.iter().map(|&(field, is_number)| match is_number {
        true => Column::number(&field.replace('_', " ")),
        false => Column::words(&field.replace('_', " ")),
    }));
    for item in items(value, list) {
        table.add(columns.iter().map(|(field, _)| text_of(item, field)));
    }
    table.to_string()
}

/// What follows a page: how many there are in all, and where the next page goes on.
fn rest(value: &Value, what: &str) -> String {
    let mut words = String::new();
    if let Some(matching) = value.get("matching") {
        words = format!("{matching} {what}\n");
    }
    match value.get("next") {
        Some(Value::String(next)) => words + &format!("more: --after '{next}'\n"),
        Some(next @ Value::Object(_)) => {
            words
                + &format!(
                    "more: --after '{}' '{}'\n",
                    text_of(next, "after_client"),
                    text_of(next, "after_filter")
                )
        }
        _ => words,
    }
}

fn clients(value: &Value) -> String {
    let mut table = TextTable::new([
        Column::words("client"),
        Column::words("peer"),
        Column::words("user"),
        Column::words("protocol"),
        Column::number("seconds"),
        Column::number("received"),
        Column::number("sent"),
        Column::number("subscriptions"),
        Column::number("queued"),
        Column::number("inflight"),
        Column::number("lost"),
    ]);
    for client in items(value, "clients") {
        let connection = client.get("connection").unwrap_or(&Value::Null);
        let peer = text_of(connection, "peer");
        table.add([
            text_of(client, "client_id"),
            if peer.is_empty() { "away".to_owned() } else { peer },
            text_of(connection, "user"),
            text_of(client, "protocol"),
            text_of(connection, "connected_seconds"),
            text_of(connection, "messages_received"),
            text_of(connection, "messages_sent"),
            text_of(client, "subscriptions"),
            text_of(client, "queued_messages"),
            text_of(client, "inflight_messages"),
            text_of(client, "lost_messages"),
        ]);
    }
    table.to_string() + &rest(value, "clients")
}

/// The fields of an object, one a line. Lists stand below.
fn client(value: &Value) -> String {
    let mut words = fields(value);
    let mut table =
        TextTable::new([Column::words("subscription"), Column::number("qos"), Column::words("options")]);
    let mut has_some = false;
    for subscription in items(value, "subscription_list") {
        has_some = true;
        let named = |field: &str, words: &str| {
            if flag(subscription, field) { words.to_owned() } else { String::new() }
        };
        let id = text_of(subscription, "subscription_id");
        let id = if id.is_empty() { id } else { format!("identifier {id}") };
        let options =
            [named("no_local", "no local"), named("retain_as_published", "retain as published"), id];
        let options: Vec<String> = options.into_iter().filter(|option| !option.is_empty()).collect();
        table.add([text_of(subscription, "filter"), text_of(subscription, "qos"), options.join(", ")]);
    }
    if has_some {
        words += &format!("\n{table}");
    }
    words
}

/// The fields of an object, one a line, those of objects in it behind their names.
fn fields(value: &Value) -> String {
    let mut table = TextTable::new([Column::words("field"), Column::words("value")]);
    for (name, field) in value.as_object().into_iter().flatten() {
        match field {
            Value::Object(inner) => {
                for inner_name in inner.keys() {
                    let name = format!("{name} {inner_name}").replace('_', " ");
                    table.add([name, text_of(field, inner_name)]);
                }
            }
            Value::Array(list) if list.iter().all(Value::is_string) => {
                let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                table.add([name.replace('_', " "), texts.join(", ")]);
            }
            Value::Array(_) => {}
            _ => table.add([name.replace('_', " "), text_of(value, name)]),
        }
    }
    table.to_string()
}

fn subscriptions(value: &Value) -> String {
    let columns = [("client_id", false), ("filter", false), ("qos", true), ("subscription_id", true)];
    table(value, "subscriptions", &columns) + &rest(value, "subscriptions")
}

fn groups(value: &Value) -> String {
    let mut table = TextTable::new([
        Column::words("filter"),
        Column::words("member"),
        Column::number("qos"),
        Column::words("ready"),
    ]);
    for group in items(value, "groups") {
        let all = text_of(group, "members");
        table.add([text_of(group, "filter"), format!("{all} in all"), String::new(), String::new()]);
        for member in items(group, "member_list") {
            table.add([
                String::new(),
                text_of(member, "client_id"),
                text_of(member, "qos"),
                text_of(member, "ready"),
            ]);
        }
    }
    table.to_string() + &rest(value, "groups")
}

fn retained(value: &Value) -> String {
    let columns = [("topic", false), ("qos", true), ("payload_bytes", true), ("expires_in_seconds", true)];
    table(value, "messages", &columns) + &rest(value, "messages")
}

fn listeners(value: &Value) -> String {
    let columns = [
        ("address", false),
        ("protocol", false),
        ("tls", false),
        ("connections", true),
        ("connections_max", true),
    ];
    let mut words = table(value, "listeners", &columns);
    let mut certificates = TextTable::new([
        Column::words("listener"),
        Column::words("certificate"),
        Column::words("subject"),
        Column::number("days left"),
    ]);
    let mut has_some = false;
    for listener in items(value, "listeners") {
        for certificate in items(listener, "certificates") {
            has_some = true;
            certificates.add([
                text_of(listener, "address"),
                text_of(certificate, "file"),
                text_of(certificate, "subject"),
                text_of(certificate, "days_left"),
            ]);
        }
    }
    if has_some {
        words += &format!("\n{certificates}");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        action: ApiAction,
    }

    fn request(words: &[&str]) -> CtlRequest {
        let line =
            Line::try_parse_from(["ctl"].iter().chain(words)).unwrap_or_else(|error| panic!("{error}"));
        line.action.request()
    }

    #[test]
    fn a_command_is_a_request_with_everything_encoded() {
        assert_eq!(request(&["clients"]), CtlRequest::get("/api/v1/clients"));
        let all = ["clients", "--prefix", "a&b", "--state", "away", "--sort", "client_id", "--limit", "5"];
        let path = "/api/v1/clients?prefix=a%26b&limit=5&state=away&sort=client_id";
        assert_eq!(request(&all), CtlRequest::get(path));
        assert_eq!(request(&["client", "a/b ü"]), CtlRequest::get("/api/v1/clients/a%2Fb%20%C3%BC"));
        let end = CtlRequest::delete("/api/v1/clients/x?session=true");
        assert_eq!(request(&["disconnect", "x", "--session"]), end);
        assert_eq!(request(&["retained", "get", "a/b?"]), CtlRequest::get("/api/v1/retained/a/b%3F"));
        let listed = CtlRequest::get("/api/v1/retained?filter=%23&after=t");
        assert_eq!(request(&["retained", "list", "--after", "t"]), listed);
        let some = CtlRequest::get("/api/v1/subscriptions?topic=t&after_client=c&after_filter=f%2F%2B");
        assert_eq!(request(&["subscriptions", "--topic", "t", "--after", "c", "f/+"]), some);
        let banned = CtlRequest::post("/api/v1/bans", json!({ "address": "192.0.2.1", "seconds": 9 }));
        assert_eq!(request(&["bans", "add", "192.0.2.1", "--seconds", "9"]), banned);
        assert!(Line::try_parse_from(["ctl", "publish", "t", "--qos", "3"]).is_err());
    }

    #[test]
    fn lists_end_with_where_they_go_on() {
        let value = json!({
            "clients": [
                { "client_id": "a", "protocol": "5.0", "queued_messages": 7, "connection": { "peer": "192.0.2.1:9" } },
                { "client_id": "b\u{1b}", "protocol": "3.1.1" },
            ],
            "matching": 9,
            "next": "0:b",
        });
        let shown = clients(&value);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].starts_with("client  "), "{shown}");
        assert!(lines[1].starts_with("a ") && lines[1].contains("192.0.2.1:9"), "{shown}");
        assert!(lines[2].starts_with("b\\u{1b} ") && lines[2].contains("away"), "{shown}");
        assert_eq!(lines[3..], ["9 clients", "more: --after '0:b'"]);
    }

    #[test]
    fn one_client_is_its_fields_and_a_table_of_its_subscriptions() {
        let value = json!({
            "client_id": "a",
            "connection": { "peer": "unix", "paused_by": [] },
            "subscription_list": [{ "filter": "t", "qos": 1, "no_local": true, "subscription_id": 5 }],
        });
        let shown = client(&value);
        assert!(shown.contains("connection peer"), "{shown}");
        assert!(shown.ends_with("t               1  no local, identifier 5\n"), "{shown}");
    }
}
