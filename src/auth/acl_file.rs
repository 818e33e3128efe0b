//! Reads an access list from its file.

use crate::base::Diagnostics;
use crate::files;
use crate::policy::acl::{Acl, mosquitto, toml};
use std::path::Path;

/// The largest access list, in bytes. A larger file is refused before it is read.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// Reads and checks a file. A file whose name ends in `.toml` is TOML, any other is in mosquitto's format.
///
/// # Errors
/// The file can't be read, is larger than [`FILE_BYTES_MAX`], is not UTF-8, or is not an access list.
pub fn load(path: &Path) -> Result<Acl, Diagnostics> {
    let text = read_text(path)?;
    let file = path.display().to_string();
    match path.extension() {
        Some(extension) if extension == "toml" => toml::parse(&file, &text),
        _ => mosquitto::parse(&file, &text),
    }
}

/// The text of a file.
fn read_text(path: &Path) -> Result<String, Diagnostics> {
    let file = path.display().to_string();
    let whole = |line, message: String| Diagnostics::one(&file, line, "", message);
    let bytes =
        files::read(path, FILE_BYTES_MAX).map_err(|error| whole(None, format!("cannot be read: {error}")))?;
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
    fn a_file_that_is_not_there_or_not_a_file_is_an_error_with_its_name() {
        for path in ["there/is/no/such/file.toml", "/"] {
            let errors = read_text(Path::new(path)).expect_err("unreadable");
            assert!(errors.to_string().starts_with(&format!("{path}: cannot be read: ")), "{errors}");
        }
    }
}
