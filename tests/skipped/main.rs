//! The last output of `cargo test`: the skipped tests and the reasons. Its name places it after all targets
//! that skip.

// The lint that keeps clocks, sockets and files out of the core does not apply here.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

#[path = "../needs/mod.rs"]
mod needs;

fn main() {
    // A tool that lists the tests of this target gets none.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let skipped = needs::skips::all();
    needs::skips::forget();
    if skipped.is_empty() {
        println!("\nNo test was skipped.\n");
        return;
    }
    let count: usize = skipped.values().map(|(_, tests)| tests.len()).sum();
    println!();
    for (what, (why, tests)) in &skipped {
        println!("SKIPPED for want of {what} ({why}):");
        for test in tests {
            println!("    {test}");
        }
    }
    let all: Vec<&str> = skipped.keys().map(String::as_str).collect();
    println!("\n!!! {count} TESTS WERE SKIPPED, for want of: {} !!!\n", all.join(", "));
}
