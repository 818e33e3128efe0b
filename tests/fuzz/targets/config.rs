//! The configuration file: an input is its text.
//!
//! Either everything in it is accepted, and the configuration is the same after it was written and read
//! again. Or there are errors, bounded in number, in the order of the file's lines, each one line of text
//! that can be shown on a terminal.

use midge::base::{Diagnostics, ERRORS_MAX};
use midge::config::parse::parse;
use midge::config::summary;
use midge::settings::Config;
use midge::settings::value::Section;
use std::fmt::Write;

const FILE: &str = "midge.toml";

/// Runs the target. Text that is not UTF-8 is refused before it is parsed, so it is replaced here.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match parse(FILE, &text) {
        Ok(config) => check_config(config),
        Err(errors) => check_errors(&text, &errors),
    }
}

fn check_config(config: Config) {
    assert!(!config.listeners.is_empty());
    assert!(summary(&config).len() > config.listeners.len());
    let text = written(&config);
    match parse(FILE, &text) {
        Ok(again) => assert_eq!(again, config, "{text}"),
        Err(errors) => panic!("what was taken is refused when written out: {errors}\n{text}"),
    }
}

fn written(config: &Config) -> String {
    let mut text = String::new();
    for section in config.sections() {
        write_section(&mut text, &format!("[{}]", section.name()), section);
    }
    for listener in &config.listeners {
        write_section(&mut text, "[[listeners]]", listener as &dyn Section);
    }
    text
}

fn write_section(text: &mut String, header: &str, section: &dyn Section) {
    let _ = writeln!(text, "{header}");
    for row in section.rows() {
        let value = section.shown(row.key).expect("a section shows its rows");
        if value.is_empty() && row.may_be_left_out {
            continue;
        }
        let _ = writeln!(text, "{} = {value}", row.key);
    }
}

fn check_errors(text: &str, errors: &Diagnostics) {
    assert!((1..=ERRORS_MAX).contains(&errors.errors.len()));
    assert!(errors.more == 0 || errors.errors.len() == ERRORS_MAX);
    let lines = 1 + text.matches('\n').count();
    let mut line_before = 1;
    for error in &errors.errors {
        let line = error.line.expect("an error of a file that was read names its line");
        assert!(
            (line_before..=lines).contains(&line),
            "line {line} of {lines}, after {line_before}: {error}"
        );
        line_before = line;
        assert!(!error.message.is_empty());
        let shown = error.to_string();
        assert!(!shown.contains(|c: char| c.is_control()), "an error is a line of plain text: {shown:?}");
    }
    let shown = errors.to_string().lines().count();
    assert_eq!(shown, errors.errors.len() + usize::from(errors.more > 0));
}
