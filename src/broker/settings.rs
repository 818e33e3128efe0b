//! What the operator has set, as the shards work with it. It never changes: a reload makes another one, and each
//! shard replaces its own between two turns.
//!
//! A listener keeps its number as long as midge runs. One that was removed keeps it too, for the sessions of its
//! clients, and gets it back if its address is configured again.
//!
//! CONNACK tells a client what it may send. So a connection keeps the terms of its listener under which it was
//! accepted. Its [`Entrance`] names the listener and these terms. Terms that come again get the same entrance, so
//! the list only grows by terms that are really new.

use crate::settings::options::LISTENERS_MAX;
use crate::settings::{Config, Listener, ShardShares, Terms};
use std::fmt;

/// Names a listener and the terms under which it has accepted a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entrance(u16);

impl Entrance {
    /// The listener is not known, because the client has not been connected in this run.
    pub const NONE: Entrance = Entrance(u16::MAX);

    /// Its place in the list of entrances. Whatever is counted by entrance is counted there.
    pub fn at(self) -> usize {
        usize::from(self.0)
    }
}

/// The largest number of listeners of one run, those that were removed included.
pub const LISTENER_NUMBERS_MAX: usize = 255;
const _: () = assert!(LISTENERS_MAX <= LISTENER_NUMBERS_MAX);

/// The largest number of entrances of one run.
const ENTRANCES_MAX: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct BrokerSettings {
    /// The configuration in force. Its listeners are ordered by their number, and include those that were removed.
    /// `limits.memory_bytes` is the effective bound; 0 if there is none.
    pub config: Config,
    /// The numbers of the listeners that are open, in the order of the file.
    order: Box<[u16]>,
    entrances: Vec<EntranceTerms>,
    /// The present entrance of each listener.
    newest: Vec<Entrance>,
    denied: Terms,
}

#[derive(Clone, Debug, PartialEq)]
struct EntranceTerms {
    listener: u16,
    terms: Terms,
    is_secured: bool,
}

/// Why settings can't be replaced while midge runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingsFull {
    /// Too many different addresses were listened on since the start.
    Listeners,
    /// Too many different terms of listeners were set since the start.
    Entrances,
}

impl fmt::Display for SettingsFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingsFull::Listeners => write!(
                f,
                "midge has listened on {LISTENER_NUMBERS_MAX} different addresses since its start; it needs a restart to \
                 listen on another one"
            ),
            SettingsFull::Entrances => write!(
                f,
                "the options of listeners have had {ENTRANCES_MAX} different sets of values since the start of midge; it \
                 needs a restart to take another one"
            ),
        }
    }
}

impl BrokerSettings {
    /// The settings of the start.
    pub fn new(config: Config) -> BrokerSettings {
        let mut settings = BrokerSettings {
            order: (0..).zip(&config.listeners).map(|(number, _)| number).collect(),
            config,
            entrances: Vec::new(),
            newest: Vec::new(),
            denied: Terms::denied(),
        };
        settings.enter().expect("a file has at most 64 listeners");
        settings
    }

    /// The settings that follow these, with the listeners of `config` in the order of the file.
    ///
    /// # Errors
    /// See [`SettingsFull`].
    pub fn succeeded_by(&self, mut config: Config) -> Result<BrokerSettings, SettingsFull> {
        let mut by_number = self.config.listeners.clone();
        let mut order: Vec<u16> = Vec::new();
        for listener in std::mem::take(&mut config.listeners) {
            let number = self.number_for(&listener, &order).unwrap_or(by_number.len());
            if number >= LISTENER_NUMBERS_MAX {
                return Err(SettingsFull::Listeners);
            }
            match by_number.get_mut(number) {
                Some(former) => *former = listener,
                None => by_number.push(listener),
            }
            order.push(u16::try_from(number).expect("it was compared with the bound"));
        }
        config.listeners = by_number;
        let mut next = BrokerSettings {
            config,
            order: order.into(),
            entrances: self.entrances.clone(),
            newest: self.newest.clone(),
            denied: Terms::denied(),
        };
        next.enter()?;
        Ok(next)
    }

    /// The number that a listener had, unless another one of the file has it by now. An open one comes first: for port
    /// 0 several may have the same address.
    fn number_for(&self, listener: &Listener, taken: &[u16]) -> Option<usize> {
        let fits = |number: &u16| {
            let former = &self.config.listeners[usize::from(*number)];
            !taken.contains(number) && former.is_same(listener)
        };
        let all = 0..u16::try_from(self.config.listeners.len()).expect("at most 255 listeners");
        self.order.iter().copied().chain(all).find(fits).map(usize::from)
    }

    /// Gives each listener the entrance of its present terms.
    fn enter(&mut self) -> Result<(), SettingsFull> {
        for (number, listener) in (0..).zip(&self.config.listeners) {
            let is_removed = !self.order.contains(&number);
            if is_removed && self.newest.len() > usize::from(number) {
                continue;
            }
            let terms = EntranceTerms {
                listener: number,
                terms: self.config.terms(listener),
                is_secured: !listener.tls_certificates.is_empty(),
            };
            let at = self.entrances.iter().position(|known| *known == terms).unwrap_or_else(|| {
                self.entrances.push(terms);
                self.entrances.len() - 1
            });
            if at >= ENTRANCES_MAX {
                return Err(SettingsFull::Entrances);
            }
            let entrance = Entrance(u16::try_from(at).expect("it was compared with the bound"));
            match self.newest.get_mut(usize::from(number)) {
                Some(newest) => *newest = entrance,
                None => self.newest.push(entrance),
            }
        }
        Ok(())
    }

    /// The numbers of the open listeners, in the order of the file.
    pub fn open_listeners(&self) -> &[u16] {
        &self.order
    }

    /// Whether a listener was not removed.
    pub fn is_open(&self, listener: u16) -> bool {
        self.order.contains(&listener)
    }

    /// The listener with this number. `None` if there was none in this run.
    pub fn listener(&self, number: u16) -> Option<&Listener> {
        self.config.listeners.get(usize::from(number))
    }

    /// The entrance of connections that a listener accepts now.
    pub fn entrance(&self, listener: u16) -> Entrance {
        self.newest.get(usize::from(listener)).copied().unwrap_or(Entrance::NONE)
    }

    /// The number of the listener of an entrance. `None` if it is not known.
    pub fn listener_of(&self, entrance: Entrance) -> Option<u16> {
        self.listener_at(entrance.at())
    }

    /// The number of the listener of the entrance at this place.
    pub fn listener_at(&self, place: usize) -> Option<u16> {
        self.entrances.get(place).map(|entrance| entrance.listener)
    }

    /// The terms of an entrance. If it is not known, nothing is allowed.
    #[inline]
    pub fn terms(&self, entrance: Entrance) -> &Terms {
        self.entrances.get(entrance.at()).map_or(&self.denied, |entrance| &entrance.terms)
    }

    /// The terms that a listener has now. If it is not known, nothing is allowed.
    pub fn terms_of(&self, listener: u16) -> &Terms {
        self.terms(self.entrance(listener))
    }

    /// The present terms of every listener, by number.
    pub fn newest_terms(&self) -> impl Iterator<Item = &Terms> {
        self.newest.iter().map(|&entrance| self.terms(entrance))
    }

    /// Whether connections of this entrance have TLS.
    pub fn is_secured(&self, entrance: Entrance) -> bool {
        self.entrances.get(entrance.at()).is_some_and(|entrance| entrance.is_secured)
    }

    /// The largest packet that any connected client may send, in bytes.
    pub fn packet_bytes_max(&self) -> usize {
        self.entrances.iter().map(|entrance| entrance.terms.packet_bytes).max().unwrap_or_default()
    }

    /// What clients may make all shards keep, in bytes. `usize::MAX` if there is no bound. See `limits.memory_bytes`.
    pub fn memory_bytes_max(&self) -> usize {
        match self.config.limits.memory_bytes {
            0 => usize::MAX,
            bytes => bytes,
        }
    }

    /// One shard's part of the limits that are divided among shards. Messages and retained messages may each
    /// use at most half of `limits.memory_bytes`, so that neither takes all the memory.
    pub fn shares(&self, shards: usize) -> ShardShares {
        let half = (self.memory_bytes_max() / 2).div_ceil(shards.max(1));
        let shares = self.config.shares(shards);
        ShardShares {
            queue_bytes: shares.queue_bytes.min(half),
            retained_bytes: shares.retained_bytes.min(half),
            ..shares
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Address;

    fn listeners(ports: &[u16]) -> Config {
        let listener = |&port| Listener { address: Address::loopback(port), ..Listener::default() };
        Config { listeners: ports.iter().map(listener).collect(), ..Config::default() }
    }

    #[test]
    fn a_listener_keeps_its_number_and_gets_it_back() {
        let first = BrokerSettings::new(listeners(&[1, 2, 3]));
        let second = first.succeeded_by(listeners(&[4, 3, 1])).expect("there is room");
        assert_eq!(second.open_listeners(), [3, 2, 0]);
        assert!(!second.is_open(1) && second.is_open(3) && !second.is_open(4));
        assert_eq!(second.listener(1).map(|listener| listener.address.port()), Some(2), "for its sessions");
        let third = second.succeeded_by(listeners(&[2, 5])).expect("there is room");
        assert_eq!(third.open_listeners(), [1, 4]);
        // Two listeners on free ports are different ones.
        let free = BrokerSettings::new(listeners(&[0, 0]));
        assert_eq!(free.succeeded_by(listeners(&[0, 0, 0])).expect("room").open_listeners(), [0, 1, 2]);
    }

    #[test]
    fn a_connection_keeps_its_terms_and_terms_that_come_again_their_entrance() {
        let mut config = listeners(&[1, 2]);
        let first = BrokerSettings::new(config.clone());
        let before = first.entrance(0);
        config.listeners[0].packet_bytes = Some(500);
        let second = first.succeeded_by(config).expect("there is room");
        assert_ne!(second.entrance(0), before);
        assert_eq!(second.entrance(1), first.entrance(1));
        assert_eq!(second.terms(before).packet_bytes, 2_000_000);
        assert_eq!(second.terms_of(0).packet_bytes, 500);
        assert_eq!(second.listener_of(second.entrance(0)), Some(0));
        let third = second.succeeded_by(listeners(&[1, 2])).expect("there is room");
        assert_eq!((third.entrance(0), third.entrances.len()), (before, 3));
        assert_eq!(*third.terms(Entrance::NONE), Terms::denied());
        assert_eq!((third.listener_of(Entrance::NONE), third.entrance(9)), (None, Entrance::NONE));
    }

    #[test]
    fn the_terms_of_a_removed_listener_stay() {
        let first = BrokerSettings::new(listeners(&[1, 2]));
        let mut config = listeners(&[1]);
        config.limits.packet_bytes = 1000;
        let second = first.succeeded_by(config).expect("there is room");
        assert_eq!((second.terms_of(0).packet_bytes, second.terms_of(1).packet_bytes), (1000, 2_000_000));
    }

    #[test]
    fn what_has_no_room_is_refused_in_words() {
        let mut settings = BrokerSettings::new(listeners(&[1]));
        for port in 2..=255 {
            settings = settings.succeeded_by(listeners(&[port])).expect("there is room");
        }
        let full = settings.succeeded_by(listeners(&[256])).expect_err("no number is left");
        assert!(full == SettingsFull::Listeners && full.to_string().contains("255"));
        assert!(settings.succeeded_by(listeners(&[1])).is_ok(), "it has a number");
        let mut settings = BrokerSettings::new(listeners(&[1]));
        let with = |packet_bytes| {
            let mut config = listeners(&[1]);
            config.limits.packet_bytes = packet_bytes;
            config
        };
        for entrance in 1..ENTRANCES_MAX {
            settings = settings.succeeded_by(with(1000 + entrance)).expect("there is room");
        }
        assert_eq!(settings.succeeded_by(with(20)).map(drop), Err(SettingsFull::Entrances));
    }
}
