//! The tokens of the admin interface: who may look, and who may change things. Only their hashes are kept.

use crate::base::{Diagnostic, Diagnostics};
use crate::files;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The largest file, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// The largest number of tokens. Each request is compared with all of them.
const TOKENS_MAX: usize = 100;
/// The length of a token, in bytes.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=256;
/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What the holder of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminRight {
    /// Look.
    Read,
    /// Look, and change things.
    Write,
}

/// A token of the file.
#[derive(Debug)]
struct Holder {
    name: Box<str>,
    right: AdminRight,
    hash: [u8; 32],
}

/// The tokens of a file.
#[derive(Debug, Default)]
pub struct AdminTokens(Vec<Holder>);

/// A line of the file. It borrows the token.
struct TokenLine<'a> {
    name: &'a str,
    right: AdminRight,
    token: &'a str,
}

impl AdminTokens {
    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, with its lines. No message contains a token.
    pub fn load(path: &Path) -> Result<AdminTokens, Diagnostics> {
        let file = path.display().to_string();
        let text = read(path).map_err(|message| Diagnostics::one(&file, None, "", message))?;
        AdminTokens::parse(&file, &text)
    }

    /// Checks the text of a file.
    pub(super) fn parse(file: &str, text: &str) -> Result<AdminTokens, Diagnostics> {
        let mut errors = Diagnostics { errors: Vec::new(), more: 0 };
        let mut tokens = AdminTokens::default();
        for (number, line) in (1..).zip(text.lines()) {
            let Some(line) = content(line) else { continue };
            if let Err(message) = token_line(line).and_then(|line| tokens.add(&line)) {
                errors.add(Diagnostic {
                    file: file.to_owned(),
                    line: Some(number),
                    key: String::new(),
                    message,
                });
            }
        }
        if errors.errors.is_empty() && tokens.0.is_empty() {
            return Err(Diagnostics::one(file, None, "", format!("there is no token in it; {LINE}")));
        }
        if errors.errors.is_empty() { Ok(tokens) } else { Err(errors) }
    }

    fn add(&mut self, line: &TokenLine<'_>) -> Result<(), String> {
        let hash = hash(line.token.as_bytes());
        if self.0.iter().any(|holder| *holder.name == *line.name) {
            return Err(format!("the name \"{}\" is there twice", line.name));
        }
        if let Some(holder) = self.0.iter().find(|holder| holder.hash == hash) {
            return Err(format!("it is the token of \"{}\" too", holder.name));
        }
        if self.0.len() == TOKENS_MAX {
            return Err(format!("there are more than {TOKENS_MAX} tokens"));
        }
        self.0.push(Holder { name: line.name.into(), right: line.right, hash });
        Ok(())
    }

    /// The name and the right of a token's holder. Takes the same time for every token.
    pub(super) fn holder(&self, token: &[u8]) -> Option<(&str, AdminRight)> {
        let hash = hash(token);
        let mut found = None;
        for holder in &self.0 {
            if bool::from(holder.hash.ct_eq(&hash)) {
                found = Some((&*holder.name, holder.right));
            }
        }
        found
    }
}

fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The token that a client sends: the first one that may write in a file of tokens, otherwise the first one. A line may
/// also be a token alone.
pub(super) fn own_token(path: &Path) -> Result<Zeroizing<String>, String> {
    let said = |message: String| format!("{}: {message}", path.display());
    let text = read(path).map_err(said)?;
    let lines: Vec<&str> = text.lines().filter_map(content).collect();
    let line = |wanted: Option<AdminRight>| {
        let mut lines = lines.iter().filter_map(|line| token_line(line).ok());
        lines.find(|line| wanted.is_none_or(|wanted| line.right == wanted)).map(|line| line.token)
    };
    let alone = || lines.iter().copied().find(|line| check_token(line).is_ok());
    let token = line(Some(AdminRight::Write)).or_else(|| line(None)).or_else(alone);
    token
        .map(|token| Zeroizing::new(token.to_owned()))
        .ok_or_else(|| said(format!("there is no token in it; {LINE}")))
}

/// A line without its ends. `None` for an empty line or a comment.
fn content(line: &str) -> Option<&str> {
    Some(line.trim()).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

const LINE: &str = "a line is NAME:read:TOKEN or NAME:write:TOKEN";

fn token_line(line: &str) -> Result<TokenLine<'_>, String> {
    let mut parts = line.splitn(3, ':');
    let (Some(name), Some(right), Some(token)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(LINE.to_owned());
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!("the name must have 1 to {NAME_BYTES_MAX} bytes without control characters"));
    }
    let right = match right {
        "read" => AdminRight::Read,
        "write" => AdminRight::Write,
        // It may be a token in the wrong place.
        _ => return Err(format!("the right of \"{name}\" must be \"read\" or \"write\"; {LINE}")),
    };
    check_token(token).map_err(|wrong| format!("the token of \"{name}\" {wrong}"))?;
    Ok(TokenLine { name, right, token })
}

/// The characters are those of RFC 6750.
fn check_token(token: &str) -> Result<(), String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    let (least, most) = (TOKEN_BYTES.start(), TOKEN_BYTES.end());
    if !TOKEN_BYTES.contains(&token.len()) {
        return Err(format!("has {} characters; allowed are {least} to {most}", token.len()));
    }
    match token.bytes().all(is_allowed) {
        true => Ok(()),
        false => Err("has other characters than letters, digits and -._~+/=".to_owned()),
    }
}

/// The text of a file that other users can't read.
fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let failed = |error: std::io::Error| format!("can't be read: {error}");
    let file = files::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o006 != 0 {
        return Err(format!(
            "every user of this machine can read or change it (mode {mode:04o}); chmod o-rwx {}",
            path.display()
        ));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes: no file of tokens"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| "is no text: not UTF-8".to_owned())?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the tests write the files that are read")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    const READER: &str = "0123456789abcdef";
    const WRITER: &str = "fedcba9876543210-._~+/=";

    fn errors(text: &str) -> String {
        AdminTokens::parse("tokens", text).expect_err("it is wrong").to_string()
    }

    fn file(name: &str, mode: u32, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("midge-tokens-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_token_has_a_name_and_a_right_and_others_have_none() {
        let text = format!("# ours\n\n grafana:read:{READER} \r\nada:write:{WRITER}\n");
        let tokens = AdminTokens::parse("tokens", &text).unwrap();
        assert_eq!(tokens.holder(READER.as_bytes()), Some(("grafana", AdminRight::Read)));
        assert_eq!(tokens.holder(WRITER.as_bytes()), Some(("ada", AdminRight::Write)));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "grafana"] {
            assert_eq!(tokens.holder(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn each_wrong_line_is_named_and_no_token_is_repeated() {
        let text = format!(
            "a:read\nb:admin:{READER}\nc:read:short\n:read:{READER}\nd:read:{READER}\nd:read:{WRITER}\n\
             e:write:{READER}\nf:read:{READER}:x\n"
        );
        let errors = errors(&text);
        assert_eq!(
            errors,
            "tokens:1: a line is NAME:read:TOKEN or NAME:write:TOKEN\n\
             tokens:2: the right of \"b\" must be \"read\" or \"write\"; a line is NAME:read:TOKEN or NAME:write:TOKEN\n\
             tokens:3: the token of \"c\" has 5 characters; allowed are 16 to 256\n\
             tokens:4: the name must have 1 to 64 bytes without control characters\n\
             tokens:6: the name \"d\" is there twice\n\
             tokens:7: it is the token of \"d\" too\n\
             tokens:8: the token of \"f\" has other characters than letters, digits and -._~+/="
        );
        assert!(!errors.contains(READER) && !errors.contains("short"));
        assert!(self::errors("# nothing\n").starts_with("tokens: there is no token in it"));
        let many: String = (0..=TOKENS_MAX).map(|n| format!("n{n}:read:{READER}{n}\n")).collect();
        assert_eq!(self::errors(&many), "tokens:101: there are more than 100 tokens");
    }

    #[test]
    fn a_file_that_others_can_read_or_change_is_refused() {
        let text = format!("a:read:{READER}\n");
        for (mode, good) in [(0o600, true), (0o640, true), (0o644, false), (0o602, false), (0o601, true)] {
            let path = file("mode", mode, &text);
            let loaded = AdminTokens::load(&path);
            assert_eq!(loaded.is_ok(), good, "{mode:o}");
            if let Err(errors) = loaded {
                let words = errors.to_string();
                assert!(words.contains("every user") && words.contains("chmod o-rwx"), "{words}");
            }
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_client_takes_the_token_that_may_write_or_the_only_one() {
        for (text, expected) in [
            (format!("a:read:{READER}\nb:write:{WRITER}\n"), Ok(WRITER)),
            (format!("# only\na:read:{READER}\n"), Ok(READER)),
            (format!("{READER}\n"), Ok(READER)),
            ("short\n".to_owned(), Err(())),
        ] {
            let path = file("own", 0o600, &text);
            assert_eq!(own_token(&path).as_deref().map(String::as_str).map_err(drop), expected, "{text}");
            std::fs::remove_file(path).unwrap();
        }
    }
}
