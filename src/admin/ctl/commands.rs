//! The commands that ask the API: each is a request, and a way to show its answer.

use super::explain::{ExplainAction, explanation, says_no};
use super::house::{LogLevelArgs, ReloadArgs, log_level};
use super::shown::{client, clients, fields, flag, groups, listeners, retained, subscriptions, table};
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
    /// Whether a client could connect, or would get a message, and why not; exit status 1 if not
    Explain {
        #[command(subcommand)]
        action: ExplainAction,
    },
    /// Let all clients go at a pace, refuse new ones, and stop midge when the last has gone. Sessions stay
    Drain(DrainArgs),
    /// Copy the state of the running midge to a directory on its machine, and verify the copy. midge can be started with
    /// it as its state directory
    Backup {
        /// An absolute path; the directory must not exist or be empty
        #[arg(value_name = "DIR", required_unless_present = "status")]
        directory: Option<String>,
        /// Only say how the last one goes
        #[arg(long, conflicts_with = "directory")]
        status: bool,
    },
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
    Rate,
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

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct DrainArgs {
    /// The number of clients that go in a second
    #[arg(long, value_name = "CLIENTS", default_value_t = 500)]
    rate: u32,
    /// The server that 5.0 clients are told to use instead
    #[arg(long, value_name = "HOST[:PORT]")]
    server_reference: Option<String>,
    /// Do not stop midge at the end
    #[arg(long)]
    stay: bool,
    /// Let nobody else go, and new clients in
    #[arg(long, conflicts_with_all = ["rate", "server_reference", "stay"])]
    cancel: bool,
    /// Only say how far it is
    #[arg(long, conflicts_with_all = ["rate", "server_reference", "stay", "cancel"])]
    status: bool,
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
            ApiAction::Explain { action } => action.request(),
            ApiAction::Backup { directory: Some(directory), .. } => {
                CtlRequest::post("/api/v1/backup", json!({ "directory": directory }))
            }
            ApiAction::Backup { directory: None, .. } => CtlRequest::get("/api/v1/backup"),
            ApiAction::Drain(DrainArgs { status: true, .. }) => CtlRequest::get("/api/v1/drain"),
            ApiAction::Drain(DrainArgs { cancel: true, .. }) => CtlRequest::delete("/api/v1/drain"),
            ApiAction::Drain(args) => CtlRequest::post(
                "/api/v1/drain",
                json!({
                    "clients_per_second": args.rate,
                    "server_reference": args.server_reference,
                    "stay": args.stay,
                }),
            ),
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
                    ("queued_messages", true),
                    ("retained_messages", true),
                    ("memory_bytes", true),
                    ("journal_bytes", true),
                    ("busy_seconds", true),
                    ("mesh_waits", true),
                    ("log_failed", false),
                ],
            ),
            ApiAction::Explain { .. } => explanation(value),
            ApiAction::Backup { .. } => {
                let directory = text_of(value, "directory");
                match text_of(value, "state").as_str() {
                    "done" => format!(
                        "{directory}: {} rows in {} bytes, verified",
                        text_of(value, "rows"),
                        text_of(value, "bytes")
                    ),
                    "failed" => format!("{directory}: failed: {}", text_of(value, "error")),
                    _ => format!("{directory}: it goes on; backup --status tells how"),
                }
            }
            ApiAction::Drain(_) => {
                let clients = text_of(value, "clients");
                match flag(value, "draining") {
                    true => format!("{clients} clients are connected and let go; new ones are refused"),
                    false => format!("{clients} clients are connected, and none is let go"),
                }
            }
            ApiAction::Reload(args) => args.shown(value),
            ApiAction::LogLevel(_) => log_level(value),
            ApiAction::Bans { .. } => table(value, "bans", &[("network", false), ("seconds_left", true)]),
        }
    }
}

impl ApiAction {
    /// Whether an answer means no although the request was carried out.
    pub(super) fn says_no(&self, value: &Value) -> bool {
        matches!(self, ApiAction::Explain { .. }) && says_no(value)
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
pub(super) fn query(path: &str, params: impl IntoIterator<Item = (&'static str, Option<String>)>) -> String {
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
}
