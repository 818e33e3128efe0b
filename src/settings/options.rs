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

/// Most networks in `gate.banned` and `gate.exempt`. Each connection is compared with them one by one.
const BANNED_MAX: usize = 1024;
const EXEMPT_MAX: usize = 256;

/// Largest packet that MQTT's fixed header can announce, header included, in bytes.
const PACKET_BYTES_MAX: u64 = 268_435_460;

const GIB: u64 = 1 << 30;

/// Longest time for which an address is banned or remembered, in seconds: a year.
const GATE_SECONDS_MAX: u64 = 31_536_000;
/// Higher rates would limit nothing.
const MESSAGES_PER_SECOND_MAX: u64 = 1_000_000_000;
const BYTES_PER_SECOND_MAX: u64 = 1 << 40;

sections! {
    /// One address on which midge listens.
    "listeners" => Listener,
    "The addresses on which midge listens: one table for each address, at most 64. Without any table, midge listens \
     on 127.0.0.1:1883, which only this machine can reach." {
        address: Address = Address::loopback(1883), Allowed::Address, "",
            "Address and port, or host name and port. 0.0.0.0 means every IPv4 address of this machine, [::] every \
             IPv6 address. Port 0 takes a free port; the start-up lines name it. midge does not start if the address \
             is in use or does not belong to this machine. Or \"unix:\" and the absolute path of a Unix-domain socket, \
             at most 107 bytes. midge creates this socket with mode 0660, so that its user and group can connect. It \
             replaces a socket that was left behind, and removes its own when it ends. One shard accepts these \
             clients; all shards serve them. Where an address is needed they count as 127.0.0.1; log lines call them \
             unix.";
        interface: String = String::new(), Allowed::Text { bytes_max: 15 }, "",
            "Name of a network interface, such as \"eth0\". midge listens on the first address of this interface that \
             has the family of address. address must then be 0.0.0.0, [::] or exactly that address. Empty: midge \
             listens on address.";
        protocol: ListenerProtocol = ListenerProtocol::Mqtt, Allowed::Choice(ListenerProtocol::WORDS), "",
            "The protocol of this listener. \"mqtt\": MQTT. \"websocket\": MQTT in binary frames of WebSocket, for \
             browsers, with the subprotocols mqtt and mqttv3.1. Both run over TLS if tls_certificates is set.";
        websocket_path: String = String::new(), Allowed::Text { bytes_max: 1024 }, "",
            "Path that WebSocket clients must request, such as \"/mqtt\". Requests for another path get status 404. \
             Empty: any path.";
        websocket_origins: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 1024, count_max: 256 }, "",
            "Origins from which browsers may open a WebSocket, such as \"https://example.org\". Requests from another \
             origin get status 403. Requests without an origin, as clients outside browsers send them, are accepted. \
             Empty: any origin.";
        websocket_header_bytes: usize = 16_384, integer(1024, 131_072), "bytes",
            "Largest request that opens a WebSocket, with all its headers. A larger request gets status 431. The \
             headers include cookies, such as those of single sign-on.";
        tls_certificates: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 4096, count_max: 64 }, "",
            "PEM files with this listener's certificates. In each file the certificate is followed by those that lead \
             to its CA. If there are several files, midge chooses by the client's server name (SNI), and uses the \
             first file for all other clients. Empty: no TLS. SIGHUP reads these files and the other TLS files again; \
             open connections stay.";
        tls_keys: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 4096, count_max: 64 }, "",
            "PEM files with the private keys, one for each file of tls_certificates and in the same order. Formats: \
             PKCS #8, PKCS #1 or SEC 1, without a password. Keys: RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, \
             or Ed25519; not P-521.";
        tls_chain: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "PEM file with CA certificates. If a certificate stands alone in its file of tls_certificates, midge also \
             sends those of this file that lead to its CA, as mosquitto does with its cafile. Empty: midge sends what \
             is in tls_certificates, nothing else.";
        tls_client_ca: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "PEM file with the CAs that issue client certificates. The keys of CAs and clients may be RSA of 2048 to \
             8192 bits, ECDSA on P-256, P-384 or P-521, or Ed25519. Certificates must be signed with SHA-256, SHA-384 \
             or SHA-512, not with SHA-1.";
        tls_ca_directory: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "Directory of PEM files with CA certificates, like capath of OpenSSL. File names do not matter. Each \
             certificate counts once, as if it stood in both tls_client_ca and tls_chain. midge skips what it can't \
             use and names it in the log. SIGHUP reads the directory again. Empty: none.";
        tls_client_certificate: ClientCertificates = ClientCertificates::None, Allowed::Choice(ClientCertificates::WORDS), "",
            "Whether midge asks clients for a certificate from a CA of tls_client_ca. \"none\": it does not. \
             \"optional\": a client may connect without a certificate, but not with a bad one. \"required\": a client \
             must have a good certificate.";
        tls_client_certificate_dates: bool = true, Allowed::Boolean, "",
            "Whether midge checks the validity dates of a client's certificate, of the certificates that lead from it \
             to its CA, and of the CA's own in tls_client_ca. With false the dates do not matter, for devices whose \
             certificates nobody renews; tls_crl is still checked.";
        tls_client_certificate_rules: ClientCertificateRules = ClientCertificateRules::Standard, Allowed::Choice(ClientCertificateRules::WORDS), "",
            "Rules for client certificates. \"standard\": RFC 5280. A client's certificate must have X.509 version 3 \
             and must not be a CA's; each certificate in tls_client_ca must be a CA's. \"openssl\": the rules of \
             OpenSSL and mosquitto, for devices whose certificates can't be changed. A client's certificate may have \
             version 1, or be a CA's (CA:TRUE). A self-signed one is accepted if it is itself in tls_client_ca. All \
             others must lead to a self-signed CA there. Signatures, dates and tls_crl are checked with both.";
        tls_crl: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "PEM file with the lists of revoked client certificates, version 1 or 2. A certificate that is looked up \
             is refused if its CA has no list in this file, or only one that has expired. Empty: no certificate is \
             revoked.";
        tls_crl_scope: CrlScope = CrlScope::Chain, Allowed::Choice(CrlScope::WORDS), "",
            "Which certificates are looked up in tls_crl. \"chain\": the client's certificate and those between it \
             and tls_client_ca; this needs a list of each CA. \"client\": only the client's own, as mosquitto does.";
        tls_record_bytes: usize = 16_384, integer(512, 16_384), "bytes",
            "Largest content of a TLS record that midge sends here; TLS adds at most 29 bytes to it. Lower it for \
             devices with a small receive buffer. A client that asks for 512, 1024, 2048 or 4096 bytes \
             (max_fragment_length of RFC 6066, or record_size_limit of RFC 8449) gets no longer records in any case, \
             but no confirmation. Certificates are sent in records of this size too. But many devices put a whole \
             handshake message together in one buffer. The whole chain must then fit this buffer; one ECDSA \
             certificate fits 1024 bytes. MQTT packets are split among records; a 5.0 client limits their size with \
             Maximum Packet Size.";
        tls_minimum: TlsMinimum = TlsMinimum::V12, Allowed::Choice(TlsMinimum::WORDS), "",
            "Oldest version of TLS that midge accepts.";
        tls_user_name: UserNames = UserNames::None, Allowed::Choice(UserNames::WORDS), "",
            "The part of a client's certificate that is its user name: \"common_name\" of the subject, or the whole \
             \"subject\" in the form of RFC 2253. A client without this name is refused with 0x86 (3.x: 0x04); \
             passwords are not checked. \"none\": the user name is the one in CONNECT.";
        user_name_as_client_id: bool = false, Allowed::Boolean, "",
            "Whether the user name, from CONNECT or the certificate, replaces the client identifier. Then no user can \
             take over another user's session. A client without a user name is refused with 0x87 (3.x: 0x05).";
        proxy_trusted: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 64, count_max: 256 }, "",
            "Addresses and networks (\"10.0.0.0/8\") of load balancers that begin each connection with a PROXY \
             header, version 1 or 2. midge takes the client's address from this header. Connections from other \
             addresses have no such header. Empty: midge accepts no PROXY header.";
        versions: Versions = Versions::ALL, Allowed::Choices(Version::WORDS), "",
            "Versions of MQTT that clients may speak. A client with another version is refused: CONNACK 0x84 (3.x: \
             0x01).";
        mount_point: String = String::new(), Allowed::Text { bytes_max: 1024 }, "",
            "Prefix that midge puts before each topic to which this listener's clients publish, wills included, and \
             before each filter to which they subscribe. midge removes it from the topics that they receive. \
             \"site1/\" gives them a part of the topic tree of their own. It must not contain + or #. Response Topics \
             are not changed. Empty: no prefix.";
        allow_anonymous: Option<bool> = None, Allowed::Boolean, "",
            "Replaces auth.allow_anonymous for this listener. Left out: auth.allow_anonymous applies.";
        password_file: Option<String> = None, Allowed::Text { bytes_max: 4096 }, "",
            "Replaces auth.password_file for this listener; empty: no password file. Left out: auth.password_file \
             applies.";
        jwt: Option<bool> = None, Allowed::Boolean, "",
            "Whether this listener accepts tokens as passwords. Left out: it does if [jwt] has keys or secrets.";
        webhook: Option<bool> = None, Allowed::Boolean, "",
            "Whether this listener asks the webhook. Left out: it does if [webhook] has a url.";
        acl_file: Option<String> = None, Allowed::Text { bytes_max: 4096 }, "",
            "Replaces acl.file for this listener; empty: no access list. Left out: acl.file applies.";
        connections: Option<usize> = None, integer(1, 10_000_000), "connections",
            "Connections of this listener at a time. Further connections are closed at once and counted. Left out: \
             only limits.connections applies.";
        packet_bytes: Option<usize> = None, integer(20, PACKET_BYTES_MAX), "bytes",
            "Replaces limits.packet_bytes for this listener. Left out: limits.packet_bytes applies.";
        keep_alive_seconds_max: Option<u16> = None, integer(1, 65535), "seconds",
            "Replaces protocol.keep_alive_seconds_max for this listener. Left out: protocol.keep_alive_seconds_max \
             applies.";
        receive_maximum: Option<u16> = None, integer(1, 65535), "messages",
            "Replaces protocol.receive_maximum for this listener. Left out: protocol.receive_maximum applies.";
        topic_alias_maximum: Option<u16> = None, integer(0, 65535), "aliases",
            "Replaces protocol.topic_alias_maximum for this listener. Left out: protocol.topic_alias_maximum applies.";
        maximum_qos: Option<u8> = None, integer(0, 2), "QoS",
            "Replaces protocol.maximum_qos for this listener. Left out: protocol.maximum_qos applies.";
        retain_available: Option<bool> = None, Allowed::Boolean, "",
            "Replaces protocol.retain_available for this listener. Left out: protocol.retain_available applies.";
        wildcard_subscriptions: Option<bool> = None, Allowed::Boolean, "",
            "Replaces protocol.wildcard_subscriptions for this listener. Left out: protocol.wildcard_subscriptions \
             applies.";
        shared_subscriptions: Option<bool> = None, Allowed::Boolean, "",
            "Replaces protocol.shared_subscriptions for this listener. Left out: protocol.shared_subscriptions \
             applies.";
        zero_length_client_id: Option<bool> = None, Allowed::Boolean, "",
            "Replaces protocol.zero_length_client_id for this listener. Left out: protocol.zero_length_client_id \
             applies.";
        assigned_client_id_prefix: Option<String> = None, Allowed::Text { bytes_max: 64 }, "",
            "Replaces protocol.assigned_client_id_prefix for this listener. Left out: \
             protocol.assigned_client_id_prefix applies.";
        session_queue_policy: Option<QueuePolicy> = None, Allowed::Choice(QueuePolicy::WORDS), "",
            "Replaces limits.session_queue_policy for each session whose client connected through this listener last. \
             Left out: limits.session_queue_policy applies.";
        client_messages_per_second: Option<u64> = None, integer(0, MESSAGES_PER_SECOND_MAX), "messages per second",
            "Replaces limits.client_messages_per_second for this listener. Left out: \
             limits.client_messages_per_second applies.";
        client_bytes_per_second: Option<u64> = None, integer(0, BYTES_PER_SECOND_MAX), "bytes per second",
            "Replaces limits.client_bytes_per_second for this listener. Left out: limits.client_bytes_per_second \
             applies.";
        messages_per_second: u64 = 0, integer(0, MESSAGES_PER_SECOND_MAX), "messages per second",
            "PUBLISH packets that all clients of this listener may send together, divided among the shards. Above \
             this rate, midge reads from the sending clients in turn and more slowly; it drops nothing. 0: no limit.";
        bytes_per_second: u64 = 0, integer(0, BYTES_PER_SECOND_MAX), "bytes per second",
            "Bytes of MQTT packets that all clients of this listener may send together after their CONNECT, divided \
             among the shards. Above this rate, midge reads more slowly in the same way. 0: no limit.";
    }

    /// The engine: shards and the mesh between them.
    "runtime" => Runtime,
    "The engine: one thread for each shard, each pinned to a core unless pin says otherwise." {
        shards: usize = 0, integer(0, SHARDS_MAX), "shards",
            "Threads that serve clients, each on its own core. 0: one for each core that this process may use, or \
             that pin names. More shards than cores work, but are slower.";
        pin: Pin = Pin::Auto, Allowed::Pin, "",
            "Cores on which the shards run, in this order and written as for taskset: \"0\", \"2,4-7\". \"auto\": the \
             cores that this process may use, from the first on; a second broker on the same machine needs other \
             cores. \"none\": the system places the threads. A start-up line names the cores.";
        mesh_capacity: usize = 4096, power_of_two(2, 1 << 20), "messages between shards",
            "Capacity of the mailbox from each shard to each other shard. While a mailbox is full, the sending shard \
             does not read from publishing clients; it drops nothing.";
        spin_microseconds: u64 = 0, integer(0, 10_000), "microseconds",
            "How long a shard that has run out of work looks for more before it sleeps. Waking up is most of the \
             latency of a lone message. Spinning avoids it, but uses the core's time while messages are rarer than \
             this. 0: the shard sleeps at once.";
    }

    /// Which clients may connect.
    "auth" => Auth,
    "Which clients may connect." {
        allow_anonymous: Option<bool> = None, Allowed::Boolean, "",
            "Whether clients may connect without proving who they are. With false their CONNECT is refused with 0x87 \
             (3.x: 0x05). Without a password file, a user name proves nothing. Left out: true on listeners that only \
             this machine can reach (127.0.0.0/8, ::1, localhost, Unix-domain sockets) and that have neither a means \
             of proof (password_file, [jwt], [webhook], tls_user_name) nor proxy_trusted; false on all others. An \
             access list is not a means of proof. SIGHUP reads this option again, for clients that connect later. The \
             start-up lines say for each listener what applies.";
        password_file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "File with a line `user:hash` for each user, as midge passwd writes it (argon2id). Hashes of \
             mosquitto_passwd also work. A client that gives a user name must give the password of this user. A user \
             whose line was written with midge passwd --scram can also prove the password without sending it, by \
             enhanced authentication (MQTT 5.0) with the method SCRAM-SHA-256, and can do so again while connected. \
             SIGHUP reads the file again and disconnects clients whose line was removed or changed. Empty: none.";
        skip_bad_password_lines: bool = false, Allowed::Boolean, "",
            "Whether midge skips a line of a password file that it can't use and names it in the log, as mosquitto \
             does. With false such a file stops the start, and changes nothing at SIGHUP.";
        client_id_prefix: String = String::new(), Allowed::Text { bytes_max: 65535 }, "",
            "Prefix that all client identifiers must have, those that midge assigns included. Clients with another \
             identifier are refused with 0x87 (3.x: 0x05). Empty: any identifier.";
        test_method: bool = false, Allowed::Boolean, "",
            "Whether midge offers the built-in method \"midge-test\" of enhanced authentication (AUTH packets, MQTT \
             5.0), for developers of clients. It protects nothing: never turn it on in production. Listeners with a \
             password file or tls_user_name do not offer it.";
    }

    /// Tokens as passwords.
    "jwt" => Jwt,
    "JSON Web Tokens as passwords. A password that looks like a token (base64 of a JSON object, and three parts) \
     counts as one: the token alone lets its client in or keeps it out. The client's user name is then the one in the \
     token. When a token expires, its client is disconnected with 0xA0 (3.x: closed). SIGHUP reads the keys again." {
        keys: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 4096, count_max: 64 }, "",
            "Files with public keys. A file holds one key in PEM (RSA from 2048 bits: RS and PS; P-256: ES256; P-384: \
             ES384; Ed25519: EdDSA), or, if its name ends in .json, a JSON Web Key Set. Without keys and secrets, \
             midge does not recognize tokens.";
        secrets: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 4096, count_max: 64 }, "",
            "Files with secrets that midge shares with the signers of tokens, as raw bytes and at least as long as \
             the hash.";
        secret_algorithm: TokenAlgorithm = TokenAlgorithm::Hs256, Allowed::Choice(TokenAlgorithm::WORDS), "",
            "Algorithm of the tokens that are signed with a secret.";
        issuer: String = String::new(), Allowed::Text { bytes_max: 1024 }, "",
            "Value that the claim iss must have. Empty: any value.";
        audience: String = String::new(), Allowed::Text { bytes_max: 1024 }, "",
            "Value that the claim aud must contain. Empty: any value.";
        user_claim: String = "sub".to_string(), Allowed::Text { bytes_max: 256 }, "",
            "Claim that holds the user name.";
        user_name_must_match: bool = false, Allowed::Boolean, "",
            "Whether the user name in CONNECT must be the one in the token.";
        publish_claim: String = String::new(), Allowed::Text { bytes_max: 256 }, "",
            "Claim that holds an array of topic filters. The client may publish only to topics that they match. An \
             access list can restrict this further. Empty, or a token without the claim: no restriction.";
        subscribe_claim: String = String::new(), Allowed::Text { bytes_max: 256 }, "",
            "The same for what the client may subscribe to and receive.";
        leeway_seconds: u32 = 30, integer(0, 3600), "seconds",
            "How far the clocks of midge and of the signers may differ.";
        expiry_required: bool = true, Allowed::Boolean, "",
            "Whether a token without the claim exp is refused.";
    }

    /// An HTTP server that decides which clients may connect.
    "webhook" => Webhook,
    "An HTTP server of yours that decides which clients may connect. midge sends it a POST of JSON (client_id, \
     username, password or password_base64, peer, protocol_version, listener, mount, username_certified). The server \
     answers 200 with {\"result\": \"allow\" | \"deny\" | \"ignore\"} and, optionally, \"user\", \"expires_at\" \
     (seconds since 1970) and \"acl\": {\"publish\": [...], \"subscribe\": [...]}; or 204 to allow, 401 or 403 to \
     deny. midge asks for clients that neither a token nor the password file lets in, for all clients with a user name \
     from a certificate, and for clients without a user name where anonymous clients are not allowed. While the server \
     does not answer, these clients are refused with 0x88 (3.x: 0x03)." {
        url: String = String::new(), Allowed::Text { bytes_max: 2048 }, "",
            "URL of the server: http:// or https://. Empty: there is no webhook.";
        header: String = String::new(), Allowed::Text { bytes_max: 256 }, "",
            "Name of a header that tells the server who asks, such as \"Authorization\". Empty: none.";
        header_file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "File with the value of that header.";
        ca_file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "PEM file with the CAs against which midge checks the server's certificate. Empty: the CAs that browsers \
             trust.";
        connect_milliseconds: u32 = 1000, integer(1, 60_000), "milliseconds",
            "Time to connect to the server.";
        answer_milliseconds: u32 = 3000, integer(1, 60_000), "milliseconds",
            "Time for the whole request, from resolving the server's name to the last byte of the answer. \
             limits.connect_seconds runs meanwhile.";
        requests: usize = 8, integer(1, 256), "requests",
            "Requests at a time, each on its own thread. Up to 1024 more logins may wait, divided among the shards; \
             the addresses from which they come take turns. Beyond that, the newest login of the address with the most \
             waiting logins is refused with 0x89 (3.x: 0x03).";
        cache_seconds: u32 = 60, integer(0, 86_400), "seconds",
            "How long an answer that allows a login is used again for the same login. 0: never.";
        refusal_cache_milliseconds: u32 = 1000, integer(0, 2000), "milliseconds",
            "The same for answers that do not allow a login.";
        cache_logins: usize = 10_000, integer(1, 10_000_000), "logins",
            "Logins whose answers midge remembers: this many that were allowed, and as many that were not.";
        failures: u32 = 5, integer(1, 1000), "failures",
            "After this many requests in a row without an answer, midge does not ask the server for \
             rest_milliseconds.";
        rest_milliseconds: u32 = 1000, integer(1, 600_000), "milliseconds",
            "How long midge does not ask the server after such failures. Then one login tests whether the server \
             answers again.";
    }

    /// What clients may do.
    "acl" => Acl,
    "What clients may do." {
        file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "",
            "Access list: what each client may publish and subscribe to. If the name ends in .toml, the format is \
             that of config/acl.toml. Otherwise it is that of mosquitto's acl_file: subscriptions are granted, and \
             each message is checked. SIGHUP reads the file again, also for connected clients. Empty: all clients may \
             do everything that is not reserved.";
    }

    /// What the broker announces in CONNACK and accepts from clients.
    "protocol" => Protocol,
    "What midge announces to its clients and accepts from them." {
        keep_alive_seconds_max: u16 = 65535, integer(1, 65535), "seconds",
            "Longest keep alive. If an MQTT 5.0 client asks for more, or for none (0), and this value is below 65535, \
             midge sends it this value as Server Keep Alive and enforces it. MQTT 3.x can't tell a client: the \
             client's own value applies, unless keep_alive_refused_in_3x is true.";
        keep_alive_refused_in_3x: bool = false, Allowed::Boolean, "",
            "Whether a 3.x client that asks for a longer keep alive than keep_alive_seconds_max, or for none (0), is \
             refused with 0x02, as mosquitto does.";
        session_expiry_seconds_max: u32 = u32::MAX, integer(0, 4_294_967_295), "seconds",
            "Longest life of a session without a connection. A client that asks for more is told this value. \
             4294967295: no limit. A 3.x session with clean session 0 also lives this long.";
        receive_maximum: u16 = 100, integer(1, 65535), "messages",
            "The Receive Maximum that midge announces: QoS 1 and 2 messages that a client may send to midge before \
             they are acknowledged. A client that sends more is disconnected with 0x93. A 3.x client can't be told. It \
             may have eight times as many QoS 2 messages without PUBREL, and at least 8000; with more it is \
             disconnected.";
        topic_alias_maximum: u16 = 10, integer(0, 65535), "aliases",
            "Topic aliases that each client may use towards midge; 0: none. A client that uses a higher alias is \
             disconnected with 0x94.";
        topic_alias_maximum_out: u16 = 10, integer(0, 65535), "aliases",
            "Topic aliases that midge uses towards each client, if the client allows as many; 0: none.";
        maximum_qos: u8 = 2, integer(0, 2), "QoS",
            "Highest QoS with which clients may publish. midge announces it as Maximum QoS if it is below 2. A client \
             that publishes with a higher QoS is disconnected with 0x9B. Subscriptions may ask for any QoS.";
        retain_available: bool = true, Allowed::Boolean, "",
            "Whether retained messages are accepted. With false, a client that sends a message with the retain flag \
             is disconnected with 0x9A.";
        wildcard_subscriptions: bool = true, Allowed::Boolean, "",
            "Whether topic filters may contain + and #. With false, a client that subscribes to such a filter is \
             disconnected with 0xA2 (3.x: 0x80 in SUBACK).";
        subscription_identifiers: bool = true, Allowed::Boolean, "",
            "Whether subscriptions may have an identifier. With false, a client that sends one in SUBSCRIBE is \
             disconnected with 0xA1.";
        shared_subscriptions: bool = true, Allowed::Boolean, "",
            "Whether $share subscriptions are accepted. With false, a client that subscribes to such a filter is \
             disconnected with 0x9E (3.x: 0x80 in SUBACK).";
        strict_31: bool = false, Allowed::Boolean, "",
            "Whether an MQTT 3.1 client must have a client identifier of 1 to 23 characters, as that version demands. \
             Clients with another one are then refused with 0x02.";
        zero_length_client_id: bool = true, Allowed::Boolean, "",
            "Whether midge assigns a client identifier to a client that has none. With false, its CONNECT is refused \
             with 0x80 (3.x: 0x02).";
        assigned_client_id_prefix: String = String::new(), Allowed::Text { bytes_max: 64 }, "",
            "Prefix of the client identifiers that midge assigns; a random UUID follows. Empty: \"midge-\" and 16 \
             hexadecimal digits, which MQTT 3.1 also allows.";
        upgrade_outgoing_qos: bool = false, Allowed::Boolean, "",
            "Whether midge sends messages with the QoS of the subscription even if they were published with a lower \
             one. The standard demands the lower of the two.";
        queue_qos0: bool = false, Allowed::Boolean, "",
            "Whether QoS 0 messages also wait for a session without a connection, in its queue and within its limits. \
             Messages that do not fit are dropped. QoS 0 messages do not survive a restart.";
        check_retain_source: bool = false, Allowed::Boolean, "",
            "Whether midge sends a retained message to a new subscription only as long as its publisher may write to \
             the topic, according to the access list of the publisher's listener. Where there is an access list, each \
             retained message then carries the client identifier and user name of its publisher, in memory and on the \
             disk. Messages that were retained without them count as allowed.";
        reason_strings: bool = true, Allowed::Boolean, "",
            "Whether DISCONNECT tells an MQTT 5.0 client the cause in words, besides the reason code.";
        response_information: String = String::new(), Allowed::Text { bytes_max: 65535 }, "",
            "Response Information for clients that ask for it. They make the topics of their responses from it. \
             Empty: none.";
    }

    /// Limits of the broker.
    "limits" => Limits,
    "Limits, and what midge does when one is reached. Each limit has a counter and, where a client causes it, a log \
     line with the client's name. If a limit is divided among the shards, each shard enforces an equal part of it." {
        connections: usize = 0, integer(0, 10_000_000), "connections",
            "Connections at a time, including those that have not finished CONNECT. Further connections are closed at \
             once and counted. 0: as many as the limit on open files allows; the start-up lines name the number. midge \
             does not start if the limit on open files is too low for the number given here.";
        handshakes: usize = 10_000, integer(1, 10_000_000), "connections",
            "Connections at a time that have not finished CONNECT. Further connections are closed at once and \
             counted.";
        handshakes_per_address: usize = 2000, integer(1, 10_000_000), "connections",
            "Connections of one address at a time that have not finished CONNECT, divided among the shards. It keeps \
             a few addresses from locking out all others. Further connections are closed at once and counted; a log \
             line names the address once a minute. [gate] says what counts as one address. It does not apply to load \
             balancers of proxy_trusted or to addresses of gate.exempt.";
        connect_rate: u32 = 0, integer(0, 1_000_000), "connections a second",
            "Connections that one address may open in the long run, over all listeners and shards. Further \
             connections are closed before a byte of them is read, and counted; a log line names the address once a \
             minute. [gate] says what counts as one address. 0: no limit.";
        connect_burst: u32 = 100, integer(1, 1_000_000), "connections",
            "Connections that one address may open at once after a pause. It applies only with connect_rate.";
        connect_seconds: u32 = 10, integer(1, 3600), "seconds",
            "Time for the whole CONNECT to arrive and for enhanced authentication to finish. It includes the TLS and \
             WebSocket handshakes and a PROXY header. Devices with slow processors or links need 30 or more. Then the \
             connection is closed. A login that could not be checked in this time is refused with 0x89 (3.x: 0x03).";
        tcp_keepalive_seconds: u32 = 600, integer(0, 32_767), "seconds",
            "If nothing has come from a client for this long, the kernel probes whether its machine is still there \
             (SO_KEEPALIVE). It sends five probes, at most a minute apart, and ends the connection if no answer has \
             come within tcp_user_timeout_seconds. This ends the connection of a client without a keep alive, or with \
             a long one, whose network has gone. Clients whose keep alive is shorter are never probed. Set 0 if \
             devices sleep without a network for longer than tcp_user_timeout_seconds and then go on with the same \
             connection. It does not apply to Unix-domain sockets. 0: no probes.";
        tcp_user_timeout_seconds: u32 = 900, integer(0, 86_400), "seconds",
            "How long a client's machine may leave sent data unacknowledged, the probes of tcp_keepalive_seconds \
             included, or accept none of the data that waits for it, before the kernel ends the connection \
             (TCP_USER_TIMEOUT). If this is below tcp_keepalive_seconds, a minute without an answer is enough. It does \
             not apply to Unix-domain sockets. 0: the kernel's own rules, about 15 minutes for unacknowledged data, \
             and all five probes.";
        connect_bytes: usize = 131_072, integer(128, 16_777_216), "bytes",
            "Largest CONNECT packet, will message included, of a client whose certificate gives its user name \
             (tls_user_name). A larger CONNECT is refused as soon as its length is known: CONNACK 0x95 (3.x: closed).";
        connect_bytes_unnamed: usize = 16_384, integer(128, 16_777_216), "bytes",
            "The same for all other clients. Their names are not known until the whole CONNECT has arrived, so \
             anybody can occupy this much memory for connect_seconds. The lower of the two limits applies to them. \
             Raise it for clients with larger wills or tokens.";
        packet_bytes: usize = 2_000_000, integer(20, PACKET_BYTES_MAX), "bytes",
            "Largest packet from a client after CONNECT, announced as Maximum Packet Size. A client that sends a \
             larger packet is disconnected with 0x95 (3.x: closed) as soon as the length is known.";
        payload_bytes: usize = PACKET_BYTES_MAX as usize, integer(1, PACKET_BYTES_MAX), "bytes",
            "Largest payload of a message or a will. A larger message is delivered to nobody. Its publisher gets 0x95 \
             (3.x: an acknowledgement like any other; QoS 0: nothing) and stays connected. A CONNECT with a larger \
             will is refused with 0x95 (3.x: 0x05).";
        inflight_messages: usize = 1000, integer(1, 65535), "messages",
            "QoS 1 and 2 messages on their way to one client without acknowledgement. The client's Receive Maximum \
             applies if it is lower. Further messages wait in the session's queue.";
        inflight_bytes: usize = 16_777_216, integer(1, 2_147_483_647), "bytes",
            "Payload bytes of QoS 1 and 2 messages on their way to one client without acknowledgement. Once they are \
             reached, further messages wait in the session's queue. 2147483647: no limit.";
        session_queue_messages: usize = 10_000, integer(1, 100_000_000), "messages",
            "QoS 1 and 2 messages that wait for one session, connected or not. session_queue_policy says what happens \
             when the queue is full.";
        session_queue_policy: QueuePolicy = QueuePolicy::DropOldest, Allowed::Choice(QueuePolicy::WORDS), "",
            "What happens when a session's queue is full, unless its listener has its own policy. No publisher waits \
             or is closed because of it, and every other session gets the message. \"drop_oldest\": the oldest message \
             of the queue is dropped, although its publisher has an acknowledgement for it. \"drop_newest\": the new \
             message is dropped for this session and acknowledged. \"refuse\": the new message is dropped for this \
             session, and a 5.0 publisher gets 0x97 and stays connected; all sessions that had room have the message, \
             and get it again if it is published again. 3.x has no such code: its publishers get an acknowledgement. A \
             QoS 0 message (protocol.queue_qos0) never displaces another message. Dropped messages are counted for the \
             session, and logged once with its client until the queue has been empty. When the client is back, midge \
             reports them in the log, and to 5.0 clients as User Property midge-dropped in CONNACK.";
        session_queue_bytes: usize = 16_777_216, integer(1024, 1 << 40), "bytes",
            "Bytes of the messages that wait for one session. session_queue_policy says what happens when they are \
             reached.";
        queue_bytes_total: usize = 1_073_741_824, integer(1 << 20, 1 << 50), "bytes",
            "Bytes of all messages that are kept for sessions, waiting or on their way. A shard counts each message \
             once, however many sessions share it. The limit is divided among the shards, and is never more than half \
             of memory_bytes. When it is reached, session_queue_policy applies to the next message, and each client \
             has one message at a time on its way. No queue is emptied because of what other sessions hold: then the \
             new message is dropped.";
        backlog_bytes: usize = 1_048_576, integer(4096, GIB), "bytes",
            "Bytes written for one connection that its socket has not taken yet. Above this, QoS 0 messages for this \
             client are dropped and counted. A message that was begun is sent to its end, whatever its size. QoS 1 and \
             2 messages wait in the session's queue as soon as there is a backlog. midge goes on reading from the \
             client, so that its PINGREQ and its acknowledgements count. The exception is a client that asks for more \
             than it reads: if an eighth of these bytes are answers to its own packets, or messages that it has sent \
             to itself, midge reads nothing more from it until it has read most of them. Meanwhile its keep alive ends \
             the connection only if its socket takes nothing.";
        upload_bytes_per_second_min: u32 = 100, integer(0, 1_000_000), "bytes per second",
            "Lowest average rate of a packet that is arriving. A packet at this rate keeps its client alive, however \
             long it takes; packet_bytes limits its size. A slower packet ends the connection with 0x8D (3.x: closed) \
             after one and a half times the keep alive, or after 15 minutes if the client has none, and is counted. 0: \
             any byte keeps the client alive. A packet that midge itself has stopped reading is never too slow.";
        memory_bytes: usize = 0, integer(0, 1 << 50), "bytes",
            "Memory that clients may make midge keep, of every kind: messages that wait or are on their way, retained \
             messages, bytes that slow clients have not taken, unfinished packets and handshakes, sessions, \
             subscriptions, wills, topic aliases. midge counts what the allocator takes and shows it under \
             $SYS/broker/memory. From three quarters of the limit on, QoS 0 messages are dropped for clients with more \
             than 64 KiB of backlog. From seven eighths on, midge stops reading packets of more than 16 KiB, and \
             refuses new sessions, wills and subscriptions, and retained messages larger than those that they replace, \
             with 0x97 (3.x: 0x03 in CONNACK, 0x80 in SUBACK). At the limit, midge ends the connection that holds the \
             most with 0x97, then the next; a connection that has not finished CONNECT is closed if more than 4 KiB of \
             its handshake or CONNECT would have to be kept. What was acknowledged is never given up to save memory. \
             0: half of the memory that the machine, the cgroup or \"ulimit -v\" allows; the start-up lines name it.";
        retained_messages: usize = 1_000_000, integer(1, 1_000_000_000), "messages",
            "Retained messages, divided among the shards; midge's own below $SYS do not count. A further message is \
             not retained, and the retained messages stay. Its publisher gets 0x97 (3.x has no such code: an \
             acknowledgement; QoS 0: nothing). Current subscribers get the message all the same. It is counted and \
             logged.";
        retained_bytes: usize = 1_073_741_824, integer(1024, 1 << 50), "bytes",
            "Bytes of all retained messages with their topics and properties, divided among the shards, and never \
             more than half of memory_bytes. Above this, the same happens as with retained_messages.";
        subscriptions_per_client: usize = 10_000, integer(1, 10_000_000), "subscriptions",
            "Subscriptions of one session. Further subscriptions get 0x97 in SUBACK (3.x: 0x80).";
        subscription_bytes_per_client: usize = 4_194_304, integer(1024, 1 << 40), "bytes",
            "Bytes of the topic filters of one session. Further subscriptions get 0x97 in SUBACK (3.x: 0x80).";
        client_id_bytes: usize = 65_535, integer(23, 65_535), "bytes",
            "Longest client identifier. A client with a longer one is refused with 0x85 (3.x: 0x02).";
        subscriptions_total: usize = 20_000_000, integer(1, 1_000_000_000), "subscriptions",
            "Subscriptions of all sessions, divided among the shards. Further subscriptions get 0x97 in SUBACK (3.x: \
             0x80).";
        wildcard_patterns_per_client: usize = 512, integer(1, 65535), "patterns",
            "How much one client's filters with wildcards may add to the work for each PUBLISH. A pattern is a \
             beginning of a filter in which all names count alike: a/+/b and c/+/d have the same three patterns. \
             Patterns that another client's filters already have are free. A fleet needs a few dozen. Filters with \
             every combination of names and + have twice as many with each level. Further filters get 0x97 in SUBACK \
             (3.x: 0x80). All clients of a shard together may have 32 times as many.";
        topic_levels: usize = 200, integer(1, 65535), "levels",
            "Levels of a topic name or filter, separated by /. A filter with more levels gets 0x8F in SUBACK (3.x: \
             0x80), a PUBLISH with more levels 0x90.";
        sessions: usize = 1_000_000, integer(1, 1_000_000_000), "sessions",
            "Sessions, including those of connected clients. At this limit a client that has no session yet is \
             refused: CONNACK 0x89 (3.x: 0x03).";
        client_messages_per_second: u64 = 0, integer(0, MESSAGES_PER_SECOND_MAX), "messages per second",
            "PUBLISH packets that one client may send. This many may come at once. After that, midge reads from the \
             client more slowly and drops nothing; its keep alive does not end the connection meanwhile. This is \
             counted, and logged once for each connection. 0: no limit.";
        client_bytes_per_second: u64 = 0, integer(0, BYTES_PER_SECOND_MAX), "bytes per second",
            "Bytes of MQTT packets that one client may send after its CONNECT, enforced in the same way. A larger \
             packet is accepted, and what follows waits longer. 0: no limit.";
    }

    /// Connection limits by address.
    "gate" => Gate,
    "Connection limits by address: which addresses may connect, and what happens after failed logins and short \
     connections. An IPv6 network of 64 bits counts as one address. Behind a load balancer of proxy_trusted, the \
     client's own address counts. Clients of Unix-domain sockets have no address. SIGHUP reads this section and \
     limits.connect_rate again; bans and counts stay." {
        banned: Vec<Network> = Vec::new(), Allowed::Networks { count_max: BANNED_MAX }, "",
            "Addresses and networks whose connections are closed before a byte of them is read, and counted; a log \
             line names each address once a minute. When SIGHUP reads this list, connected clients with such an \
             address are disconnected with 0x98.";
        exempt: Vec<Network> = Vec::new(), Allowed::Networks { count_max: EXEMPT_MAX }, "",
            "Addresses and networks to which none of this applies, limits.connect_rate and banned included.";
        failures_before_delay: u32 = 3, integer(0, 1_000_000), "logins",
            "Failed logins of an address that are refused at once. The refusals of the next ones are delayed, each \
             twice as long as the one before. Meanwhile no login of that address is checked; afterwards, the logins of \
             clients whose last one did not fail come first. A good login cancels one failed login.";
        delay_milliseconds: u64 = 250, integer(0, 60_000), "milliseconds",
            "Delay of the first such refusal. 0: no delay.";
        delay_milliseconds_max: u64 = 5000, integer(0, 60_000), "milliseconds",
            "Longest delay of a refusal. At most 1000 refusals wait on each shard; further refusals are sent at once.";
        ban_after_failures: u32 = 0, integer(0, 1_000_000), "logins",
            "Failed logins after which an address is banned. 0: failed logins ban no address. Take care if many \
             clients share an address: a single device with a wrong password would lock all of them out.";
        forget_seconds: u64 = 600, integer(0, GATE_SECONDS_MAX), "seconds",
            "After this long without a failed login from an address, the earlier ones are forgotten. 0: never.";
        flap_connections: u32 = 0, integer(0, 1_000_000), "connections",
            "Connections of an address that end within flap_seconds of their start, counted over the same time, after \
             which the address is banned. Clients that connect only to publish something count too. 0: they ban no \
             address.";
        flap_seconds: u64 = 60, integer(1, 86_400), "seconds",
            "See flap_connections.";
        ban_seconds: u64 = 300, integer(1, GATE_SECONDS_MAX), "seconds",
            "How long an address is banned after failed logins or short connections. Its connections are closed as \
             with banned. Connected clients stay.";
        addresses: usize = 100_000, integer(1, 100_000_000), "addresses",
            "Addresses that midge remembers at a time, about 80 bytes each. Beyond that, it forgets the address that \
             it has not seen for the longest time: one that did nothing wrong if there is any, otherwise one with \
             failed logins, otherwise a banned one.";
    }

    /// What survives a restart.
    "persistence" => Persistence,
    "What survives a restart, and how safely: sessions that outlive their connection, with their subscriptions and \
     messages, retained messages, and wills. Expiry intervals and delays go on while midge is down. They follow the \
     time that passes, not a wall clock that is set: README, \"What survives\"." {
        directory: String = "auto".to_string(), Allowed::Text { bytes_max: 4096 }, "",
            "The state directory. midge makes it if it does not exist. \"auto\": the directory that systemd gives, \
             otherwise /var/lib/midge for root, and midge in $XDG_STATE_HOME (~/.local/state) for other users. Empty: \
             nothing survives a restart. Only one midge can use a directory at a time.";
        sync: SyncPolicy = SyncPolicy::Always, Allowed::Choice(SyncPolicy::WORDS), "",
            "\"always\": what is acknowledged is on the disk; nothing is lost, whatever fails. \"interval\": midge \
             flushes the log to the disk once a second; a power failure may lose the last second, a kill the last \
             moment. \"off\": midge never flushes the log; a power failure may lose everything since the last \
             checkpoint, a kill the last moment.";
        segment_bytes: usize = 16_777_216, integer(1 << 20, 1 << 30), "bytes",
            "Size of a file of the log. Full files are merged into the checkpoint and removed. A larger packet makes \
             a larger file.";
        log_bytes: usize = 536_870_912, integer(4 << 20, 1 << 40), "bytes",
            "Log of all shards that is not yet in the checkpoint. Above this, acknowledgements wait for the \
             checkpoint, and so do the publishers.";
    }

    /// The broker's own topics.
    "sys" => Sys,
    "The $SYS topics: what the broker reports about itself." {
        interval_seconds: u32 = 10, integer(0, 86_400), "seconds",
            "Time between two updates of the $SYS topics. 0: no $SYS topics. docs/sys-topics.md explains each topic.";
    }

    /// How the broker ends.
    "shutdown" => Shutdown,
    "What happens on SIGTERM, SIGINT and SIGQUIT. A second signal ends midge at once." {
        grace_seconds: u32 = 5, integer(0, 600), "seconds",
            "Longest time to send clients their DISCONNECT 0x8B and what is already written for them. 0: none.";
    }

    /// What is logged, how and where.
    "log" => Log,
    "What midge logs. It never logs payloads or passwords." {
        level: LogLevel = LogLevel::Info, Allowed::Choice(LogLevel::WORDS), "",
            "Lowest level that is logged. \"info\" has one line for each connect, disconnect and refusal. \"debug\" \
             also has one for each subscription that is made or ended, and one for each PUBLISH with what it has \
             matched. SIGHUP reads this option again.";
        format: LogFormat = LogFormat::Human, Allowed::Choice(LogFormat::WORDS), "",
            "\"human\": a line of text; \"json\": one JSON object a line. Times are UTC, RFC 3339.";
        target: LogTarget = LogTarget::Stderr, Allowed::Choice(LogTarget::WORDS), "",
            "Where midge writes the log.";
        queue_lines: usize = 8192, integer(64, 1 << 20), "lines",
            "Lines that wait to be written while the target is slow. Further lines are dropped and counted, so a \
             blocked terminal never stops a shard.";
        storm_summary: bool = false, Allowed::Boolean, "",
            "Each shard writes at most 50 lines a second for clients that connect, 50 for those that disconnect, 20 \
             for refused ones, 20 for other events of clients, and 1000 of level \"debug\". Once a second, one more \
             line says how many lines of a kind were left out, by cause. With true, only this line is written while \
             there are more.";
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
