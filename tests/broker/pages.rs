//! Completions and manual pages, as a shell and a reader of manual pages take them.

use crate::needs;
use crate::running::{midge, run, stderr};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn manual_pages_are_clean_and_cover_commands_and_options() {
    let directory = directory("pages");
    let output = run(midge().arg("man").arg(&directory));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let mut pages: Vec<PathBuf> = fs::read_dir(&directory)
        .expect("it was written")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    pages.sort();
    for name in ["midge.1", "midge-serve.1", "midge-check-config.1", "midge-ctl-trace.1", "midge.toml.5"] {
        assert!(pages.contains(&directory.join(name)), "{name} is not among {pages:?}");
    }
    if !needs::has("mandoc") {
        return;
    }
    let lint = needs::command("mandoc")
        .args(["-T", "lint", "-W", "error"])
        .args(&pages)
        .output()
        .expect("mandoc starts");
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
    let shown = needs::command("mandoc")
        .args(["-T", "utf8"])
        .arg(directory.join("midge.toml.5"))
        .output()
        .expect("mandoc starts");
    // Bold is a letter, a backspace and the letter again.
    let text = String::from_utf8_lossy(&shown.stdout);
    let letters: Vec<char> = text.chars().collect();
    let plain: String = (0..letters.len())
        .filter(|&at| letters[at] != '\u{8}' && letters.get(at + 1) != Some(&'\u{8}'))
        .map(|at| letters[at])
        .collect();
    assert!(plain.contains("inflight_messages = "), "{plain}");
    assert!(plain.contains("Changes: "), "{plain}");
}

#[test]
fn directory_that_is_missing_is_named() {
    let output = run(midge().args(["man", "/nowhere/at/all"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nowhere/at/all"), "{}", stderr(&output));
}

#[test]
fn bash_completes_commands_and_options() {
    let output = run(midge().args(["completions", "bash"]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let script = directory("completions").join("midge.bash");
    fs::write(&script, output.stdout).expect("it can be written");
    let completed = |words: &[&str]| {
        let ask = "source \"$0\"; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                   _midge midge \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; \
                   printf '%s\\n' \"${COMPREPLY[@]}\"";
        let output = Command::new("bash")
            .args(["--norc", "--noprofile", "-c", ask])
            .arg(&script)
            .args(words)
            .output()
            .expect("bash starts");
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completed(&["midge", "check"]), ["check-config"]);
    assert_eq!(completed(&["midge", "ctl", "exp"]), ["explain"]);
    assert!(completed(&["midge", "serve", "--co"]).contains(&"--config".to_owned()));
    for shell in ["zsh", "fish"] {
        let output = run(midge().args(["completions", shell]));
        assert!(output.status.success() && !output.stdout.is_empty(), "{shell}: {}", stderr(&output));
    }
}

/// A new directory of a test.
fn directory(name: &str) -> PathBuf {
    let directory =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pages-{name}-{}", std::process::id()));
    // It does not exist after a clean checkout.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("it can be made");
    directory
}
