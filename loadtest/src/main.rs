//! `midge-loadtest`: load tests for any MQTT broker.
//!
//! One thread, one epoll loop, an encoder and checks of its own. Every message carries its
//! publisher, its stream, a sequence number, its time and a checksum, and every run verifies all
//! of them; the headline is the broker's CPU time per delivered message, because wall time on a
//! shared machine is noise.

mod bulk;
mod cli;
mod flags;
mod fleet;
mod inbox;
mod net;
mod payload;
mod plan;
mod probe;
mod progress;
mod report;
mod scenario;
mod traffic;
mod verify;
mod wire;

use std::process::ExitCode;

use clap::Parser as _;

/// Faults were counted.
const EXIT_FAULTS: u8 = 1;
/// The run could not be made; also clap's status for flags that it can't read.
const EXIT_NO_RUN: u8 = 2;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match scenario::run(&cli) {
        Ok(report) => {
            if cli.common().json {
                println!("{}", report.json());
            } else {
                println!("{}", report.table());
            }
            if report.faults.total() > 0 { ExitCode::from(EXIT_FAULTS) } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("midge-loadtest: {error}");
            ExitCode::from(EXIT_NO_RUN)
        }
    }
}
