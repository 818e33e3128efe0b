//! The errors in an operator's file, as its reader reports them: everything that is wrong, each with file,
//! line and key.

use std::fmt;

/// The number of errors of a file that are reported one by one. Further ones are counted.
pub const ERRORS_MAX: usize = 20;

/// One error in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The name of the file, as it was given.
    pub file: String,
    /// The line, from 1. `None` if the error concerns the whole file.
    pub line: Option<usize>,
    /// The key (`rules[2].topics`). Empty if no key is wrong.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)
    }
}

/// All errors in a file, in the order of its lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    /// The first [`ERRORS_MAX`] errors.
    pub errors: Vec<Diagnostic>,
    /// The number of further errors.
    pub more: usize,
}

/// One error per line.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, error) in self.errors.iter().enumerate() {
            if count > 0 {
                writeln!(f)?;
            }
            error.fmt(f)?;
        }
        match (self.more, self.errors.first()) {
            (1.., Some(error)) => write!(f, "\n{}: {} more errors", error.file, self.more),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostics {
    /// A single error.
    pub fn one(file: &str, line: Option<usize>, key: &str, message: String) -> Diagnostics {
        let error = Diagnostic { file: file.to_string(), line, key: key.to_string(), message };
        Diagnostics { errors: vec![error], more: 0 }
    }

    /// Adds an error after the others.
    pub fn add(&mut self, error: Diagnostic) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        } else {
            self.more += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_file_line_key_and_message() {
        let mut errors = Diagnostics::one("acl.toml", Some(7), "rules[1].topics", "missing".to_string());
        assert_eq!(errors.to_string(), "acl.toml:7: rules[1].topics: missing");
        errors.errors[0] = Diagnostic { line: None, key: String::new(), ..errors.errors[0].clone() };
        errors.more = 3;
        assert_eq!(errors.to_string(), "acl.toml: missing\nacl.toml: 3 more errors");
    }
}
