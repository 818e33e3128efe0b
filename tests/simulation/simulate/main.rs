//! Runs many seeds of the simulation on all cores, and shrinks those that fail.
//!
//! `cargo run --release -p midge-simulate -- --seeds 0..100000`. Without `--release` it is half as fast, and
//! has the debug assertions of the product.

#![allow(unreachable_pub)]
#![allow(clippy::disallowed_methods, reason = "it measures how long it takes")]

#[path = "../actions.rs"]
mod actions;
#[path = "../audit.rs"]
mod audit;
#[path = "../client.rs"]
mod client;
#[path = "../clocks.rs"]
mod clocks;
#[path = "../coverage.rs"]
mod coverage;
#[path = "../disk.rs"]
mod disk;
#[path = "../io.rs"]
mod io;
#[path = "../kernel.rs"]
mod kernel;
#[path = "../link.rs"]
mod link;
#[path = "../model.rs"]
mod model;
#[path = "../packet_text.rs"]
mod packet_text;
#[path = "../plan.rs"]
mod plan;
#[path = "../random.rs"]
mod random;
#[path = "../recovery.rs"]
mod recovery;
#[path = "../replies.rs"]
mod replies;
#[path = "../seeds.rs"]
mod seeds;
#[path = "../sim.rs"]
mod sim;
#[path = "../../world/socket.rs"]
mod socket;
#[path = "../spans.rs"]
mod spans;
#[path = "../tls.rs"]
mod tls;
#[path = "../trace.rs"]
mod trace;
#[path = "../verdict.rs"]
mod verdict;
#[path = "../wire.rs"]
mod wire;
#[path = "../world.rs"]
mod world;

use std::process::ExitCode;
use std::time::Instant;

/// The number of failures that are shrunk and printed.
const TOLD_MAX: usize = 10;

fn main() -> ExitCode {
    let Some((from, to, jobs)) = arguments() else {
        eprintln!("usage: midge-simulate [--seeds FROM..TO] [--jobs N]");
        return ExitCode::from(2);
    };
    let began = Instant::now();
    let summary = seeds::run(from..to, jobs);
    for (seed, failure) in &summary.failures {
        println!("seed {seed}: {failure}");
    }
    for (seed, _) in summary.failures.iter().take(TOLD_MAX) {
        println!("\n{}", seeds::tell(*seed));
    }
    println!(
        "{} seeds in {:.1} s: {} packets from the broker, {} publications, fingerprint {:016x}, {} failures",
        to - from,
        began.elapsed().as_secs_f64(),
        summary.packets,
        summary.publications,
        summary.fingerprint,
        summary.failures.len()
    );
    for &mark in coverage::Mark::EVERY {
        println!("{:>10} {mark:?}", summary.marks.count(mark));
    }
    if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments() -> Option<(u64, u64, usize)> {
    let (mut from, mut to) = (0, 1000);
    let mut jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next()?;
        match argument.as_str() {
            "--seeds" => {
                let (first, last) = value.split_once("..")?;
                (from, to) = (first.parse().ok()?, last.parse().ok()?);
            }
            "--jobs" => jobs = value.parse().ok()?,
            _ => return None,
        }
    }
    Some((from, to, jobs)).filter(|_| from <= to && jobs > 0)
}
