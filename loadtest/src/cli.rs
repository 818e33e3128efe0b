//! The command line: one subcommand per scenario, and the flags that all scenarios share.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::codec::Version;
use crate::flags::{Logins, Mixed, Offline, Retained, Shared, Slow, Wildcard};
use crate::payload::STAMP_LEN;
use crate::transport::TransportFlags;

/// Load tests for any MQTT broker. Every message is verified: content, order per publisher and
/// topic, losses, duplicates, DUP and RETAIN flags.
///
/// Exit status: 0 no faults, 1 faults were counted, 2 the run failed.
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
    /// A few publishers. Every subscriber gets every message.
    FanOut(FanOut),
    /// Many publishers. Each has its own topic and one subscriber.
    Pairs(Pairs),
    /// Many publishers and one subscriber, which gets every message.
    FanIn(FanIn),
    /// Many idle connections that only ping. Measures the memory per connection.
    Idle(Idle),
    /// Connects and disconnects repeatedly. Measures connections per second and CPU time per
    /// connection.
    Storm(Storm),
    /// Pairs at a steady rate, with and without clients that log in at the same time. Measures the
    /// effect of the logins on the pairs.
    Logins(Logins),
    /// Many wildcard filters. Each message matches a known number of them.
    Wildcard(Wildcard),
    /// Several publishers and one shared subscription. Each message goes to exactly one member.
    Shared(Shared),
    /// Many retained messages. Measures how long a new subscriber waits for all of them.
    Retained(Retained),
    /// Sessions that get messages while they are offline. Measures how long they take to catch up.
    Offline(Offline),
    /// Fan-out with some subscribers that stop reading. Measures the effect on the others.
    #[command(mut_arg("payload", |payload| payload.default_value("1024")))]
    Slow(Slow),
    /// A fleet of devices: telemetry, commands, broken connections, wills and resumed sessions.
    Mixed(Mixed),
}

#[derive(Args, Debug)]
pub(crate) struct FanOut {
    /// Number of subscribers. Each gets every message.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) subscribers: u32,
    /// Number of publishers. Each has its own topic.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Pairs {
    /// Number of pairs of one publisher and one subscriber.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pairs: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct FanIn {
    /// Number of publishers. Each has its own topic; the subscriber has one filter for all topics.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Idle {
    /// Number of connections to keep open.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Seconds between two PINGREQ of a connection. The pings of all connections are spread evenly.
    #[arg(long, default_value_t = 30.0, value_parser = positive)]
    pub(crate) ping_interval: f64,
    /// Keep alive in CONNECT, in seconds. 0 means none.
    #[arg(long, default_value_t = 60)]
    pub(crate) keep_alive: u16,
    /// Each connection subscribes to its own topic at QoS 1, like a device that waits for commands.
    #[arg(long)]
    pub(crate) subscribe: bool,
    /// How long to keep the connections open, in seconds.
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) seconds: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Storm {
    /// Number of connections that are opened at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) concurrency: u32,
    /// Connections per second, on a fixed schedule. Latency counts from the scheduled time. Without
    /// it, the next connection starts when one ends.
    #[arg(long, value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// Warm-up before the measured time, in seconds.
    #[arg(long, default_value_t = 1.0, value_parser = not_negative)]
    pub(crate) warm_up: f64,
    /// Measured time, in seconds.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) seconds: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// How a scenario sends its messages.
#[derive(Args, Clone, Debug)]
pub(crate) struct Load {
    /// QoS of publications and subscriptions.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Payload size in bytes. 32 bytes of it are the stamp that verifies the message.
    #[arg(long, default_value_t = 64, value_parser = payload)]
    pub(crate) payload: usize,
    /// Closed loop: maximum number of messages per publisher that are not yet delivered to all
    /// subscribers and acknowledged.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=16_384))]
    pub(crate) window: u16,
    /// Closed loop: a publisher sends only when at least this much of its window is free.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) burst: u16,
    /// Open loop: messages per second of all publishers together, on a fixed schedule. Latency
    /// counts from the scheduled time. Replaces the window.
    #[arg(long, value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// Publishers and subscribers have sessions that outlive their connection. The broker must keep
    /// what they have not acknowledged. The sessions expire after an hour in 5.0, and when the
    /// broker decides in 3.1.1.
    #[arg(long)]
    pub(crate) kept: bool,
    /// Warm-up before the measured time, in seconds.
    #[arg(long, default_value_t = 1.0, value_parser = not_negative)]
    pub(crate) warm_up: f64,
    /// Measured time, in seconds.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// Seconds without any delivery after which missing messages count as lost.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) stall: f64,
}

/// Where the broker is, and how to measure it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Host name or address of the broker.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// TCP port of the broker.
    #[arg(long, default_value_t = 1883)]
    pub(crate) port: u16,
    /// MQTT version.
    #[arg(long, value_enum, default_value = "3.1.1")]
    pub(crate) mqtt: Mqtt,
    /// User name of every connection.
    #[arg(long)]
    pub(crate) username: Option<String>,
    /// Password of every connection.
    #[arg(long, requires = "username")]
    pub(crate) password: Option<String>,
    #[command(flatten)]
    pub(crate) transport: TransportFlags,
    /// Process id of the broker on this machine. Adds its CPU time and memory to the report.
    #[arg(long)]
    pub(crate) broker_pid: Option<u32>,
    /// Pin the harness to this CPU.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// Number of source addresses, from 127.0.0.2 on, for a broker on a loopback address. One
    /// address is enough for about 28,000 connections. The default depends on the scenario.
    #[arg(long)]
    pub(crate) sources: Option<usize>,
    /// Maximum number of connections between connect and CONNACK while a scenario starts.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connecting: u32,
    /// Print the result as one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write the result to this file, as an HTML page with plots.
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<std::path::PathBuf>,
    /// Print no progress to standard error.
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

    /// Checks the texts of CONNECT, which have a length of two bytes there. It is not clap that checks
    /// them, because its error would show the password.
    ///
    /// # Errors
    /// Names the flag, and says what MQTT allows.
    pub(crate) fn check(&self) -> Result<(), String> {
        const BYTES_MAX: usize = u16::MAX as usize;
        for (flag, text) in [("--username", &self.username), ("--password", &self.password)] {
            let bytes = text.as_ref().map_or(0, String::len);
            if bytes > BYTES_MAX {
                return Err(format!("{flag} has {bytes} bytes, but MQTT allows at most {BYTES_MAX}"));
            }
        }
        Ok(())
    }

    pub(crate) fn target(&self) -> Result<SocketAddr, String> {
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let mut found = found.map_err(|error| format!("{}: {error}", self.host))?;
        found.next().ok_or_else(|| format!("{} has no address", self.host))
    }

    /// The settings for the report.
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

    /// Source addresses for `connections`: the number that the flag gives, or else as many as are
    /// needed to have enough ports. Empty if the kernel may choose.
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
    /// The largest remaining length, less the longest header.
    const MAX: usize = 268_000_000;
    let size = text.parse().map_err(|_| "not a number".to_owned())?;
    if (STAMP_LEN..=MAX).contains(&size) {
        Ok(size)
    } else {
        Err(format!("must be {STAMP_LEN} to {MAX} bytes"))
    }
}

pub(crate) fn positive(text: &str) -> Result<f64, String> {
    not_negative(text)
        .and_then(|value| if value > 0.0 { Ok(value) } else { Err("must be above 0".to_owned()) })
}

pub(crate) fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && (0.0..=1e9).contains(&value) => Ok(value),
        _ => Err("must be a number from 0 to 1e9".to_owned()),
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
