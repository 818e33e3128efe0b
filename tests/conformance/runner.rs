//! Runs scenarios. Many of them wait for seconds, and the test harness only runs as many at a time as there
//! are cores. So the first test of a shard count starts all selected scenarios of that count on its own
//! threads, and each test only fetches its result.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Once, OnceLock, PoisonError};

use crate::harness::{Broker, foreign_target};

/// A conversation with a broker. It panics if the broker breaks a rule.
pub type Scenario = fn(&Broker);

/// The number of scenarios that run at a time, per shard count.
const THREADS: usize = 24;

type Outcome = Result<(), String>;

#[derive(Default)]
struct Run {
    outcomes: Mutex<HashMap<&'static str, Outcome>>,
    finished: Condvar,
}

/// The body of each test: the result of `name` on a broker with `shards` shards.
pub fn run(shards: usize, name: &'static str, scenario: Scenario, all: &'static [(&'static str, Scenario)]) {
    let Some(broker) = Broker::standard(shards) else { return };
    remember_panics();
    let Some(selected) = selection(shards, all) else { return scenario(&broker) };
    if !selected.iter().any(|(selected, _)| *selected == name) {
        return scenario(&broker);
    }
    let run = started(shards, selected);
    let mut outcomes = run.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(outcome) = outcomes.remove(name) {
            drop(outcomes);
            return outcome.unwrap_or_else(|message| panic!("{message}"));
        }
        outcomes = run.finished.wait(outcomes).unwrap_or_else(PoisonError::into_inner);
    }
}

/// The body of each test in memory, with a log or without. Nothing there waits, so each runs in its own test.
pub fn run_in_memory(shards: usize, is_kept: bool, scenario: Scenario) {
    if foreign_target().is_none() {
        remember_panics();
        scenario(&Broker::in_memory(shards, is_kept));
    }
}

fn started(shards: usize, selected: Vec<(&'static str, Scenario)>) -> Arc<Run> {
    static RUNS: OnceLock<Mutex<HashMap<usize, Arc<Run>>>> = OnceLock::new();
    let mut runs = RUNS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let start = || {
        let run = Arc::new(Run::default());
        let next = Arc::new(AtomicUsize::new(0));
        let running = Arc::new(AtomicUsize::new(THREADS));
        let selected = Arc::new(selected);
        for _ in 0..THREADS {
            let (run, next, selected) = (run.clone(), next.clone(), selected.clone());
            let running = running.clone();
            std::thread::spawn(move || {
                let Some(broker) = Broker::standard(shards) else { return };
                while let Some((name, scenario)) = selected.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = caught(*scenario, &broker);
                    Broker::release();
                    run.outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(name, outcome);
                    run.finished.notify_all();
                }
                if running.fetch_sub(1, Ordering::AcqRel) == 1 {
                    Broker::end_shared(shards);
                }
            });
        }
        run
    };
    runs.entry(shards).or_insert_with(start).clone()
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

fn caught(scenario: Scenario, broker: &Broker) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| scenario(broker))).map_err(|_| LAST_PANIC.take())
}

fn remember_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            LAST_PANIC.with(|last| *last.borrow_mut() = info.to_string());
            usual(info);
        }));
    });
}

/// Runs all cases of a table, even if some fail, and reports the failures together.
pub fn each<T: std::fmt::Display>(cases: impl IntoIterator<Item = T>, case: impl Fn(&T)) {
    let failures: Vec<String> = cases
        .into_iter()
        .filter_map(|said| {
            let outcome = catch_unwind(AssertUnwindSafe(|| case(&said)));
            outcome.err().map(|_| format!("case {said}: {}", LAST_PANIC.take()))
        })
        .collect();
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
}

/// The scenarios that the arguments of this test process select, if the arguments are simple enough.
fn selection(
    shards: usize,
    all: &'static [(&'static str, Scenario)],
) -> Option<Vec<(&'static str, Scenario)>> {
    let mut filters = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &argument[..] {
            "--nocapture" | "--no-capture" | "-q" | "--quiet" | "--show-output" => {}
            "--test-threads" => drop(arguments.next()),
            flag if flag.starts_with("--test-threads=") => {}
            flag if flag.starts_with('-') => return None,
            _ => filters.push(argument),
        }
    }
    let chosen = |name: &str| {
        let full = format!("shards_{shards}::{name}");
        filters.is_empty() || filters.iter().any(|filter| full.contains(filter))
    };
    Some(all.iter().filter(|(name, _)| chosen(name)).copied().collect())
}
