//! One frame of RFC 6455 as a server sees it: the rules for its header, its mask, and the body of a Close.
//!
//! tungstenite parses and formats headers. This file decides what a client may send.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// The largest payload of a control frame, in bytes.
const CONTROL_BYTES_MAX: u64 = 125;

/// The largest number of bytes of an incomplete frame that are kept: the longest header and a control frame's
/// payload.
pub(super) const FRAME_UNIT_BYTES_MAX: usize = 14 + CONTROL_BYTES_MAX as usize;

/// A valid header.
#[derive(Debug)]
pub(super) struct CheckedHeader {
    pub(super) kind: FrameKind,
    pub(super) mask: [u8; 4],
    /// The payload in bytes, at most 125 for a control frame.
    pub(super) len: u64,
}

/// The purpose of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// MQTT bytes. `last` if no continuation follows.
    Data {
        last: bool,
    },
    Control(Control),
}

/// A broken rule: the code of the Close, and the words for the log.
#[derive(Debug)]
pub(super) struct FrameError {
    pub(super) code: CloseCode,
    pub(super) words: &'static str,
}

impl FrameError {
    fn protocol(words: &'static str) -> FrameError {
        FrameError { code: CloseCode::Protocol, words }
    }
}

/// The header at the beginning of `bytes` and the bytes after it. `None` if it is not complete. `fragmented`:
/// a message waits for its continuation.
pub(super) fn parse_header(
    bytes: &[u8],
    fragmented: bool,
) -> Result<Option<(CheckedHeader, &[u8])>, FrameError> {
    let mut cursor = Cursor::new(bytes);
    let parsed = FrameHeader::parse(&mut cursor);
    let parsed = parsed.map_err(|_| FrameError::protocol("the opcode of a frame is unknown"))?;
    let Some((header, len)) = parsed else {
        return Ok(None);
    };
    let kind = check_header(&header, len, fragmented)?;
    let Some(mask) = header.mask else {
        return Err(FrameError::protocol("a frame of the client is not masked"));
    };
    let used = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
    let behind = bytes.get(used..).unwrap_or_default();
    Ok(Some((CheckedHeader { kind, mask, len }, behind)))
}

fn check_header(header: &FrameHeader, len: u64, fragmented: bool) -> Result<FrameKind, FrameError> {
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(FrameError::protocol("a reserved bit is set, and no extension was agreed on"));
    }
    if len > i64::MAX as u64 {
        return Err(FrameError::protocol("the top bit of a frame's length is set"));
    }
    match header.opcode {
        // [MQTT5-6.0.0-1]
        OpCode::Data(Data::Text) => {
            Err(FrameError { code: CloseCode::Unsupported, words: "MQTT came in a text frame" })
        }
        OpCode::Data(Data::Binary) if fragmented => {
            Err(FrameError::protocol("a message begins before the one ahead of it has ended"))
        }
        OpCode::Data(Data::Continue) if !fragmented => {
            Err(FrameError::protocol("a continuation has nothing to continue"))
        }
        OpCode::Data(Data::Binary | Data::Continue) => Ok(FrameKind::Data { last: header.is_final }),
        OpCode::Control(_) if !header.is_final => Err(FrameError::protocol("a control frame is fragmented")),
        OpCode::Control(_) if len > CONTROL_BYTES_MAX => {
            Err(FrameError::protocol("a control frame has more than 125 bytes"))
        }
        OpCode::Control(control @ (Control::Close | Control::Ping | Control::Pong)) => {
            Ok(FrameKind::Control(control))
        }
        OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
            Err(FrameError::protocol("the opcode of a frame is unknown"))
        }
    }
}

/// Appends the header of a final frame to send.
pub(super) fn write_header(opcode: OpCode, len: usize, out: &mut Vec<u8>) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    header.format(len as u64, out).expect("writing to a Vec does not fail");
}

/// Appends `bytes` without their mask. The first byte of the mask belongs to the first of them.
pub(super) fn unmask_into(bytes: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(bytes);
    let (words, rest) = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<8>();
    let [a, b, c, d] = mask;
    let key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ key).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// The status code in the body of a Close, if there is one.
pub(super) fn close_code(body: &[u8]) -> Result<Option<u16>, FrameError> {
    let Some((&code, reason)) = body.split_first_chunk::<2>() else {
        return match body {
            [] => Ok(None),
            _ => Err(FrameError::protocol("the status code of a Close is cut")),
        };
    };
    let code = u16::from_be_bytes(code);
    if !CloseCode::from(code).is_allowed() {
        return Err(FrameError::protocol("the status code of a Close is not one that may be sent"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(FrameError { code: CloseCode::Invalid, words: "the reason of a Close is not UTF-8" });
    }
    Ok(Some(code))
}
