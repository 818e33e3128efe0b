//! Records of skipped tests. They outlive their process, because the output of a test that passes is not
//! shown.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Records that the test of this thread is skipped because `what` is missing.
///
/// # Panics
/// With `CI=true`: everything that a test needs must be available, except for what the gate has found to be
/// forbidden (`MIDGE_FORBIDDEN`, separated by `;`).
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

/// The skips of this run of cargo: by what is missing, the reason and the tests.
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

/// Removes the records of this run, and of runs that have ended.
pub(crate) fn forget() {
    let _ = fs::remove_dir_all(notes(run()));
    for entry in fs::read_dir(super::home().join("skipped")).into_iter().flatten().flatten() {
        let run = entry.file_name();
        if !PathBuf::from("/proc").join(run).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The number of the cargo process, which starts each target itself.
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
