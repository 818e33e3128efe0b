//! The reason codes of MQTT 5.0 (section 2.4) and the corresponding return codes of 3.x.
//!
//! Each code is one row of the table below: its name, its byte, and the standard's words. The file of each
//! packet knows which codes the packet may have.

macro_rules! reasons {
    ($($name:ident = $code:literal, $words:literal;)*) => {
        /// A reason code. Below 0x80: success.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = concat!("`", stringify!($code), "` ", $words, ".")] $name = $code,)*
        }

        impl Reason {
            /// The reason code of a byte. `None` if section 2.4 does not list it.
            pub fn from_code(code: u8) -> Option<Reason> {
                match code {
                    $($code => Some(Reason::$name),)*
                    _ => None,
                }
            }

            /// The standard's name in lower-case words, for logs.
            pub fn words(self) -> &'static str {
                match self {
                    $(Reason::$name => $words,)*
                }
            }
        }
    };
}

reasons! {
    Success = 0x00, "success";
    GrantedQoS1 = 0x01, "granted qos 1";
    GrantedQoS2 = 0x02, "granted qos 2";
    DisconnectWithWill = 0x04, "disconnect with will message";
    NoMatchingSubscribers = 0x10, "no matching subscribers";
    NoSubscriptionExisted = 0x11, "no subscription existed";
    ContinueAuthentication = 0x18, "continue authentication";
    ReAuthenticate = 0x19, "re-authenticate";
    UnspecifiedError = 0x80, "unspecified error";
    MalformedPacket = 0x81, "malformed packet";
    ProtocolError = 0x82, "protocol error";
    ImplementationSpecificError = 0x83, "implementation specific error";
    UnsupportedProtocolVersion = 0x84, "unsupported protocol version";
    ClientIdentifierNotValid = 0x85, "client identifier not valid";
    BadUserNameOrPassword = 0x86, "bad user name or password";
    NotAuthorized = 0x87, "not authorized";
    ServerUnavailable = 0x88, "server unavailable";
    ServerBusy = 0x89, "server busy";
    Banned = 0x8A, "banned";
    ServerShuttingDown = 0x8B, "server shutting down";
    BadAuthenticationMethod = 0x8C, "bad authentication method";
    KeepAliveTimeout = 0x8D, "keep alive timeout";
    SessionTakenOver = 0x8E, "session taken over";
    TopicFilterInvalid = 0x8F, "topic filter invalid";
    TopicNameInvalid = 0x90, "topic name invalid";
    PacketIdentifierInUse = 0x91, "packet identifier in use";
    PacketIdentifierNotFound = 0x92, "packet identifier not found";
    ReceiveMaximumExceeded = 0x93, "receive maximum exceeded";
    TopicAliasInvalid = 0x94, "topic alias invalid";
    PacketTooLarge = 0x95, "packet too large";
    MessageRateTooHigh = 0x96, "message rate too high";
    QuotaExceeded = 0x97, "quota exceeded";
    AdministrativeAction = 0x98, "administrative action";
    PayloadFormatInvalid = 0x99, "payload format invalid";
    RetainNotSupported = 0x9A, "retain not supported";
    QoSNotSupported = 0x9B, "qos not supported";
    UseAnotherServer = 0x9C, "use another server";
    ServerMoved = 0x9D, "server moved";
    SharedSubscriptionsNotSupported = 0x9E, "shared subscriptions not supported";
    ConnectionRateExceeded = 0x9F, "connection rate exceeded";
    MaximumConnectTime = 0xA0, "maximum connect time";
    SubscriptionIdentifiersNotSupported = 0xA1, "subscription identifiers not supported";
    WildcardSubscriptionsNotSupported = 0xA2, "wildcard subscriptions not supported";
}

impl Reason {
    /// The byte on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Whether the code is 0x80 or above.
    pub fn is_error(self) -> bool {
        self.code() >= 0x80
    }

    /// The CONNACK return code of 3.x: 0 for success, otherwise 1 to 5. `None` if none of them fits: the
    /// connection must be closed without CONNACK. `[MQTT311-3.2.2-6]`
    pub fn connack_v3(self) -> Option<u8> {
        match self {
            Reason::Success => Some(0),
            Reason::UnsupportedProtocolVersion => Some(1),
            Reason::ClientIdentifierNotValid => Some(2),
            Reason::ServerUnavailable
            | Reason::ServerBusy
            | Reason::ServerShuttingDown
            | Reason::QuotaExceeded
            | Reason::UseAnotherServer
            | Reason::ServerMoved
            | Reason::ConnectionRateExceeded => Some(3),
            Reason::BadUserNameOrPassword => Some(4),
            Reason::NotAuthorized | Reason::Banned => Some(5),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_byte_comes_back_as_itself_and_no_other_is_known() {
        let listed = |code: u8| {
            matches!(code, 0x00..=0x02 | 0x04 | 0x10 | 0x11 | 0x18 | 0x19) || (0x80..=0xA2).contains(&code)
        };
        for code in 0..=u8::MAX {
            assert_eq!(Reason::from_code(code).map(Reason::code), listed(code).then_some(code));
        }
    }

    // [MQTT311-3.2.2-6]
    #[test]
    fn malformed_connects_have_no_return_code_in_3x() {
        assert_eq!(Reason::MalformedPacket.connack_v3(), None);
        assert_eq!(Reason::ProtocolError.connack_v3(), None);
        assert_eq!(Reason::BadUserNameOrPassword.connack_v3(), Some(4));
        assert!((0..=u8::MAX).filter_map(Reason::from_code).filter_map(Reason::connack_v3).all(|c| c <= 5));
    }
}
