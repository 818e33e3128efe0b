//! Faults in received bytes, and their reason codes.
//!
//! Decoding only gives the family of the fault. The session decides whether it causes a CONNACK, a DISCONNECT
//! or a close without a packet, because this depends on version and state.

use std::fmt;

use super::Reason;

/// A fault in a packet, and its description for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The family, which decides the reason code.
    pub fault: Fault,
    /// A short description, without any of the peer's bytes.
    pub cause: &'static str,
}

/// The families of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes can't be read: 0x81.
    Malformed,
    /// The bytes can be read, but break the protocol: 0x82.
    Protocol,
    /// The packet is larger than announced: 0x95.
    PacketTooLarge,
    /// The packet has more elements than midge accepts: 0x97.
    TooMany,
    /// Topic alias 0: 0x94.
    TopicAliasInvalid,
    /// The protocol name is unknown: 0x84, or no answer.
    UnsupportedProtocolName,
    /// The protocol name is known, but the level is not supported: CONNACK 1 in 3.x, 0x84 in 5.0.
    UnsupportedProtocolVersion,
    /// The client identifier is well-formed but refused: CONNACK 2 in 3.x, 0x85 in 5.0.
    ClientIdentifierNotValid,
}

impl DecodeError {
    /// The reason code that MQTT 5.0 defines for this fault. `[MQTT5-4.13.1-1]`
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
