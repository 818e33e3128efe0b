//! One side of a connection, independent of its transport. [`Link`] is the interface that a client needs, and
//! [`Frames`] splits the received bytes into packets. Failures are values here. [`Client`](crate::Client)
//! turns them into failures of the test.

use crate::codec::packet_length;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The longest time for anything that must happen, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The next event on a connection.
#[derive(Debug)]
pub enum Next<P> {
    /// A packet.
    Packet(P),
    /// The end: the other side has closed or reset the connection.
    Closed,
    /// Nothing came in time.
    Nothing,
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Bytes have come.
    Bytes,
    /// The end: the other side has closed or reset the connection.
    Closed,
    /// Nothing came in time.
    Nothing,
}

/// The client's side of a connection.
pub trait Link {
    /// The time since some moment before the connection, on the clock that its waits are measured with.
    fn now(&self) -> Duration;

    /// Whether nothing takes longer than it must. This is so on a virtual clock, but not on a real machine.
    fn is_virtual(&self) -> bool {
        false
    }

    /// Sends all bytes. If the other side has closed, this call or the next read reports it.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Ends the sending direction. Reading is still possible.
    fn finish(&mut self);

    /// Closes both directions. When this returns, the other side has noticed it, or [`PATIENCE`] has passed.
    fn vanish(&mut self);

    /// Appends received bytes to `received`. Waits for them at most for `time`.
    fn receive(&mut self, received: &mut Vec<u8>, time: Duration) -> Heard;
}

/// A stream of the system. Every one is a [`Link`].
pub trait Stream: Read + Write {
    /// Sets the longest time that a read waits; never zero.
    fn limit_reads(&self, time: Duration) -> io::Result<()>;

    /// Closes one direction or both.
    fn close(&self, how: Shutdown);
}

impl Stream for TcpStream {
    fn limit_reads(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn close(&self, how: Shutdown) {
        let _ = self.shutdown(how);
    }
}

impl Stream for UnixStream {
    fn limit_reads(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn close(&self, how: Shutdown) {
        let _ = self.shutdown(how);
    }
}

impl<S: Stream> Link for S {
    fn now(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn finish(&mut self) {
        self.close(Shutdown::Write);
    }

    fn vanish(&mut self) {
        self.close(Shutdown::Write);
        let end = self.now() + PATIENCE;
        let mut rest = Vec::new();
        while self.now() < end && self.receive(&mut rest, PATIENCE) == Heard::Bytes {
            rest.clear();
        }
        self.close(Shutdown::Both);
    }

    fn receive(&mut self, received: &mut Vec<u8>, time: Duration) -> Heard {
        let end = self.now() + time;
        loop {
            let left = end.saturating_sub(self.now()).max(Duration::from_millis(1));
            self.limit_reads(left).expect("a time above zero is allowed");
            let mut chunk = [0; 65536];
            match Read::read(self, &mut chunk) {
                Ok(0) => return Heard::Closed,
                Ok(count) => {
                    received.extend_from_slice(&chunk[..count]);
                    return Heard::Bytes;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if self.now() >= end {
                        return Heard::Nothing;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Heard::Closed,
            }
        }
    }
}

/// A connection on which no read and no write of a test waits forever.
///
/// # Panics
/// If it is not accepted within [`PATIENCE`].
pub fn open(address: impl ToSocketAddrs) -> TcpStream {
    let until = Instant::now() + PATIENCE;
    let stream = loop {
        match TcpStream::connect(&address) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
    stream.set_nodelay(true).expect("a socket option");
    stream
}

/// The bytes of the next packet of a stream that others read too. No byte after the packet is taken.
pub fn read_packet(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 2];
    stream.read_exact(&mut packet)?;
    loop {
        let length =
            packet_length(&packet).map_err(|breach| io::Error::new(ErrorKind::InvalidData, breach))?;
        let (start, end) = (packet.len(), length.unwrap_or(packet.len() + 1));
        packet.resize(end, 0);
        stream.read_exact(&mut packet[start..])?;
        if length.is_some() {
            return Ok(packet);
        }
    }
}

/// Reads until the other side closes or resets the connection.
///
/// # Panics
/// If it does neither.
pub fn read_to_end(stream: &mut impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("it stays open: {error}"),
        _ => rest,
    }
}

/// Expects these bytes next.
///
/// # Panics
/// If other bytes come.
pub fn expect(stream: &mut impl Read, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("an answer");
    let shown = |bytes: &[u8]| format!("{:02X?}", &bytes[..bytes.len().min(20)]);
    assert!(got == expected, "{} and not {}", shown(&got), shown(expected));
}

/// The received bytes of a link, split into packets.
pub struct Frames {
    link: Box<dyn Link>,
    /// Received bytes that are not a complete packet yet.
    received: Vec<u8>,
}

impl Frames {
    /// Frames over a link from which nothing was read.
    pub fn over(link: impl Link + 'static) -> Frames {
        Frames { link: Box::new(link), received: Vec::new() }
    }

    /// The link.
    pub fn link(&mut self) -> &mut dyn Link {
        &mut *self.link
    }

    /// The time on the link's clock.
    pub fn now(&self) -> Duration {
        self.link.now()
    }

    /// See [`Link::is_virtual`].
    pub fn is_virtual(&self) -> bool {
        self.link.is_virtual()
    }

    /// Received bytes that are not a complete packet.
    pub fn rest(&self) -> &[u8] {
        &self.received
    }

    /// The bytes of the next complete packet, within `time`. A packet that is already there is returned even
    /// if the time is over. The error is a length that no packet may have.
    pub fn next_within(&mut self, time: Duration) -> Result<Next<Vec<u8>>, String> {
        let end = self.link.now() + time;
        loop {
            let length = packet_length(&self.received)?;
            if let Some(length) = length.filter(|&length| length <= self.received.len()) {
                return Ok(Next::Packet(self.received.drain(..length).collect()));
            }
            match self.link.receive(&mut self.received, end.saturating_sub(self.link.now())) {
                Heard::Bytes => {}
                Heard::Closed => return Ok(Next::Closed),
                Heard::Nothing => return Ok(Next::Nothing),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_to_its_last_byte_and_no_further() {
        let long = [&[0x30, 0x80, 0x01][..], &[7; 128]].concat();
        let all = [&long[..], &[0xD0, 0x00, 0x40]].concat();
        let mut stream = &all[..];
        assert_eq!(read_packet(&mut stream).unwrap(), long);
        assert_eq!(read_packet(&mut stream).unwrap(), [0xD0, 0x00]);
        assert!(read_packet(&mut stream).is_err());
        assert!(read_packet(&mut &[0x30, 0x80, 0x00, 0x00][..]).is_err(), "a length that is not minimal");
    }

    #[test]
    fn pieces_become_packets_and_the_end_is_told() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut frames = Frames::over(theirs);
        ours.write_all(&[0xD0, 0x00, 0x40, 0x02]).unwrap();
        let next = frames.next_within(PATIENCE).unwrap();
        assert!(matches!(next, Next::Packet(bytes) if bytes == [0xD0, 0x00]));
        let none = frames.next_within(Duration::from_millis(1)).unwrap();
        assert!(matches!(none, Next::Nothing) && frames.rest() == [0x40, 0x02]);
        ours.write_all(&[0x00, 0x01]).unwrap();
        drop(ours);
        let next = frames.next_within(PATIENCE).unwrap();
        assert!(matches!(next, Next::Packet(bytes) if bytes == [0x40, 0x02, 0x00, 0x01]));
        assert!(matches!(frames.next_within(PATIENCE).unwrap(), Next::Closed));
    }
}
