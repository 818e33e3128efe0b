//! What an operator may ask a shard, and the answers, as plain data.
//!
//! An [`Inquiry`] is a question on its way. A question that visits every session is answered in steps: each call of
//! `Shard::answer` visits some of them, and the last one returns the answer. Sessions that begin or end between two
//! steps may be in the answer or not.

use crate::base::{ConnectionSlot, LogMark, SessionKey, ShardId, Ticket, Time};
use crate::broker::Violation;
use crate::broker::explain::{ConnectCase, DeliveryCase, DeliveryFindings, Findings, GroupTurn};
use crate::broker::trace::{TraceId, TraceOrder, TracePage};
use crate::mqtt::{ProtocolVersion, QoS};
use crate::session::{Losses, Message};
use crate::topic::GrantedOptions;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// A question, or an order to a shard.
#[derive(Debug)]
pub enum Question {
    /// Does the shard turn?
    Alive,
    /// What does the shard hold?
    Shard,
    /// The sessions that a filter lets through: the first of them in an order.
    Clients(Box<ClientsQuery>),
    /// One session, in detail. Its client identifier must be at home on the shard.
    Client(Box<str>),
    /// Disconnect a client. Its client identifier must be at home on the shard.
    Disconnect {
        /// The client identifier.
        client_id: Box<str>,
        /// Whether its session ends too, connected or not.
        ends_session: bool,
    },
    /// The subscriptions that a filter lets through: the first of them, by client identifier and filter.
    Subscriptions(Box<SubscriptionsQuery>),
    /// The retained messages at home on the shard whose topics match: the first of them, by topic.
    Retained(Box<RetainedQuery>),
    /// A retained message. Its topic must be at home on the shard.
    RetainedMessage(Box<str>),
    /// Remove a retained message without telling its subscribers. Its topic must be at home on the shard.
    RemoveRetained(Box<str>),
    /// The shared subscriptions at home on the shard: the first of them, by filter.
    Groups {
        /// The last filter of the page before.
        after: Option<Box<str>>,
        /// The length of a page: 1 to [`PAGE_MAX`].
        count: usize,
    },
    /// The client identifiers of sessions of the shard.
    ClientIds(Vec<SessionKey>),
    /// Publish a message. Any shard will do.
    Publish(Box<OperatorMessage>),
    /// Let the clients go at a pace and refuse new ones, or `None`: no more. Every shard must be asked.
    Drain(Option<DrainOrder>),
    /// Begin a trace. Every shard must be asked.
    TraceBegin(Box<TraceOrder>),
    /// Take the lines of a trace.
    TraceRead(TraceId),
    /// End a trace.
    TraceEnd(TraceId),
    /// Could a client connect? Its client identifier must be at home on the shard.
    ExplainConnect(Box<ConnectCase>),
    /// Would a client get a message? Its client identifier must be at home on the shard.
    ExplainDelivery(Box<DeliveryCase>),
    /// May a client publish to a topic? Its client identifier must be at home on the shard.
    ExplainPublish {
        /// The client identifier.
        client_id: Box<str>,
        /// The topic name.
        topic: Box<str>,
    },
    /// When does a member of a shared subscription have its turn? Its filter must be at home on the shard.
    GroupTurn {
        /// The filter, with `$share/`.
        filter: Box<str>,
        /// The member.
        member: SessionKey,
    },
}

/// The answer to the question of the same name.
#[derive(Debug)]
pub enum Answer {
    /// It does.
    Alive,
    /// See [`ShardFigures`].
    Shard(Box<ShardFigures>),
    /// See [`ClientsPage`].
    Clients(ClientsPage),
    /// `None` if there is no such session.
    Client(Option<Box<ClientDetails>>),
    /// What was done.
    Disconnect(Disconnected),
    /// See [`SubscriptionsPage`].
    Subscriptions(SubscriptionsPage),
    /// See [`RetainedPage`].
    Retained(RetainedPage),
    /// `None` if there is no such message.
    RetainedMessage(Option<Box<ShownRetained>>),
    /// Whether there was one. It is removed on the disk too.
    RemoveRetained(bool),
    /// The groups, in order.
    Groups(Vec<GroupSummary>),
    /// In the order of the question. `None` for a session that has ended.
    ClientIds(Vec<Option<Box<str>>>),
    /// The order was carried out, and the log has failed: the effect may be gone after a restart.
    Failed(Violation),
    /// What became of the message. A message of QoS 1 or 2 is then where it must not be lost any more.
    Publish(Result<Published, Violation>),
    /// It is so from now on.
    Drain,
    /// Whether it has begun. If not, [`TRACES_MAX`](crate::broker::trace::TRACES_MAX) others run.
    TraceBegin(bool),
    /// The lines since the last time. `None` if the trace has ended.
    TraceRead(Option<TracePage>),
    /// It has ended.
    TraceEnd,
    /// What was found.
    ExplainConnect(Findings),
    /// What was found.
    ExplainDelivery(Box<DeliveryFindings>),
    /// What was found.
    ExplainPublish(Findings),
    /// `None` if there is no such shared subscription.
    GroupTurn(Option<GroupTurn>),
}

/// What an inquiry has come to.
#[derive(Debug)]
pub enum InquiryProgress {
    /// The answer.
    Done(Answer),
    /// It goes on with the next call.
    GoesOn,
    /// It waits for the log or for other shards. Ask again after the next turn.
    Waits,
}

/// What a shard holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFigures {
    /// Its number.
    pub shard: ShardId,
    /// The number of connections in any stage.
    pub connections: usize,
    /// The same by the number of the listener.
    pub connections_by_listener: Vec<usize>,
    /// The number of connections whose CONNECT is not answered yet.
    pub handshakes: usize,
    /// The number of sessions, connected or not.
    pub sessions: usize,
    /// The number of subscriptions without shared ones.
    pub subscriptions: usize,
    /// The number of retained messages at home here.
    pub retained: usize,
    /// The bytes that clients make the shard keep.
    pub kept_bytes: usize,
    /// The number of bytes that wait for the log.
    pub journal_bytes: usize,
    /// Whether the log has failed.
    pub has_log_failed: bool,
}

/// How clients are let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainOrder {
    /// The number of clients of the shard that go in a second.
    pub clients_per_second: u32,
    /// The server that 5.0 clients are told to use instead. `[MQTT5 §4.11]`
    pub server_reference: Option<Box<str>>,
}

/// What was done for [`Question::Disconnect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnected {
    /// Whether the client was connected.
    pub was_connected: bool,
    /// Whether a session has ended. Without Session Expiry Interval it ends with the connection.
    pub has_session_ended: bool,
}

/// Which clients, in which order.
#[derive(Clone, Debug)]
pub struct ClientsQuery {
    /// The beginning of the client identifier. Empty: any.
    pub prefix: Box<str>,
    /// The user name. Only connected clients have one.
    pub user: Option<Box<str>>,
    /// The number of the listener that the client used last.
    pub listener: Option<u16>,
    /// The address of a connected client, without the port.
    pub address: Option<IpAddr>,
    /// Whether the client is connected.
    pub is_connected: Option<bool>,
    /// The order.
    pub order: ClientOrder,
    /// The last client of the page before.
    pub after: Option<ClientRank>,
    /// The length of a page: 1 to [`PAGE_MAX`].
    pub count: usize,
}

/// The largest number of clients in an answer.
pub const PAGE_MAX: usize = 1000;

/// The order of a list of clients. Numbers are in falling order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOrder {
    /// By client identifier, in rising order.
    ClientId,
    /// By messages received from and sent to the client on its connection.
    Messages,
    /// By bytes received from and sent to the client on its connection.
    Bytes,
    /// By messages a second received from and sent to the client, averaged over one minute.
    Rate,
    /// By messages that wait in its queue.
    Queue,
    /// By messages of QoS 1 and 2 that were lost for it since it was last told.
    Lost,
}

/// The place of a client in an order. The first in the list is the lowest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientRank {
    /// The number by which clients are ordered. 0 in the order of client identifiers.
    pub number: Reverse<u64>,
    /// The client identifier.
    pub client_id: Box<str>,
}

/// A part of a list of clients.
#[derive(Debug, Default)]
pub struct ClientsPage {
    /// The clients, in order.
    pub clients: Vec<(ClientRank, ClientSummary)>,
    /// The number of all clients that the filter lets through.
    pub matching: u64,
}

/// What a list shows of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientSummary {
    /// Its connection, if it is connected.
    pub connection: Option<ConnectionSummary>,
    /// The protocol version of its last connection.
    pub version: ProtocolVersion,
    /// The number of the listener that it used last. `None` if that was in an earlier run.
    pub listener: Option<u16>,
    /// The Session Expiry Interval in seconds. `NEVER_EXPIRES`: without end.
    pub expiry_seconds: u32,
    /// Whether the session survives a restart of the broker.
    pub is_kept: bool,
    /// The number of subscriptions.
    pub subscriptions: usize,
    /// The number of messages in its queue.
    pub queued: usize,
    /// The bytes of these messages.
    pub queued_bytes: usize,
    /// The number of messages that were sent and are not acknowledged.
    pub inflight: usize,
    /// The number of messages of QoS 1 and 2 that were lost for it since it was last told.
    pub lost: u64,
}

/// How many messages a connection carries a second, averaged over one and five minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClientLoad {
    /// From the client, over one minute.
    pub received_1: f32,
    /// From the client, over five minutes.
    pub received_5: f32,
    /// To the client, over one minute.
    pub sent_1: f32,
    /// To the client, over five minutes.
    pub sent_5: f32,
}

/// An event of a client that was logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastEvent {
    /// When it happened first, on the clock of the shards.
    pub first: Time,
    /// When it happened last.
    pub last: Time,
    /// How often it has happened.
    pub count: u32,
    /// What has happened, in a word or two.
    pub what: &'static str,
    /// The rest, as it was the last time.
    pub words: Box<str>,
}

/// The connection of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionSummary {
    /// The address of the peer.
    pub peer: SocketAddr,
    /// The user name.
    pub user: Option<Box<str>>,
    /// How long the client is connected, in seconds.
    pub seconds: u64,
    /// The effective keep alive in seconds. 0 if there is none.
    pub keep_alive_seconds: u16,
    /// The number of PUBLISH packets from the client.
    pub messages_in: u64,
    /// The number of bytes from the client.
    pub bytes_in: u64,
    /// The number of PUBLISH packets to the client.
    pub messages_out: u64,
    /// The number of bytes to the client.
    pub bytes_out: u64,
    /// The number of bytes that its socket has not taken.
    pub backlog_bytes: usize,
    /// How many messages it carries a second.
    pub load: ClientLoad,
    /// Why midge does not read from it at the moment, by the names of the limits and conditions. Empty: midge reads.
    pub paused_by: Vec<&'static str>,
}

/// Everything that is shown of one client.
#[derive(Clone, Debug)]
pub struct ClientDetails {
    /// What a list shows.
    pub summary: ClientSummary,
    /// The first of its subscriptions, by filter.
    pub subscriptions: Vec<ClientSubscription>,
    /// The messages that were lost for it since it was last told.
    pub losses: Losses,
    /// The number of QoS 2 packet identifiers of the client that wait for a PUBREL.
    pub held: usize,
    /// The Maximum Packet Size of the client. `None` if it has set none.
    pub packet_bytes_max: Option<u32>,
    /// The will, without its payload.
    pub will: Option<ClientWill>,
    /// Its connection. The shard's host finds by it what lies below MQTT.
    pub slot: Option<ConnectionSlot>,
    /// What TLS tells of the connection. The shard's host knows it.
    pub security: Option<ClientSecurity>,
    /// Its last events, the newest first. The shard's host knows them.
    pub events: Vec<PastEvent>,
}

/// What TLS tells of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSecurity {
    /// The version, such as "TLS 1.3".
    pub version: &'static str,
    /// The registered name of the cipher suite.
    pub cipher_suite: &'static str,
    /// The subject of the client's certificate in the form of RFC 2253. `None` if it has shown none.
    pub certificate_subject: Option<Box<str>>,
}

/// The largest number of subscriptions in [`ClientDetails`].
pub const SUBSCRIPTIONS_SHOWN_MAX: usize = 1000;

/// A subscription of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSubscription {
    /// The filter, as the client has sent it.
    pub filter: Box<str>,
    /// The granted options. `None` for a shared subscription, whose options are with its group.
    pub granted: Option<GrantedOptions>,
}

/// The will of a client, without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientWill {
    /// The topic name.
    pub topic: Box<str>,
    /// The QoS.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// The length of the payload in bytes.
    pub payload_bytes: usize,
    /// The Will Delay Interval in seconds.
    pub delay_seconds: u32,
}

/// Which subscriptions.
#[derive(Clone, Debug)]
pub struct SubscriptionsQuery {
    /// The beginning of the client identifier. Empty: any.
    pub prefix: Box<str>,
    /// The filter, as the client has sent it. `None`: any.
    pub filter: Option<Box<str>>,
    /// A topic name that the filter must match. `None`: any.
    pub topic: Option<Box<str>>,
    /// The last subscription of the page before: client identifier and filter.
    pub after: Option<(Box<str>, Box<str>)>,
    /// The length of a page: 1 to [`PAGE_MAX`].
    pub count: usize,
}

/// A part of a list of subscriptions.
#[derive(Debug, Default)]
pub struct SubscriptionsPage {
    /// By client identifier and filter. The options of a shared subscription are with its group.
    pub subscriptions: BTreeMap<(Box<str>, Box<str>), Option<GrantedOptions>>,
    /// The number of all subscriptions that the filter lets through.
    pub matching: u64,
}

/// Which retained messages.
#[derive(Clone, Debug)]
pub struct RetainedQuery {
    /// A valid topic filter that is not shared.
    pub filter: Box<str>,
    /// The last topic of the page before.
    pub after: Option<Box<str>>,
    /// The length of a page: 1 to [`PAGE_MAX`].
    pub count: usize,
}

/// A part of a list of retained messages.
#[derive(Debug, Default)]
pub struct RetainedPage {
    /// The messages, by topic.
    pub messages: Vec<RetainedSummary>,
    /// Where the next page goes on. `None` at the end. A page may be short, even empty, and not the last.
    pub next: Option<Box<str>>,
}

/// What a list shows of a retained message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedSummary {
    /// The topic name.
    pub topic: Box<str>,
    /// The QoS of its publisher.
    pub qos: QoS,
    /// The length of its payload in bytes.
    pub payload_bytes: usize,
    /// The seconds until it expires, if it does.
    pub expires_in_seconds: Option<u32>,
}

/// A retained message with its payload.
#[derive(Clone, Debug)]
pub struct ShownRetained {
    /// What a list shows.
    pub summary: RetainedSummary,
    /// The message. It shares its bytes with the store.
    pub message: Message,
}

/// A shared subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSummary {
    /// The filter, with `$share/`.
    pub filter: Box<str>,
    /// The number of members.
    pub members: usize,
    /// The first of them, in the order in which they joined.
    pub first: Vec<GroupMemberSummary>,
}

/// A member of a shared subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMemberSummary {
    /// The session. Its shard knows the client identifier.
    pub key: SessionKey,
    /// The granted QoS.
    pub qos: QoS,
    /// Whether it can take messages, as far as the group knows.
    pub is_ready: bool,
}

/// The largest number of members in a [`GroupSummary`].
pub const MEMBERS_SHOWN_MAX: usize = 100;

/// A message of an operator.
#[derive(Clone, Debug)]
pub struct OperatorMessage {
    /// The topic name. It is checked.
    pub topic: Box<str>,
    /// The application message.
    pub payload: Box<[u8]>,
    /// The QoS.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// The Message Expiry Interval in seconds.
    pub expiry_seconds: Option<u32>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Whether it matched subscriptions of the shard that was asked, or another shard may have some.
    pub has_subscribers: bool,
    /// Whether the queue of a session or the store of retained messages was full.
    pub was_refused: bool,
}

/// A question on its way to its answer.
#[derive(Debug)]
pub struct Inquiry {
    pub(super) question: Question,
    /// The next slot to visit.
    pub(super) next: u32,
    /// The clients that are in the answer so far, in order.
    pub(super) found: BTreeMap<ClientRank, ClientSummary>,
    /// The last visited filter of the session at `next`, if it has more.
    pub(super) filter: Option<Box<str>>,
    /// The groups that are in the answer so far.
    pub(super) groups: BTreeMap<Box<str>, GroupSummary>,
    /// The subscriptions that are in the answer so far.
    pub(super) subscriptions: SubscriptionsPage,
    /// The number of clients that the filter has let through so far.
    pub(super) matching: u64,
    /// What the answer waits for, if the order was carried out.
    pub(super) awaits: Option<Awaited>,
}

/// An order that was carried out, and whose effect is not durable yet.
#[derive(Debug)]
pub(super) struct Awaited {
    /// How far the log must be durable.
    pub(super) mark: LogMark,
    /// The ticket that counts the receipts of other shards.
    pub(super) ticket: Option<Ticket>,
    /// The answer.
    pub(super) answer: Answer,
}

impl Inquiry {
    /// A question that has not been looked at.
    pub fn new(question: Question) -> Inquiry {
        Inquiry {
            question,
            next: 0,
            found: BTreeMap::new(),
            filter: None,
            groups: BTreeMap::new(),
            subscriptions: SubscriptionsPage::default(),
            matching: 0,
            awaits: None,
        }
    }

    /// The client that the question is about, if it is about one.
    pub fn client(&self) -> Option<&str> {
        match &self.question {
            Question::Client(client_id) => Some(client_id),
            Question::ExplainDelivery(case) => Some(&case.client_id),
            _ => None,
        }
    }
}

impl SubscriptionsPage {
    /// Joins the answers of several shards to the same query.
    pub fn merge(pages: impl IntoIterator<Item = SubscriptionsPage>, count: usize) -> SubscriptionsPage {
        let mut all = SubscriptionsPage::default();
        for page in pages {
            all.matching += page.matching;
            all.subscriptions.extend(page.subscriptions);
        }
        while all.subscriptions.len() > count {
            all.subscriptions.pop_last();
        }
        all
    }
}

impl ClientsPage {
    /// Joins the answers of several shards to the same query.
    pub fn merge(pages: impl IntoIterator<Item = ClientsPage>, count: usize) -> ClientsPage {
        let mut all = ClientsPage::default();
        for page in pages {
            all.matching += page.matching;
            all.clients.extend(page.clients);
        }
        all.clients.sort_by(|one, other| one.0.cmp(&other.0));
        all.clients.truncate(count);
        all
    }
}
