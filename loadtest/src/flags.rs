//! The flags of the more complex scenarios.

use clap::Args;

use crate::cli::{Common, Load, not_negative, payload, positive};

#[derive(Args, Debug)]
pub(crate) struct Logins {
    /// Number of pairs of one publisher and one subscriber. Their latency is measured.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pairs: u32,
    /// Messages per second of all pairs together, on a fixed schedule.
    #[arg(long, default_value_t = 2000.0, value_parser = positive)]
    pub(crate) rate: f64,
    /// QoS of publications and subscriptions.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Payload size in bytes. 32 bytes of it are the stamp that verifies the message.
    #[arg(long, default_value_t = 64, value_parser = payload)]
    pub(crate) payload: usize,
    /// Logins per second. Each client connects, with --username and --password, and disconnects.
    #[arg(long, default_value_t = 1000.0, value_parser = positive)]
    pub(crate) logins: f64,
    /// Maximum number of logins in progress. Logins that are due while there are so many must wait.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) concurrency: u32,
    /// Number of rounds. Each has a period without logins and a period with logins.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Warm-up before the measured time of each period, in seconds.
    #[arg(long, default_value_t = 0.5, value_parser = not_negative)]
    pub(crate) warm_up: f64,
    /// Measured time of each period, in seconds.
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// Seconds without any delivery after which missing messages count as lost.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) stall: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Wildcard {
    /// Number of wildcard filters of all subscribers, rounded down to a multiple of --matches.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) filters: u32,
    /// Number of subscribers. The filters are divided among them.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) subscribers: u32,
    /// Number of filters in one SUBSCRIBE packet. Each connection waits for the SUBACK before it
    /// sends the next packet, and --connecting connections subscribe at the same time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) batch: u16,
    /// Number of publishers. The topics are divided among them.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    /// Number of topics with messages, spread evenly over the topics that the filters match.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) topics: u32,
    /// Number of subscribers that each message matches, with one filter each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) matches: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Shared {
    /// Number of publishers. Each has its own topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    /// Number of members of the group that shares the subscription.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) members: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Slow {
    /// Number of subscribers, slow ones included. Each should get every message.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) subscribers: u32,
    /// Number of slow subscribers. They stop reading during the measured time, and read again at
    /// the end.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) slow: u32,
    /// Number of publishers. Each has its own topic.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Retained {
    /// Number of retained messages, each on its own topic.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub(crate) messages: u32,
    /// Number of subscribers that get all messages, one after the other.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) subscribers: u32,
    /// QoS of the retained messages and of the subscriptions.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Payload size in bytes. 32 bytes of it are the stamp that verifies the message.
    #[arg(long, default_value_t = 64, value_parser = payload)]
    pub(crate) payload: usize,
    /// Maximum number of unacknowledged publications while the messages are stored.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=16_384))]
    pub(crate) window: u16,
    /// Leave the retained messages in the broker. Without it, they are cleared at the end, and one
    /// more subscriber verifies this.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Seconds without any progress after which missing messages count as lost.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) stall: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Offline {
    /// Number of sessions that outlive their connection.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sessions: u32,
    /// Number of messages for each session while it is offline. Brokers limit the queue of a
    /// session (midge: limits.session_queue_messages, mosquitto: max_queued_messages). Messages
    /// above this limit count as refused if the broker tells the publisher, or else as lost.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) messages: u32,
    /// QoS of publications and subscriptions.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) qos: u8,
    /// Payload size in bytes. 32 bytes of it are the stamp that verifies the message.
    #[arg(long, default_value_t = 64, value_parser = payload)]
    pub(crate) payload: usize,
    /// Maximum number of unacknowledged publications while the sessions are offline.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=16_384))]
    pub(crate) window: u16,
    /// Seconds without any progress after which missing messages count as lost.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) stall: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Mixed {
    /// Number of devices. Each publishes telemetry, gets commands on its own topic, and has a will
    /// and a session that outlives its connection.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) devices: u32,
    /// Number of subscribers to the telemetry and the wills of all devices.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) backends: u32,
    /// Percentage of the devices that publish at QoS 0, 1 and 2.
    #[arg(long, default_value = "50,40,10", value_parser = shares)]
    pub(crate) telemetry_qos: Shares,
    /// Telemetry messages per second of each device.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub(crate) telemetry_rate: f64,
    /// QoS of the commands.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) command_qos: u8,
    /// Commands per second to each device.
    #[arg(long, default_value_t = 0.2, value_parser = not_negative)]
    pub(crate) command_rate: f64,
    /// How often per second the connection of a device breaks without DISCONNECT.
    #[arg(long, default_value_t = 0.01, value_parser = not_negative)]
    pub(crate) drop_rate: f64,
    /// How often per second a device sends DISCONNECT and reconnects.
    #[arg(long, default_value_t = 0.01, value_parser = not_negative)]
    pub(crate) reconnect_rate: f64,
    /// Seconds that a device stays offline each time.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub(crate) away: f64,
    /// Payload size in bytes. 32 bytes of it are the stamp that verifies the message.
    #[arg(long, default_value_t = 64, value_parser = payload)]
    pub(crate) payload: usize,
    /// Measured time, in seconds.
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// Seconds without any progress after which missing messages count as lost.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) stall: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Percentage of a fleet for each QoS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares(pub(crate) [u32; 3]);

impl Shares {
    /// The QoS of device `number`. Any hundred consecutive devices have exactly these shares.
    pub(crate) fn qos(self, number: u32) -> u8 {
        // 37 and 100 have no common divisor, so neighbours differ.
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
        _ => Err("must be three numbers with the sum 100, such as 50,40,10".to_owned()),
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
