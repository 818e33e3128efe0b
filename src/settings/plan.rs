//! What a change of the configuration means for a broker that runs: each option that differs, when it takes effect, and
//! for whom.
//!
//! The input is the configuration in force and that of the files. The output is plain data in the order of the manual,
//! listeners first.

use super::value::{ChangeTime, OptionRow, Section};
use super::{Config, Listener};
use std::fmt;

/// The differences between two configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every difference.
    pub changes: Vec<Change>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key: `limits.packet_bytes`, or `listeners "0.0.0.0:1883".packet_bytes`. Of a listener as a whole without an
    /// option.
    pub key: String,
    /// The value in force, as the file would have it. `None` if there is none.
    pub old: Option<String>,
    /// The value of the file. `None` if there is none.
    pub new: Option<String>,
    /// When the change takes effect.
    pub time: ChangeTime,
    /// The clients that notice.
    pub whom: Whom,
}

/// The clients that notice a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// Nobody before a restart.
    Nobody,
    /// All clients, or the broker as a whole.
    All,
    /// Clients that connect later.
    Later,
    /// The clients of a listener, by its address.
    Of(String),
    /// The clients that will connect to a listener, by its address.
    LaterOf(String),
    /// The clients of a listener that is removed, by its address. They are disconnected.
    Disconnected(String),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whom::Nobody => f.write_str("nobody before a restart"),
            Whom::All => f.write_str("all clients"),
            Whom::Later => f.write_str("clients that connect later"),
            Whom::Of(listener) => write!(f, "clients of {listener}"),
            Whom::LaterOf(listener) => write!(f, "clients that connect to {listener} later"),
            Whom::Disconnected(listener) => write!(f, "clients of {listener}: they are disconnected (0x98)"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(left out)".to_owned());
        match (&self.old, &self.new) {
            (None, None) => write!(f, "{}", self.key)?,
            (old, new) => write!(f, "{}: {} -> {}", self.key, shown(old), shown(new))?,
        }
        write!(f, ", {}, {}", self.time, self.whom)
    }
}

/// Left out, an option has a meaning that no value has.
fn left_out(shown: String) -> Option<String> {
    (!shown.is_empty()).then_some(shown)
}

impl Plan {
    /// What changes if the configuration `running` is followed by `file`.
    pub fn new(running: &Config, file: &Config) -> Plan {
        let mut plan = Plan::default();
        plan.compare_listeners(running, file);
        for (old, new) in running.sections().into_iter().zip(file.sections()) {
            plan.compare(old, new, old.name(), |time| match time {
                ChangeTime::AtOnce => Whom::All,
                ChangeTime::NewConnections => Whom::Later,
                ChangeTime::AtRestart => Whom::Nobody,
            });
        }
        plan
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes that a broker that runs takes.
    pub fn taken(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.time.is_taken())
    }

    /// The changes that wait for a restart.
    pub fn waiting(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| !change.time.is_taken())
    }

    fn compare_listeners(&mut self, running: &Config, file: &Config) {
        let mut left: Vec<&Listener> = running.listeners.iter().collect();
        for new in &file.listeners {
            let address = new.address.to_string();
            let key = format!("listeners \"{address}\"");
            let Some(at) = left.iter().position(|old| old.is_same(new)) else {
                self.add_listener(key, address, true);
                continue;
            };
            let old = left.remove(at);
            self.compare(old, new, &key, |time| match time {
                ChangeTime::AtOnce => Whom::Of(address.clone()),
                ChangeTime::NewConnections => Whom::LaterOf(address.clone()),
                ChangeTime::AtRestart => Whom::Nobody,
            });
        }
        for old in left {
            let address = old.address.to_string();
            self.add_listener(format!("listeners \"{address}\""), address, false);
        }
    }

    fn add_listener(&mut self, key: String, address: String, is_new: bool) {
        let (open, closed) = (Some("open".to_owned()), Some("closed".to_owned()));
        let (old, new, whom) = match is_new {
            true => (closed, open, Whom::LaterOf(address)),
            false => (open, closed, Whom::Disconnected(address)),
        };
        self.changes.push(Change { key, old, new, time: ChangeTime::AtOnce, whom });
    }

    fn compare(
        &mut self,
        old: &dyn Section,
        new: &dyn Section,
        prefix: &str,
        whom: impl Fn(ChangeTime) -> Whom,
    ) {
        for row in old.rows() {
            let value = |section: &dyn Section| section.shown(row.key).and_then(left_out);
            let (before, after) = (value(old), value(new));
            if before == after {
                continue;
            }
            let shown = |value: Option<String>| value.map(|value| without_password(row, value));
            self.changes.push(Change {
                key: format!("{prefix}.{}", row.key),
                old: shown(before),
                new: shown(after),
                time: row.change,
                whom: whom(row.change),
            });
        }
    }
}

/// A URL without its user and password, which must not reach the log.
fn without_password(row: &OptionRow, value: String) -> String {
    if row.key != "url" {
        return value;
    }
    let Some((scheme, rest)) = value.split_once("://") else { return value };
    let host_ends = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..host_ends].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::Literal;
    use super::super::{Address, options};
    use super::*;

    /// Another good value for an option.
    fn other_value(section: &dyn Section, row: &OptionRow) -> Literal {
        use super::super::value::Allowed;
        let shown = section.shown(row.key).expect("a row of this section");
        let candidates: Vec<Literal> = match row.allowed {
            Allowed::Integer { min, max } | Allowed::PowerOfTwo { min, max } => {
                [min, max].map(|bound| Literal::Integer(i64::try_from(bound).expect("it fits"))).into()
            }
            Allowed::Boolean => [true, false].map(Literal::Boolean).into(),
            Allowed::Choices(words) => {
                words.iter().map(|word| Literal::Texts(vec![(*word).into()])).collect()
            }
            Allowed::Choice(words) => words.iter().map(|word| Literal::Text((*word).into())).collect(),
            _ => Vec::new(),
        };
        let one = |text: &str| Literal::Texts(vec![text.into()]);
        let texts = ["x", "127.0.0.1:7", "0600", "0", "10.0.0.0/8"];
        let all = candidates
            .into_iter()
            .chain(texts.iter().map(|text| Literal::Text((*text).into())))
            .chain(["10.0.0.0/8", "x"].map(one));
        let mut all = all.filter(|literal| {
            let mut config = Config::default();
            let mut listener = options::Listener::default();
            let mut sections: Vec<&mut dyn Section> = vec![&mut listener];
            sections.extend(config.sections_mut());
            let copy = sections.into_iter().find(|copy| copy.name() == section.name()).expect("it is there");
            copy.set(row, literal).is_ok() && copy.shown(row.key).as_deref() != Some(&shown)
        });
        all.next().unwrap_or_else(|| panic!("{}.{} has another value", section.name(), row.key))
    }

    #[test]
    fn every_option_is_taken_by_a_reload_unless_its_row_says_that_it_needs_a_restart() {
        let running = Config::default();
        let mut count = 0;
        for at in 0..running.sections().len() {
            for row in running.sections()[at].rows() {
                let mut file = running.clone();
                let literal = other_value(running.sections()[at], row);
                file.sections_mut()[at].set(row, &literal).expect("it was tried");
                let plan = Plan::new(&running, &file);
                let [change] = &plan.changes[..] else { panic!("{}: {plan:?}", row.key) };
                assert_eq!(change.key, format!("{}.{}", running.sections()[at].name(), row.key));
                assert_eq!(change.time, row.change);
                assert_eq!(plan.taken().count(), usize::from(row.change.is_taken()));
                let next = file.clone().with_restart_options_of(&running);
                let expected = if row.change.is_taken() { &file } else { &running };
                assert_eq!(next, *expected, "{}", change.key);
                // What waits for a restart is told again each time.
                assert_eq!(Plan::new(&next, &file).waiting().count(), plan.waiting().count());
                count += 1;
            }
        }
        assert!(count > 100, "{count} options");
    }

    #[test]
    fn options_of_a_listener_are_told_with_its_clients() {
        let running = Config::default();
        for row in
            running.listeners[0].rows().iter().filter(|row| !["address", "interface"].contains(&row.key))
        {
            let mut file = running.clone();
            let literal = other_value(&running.listeners[0], row);
            file.listeners[0].set(row, &literal).expect("it was tried");
            let plan = Plan::new(&running, &file);
            let [change] = &plan.changes[..] else { panic!("{}: {plan:?}", row.key) };
            assert_eq!(change.key, format!("listeners \"127.0.0.1:1883\".{}", row.key));
            assert!(row.change.is_taken(), "a listener's options need no restart: {}", row.key);
            let address = "127.0.0.1:1883".to_owned();
            let whom =
                if row.change == ChangeTime::AtOnce { Whom::Of(address) } else { Whom::LaterOf(address) };
            assert_eq!(change.whom, whom);
        }
    }

    #[test]
    fn listeners_that_come_and_go_are_told_with_what_happens_to_their_clients() {
        let at = |port| Listener { address: Address::loopback(port), ..Listener::default() };
        let running = Config { listeners: vec![at(1), at(2)], ..Config::default() };
        let file = Config { listeners: vec![at(3), at(2)], ..Config::default() };
        let lines: Vec<String> = Plan::new(&running, &file).changes.iter().map(ToString::to_string).collect();
        let expected = [
            "listeners \"127.0.0.1:3\": closed -> open, at once, clients that connect to 127.0.0.1:3 later",
            "listeners \"127.0.0.1:1\": open -> closed, at once, clients of 127.0.0.1:1: they are disconnected (0x98)",
        ];
        assert_eq!(lines, expected);
        assert!(Plan::new(&file, &Config { listeners: vec![at(2), at(3)], ..Config::default() }).is_empty());
        // Listeners on free ports are told apart by their number.
        let free = Config { listeners: vec![at(0), at(0)], ..Config::default() };
        let more = Config { listeners: vec![at(0), at(0), at(0)], ..Config::default() };
        assert_eq!((Plan::new(&free, &more).changes.len(), Plan::new(&free, &free).changes.len()), (1, 0));
    }

    #[test]
    fn no_password_of_a_url_reaches_the_log() {
        let mut file = Config::default();
        file.webhook.url = "https://name:secret@host/path@x".into();
        let plan = Plan::new(&Config::default(), &file);
        assert_eq!(plan.changes[0].new.as_deref(), Some("\"https://***@host/path@x\""));
        assert!(!plan.changes[0].to_string().contains("secret"));
        file.webhook.url = "http://host/a@b".into();
        assert_eq!(
            Plan::new(&Config::default(), &file).changes[0].new.as_deref(),
            Some("\"http://host/a@b\"")
        );
    }
}
