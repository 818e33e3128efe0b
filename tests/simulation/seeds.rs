//! Runs many seeds. For a seed that fails, it makes the list of actions as short as possible while the
//! failure stays the same, and prints the trace.

use crate::coverage::Marks;
use crate::plan::{Plan, Planned};
use crate::sim::Sim;
use std::fmt::Write;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub struct Summary {
    pub failures: Vec<(u64, String)>,
    pub marks: Marks,
    pub packets: u64,
    pub publications: u64,
    /// A fingerprint of the traces of all seeds. It is the same for the same seeds as long as the machine
    /// behaves the same.
    pub fingerprint: u64,
}

/// Runs these seeds in `jobs` threads.
pub fn run(seeds: Range<u64>, jobs: usize) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = Sim::run(&Plan::of(seed), false);
                    let mut summary = summary.lock().unwrap_or_else(|poison| poison.into_inner());
                    summary.marks.add(&outcome.marks);
                    summary.packets += outcome.packets;
                    summary.publications += outcome.publications as u64;
                    // It is a sum, because threads take their seeds in any order.
                    let of_seed = outcome.fingerprint.wrapping_mul(2 * seed + 1);
                    summary.fingerprint = summary.fingerprint.wrapping_add(of_seed);
                    summary.failures.extend(outcome.failure.map(|failure| (seed, failure)));
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(|poison| poison.into_inner());
    summary.failures.sort();
    summary
}

/// The largest number of runs for shrinking a plan.
const ATTEMPTS_MAX: usize = 1500;
/// The number of lines of a trace that are printed.
const LINES_MAX: usize = 150;

/// The trace of a seed that fails, as short as possible.
pub fn tell(seed: u64) -> String {
    let whole = Plan::of(seed);
    let Some(failure) = Sim::run(&whole, false).failure else { return format!("seed {seed} holds") };
    let kind = kind_of(&failure);
    let actions = shrink(&whole.actions, &|actions| {
        let plan = Plan { actions: actions.to_vec(), ..whole.clone() };
        Sim::run(&plan, false).failure.is_some_and(|failure| kind_of(&failure) == kind)
    });
    let mut told = format!(
        "seed {seed}, {} of {} actions, {} shards, persistent {}: the last of its trace\n",
        actions.len(),
        whole.actions.len(),
        whole.shards,
        whole.persistent
    );
    let mut lines = Sim::run(&Plan { actions, ..whole }, true).lines;
    // While nothing happens, pings fill the end of a trace.
    lines.retain(|line| !line.contains("Pingresp") && !line.ends_with("PINGREQ"));
    for line in &lines[lines.len().saturating_sub(LINES_MAX)..] {
        let _ = writeln!(told, "{line}");
    }
    told
}

/// A failure without its numbers.
pub fn kind_of(failure: &str) -> String {
    let head = failure.split_once("Publication {").map_or(failure, |(head, _)| head);
    head.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// The shortest list that still fails. It is found by leaving out smaller and smaller pieces.
pub fn shrink(actions: &[Planned], fails: &dyn Fn(&[Planned]) -> bool) -> Vec<Planned> {
    let mut best = actions.to_vec();
    let mut piece = best.len().div_ceil(2).max(1);
    let mut attempts = 0;
    loop {
        let mut at = 0;
        let mut shorter = false;
        while at < best.len() && attempts < ATTEMPTS_MAX {
            attempts += 1;
            let end = (at + piece).min(best.len());
            let tried = [&best[..at], &best[end..]].concat();
            if fails(&tried) {
                best = tried;
                shorter = true;
            } else {
                at = end;
            }
        }
        if (piece == 1 && !shorter) || attempts >= ATTEMPTS_MAX {
            return best;
        }
        piece = piece.div_ceil(2);
    }
}
