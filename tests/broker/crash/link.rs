//! A connection of a client that must expect the sudden end of the broker: every failure is a value.

pub(super) use midge_kit::PATIENCE;
use midge_kit::codec::{self, Encode, Kind, Packet, V5, decode};
use midge_kit::{Frames, Next};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(super) struct Link {
    frames: Frames,
}

impl Link {
    /// Connects without Clean Start, for a session that outlives the connection. Returns whether there was a
    /// session.
    pub(super) fn resume(address: SocketAddr, id: &str) -> io::Result<(Link, bool)> {
        Link::connect(address, codec::connect(V5, id).resume().expiry(3600))
    }

    /// Connects with a session that ends with the connection.
    pub(super) fn visit(address: SocketAddr, id: &str) -> io::Result<Link> {
        Ok(Link::connect(address, codec::connect(V5, id).expiry(0))?.0)
    }

    fn connect(address: SocketAddr, connect: codec::Connect) -> io::Result<(Link, bool)> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut link = Link { frames: Frames::over(stream) };
        link.send(connect)?;
        match link.receive(PATIENCE)? {
            Some(Packet { kind: Kind::Connack, code: 0, session_present, .. }) => Ok((link, session_present)),
            Some(other) => Err(broken(format!("CONNACK, not {other:?}"))),
            None => Err(broken("no CONNACK came")),
        }
    }

    pub(super) fn send(&mut self, packet: impl Encode) -> io::Result<()> {
        self.frames.link().send(&packet.encode(V5))
    }

    /// The next packet. `None` if none comes within `patience`.
    pub(super) fn receive(&mut self, patience: Duration) -> io::Result<Option<Packet>> {
        match self.frames.next_within(patience).map_err(broken)? {
            Next::Packet(bytes) => decode(&bytes, V5).map(Some).map_err(broken),
            Next::Closed => Err(ErrorKind::UnexpectedEof.into()),
            Next::Nothing => Ok(None),
        }
    }
}

/// The error for a broken rule. Unlike the end of a connection, a kill never explains it.
pub(super) fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.into())
}
