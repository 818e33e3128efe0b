//! MQTT over WebSocket, the side of the server: chapter 6 of the standard over RFC 6455.
//!
//! A [`WebSocket`] is a filter between the driver and the machine of one connection. Bytes of the peer
//! go in; MQTT bytes and bytes for the peer come out, both appended to buffers of the caller. First comes the
//! HTTP request (`upgrade`), then frames (`frame`), whose payload is streamed through whatever its length:
//! an MQTT packet may span frames, and a frame may hold several. `[MQTT5-6.0.0-2]`
//!
//! The standard's tags of chapter 6 are the same in MQTT 3.1.1 and 5.0. No extension is offered, so a request
//! for compression is ignored, and `X-Forwarded-For` is not believed: behind a proxy, see
//! [`super::proxy`]. The time a handshake may take is the business of who owns the clock.

mod frame;
#[cfg(test)]
mod tests;
mod upgrade;

use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use frame::{CheckedHeader, FRAME_UNIT_BYTES_MAX, FrameKind};

/// What a listener asks of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketSettings {
    /// The path that is served, such as `/mqtt`; empty for any. What follows a `?` is not compared.
    pub path: String,
    /// The values of `Origin` that are served, in any case; empty for all. A request without one passes: only
    /// browsers send it, and only their users are protected by it.
    pub origins: Vec<String>,
    /// Largest request in bytes, its empty line included. A larger one is answered with 431.
    pub header_bytes_max: usize,
}

/// Largest request in bytes unless the listener says otherwise.
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

/// How far a connection is after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebSocketProgress {
    /// The request is not whole.
    Handshaking,
    /// The request was whole with this read; said once, and not if the peer has closed within the same read.
    Established,
    /// Frames pass.
    Open,
    /// The peer's Close has come, and is answered. What was appended to the payload came before it. Whatever
    /// follows is ignored: flush, then close the socket.
    PeerClosed,
}

/// Why a connection ends. What the peer gets as an answer has been appended to `out`: flush, then close the
/// socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketFailure {
    /// The request was refused.
    #[error("the WebSocket upgrade is refused with {status}: {words}")]
    Upgrade {
        /// The HTTP status of the answer.
        status: u16,
        /// What was wrong, for the log; bytes of the peer are few and escaped.
        words: String,
    },
    /// A frame broke the protocol, or was not binary.
    #[error("WebSocket closed with {code}: {words}")]
    Frame {
        /// The code of the Close that was sent: 1002, 1003 or 1007.
        code: u16,
        /// What was wrong, for the log.
        words: &'static str,
    },
}

/// One connection. An open one that waits for the next frame, or for more of a data frame, owns no heap.
#[derive(Debug)]
pub struct WebSocket {
    /// What has come of a request, of a frame's header or of a control frame that is not whole yet.
    pending: Vec<u8>,
    /// Bytes of the current data frame that have not come yet.
    frame_bytes_left: u64,
    /// Its masking key, turned so that it begins with the next byte.
    mask: [u8; 4],
    stage: Stage,
    /// Whether the data frames so far end in one that is not final.
    fragmented: bool,
}

const _: () = assert!(size_of::<WebSocket>() <= 40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Handshaking,
    Open,
    /// Our Close is on its way; the peer's has not come.
    Closing,
    Closed,
}

impl Default for WebSocket {
    fn default() -> WebSocket {
        WebSocket::new()
    }
}

impl WebSocket {
    /// A connection of which nothing has come yet.
    pub fn new() -> WebSocket {
        WebSocket {
            pending: Vec::new(),
            frame_bytes_left: 0,
            mask: [0; 4],
            stage: Stage::Handshaking,
            fragmented: false,
        }
    }

    /// Takes bytes of the peer, at whatever place they are cut. MQTT bytes are appended to `payload`, what goes to
    /// the peer (the answer to its request, Pong, Close) to `out`; neither grows by more than the
    /// bytes of this read and one answer of a few hundred bytes.
    ///
    /// # Errors
    /// The request was refused, or a frame was. What came before it stands in `payload`; later reads are ignored.
    pub fn read(
        &mut self,
        settings: &WebSocketSettings,
        bytes: &[u8],
        payload: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<WebSocketProgress, WebSocketFailure> {
        let (frames, progress) = match self.stage {
            Stage::Handshaking => match self.read_request(settings, bytes, out) {
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

    /// Whether MQTT bytes may be sent: the request was accepted and no Close has been sent or has come.
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Bytes of memory that hold what has come and is not whole.
    pub fn held_bytes(&self) -> usize {
        self.pending.capacity()
    }

    /// Appends the header of one binary frame for `len` MQTT bytes, which follow it unmasked, in one or several
    /// slices. Only for a connection that [is open](WebSocket::is_open). `[MQTT5-6.0.0-1]`
    pub fn write_header(&self, len: usize, out: &mut Vec<u8>) {
        debug_assert!(self.is_open(), "no data frame stands before the handshake or behind a Close");
        frame::write_header(OpCode::Data(Data::Binary), len, out);
    }

    /// Appends a Close with a status code that RFC 6455 lets an endpoint send, such as 1000 or 1001. From then
    /// on what comes is ignored but the peer's own Close. Nothing is sent before the handshake is over, or after
    /// another Close.
    pub fn close(&mut self, code: u16, out: &mut Vec<u8>) {
        debug_assert!(CloseCode::from(code).is_allowed(), "{code} is not for the wire");
        if self.stage == Stage::Open {
            frame::write_header(OpCode::Control(Control::Close), 2, out);
            out.extend_from_slice(&code.to_be_bytes());
            self.stage = Stage::Closing;
        }
    }

    /// Reads on in the request. Some with the bytes behind it once it is whole and accepted.
    fn read_request<'a>(
        &mut self,
        settings: &WebSocketSettings,
        bytes: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, WebSocketFailure> {
        let mut pending = std::mem::take(&mut self.pending);
        let held = pending.len();
        if held == 0 {
            upgrade::check_first_byte(bytes, out)?;
        }
        // One byte above the bound tells that it is passed.
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
                upgrade::answer(settings, request, out)?;
                self.stage = Stage::Open;
                // The request was not whole without this read, so what is behind it is a part of it.
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
                    // The unit was not whole without `added`, so what is behind it is a part of `added`.
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

    /// Streams payload of the current data frame, and gives the bytes behind it.
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

    /// Takes the header of a data frame, or a whole control frame, and gives the bytes behind it; None when that
    /// is not there yet.
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
        // A length above 125 was refused.
        let Some((body, behind)) = behind.split_at_checked(len as usize) else {
            return Ok(None);
        };
        match control {
            Control::Ping => self.answer_ping(body, mask, out),
            Control::Close => self.answer_close(body, mask, out)?,
            // A Pong that nobody asked for is allowed, and means nothing here.
            Control::Pong | Control::Reserved(_) => {}
        }
        Ok(Some(behind))
    }

    /// A Pong with the Ping's payload.
    fn answer_ping(&mut self, body: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
        if self.stage == Stage::Open {
            frame::write_header(OpCode::Control(Control::Pong), body.len(), out);
            frame::unmask_into(body, mask, out);
        }
    }

    /// A Close with the status code of the peer's, unless ours is on its way.
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

    /// Nothing more is read.
    fn end(&mut self) {
        self.stage = Stage::Closed;
        self.pending = Vec::new();
        self.frame_bytes_left = 0;
    }
}

/// The last `count` of the bytes.
fn last(bytes: &[u8], count: usize) -> &[u8] {
    debug_assert!(count <= bytes.len());
    bytes.get(bytes.len().saturating_sub(count)..).unwrap_or_default()
}
