//! Tests that were skipped, in notes that outlive their process: what a test that passes prints is not shown.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Notes that the test of this thread is skipped for want of `what`.
///
/// # Panics
/// With `CI=true`: there, all that a test needs has to be had, but for what the gate has found to be forbidden
/// (`MIDGE_FORBIDDEN`, with `;` between them).
pub(crate) fn note(what: &str, why: &str) {
    assert!(
        !is_gate() || is_forbidden(what),
        "this test needs {what}, and with CI=true it may not be skipped: {why}"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {what}: {why}");
    let folder = notes(run());
    let file = folder.join(format!("{}-{}", std::process::id(), test.replace([':', '/'], "_")));
    let noted = fs::create_dir_all(&folder).and_then(|()| fs::write(&file, format!("{what}\n{test}\n{why}")));
    noted.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// What this run of cargo has skipped: why, and which tests, by what they need.
pub(crate) fn all() -> BTreeMap<String, (String, Vec<String>)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(notes(run())).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let mut parts = text.splitn(3, '\n').map(str::to_owned);
        let (Some(what), Some(test), Some(why)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        all.entry(what).or_insert_with(|| (why, Vec::new())).1.push(test);
    }
    all
}

/// Forgets the notes of this run, and of those that have ended.
pub(crate) fn forget() {
    let _ = fs::remove_dir_all(notes(run()));
    for entry in fs::read_dir(super::home().join("skipped")).into_iter().flatten().flatten() {
        let run = entry.file_name();
        if !PathBuf::from("/proc").join(run).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A run of cargo, which starts each target itself.
pub(super) fn run() -> u32 {
    std::os::unix::process::parent_id()
}

fn is_gate() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

fn is_forbidden(what: &str) -> bool {
    std::env::var("MIDGE_FORBIDDEN").is_ok_and(|all| all.split(';').any(|one| one == what))
}

fn notes(run: u32) -> PathBuf {
    super::home().join("skipped").join(run.to_string())
}
