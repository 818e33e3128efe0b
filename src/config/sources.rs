//! Reads the configuration from all its sources: the file, the files that it includes, and the variables of the
//! environment. Later ones override earlier ones; the listeners of all files add up.

use super::origins::Origins;
use super::parse::{Draft, FILE_BYTES_MAX, INCLUDE, Include, IncludedBy, newlines};
use super::variables;
use crate::base::{Diagnostic, Diagnostics};
use crate::files;
use crate::settings::Config;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The largest number of included files.
const INCLUDED_MAX: usize = 256;

/// A configuration and its sources.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// Where each value comes from.
    pub origins: Origins,
    /// The files, in the order in which they were read.
    pub files: Vec<String>,
    /// The names of the variables of the environment.
    pub variables: Vec<String>,
}

/// Reads and checks a file, if any, the files that it includes, and the `variables` of the environment. Variables whose
/// names don't begin with `MIDGE__` are ignored.
///
/// # Errors
/// A file can't be read, is larger than [`FILE_BYTES_MAX`] or is wrong, or a variable is wrong.
pub fn load(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Diagnostics> {
    let mut draft = Draft::new(Vec::new());
    let mut files = Vec::new();
    if let Some(path) = file {
        files.push(path.to_owned());
        if let Some(include) = read(&mut draft, path, IncludedBy::Nothing) {
            for included in included(&mut draft, path, &include) {
                read(&mut draft, &included, IncludedBy::File);
                files.push(included);
            }
        }
    }
    let files = files.iter().map(|file| file.display().to_string()).collect();
    finish(draft, files, variables)
}

/// Lets the `variables` of the environment override a configuration that was read from elsewhere.
///
/// # Errors
/// A variable is wrong.
pub fn with_variables(
    config: Config,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Diagnostics> {
    let mut draft = Draft::new(Vec::new());
    draft.config = config;
    finish(draft, Vec::new(), variables)
}

fn finish(
    mut draft: Draft,
    files: Vec<String>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Diagnostics> {
    let variables = variables::apply(&mut draft, variables);
    let (config, origins) = draft.finish()?;
    Ok(Loaded { config, origins, files, variables })
}

/// Reads a file into a draft, with the errors. Returns the files that it includes.
fn read(draft: &mut Draft, path: &Path, included_by: IncludedBy) -> Option<Include> {
    let file = path.display().to_string();
    let whole = |line: Option<usize>, message: String| Diagnostic {
        file: file.clone(),
        line,
        key: String::new(),
        message,
    };
    let bytes = match files::read(path, FILE_BYTES_MAX) {
        Ok(bytes) if bytes.len() as u64 <= FILE_BYTES_MAX => bytes,
        Ok(_) => {
            draft.refuse(whole(None, format!("larger than {FILE_BYTES_MAX} bytes: no configuration file")));
            return None;
        }
        Err(error) => {
            draft.refuse(whole(None, format!("cannot be read: {error}")));
            return None;
        }
    };
    let text = match str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = 1 + newlines(&bytes[..error.valid_up_to()]);
            draft.refuse(whole(Some(line), "not TOML: not UTF-8".to_owned()));
            return None;
        }
    };
    let errors_before = draft.errors().len();
    let include = draft.read(&file, text, included_by);
    if super::mosquitto::is_evident(&bytes)
        && let Some(first) = draft.errors().get_mut(errors_before)
    {
        first.message += &format!(
            "; this is a mosquitto.conf: \"midge --mosquitto-conf {file}\" serves as mosquitto would with it, and \
             \"midge import-mosquitto {file}\" writes the midge.toml that does the same"
        );
    }
    include
}

/// The files that a file includes: name by name, those of a pattern in alphabetical order, each once.
fn included(draft: &mut Draft, path: &Path, include: &Include) -> Vec<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut found: Vec<PathBuf> = Vec::new();
    for name in &include.names {
        match matching(folder, name) {
            Ok(files) => {
                let is_new = |file: &PathBuf| file != path && !found.contains(file);
                let new: Vec<PathBuf> = files.into_iter().filter(is_new).collect();
                found.extend(new);
            }
            Err(why) => draft.refuse(include.error(INCLUDE, format!("\"{name}\": {why}"))),
        }
        if found.len() > INCLUDED_MAX {
            let message = format!("\"{name}\" and those before are more than {INCLUDED_MAX} files");
            draft.refuse(include.error(INCLUDE, message));
            found.truncate(INCLUDED_MAX);
            break;
        }
    }
    found
}

/// The files of a name or a pattern. A pattern may have none.
fn matching(folder: &Path, name: &str) -> Result<Vec<PathBuf>, String> {
    if !name.contains(['*', '?', '[']) {
        // What is wrong with it is told when it is read.
        return Ok(vec![folder.join(name)]);
    }
    // The folder's own name is no pattern.
    let folder = glob::Pattern::escape(&folder.to_string_lossy());
    let pattern = Path::new(&folder).join(name);
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        // Editors and packages leave such files behind.
        require_literal_leading_dot: true,
    };
    let paths = glob::glob_with(&pattern.to_string_lossy(), options).map_err(|error| error.to_string())?;
    let mut files = Vec::new();
    for path in paths.take(INCLUDED_MAX + 1) {
        files.push(path.map_err(|error| error.to_string())?);
    }
    Ok(files)
}

impl Loaded {
    /// The sources besides the first file, in words: `conf.d/a.toml, MIDGE__LOG__LEVEL`. Empty if there are none.
    pub fn further_sources(&self) -> String {
        let files = self.files.iter().skip(1).map(String::as_str);
        files.chain(self.variables.iter().map(String::as_str)).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
