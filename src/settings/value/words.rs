//! The types of options whose values are words, such as `"always"`.

use super::literal::{written, written_list};
use super::{Allowed, Literal, Refused, Setting};

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

/// Implements [`Setting`] for enumerations that only need a lookup of the word.
macro_rules! word_settings {
    ($($name:ident),*) => {$(
        impl Setting for $name {
            fn read(literal: &Literal, _: &Allowed) -> Result<Self, Refused> {
                literal.parsed($name::from_word)
            }

            fn shown(&self) -> String {
                written(self.word())
            }
        }
    )*};
}

words! {
    /// How a load balancer names its client.
    ProxyHeaderKind {
        /// A PROXY header before everything else.
        Proxy = "proxy",
        /// The header `X-Forwarded-For` of the request that opens a WebSocket.
        ForwardedFor = "x-forwarded-for",
    }
}

words! {
    /// The log level, from least to most.
    LogLevel {
        /// Errors that stop the broker from working.
        Error = "error",
        /// Problems that an operator should look at.
        Warn = "warn",
        /// One line for each connect, disconnect and refusal.
        Info = "info",
        /// Everything that is needed to follow one client.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

words! {
    /// The format of a log line.
    LogFormat {
        /// A line of text.
        Human = "human",
        /// One JSON object per line.
        Json = "json",
    }
}

words! {
    /// Where midge writes the log.
    LogTarget {
        /// Standard error.
        Stderr = "stderr",
        /// Standard output.
        Stdout = "stdout",
    }
}

words! {
    /// How safely acknowledged messages are kept.
    SyncPolicy {
        /// Everything that is acknowledged is on the disk.
        Always = "always",
        /// The log is flushed to the disk once a second.
        Interval = "interval",
        /// The log is never flushed.
        Off = "off",
    }
}

words! {
    /// The policy for a message to a session whose queue is full.
    QueuePolicy {
        /// The message is dropped, and its publisher gets an error.
        Refuse = "refuse",
        /// The oldest message of the queue is dropped.
        DropOldest = "drop_oldest",
        /// The message is dropped.
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

/// The versions of MQTT that a listener accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions(u8);

impl Versions {
    /// All versions.
    pub const ALL: Versions = Versions(0b111);

    /// Only these versions.
    pub fn of(versions: &[Version]) -> Versions {
        Versions(versions.iter().fold(0, |set, &version| set | 1 << version as u8))
    }

    /// Whether a version is accepted.
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
        written_list(versions.into_iter().filter(|&version| self.has(version)).map(Version::word))
    }
}

words! {
    /// The protocol of a listener.
    ListenerProtocol {
        /// MQTT without another protocol below it.
        Mqtt = "mqtt",
        /// MQTT in WebSocket frames.
        WebSocket = "websocket",
    }
}

words! {
    /// Whether clients are asked for a certificate.
    ClientCertificates {
        /// Clients are not asked.
        None = "none",
        /// Clients are asked, and may connect without one.
        Optional = "optional",
        /// Clients must have a valid one.
        Required = "required",
    }
}

words! {
    /// The part of a client's certificate that is its user name.
    UserNames {
        /// None. The user name is the one in CONNECT.
        None = "none",
        /// The common name of the subject.
        CommonName = "common_name",
        /// The whole subject.
        Subject = "subject",
    }
}

words! {
    /// The rules for client certificates.
    ClientCertificateRules {
        /// The rules of RFC 5280.
        Standard = "standard",
        /// The rules of OpenSSL, which mosquitto uses.
        OpenSsl = "openssl",
    }
}

words! {
    /// Which certificates are looked up in revocation lists.
    CrlScope {
        /// The client's certificate, and those between it and its CA.
        Chain = "chain",
        /// The client's certificate only.
        Client = "client",
    }
}

words! {
    /// The oldest version of TLS that midge accepts.
    TlsMinimum {
        /// TLS 1.2.
        V12 = "1.2",
        /// TLS 1.3.
        V13 = "1.3",
    }
}

words! {
    /// The algorithm of tokens that are signed with a shared secret.
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
    ProxyHeaderKind,
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
        written(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
