//! The broker without a kernel: the hosts of its shards, with sockets, boxes, files and a clock in memory, in
//! one thread. Unit tests and conformance scenarios drive it.

mod disk;
mod io;
mod logins;
mod socket;

use disk::{Store, Unhurried};
use io::{Kernel, WorldIo};
use logins::{AskedLogin, AskedLogins};
use midge::base::{ConnectionSlot, ShardId, Time};
use midge::broker::questions::{Answer, Question};
use midge::broker::{Event, Hangup, Shard, Shared};
use midge::control::access_policies::AccessPolicies;
use midge::control::questions::Questions;
use midge::host::{Control, Host, ShardStart, SocketEnd, StartStore};
use midge::policy::access::{Access, Verdict};
use midge::settings::Config;
use midge::store::Restored;
use midge::store::segment::LogName;
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

/// The time that passes with each action of a client, so that no two happen at the same moment.
const STEP_MICROS: u64 = 10;

/// The time at which the shards of a broker have begun and clients can connect.
const BEGUN: Time = Time::from_millis(1);

/// The seed of the homes of clients and topics.
const SEED: u64 = 7;

/// A broker and its clients.
pub struct World {
    broker: Broker,
    kernel: Rc<RefCell<Kernel>>,
    config: Config,
    store: Option<Store>,
    /// The listener of the next clients.
    pub listener: u16,
    /// The address of the next clients. `None`: each has one of its own.
    pub address: Option<Ipv4Addr>,
    /// Logins that must be checked, the oldest first.
    pub logins: Vec<AskedLogin>,
    pub events: Vec<Event>,
    /// The largest number of bytes that were encoded between two flushes, and that were queued for
    /// connections.
    pub most_encoded: usize,
    pub most_queued: usize,
    /// A shard of the next broker.
    stuck_at_start: Option<usize>,
}

/// A run of the broker, from its start to its end.
struct Broker {
    hosts: Vec<Host<WorldIo>>,
    /// Shards that have stopped.
    ended: Vec<usize>,
    shared: Arc<Shared>,
    control: Arc<Control>,
    /// Logins and events that the world has not seen yet.
    asked: AskedLogins,
    told: Rc<RefCell<Vec<Event>>>,
    questions: Questions,
    /// By shard: sockets of listeners that are added.
    new_listeners: Vec<Sender<(u16, ())>>,
}

impl Broker {
    /// A run with the state that each shard has kept, if any.
    fn new(
        shards: usize,
        config: &Config,
        kernel: &Rc<RefCell<Kernel>>,
        stores: impl Iterator<Item = StartStore>,
    ) -> Broker {
        kernel.borrow_mut().begin_shards(shards);
        let (shared, interests) = Shared::new(config.clone(), shards, SEED);
        let (asked, told) = (AskedLogins::default(), Rc::default());
        let (questions, boxes) = Questions::new((0..shards).map(|shard| kernel.borrow().bell(shard)));
        let mut boxes = boxes.into_iter();
        let control = control(config, asked.clone());
        let mut broker = Broker {
            hosts: Vec::new(),
            ended: Vec::new(),
            shared: Arc::new(shared),
            control: Arc::new(control),
            asked,
            told,
            questions,
            new_listeners: Vec::new(),
        };
        let mut stores = stores.fuse();
        for (shard, interest) in interests.into_iter().enumerate() {
            let id = ShardId::try_from(shard).expect("at most 128 shards");
            let (sender, receiver) = channel();
            broker.new_listeners.push(sender);
            let start = ShardStart {
                id,
                shared: Arc::clone(&broker.shared),
                control: Arc::clone(&broker.control),
                listeners: (0..).zip(&config.listeners).map(|(number, _)| (number, ())).collect(),
                new_listeners: Some(receiver),
                bell: kernel.borrow().bell(shard),
                questions: boxes.next(),
                interest,
                seed: 100 + u64::from(id),
            };
            let mut host = Host::new(start, WorldIo::new(Rc::clone(kernel), shard));
            let told = Rc::clone(&broker.told);
            host.tell_detail(false);
            host.observe(move |_, event| told.borrow_mut().push(event.clone()));
            host.begin(stores.next()).expect("the disk is well");
            broker.hosts.push(host);
        }
        // Whatever time the logs took to begin, later events have the same distance from the ticks of timers.
        kernel.borrow_mut().now = BEGUN;
        broker
    }
}

impl World {
    /// A broker that has started. Unless `persistence.directory` is empty, it keeps on its disk what must
    /// survive.
    pub fn new(shards: usize, config: Config) -> World {
        let kernel = Rc::new(RefCell::new(Kernel::new()));
        let store = (!config.persistence.directory.is_empty()).then(Store::new);
        let nothing = (0..shards).map(|_| Restored::default());
        let stores = store.iter().flat_map(|store| start_stores(store, &config, nothing.clone().collect()));
        let mut world = World {
            broker: Broker::new(shards, &config, &kernel, stores),
            kernel,
            store,
            config,
            listener: 0,
            address: None,
            logins: Vec::new(),
            events: Vec::new(),
            most_encoded: 0,
            most_queued: 0,
            stuck_at_start: None,
        };
        world.let_clients_in();
        world
    }

    /// Cuts the power: everything that no write has brought to the disk is lost. After `down_millis` another
    /// broker starts with the same disk. Its clock begins at zero, and the old connections are closed.
    pub fn cut_power(self, shards: usize, down_millis: u64) -> World {
        self.start_again(shards, down_millis, 0, true)
    }

    /// The same. The new broker's log of one shard is stuck from its start on. See [`World::stick`].
    pub fn cut_power_and_stick(mut self, shards: usize, down_millis: u64, stuck: usize) -> World {
        self.stuck_at_start = Some(stuck);
        self.cut_power(shards, down_millis)
    }

    /// The same. While the broker is down, the wall clock is set by a step, and the machine is restarted or
    /// continues to run.
    pub fn start_again(
        mut self,
        shards: usize,
        down_millis: u64,
        step_millis: i64,
        machine_starts: bool,
    ) -> World {
        self.begin_again(shards, down_millis, step_millis, machine_starts);
        self
    }

    /// Like [`World::cut_power`], without downtime and in place.
    pub fn restart(&mut self, shards: usize) {
        self.begin_again(shards, 0, 0, true);
    }

    fn begin_again(&mut self, shards: usize, down_millis: u64, step_millis: i64, machine_starts: bool) {
        let mut kernel = self.kernel.borrow_mut();
        let up_millis = kernel.now.as_millis();
        kernel.clocks.pass(up_millis, down_millis, machine_starts);
        kernel.clocks.set_wall_clock(step_millis);
        let reading = kernel.clocks.reading(Time::ZERO);
        let store = self.store.as_mut().expect("there is a disk");
        let parts = store.start_again(&mut kernel.disk, shards, SEED, reading);
        drop(kernel);
        let stores = start_stores(store, &self.config, parts);
        self.broker = Broker::new(shards, &self.config, &self.kernel, stores);
        self.listener = 0;
        self.logins.clear();
        self.events.clear();
        (self.most_encoded, self.most_queued) = (0, 0);
        self.let_clients_in();
    }

    fn let_clients_in(&mut self) {
        if let Some(stuck) = self.stuck_at_start.take() {
            self.stick(stuck);
        }
        let shards = self.broker.hosts.len();
        while !(0..shards).all(|shard| self.kernel.borrow().is_listening(shard)) {
            self.run();
        }
        self.run();
    }

    /// The data that the shards share.
    pub fn shared(&self) -> &Shared {
        &self.broker.shared
    }

    /// The control of the shards from outside.
    pub fn control(&self) -> &Control {
        &self.broker.control
    }

    /// The machine of a shard. The next turn carries out its effects.
    pub fn shard(&mut self, shard: usize) -> &mut Shard {
        self.broker.hosts[shard].machine()
    }

    /// The machines of all shards.
    pub fn shards(&mut self) -> impl Iterator<Item = &mut Shard> {
        self.broker.hosts.iter_mut().map(Host::machine)
    }

    /// Turns events for log level debug on or off. They are off at first.
    pub fn tell_detail(&mut self, is_wanted: bool) {
        self.broker.hosts.iter_mut().for_each(|host| host.tell_detail(is_wanted));
    }

    /// Sets the wall clock, and lets the shards notice it: they check it once a second.
    pub fn set_wall_clock(&mut self, step_millis: i64) {
        self.kernel.borrow_mut().clocks.set_wall_clock(step_millis);
        self.pass(1000);
    }

    /// The time since the broker was created.
    pub fn now(&self) -> Time {
        self.kernel.borrow().now
    }

    /// Opens a connection that `shard` accepts.
    pub fn open(&mut self, shard: usize) -> usize {
        let mut kernel = self.kernel.borrow_mut();
        let number = u32::try_from(kernel.links.len()).expect("slots are 32 bits");
        let address =
            self.address.unwrap_or(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits() + number));
        let link = kernel.open(shard, self.listener, SocketAddr::from((address, 1)));
        drop(kernel);
        self.run();
        link
    }

    /// Sends bytes of the client. The broker reads them unless it has paused the connection.
    pub fn send(&mut self, link: usize, bytes: &[u8]) {
        let mut kernel = self.kernel.borrow_mut();
        kernel.now = later(kernel.now, STEP_MICROS);
        kernel.send(link, bytes);
        drop(kernel);
        self.run();
    }

    /// Ends the connection: the client has gone, or sends no more.
    pub fn hang_up(&mut self, link: usize, hangup: Hangup) {
        let end = match hangup {
            Hangup::Closed => SocketEnd::EndOfStream,
            Hangup::Reset => SocketEnd::Reset,
            Hangup::Error(error) => SocketEnd::Error(error),
            Hangup::BacklogFull | Hangup::Transport(_) => unreachable!("no client does that"),
        };
        self.kernel.borrow_mut().end(link, end);
        self.run();
    }

    /// Takes the bytes that the broker has sent since the last call.
    pub fn take(&mut self, link: usize) -> Vec<u8> {
        std::mem::take(&mut self.kernel.borrow_mut().links[link].received)
    }

    /// Sets the rules of the first listener. On the other listeners nobody may do anything.
    pub fn ask(&mut self, access: &Access) {
        let mut policies = load_policies(&self.config);
        policies.access = [access.clone()].into();
        self.broker.control.change_policies(policies);
        self.run();
    }

    /// Takes over another configuration, as a reload does. Its listeners are those of now, and some of them.
    pub fn change(&mut self, config: &Config) {
        let control = &self.broker.control;
        let current = control.in_force();
        let settings = current.settings.succeeded_by(config.clone()).expect("there is room");
        let mut places = vec![None; settings.config.listeners.len()];
        for (place, &number) in settings.open_listeners().iter().enumerate() {
            places[usize::from(number)] = Some(place);
        }
        let policies = load_policies(config).arranged(&places, &current.policies);
        for &number in settings.open_listeners() {
            if !current.settings.is_open(number) {
                let listen = |sender: &Sender<_>| sender.send((number, ())).expect("the shard is there");
                self.broker.new_listeners.iter().for_each(listen);
            }
        }
        control.change(policies, Arc::new(settings), usize::MAX);
        self.run();
    }

    /// Asks a shard as an operator does, and lets it answer.
    pub fn question(&mut self, shard: usize, question: Question) -> Answer {
        let answer = Arc::new(Mutex::new(None));
        let taken = Arc::clone(&answer);
        let take = move |answer| *taken.lock().expect("nothing panics here") = Some(answer);
        self.broker.questions.ask(shard, question, take).expect("few questions wait");
        self.run();
        answer.lock().expect("nothing panics here").take().expect("each question is answered")
    }

    /// Answers the oldest login that must be checked.
    pub fn answer(&mut self, verdict: Verdict) {
        let asked = self.logins.remove(0);
        (asked.done)(verdict);
        self.run();
    }

    /// Whether the broker has closed this connection.
    pub fn is_closed(&self, link: usize) -> bool {
        self.kernel.borrow().links[link].is_closed
    }

    /// Lets time pass until something arrives at this connection, or until `end`. Returns true if something
    /// did.
    pub fn await_bytes(&mut self, link: usize, end: Time) -> bool {
        let has_come = |world: &World| {
            let link = &world.kernel.borrow().links[link];
            !link.received.is_empty() || link.is_closed
        };
        while !has_come(self) {
            if !self.advance(end) {
                return false;
            }
        }
        true
    }

    /// Does everything that can be done now, then lets this time pass.
    pub fn pass(&mut self, millis: u64) {
        self.run();
        let end = self.now().after_millis(millis);
        while self.advance(end) {}
    }

    /// Lets time pass until the logs also have the records that no reply waits for.
    pub fn await_logs(&mut self) {
        self.pass(20);
    }

    /// Tells the broker to stop.
    pub fn shut_down(&mut self) {
        self.broker.control.stop.store(true, Ordering::Release);
        self.run();
    }

    /// Whether all shards have stopped.
    pub fn has_stopped(&self) -> bool {
        self.broker.ended.len() == self.broker.hosts.len()
    }

    /// Advances to the next time at which a shard needs a turn, or to `end`. Returns false at `end`.
    fn advance(&mut self, end: Time) -> bool {
        let mut kernel = self.kernel.borrow_mut();
        if kernel.now >= end {
            return false;
        }
        let up = (0..self.broker.hosts.len()).filter(|shard| !self.broker.ended.contains(shard));
        let next = up.filter_map(|shard| kernel.wakes_at(shard)).min().unwrap_or(end);
        kernel.now = next.max(later(kernel.now, 1)).min(end);
        drop(kernel);
        self.run();
        true
    }

    /// From now on, messages from `from` to `to` wait until `release`.
    pub fn hold(&mut self, from: usize, to: usize) {
        self.kernel.borrow_mut().hold(from, to);
    }

    /// The number of mails and sockets that are on their way.
    pub fn on_the_way(&self, from: usize, to: usize) -> usize {
        self.kernel.borrow().on_the_way(from, to)
    }

    /// Releases held messages. The receiver gets them in its next turn.
    pub fn release(&mut self, from: usize, to: usize) {
        self.kernel.borrow_mut().release(from, to);
    }

    /// From now on, no disk operation of this shard's log ends until `unstick`.
    pub fn stick(&mut self, shard: usize) {
        self.kernel.borrow_mut().disk.stick(shard);
    }

    /// Repairs the disk.
    pub fn unstick(&mut self, shard: usize) {
        self.kernel.borrow_mut().disk.unstick(shard);
        self.run();
    }

    /// Runs turns of all shards until nothing is left to do.
    pub fn run(&mut self) {
        // A message may give work to a shard that has had its turn. So the world is idle after two idle
        // rounds.
        let mut idle = 0;
        while idle < 2 {
            idle += 1;
            for shard in 0..self.broker.hosts.len() {
                if self.turn(shard) {
                    idle = 0;
                }
            }
        }
    }

    /// Runs one turn of one shard. Returns true if there was anything to do, or is now.
    pub fn turn(&mut self, shard: usize) -> bool {
        if self.broker.ended.contains(&shard) {
            return false;
        }
        let had_work = self.kernel.borrow().has_work(shard);
        let goes_on = self.broker.hosts[shard].turn().expect("nothing fails here");
        let mut kernel = self.kernel.borrow_mut();
        if !goes_on {
            self.broker.ended.push(shard);
            kernel.close_all(shard);
        }
        self.most_encoded = self.most_encoded.max(std::mem::take(&mut kernel.most_encoded));
        self.most_queued = self.most_queued.max(std::mem::take(&mut kernel.most_queued));
        self.events.append(&mut self.broker.told.borrow_mut());
        self.logins.append(&mut self.broker.asked.take());
        had_work || !goes_on || kernel.has_work(shard)
    }
}

/// The parts that each shard of a run starts with.
fn start_stores(store: &Store, config: &Config, parts: Vec<Restored>) -> impl Iterator<Item = StartStore> {
    (0..).zip(parts).map(|(shard, restored)| StartStore {
        name: LogName { epoch: store.epoch(), shard },
        directory: config.persistence.directory.clone().into(),
        seed: SEED,
        restored,
        wall: store.wall(),
        checkpoint: Box::new(Unhurried),
    })
}

/// Reads the files that the configuration names, if any.
fn load_policies(config: &Config) -> AccessPolicies {
    AccessPolicies::load(config).expect("the configuration is good")
}

fn control(config: &Config, logins: AskedLogins) -> Control {
    let max = if config.limits.connections == 0 { usize::MAX } else { config.limits.connections };
    Control::new(config, load_policies(config), max, Box::new(logins), SEED)
}

fn later(time: Time, micros: u64) -> Time {
    Time::from_micros(time.as_micros() + micros)
}

pub fn slot(link: usize) -> ConnectionSlot {
    ConnectionSlot::new(u32::try_from(link).expect("slots are 32 bits"))
}
