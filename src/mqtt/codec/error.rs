//! What can be wrong with bytes: the fault, and the reason code it gets.
//!
//! Decoding only names the family; whether that family becomes a CONNACK, a DISCONNECT or a
//! bare close is the session's business, since it depends on version and state.

use std::fmt;

use super::Reason;

/// A fault found while reading a packet, and the words for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The family, which decides the reason code.
    pub fault: Fault,
    /// What was wrong, in a few words, without any of the peer's bytes.
    pub cause: &'static str,
}

/// The families of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes can't be read: 0x81.
    Malformed,
    /// Readable, yet against the protocol: 0x82.
    Protocol,
    /// Larger than announced: 0x95.
    PacketTooLarge,
    /// More in one packet than we take: 0x97.
    TooMany,
    /// Topic alias 0: 0x94.
    TopicAliasInvalid,
    /// A protocol name that is none of ours: 0x84, or silence.
    UnsupportedProtocolName,
    /// A level that we do not serve under a name that we know: CONNACK 1 in 3.x, 0x84 in 5.0.
    UnsupportedProtocolVersion,
    /// A client identifier that is well-formed and refused: CONNACK 2 in 3.x, 0x85 in 5.0.
    ClientIdentifierNotValid,
}

impl DecodeError {
    /// The reason code that MQTT 5.0 names for this fault. `[MQTT5-4.13.1-1]`
    pub fn reason(&self) -> Reason {
        match self.fault {
            Fault::Malformed => Reason::MalformedPacket,
            Fault::Protocol => Reason::ProtocolError,
            Fault::PacketTooLarge => Reason::PacketTooLarge,
            Fault::TooMany => Reason::QuotaExceeded,
            Fault::TopicAliasInvalid => Reason::TopicAliasInvalid,
            Fault::UnsupportedProtocolName | Fault::UnsupportedProtocolVersion => {
                Reason::UnsupportedProtocolVersion
            }
            Fault::ClientIdentifierNotValid => Reason::ClientIdentifierNotValid,
        }
    }

    pub(super) const fn malformed(cause: &'static str) -> DecodeError {
        DecodeError { fault: Fault::Malformed, cause }
    }

    pub(super) const fn protocol(cause: &'static str) -> DecodeError {
        DecodeError { fault: Fault::Protocol, cause }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason().words(), self.cause)
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_the_reason_code_of_the_standard() {
        let code = |fault| DecodeError { fault, cause: "" }.reason().code();
        assert_eq!(code(Fault::Malformed), 0x81);
        assert_eq!(code(Fault::Protocol), 0x82);
        assert_eq!(code(Fault::PacketTooLarge), 0x95);
        assert_eq!(code(Fault::TopicAliasInvalid), 0x94);
        assert_eq!(code(Fault::UnsupportedProtocolName), 0x84);
        assert_eq!(code(Fault::UnsupportedProtocolVersion), 0x84);
        assert_eq!(code(Fault::ClientIdentifierNotValid), 0x85);
    }
}
