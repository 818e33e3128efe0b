//! Simulation: the shards of the broker, the mesh, the network and some clients on a virtual clock. One number
//! decides everything that happens, and whatever happens is held to a reference that is too simple to be wrong.
//!
//! `MIDGE_SEED=n cargo test --test simulation` repeats one run and tells its story.

#![allow(unreachable_pub)]

mod audit;
mod books;
mod client;
mod disk;
mod link;
mod marks;
mod plan;
#[path = "../conformance/read.rs"]
#[allow(dead_code, reason = "the scenarios of conformance use more of it")]
mod read;
mod recovery;
mod rng;
mod sim;
mod story;
mod verdict;
mod world;
#[path = "../conformance/write.rs"]
#[allow(dead_code, reason = "the scenarios of conformance use more of it")]
mod write;

use marks::Marks;
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
    let (seeds, told) = match std::env::var("MIDGE_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("MIDGE_SEED is a number");
            (seed..seed + 1, true)
        }
        Err(_) => (0..std::env::var("MIDGE_SEEDS").map_or(300, |n| n.parse().expect("a number")), false),
    };
    let mut marks = Marks::default();
    let mut failures = Vec::new();
    for seed in seeds {
        let plan = Plan::of(seed);
        let outcome = Sim::run(&plan, told);
        marks.add(&outcome.marks);
        for line in outcome.lines {
            println!("{line}");
        }
        if let Some(failure) = outcome.failure {
            failures.push(format!("seed {seed}: {failure}"));
        }
    }
    for &mark in marks::EVERY_MARK {
        println!("{mark:?}: {}", marks.count(mark));
    }
    assert!(failures.is_empty(), "{} seeds failed:\n{}", failures.len(), failures.join("\n"));
}
