//! Which clients may connect, and what they may do: `[auth]`, `[jwt]`, `[webhook]`, `[acl]` and `[gate]`.

use super::integer;
use crate::settings::Network;
use crate::settings::value::ChangeTime::{AtOnce, NewConnections};
use crate::settings::value::{Allowed, Literal, OptionRow, Refused, Section, Setting, TokenAlgorithm};

/// The largest number of networks in `gate.banned` and `gate.exempt`. Each connection is compared with all of
/// them.
const BANNED_MAX: usize = 1024;
const EXEMPT_MAX: usize = 256;

/// The longest time for which an address is banned or remembered, in seconds: one year.
const GATE_SECONDS_MAX: u64 = 31_536_000;

sections! {
    /// Which clients may connect.
    "auth" => Auth,
    "Which clients may connect." {
        allow_anonymous: Option<bool> = None, Allowed::Boolean, "", NewConnections,
            "Whether clients may connect without proving who they are. With false their CONNECT is refused with 0x87 \
             (3.x: 0x05). Without a password file, a user name proves nothing. Left out: true on listeners that only \
             this machine can reach (127.0.0.0/8, ::1, localhost, Unix-domain sockets) and that have neither a means \
             of proof (password_file, [jwt], [webhook], tls_user_name) nor proxy_trusted; false on all others. An \
             access list is not a means of proof. SIGHUP reads this option again, for clients that connect later. The \
             start-up lines say for each listener what applies.";
        password_file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", AtOnce,
            "File with a line `user:hash` for each user, as midge passwd writes it (argon2id). Hashes of \
             mosquitto_passwd also work. A client that gives a user name must give the password of this user. A user \
             whose line was written with midge passwd --scram can also prove the password without sending it, by \
             enhanced authentication (MQTT 5.0) with the method SCRAM-SHA-256, and can do so again while connected. \
             SIGHUP reads the file again and disconnects clients whose line was removed or changed. Empty: none.";
        skip_bad_password_lines: bool = false, Allowed::Boolean, "", AtOnce,
            "Whether midge skips a line of a password file that it can't use and names it in the log, as mosquitto \
             does. With false such a file stops the start, and changes nothing at SIGHUP.";
        client_id_prefix: String = String::new(), Allowed::Text { bytes_max: 65535 }, "", NewConnections,
            "Prefix that all client identifiers must have, those that midge assigns included. Clients with another \
             identifier are refused with 0x87 (3.x: 0x05). Empty: any identifier.";
        test_method: bool = false, Allowed::Boolean, "", NewConnections,
            "Whether midge offers the built-in method \"midge-test\" of enhanced authentication (AUTH packets, MQTT \
             5.0), for developers of clients. It protects nothing: never turn it on in production. Listeners with a \
             password file or tls_user_name do not offer it.";
    }

    /// Tokens as passwords.
    "jwt" => Jwt,
    "JSON Web Tokens as passwords. A password that looks like a token (base64 of a JSON object, and three parts) \
     counts as one: the token alone lets its client in or keeps it out. The client's user name is then the one in the \
     token. When a token expires, its client is disconnected with 0xA0 (3.x: closed). SIGHUP reads the keys again." {
        keys: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 4096, count_max: 64 }, "", NewConnections,
            "Files with public keys. A file holds one key in PEM (RSA from 2048 bits: RS and PS; P-256: ES256; P-384: \
             ES384; Ed25519: EdDSA), or, if its name ends in .json, a JSON Web Key Set. Without keys and secrets, \
             midge does not recognize tokens.";
        secrets: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 4096, count_max: 64 }, "", NewConnections,
            "Files with secrets that midge shares with the signers of tokens, as raw bytes and at least as long as \
             the hash.";
        secret_algorithm: TokenAlgorithm = TokenAlgorithm::Hs256, Allowed::Choice(TokenAlgorithm::WORDS), "", NewConnections,
            "Algorithm of the tokens that are signed with a secret.";
        issuer: String = String::new(), Allowed::Text { bytes_max: 1024 }, "", NewConnections,
            "Value that the claim iss must have. Empty: any value.";
        audience: String = String::new(), Allowed::Text { bytes_max: 1024 }, "", NewConnections,
            "Value that the claim aud must contain. Empty: any value.";
        user_claim: String = "sub".to_string(), Allowed::Text { bytes_max: 256 }, "", NewConnections,
            "Claim that holds the user name.";
        user_name_must_match: bool = false, Allowed::Boolean, "", NewConnections,
            "Whether the user name in CONNECT must be the one in the token.";
        publish_claim: String = String::new(), Allowed::Text { bytes_max: 256 }, "", NewConnections,
            "Claim that holds an array of topic filters. The client may publish only to topics that they match. An \
             access list can restrict this further. Empty, or a token without the claim: no restriction.";
        subscribe_claim: String = String::new(), Allowed::Text { bytes_max: 256 }, "", NewConnections,
            "The same for what the client may subscribe to and receive.";
        leeway_seconds: u32 = 30, integer(0..=3600), "seconds", NewConnections,
            "How far the clocks of midge and of the signers may differ.";
        expiry_required: bool = true, Allowed::Boolean, "", NewConnections,
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
        url: String = String::new(), Allowed::Text { bytes_max: 2048 }, "", NewConnections,
            "URL of the server: http:// or https://. Empty: there is no webhook.";
        header: String = String::new(), Allowed::Text { bytes_max: 256 }, "", NewConnections,
            "Name of a header that tells the server who asks, such as \"Authorization\". Empty: none.";
        header_file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", NewConnections,
            "File with the value of that header.";
        ca_file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", NewConnections,
            "PEM file with the CAs against which midge checks the server's certificate. Empty: the CAs that browsers \
             trust.";
        connect_milliseconds: u32 = 1000, integer(1..=60_000), "milliseconds", NewConnections,
            "Time to connect to the server.";
        answer_milliseconds: u32 = 3000, integer(1..=60_000), "milliseconds", NewConnections,
            "Time for the whole request, from resolving the server's name to the last byte of the answer. \
             limits.connect_seconds runs meanwhile.";
        requests: usize = 8, integer(1..=256), "requests", NewConnections,
            "Requests at a time, each on its own thread. More threads start at once after a change; fewer need a \
             restart. Up to 1024 more logins may wait, divided among the shards; \
             the addresses from which they come take turns. Beyond that, the newest login of the address with the most \
             waiting logins is refused with 0x89 (3.x: 0x03).";
        cache_seconds: u32 = 60, integer(0..=86_400), "seconds", NewConnections,
            "How long an answer that allows a login is used again for the same login. 0: never.";
        refusal_cache_milliseconds: u32 = 1000, integer(0..=2000), "milliseconds", NewConnections,
            "The same for answers that do not allow a login.";
        cache_logins: usize = 10_000, integer(1..=10_000_000), "logins", NewConnections,
            "Logins whose answers midge remembers: this many that were allowed, and as many that were not.";
        failures: u32 = 5, integer(1..=1000), "failures", NewConnections,
            "After this many requests in a row without an answer, midge does not ask the server for \
             rest_milliseconds.";
        rest_milliseconds: u32 = 1000, integer(1..=600_000), "milliseconds", NewConnections,
            "How long midge does not ask the server after such failures. Then one login tests whether the server \
             answers again.";
    }

    /// What clients may do.
    "acl" => Acl,
    "What clients may do." {
        file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", AtOnce,
            "Access list: what each client may publish and subscribe to. If the name ends in .toml, the format is \
             that of config/acl.toml. Otherwise it is that of mosquitto's acl_file: subscriptions are granted, and \
             each message is checked. SIGHUP reads the file again, also for connected clients. Empty: all clients may \
             do everything that is not reserved.";
    }

    /// Connection limits by address.
    "gate" => Gate,
    "Connection limits by address: which addresses may connect, and what happens after failed logins and short \
     connections. An IPv6 network of 64 bits counts as one address. Behind a load balancer of proxy_trusted, the \
     client's own address counts. Clients of Unix-domain sockets have no address. SIGHUP reads this section and \
     limits.connect_rate again; bans and counts stay." {
        banned: Vec<Network> = Vec::new(), Allowed::Networks { count_max: BANNED_MAX }, "", AtOnce,
            "Addresses and networks whose connections are closed before a byte of them is read, and counted; a log \
             line names each address once a minute. When SIGHUP reads this list, connected clients with such an \
             address are disconnected with 0x98.";
        exempt: Vec<Network> = Vec::new(), Allowed::Networks { count_max: EXEMPT_MAX }, "", AtOnce,
            "Addresses and networks to which none of this applies, limits.connect_rate and banned included.";
        failures_before_delay: u32 = 3, integer(0..=1_000_000), "logins", AtOnce,
            "Failed logins of an address that are refused at once. The refusals of the next ones are delayed, each \
             twice as long as the one before. Meanwhile no login of that address is checked; afterwards, the logins of \
             clients whose last one did not fail come first. A good login cancels one failed login.";
        delay_milliseconds: u64 = 250, integer(0..=60_000), "milliseconds", AtOnce,
            "Delay of the first such refusal. 0: no delay.";
        delay_milliseconds_max: u64 = 5000, integer(0..=60_000), "milliseconds", AtOnce,
            "Longest delay of a refusal. At most 1000 refusals wait on each shard; further refusals are sent at once.";
        ban_after_failures: u32 = 0, integer(0..=1_000_000), "logins", AtOnce,
            "Failed logins after which an address is banned. 0: failed logins ban no address. Take care if many \
             clients share an address: a single device with a wrong password would lock all of them out.";
        forget_seconds: u64 = 600, integer(0..=GATE_SECONDS_MAX), "seconds", AtOnce,
            "After this long without a failed login from an address, the earlier ones are forgotten. 0: never.";
        flap_connections: u32 = 0, integer(0..=1_000_000), "connections", AtOnce,
            "Connections of an address that end within flap_seconds of their start, counted over the same time, after \
             which the address is banned. Clients that connect only to publish something count too. 0: they ban no \
             address.";
        flap_seconds: u64 = 60, integer(1..=86_400), "seconds", AtOnce,
            "See flap_connections.";
        ban_seconds: u64 = 300, integer(1..=GATE_SECONDS_MAX), "seconds", AtOnce,
            "How long an address is banned after failed logins or short connections. Its connections are closed as \
             with banned. Connected clients stay.";
        addresses: usize = 100_000, integer(1..=100_000_000), "addresses", AtOnce,
            "Addresses that midge remembers at a time, about 80 bytes each. Beyond that, it forgets the address that \
             it has not seen for the longest time: one that did nothing wrong if there is any, otherwise one with \
             failed logins, otherwise a banned one.";
    }
}
