//! The command line: one subcommand per scenario, with the flags that all of them share.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::codec::Version;
use crate::flags::{Logins, Mixed, Offline, Retained, Shared, Slow, Wildcard};
use crate::payload::STAMP_LEN;
use crate::transport::TransportFlags;

/// Load tests for any MQTT broker. Every message is verified: content, order per publisher and
/// topic, losses, duplicates, DUP and retain flags.
///
/// Exit status: 0 no fault, 1 faults were counted, 2 the run could not be made.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    #[command(flatten)]
    Run(Box<Scenario>),
    Compare(crate::compare::Compare),
    #[command(name = crate::child_process::SUBCOMMAND)]
    RunChild(crate::child_process::RunChild),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// A few publishers, each message to every one of many subscribers.
    FanOut(FanOut),
    /// Many publishers, each with one subscriber and a topic of their own.
    Pairs(Pairs),
    /// Many publishers, one subscriber to all of them.
    FanIn(FanIn),
    /// Many connections that only ping: memory per connection.
    Idle(Idle),
    /// Connect, disconnect, connect: connections a second and CPU per connection.
    Storm(Storm),
    /// Steady pairs, without and with clients that log in beside them: what that costs the pairs.
    Logins(Logins),
    /// A large population of wildcard filters, of which each message matches a known few.
    Wildcard(Wildcard),
    /// Publishers to one shared subscription: each message to exactly one member of the group.
    Shared(Shared),
    /// Many retained messages, and how long a new subscriber waits for all of them.
    Retained(Retained),
    /// Sessions that are away while messages come for them, and how long they take to catch up.
    Offline(Offline),
    /// Fan-out with some subscribers that stop reading: what it costs the others.
    #[command(mut_arg("payload", |payload| payload.default_value("1024")))]
    Slow(Slow),
    /// A fleet: telemetry, commands, broken connections, wills and resumed sessions.
    Mixed(Mixed),
}

#[derive(Args, Debug)]
pub(crate) struct FanOut {
    /// Subscribers; each gets every message.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) subscribers: u32,
    /// Publishers, each with a topic of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Pairs {
    /// Pairs of one publisher and one subscriber.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pairs: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct FanIn {
    /// Publishers, each with a topic of its own; the subscriber has one filter for all of them.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Idle {
    /// Connections to hold.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Seconds between two PINGREQ of a connection; spread evenly over all of them.
    #[arg(long, default_value_t = 30.0, value_parser = positive)]
    pub(crate) ping_interval: f64,
    /// Keep alive that is announced, in seconds; 0 is none.
    #[arg(long, default_value_t = 60)]
    pub(crate) keep_alive: u16,
    /// Each connection subscribes to one topic of its own at QoS 1, as a device waiting for
    /// commands does.
    #[arg(long)]
    pub(crate) subscribe: bool,
    /// How long to hold the connections, in seconds.
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) seconds: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Storm {
    /// Connections that are being made at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) concurrency: u32,
    /// Connections a second on a fixed schedule, latency from the scheduled time. Without it the
    /// next connection starts as soon as one ended.
    #[arg(long, value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// Seconds before the measured time.
    #[arg(long, default_value_t = 1.0, value_parser = not_negative)]
    pub(crate) warm_up: f64,
    /// Measured seconds.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) seconds: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// How the messages of a scenario are sent.
#[derive(Args, Clone, Debug)]
pub(crate) struct Load {
    /// QoS of publications and subscriptions.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Bytes of payload; 32 of them are the stamp by which messages are verified.
    #[arg(long, default_value_t = 64, value_parser = payload)]
    pub(crate) payload: usize,
    /// Closed loop: messages per publisher that are not yet delivered to all and acknowledged.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=16_384))]
    pub(crate) window: u16,
    /// Closed loop: a publisher sends only once this many of its window are free.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) burst: u16,
    /// Open loop: messages published a second, by all publishers together, on a fixed schedule;
    /// latency counts from the scheduled time. Replaces the window.
    #[arg(long, value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// Sessions that outlive their connection, of publishers and subscribers: the broker has to keep what
    /// they have not acknowledged. They stay for an hour in 5.0, and for as long as the broker keeps them in
    /// 3.1.1.
    #[arg(long)]
    pub(crate) kept: bool,
    /// Seconds before the measured time.
    #[arg(long, default_value_t = 1.0, value_parser = not_negative)]
    pub(crate) warm_up: f64,
    /// Measured seconds.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// Seconds without any delivery after which what is missing counts as lost.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) stall: f64,
}

/// Where the broker is and how to watch it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Name or address of the broker.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// TCP port of the broker.
    #[arg(long, default_value_t = 1883)]
    pub(crate) port: u16,
    /// Protocol version.
    #[arg(long, value_enum, default_value = "3.1.1")]
    pub(crate) mqtt: Mqtt,
    /// User name for every connection.
    #[arg(long)]
    pub(crate) username: Option<String>,
    /// Password for every connection.
    #[arg(long, requires = "username")]
    pub(crate) password: Option<String>,
    #[command(flatten)]
    pub(crate) transport: TransportFlags,
    /// Process id of the broker, on this machine: reports its CPU time and memory.
    #[arg(long)]
    pub(crate) broker_pid: Option<u32>,
    /// Keep the harness on this CPU.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// Number of source addresses, 127.0.0.2 and up, for a broker on a loopback address. One
    /// address carries about 28,000 connections. The default fits the scenario.
    #[arg(long)]
    pub(crate) sources: Option<usize>,
    /// Connections that may be between connect and CONNACK while a scenario sets up.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connecting: u32,
    /// Print the result as one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the result as a page to this file, with plots, besides what is printed.
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<std::path::PathBuf>,
    /// No progress on standard error.
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Mqtt {
    #[value(name = "3.1.1")]
    V311,
    #[value(name = "5.0", alias = "5")]
    V5,
}

impl Scenario {
    /// The flags that every scenario has.
    pub(crate) fn common(&self) -> &Common {
        match self {
            Scenario::FanOut(flags) => &flags.common,
            Scenario::Pairs(flags) => &flags.common,
            Scenario::FanIn(flags) => &flags.common,
            Scenario::Idle(flags) => &flags.common,
            Scenario::Storm(flags) => &flags.common,
            Scenario::Logins(flags) => &flags.common,
            Scenario::Wildcard(flags) => &flags.common,
            Scenario::Shared(flags) => &flags.common,
            Scenario::Retained(flags) => &flags.common,
            Scenario::Offline(flags) => &flags.common,
            Scenario::Slow(flags) => &flags.common,
            Scenario::Mixed(flags) => &flags.common,
        }
    }
}

impl Common {
    pub(crate) fn version(&self) -> Version {
        match self.mqtt {
            Mqtt::V311 => Version::V311,
            Mqtt::V5 => Version::V5,
        }
    }

    pub(crate) fn target(&self) -> Result<SocketAddr, String> {
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let mut found = found.map_err(|error| format!("{}: {error}", self.host))?;
        found.next().ok_or_else(|| format!("{} has no address", self.host))
    }

    /// The flags that shaped the run, for the report.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let mqtt = match self.mqtt {
            Mqtt::V311 => "3.1.1",
            Mqtt::V5 => "5.0",
        };
        let mut settings = vec![("host", format!("{}:{}", self.host, self.port)), ("mqtt", mqtt.to_owned())];
        settings.extend(self.transport.settings());
        if let Some(cpu) = self.cpu {
            settings.push(("cpu", cpu.to_string()));
        }
        settings
    }

    /// Source addresses for `connections`: those asked for, or as many as it takes when the
    /// kernel's own choice would run out of ports.
    pub(crate) fn source_addresses(
        &self,
        target: SocketAddr,
        connections: usize,
    ) -> Result<Vec<Ipv4Addr>, String> {
        const PER_ADDRESS: usize = 20_000;
        let loopback = crate::net::is_loopback_v4(target);
        match self.sources {
            Some(count) if count > 0 && !loopback => {
                Err("--sources needs a broker on an IPv4 loopback address".to_owned())
            }
            Some(count) => Ok(crate::net::Sources::loopback(count)),
            None if loopback && connections > PER_ADDRESS => {
                Ok(crate::net::Sources::loopback(connections.div_ceil(PER_ADDRESS)))
            }
            None => Ok(Vec::new()),
        }
    }
}

impl Load {
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![("qos", self.qos.to_string()), ("payload", self.payload.to_string())];
        match self.rate {
            Some(rate) => settings.push(("rate", rate.to_string())),
            None => {
                settings.push(("window", self.window.to_string()));
                settings.push(("burst", self.burst.to_string()));
            }
        }
        if self.kept {
            settings.push(("sessions", "kept".to_owned()));
        }
        settings.push(("warm-up", self.warm_up.to_string()));
        settings.push(("seconds", self.seconds.to_string()));
        settings
    }
}

pub(crate) fn payload(text: &str) -> Result<usize, String> {
    /// What the remaining length can carry, less room for the longest header.
    const MAX: usize = 268_000_000;
    let size = text.parse().map_err(|_| "not a number".to_owned())?;
    if (STAMP_LEN..=MAX).contains(&size) { Ok(size) } else { Err(format!("{STAMP_LEN} to {MAX} bytes")) }
}

pub(crate) fn positive(text: &str) -> Result<f64, String> {
    not_negative(text)
        .and_then(|value| if value > 0.0 { Ok(value) } else { Err("must be above 0".to_owned()) })
}

pub(crate) fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && (0.0..=1e9).contains(&value) => Ok(value),
        _ => Err("not a number from 0 to 1e9".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
