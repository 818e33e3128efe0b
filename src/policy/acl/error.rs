//! What the readers of access-control files say about a file: everything that is wrong with it, each with file,
//! line and key, in the words of the configuration's errors.

use std::fmt;

/// Errors of one file that are reported one by one; the others are counted.
pub const ERRORS_MAX: usize = 20;

/// Largest access-control file, in bytes. A larger one is refused unread.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclError {
    /// The file as it was named.
    pub file: String,
    /// Line, from 1; `None` when the file as a whole is meant.
    pub line: Option<usize>,
    /// The key (`rules[2].topics`); empty when none is to blame.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl fmt::Display for AclError {
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
pub struct AclErrors {
    /// The first [`ERRORS_MAX`] errors.
    pub errors: Vec<AclError>,
    /// How many errors more there are.
    pub more: usize,
}

/// One error a line.
impl fmt::Display for AclErrors {
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

impl std::error::Error for AclErrors {}

impl AclErrors {
    /// One error alone.
    #[cfg(any(feature = "runtime", test))]
    pub(super) fn one(file: &str, line: Option<usize>, key: &str, message: String) -> AclErrors {
        let error = AclError { file: file.to_string(), line, key: key.to_string(), message };
        AclErrors { errors: vec![error], more: 0 }
    }

    /// One error more, behind the others.
    pub(super) fn add(&mut self, error: AclError) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        } else {
            self.more += 1;
        }
    }
}

/// The text of a file.
///
/// Fails when it cannot be read, is larger than [`FILE_BYTES_MAX`] or is not UTF-8.
#[cfg(feature = "runtime")]
pub(super) fn read_text(path: &std::path::Path) -> Result<String, AclErrors> {
    let file = path.display().to_string();
    let whole = |line, message: String| AclErrors::one(&file, line, "", message);
    let bytes = crate::config::file::read(path, FILE_BYTES_MAX)
        .map_err(|error| whole(None, format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(whole(None, format!("larger than {FILE_BYTES_MAX} bytes: no access-control file")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..valid];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        whole(Some(line), "not UTF-8".to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_file_line_key_and_message() {
        let mut errors = AclErrors::one("acl.toml", Some(7), "rules[1].topics", "missing".to_string());
        assert_eq!(errors.to_string(), "acl.toml:7: rules[1].topics: missing");
        errors.errors[0] = AclError { line: None, key: String::new(), ..errors.errors[0].clone() };
        errors.more = 3;
        assert_eq!(errors.to_string(), "acl.toml: missing\nacl.toml: 3 more errors");
    }

    #[cfg(feature = "runtime")]
    #[test]
    fn a_file_that_is_not_there_or_not_a_file_is_an_error_with_its_name() {
        for path in ["there/is/no/such/file.toml", "/"] {
            let errors = read_text(std::path::Path::new(path)).expect_err("unreadable");
            assert!(errors.to_string().starts_with(&format!("{path}: cannot be read: ")), "{errors}");
        }
    }
}
