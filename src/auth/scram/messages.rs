//! Parses the messages of a client.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::ScramFailure;
use super::keys::{ScramKey, prepare};

/// The longest message of a client, in bytes. A longer message is refused before it is parsed. People type
/// SCRAM user names, so a name of 65535 bytes need not fit.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// The longest nonce of a client, in bytes.
pub const NONCE_BYTES_MAX: usize = 256;

/// The parts of client-first-message.
pub(super) struct ClientFirst<'a> {
    /// gs2-header, with its last comma.
    pub(super) header: &'a str,
    pub(super) acting_as: Option<&'a str>,
    /// client-first-message-bare.
    pub(super) bare: &'a str,
    pub(super) user: &'a str,
    pub(super) nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    pub(super) fn parse(message: &'a str) -> Result<ClientFirst<'a>, ScramFailure> {
        let malformed = ScramFailure::Malformed;
        let (binding, rest) = message.split_once(',').ok_or(malformed("no header"))?;
        match binding {
            "n" | "y" => {}
            _ if binding.starts_with("p=") => return Err(ScramFailure::ChannelBinding),
            _ => return Err(malformed("unknown channel binding flag")),
        }
        let (acting_as, bare) = rest.split_once(',').ok_or(malformed("no header"))?;
        let acting_as = match acting_as {
            "" => None,
            _ => Some(acting_as.strip_prefix("a=").ok_or(malformed("authorization identity"))?),
        };
        if bare.starts_with("m=") {
            return Err(ScramFailure::Extension);
        }
        let (user, rest) = bare.split_once(',').ok_or(malformed("no nonce"))?;
        let user = user.strip_prefix("n=").ok_or(malformed("no user name"))?;
        let mut attributes = rest.split(',');
        let nonce =
            attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or(malformed("no nonce"))?;
        if !is_nonce(nonce) || nonce.len() > NONCE_BYTES_MAX {
            return Err(malformed("nonce"));
        }
        if !attributes.all(is_attribute) {
            return Err(malformed("extension"));
        }
        let header = message.strip_suffix(bare).ok_or(malformed("no header"))?;
        Ok(ClientFirst { header, acting_as, bare, user, nonce })
    }
}

/// The parts of client-final-message.
pub(super) struct ClientFinal<'a> {
    pub(super) header: &'a str,
    pub(super) nonce: &'a str,
    pub(super) without_proof: &'a str,
    pub(super) proof: ScramKey,
}

impl<'a> ClientFinal<'a> {
    pub(super) fn parse(message: &'a str) -> Result<ClientFinal<'a>, ScramFailure> {
        let malformed = ScramFailure::Malformed;
        // The proof is the last part. No other part has a comma.
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(malformed("no proof"))?;
        let proof = BASE64.decode(proof).ok().and_then(|bytes| ScramKey::try_from(bytes).ok());
        let mut attributes = without_proof.split(',');
        let header = attributes
            .next()
            .and_then(|part| part.strip_prefix("c="))
            .ok_or(malformed("no channel binding"))?;
        let nonce =
            attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or(malformed("no nonce"))?;
        if !attributes.all(is_attribute) {
            return Err(malformed("extension"));
        }
        Ok(ClientFinal { header, nonce, without_proof, proof: proof.ok_or(malformed("proof"))? })
    }
}

/// The text of a message. Fails if it is too long, is not UTF-8, or has a zero character.
pub(super) fn text(message: &[u8]) -> Result<&str, ScramFailure> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramFailure::Malformed("too long"));
    }
    let text = std::str::from_utf8(message).map_err(|_| ScramFailure::Malformed("not UTF-8"))?;
    if text.contains('\0') { Err(ScramFailure::Malformed("a zero character")) } else { Ok(text) }
}

/// Replaces `=2C` and `=3D` in a name with the characters they stand for, and prepares the name. A name must
/// have no other equals sign.
pub(super) fn prepared_name(escaped: &str) -> Result<String, ScramFailure> {
    let malformed = ScramFailure::Malformed("user name");
    let mut name = String::with_capacity(escaped.len());
    let mut parts = escaped.split('=');
    name.push_str(parts.next().unwrap_or_default());
    for part in parts {
        if let Some(rest) = part.strip_prefix("2C") {
            name.push(',');
            name.push_str(rest);
        } else if let Some(rest) = part.strip_prefix("3D") {
            name.push('=');
            name.push_str(rest);
        } else {
            return Err(malformed);
        }
    }
    match prepare(&name) {
        Some(prepared) if !prepared.is_empty() => Ok(prepared.into_owned()),
        _ => Err(malformed),
    }
}

pub(super) fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// attr-val: a letter, an equals sign, and at least one more character.
fn is_attribute(part: &str) -> bool {
    matches!(part.as_bytes(), [name, b'=', _, ..] if name.is_ascii_alphabetic())
}
