//! The clock of a scenario, which is the machine's or that of the broker in memory, and the connections to
//! the latter.

use std::cell::{RefCell, RefMut};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use midge::base::Time;
use midge::broker::Hangup;
use midge_kit::{Heard, Link};

use crate::world::World;

/// The in-memory broker of one scenario.
#[derive(Clone)]
pub struct Memory(Rc<RefCell<World>>);

impl Memory {
    pub fn new(world: World) -> Self {
        Self(Rc::new(RefCell::new(world)))
    }

    /// Starts the broker again with the same disk. Its old connections belong to nobody.
    pub fn restart(&self) {
        let mut world = self.0.borrow_mut();
        let shards = world.shards().count();
        world.restart(shards);
    }

    pub fn world(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }
}

/// The time that a scenario sees.
#[derive(Clone)]
pub enum Clock {
    Wall(Instant),
    Virtual(Memory),
}

impl Clock {
    pub fn wall() -> Self {
        Self::Wall(Instant::now())
    }

    /// The time since some moment before the scenario.
    pub fn now(&self) -> Duration {
        match self {
            Self::Wall(start) => start.elapsed(),
            Self::Virtual(memory) => Duration::from_micros(memory.world().now().as_micros()),
        }
    }

    /// Whether nothing takes longer than it must.
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

/// A connection to the broker in memory.
pub struct MemoryLink {
    pub memory: Memory,
    pub link: usize,
}

impl Link for MemoryLink {
    fn now(&self) -> Duration {
        Duration::from_micros(self.memory.world().now().as_micros())
    }

    fn is_virtual(&self) -> bool {
        true
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.memory.world().send(self.link, bytes);
        Ok(())
    }

    fn finish(&mut self) {
        self.memory.world().hang_up(self.link, Hangup::Closed);
    }

    fn vanish(&mut self) {
        self.finish();
    }

    fn receive(&mut self, received: &mut Vec<u8>, time: Duration) -> Heard {
        let mut world = self.memory.world();
        let end = world.now().as_micros().saturating_add(time.as_micros() as u64);
        if !world.await_bytes(self.link, Time::from_micros(end)) {
            return Heard::Nothing;
        }
        let bytes = world.take(self.link);
        received.extend_from_slice(&bytes);
        if bytes.is_empty() { Heard::Closed } else { Heard::Bytes }
    }
}

/// When a scenario drops a connection, it ends without DISCONNECT, as if the process had ended.
impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.vanish();
    }
}
