//! The run of `cargo test`: the corpus of a target, then a bounded number of mutated inputs that only depend
//! on the seed.

use crate::targets;
use midge::base::Random;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// The longest mutated input, in bytes. A fault that a longer one shows also shows with a short one.
const INPUT_BYTES_MAX: usize = 2048;
/// The largest number of mutations of one input.
const MUTATIONS_MAX: usize = 6;
/// Bytes at the boundaries of a length, a flag or a string.
const EDGES: [u8; 12] = [0x00, 0x01, 0x02, 0x04, 0x23, 0x2B, 0x2F, 0x7F, 0x80, 0xC0, 0xFE, 0xFF];

#[test]
fn whatever_is_framed_and_decoded_is_as_it_was_sent() {
    run("packet", targets::packet::run, 500_000);
}

#[cfg(feature = "runtime")]
#[test]
fn whatever_a_client_sends_the_others_are_served_and_nothing_is_left() {
    run("connection", targets::connection::run, 20_000);
}

#[test]
fn filters_and_their_index_agree_with_the_naive_matcher() {
    run("topic", targets::topic::run, 100_000);
}

#[cfg(feature = "runtime")]
#[test]
fn whatever_the_configuration_file_holds_its_errors_name_its_lines() {
    run("config", targets::config::run, 100_000);
}

#[test]
fn whatever_a_log_holds_reading_it_ends_and_its_rows_agree() {
    run("log", targets::log::run, 50_000);
}

#[cfg(feature = "runtime")]
#[test]
fn whatever_the_file_of_the_checkpoint_holds_it_is_read_or_refused() {
    run("checkpoint", targets::checkpoint::run, 2000);
}

#[test]
fn whatever_a_database_of_mosquitto_holds_it_is_refused_or_its_rows_agree() {
    run("mosquitto", targets::mosquitto::run, 50_000);
}

#[test]
fn a_websocket_is_the_same_however_its_bytes_are_cut() {
    run("websocket", targets::websocket::run, 100_000);
}

#[test]
fn a_proxy_header_is_whole_with_its_last_byte_or_refused() {
    run("proxy", targets::proxy::run, 100_000);
}

#[cfg(feature = "runtime")]
#[test]
fn whatever_a_client_says_in_scram_only_its_password_lets_it_in() {
    run("scram", targets::scram::run, 100_000);
}

#[cfg(feature = "runtime")]
#[test]
fn whatever_comes_over_tls_is_what_a_client_has_sent_or_nothing() {
    run("tls", targets::tls::run, 3000);
}

/// Runs the corpus, then `runs` inputs made from it.
fn run(name: &str, target: fn(&[u8]), runs: u64) {
    let runs = number("MIDGE_FUZZ_RUNS").unwrap_or(runs);
    let seed = number("MIDGE_FUZZ_SEED").unwrap_or(1);
    let corpus = corpus(name);
    for input in &corpus {
        execute(name, target, input);
    }
    let mut random = Random::new(seed);
    for _ in 0..runs {
        execute(name, target, &mutated(&corpus, &mut random));
    }
    println!("{name}: {} inputs of the corpus, {runs} mutated ones", corpus.len());
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {value:?}")))
}

/// The inputs of the corpus, sorted by name.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).expect("every target has a corpus");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("the corpus can be listed").path()).collect();
    paths.sort();
    let read = |path| std::fs::read(path).expect("an input of the corpus can be read");
    let corpus: Vec<Vec<u8>> = paths.iter().map(read).collect();
    assert!(!corpus.is_empty(), "the corpus of {name} is empty");
    corpus
}

/// Runs the target, and reports the input if it panics.
fn execute(name: &str, target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let hex = input.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02X}");
            hex
        });
        eprintln!("{name} fails with {} bytes: {hex}", input.len());
        resume_unwind(panic);
    }
}

/// One input of the corpus with one to six mutations.
fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.index(corpus.len())].clone();
    for _ in 0..=random.index(MUTATIONS_MAX) {
        mutate(&mut input, corpus, random);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.index(input.len() + 1);
    let rest = input.len() - at;
    match random.index(10) {
        0 => change(input, at, |byte| byte ^ 1 << random.index(8)),
        1 => change(input, at, |_| random.pick(&EDGES)),
        2 => change(input, at, |_| random.next_u64() as u8),
        // A length, a count or a character is changed by one.
        3 => change(input, at, |byte| byte.wrapping_add(if random.index(2) == 0 { 1 } else { 0xFF })),
        // A length field of two bytes is wrong.
        4 => {
            let length = [0, 1, rest, rest.saturating_sub(2), 0xFFFF][random.index(5)] as u16;
            for (place, byte) in input[at..].iter_mut().zip(length.to_be_bytes()) {
                *place = byte;
            }
        }
        5 => {
            let (len, byte) = (1 + random.index(8), random.pick(&EDGES));
            input.splice(at..at, (0..len).map(|_| byte));
        }
        6 => {
            input.drain(at..at + random.index(rest.min(8) + 1));
        }
        7 => input.truncate(at),
        // A part is duplicated.
        8 => {
            let stretch = input[at..at + random.index(rest + 1)].to_vec();
            input.splice(at..at, stretch);
        }
        // A part of another input is inserted.
        _ => {
            let other = &corpus[random.index(corpus.len())];
            let start = random.index(other.len() + 1);
            let len = random.index(other.len() - start + 1);
            let end = at + if random.index(2) == 0 { 0 } else { len.min(rest) };
            input.splice(at..end, other[start..start + len].iter().copied());
        }
    }
}

fn change(input: &mut [u8], at: usize, to: impl FnOnce(u8) -> u8) {
    if let Some(byte) = input.get_mut(at) {
        *byte = to(*byte);
    }
}
