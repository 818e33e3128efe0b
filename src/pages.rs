//! The completions of the command line for shells, and the manual pages: of each command, made of its declaration, and of
//! the configuration file, made of the rows of its options.

use crate::cli::declaration;
use crate::settings::value::{OptionRow, Section};
use crate::settings::{Config, Listener};
use clap_complete::Shell;
use roff::{Roff, bold, italic, roman};
use std::io::{self, Write};
use std::path::Path;

/// Writes the completions for a shell.
///
/// # Errors
/// That of the output.
pub fn completions(shell: Shell, out: &mut impl Write) -> io::Result<()> {
    // The generator panics if it can't write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut declaration(), "midge", &mut script);
    out.write_all(&script)
}

/// Writes midge(1), a page for each command and midge.toml(5) to a directory.
///
/// # Errors
/// A file can't be written.
pub fn write_manual(directory: &Path) -> io::Result<()> {
    clap_mangen::generate_to(declaration(), directory)?;
    std::fs::write(directory.join("midge.toml.5"), configuration_page())
}

/// midge.toml(5).
fn configuration_page() -> String {
    let mut page = Roff::new();
    let version = concat!("midge ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["midge.toml", "5", "", version, "File formats"]);
    page.control("SH", ["NAME"]);
    page.text([roman("midge.toml - the configuration file of midge, an MQTT broker")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "A file in TOML. An option that is left out has its default. An unknown key, a wrong type or a value out of \
         range is refused with file, line and what is allowed. Each option tells when a change takes effect in a midge \
         that runs, after SIGHUP or midge ctl reload.",
    )]);
    page.control("PP", []);
    page.text([
        roman(
            "What the main file names in its first lines with include = [\"conf.d/*.toml\"] is read after it, in \
             alphabetical order. Later files override earlier ones; the listeners of all files add up. Variables of the \
             environment override all files: MIDGE__LIMITS__CONNECTIONS=1000 sets connections of [limits], \
             MIDGE__LISTENERS__1__ADDRESS that of the first listener.",
        ),
    ]);
    let listener = Listener::default();
    section(&mut page, &listener, "[[listeners]]");
    for of_config in Config::default().sections() {
        section(&mut page, of_config, &format!("[{}]", of_config.name()));
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("midge"),
        roman("(1), "),
        bold("midge-check-config"),
        roman("(1), "),
        bold("midge-ctl"),
        roman("(1)"),
    ]);
    page.render()
}

fn section(page: &mut Roff, section: &dyn Section, header: &str) {
    page.control("SH", [header]);
    page.text([roman(section.about())]);
    for row in section.rows() {
        option(page, section, row);
    }
}

fn option(page: &mut Roff, section: &dyn Section, row: &OptionRow) {
    page.control("TP", []);
    let value = section.shown(row.key).filter(|_| !row.may_be_left_out);
    match value {
        Some(value) => page.text([bold(row.key), roman(format!(" = {value}"))]),
        None => page.text([bold(row.key), roman(" is left out")]),
    };
    page.text([roman(row.text)]);
    page.control("RS", []);
    let unit = if row.unit.is_empty() { String::new() } else { format!("Unit: {}. ", row.unit) };
    page.text([italic(format!("{unit}Allowed: {}. Changes: {}.", row.allowed, row.change))]);
    page.control("RE", []);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_file_has_every_option_with_its_default() {
        let page = configuration_page();
        let listener = Listener::default();
        let config = Config::default();
        let sections = config.sections().into_iter().chain([&listener as &dyn Section]);
        for section in sections {
            for row in section.rows() {
                let key = format!("\\fB{}\\fR", row.key);
                assert!(page.contains(&key), "{}.{}", section.name(), row.key);
            }
        }
        assert!(page.contains(".SH [limits]") && page.contains(".SH [[listeners]]"), "{page}");
        // A line that begins with a point would be a command.
        let commands = [".SH", ".PP", ".TH", ".TP", ".RS", ".RE", ".ie", ".el", ".br"];
        let is_known = |line: &&str| commands.iter().any(|command| line.starts_with(command));
        let unknown: Vec<&str> =
            page.lines().filter(|line| line.starts_with('.')).filter(|line| !is_known(line)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
