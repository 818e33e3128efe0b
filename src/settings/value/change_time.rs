//! When a change of an option takes effect in a broker that runs.

use std::fmt;

/// When a change of an option takes effect, after the file was read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeTime {
    /// At once, for connected clients too.
    AtOnce,
    /// For clients that connect later. Connected ones keep what they were granted.
    NewConnections,
    /// When midge starts again.
    AtRestart,
}

impl ChangeTime {
    /// The words of the manual and of a plan.
    pub fn words(self) -> &'static str {
        match self {
            ChangeTime::AtOnce => "at once",
            ChangeTime::NewConnections => "for new connections",
            ChangeTime::AtRestart => "at restart",
        }
    }

    /// Whether a broker that runs takes the change.
    pub fn is_taken(self) -> bool {
        self != ChangeTime::AtRestart
    }
}

impl fmt::Display for ChangeTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}
