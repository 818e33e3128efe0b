//! The driver over real sockets, on ports that the system chooses.

mod closes;
mod files;
mod hangups;
mod listeners;
mod pauses;
mod shards;
mod sockets;

use crate::base::ConnectionSlot;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use glommio::Placement;

use super::*;
use crate::broker::outbox::{Outbox, Range};

/// The longest time for any step on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A listening socket on a port that nothing else uses, and the port.
fn bound() -> (OwnedFd, u16) {
    let socket = bind(address(0), &BindOptions::default()).unwrap();
    let port = local_address(&socket).unwrap().port();
    (socket, port)
}

fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect(address(port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Runs a shard with an executor on a thread of its own.
fn on_shard<R: Send + 'static>(shard: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
    std::thread::spawn(move || {
        let executor = executor::make_executor(Placement::Unbound).unwrap();
        executor.run(async move { shard() })
    })
}

/// A net with the parts of its owner.
struct Host {
    net: Net,
    outbox: Outbox,
    sleeping: Sleeping,
}

impl Host {
    fn new(config: &NetConfig) -> Host {
        Host { net: Net::new(config).unwrap(), outbox: Outbox::new(), sleeping: Sleeping::default() }
    }

    /// Listens on a port that is bound before any client connects.
    fn listening(config: &NetConfig, socket: OwnedFd) -> Host {
        let mut host = Host::new(config);
        host.net.listen(7, socket);
        host
    }

    fn turn(&mut self) -> Vec<IoEvent<Buffer>> {
        self.turn_within(Duration::from_millis(50))
    }

    fn turn_within(&mut self, patience: Duration) -> Vec<IoEvent<Buffer>> {
        let mut events = Vec::new();
        self.net.park(&self.outbox, &mut events, Some(patience), &self.sleeping, || false).unwrap();
        self.outbox.clear();
        self.net.poll(&mut events);
        events
    }

    fn send(&mut self, slot: ConnectionSlot, bytes: &[u8]) {
        let start = self.outbox.arena_len();
        self.outbox.arena_mut().extend_from_slice(bytes);
        self.outbox.send(slot, Range { start, len: bytes.len() as u32 });
    }

    /// The bytes of a buffer, which is given back.
    fn take(&mut self, buffer: Buffer) -> Vec<u8> {
        let bytes = self.net.bytes(&buffer).to_vec();
        self.net.give_back(buffer);
        bytes
    }

    /// The slot of the next connection.
    fn accept(&mut self) -> ConnectionSlot {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.turn().pop() {
                Some(IoEvent::Accepted { listener: 7, slot, .. }) => return slot,
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
        panic!("nobody came");
    }

    /// Runs turns until there are no connections. No new ones may be made at the same time.
    fn settle(&mut self) {
        let until = Instant::now() + PATIENCE;
        while self.net.connections() > 0 {
            assert!(Instant::now() < until, "{} connections stay", self.net.connections());
            for event in self.turn() {
                match event {
                    IoEvent::Received { buffer, .. } => self.net.give_back(buffer),
                    IoEvent::Hangup { slot, .. } => self.net.close(slot),
                    IoEvent::Accepted { .. } => panic!("somebody came"),
                    _ => {}
                }
            }
        }
    }

    /// Sends all received bytes back, until `count` connections have come and gone.
    fn echo(&mut self, count: usize) {
        let mut gone = 0;
        while gone < count || self.net.connections() > 0 {
            for event in self.turn() {
                match event {
                    IoEvent::Accepted { slot, .. } => self.net.receive_stream(slot),
                    IoEvent::Received { slot, buffer } => {
                        let bytes = self.take(buffer);
                        self.send(slot, &bytes);
                    }
                    IoEvent::Hangup { slot, .. } => {
                        gone += 1;
                        self.net.close(slot);
                    }
                    IoEvent::Backlogged { .. } | IoEvent::Drained { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

/// Bytes that show their position in the stream.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| ((index ^ index >> 8 ^ index >> 16) * 31) as u8).collect()
}
