//! What a seed means: the broker, the environment, the clients and a list of actions, all drawn before the
//! first action. A list without some of its actions is still a plan, because an action that does not fit is
//! skipped.

use crate::kernel::Weather;
use crate::random::{self, Random};
use crate::wire::Layers;
use midge::settings::{QueuePolicy, SyncPolicy};
use midge_kit::codec::Version;

/// Everything about a run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub shards: usize,
    pub weather: Weather,
    pub layers: Layers,
    /// Whether an operator follows everything. It changes nothing else.
    pub watched: bool,
    pub persistent: bool,
    /// Without `Always`, a power cut may lose acknowledged messages. In this case the power is only cut after
    /// the broker has stopped.
    pub sync: SyncPolicy,
    /// `limits.session_queue_messages`.
    pub queue_messages: usize,
    /// `limits.session_queue_policy`.
    pub queue_policy: QueuePolicy,
    /// `protocol.topic_alias_maximum_out`.
    pub aliases_out: u16,
    /// The QoS of a run that is only about shared subscriptions, with members whose sessions last, and end.
    pub groups: Option<u8>,
    pub clients: Vec<ClientPlan>,
    pub actions: Vec<Planned>,
}

#[derive(Clone, Debug)]
pub struct ClientPlan {
    pub version: Version,
    /// The Session Expiry Interval of a lasting session, in seconds.
    pub expiry_seconds: u32,
    pub keep_alive: u16,
    pub receive_maximum: Option<u16>,
    pub aliases: u16,
    /// The Maximum Packet Size.
    pub packet_max: Option<u32>,
    /// The longest time that it thinks before it acknowledges, in microseconds.
    pub think_max: u64,
}

#[derive(Clone, Debug)]
pub struct Planned {
    pub at: u64,
    pub client: usize,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// Connects, even if the client is connected: it then takes its own session over.
    Connect {
        shard: usize,
        clean: bool,
        lasting: bool,
        will: Option<WillPlan>,
    },
    /// The same, but the client closes the connection directly after it has sent CONNECT.
    Knock {
        shard: usize,
    },
    Disconnect {
        keeps_will: bool,
        back_after: Option<u64>,
    },
    Subscribe {
        filters: Vec<FilterPlan>,
    },
    Unsubscribe {
        filter: usize,
    },
    Publish {
        topic: usize,
        qos: u8,
        retain: bool,
        bytes: usize,
        count: usize,
    },
    /// Publishes an empty retained message.
    Clear {
        topic: usize,
        qos: u8,
    },
    Cut {
        how: Cut,
        back_after: u64,
    },
    Stall {
        up: u64,
        down: u64,
    },
    HoldAcks {
        micros: u64,
    },
    StallShard {
        shard: usize,
        micros: u64,
    },
    /// The broker starts again after `down`, with `shards` shards.
    PowerCut {
        down: u64,
        shards: usize,
        when: PowerCut,
    },
    /// The disk of a shard has no room for some time.
    DiskFull {
        shard: usize,
        micros: u64,
    },
    /// The wall clock is set.
    SetClock {
        step_millis: i64,
    },
    /// The disk fails, and the broker starts again after some time.
    DiskFails {
        shard: usize,
        micros: u64,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum PowerCut {
    Now,
    /// After the broker was told to stop.
    Stopped,
    /// While a batch of more than one block is being written.
    Writing,
}

#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// Both sides see a reset.
    Reset,
    /// Both sides see an end of stream.
    End,
    /// This many more bytes reach the broker.
    AtByte(u64),
    /// The broker is not told.
    HalfOpen,
}

#[derive(Clone, Debug)]
pub struct FilterPlan {
    pub filter: usize,
    pub qos: u8,
    pub no_local: bool,
    pub as_published: bool,
    pub handling: u8,
    pub identifier: u32,
}

#[derive(Clone, Debug)]
pub struct WillPlan {
    pub topic: usize,
    pub delay_seconds: u32,
    pub qos: u8,
    pub retain: bool,
}

/// The topics for publishing. Each `s/…` belongs to one group only, and no other filter matches it.
pub const TOPICS: &[&str] = &[
    "t/a", "t/b", "t/c/d", "t/c/e", "r/a", "r/b", "r/c/d", "w/a", "w/b", "s/0/a", "s/0/b", "s/1/a", "s/2/a",
];
const FIRST_SHARED_TOPIC: usize = 9;
pub const WILLS: [usize; 2] = [7, 8];
pub const FILTERS: &[&str] = &[
    "t/a",
    "t/b",
    "t/+",
    "t/#",
    "t/c/+",
    "+/a",
    "r/a",
    "r/b",
    "r/#",
    "r/+",
    "+/c/d",
    "w/#",
    "$share/g/s/0/+",
    "$share/k/s/2/#",
    "$share/h/s/1/a",
];
pub const SHARED_FILTERS: usize = 12;

const SECOND: u64 = 1_000_000;

/// Some messages are larger.
const PACKET_MAX: u32 = 200;

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let mut rng = random::of_seed(seed);
        let shards = rng.pick(&[1, 2, 2, 3, 4]);
        let weather = Weather {
            box_capacity: if rng.chance(250) { rng.range(2..=8) as usize } else { 4096 },
            preempt_permille: rng.pick(&[0, 5, 30, 150]),
            socket_bytes: rng.pick(&[600, 4096, 65536]),
            split_permille: rng.pick(&[0, 100, 500]),
            write_max: rng.pick(&[100, 300, 5000]),
        };
        // This is not drawn, so that other seeds do not change.
        let groups = match seed % 16 {
            5 => Some(1),
            13 => Some(2),
            _ => None,
        };
        let queue_policy = match seed / 16 % 3 {
            0 => QueuePolicy::Refuse,
            2 => QueuePolicy::DropNewest,
            _ => QueuePolicy::DropOldest,
        };
        let queue_messages = if rng.chance(250) { rng.range(3..=20) as usize } else { 10_000 };
        let count = rng.range(3..=7) as usize;
        let mut clients = vec![ClientPlan {
            version: Version::V5,
            expiry_seconds: u32::MAX,
            keep_alive: 0,
            receive_maximum: None,
            aliases: 0,
            packet_max: None,
            think_max: 50,
        }];
        clients.extend((0..count).map(|_| client(&mut rng)));
        // This is not drawn either.
        for (at, client) in clients.iter_mut().enumerate().skip(1) {
            match (seed % 10, client.version) {
                (2, Version::V311) => client.version = Version::V31,
                (6, Version::V5) if at % 2 == 1 && groups.is_none() => client.packet_max = Some(PACKET_MAX),
                _ => {}
            }
        }
        let mut plan = Plan {
            seed,
            shards,
            weather,
            layers: Layers::of(seed),
            watched: seed % 8 == 5,
            persistent: rng.chance(600),
            // This is not drawn.
            sync: match seed / 5 % 12 {
                3 => SyncPolicy::Interval,
                7 => SyncPolicy::Off,
                _ => SyncPolicy::Always,
            },
            queue_messages,
            queue_policy,
            aliases_out: rng.pick(&[0, 2, 10]),
            groups,
            clients,
            actions: Vec::new(),
        };
        if groups.is_some() {
            (plan.persistent, plan.queue_messages) = (true, 10_000);
            plan.clients.iter_mut().for_each(|client| client.version = Version::V5);
            // This member stays and is busy. Otherwise no other member would ever be chosen while it is away.
            (plan.clients[0].receive_maximum, plan.clients[0].think_max) = (Some(1), 2 * SECOND);
        }
        plan.begin(&mut rng);
        plan.go_on(&mut rng);
        crate::clocks::add_to(&mut plan);
        plan.actions.sort_by_key(|planned| planned.at);
        plan
    }

    fn begin(&mut self, rng: &mut Random) {
        for client in 0..self.clients.len() {
            let at = rng.range(1000..=30_000);
            let lasting = client == 0 || rng.chance(650) || self.groups.is_some();
            let will = if client == 0 { None } else { will(rng) };
            let action = Action::Connect { shard: rng.index(self.shards), clean: !lasting, lasting, will };
            self.actions.push(Planned { at, client, action });
            let filters = if client == 0 {
                let all = [3, 8, 11].map(|filter| FilterPlan { filter, ..plain(2) });
                let of = |qos| (SHARED_FILTERS..FILTERS.len()).map(move |filter| (filter, qos));
                let shared = self.groups.into_iter().flat_map(of);
                all.into_iter()
                    .chain(shared.map(|(filter, qos)| FilterPlan { filter, ..plain(qos) }))
                    .collect()
            } else {
                (0..rng.range(1..=3)).map(|_| self.filter(rng)).collect()
            };
            self.actions.push(Planned { at: 60_000 + at, client, action: Action::Subscribe { filters } });
        }
    }

    fn go_on(&mut self, rng: &mut Random) {
        let actions = rng.range(60..=260);
        let gap = rng.pick(&[5_000, 40_000, 120_000]);
        let faults = rng.pick(&[10, 60, 130]);
        let mut at = 120_000;
        for _ in 0..actions {
            at += if rng.chance(20) { rng.range(SECOND..=4 * SECOND) } else { rng.below(gap) };
            let client = 1 + rng.index(self.clients.len() - 1);
            let action = match self.groups {
                Some(_) if rng.chance(700) => self.action_of_group(rng),
                _ if rng.chance(faults) => self.fault(rng),
                _ => self.action(rng),
            };
            if self.groups.is_some() && matches!(action, Action::PowerCut { .. }) {
                // This ends a member's session.
                let shard = rng.index(self.shards);
                let ends = Action::Connect { shard, clean: true, lasting: true, will: None };
                self.actions.push(Planned { at, client, action: ends });
                at += rng.range(100..=4000);
            }
            self.actions.push(Planned { at, client, action });
        }
    }

    /// The actions of members and their publishers.
    fn action_of_group(&self, rng: &mut Random) -> Action {
        match rng.below(100) {
            0..50 => {
                let topic = rng.range(FIRST_SHARED_TOPIC as u64..=TOPICS.len() as u64 - 1) as usize;
                let qos = rng.range(1..=2) as u8;
                Action::Publish { topic, qos, retain: false, bytes: 20, count: rng.range(1..=4) as usize }
            }
            50..62 => Action::Subscribe { filters: vec![self.filter(rng)] },
            62..78 => Action::Connect {
                shard: rng.index(self.shards),
                clean: rng.chance(600),
                lasting: true,
                will: None,
            },
            78..90 => Action::Disconnect {
                keeps_will: false,
                back_after: Some(rng.range(SECOND / 10..=3 * SECOND)),
            },
            90..97 => Action::HoldAcks { micros: rng.below(2 * SECOND) },
            _ => self.power_cut(rng),
        }
    }

    /// A filter. In a run about groups, it is a group's.
    fn filter(&self, rng: &mut Random) -> FilterPlan {
        let drawn = filter(rng);
        match self.groups {
            Some(qos) => FilterPlan {
                filter: SHARED_FILTERS + drawn.filter % (FILTERS.len() - SHARED_FILTERS),
                qos,
                no_local: false,
                ..drawn
            },
            None => drawn,
        }
    }

    fn action(&self, rng: &mut Random) -> Action {
        match rng.below(100) {
            0..60 => {
                let topic = rng.index(TOPICS.len());
                let retain = TOPICS[topic].starts_with("r/") && rng.chance(700);
                let bytes = if rng.chance(80) { rng.range(500..=6000) } else { rng.range(0..=60) };
                let count = if rng.chance(100) { rng.range(5..=40) } else { rng.range(1..=3) };
                let qos = rng.below(3) as u8;
                Action::Publish { topic, qos, retain, bytes: bytes as usize, count: count as usize }
            }
            60..64 => Action::Clear { topic: 4 + rng.index(3), qos: rng.below(3) as u8 },
            64..80 => {
                let filters = (0..rng.range(1..=3)).map(|_| self.filter(rng)).collect();
                Action::Subscribe { filters }
            }
            80..88 => Action::Unsubscribe { filter: rng.index(FILTERS.len()) },
            88..96 => Action::Connect {
                shard: rng.index(self.shards),
                clean: rng.chance(150),
                lasting: rng.chance(700) || self.groups.is_some(),
                will: will(rng),
            },
            _ => Action::Disconnect {
                keeps_will: rng.chance(300),
                back_after: rng.chance(700).then(|| rng.below(3 * SECOND)),
            },
        }
    }

    fn fault(&self, rng: &mut Random) -> Action {
        let back_after = if rng.chance(300) { rng.below(5 * SECOND) } else { rng.below(300_000) };
        match rng.below(100) {
            0..5 => Action::Knock { shard: rng.index(self.shards) },
            5..20 => Action::Cut { how: Cut::Reset, back_after },
            20..30 => Action::Cut { how: Cut::End, back_after },
            30..45 => Action::Cut { how: Cut::AtByte(rng.below(200)), back_after },
            45..55 => Action::Cut { how: Cut::HalfOpen, back_after },
            55..70 => {
                let (up, down) = (rng.below(SECOND), rng.below(SECOND));
                rng.pick(
                    &[
                        Action::Stall { up, down: 0 },
                        Action::Stall { up: 0, down },
                        Action::Stall { up, down },
                    ]
                    .each_ref(),
                )
                .clone()
            }
            70..85 => Action::HoldAcks { micros: rng.below(2 * SECOND) },
            85..95 => Action::StallShard { shard: rng.index(self.shards), micros: rng.below(80_000) },
            95 => Action::DiskFull { shard: rng.index(self.shards), micros: rng.below(SECOND) },
            96 => Action::DiskFails { shard: rng.index(self.shards), micros: rng.below(SECOND) },
            _ => self.power_cut(rng),
        }
    }

    fn power_cut(&self, rng: &mut Random) -> Action {
        let shards = if rng.chance(700) { self.shards } else { rng.range(1..=4) as usize };
        Action::PowerCut {
            down: rng.range(1000..=SECOND),
            shards,
            when: rng.pick(&[PowerCut::Now, PowerCut::Stopped, PowerCut::Writing, PowerCut::Writing]),
        }
    }
}

fn client(rng: &mut Random) -> ClientPlan {
    let version = if rng.chance(600) { Version::V5 } else { Version::V311 };
    let five = version == Version::V5;
    ClientPlan {
        version,
        expiry_seconds: if five && rng.chance(400) { rng.pick(&[1, 3, 6, 900]) } else { u32::MAX },
        keep_alive: rng.pick(&[0, 1, 2, 5, 60]),
        receive_maximum: (five && rng.chance(400)).then(|| rng.range(1..=5) as u16),
        aliases: if five { rng.pick(&[0, 0, 1, 5]) } else { 0 },
        packet_max: None,
        think_max: rng.pick(&[20, 2000, 50_000]),
    }
}

fn plain(qos: u8) -> FilterPlan {
    FilterPlan { filter: 0, qos, no_local: false, as_published: false, handling: 0, identifier: 0 }
}

fn filter(rng: &mut Random) -> FilterPlan {
    let filter = rng.index(FILTERS.len());
    let shared = filter >= SHARED_FILTERS;
    FilterPlan {
        filter,
        qos: if shared { rng.range(1..=2) } else { rng.below(3) } as u8,
        no_local: !shared && rng.chance(100),
        as_published: rng.chance(150),
        handling: rng.pick(&[0, 0, 0, 1, 2]),
        identifier: if rng.chance(200) { rng.range(1..=300) as u32 } else { 0 },
    }
}

fn will(rng: &mut Random) -> Option<WillPlan> {
    rng.chance(500).then(|| WillPlan {
        topic: rng.pick(&WILLS),
        delay_seconds: rng.pick(&[0, 0, 1, 3]),
        qos: rng.below(3) as u8,
        retain: rng.chance(200),
    })
}
