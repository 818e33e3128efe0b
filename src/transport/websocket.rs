//! MQTT over WebSocket, the server's side: chapter 6 of the standard over RFC 6455.
//!
//! A [`WebSocket`] is a filter between the driver and the machine for one connection. It takes bytes of the
//! peer, and appends MQTT bytes and bytes for the peer to buffers of the caller. First comes the HTTP request
//! (`upgrade`), then frames (`frame`). Their payload is streamed, whatever its length: an MQTT packet may
//! span frames, and a frame may hold several packets. `[MQTT5-6.0.0-2]`
//!
//! The tags of chapter 6 are the same in MQTT 3.1.1 and 5.0. No extension is offered, so a request for
//! compression is ignored. The caller limits the time of a handshake.

mod forwarded;
mod frame;
#[cfg(test)]
mod tests;
mod upgrade;

use super::proxy::TrustedAddresses;
use std::net::SocketAddr;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use frame::{CheckedHeader, FRAME_UNIT_BYTES_MAX, FrameKind};

/// A connection of a trusted proxy, which names its client in `X-Forwarded-For`.
#[derive(Debug)]
pub struct Forwarding<'a> {
    /// The addresses of trusted proxies.
    pub trusted: &'a TrustedAddresses,
    /// The client, as soon as the request is accepted. `None` if it names none. The port is 0 if it is not named.
    pub client: Option<SocketAddr>,
}

/// The requirements of a listener for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketSettings {
    /// The path that clients must request, such as `/mqtt`. Empty: any path. The query after `?` is not
    /// compared.
    pub path: String,
    /// The allowed values of `Origin`, in any case. Empty: all. A request without an origin is accepted,
    /// because only browsers send it and the check only protects their users.
    pub origins: Vec<String>,
    /// The largest request in bytes, with its empty line. A larger one is answered with 431.
    pub header_bytes_max: usize,
}

/// The default of the largest request, in bytes.
pub const HEADER_BYTES_MAX_DEFAULT: usize = 16 * 1024;

impl Default for WebSocketSettings {
    fn default() -> WebSocketSettings {
        WebSocketSettings {
            path: String::new(),
            origins: Vec::new(),
            header_bytes_max: HEADER_BYTES_MAX_DEFAULT,
        }
    }
}

/// The progress of a connection after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebSocketProgress {
    /// The request is not complete.
    Handshaking,
    /// This read has completed the request. It is reported once, and not if the peer has closed within the
    /// same read.
    Established,
    /// Frames may pass.
    Open,
    /// The peer's Close has come and is answered. The bytes in the payload came before it. Everything after
    /// it is ignored. The caller must flush `out`, then close the socket.
    PeerClosed,
}

/// Why a connection ends. The answer to the peer has been appended to `out`. The caller must flush it, then
/// close the socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketFailure {
    /// The request was refused.
    #[error("the WebSocket upgrade is refused with {status}: {words}")]
    Upgrade {
        /// The HTTP status of the answer.
        status: u16,
        /// The reason, for the log. It has few bytes of the peer, and they are escaped.
        words: String,
    },
    /// A frame broke the protocol, or was not binary.
    #[error("WebSocket closed with {code}: {words}")]
    Frame {
        /// The code of the Close that was sent: 1002, 1003 or 1007.
        code: u16,
        /// The reason, for the log.
        words: &'static str,
    },
}

/// One connection. While an open connection waits for the next frame, or for more of a data frame, it uses no
/// heap.
#[derive(Debug)]
pub struct WebSocket {
    /// The bytes of an incomplete request, frame header or control frame.
    pending: Vec<u8>,
    /// The number of bytes of the current data frame that have not come yet.
    frame_bytes_left: u64,
    /// The masking key of that frame, rotated so that it begins with the next byte.
    mask: [u8; 4],
    stage: Stage,
    /// Whether the last data frame was not final.
    fragmented: bool,
}

const _: () = assert!(size_of::<WebSocket>() <= 40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Handshaking,
    Open,
    /// Our Close is sent, and the peer's has not come.
    Closing,
    Closed,
}

impl Default for WebSocket {
    fn default() -> WebSocket {
        WebSocket::new()
    }
}

impl WebSocket {
    /// A new connection, before any byte has come.
    pub fn new() -> WebSocket {
        WebSocket {
            pending: Vec::new(),
            frame_bytes_left: 0,
            mask: [0; 4],
            stage: Stage::Handshaking,
            fragmented: false,
        }
    }

    /// Takes bytes of the peer, split at any place. Appends MQTT bytes to `payload`, and bytes for the peer
    /// (the answer to its request, Pong, Close) to `out`. Neither grows by more than the bytes of this read
    /// plus one answer of a few hundred bytes. `forwarding` is there if the connection is a trusted proxy's.
    ///
    /// # Errors
    /// The request or a frame was refused. `payload` has the bytes that came before it. Later reads are
    /// ignored.
    pub fn read(
        &mut self,
        settings: &WebSocketSettings,
        forwarding: Option<&mut Forwarding<'_>>,
        bytes: &[u8],
        payload: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<WebSocketProgress, WebSocketFailure> {
        let (frames, progress) = match self.stage {
            Stage::Handshaking => match self.read_request(settings, forwarding, bytes, out) {
                Ok(Some(frames)) => (frames, WebSocketProgress::Established),
                Ok(None) => return Ok(WebSocketProgress::Handshaking),
                Err(failure) => {
                    self.end();
                    return Err(failure);
                }
            },
            Stage::Open | Stage::Closing => (bytes, WebSocketProgress::Open),
            Stage::Closed => return Ok(WebSocketProgress::PeerClosed),
        };
        if let Err(frame::FrameError { code, words }) = self.read_frames(frames, payload, out) {
            self.close(code.into(), out);
            self.end();
            return Err(WebSocketFailure::Frame { code: code.into(), words });
        }
        Ok(if self.stage == Stage::Closed { WebSocketProgress::PeerClosed } else { progress })
    }

    /// Whether MQTT bytes may be sent: the request was accepted, and no Close has been sent or has come.
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// The bytes of memory that hold incomplete data.
    pub fn held_bytes(&self) -> usize {
        self.pending.capacity()
    }

    /// Appends the header of one binary frame for `len` MQTT bytes, which follow it unmasked, in one or more
    /// slices. Only for a connection that [is open](WebSocket::is_open). `[MQTT5-6.0.0-1]`
    pub fn write_header(&self, len: usize, out: &mut Vec<u8>) {
        debug_assert!(self.is_open(), "no data frame stands before the handshake or behind a Close");
        frame::write_header(OpCode::Data(Data::Binary), len, out);
    }

    /// Appends a Close with a status code that RFC 6455 lets an endpoint send, such as 1000 or 1001. After
    /// it, everything but the peer's own Close is ignored. Nothing is sent before the handshake is done, or
    /// after another Close.
    pub fn close(&mut self, code: u16, out: &mut Vec<u8>) {
        debug_assert!(CloseCode::from(code).is_allowed(), "{code} is not for the wire");
        if self.stage == Stage::Open {
            frame::write_header(OpCode::Control(Control::Close), 2, out);
            out.extend_from_slice(&code.to_be_bytes());
            self.stage = Stage::Closing;
        }
    }

    /// Reads more of the request. When it is complete and accepted, returns the bytes after it.
    fn read_request<'a>(
        &mut self,
        settings: &WebSocketSettings,
        forwarding: Option<&mut Forwarding<'_>>,
        bytes: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, WebSocketFailure> {
        let mut pending = std::mem::take(&mut self.pending);
        let held = pending.len();
        if held == 0 {
            upgrade::check_first_byte(bytes, out)?;
        }
        // One byte more than the bound shows that it is exceeded.
        let room = settings.header_bytes_max.saturating_add(1).saturating_sub(held);
        let (within, beyond) = bytes.split_at(bytes.len().min(room));
        let text = if held == 0 {
            within
        } else {
            pending.extend_from_slice(within);
            &pending
        };
        match upgrade::split_request(text, held) {
            Some((request, behind)) if request.len() <= settings.header_bytes_max => {
                upgrade::answer(settings, forwarding, request, out)?;
                self.stage = Stage::Open;
                // The request was not complete before this read, so the bytes after it belong to this read.
                Ok(Some(last(bytes, behind.len() + beyond.len())))
            }
            _ if text.len() > settings.header_bytes_max => {
                Err(upgrade::refuse_large(settings.header_bytes_max, out))
            }
            _ => {
                self.pending = if held == 0 { within.to_vec() } else { pending };
                Ok(None)
            }
        }
    }

    fn read_frames(
        &mut self,
        mut bytes: &[u8],
        payload: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), frame::FrameError> {
        while !bytes.is_empty() && self.stage != Stage::Closed {
            if self.frame_bytes_left > 0 {
                bytes = self.read_payload(bytes, payload);
            } else if self.pending.is_empty() {
                match self.read_unit(bytes, out)? {
                    Some(behind) => bytes = behind,
                    None => {
                        self.pending = bytes.to_vec();
                        return Ok(());
                    }
                }
            } else {
                let mut unit = std::mem::take(&mut self.pending);
                let room = FRAME_UNIT_BYTES_MAX.saturating_sub(unit.len());
                let (added, beyond) = bytes.split_at(bytes.len().min(room));
                unit.extend_from_slice(added);
                match self.read_unit(&unit, out)? {
                    // The unit was not complete without `added`, so the bytes after it belong to `added`.
                    Some(behind) => bytes = last(bytes, behind.len() + beyond.len()),
                    None => {
                        debug_assert!(beyond.is_empty(), "no unit is larger than the bound");
                        self.pending = unit;
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Passes on payload of the current data frame, and returns the bytes after it.
    fn read_payload<'a>(&mut self, bytes: &'a [u8], payload: &mut Vec<u8>) -> &'a [u8] {
        let left = usize::try_from(self.frame_bytes_left).unwrap_or(usize::MAX);
        let (part, behind) = bytes.split_at(bytes.len().min(left));
        if self.stage == Stage::Open {
            frame::unmask_into(part, self.mask, payload);
        }
        self.frame_bytes_left -= part.len() as u64;
        self.mask.rotate_left(part.len() % 4);
        behind
    }

    /// Reads the header of a data frame, or a complete control frame, and returns the bytes after it. `None`
    /// if it is not complete.
    fn read_unit<'a>(
        &mut self,
        bytes: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, frame::FrameError> {
        let Some((CheckedHeader { kind, mask, len }, behind)) = frame::parse_header(bytes, self.fragmented)?
        else {
            return Ok(None);
        };
        let control = match kind {
            FrameKind::Data { last } => {
                self.fragmented = !last;
                self.mask = mask;
                self.frame_bytes_left = len;
                return Ok(Some(behind));
            }
            FrameKind::Control(control) => control,
        };
        // A length above 125 was refused earlier.
        let Some((body, behind)) = behind.split_at_checked(len as usize) else {
            return Ok(None);
        };
        match control {
            Control::Ping => self.answer_ping(body, mask, out),
            Control::Close => self.answer_close(body, mask, out)?,
            // An unsolicited Pong is allowed and has no meaning.
            Control::Pong | Control::Reserved(_) => {}
        }
        Ok(Some(behind))
    }

    /// Sends a Pong with the Ping's payload.
    fn answer_ping(&mut self, body: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
        if self.stage == Stage::Open {
            frame::write_header(OpCode::Control(Control::Pong), body.len(), out);
            frame::unmask_into(body, mask, out);
        }
    }

    /// Sends a Close with the peer's status code, unless our Close is already sent.
    fn answer_close(
        &mut self,
        body: &[u8],
        mask: [u8; 4],
        out: &mut Vec<u8>,
    ) -> Result<(), frame::FrameError> {
        let mut close = Vec::new();
        frame::unmask_into(body, mask, &mut close);
        match frame::close_code(&close)? {
            Some(code) => self.close(code, out),
            None if self.stage == Stage::Open => {
                frame::write_header(OpCode::Control(Control::Close), 0, out);
            }
            None => {}
        }
        self.end();
        Ok(())
    }

    /// Stops reading.
    fn end(&mut self) {
        self.stage = Stage::Closed;
        self.pending = Vec::new();
        self.frame_bytes_left = 0;
    }
}

/// The last `count` bytes.
fn last(bytes: &[u8], count: usize) -> &[u8] {
    debug_assert!(count <= bytes.len());
    bytes.get(bytes.len().saturating_sub(count)..).unwrap_or_default()
}
