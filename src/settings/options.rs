//! Every option of the broker, one row each: key, type, default, bounds, unit, and the text of the reference
//! manual. The struct of a section, its defaults and its rows all come from here.
//!
//! `config/midge.toml` is held to these rows by a test. To add an option, add its row and run the test once
//! with `MIDGE_WRITE_MANUAL=1`.

use super::address::Address;
use super::network::Network;
use super::pin::Pin;
use super::value::{
    Allowed, ClientCertificateRules, ClientCertificates, CrlScope, ListenerProtocol, Literal, LogFormat,
    LogLevel, LogTarget, QueuePolicy, Refused, Row, Section, Setting, SyncPolicy, TlsMinimum, TokenAlgorithm,
    UserNames, Version, Versions,
};

/// Declares the sections: for each its struct, its defaults and its rows.
macro_rules! sections {
    ($(
        $(#[$doc:meta])*
        $name:literal => $section:ident, $about:literal {
            $($key:ident: $type:ty = $default:expr, $allowed:expr, $unit:literal, $text:literal;)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        #[allow(rustdoc::broken_intra_doc_links, reason = "in the manual's texts, brackets are addresses")]
        pub struct $section {
            $(
                #[doc = concat!($text, " Unit: `", $unit, "`; allowed: `", stringify!($allowed), "`.")]
                pub $key: $type,
            )*
        }

        impl $section {
            const ROWS: &'static [Row] = &[
                $(Row {
                    key: stringify!($key),
                    allowed: $allowed,
                    unit: $unit,
                    text: $text,
                    may_be_left_out: <$type as Setting>::MAY_BE_LEFT_OUT,
                },)*
            ];
        }

        impl Default for $section {
            fn default() -> Self {
                $section { $($key: $default,)* }
            }
        }

        impl Section for $section {
            fn name(&self) -> &'static str {
                $name
            }

            fn about(&self) -> &'static str {
                $about
            }

            fn rows(&self) -> &'static [Row] {
                $section::ROWS
            }

            fn shown(&self, key: &str) -> Option<String> {
                match key {
                    $(stringify!($key) => Some(self.$key.shown()),)*
                    _ => None,
                }
            }

            fn set(&mut self, row: &Row, literal: &Literal) -> Result<(), Refused> {
                match row.key {
                    $(stringify!($key) => self.$key = <$type as Setting>::read(literal, &row.allowed)?,)*
                    _ => return Err(Refused::NotAllowed),
                }
                Ok(())
            }
        }
    )*};
}

const fn integer(min: u64, max: u64) -> Allowed {
    Allowed::Integer { min, max }
}

const fn power_of_two(min: u64, max: u64) -> Allowed {
    Allowed::PowerOfTwo { min, max }
}

/// Most shards a process may have.
pub const SHARDS_MAX: u64 = 128;

/// Most tables of listeners in one file.
pub const LISTENERS_MAX: usize = 64;

/// Most networks in `gate.banned` and `gate.exempt`: they are tried one by one at each connection.
const BANNED_MAX: usize = 1024;
const EXEMPT_MAX: usize = 256;

/// Largest packet that MQTT's fixed header can announce, header included, in bytes.
const PACKET_BYTES_MAX: u64 = 268_435_460;

const GIB: u64 = 1 << 30;

/// Longest time that an address is banned or remembered for, in seconds: a year.
const GATE_SECONDS_MAX: u64 = 31_536_000;
/// Rates above these would be none.
const MESSAGES_PER_SECOND_MAX: u64 = 1_000_000_000;
const BYTES_PER_SECOND_MAX: u64 = 1 << 40;

sections! {
    /// One address where clients come in.
    "listeners" => Listener,
    "Where clients come in; one table for each address, at most 64. Without any, midge listens on \
     127.0.0.1:1883, which only this machine can reach." {
        address: Address = Address::loopback(1883), Allowed::Address, "",
            "Address and port, or host name and port. 0.0.0.0 stands for every IPv4 address of this machine, \
             [::] for every IPv6 address. Port 0 takes a free port, which the start-up lines name. midge does \
             not start when the address is taken or is not this machine's. Or \"unix:\" and the absolute path, of \
             at most 107 bytes, of a Unix-domain socket: made with mode 0660, so that midge's user and group can \
             connect, and removed at the end; one that was left behind is replaced. One shard accepts its \
             clients, and they are served by all. They count as 127.0.0.1 where addresses are asked for, and log \
             lines call them unix.";
        interface: String = String::new(), Allowed::Text { bytes_max: 15 }, "",
            "Name of the network interface, such as \"eth0\", whose first address of the family of address is listened \
             on instead; address must be 0.0.0.0, [::] or that very one. Empty: what address says.";
        protocol: ListenerProtocol = ListenerProtocol::Mqtt, Allowed::Choice(ListenerProtocol::WORDS), "",
            "What is spoken there. \"mqtt\": MQTT as it is. \"websocket\": MQTT in the binary frames of WebSocket, \
             for browsers, with the subprotocols mqtt and mqttv3.1. Either of them over TLS, if there are \
             tls_certificates.";
        websocket_path: String = String::new(), Allowed::Text { bytes_max: 1024 }, "",
            "Path that WebSocket clients must ask for, such as \"/mqtt\"; another one is answered with 404. Empty: \
             any.";
        websocket_origins: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 1024, count_max: 256 }, "",
            "Origins from which browsers may open a WebSocket, such as \"https://example.org\"; another one is \
             answered with 403. A client that names none, as those outside of browsers, gets in. Empty: any.";
        websocket_header_bytes: usize = 16_384, integer(1024, 131_072), "bytes",
            "Largest request that opens a WebSocket, with all its headers; a larger one is answered with 431. The \
             cookies of single sign-on are in it.";
        tls_certificates: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 4096, count_max: 64 }, "",
            "PEM files of this listener's certificates, each followed by those that lead to its CA. With several, \
             the client's server name (SNI) chooses, and the first is for the others. Empty: no TLS. SIGHUP reads \
             them and the other files of TLS again; connections that live stay.";
        tls_keys: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 4096, count_max: 64 }, "",
            "PEM files of the private keys, one for each of tls_certificates and in the same order: PKCS #8, PKCS \
             #1 or SEC 1, without a password. RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519; not P-521.";
        tls_chain: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "PEM file of CA certificates. A certificate of tls_certificates that stands alone in its file is sent \
             with those from here that lead to its CA, as mosquitto does with its cafile. Empty: what stands in \
             tls_certificates is all.";
        tls_client_ca: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "PEM file of the CAs that issue the certificates of clients. Their keys and those of clients are RSA of \
             2048 to 8192 bits, ECDSA on the curves P-256, P-384 and P-521, or Ed25519; certificates are signed with \
             SHA-256, SHA-384 or SHA-512 (not SHA-1).";
        tls_ca_directory: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "Directory of PEM files with CA certificates, as OpenSSL's capath: they count as if they stood in \
             tls_client_ca and tls_chain too, by whatever name, each once. What can't be used is passed over and named \
             in the log. SIGHUP reads the directory again. Empty: none.";
        tls_client_certificate: ClientCertificates = ClientCertificates::None, Allowed::Choice(ClientCertificates::WORDS), "",
            "Whether clients are asked for a certificate of tls_client_ca. \"optional\": they may have none, but not \
             a bad one. \"required\": nobody gets in without a good one.";
        tls_client_certificate_dates: bool = true, Allowed::Boolean, "",
            "Whether a client's certificate, what leads from it to its CA, and the CA's own in tls_client_ca must be \
             valid today. With false they count for ever, for devices whose certificates nobody renews; tls_crl still counts.";
        tls_client_certificate_rules: ClientCertificateRules = ClientCertificateRules::Standard, Allowed::Choice(ClientCertificateRules::WORDS), "",
            "By which rules a client's certificate counts. \"standard\": RFC 5280: it is of X.509 version 3 and no \
             CA's, and each certificate in tls_client_ca is a CA's. \"openssl\": as OpenSSL and mosquitto have it, for \
             devices whose certificates can't be changed: it may be of version 1, or a CA's (CA:TRUE), and a \
             self-signed one counts if it stands itself in tls_client_ca; all others must lead to a self-signed CA \
             there. Signatures, dates and tls_crl are checked with both.";
        tls_crl: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "PEM file of the lists of revoked client certificates, of version 1 or 2. A certificate that is looked up \
             and whose CA has no list there, or one that has expired, does not count. Empty: nothing is revoked.";
        tls_crl_scope: CrlScope = CrlScope::Chain, Allowed::Choice(CrlScope::WORDS), "",
            "What is looked up in tls_crl. \"chain\": the client's certificate and those between it and \
             tls_client_ca, so that a list of each CA is needed. \"client\": the client's own, as mosquitto does.";
        tls_record_bytes: usize = 16_384, integer(512, 16_384), "bytes",
            "Largest content of a TLS record that is sent here; TLS adds at most 29 bytes to it. For devices with a \
             small buffer for what they receive. A client that asks for 512, 1024, 2048 or 4096 bytes \
             (max_fragment_length of RFC 6066, or record_size_limit of RFC 8449) gets no longer records in any case, \
             but no confirmation. The certificates are sent in such pieces too, but many a device puts a message of \
             the handshake together in one buffer: then the whole chain must fit, as one ECDSA certificate does in \
             1024 bytes. Packets are split among records: what a device can hold, its Maximum Packet Size says (5.0).";
        tls_minimum: TlsMinimum = TlsMinimum::V12, Allowed::Choice(TlsMinimum::WORDS), "",
            "Oldest version of TLS that is spoken.";
        tls_user_name: UserNames = UserNames::None, Allowed::Choice(UserNames::WORDS), "",
            "Name of the client's certificate that is its user name: \"common_name\" of the subject, or the whole \
             \"subject\" in the form of RFC 2253. A client without one is refused with 0x86 (3.x: 0x04); passwords are \
             not asked for. \"none\": the user name is the one in CONNECT.";
        user_name_as_client_id: bool = false, Allowed::Boolean, "",
            "Whether the user name, of CONNECT or of the certificate, takes the place of the client identifier, so \
             that nobody takes another user's session over. A client without one is refused with 0x87 (3.x: 0x05).";
        proxy_trusted: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 64, count_max: 256 }, "",
            "Addresses and ranges (\"10.0.0.0/8\") of load balancers that begin each connection with a PROXY header, \
             version 1 or 2: the client's address is what they say. Connections from elsewhere have none. Empty: \
             nobody's header is believed.";
        versions: Versions = Versions::ALL, Allowed::Choices(Version::WORDS), "",
            "Versions of MQTT that clients may speak. Another one is refused: CONNACK 0x84 (3.x: 0x01).";
        mount_point: String = String::new(), Allowed::Text { bytes_max: 1024 }, "",
            "What is put before every topic that this listener's clients publish to and every filter that they \
             subscribe to, wills too, and taken away from the topics that they receive: \"site1/\" gives them a \
             part of the tree as their own. No + and no #. Response Topics stay as they are. Empty: nothing.";
        allow_anonymous: Option<bool> = None, Allowed::Boolean, "",
            "As auth.allow_anonymous, for this listener. Left out: as there.";
        password_file: Option<String> = None, Allowed::Text { bytes_max: 4096 }, "",
            "As auth.password_file, for this listener; empty: none. Left out: as there.";
        jwt: Option<bool> = None, Allowed::Boolean, "",
            "Whether tokens are taken as passwords here. Left out: if [jwt] has keys.";
        webhook: Option<bool> = None, Allowed::Boolean, "",
            "Whether the webhook is asked here. Left out: if [webhook] has a url.";
        acl_file: Option<String> = None, Allowed::Text { bytes_max: 4096 }, "",
            "As acl.file, for this listener; empty: none. Left out: as there.";
        connections: Option<usize> = None, integer(1, 10_000_000), "connections",
            "Connections of this listener at a time. One more is closed at once and counted. Left out: as many as \
             limits.connections allows.";
        packet_bytes: Option<usize> = None, integer(20, PACKET_BYTES_MAX), "bytes",
            "As limits.packet_bytes, for this listener. Left out: as there.";
        keep_alive_seconds_max: Option<u16> = None, integer(1, 65535), "seconds",
            "As protocol.keep_alive_seconds_max, for this listener. Left out: as there.";
        receive_maximum: Option<u16> = None, integer(1, 65535), "messages",
            "As protocol.receive_maximum, for this listener. Left out: as there.";
        topic_alias_maximum: Option<u16> = None, integer(0, 65535), "aliases",
            "As protocol.topic_alias_maximum, for this listener. Left out: as there.";
        maximum_qos: Option<u8> = None, integer(0, 2), "QoS",
            "As protocol.maximum_qos, for this listener. Left out: as there.";
        retain_available: Option<bool> = None, Allowed::Boolean, "",
            "As protocol.retain_available, for this listener. Left out: as there.";
        wildcard_subscriptions: Option<bool> = None, Allowed::Boolean, "",
            "As protocol.wildcard_subscriptions, for this listener. Left out: as there.";
        shared_subscriptions: Option<bool> = None, Allowed::Boolean, "",
            "As protocol.shared_subscriptions, for this listener. Left out: as there.";
        zero_length_client_id: Option<bool> = None, Allowed::Boolean, "",
            "As protocol.zero_length_client_id, for this listener. Left out: as there.";
        assigned_client_id_prefix: Option<String> = None, Allowed::Text { bytes_max: 64 }, "",
            "As protocol.assigned_client_id_prefix, for this listener. Left out: as there.";
        session_queue_policy: Option<QueuePolicy> = None, Allowed::Choice(QueuePolicy::WORDS), "",
            "As limits.session_queue_policy, for the sessions whose client has come in here last. Left out: as \
             there.";
        client_messages_per_second: Option<u64> = None, integer(0, MESSAGES_PER_SECOND_MAX), "messages per second",
            "As limits.client_messages_per_second, for this listener. Left out: as there.";
        client_bytes_per_second: Option<u64> = None, integer(0, BYTES_PER_SECOND_MAX), "bytes per second",
            "As limits.client_bytes_per_second, for this listener. Left out: as there.";
        messages_per_second: u64 = 0, integer(0, MESSAGES_PER_SECOND_MAX), "messages per second",
            "PUBLISH packets that all clients of this listener may send together; divided among the shards. Above \
             it, those who send are read in turn, and no faster; nothing is dropped. 0: any number.";
        bytes_per_second: u64 = 0, integer(0, BYTES_PER_SECOND_MAX), "bytes per second",
            "Bytes of MQTT packets that all clients of this listener may send together after their CONNECT; divided \
             among the shards. Above it, the same happens. 0: any number.";
    }

    /// The engine: shards and the mesh between them.
    "runtime" => Runtime,
    "The engine: one thread pinned to a core for each shard." {
        shards: usize = 0, integer(0, SHARDS_MAX), "shards",
            "Threads that serve clients, each on a core of its own. 0: one for each core that this process may \
             use, or that pin names. More shards than cores work, but are slower.";
        pin: Pin = Pin::Auto, Allowed::Pin, "",
            "Cores that the shards run on, one after the other, as in taskset: \"0\", \"2,4-7\". \"auto\": those that this \
             process may use, from the first on; so a second broker on the same machine needs others. \"none\": \
             wherever the system places them. The start-up line names them.";
        mesh_capacity: usize = 4096, power_of_two(2, 1 << 20), "mails",
            "Places in the box from each shard to each other one. When a box is full, its shard stops reading \
             from the publishing clients until there is room again; nothing is dropped.";
        spin_microseconds: u64 = 0, integer(0, 10_000), "microseconds",
            "How long a shard that has run out of work looks for more before it sleeps. Waking up is most of \
             the latency of a lone message; spinning saves it, and costs the core's time while messages are \
             rarer than this. 0: sleep at once.";
    }

    /// Who may come in.
    "auth" => Auth,
    "Who may come in." {
        allow_anonymous: Option<bool> = None, Allowed::Boolean, "",
            "Whether clients without proof of who they are may connect. With false, CONNECT is refused with 0x87 \
             (3.x: 0x05). Where there is no password file, a user name proves nothing. Left out: true on \
             listeners that only this machine can reach (127.0.0.0/8, ::1, localhost, Unix-domain sockets) and that \
             have no means of proof (password_file, [jwt], [webhook], tls_user_name) and no proxy_trusted; false on \
             all others. An access list is no means of proof. SIGHUP reads it again, for clients that come then; the \
             start-up lines say for each listener what holds.";
        password_file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "File with a line `user:hash` for each user, as midge passwd writes it (argon2id); the hashes of \
             mosquitto_passwd work as they are. A client that gives a user name gets in only with its password. \
             Users whom midge passwd --scram has written can prove their password without sending it, by \
             enhanced authentication (MQTT 5.0) with the method SCRAM-SHA-256, also again while they are in. \
             SIGHUP reads it again, and lets those go whose line is gone or another. Empty: none.";
        skip_bad_password_lines: bool = false, Allowed::Boolean, "",
            "Whether a line of a password file that can't be used is named in the log and passed over, as mosquitto \
             does. false: such a file stops the start, and changes nothing at SIGHUP.";
        client_id_prefix: String = String::new(), Allowed::Text { bytes_max: 65535 }, "",
            "How the identifiers must begin of the clients that may connect, those that midge chooses among them; \
             another one is refused with 0x87 (3.x: 0x05). Empty: as they like.";
        test_method: bool = false, Allowed::Boolean, "",
            "Whether the built-in method \"midge-test\" of enhanced authentication (AUTH packets, MQTT 5.0) is \
             offered, for those who develop clients. It protects nothing: never on in production. Listeners with \
             a password file or tls_user_name do not offer it.";
    }

    /// Tokens as passwords.
    "jwt" => Jwt,
    "JSON Web Tokens as passwords. A password that looks like a token (base64 of a JSON object, and three parts) is \
     taken for one: it lets its client in, or keeps it out. The client is then the user that the token names. When a \
     token expires its client is disconnected with 0xA0 (3.x: closed). SIGHUP reads the keys again." {
        keys: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 4096, count_max: 64 }, "",
            "Files with public keys: a key in PEM (RSA from 2048 bits: RS and PS; P-256: ES256; P-384: ES384; \
             Ed25519: EdDSA), or a JSON Web Key Set, whose name ends in .json. No keys and no secrets: tokens count for nothing.";
        secrets: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 4096, count_max: 64 }, "",
            "Files with secrets that are shared with those who sign, as raw bytes and at least as long as the hash.";
        secret_algorithm: TokenAlgorithm = TokenAlgorithm::Hs256, Allowed::Choice(TokenAlgorithm::WORDS), "",
            "What tokens are signed with that are signed with a secret.";
        issuer: String = String::new(), Allowed::Text { bytes_max: 1024 }, "",
            "What the claim iss must be. Empty: anything.";
        audience: String = String::new(), Allowed::Text { bytes_max: 1024 }, "",
            "What must be among the claim aud. Empty: anything.";
        user_claim: String = "sub".to_string(), Allowed::Text { bytes_max: 256 }, "",
            "Claim with the user name.";
        user_name_must_match: bool = false, Allowed::Boolean, "",
            "Whether the user name in CONNECT must be the token's.";
        publish_claim: String = String::new(), Allowed::Text { bytes_max: 256 }, "",
            "Claim with an array of topic filters: its client may publish to what they match and to nothing else. \
             An access list narrows that. Empty, or a token without the claim: no limit.";
        subscribe_claim: String = String::new(), Allowed::Text { bytes_max: 256 }, "",
            "The same for what it may subscribe to and receive.";
        leeway_seconds: u32 = 30, integer(0, 3600), "seconds",
            "How far the clocks of midge and of those who sign may be apart.";
        expiry_required: bool = true, Allowed::Boolean, "",
            "Whether a token without the claim exp is refused.";
    }

    /// A server that decides.
    "webhook" => Webhook,
    "A server of yours that decides over HTTP who comes in. It is asked with a POST of JSON (client_id, username, \
     password or password_base64, peer, protocol_version, listener, mount, username_certified), and answers 200 \
     with {\"result\": \"allow\" | \"deny\" | \"ignore\"}, and if it likes \"user\", \"expires_at\" (seconds since 1970) \
     and \"acl\": {\"publish\": [...], \"subscribe\": [...]}; or 204 to allow, 401 or 403 to deny. Asked are clients that \
     neither a token nor the password file lets in, all clients with names of certificates, and those without a name \
     where anonymous ones are not allowed. While the server does not answer they are refused with 0x88 (3.x: 0x03)." {
        url: String = String::new(), Allowed::Text { bytes_max: 2048 }, "",
            "Where it is: http:// or https://. Empty: nobody is asked.";
        header: String = String::new(), Allowed::Text { bytes_max: 256 }, "",
            "Name of a header that shows who asks, such as \"Authorization\". Empty: none.";
        header_file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "File with the value of that header.";
        ca_file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "PEM file of the CAs that its certificate is checked against. Empty: those that browsers trust.";
        connect_milliseconds: u32 = 1000, integer(1, 60_000), "milliseconds",
            "Time for a connection to it.";
        answer_milliseconds: u32 = 3000, integer(1, 60_000), "milliseconds",
            "Time for everything, from its name to the last byte of its answer. limits.connect_seconds goes on meanwhile.";
        requests: usize = 8, integer(1, 256), "requests",
            "Requests at a time, each by a thread of its own. 1024 logins more may wait, divided among the shards, and the \
             addresses that they come from take turns; beyond, the newest of the address with the most is refused with \
             0x89 (3.x: 0x03).";
        cache_seconds: u32 = 60, integer(0, 86_400), "seconds",
            "How long an answer that allows counts for the same login again. 0: not at all.";
        refusal_cache_milliseconds: u32 = 1000, integer(0, 2000), "milliseconds",
            "The same for answers that do not allow.";
        cache_logins: usize = 10_000, integer(1, 10_000_000), "logins",
            "Logins whose answers are remembered, and as many that were not allowed.";
        failures: u32 = 5, integer(1, 1000), "failures",
            "After so many requests without an answer, one after the other, it is not asked for a while.";
        rest_milliseconds: u32 = 1000, integer(1, 600_000), "milliseconds",
            "How long; then one login tries whether it is back.";
    }

    /// What clients may do.
    "acl" => Acl,
    "What clients may do." {
        file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "Access list: what each client may publish and subscribe to. A name that ends in .toml: as in \
             config/acl.toml; any other: in the format of mosquitto's acl_file, where subscriptions are granted and \
             each message is judged. SIGHUP reads it again, also for clients that are in. Empty: everybody may do \
             everything that is not reserved.";
    }

    /// What the broker announces and agrees to in CONNACK.
    "protocol" => Protocol,
    "What midge announces to its clients and agrees to." {
        keep_alive_seconds_max: u16 = 65535, integer(1, 65535), "seconds",
            "Longest keep alive. An MQTT 5.0 client that asks for more, or for none (0), is told this value as \
             Server Keep Alive when it is below 65535, and held to it. MQTT 3.x has no way to tell a client: \
             there the client's own value stands, unless keep_alive_refused_in_3x is on.";
        keep_alive_refused_in_3x: bool = false, Allowed::Boolean, "",
            "Whether a 3.x client that asks for a longer keep alive than keep_alive_seconds_max, or for none (0), \
             is refused with 0x02, as mosquitto does.";
        session_expiry_seconds_max: u32 = u32::MAX, integer(0, 4_294_967_295), "seconds",
            "Longest life of a session without a connection. A client that asks for more is told this value. \
             4294967295: no limit. A 3.x session with clean session 0 lives this long too.";
        receive_maximum: u16 = 100, integer(1, 65535), "messages",
            "Receive Maximum that is announced: QoS 1 and 2 messages that a client may have unacknowledged \
             towards midge. One that sends more is disconnected with 0x93. A 3.x client, which can't be told, may \
             have eight times as many QoS 2 messages without PUBREL, and at least 8000; with one more it is \
             disconnected.";
        topic_alias_maximum: u16 = 10, integer(0, 65535), "aliases",
            "Topic aliases that each client may use towards midge; 0: none. An alias above it: disconnected \
             with 0x94.";
        topic_alias_maximum_out: u16 = 10, integer(0, 65535), "aliases",
            "Topic aliases that midge uses towards each client, when the client allows as many; 0: none.";
        maximum_qos: u8 = 2, integer(0, 2), "QoS",
            "Highest QoS that clients may publish with. Announced as Maximum QoS when below 2; a client that \
             goes above it is disconnected with 0x9B. Subscriptions may ask for any QoS.";
        retain_available: bool = true, Allowed::Boolean, "",
            "Whether retained messages are accepted. With false, a message with the retain flag: disconnected \
             with 0x9A.";
        wildcard_subscriptions: bool = true, Allowed::Boolean, "",
            "Whether topic filters may hold + and #. With false, a SUBSCRIBE with such a filter: disconnected \
             with 0xA2 (3.x: 0x80 in SUBACK).";
        subscription_identifiers: bool = true, Allowed::Boolean, "",
            "Whether subscriptions may carry an identifier. With false, a SUBSCRIBE with one: disconnected \
             with 0xA1.";
        shared_subscriptions: bool = true, Allowed::Boolean, "",
            "Whether $share subscriptions are accepted. With false, a SUBSCRIBE with such a filter: \
             disconnected with 0x9E (3.x: 0x80 in SUBACK).";
        strict_31: bool = false, Allowed::Boolean, "",
            "Whether MQTT 3.1 clients are held to its 1 to 23 characters for a client identifier; others are \
             then refused with 0x02.";
        zero_length_client_id: bool = true, Allowed::Boolean, "",
            "Whether midge chooses a client identifier for a client that has none. With false, CONNECT is refused \
             with 0x80 (3.x: 0x02).";
        assigned_client_id_prefix: String = String::new(), Allowed::Text { bytes_max: 64 }, "",
            "How the identifiers begin that midge chooses; a random UUID follows. Empty: \"midge-\" and 16 \
             hexadecimal digits, which an MQTT 3.1 client may have.";
        upgrade_outgoing_qos: bool = false, Allowed::Boolean, "",
            "Whether messages go out with the QoS of the subscription even when they came in with a lower one. The \
             standard says otherwise: the lower of the two.";
        queue_qos0: bool = false, Allowed::Boolean, "",
            "Whether QoS 0 messages wait too for a session without a connection, in its queue and within its bounds; \
             what does not fit is dropped. They are not kept over a restart.";
        check_retain_source: bool = false, Allowed::Boolean, "",
            "Whether a retained message is sent to a new subscription only as long as the access list of its \
             publisher's listener lets the publisher write to the topic. Where there is an access list, each retained \
             message then carries its publisher's client identifier and user name, in memory and on the disk; what \
             was retained without them counts as allowed.";
        reason_strings: bool = true, Allowed::Boolean, "",
            "Whether DISCONNECT tells an MQTT 5.0 client in words why, besides the reason code.";
        response_information: String = String::new(), Allowed::Text { bytes_max: 65535 }, "",
            "Response Information for the clients that ask for it, from which they make the topics of their \
             answers. Empty: none.";
    }

    /// What the broker holds at most.
    "limits" => Limits,
    "What midge holds at most, and what happens then. Each bound has a counter and, where a client is to \
     blame, a log line with its name. Where a limit is said to be divided among the shards, each shard keeps \
     to its even part." {
        connections: usize = 0, integer(0, 10_000_000), "connections",
            "Connections at a time, those that have not finished CONNECT among them. One more is closed at once \
             and counted. 0: as many as the limit on open files allows, which the start-up lines name; midge \
             does not start when that limit is too low for the number given here.";
        handshakes: usize = 10_000, integer(1, 10_000_000), "connections",
            "Connections at a time that have not finished CONNECT. One more is closed at once and counted.";
        handshakes_per_address: usize = 2000, integer(1, 10_000_000), "connections",
            "The same of one address, divided among the shards: so a few addresses do not lock out all others. One more \
             is closed at once and counted; a log line names the address once a minute. What counts as one address, \
             [gate] says; a load balancer of proxy_trusted is none, and gate.exempt counts here too.";
        connect_rate: u32 = 0, integer(0, 1_000_000), "connections a second",
            "Connections that one address may open in the long run, over all listeners and shards. One more is \
             closed before a byte of it is read, and counted; a log line names the address once a minute. What counts \
             as one address, [gate] says. 0: any number.";
        connect_burst: u32 = 100, integer(1, 1_000_000), "connections",
            "Connections that one address may open at once after a rest. Only with connect_rate.";
        connect_seconds: u32 = 10, integer(1, 3600), "seconds",
            "Time for the whole CONNECT to arrive, and for enhanced authentication to finish. The handshakes of TLS \
             and WebSocket and a PROXY header are in it: devices with slow processors or links need 30 or more. \
             After it the connection is closed. A login that could not be checked in that time is refused with 0x89 (3.x: 0x03).";
        tcp_keepalive_seconds: u32 = 600, integer(0, 32_767), "seconds",
            "Once nothing has come from a client for so long, the kernel asks its machine whether the connection is \
             still there (SO_KEEPALIVE), five times and at most a minute apart, and ends it if no answer has come \
             within tcp_user_timeout_seconds. So a client without a keep alive, or with a long one, does not stay for ever \
             when its network has gone. Clients whose keep alive is shorter are never asked. Set 0 if devices sleep \
             for longer than tcp_user_timeout_seconds without a network and go on with the same connection. Not for \
             Unix-domain sockets. 0: nobody is asked.";
        tcp_user_timeout_seconds: u32 = 900, integer(0, 86_400), "seconds",
            "How long a client's machine may leave all that is sent to it unanswered, the questions of \
             tcp_keepalive_seconds too, or take nothing of what waits for it, before the kernel ends the connection \
             (TCP_USER_TIMEOUT). Below tcp_keepalive_seconds, a minute without an answer is enough. Not for \
             Unix-domain sockets. 0: the kernel's rules, about 15 minutes for messages that nobody acknowledges, and \
             all five questions.";
        connect_bytes: usize = 131_072, integer(128, 16_777_216), "bytes",
            "Largest CONNECT packet, will message included, of a client whose certificate has named it \
             (tls_user_name). A larger one is refused as soon as its length is known: CONNACK 0x95 (3.x: closed).";
        connect_bytes_unnamed: usize = 16_384, integer(128, 16_777_216), "bytes",
            "The same for all other clients, whose name is not known before their CONNECT has come whole: so much \
             memory anybody can take for connect_seconds. The lower of the two holds for them. Raise it for clients \
             with larger wills or tokens.";
        packet_bytes: usize = 2_000_000, integer(20, PACKET_BYTES_MAX), "bytes",
            "Largest packet from a client after CONNECT; announced as Maximum Packet Size. A larger one: \
             DISCONNECT 0x95 (3.x: closed) as soon as its length is known.";
        payload_bytes: usize = PACKET_BYTES_MAX as usize, integer(1, PACKET_BYTES_MAX), "bytes",
            "Largest payload of a message, of a will too. A larger one reaches nobody: its publisher is told with \
             0x95 (3.x: an acknowledgement like any other; QoS 0: not at all) and stays connected; a CONNECT with a \
             will that large is refused with 0x95 (3.x: 0x05).";
        inflight_messages: usize = 1000, integer(1, 65535), "messages",
            "QoS 1 and 2 messages on their way to one client without acknowledgement. A client's Receive \
             Maximum rules when it is lower. The next ones wait in the session's queue.";
        inflight_bytes: usize = 16_777_216, integer(1, 2_147_483_647), "bytes",
            "Payload bytes of QoS 1 and 2 messages on their way to one client without acknowledgement; the next ones \
             wait as above once they are reached. 2147483647: no bound.";
        session_queue_messages: usize = 10_000, integer(1, 100_000_000), "messages",
            "QoS 1 and 2 messages that wait for one session, connected or not. What happens when the queue is \
             full, session_queue_policy says.";
        session_queue_policy: QueuePolicy = QueuePolicy::DropOldest, Allowed::Choice(QueuePolicy::WORDS), "",
            "What happens when a session's queue is full, unless its listener says otherwise. No publisher waits or is \
             closed for it, and every other session gets the message. \"drop_oldest\": the oldest message of the \
             queue makes room, though its publisher has its acknowledgement. \"drop_newest\": the new message is \
             dropped for this session, and acknowledged. \"refuse\": the same, but a 5.0 publisher gets 0x97 and stays \
             connected; all sessions that had room have the message, and get it once more if it is published again. 3.x \
             has no such code: its publishers get an acknowledgement. A message of QoS 0 (protocol.queue_qos0) never \
             pushes out another. What is dropped is counted for the session, logged once with its client until the \
             queue has been empty, and told when its client is back: in the log, and to 5.0 clients as User Property \
             midge-dropped in CONNACK.";
        session_queue_bytes: usize = 16_777_216, integer(1024, 1 << 40), "bytes",
            "Bytes of the messages that wait for one session; the same happens when they are reached.";
        queue_bytes_total: usize = 1_073_741_824, integer(1 << 20, 1 << 50), "bytes",
            "Bytes of all messages that are kept for sessions, waiting or on their way, each counted once for a \
             shard however many sessions share it; divided among the shards, and never more than half of \
             memory_bytes. When they are reached, what session_queue_policy says happens to the next message (but no \
             queue is emptied for what others hold: then the new message is dropped), and a client has one message at a \
             time on its way.";
        backlog_bytes: usize = 1_048_576, integer(4096, GIB), "bytes",
            "Bytes written for one connection that its socket has not taken yet. Above it, QoS 0 messages for \
             this client are dropped and counted; a message that was begun is sent to its end, whatever its size. \
             QoS 1 and 2 messages wait in the session's queue as soon as there is a backlog. The client is read on, \
             so that its PINGREQ and its acknowledgements count. Only one that asks for more than it reads is not: if \
             an eighth of these bytes are answers to its own packets, or messages that it has sent to itself, nothing \
             more is read from it until it has read most of them; meanwhile its keep alive ends it only if its socket \
             takes nothing.";
        upload_bytes_per_second_min: u32 = 100, integer(0, 1_000_000), "bytes per second",
            "Lowest rate of a packet that is under way, on average. One that comes at this rate keeps its client \
             alive, however long it takes: packet_bytes bounds it. One that is slower ends the connection with 0x8D \
             (3.x: closed) after one and a half times the keep alive, or after 15 minutes if the client has none, and \
             is counted. 0: any byte counts. What midge itself stops to read is never too slow.";
        memory_bytes: usize = 0, integer(0, 1 << 50), "bytes",
            "Memory that clients may make midge keep, of every kind: messages that wait or are on their way, retained \
             messages, bytes that slow clients have not taken, packets and handshakes under way, sessions, \
             subscriptions, wills, topic aliases. It is counted as the allocator takes it and shown under $SYS/broker/memory. From three quarters \
             of it on, QoS 0 messages are dropped for clients with more than 64 KiB of backlog. From seven eighths on, \
             packets of more than 16 KiB are read no further, and new sessions, wills, subscriptions and larger \
             retained messages are refused with 0x97 (3.x: 0x03 in CONNACK, 0x80 in SUBACK). At the bound the connection \
             that holds the most is ended with 0x97, one after the other, and one that is not in yet is closed when \
             more than 4 KiB of its handshake or CONNECT would have to be kept. What was acknowledged is never given up for it. 0: half of the memory that the machine, \
             the cgroup or \"ulimit -v\" allows, which the start-up lines name.";
        retained_messages: usize = 1_000_000, integer(1, 1_000_000_000), "messages",
            "Retained messages, divided among the shards; midge's own below $SYS do not count. One more is not retained, and what was retained stays: its \
             publisher gets 0x97 (3.x has no such code: an acknowledgement; QoS 0: nothing). Those who are subscribed now \
             get it all the same. It is counted and logged.";
        retained_bytes: usize = 1_073_741_824, integer(1024, 1 << 50), "bytes",
            "Bytes of all retained messages with their topics and properties, divided among the shards, and never \
             more than half of memory_bytes; the same happens above it.";
        subscriptions_per_client: usize = 10_000, integer(1, 10_000_000), "subscriptions",
            "Subscriptions of one session. One more gets 0x97 in SUBACK (3.x: 0x80).";
        subscription_bytes_per_client: usize = 4_194_304, integer(1024, 1 << 40), "bytes",
            "Bytes of the topic filters of one session. One more gets 0x97 in SUBACK (3.x: 0x80).";
        client_id_bytes: usize = 65_535, integer(23, 65_535), "bytes",
            "Longest client identifier. A longer one is refused with 0x85 (3.x: 0x02).";
        subscriptions_total: usize = 20_000_000, integer(1, 1_000_000_000), "subscriptions",
            "Subscriptions of all sessions, divided among the shards. One more gets 0x97 in SUBACK (3.x: \
             0x80).";
        wildcard_patterns_per_client: usize = 512, integer(1, 65535), "patterns",
            "What one client's filters with wildcards may add to the work that each PUBLISH costs. A pattern is a \
             beginning of a filter in which all names count alike: a/+/b and c/+/d have the same three, and what another \
             client's filters have is free. A fleet needs a few dozen; filters with every combination of names and \
             + have twice as many with each level. One more gets 0x97 in SUBACK (3.x: 0x80); so does one more than 32 \
             times as many of all clients of a shard.";
        topic_levels: usize = 200, integer(1, 65535), "levels",
            "Levels of a topic name or filter, which / separates. A filter with more gets 0x8F in SUBACK (3.x: \
             0x80), a PUBLISH with more 0x90.";
        sessions: usize = 1_000_000, integer(1, 1_000_000_000), "sessions",
            "Sessions, those of connected clients among them. A client that has no session yet is then refused: \
             CONNACK 0x89 (3.x: 0x03).";
        client_messages_per_second: u64 = 0, integer(0, MESSAGES_PER_SECOND_MAX), "messages per second",
            "PUBLISH packets that one client may send. So many may come at once; after that midge reads from the \
             client no faster, whose keep alive does not end it meanwhile. Nothing is dropped; it is counted, and \
             logged once for each connection. 0: any number.";
        client_bytes_per_second: u64 = 0, integer(0, BYTES_PER_SECOND_MAX), "bytes per second",
            "Bytes of MQTT packets that one client may send after its CONNECT, in the same way. A larger packet is \
             taken, and what follows waits the longer. 0: any number.";
    }

    /// Which addresses may come in.
    "gate" => Gate,
    "Which addresses may come in, and what wrong logins and restless clients cost the one that they come from. An \
     IPv6 network of 64 bits counts as one address. Behind a load balancer of proxy_trusted it is the client's own \
     address that counts; clients of Unix-domain sockets have none. SIGHUP reads this section and \
     limits.connect_rate again; bans and counts stay." {
        banned: Vec<Network> = Vec::new(), Allowed::Networks { count_max: BANNED_MAX }, "",
            "Addresses and networks whose connections are closed before a byte of them is read, and counted; a log \
             line names each address once a minute. Clients of theirs that are in when SIGHUP reads it are \
             disconnected with 0x98.";
        exempt: Vec<Network> = Vec::new(), Allowed::Networks { count_max: EXEMPT_MAX }, "",
            "Addresses and networks that nothing of all this concerns, limits.connect_rate and banned included.";
        failures_before_delay: u32 = 3, integer(0, 1_000_000), "logins",
            "Wrong logins of an address that are refused at once; the next ones wait for their refusal, each twice \
             as long as the one before. Meanwhile no login of that address is checked; those whose last one was not \
             wrong come first when it is over. A good login makes up for one.";
        delay_milliseconds: u64 = 250, integer(0, 60_000), "milliseconds",
            "How long the first of those waits. 0: none does.";
        delay_milliseconds_max: u64 = 5000, integer(0, 60_000), "milliseconds",
            "Longest time that a refusal waits. At most 1000 wait on each shard; one more is sent at once.";
        ban_after_failures: u32 = 0, integer(0, 1_000_000), "logins",
            "Wrong logins that ban an address. 0: none do. Take care where many clients share one: a single wrong \
             device would lock all of them out.";
        forget_seconds: u64 = 600, integer(0, GATE_SECONDS_MAX), "seconds",
            "After so long without a wrong login from an address, the earlier ones are forgotten. 0: never.";
        flap_connections: u32 = 0, integer(0, 1_000_000), "connections",
            "Connections of an address that end within flap_seconds of their start, counted over as long a time, \
             that ban it. Clients that connect only to publish something count too. 0: none do.";
        flap_seconds: u64 = 60, integer(1, 86_400), "seconds",
            "See flap_connections.";
        ban_seconds: u64 = 300, integer(1, GATE_SECONDS_MAX), "seconds",
            "How long wrong logins and flapping ban an address: its connections are closed as with banned. Clients \
             that are in stay.";
        addresses: usize = 100_000, integer(1, 100_000_000), "addresses",
            "Addresses that are remembered at a time, about 80 bytes each. Beyond, the one makes room that was not \
             seen for longest: of those that did nothing wrong if there are any, then of those with wrong logins, \
             then of the banned.";
    }

    /// What survives the end of the process.
    "persistence" => Persistence,
    "What is kept over a restart, and how sure that is: sessions that outlive their connection, with their \
     subscriptions and messages, retained messages, and wills. Expiries and delays run on while midge is \
     down, by the time that passes and not by a wall clock that is set: README, \"What survives\"." {
        directory: String = "auto".to_string(), Allowed::Text { bytes_max: 4096 }, "",
            "Where it is kept; made if it is not there. \"auto\": the directory that systemd gives, else \
             /var/lib/midge for root, else midge in $XDG_STATE_HOME (~/.local/state). Empty: nothing is kept. \
             Only one midge can use a directory at a time.";
        sync: SyncPolicy = SyncPolicy::Always, Allowed::Choice(SyncPolicy::WORDS), "",
            "\"always\": what is acknowledged is on the disk; nothing is lost, whatever fails. \"interval\": \
             the disk is told to keep it once a second; a power cut may lose the last second, a kill the last \
             moment. \"off\": the disk is never told; a power cut may lose everything since the last \
             checkpoint, a kill the last moment.";
        segment_bytes: usize = 16_777_216, integer(1 << 20, 1 << 30), "bytes",
            "Size of a file of the log. Full ones are worked into the checkpoint and removed. A larger packet \
             makes a larger file.";
        log_bytes: usize = 536_870_912, integer(4 << 20, 1 << 40), "bytes",
            "Log of all shards that is not yet in the checkpoint. Above it acknowledgements, and so the \
             publishers, wait for the checkpoint.";
    }

    /// The broker's own topics.
    "sys" => Sys,
    "The $SYS topics: the broker about itself." {
        interval_seconds: u32 = 10, integer(0, 86_400), "seconds",
            "Time between two updates of the $SYS topics. 0: no $SYS topics. docs/sys-topics.md says what each \
             one means.";
    }

    /// How the broker ends.
    "shutdown" => Shutdown,
    "What happens on SIGTERM and SIGINT. A second signal ends midge at once." {
        grace_seconds: u32 = 5, integer(0, 600), "seconds",
            "Longest time to send clients their DISCONNECT 0x8B and what is already written for them. 0: not \
             at all.";
    }

    /// What is logged, how and where.
    "log" => Log,
    "What is logged. Never payloads or passwords." {
        level: LogLevel = LogLevel::Info, Allowed::Choice(LogLevel::WORDS), "",
            "Lowest level that is logged. \"info\" has one line for each connect, disconnect and refusal; \
             \"debug\" also for each subscription made or ended, and for each PUBLISH with what it has matched. \
             SIGHUP reads it again.";
        format: LogFormat = LogFormat::Human, Allowed::Choice(LogFormat::WORDS), "",
            "\"human\": a line of text; \"json\": one JSON object a line. Times are UTC, RFC 3339.";
        target: LogTarget = LogTarget::Stderr, Allowed::Choice(LogTarget::WORDS), "",
            "Where the lines go.";
        queue_lines: usize = 8192, integer(64, 1 << 20), "lines",
            "Lines that wait to be written while the target is slow. Above it lines are dropped and counted: \
             a blocked terminal never stops a shard.";
        storm_summary: bool = false, Allowed::Boolean, "",
            "Each shard writes at most 50 lines a second for clients that connect, 50 for those that disconnect, \
             20 for refused ones, 20 for other events of clients, and 1000 of level \"debug\"; once a second one \
             more line says how many of a kind were left out, by cause. true: while more come than that, only \
             the line with the counts is written.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A section's own default, and a copy to change.
    fn each_row(mut check: impl FnMut(&mut dyn Section, &Row)) {
        let mut config = super::super::Config::default();
        let mut listener = Listener::default();
        let mut sections: Vec<&mut dyn Section> = vec![&mut listener];
        sections.extend(config.sections_mut());
        for section in sections {
            for row in section.rows() {
                check(section, row);
            }
        }
    }

    #[test]
    fn every_bound_of_an_integer_can_be_set_and_nothing_beyond_it() {
        each_row(|section, row| {
            let (Allowed::Integer { min, max } | Allowed::PowerOfTwo { min, max }) = row.allowed else {
                return;
            };
            for bound in [min, max] {
                let literal = Literal::Integer(i64::try_from(bound).expect("bounds fit TOML's integers"));
                assert_eq!(section.set(row, &literal), Ok(()), "{}", row.key);
                assert_eq!(section.shown(row.key), Some(bound.to_string()));
            }
            for beyond in [i128::from(min) - 1, i128::from(max) + 1] {
                if let Ok(beyond) = i64::try_from(beyond) {
                    let refused = section.set(row, &Literal::Integer(beyond));
                    assert_eq!(refused, Err(Refused::NotAllowed), "{} = {beyond}", row.key);
                }
            }
            assert_eq!(section.shown(row.key), Some(max.to_string()), "a refused value changes nothing");
        });
    }

    #[test]
    fn every_word_of_a_choice_can_be_set_and_nothing_else() {
        each_row(|section, row| {
            let Allowed::Choice(words) = row.allowed else { return };
            for word in words {
                assert_eq!(section.set(row, &Literal::Text((*word).into())), Ok(()));
                assert_eq!(section.shown(row.key), Some(format!("\"{word}\"")));
            }
            assert!(section.set(row, &Literal::Text("loud".into())).is_err());
        });
    }

    #[test]
    fn every_number_has_a_unit_and_every_row_a_text_that_is_a_sentence() {
        each_row(|section, row| {
            let is_number = matches!(row.allowed, Allowed::Integer { .. } | Allowed::PowerOfTwo { .. });
            assert_eq!(is_number, !row.unit.is_empty(), "{}.{}", section.name(), row.key);
            assert!(row.text.ends_with('.'), "{}.{}", section.name(), row.key);
        });
    }

    #[test]
    fn no_value_of_a_wrong_type_is_taken() {
        let values = [
            Literal::Integer(2),
            Literal::Boolean(true),
            Literal::Text("\u{1}".into()),
            Literal::Other("an array".into()),
        ];
        each_row(|section, row| {
            for value in &values {
                if !row.allowed.fits_type(value) {
                    assert!(section.set(row, value).is_err(), "{}.{} = {value:?}", section.name(), row.key);
                }
            }
        });
    }
}
