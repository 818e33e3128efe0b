//! Connects clients: CONNECT, CONNACK, SUBSCRIBE and SUBACK, for any number of clients, with a
//! bounded number of them in progress.
//!
//! A scenario describes its clients by [`ClientSpec`]. The [`Connector`] takes the packets of a
//! connection until the client is ready. The scenario takes all later packets.

use std::io;
use std::ops::Range;
use std::time::Duration;

use crate::codec::{self, Connack, Connect, Packet, Version, Will};
use crate::net::{Clock, Closed, Handler, Net};
use crate::progress::Progress;
use crate::verify::Faults;

/// Describes the clients of a scenario.
pub(crate) trait ClientSpec {
    /// Appends the CONNECT of client `id`.
    fn connect(&self, id: usize, out: &mut Vec<u8>);
    /// The next filters of client `id` for one SUBSCRIBE. `from` is the number of filters that it
    /// already has. Empty if it has all of them.
    fn filters(&self, id: usize, from: usize) -> Vec<String>;
    /// The QoS of the subscriptions, which the broker must grant.
    fn subscribe_qos(&self) -> u8;
}

/// A handler whose clients are connected by a [`Connector`].
pub(crate) trait HasConnector: Handler {
    fn connector(&mut self) -> &mut Connector;
}

/// What every client of a run sends in its CONNECT.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) version: Version,
    pub(crate) prefix: String,
    pub(crate) keep_alive_seconds: u16,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
}

impl Identity {
    /// Appends a CONNECT with a clean session.
    pub(crate) fn put_connect(&self, out: &mut Vec<u8>, name: &str) {
        self.put_connect_with(out, name, true, None);
    }

    /// Appends a CONNECT that resumes or creates a session, which outlives the connection.
    pub(crate) fn put_resume(&self, out: &mut Vec<u8>, name: &str, will: Option<Will<'_>>) {
        self.put_connect_with(out, name, false, will);
    }

    fn put_connect_with(&self, out: &mut Vec<u8>, name: &str, clean: bool, will: Option<Will<'_>>) {
        /// Longer than any run. Removes the sessions of a run that was killed.
        const KEPT_SECONDS: u32 = 3600;
        let connect = Connect {
            client_id: &format!("{}{name}", self.prefix),
            clean,
            keep_alive_seconds: self.keep_alive_seconds,
            session_expiry_seconds: if clean { 0 } else { KEPT_SECONDS },
            username: self.username.as_deref(),
            password: self.password.as_deref(),
            will,
        };
        codec::put_connect(out, self.version, &connect);
    }
}

/// Connects the clients of a scenario, and stores the state of each connection.
#[derive(Debug)]
pub(crate) struct Connector {
    version: Version,
    phases: Vec<Phase>,
    in_progress: usize,
    ready: usize,
    /// Number of answers so far. A client with many filters makes progress long before it is ready.
    steps: u64,
    /// Why the run fails. Ends [`connect_clients`].
    failure: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Down,
    Opening,
    /// Waits for the SUBACK of `asked` more filters, beside the `granted` ones.
    Subscribing {
        granted: u32,
        asked: u32,
    },
    Ready,
}

/// What the connector did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    /// The packet is not part of the handshake. The scenario must handle it.
    NotHandshake,
    /// The packet was part of the handshake.
    Consumed,
    /// The packet completed the handshake.
    Ready,
}

/// Each client has only one SUBSCRIBE in flight, so a fixed identifier is enough.
const SUBSCRIBE_ID: u16 = 1;

impl Connector {
    pub(crate) fn new(version: Version, clients: usize) -> Connector {
        Connector {
            version,
            phases: vec![Phase::Down; clients],
            in_progress: 0,
            ready: 0,
            steps: 0,
            failure: None,
        }
    }

    pub(crate) fn is_ready(&self, id: usize) -> bool {
        self.phases[id] == Phase::Ready
    }

    /// Opens the connection of a client that is down. The handshake follows.
    pub(crate) fn open(&mut self, net: &mut Net, id: usize) -> io::Result<()> {
        net.open(id)?;
        self.phases[id] = Phase::Opening;
        self.in_progress += 1;
        Ok(())
    }

    /// The scenario itself closed the connection of a client.
    pub(crate) fn mark_down(&mut self, id: usize) {
        if std::mem::replace(&mut self.phases[id], Phase::Down) == Phase::Ready {
            self.ready -= 1;
        }
    }

    /// Why a client failed to connect, for scenarios that reconnect clients after
    /// [`connect_clients`].
    pub(crate) fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// Handles a packet. Appends the answer to `out`. Stores an accepting CONNACK in `connack`.
    pub(crate) fn handle_packet(
        &mut self,
        id: usize,
        packet: Packet<'_>,
        out: &mut Vec<u8>,
        spec: &impl ClientSpec,
        connack: &mut Option<Connack>,
    ) -> Handled {
        match (self.phases[id], packet.kind()) {
            (Phase::Ready, _) => Handled::NotHandshake,
            (Phase::Opening, codec::CONNACK) => match codec::connack(self.version, packet) {
                Ok(accepted) if accepted.code == 0 => {
                    *connack = Some(accepted);
                    self.subscribe(id, 0, out, spec)
                }
                Ok(refused) => {
                    let why = codec::connack_code(refused.code);
                    self.fail(id, &format!("CONNECT refused with code {}: {why}", refused.code))
                }
                Err(malformed) => self.fail(id, malformed.0),
            },
            (Phase::Subscribing { granted, asked }, codec::SUBACK) => {
                let codes = codec::suback(self.version, packet);
                let wanted = spec.subscribe_qos();
                match codes {
                    Ok((SUBSCRIBE_ID, codes)) if codes.len() == asked as usize => {
                        match codes.iter().find(|&&code| code != wanted) {
                            None => self.subscribe(id, granted + asked, out, spec),
                            Some(code) => self.fail(
                                id,
                                &format!("SUBSCRIBE at QoS {wanted} was answered with {code:#04x}"),
                            ),
                        }
                    }
                    Ok(_) => self.fail(id, "SUBACK does not match its SUBSCRIBE"),
                    Err(malformed) => self.fail(id, malformed.0),
                }
            }
            // A broker may deliver messages before it sends SUBACK. [MQTT5-3.8.4-3]
            (Phase::Subscribing { .. }, codec::PUBLISH) => Handled::NotHandshake,
            (_, kind) => self.fail(id, &format!("unexpected packet of type {kind} during the handshake")),
        }
    }

    /// The connection ended. Returns whether the client was ready. If not, the run fails.
    pub(crate) fn handle_closed(&mut self, id: usize, why: &Closed) -> bool {
        if self.phases[id] == Phase::Ready {
            self.phases[id] = Phase::Down;
            self.ready -= 1;
            return true;
        }
        if std::mem::replace(&mut self.phases[id], Phase::Down) != Phase::Down {
            self.in_progress -= 1;
        }
        self.fail(id, &format!("connection ended during the handshake: {why:?}"));
        false
    }

    fn subscribe(&mut self, id: usize, granted: u32, out: &mut Vec<u8>, spec: &impl ClientSpec) -> Handled {
        self.steps += 1;
        let filters = spec.filters(id, granted as usize);
        if filters.is_empty() {
            self.phases[id] = Phase::Ready;
            self.in_progress -= 1;
            self.ready += 1;
            return Handled::Ready;
        }
        self.phases[id] = Phase::Subscribing { granted, asked: filters.len() as u32 };
        let filters = filters.iter().map(String::as_str);
        codec::put_subscribe(out, self.version, SUBSCRIBE_ID, filters, spec.subscribe_qos());
        Handled::Consumed
    }

    fn fail(&mut self, id: usize, why: &str) -> Handled {
        self.failure.get_or_insert_with(|| format!("client {id}: {why}"));
        Handled::Consumed
    }
}

/// Connects the clients `ids`, at most `in_progress_max` at a time.
///
/// # Errors
/// The first client that fails to connect, or ten seconds without progress.
pub(crate) fn connect_clients(
    net: &mut Net,
    handler: &mut impl HasConnector,
    ids: Range<usize>,
    in_progress_max: u32,
    clock: Clock,
    progress: &mut Progress,
) -> Result<(), String> {
    const TIMEOUT_NANOS: u64 = 10_000_000_000;
    let (wanted, total) = (handler.connector().ready + ids.len(), ids.len());
    let mut waiting = ids;
    let mut last = (clock.now(), 0);
    loop {
        let fleet = handler.connector();
        while fleet.in_progress < in_progress_max as usize
            && let Some(id) = waiting.next()
        {
            fleet.open(net, id).map_err(|error| format!("connection {id}: {error}"))?;
        }
        if let Some(failure) = &fleet.failure {
            return Err(failure.clone());
        }
        let missing = wanted.saturating_sub(fleet.ready);
        if missing == 0 {
            return Ok(());
        }
        let now = clock.now();
        if fleet.steps != last.1 {
            last = (now, fleet.steps);
        } else if now - last.0 > TIMEOUT_NANOS {
            return Err(format!("{missing} clients got no answer to CONNECT or SUBSCRIBE"));
        }
        progress.print_line(now, || format!("connected {} of {total}", total - missing.min(total)));
        net.poll(Duration::from_millis(100), handler).map_err(|error: io::Error| error.to_string())?;
    }
}

/// Counts the end of a ready connection, and stores the first few reasons.
pub(crate) fn count_closed(faults: &mut Faults, details: &mut Vec<String>, id: usize, why: &Closed) {
    match why {
        Closed::Peer(why) => {
            faults.closed += 1;
            detail(details, || format!("connection {id}: {why}"));
        }
        Closed::Malformed(why) => {
            faults.protocol += 1;
            detail(details, || format!("connection {id}: malformed packet: {why}"));
        }
    }
}

/// Stores a detail unless there are already enough.
pub(crate) fn detail(details: &mut Vec<String>, text: impl FnOnce() -> String) {
    const DETAILS_MAX: usize = 8;
    if details.len() < DETAILS_MAX {
        details.push(text());
    }
}
