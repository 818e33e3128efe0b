//! The flags of the scenarios with more to them than sizes and a pace.

use clap::Args;

use crate::cli::{Common, Load, not_negative, payload, positive};

#[derive(Args, Debug)]
pub(crate) struct Logins {
    /// Pairs of one publisher and one subscriber, whose latency is watched.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pairs: u32,
    /// Messages published a second, by all pairs together, on a fixed schedule.
    #[arg(long, default_value_t = 2000.0, value_parser = positive)]
    pub(crate) rate: f64,
    /// QoS of publications and subscriptions.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Bytes of payload; 32 of them are the stamp by which messages are verified.
    #[arg(long, default_value_t = 64, value_parser = payload)]
    pub(crate) payload: usize,
    /// Clients a second that connect, with --username and --password, and leave.
    #[arg(long, default_value_t = 1000.0, value_parser = positive)]
    pub(crate) logins: f64,
    /// Logins that may be under way; those that are due beyond them wait.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) concurrency: u32,
    /// Times that a calm stretch and one with logins follow each other.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds before the measured time of each stretch.
    #[arg(long, default_value_t = 0.5, value_parser = not_negative)]
    pub(crate) warm_up: f64,
    /// Measured seconds of each stretch.
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// Seconds without any delivery after which what is missing counts as lost.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) stall: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Wildcard {
    /// Topic filters with wildcards over all subscribers, rounded down to a multiple of --matches.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) filters: u32,
    /// Connections that share the filters.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) subscribers: u32,
    /// Filters in one SUBSCRIBE packet. Each connection has one of them unanswered at a time, and
    /// --connecting connections subscribe at the same time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) batch: u16,
    /// Publishers; the topics are divided among them.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    /// Topics that are published to, spread evenly over those that the filters are for.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) topics: u32,
    /// Subscribers, of one filter each, that every message matches.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) matches: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Shared {
    /// Publishers, each with a topic of its own.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    /// Members of the one group that shares the subscription to all of the topics.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) members: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Slow {
    /// Subscribers in all; each is to get every message.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) subscribers: u32,
    /// Of them, the ones that stop reading while the others are timed, and read on at the end.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) slow: u32,
    /// Publishers, each with a topic of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Retained {
    /// Retained messages, each on a topic of its own.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub(crate) messages: u32,
    /// Subscribers that get all of them, one after the other.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) subscribers: u32,
    /// QoS of the retained messages and of the subscriptions.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Bytes of payload; 32 of them are the stamp by which messages are verified.
    #[arg(long, default_value_t = 64, value_parser = payload)]
    pub(crate) payload: usize,
    /// Unacknowledged publications while the messages are stored.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=16_384))]
    pub(crate) window: u16,
    /// Leave the retained messages in the broker. Otherwise they are cleared at the end, and one
    /// more subscriber makes sure of it.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Seconds without any progress after which what is missing counts as lost.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) stall: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Offline {
    /// Sessions that outlive their connection.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sessions: u32,
    /// Messages for each session while it is away. Brokers bound what they keep for a session
    /// (midge: limits.session_queue_messages, mosquitto: max_queued_messages): what is above the
    /// bound counts as lost, or as refused when the publisher is told.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) messages: u32,
    /// QoS of publications and subscriptions.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) qos: u8,
    /// Bytes of payload; 32 of them are the stamp by which messages are verified.
    #[arg(long, default_value_t = 64, value_parser = payload)]
    pub(crate) payload: usize,
    /// Unacknowledged publications while the sessions are away.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=16_384))]
    pub(crate) window: u16,
    /// Seconds without any progress after which what is missing counts as lost.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) stall: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Mixed {
    /// Devices: each publishes telemetry, gets commands on a topic of its own, and has a will and
    /// a session that outlives its connection.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) devices: u32,
    /// Subscribers to the telemetry and the wills of all devices.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) backends: u32,
    /// Percent of the devices that publish at QoS 0, 1 and 2.
    #[arg(long, default_value = "50,40,10", value_parser = shares)]
    pub(crate) telemetry_qos: Shares,
    /// Telemetry messages of each device a second.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub(crate) telemetry_rate: f64,
    /// QoS of the commands.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) command_qos: u8,
    /// Commands to each device a second.
    #[arg(long, default_value_t = 0.2, value_parser = not_negative)]
    pub(crate) command_rate: f64,
    /// Times a second that the connection of a device breaks without DISCONNECT.
    #[arg(long, default_value_t = 0.01, value_parser = not_negative)]
    pub(crate) drop_rate: f64,
    /// Times a second that a device disconnects properly and comes back.
    #[arg(long, default_value_t = 0.01, value_parser = not_negative)]
    pub(crate) reconnect_rate: f64,
    /// Seconds that a device stays away each time.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub(crate) away: f64,
    /// Bytes of payload; 32 of them are the stamp by which messages are verified.
    #[arg(long, default_value_t = 64, value_parser = payload)]
    pub(crate) payload: usize,
    /// Measured seconds.
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// Seconds without any progress after which what is missing counts as lost.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) stall: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Percent of a fleet for each QoS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares(pub(crate) [u32; 3]);

impl Shares {
    /// The QoS of device `number`, such that any hundred devices in a row have the shares.
    pub(crate) fn qos(self, number: u32) -> u8 {
        // 37 has no divisor in common with 100: neighbours differ.
        let place = number % 100 * 37 % 100;
        match place {
            _ if place < self.0[0] => 0,
            _ if place < self.0[0] + self.0[1] => 1,
            _ => 2,
        }
    }
}

fn shares(text: &str) -> Result<Shares, String> {
    let parts: Vec<u32> = text.split(',').map_while(|part| part.trim().parse().ok()).collect();
    match parts[..] {
        [zero, one, two] if zero.checked_add(one).and_then(|sum| sum.checked_add(two)) == Some(100) => {
            Ok(Shares([zero, one, two]))
        }
        _ => Err("three numbers that make 100, such as 50,40,10".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hundred_consecutive_devices_have_the_requested_shares() {
        let asked = shares("50,40,10").unwrap();
        let mut found = [0; 3];
        (1234..1334).for_each(|device| found[usize::from(asked.qos(device))] += 1);
        assert_eq!(found, asked.0);
        assert!(shares("50,50").is_err() && shares("50,40,11").is_err() && shares("a,b,c").is_err());
    }
}
