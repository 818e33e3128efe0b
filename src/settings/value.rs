//! What an option is made of: the value as the file gives it ([`Literal`]), what is allowed ([`Allowed`]),
//! the typed value ([`Setting`]), and the row and section that join them ([`Row`], [`Section`]).
//!
//! In comes a literal of any type; out goes either a value inside its bounds or a [`Refused`] that the
//! reader of the file turns into a sentence. Nothing here knows TOML.

use super::Network;
use std::fmt;

/// A value as it stands in a configuration file, before it is checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// A whole number.
    Integer(i64),
    /// `true` or `false`.
    Boolean(bool),
    /// A string.
    Text(String),
    /// An array of strings.
    Texts(Vec<String>),
    /// A value of a type that no option has, in words: "an array", "the float 2.5".
    Other(String),
}

impl Literal {
    /// What a string says, by its own grammar; anything else is not allowed.
    pub(super) fn parsed<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Refused> {
        match self {
            Literal::Text(text) => parse(text).ok_or(Refused::NotAllowed),
            _ => Err(Refused::NotAllowed),
        }
    }

    /// The value in words, for "got …": `500`, `"loud"`, `an array`. Long strings are cut.
    pub fn shown(&self) -> String {
        match self {
            Literal::Integer(number) => number.to_string(),
            Literal::Boolean(truth) => truth.to_string(),
            Literal::Text(text) => quoted(text),
            Literal::Texts(texts) => shown_list(texts.iter().map(String::as_str)),
            Literal::Other(words) => words.clone(),
        }
    }

    /// The value with the name of its type, for a value whose type is wrong.
    pub fn shown_with_type(&self) -> String {
        match self {
            Literal::Integer(_) => format!("the integer {}", self.shown()),
            Literal::Text(_) => format!("the string {}", self.shown()),
            Literal::Texts(_) => format!("the array {}", self.shown()),
            Literal::Boolean(_) | Literal::Other(_) => self.shown(),
        }
    }
}

/// What an option may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// A whole number from `min` to `max`, both included.
    Integer {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// A power of two from `min` to `max`, both included.
    PowerOfTwo {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// `true` or `false`.
    Boolean,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A string of at most `bytes_max` bytes of UTF-8 that MQTT can carry: no control characters.
    Text {
        /// Longest string, in bytes.
        bytes_max: usize,
    },
    /// An array of at most `count_max` strings, each as with `Text`.
    Texts {
        /// Longest string, in bytes.
        bytes_max: usize,
        /// Most strings.
        count_max: usize,
    },
    /// Some of a few words, in an array.
    Choices(&'static [&'static str]),
    /// An array of at most `count_max` addresses and networks.
    Networks {
        /// Most of them.
        count_max: usize,
    },
    /// `host:port`, where the host is an address or a name, or `unix:/path`.
    Address,
    /// Cores to run on; see [`super::Pin`].
    Pin,
}

impl Allowed {
    /// Whether a literal is of the right type, whatever its value.
    pub fn fits_type(&self, literal: &Literal) -> bool {
        match self {
            Allowed::Integer { .. } | Allowed::PowerOfTwo { .. } => matches!(literal, Literal::Integer(_)),
            Allowed::Boolean => matches!(literal, Literal::Boolean(_)),
            Allowed::Choice(_) | Allowed::Text { .. } | Allowed::Address | Allowed::Pin => {
                matches!(literal, Literal::Text(_))
            }
            Allowed::Choices(_) | Allowed::Texts { .. } | Allowed::Networks { .. } => {
                matches!(literal, Literal::Texts(_))
            }
        }
    }

    fn integer(&self, literal: &Literal) -> Result<u64, Refused> {
        let &Literal::Integer(number) = literal else { return Err(Refused::NotAllowed) };
        let number = u64::try_from(number).map_err(|_| Refused::NotAllowed)?;
        let good = match *self {
            Allowed::Integer { min, max } => (min..=max).contains(&number),
            Allowed::PowerOfTwo { min, max } => (min..=max).contains(&number) && number.is_power_of_two(),
            _ => false,
        };
        if good { Ok(number) } else { Err(Refused::NotAllowed) }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Integer { min, max } => write!(f, "an integer from {min} to {max}"),
            Allowed::PowerOfTwo { min, max } => write!(f, "a power of two from {min} to {max}"),
            Allowed::Boolean => f.write_str("true or false"),
            Allowed::Choice(words) => f.write_str(&words_in_quotes(words)),
            Allowed::Texts { bytes_max, count_max } => {
                write!(
                    f,
                    "an array of at most {count_max} strings of at most {bytes_max} bytes without control \
                     characters"
                )
            }
            Allowed::Choices(words) => {
                write!(f, "an array with one or more of {}", words_in_quotes(words))
            }
            Allowed::Networks { count_max } => {
                write!(
                    f,
                    "an array of at most {count_max} addresses and networks, such as \"192.0.2.7\", \"10.0.0.0/8\" and \
                     \"2001:db8::/32\""
                )
            }
            Allowed::Text { bytes_max } => {
                write!(f, "a string of at most {bytes_max} bytes without control characters")
            }
            Allowed::Pin => f.write_str(
                "\"auto\", \"none\", or numbers of cores from 0 to 1023 and ranges of them, each once, such as \"0\" and \
                 \"2,4-7\"",
            ),
            Allowed::Address => f.write_str(
                "\"ADDRESS:PORT\", \"HOSTNAME:PORT\" or \"unix:PATH\", such as \"0.0.0.0:1883\", \"[::]:1883\", \
                 \"localhost:1883\" or \"unix:/run/midge/midge.sock\"",
            ),
        }
    }
}

/// Why a literal did not become a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is of another type or outside the bounds; [`Allowed`] says all.
    NotAllowed,
    /// It has a reason of its own, in words.
    Because(&'static str),
    /// This one of an array is not allowed.
    Element(String),
}

/// A type that an option can have.
pub trait Setting: Sized {
    /// Reads a literal. Fails when it is of another type or not among what is `allowed`.
    fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused>;

    /// The value as it would stand in the file; empty for one that is left out.
    fn shown(&self) -> String;

    /// May it be left out, and then mean something else than any value?
    const MAY_BE_LEFT_OUT: bool = false;
}

/// Left out: as the whole broker has it.
impl<T: Setting> Setting for Option<T> {
    fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused> {
        T::read(literal, allowed).map(Some)
    }

    fn shown(&self) -> String {
        self.as_ref().map(T::shown).unwrap_or_default()
    }

    const MAY_BE_LEFT_OUT: bool = true;
}

macro_rules! integer_settings {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused> {
                // A row whose bounds exceed its type fails its test; here it is refused, not cut.
                <$type>::try_from(allowed.integer(literal)?).map_err(|_| Refused::NotAllowed)
            }

            fn shown(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

integer_settings!(u8, u16, u32, u64, usize);

impl Setting for bool {
    fn read(literal: &Literal, _: &Allowed) -> Result<Self, Refused> {
        match literal {
            Literal::Boolean(truth) => Ok(*truth),
            _ => Err(Refused::NotAllowed),
        }
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused> {
        match (literal, allowed) {
            // [MQTT5-1.5.4-2] The strings of the file that go on the wire must be ones that MQTT can carry.
            (Literal::Text(text), Allowed::Text { bytes_max })
                if text.len() <= *bytes_max && !text.chars().any(char::is_control) =>
            {
                Ok(text.clone())
            }
            _ => Err(Refused::NotAllowed),
        }
    }

    fn shown(&self) -> String {
        quoted(self)
    }
}

impl Setting for Vec<String> {
    fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused> {
        match (literal, allowed) {
            (Literal::Texts(texts), Allowed::Texts { bytes_max, count_max })
                if texts.len() <= *count_max
                    && texts
                        .iter()
                        .all(|text| text.len() <= *bytes_max && !text.chars().any(char::is_control)) =>
            {
                Ok(texts.clone())
            }
            _ => Err(Refused::NotAllowed),
        }
    }

    fn shown(&self) -> String {
        shown_list(self.iter().map(String::as_str))
    }
}

impl Setting for Vec<Network> {
    fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused> {
        let (Literal::Texts(texts), Allowed::Networks { count_max }) = (literal, allowed) else {
            return Err(Refused::NotAllowed);
        };
        if texts.len() > *count_max {
            return Err(Refused::NotAllowed);
        }
        let network = |text: &String| text.parse().map_err(|_| Refused::Element(text.clone()));
        texts.iter().map(network).collect()
    }

    fn shown(&self) -> String {
        let texts: Vec<String> = self.iter().map(ToString::to_string).collect();
        shown_list(texts.iter().map(String::as_str))
    }
}

/// Declares an enumeration whose values are words in the file.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The words of the file, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// The word of this value.
            pub fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)*
                }
            }

            fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some($name::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

/// Declares that the words of an enumeration are all there is to say about it.
macro_rules! word_settings {
    ($($name:ident),*) => {$(
        impl Setting for $name {
            fn read(literal: &Literal, _: &Allowed) -> Result<Self, Refused> {
                literal.parsed($name::from_word)
            }

            fn shown(&self) -> String {
                quoted(self.word())
            }
        }
    )*};
}

words! {
    /// How much is logged, from least to most.
    LogLevel {
        /// What keeps the broker from its work.
        Error = "error",
        /// What an operator should look at.
        Warn = "warn",
        /// One line for each connect, disconnect and refusal.
        Info = "info",
        /// What is needed to follow one client.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

words! {
    /// How a log line is written.
    LogFormat {
        /// For people.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// Where log lines go.
    LogTarget {
        /// Standard error.
        Stderr = "stderr",
        /// Standard output.
        Stdout = "stdout",
    }
}

words! {
    /// How sure it is that what was acknowledged survives.
    SyncPolicy {
        /// Acknowledged means on the disk.
        Always = "always",
        /// The disk is told once a second.
        Interval = "interval",
        /// The disk is never told.
        Off = "off",
    }
}

words! {
    /// What happens to a message for a session whose queue is full.
    QueuePolicy {
        /// Its publisher is told.
        Refuse = "refuse",
        /// The oldest of the queue makes room for it.
        DropOldest = "drop_oldest",
        /// It is dropped.
        DropNewest = "drop_newest",
    }
}

words! {
    /// A version of MQTT.
    Version {
        /// 3.1, protocol name MQIsdp, level 3.
        V31 = "3.1",
        /// 3.1.1, level 4.
        V311 = "3.1.1",
        /// 5.0, level 5.
        V5 = "5.0",
    }
}

/// Versions of MQTT that a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions(u8);

impl Versions {
    /// Every one.
    pub const ALL: Versions = Versions(0b111);

    /// Just these.
    pub fn of(versions: &[Version]) -> Versions {
        Versions(versions.iter().fold(0, |set, &version| set | 1 << version as u8))
    }

    /// Is this one among them?
    pub fn has(self, version: Version) -> bool {
        self.0 & (1 << version as u8) != 0
    }
}

impl Setting for Versions {
    fn read(literal: &Literal, _: &Allowed) -> Result<Self, Refused> {
        let Literal::Texts(words) = literal else { return Err(Refused::NotAllowed) };
        let versions: Option<Vec<_>> = words.iter().map(|word| Version::from_word(word)).collect();
        let versions = versions.filter(|versions| !versions.is_empty()).ok_or(Refused::NotAllowed)?;
        Ok(Versions::of(&versions))
    }

    fn shown(&self) -> String {
        let versions = [Version::V31, Version::V311, Version::V5];
        shown_list(versions.into_iter().filter(|&version| self.has(version)).map(Version::word))
    }
}

words! {
    /// What a listener speaks.
    ListenerProtocol {
        /// MQTT as it is.
        Mqtt = "mqtt",
        /// MQTT in the frames of WebSocket.
        WebSocket = "websocket",
    }
}

words! {
    /// Whether clients are asked for a certificate.
    ClientCertificates {
        /// They are not.
        None = "none",
        /// They are, and may have none.
        Optional = "optional",
        /// Without a good one nobody gets in.
        Required = "required",
    }
}

words! {
    /// Which name of a client's certificate is its user name.
    UserNames {
        /// None: clients have the one in CONNECT.
        None = "none",
        /// The common name of the subject.
        CommonName = "common_name",
        /// The whole subject.
        Subject = "subject",
    }
}

words! {
    /// By which rules a client's certificate counts.
    ClientCertificateRules {
        /// Those of RFC 5280.
        Standard = "standard",
        /// Those of OpenSSL, and so of mosquitto.
        OpenSsl = "openssl",
    }
}

words! {
    /// Which certificates are looked up in revocation lists.
    CrlScope {
        /// The client's and those between it and its CA.
        Chain = "chain",
        /// The client's own.
        Client = "client",
    }
}

words! {
    /// The oldest version of TLS that is spoken.
    TlsMinimum {
        /// TLS 1.2.
        V12 = "1.2",
        /// TLS 1.3.
        V13 = "1.3",
    }
}

words! {
    /// How tokens are signed with a shared secret.
    TokenAlgorithm {
        /// HMAC with SHA-256.
        Hs256 = "HS256",
        /// HMAC with SHA-384.
        Hs384 = "HS384",
        /// HMAC with SHA-512.
        Hs512 = "HS512",
    }
}

word_settings!(
    LogLevel,
    LogFormat,
    LogTarget,
    SyncPolicy,
    QueuePolicy,
    ClientCertificates,
    ClientCertificateRules,
    CrlScope,
    TlsMinimum,
    TokenAlgorithm,
    UserNames
);

impl Setting for ListenerProtocol {
    fn read(literal: &Literal, _: &Allowed) -> Result<Self, Refused> {
        let Literal::Text(word) = literal else { return Err(Refused::NotAllowed) };
        match word.as_str() {
            "wss" | "mqtts" | "tls" => {
                Err(Refused::Because("TLS is not a protocol of its own: see tls_certificates"))
            }
            word => ListenerProtocol::from_word(word).ok_or(Refused::NotAllowed),
        }
    }

    fn shown(&self) -> String {
        quoted(self.word())
    }
}

/// One option as the reference manual shows it. Its default is the default of its section's type.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Key in the file.
    pub key: &'static str,
    /// Type and bounds.
    pub allowed: Allowed,
    /// What is counted ("bytes", "seconds"); empty for what isn't a number.
    pub unit: &'static str,
    /// What it means, and what happens at the bound.
    pub text: &'static str,
    /// It has no default: the text says what holds when it is left out.
    pub may_be_left_out: bool,
}

impl Row {
    /// What the option may be, with its unit: "an integer from 0 to 128 (shards)".
    pub fn allowed_in_words(&self) -> String {
        if self.unit.is_empty() {
            self.allowed.to_string()
        } else {
            format!("{} ({})", self.allowed, self.unit)
        }
    }
}

/// A table of the file: its rows and the values behind them.
pub trait Section {
    /// Name of the table in the file.
    fn name(&self) -> &'static str;

    /// What the table is about, in a sentence or two.
    fn about(&self) -> &'static str;

    /// Every option of the table, in the order of the manual.
    fn rows(&self) -> &'static [Row];

    /// The value of an option as it would stand in the file; `None` for an unknown key.
    fn shown(&self, key: &str) -> Option<String>;

    /// Sets the option of a row of this section. Fails, and changes nothing, when the literal is not allowed
    /// or the row is another section's.
    fn set(&mut self, row: &Row, literal: &Literal) -> Result<(), Refused>;
}

/// Words in quotes, for "one of".
fn words_in_quotes(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match words.as_slice() {
        [start @ .., last] if !start.is_empty() => format!("{} or {last}", start.join(", ")),
        words => words.concat(),
    }
}

/// An array of strings as TOML writes it.
fn shown_list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", texts.map(quoted).collect::<Vec<_>>().join(", "))
}

/// A string as TOML writes it, cut to what fits a line of an error.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for (count, character) in text.chars().enumerate() {
        if count == SHOWN_CHARS_MAX {
            quoted.push('…');
            break;
        }
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Characters of a value that an error repeats.
const SHOWN_CHARS_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_of_two_is_checked_against_both_bounds() {
        let allowed = Allowed::PowerOfTwo { min: 2, max: 8 };
        for (number, good) in
            [(0, false), (1, false), (2, true), (3, false), (8, true), (16, false), (-4, false)]
        {
            assert_eq!(u64::read(&Literal::Integer(number), &allowed).is_ok(), good, "{number}");
        }
    }

    #[test]
    fn choices_are_listed_in_words() {
        assert_eq!(Allowed::Choice(LogFormat::WORDS).to_string(), "\"human\" or \"json\"");
        assert_eq!(Allowed::Choice(&["mqtt"]).to_string(), "\"mqtt\"");
        assert_eq!(
            Allowed::Choice(LogLevel::WORDS).to_string(),
            "\"error\", \"warn\", \"info\", \"debug\" or \"trace\""
        );
    }

    #[test]
    fn a_long_or_unprintable_string_is_cut_and_escaped_when_shown() {
        assert_eq!(quoted("a\n\"b\\"), "\"a\\u000A\\\"b\\\\\"");
        assert_eq!(quoted(&"x".repeat(200)).chars().count(), SHOWN_CHARS_MAX + 3);
    }

    #[test]
    fn a_string_that_mqtt_cannot_carry_is_refused() {
        let allowed = Allowed::Text { bytes_max: 4 };
        assert!(String::read(&Literal::Text("abcd".into()), &allowed).is_ok());
        assert!(String::read(&Literal::Text("abcde".into()), &allowed).is_err());
        assert!(String::read(&Literal::Text("a\0".into()), &allowed).is_err());
    }

    #[test]
    fn a_protocol_that_names_tls_is_refused_with_the_way_to_have_it() {
        let read = |word: &str| ListenerProtocol::read(&Literal::Text(word.into()), &Allowed::Boolean);
        assert_eq!(read("mqtt"), Ok(ListenerProtocol::Mqtt));
        assert_eq!(read("websocket"), Ok(ListenerProtocol::WebSocket));
        assert!(
            matches!(read("mqtts"), Err(Refused::Because(reason)) if reason.contains("tls_certificates"))
        );
        assert_eq!(read("amqp"), Err(Refused::NotAllowed));
    }
}
