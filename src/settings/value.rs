//! What an option is made of: the value as the file gives it ([`Literal`]), what is allowed ([`Allowed`]),
//! the typed value ([`Setting`]), and the row and section that join them ([`OptionRow`], [`Section`]).
//!
//! In comes a literal of any type. Out goes either a value inside its bounds, or a [`Refused`] that the
//! reader of the file turns into a sentence. Nothing here knows TOML.

mod allowed;
mod literal;
mod plain;
mod words;

pub use allowed::Allowed;
pub use literal::Literal;
pub(crate) use literal::quoted;
pub use words::{
    ClientCertificateRules, ClientCertificates, CrlScope, ListenerProtocol, LogFormat, LogLevel, LogTarget,
    QueuePolicy, SyncPolicy, TlsMinimum, TokenAlgorithm, UserNames, Version, Versions,
};

/// Why a literal did not become a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It has another type, or is outside the bounds. [`Allowed`] says what is allowed.
    NotAllowed,
    /// There is another reason, in words.
    Because(&'static str),
    /// This element of an array is not allowed.
    Element(String),
}

/// A type that an option can have.
pub trait Setting: Sized {
    /// Reads a literal. Fails when it is of another type or not among what is `allowed`.
    fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused>;

    /// The value as it would stand in the file. Empty: it is left out.
    fn shown(&self) -> String;

    /// May it be left out, with a meaning that no value has?
    const MAY_BE_LEFT_OUT: bool = false;
}

/// One option as the reference manual shows it. Its default is the default of its section's type.
#[derive(Debug, Clone, Copy)]
pub struct OptionRow {
    /// Key in the file.
    pub key: &'static str,
    /// Type and bounds.
    pub allowed: Allowed,
    /// What is counted ("bytes", "seconds"); empty for what isn't a number.
    pub unit: &'static str,
    /// What it means, and what happens at the bound.
    pub text: &'static str,
    /// It has no default. The text says what applies when it is left out.
    pub may_be_left_out: bool,
}

impl OptionRow {
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
    fn rows(&self) -> &'static [OptionRow];

    /// The value of an option as it would stand in the file. `None`: the key is unknown.
    fn shown(&self, key: &str) -> Option<String>;

    /// Sets the option of a row of this section. Fails, and changes nothing, when the literal is not allowed
    /// or the row is another section's.
    fn set(&mut self, row: &OptionRow, literal: &Literal) -> Result<(), Refused>;
}
