//! What a scenario's connection and clock are made of: a TCP socket and the machine's clock, or a link of the
//! in-memory broker and its virtual one.

use std::cell::{RefCell, RefMut};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use midge::base::Time;
use midge::broker::Hangup;

use crate::world::World;

/// The in-memory broker of one scenario.
#[derive(Clone)]
pub struct Memory(Rc<RefCell<World>>);

impl Memory {
    pub fn new(world: World) -> Self {
        Self(Rc::new(RefCell::new(world)))
    }

    /// Another start of the broker with the same disk. Its connections are no one's any more.
    pub fn restart(&self) {
        let mut world = self.0.borrow_mut();
        let shards = world.shards.len();
        world.restart(shards);
    }

    pub fn world(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }
}

/// How long a broker may take to see that its client has gone.
const VANISHING: Duration = Duration::from_secs(30);

/// Time as a scenario sees it.
#[derive(Clone)]
pub enum Clock {
    Wall(Instant),
    Virtual(Memory),
}

impl Clock {
    pub fn wall() -> Self {
        Self::Wall(Instant::now())
    }

    /// Since some moment before the scenario.
    pub fn now(&self) -> Duration {
        match self {
            Self::Wall(start) => start.elapsed(),
            Self::Virtual(memory) => Duration::from_micros(memory.world().now().as_micros()),
        }
    }

    /// Does nothing take longer than it must?
    pub fn is_virtual(&self) -> bool {
        matches!(self, Self::Virtual(_))
    }

    pub fn sleep(&self, time: Duration) {
        match self {
            Self::Wall(_) => std::thread::sleep(time),
            Self::Virtual(memory) => memory.world().pass(time.as_millis() as u64),
        }
    }
}

/// What a read has found.
pub enum Heard {
    Bytes,
    Closed,
    Nothing,
}

/// A connection.
pub enum Line {
    Socket(TcpStream),
    Link(Memory, usize),
}

impl Line {
    pub fn clock(&self) -> Clock {
        match self {
            Self::Socket(_) => Clock::wall(),
            Self::Link(memory, _) => Clock::Virtual(memory.clone()),
        }
    }

    /// The other side may have closed: reading will tell.
    pub fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Socket(stream) => drop(stream.write_all(bytes)),
            Self::Link(memory, link) => memory.world().send(*link, bytes),
        }
    }

    /// No more bytes from us.
    pub fn finish(&mut self) {
        self.shut(Shutdown::Write);
    }

    /// Closed by us, both ways; the broker has seen it when this returns, so that what others do next comes after
    /// it on every shard.
    pub fn vanish(&mut self) {
        self.shut(Shutdown::Write);
        if let Self::Socket(stream) = self {
            let end = Instant::now() + VANISHING;
            let mut rest = [0; 4096];
            let _ = stream.set_read_timeout(Some(VANISHING));
            while Instant::now() < end && matches!(stream.read(&mut rest), Ok(1..)) {}
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn shut(&mut self, how: Shutdown) {
        match self {
            Self::Socket(stream) => drop(stream.shutdown(how)),
            Self::Link(memory, link) => memory.world().hang_up(*link, Hangup::Closed),
        }
    }

    /// Appends what has come to `received`, and waits for it at most so long.
    pub fn read(&mut self, received: &mut Vec<u8>, time: Duration) -> Heard {
        match self {
            Self::Socket(stream) => read_socket(stream, received, time),
            Self::Link(memory, link) => {
                let mut world = memory.world();
                let end = world.now().as_micros().saturating_add(time.as_micros() as u64);
                if !world.await_bytes(*link, Time::from_micros(end)) {
                    return Heard::Nothing;
                }
                let bytes = world.take(*link);
                received.extend_from_slice(&bytes);
                if bytes.is_empty() { Heard::Closed } else { Heard::Bytes }
            }
        }
    }
}

/// A scenario drops a connection without a word as a process does that ends.
impl Drop for Line {
    fn drop(&mut self) {
        if let Self::Link(..) = self {
            self.vanish();
        }
    }
}

fn read_socket(stream: &mut TcpStream, received: &mut Vec<u8>, time: Duration) -> Heard {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).expect("a time above zero is allowed");
        let mut chunk = [0; 65536];
        match stream.read(&mut chunk) {
            Ok(0) => return Heard::Closed,
            Ok(count) => {
                received.extend_from_slice(&chunk[..count]);
                return Heard::Bytes;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if Instant::now() >= end {
                    return Heard::Nothing;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Heard::Closed,
        }
    }
}
