//! Simulation: the shards of the broker, the mesh, the network and some clients on a virtual clock. One number
//! decides everything that happens, and whatever happens is held to a reference that is too simple to be wrong.
//!
//! `MIDGE_SEED=n cargo test --test simulation` repeats one run and tells its story.

#![allow(unreachable_pub)]

mod audit;
mod books;
mod client;
mod link;
mod marks;
mod plan;
#[path = "../conformance/read.rs"]
#[allow(dead_code, reason = "the scenarios of conformance use more of it")]
mod read;
mod rng;
mod sim;
mod story;
mod verdict;
mod world;
#[path = "../conformance/write.rs"]
#[allow(dead_code, reason = "the scenarios of conformance use more of it")]
mod write;

use plan::Plan;
use sim::Sim;

#[test]
fn the_same_seed_is_the_same_run() {
    let plan = Plan::of(1);
    let (one, two) = (Sim::run(&plan, false), Sim::run(&plan, false));
    assert_eq!(one.fingerprint, two.fingerprint);
}

#[test]
fn seeds_hold() {
    let seeds: Vec<u64> = match std::env::var("MIDGE_SEED") {
        Ok(seed) => vec![seed.parse().expect("MIDGE_SEED is a number")],
        Err(_) => (0..20).collect(),
    };
    for seed in seeds {
        let plan = Plan::of(seed);
        let outcome = Sim::run(&plan, false);
        if let Some(failure) = outcome.failure {
            for line in Sim::run(&plan, true).lines {
                println!("{line}");
            }
            panic!("seed {seed}: {failure}");
        }
    }
}
