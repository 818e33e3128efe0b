//! One side of a connection, whatever carries it: [`Link`] is what a client needs of it, [`Frames`] cuts what comes
//! into packets. Failures are values here; [`Client`](crate::Client) makes them failures of the test.

use crate::codec::packet_length;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long anything may take that must come, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What came next on a connection.
#[derive(Debug)]
pub enum Next<P> {
    /// A packet.
    Packet(P),
    /// The end: the other side has closed or reset.
    Closed,
    /// Nothing came in time.
    Nothing,
}

/// What a read has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Bytes have come.
    Bytes,
    /// No more will come: the other side has closed or reset.
    Closed,
    /// Nothing came in time.
    Nothing,
}

/// The client's side of a connection.
pub trait Link {
    /// Time since some moment before the connection, by the clock that its waits are measured with.
    fn now(&self) -> Duration;

    /// Does nothing take longer than it must? So it is on a virtual clock, but on no real machine.
    fn is_virtual(&self) -> bool {
        false
    }

    /// Sends all of it. That the other side has closed may be told here or by the next read.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Sends no more; what comes can still be read.
    fn finish(&mut self);

    /// Closes both ways; when this returns, the other side has seen it, or [`PATIENCE`] is over.
    fn vanish(&mut self);

    /// Appends what has come to `received`, and waits for it at most so long.
    fn receive(&mut self, received: &mut Vec<u8>, time: Duration) -> Heard;
}

/// A stream of the system, of which every one is a [`Link`].
pub trait Stream: Read + Write {
    /// The longest that a read waits; never zero.
    fn limit_reads(&self, time: Duration) -> io::Result<()>;

    /// Closes one way or both.
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

/// A connection that no read and no write of a test waits on for ever.
///
/// # Panics
/// If nobody accepts it within [`PATIENCE`].
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

/// The bytes of the next packet from a stream that is read by others too: not one byte more is taken.
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

/// What still comes until the other side closes or resets.
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

/// What comes next is this.
///
/// # Panics
/// If it is not.
pub fn expect(stream: &mut impl Read, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("an answer");
    let shown = |bytes: &[u8]| format!("{:02X?}", &bytes[..bytes.len().min(20)]);
    assert!(got == expected, "{} and not {}", shown(&got), shown(expected));
}

/// What comes over a link, cut into packets.
pub struct Frames {
    link: Box<dyn Link>,
    /// What came and is no whole packet yet.
    received: Vec<u8>,
}

impl Frames {
    /// Over a link that nothing was read from.
    pub fn over(link: impl Link + 'static) -> Frames {
        Frames { link: Box::new(link), received: Vec::new() }
    }

    /// What carries it.
    pub fn link(&mut self) -> &mut dyn Link {
        &mut *self.link
    }

    /// By the clock of the link.
    pub fn now(&self) -> Duration {
        self.link.now()
    }

    /// See [`Link::is_virtual`].
    pub fn is_virtual(&self) -> bool {
        self.link.is_virtual()
    }

    /// Bytes that came and are no whole packet.
    pub fn rest(&self) -> &[u8] {
        &self.received
    }

    /// The bytes of the next whole packet, within so long. One that is there is given even if the time is over. An
    /// error is a length that no packet may have.
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
