//! What the readers of an operator's files say about a file: everything that is wrong with it, each with file, line and
//! key.

use std::fmt;

/// Errors of one file that are reported one by one; the others are counted.
pub const ERRORS_MAX: usize = 20;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file as it was named.
    pub file: String,
    /// Line, from 1; `None` when the file as a whole is meant.
    pub line: Option<usize>,
    /// The key (`rules[2].topics`); empty when none is to blame.
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

/// Everything that is wrong with a file, in the order of its lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    /// The first [`ERRORS_MAX`] errors.
    pub errors: Vec<Diagnostic>,
    /// How many errors more there are.
    pub more: usize,
}

/// One error a line.
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
    /// One error alone.
    pub fn one(file: &str, line: Option<usize>, key: &str, message: String) -> Diagnostics {
        let error = Diagnostic { file: file.to_string(), line, key: key.to_string(), message };
        Diagnostics { errors: vec![error], more: 0 }
    }

    /// One error more, behind the others.
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
