//! The receiving side of a socket as the driver implements it: single receives and streams, pauses, and held
//! bytes.

use midge::host::SocketEnd;
use std::collections::VecDeque;

/// See the module. It begins as an accepted socket with one pending receive.
#[derive(Debug)]
pub struct Socket {
    /// Bytes that have come and were not received.
    inbound: VecDeque<u8>,
    /// Its end, after that has come.
    end: Option<SocketEnd>,
    mode: Mode,
    /// Whether a receive is pending.
    is_armed: bool,
    is_paused: bool,
    /// Bytes that were received and are held back from the host.
    held: Vec<u8>,
    is_holding: bool,
    held_end: Option<SocketEnd>,
    /// Whether the end was reported to the host.
    is_told: bool,
}

/// What is received next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Off,
    Once,
    Stream,
}

/// A poll's result for a socket.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    Bytes(Vec<u8>),
    End(SocketEnd),
}

impl Socket {
    pub fn new() -> Socket {
        Socket {
            inbound: VecDeque::new(),
            end: None,
            mode: Mode::Once,
            is_armed: true,
            is_paused: false,
            held: Vec::new(),
            is_holding: false,
            held_end: None,
            is_told: false,
        }
    }

    /// Adds bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.inbound.extend(bytes);
    }

    /// Ends the stream.
    pub fn end(&mut self, end: SocketEnd) {
        self.end.get_or_insert(end);
    }

    /// Drops the bytes that have come and were not received.
    pub fn lose_inbound(&mut self) {
        self.inbound.clear();
    }

    /// The way in which its peer has ended it.
    pub fn ended(&self) -> Option<SocketEnd> {
        self.end
    }

    pub fn receive_once(&mut self) {
        self.mode = Mode::Once;
        self.arm();
    }

    pub fn receive_stream(&mut self) {
        self.mode = Mode::Stream;
        self.arm();
    }

    pub fn pause(&mut self) {
        self.is_paused = true;
    }

    pub fn resume(&mut self) {
        if std::mem::take(&mut self.is_paused) {
            self.arm();
        }
    }

    pub fn is_held(&self) -> bool {
        self.is_paused || self.is_holding
    }

    pub fn hold(&mut self, bytes: &[u8]) {
        self.is_holding |= !bytes.is_empty();
        self.held.extend_from_slice(bytes);
    }

    pub fn hold_end(&mut self, end: SocketEnd) -> bool {
        let is_held = end == SocketEnd::EndOfStream && self.is_holding && !self.is_broken();
        if is_held {
            self.is_told = false;
            self.held_end = Some(end);
        }
        is_held
    }

    /// Whether it may move to another shard.
    pub fn can_move(&self) -> bool {
        !self.is_armed && !self.is_holding && !self.is_broken()
    }

    /// Moves it to another shard.
    pub fn adopt(&mut self) {
        (self.mode, self.is_armed, self.is_paused) = (Mode::Off, false, false);
    }

    /// Whether [`Socket::take`] has something to report or to hold.
    pub fn is_ready(&self) -> bool {
        let is_noticed = self.is_armed || self.mode == Mode::Stream;
        (self.is_holding && !self.is_paused)
            || (self.is_armed && !self.inbound.is_empty())
            || (!self.is_told && self.is_broken() && is_noticed)
            || (!self.is_told && self.end.is_some() && self.inbound.is_empty() && self.is_armed)
    }

    /// The result of the next poll. `some` gives the number of bytes that one receive takes of those
    /// available, at least one.
    pub fn take(&mut self, some: impl FnOnce(usize) -> usize) -> Vec<Came> {
        let mut came = Vec::new();
        if self.is_holding && !self.is_paused {
            self.is_holding = false;
            let held = std::mem::take(&mut self.held);
            if !held.is_empty() {
                came.push(Came::Bytes(held));
            }
            match self.held_end.take() {
                Some(end) => came.extend(self.tell(end)),
                None => self.arm(),
            }
        }
        if let Some(end) = self.end.filter(|_| self.is_broken())
            && (self.is_armed || self.mode == Mode::Stream)
        {
            // The bytes that have come and are not read are of no use any more.
            self.inbound.clear();
            self.is_armed = false;
            came.extend(self.tell(end));
        }
        if self.is_armed && !self.inbound.is_empty() {
            let len = some(self.inbound.len());
            let bytes: Vec<u8> = self.inbound.drain(..len).collect();
            if self.mode == Mode::Once {
                (self.mode, self.is_armed) = (Mode::Off, false);
            }
            if self.is_held() {
                self.hold(&bytes);
                self.is_armed &= !self.is_paused;
            } else {
                came.push(Came::Bytes(bytes));
            }
        } else if let Some(end) = self.end.filter(|_| self.is_armed) {
            self.is_armed = false;
            if self.is_holding {
                self.held_end = Some(end);
            } else {
                came.extend(self.tell(end));
            }
        }
        came
    }

    fn is_broken(&self) -> bool {
        matches!(self.end, Some(SocketEnd::Reset | SocketEnd::Error(_)))
    }

    fn arm(&mut self) {
        let is_at_end = self.is_told || self.held_end.is_some();
        self.is_armed = self.is_armed || (self.mode != Mode::Off && !self.is_held() && !is_at_end);
    }

    fn tell(&mut self, end: SocketEnd) -> Option<Came> {
        (!std::mem::replace(&mut self.is_told, true)).then_some(Came::End(end))
    }
}
