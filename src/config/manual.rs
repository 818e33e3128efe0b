//! Checks `config/midge.toml`, the reference manual, against the rows of the options. The file must be
//! exactly the text that the rows give, and reading it must give the defaults.

use crate::settings::value::{OptionRow, Section};
use crate::settings::{Config, Listener};

/// The width of a comment line, in characters.
const COLUMNS_MAX: usize = 100;

const HEAD: &str = "\
The reference manual of midge's configuration: every option at its default.

Copy what you change, or start midge with this file: midge serve --config midge.toml
Check a file without starting: midge check-config midge.toml

An option that is left out has its default. An unknown key, a wrong type or a value out of range is \
refused with file, line and what is allowed. Numbers are plain integers; the unit stands with each option.

\"Changes\" says when a change of an option takes effect in a midge that runs, after SIGHUP or midge ctl reload: at \
once, for new connections (connected clients keep what they were granted), or at restart. midge takes all changes of \
the file that it can take, or, if the file is wrong, none. It names the others. midge ctl reload --plan shows them all \
before. A lower limit takes nothing away that is already there.

A variable of the environment overrides an option of the file: MIDGE__LIMITS__CONNECTIONS=1000 sets connections of \
[limits], and MIDGE__LISTENERS__1__ADDRESS=0.0.0.0:1883 the address of the first listener, which it makes if there is \
none. Its value is written as here; a string needs no quotes. midge check-config --print midge.toml shows what is in \
force, and which file or variable has set it.";

const INCLUDE_TEXT: &str = "\
Other files to read after this one: names, or patterns such as \"conf.d/*.toml\", relative to the directory of this \
file. The files of a pattern are read in alphabetical order. What a later file sets overrides what an earlier one has \
set; the [[listeners]] of all files add up. A pattern may have no file. An included file can't include others.
Allowed: an array of at most 64 names and patterns of at most 256 files. Changes: those of the options.";

/// The manual that the rows give.
fn manual() -> String {
    let mut text = String::new();
    comment(&mut text, HEAD);
    text.push('\n');
    comment(&mut text, INCLUDE_TEXT);
    text.push_str("include = []\n");
    let listener = Listener::default();
    section(&mut text, &listener, "[[listeners]]");
    text.push('\n');
    comment(&mut text, "Every machine that can reach this one (take care: see auth.allow_anonymous):");
    comment(&mut text, "[[listeners]]\naddress = \"0.0.0.0:1883\"");
    for of_config in Config::default().sections() {
        section(&mut text, of_config, &format!("[{}]", of_config.name()));
    }
    text
}

fn section(text: &mut String, section: &dyn Section, header: &str) {
    text.push('\n');
    comment(text, &"-".repeat(COLUMNS_MAX - 2));
    comment(text, section.about());
    text.push_str(header);
    text.push('\n');
    for row in section.rows() {
        option(text, section, row);
    }
}

fn option(text: &mut String, section: &dyn Section, row: &OptionRow) {
    text.push('\n');
    comment(text, row.text);
    let unit = if row.unit.is_empty() { String::new() } else { format!("Unit: {}. ", row.unit) };
    comment(text, &format!("{unit}Allowed: {}. Changes: {}.", row.allowed, row.change));
    let value = section.shown(row.key).expect("a row of this section");
    if row.may_be_left_out {
        comment(text, &format!("{} =", row.key));
    } else {
        text.push_str(&format!("{} = {value}\n", row.key));
    }
}

/// Appends a text as comment lines, broken between words.
fn comment(text: &mut String, words: &str) {
    for paragraph in words.split('\n') {
        let mut line = String::from("#");
        for word in paragraph.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > COLUMNS_MAX {
                text.push_str(&line);
                text.push('\n');
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn manual_path() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/midge.toml")
}

#[allow(clippy::disallowed_methods, reason = "the test reads, and on demand writes, the shipped file")]
#[test]
fn the_shipped_file_is_what_the_rows_of_the_options_give() {
    let expected = manual();
    if std::env::var_os("MIDGE_WRITE_MANUAL").is_some() {
        std::fs::write(manual_path(), &expected).expect("config/midge.toml can be written");
    }
    let shipped = std::fs::read_to_string(manual_path()).expect("config/midge.toml is there");
    for (number, (shipped, expected)) in shipped.lines().zip(expected.lines()).enumerate() {
        let line = number + 1;
        assert_eq!(shipped, expected, "config/midge.toml:{line}: rewrite it with MIDGE_WRITE_MANUAL=1");
    }
    assert_eq!(shipped.len(), expected.len(), "config/midge.toml: rewrite it with MIDGE_WRITE_MANUAL=1");
}

#[test]
fn every_option_stands_in_the_manual_once() {
    let manual = manual();
    for section in Config::default().sections() {
        let header = format!("\n[{}]\n", section.name());
        let (_, body) = manual.split_once(&header).expect("each section has a header");
        let body = body.split("\n[").next().expect("a first part");
        for row in section.rows() {
            let line = match row.may_be_left_out {
                true => format!("\n# {} =", row.key),
                false => format!("\n{} = ", row.key),
            };
            assert_eq!(body.matches(&line).count(), 1, "{}.{}", section.name(), row.key);
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the test reads the shipped file")]
#[test]
fn reading_the_shipped_file_gives_the_defaults() {
    let shipped = std::fs::read_to_string(manual_path()).expect("config/midge.toml is there");
    assert_eq!(super::parse::parse("config/midge.toml", &shipped), Ok(Config::default()));
}
