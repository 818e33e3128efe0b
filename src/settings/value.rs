//! The parts of an option: the value as the file gives it ([`Literal`]), what is allowed ([`Allowed`]), the
//! typed value ([`Setting`]), and the row and section that join them ([`OptionRow`], [`Section`]).
//!
//! The input is a literal of any type. The output is a value inside its bounds, or a [`Refused`] that the
//! reader of the file turns into a sentence. Nothing here depends on TOML.

mod allowed;
mod change_time;
mod literal;
mod plain;
mod words;

pub use allowed::Allowed;
pub use change_time::ChangeTime;
pub use literal::Literal;
pub(crate) use literal::quoted;
pub(in crate::settings) use literal::written;
pub use words::{
    ClientCertificateRules, ClientCertificates, CrlScope, ListenerProtocol, LogFormat, LogLevel, LogTarget,
    ProxyHeaderKind, QueuePolicy, SyncPolicy, TlsMinimum, TokenAlgorithm, UserNames, Version, Versions,
};

/// Why a literal is not a valid value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It has another type, or is outside of the bounds. [`Allowed`] says what is allowed.
    NotAllowed,
    /// There is another reason, in words.
    Because(&'static str),
    /// This element of an array is not allowed.
    Element(String),
}

/// A type that an option can have.
pub trait Setting: Sized {
    /// Reads a literal. Fails if it has another type or is not `allowed`.
    fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused>;

    /// The value as the file would have it. If empty, the option is left out.
    fn shown(&self) -> String;

    /// Whether the option may be left out, with a meaning that no value has.
    const MAY_BE_LEFT_OUT: bool = false;
}

/// One option, as the reference manual shows it. Its default is in the `Default` of its section's type.
#[derive(Debug, Clone, Copy)]
pub struct OptionRow {
    /// Its key in the file.
    pub key: &'static str,
    /// Its type and bounds.
    pub allowed: Allowed,
    /// The unit ("bytes", "seconds"). Empty if the value is not a number.
    pub unit: &'static str,
    /// When a change of it takes effect while midge runs.
    pub change: ChangeTime,
    /// Its meaning, and what happens at the bound.
    pub text: &'static str,
    /// Whether it has no default. The text says what applies if it is left out.
    pub may_be_left_out: bool,
}

impl OptionRow {
    /// The allowed values in words, with the unit: "an integer from 0 to 128 (shards)".
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
    /// The name of the table in the file.
    fn name(&self) -> &'static str;

    /// The purpose of the table, in a sentence or two.
    fn about(&self) -> &'static str;

    /// Every option of the table, in the order of the manual.
    fn rows(&self) -> &'static [OptionRow];

    /// The value of an option as the file would have it. `None` if the key is unknown.
    fn shown(&self, key: &str) -> Option<String>;

    /// Sets the option of a row of this section. Fails, and changes nothing, if the literal is not allowed or
    /// the row belongs to another section.
    fn set(&mut self, row: &OptionRow, literal: &Literal) -> Result<(), Refused>;
}
