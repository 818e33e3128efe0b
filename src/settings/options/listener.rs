//! The options of a listener.

use super::{BYTES_PER_SECOND_MAX, MESSAGES_PER_SECOND_MAX, PACKET_BYTES_MAX, integer};
use crate::settings::Address;
use crate::settings::value::ChangeTime::{AtOnce, NewConnections};
use crate::settings::value::{
    Allowed, ClientCertificateRules, ClientCertificates, CrlScope, ListenerProtocol, Literal, OptionRow,
    ProxyHeaderKind, QueuePolicy, Refused, Section, Setting, TlsMinimum, UserNames, Version, Versions,
};

sections! {
    /// One address on which midge listens.
    "listeners" => Listener,
    "The addresses on which midge listens: one table for each address, at most 64. Without any table, midge listens \
     on 127.0.0.1:1883, which only this machine can reach." {
        address: Address = Address::loopback(1883), Allowed::Address, "", AtOnce,
            "Address and port, or host name and port. A listener that is removed while midge runs, or gets another \
             address, closes; its clients are disconnected with 0x98. A new one opens. 0.0.0.0 means every IPv4 address of this machine, [::] every \
             IPv6 address. Port 0 takes a free port; the start-up lines name it. midge does not start if the address \
             is in use or does not belong to this machine. Or \"unix:\" and the absolute path of a Unix-domain socket, \
             at most 107 bytes. midge creates this socket with mode 0660, so that its user and group can connect. It \
             replaces a socket that was left behind, and removes its own when it ends. One shard accepts these \
             clients; all shards serve them. Where an address is needed they count as 127.0.0.1; log lines call them \
             unix.";
        interface: String = String::new(), Allowed::Text { bytes_max: 15 }, "", AtOnce,
            "Name of a network interface, such as \"eth0\". midge listens on the first address of this interface that \
             has the family of address. address must then be 0.0.0.0, [::] or exactly that address. Empty: midge \
             listens on address.";
        protocol: ListenerProtocol = ListenerProtocol::Mqtt, Allowed::Choice(ListenerProtocol::WORDS), "", NewConnections,
            "The protocol of this listener. \"mqtt\": MQTT. \"websocket\": MQTT in binary frames of WebSocket, for \
             browsers, with the subprotocols mqtt and mqttv3.1. Both run over TLS if tls_certificates is set.";
        websocket_path: String = String::new(), Allowed::Text { bytes_max: 1024 }, "", NewConnections,
            "Path that WebSocket clients must request, such as \"/mqtt\". Requests for another path get status 404. \
             Empty: any path.";
        websocket_origins: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 1024, count_max: 256 }, "", NewConnections,
            "Origins from which browsers may open a WebSocket, such as \"https://example.org\". Requests from another \
             origin get status 403. Requests without an origin, as clients outside browsers send them, are accepted. \
             Empty: any origin.";
        websocket_header_bytes: usize = 16_384, integer(1024..=131_072), "bytes", NewConnections,
            "Largest request that opens a WebSocket, with all its headers. A larger request gets status 431. The \
             headers include cookies, such as those of single sign-on.";
        tls_certificates: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 4096, count_max: 64 }, "", NewConnections,
            "PEM files with this listener's certificates. In each file the certificate is followed by those that lead \
             to its CA. If there are several files, midge chooses by the client's server name (SNI), and uses the \
             first file for all other clients. Empty: no TLS. SIGHUP reads these files and the other TLS files again; \
             open connections stay.";
        tls_keys: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 4096, count_max: 64 }, "", NewConnections,
            "PEM files with the private keys, one for each file of tls_certificates and in the same order. Formats: \
             PKCS #8, PKCS #1 or SEC 1, without a password. Keys: RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, \
             or Ed25519; not P-521.";
        tls_chain: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", NewConnections,
            "PEM file with CA certificates. If a certificate stands alone in its file of tls_certificates, midge also \
             sends those of this file that lead to its CA, as mosquitto does with its cafile. Empty: midge sends what \
             is in tls_certificates, nothing else.";
        tls_client_ca: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", NewConnections,
            "PEM file with the CAs that issue client certificates. The keys of CAs and clients may be RSA of 2048 to \
             8192 bits, ECDSA on P-256, P-384 or P-521, or Ed25519. Certificates must be signed with SHA-256, SHA-384 \
             or SHA-512, not with SHA-1.";
        tls_ca_directory: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", NewConnections,
            "Directory of PEM files with CA certificates, like capath of OpenSSL. File names do not matter. Each \
             certificate counts once, as if it stood in both tls_client_ca and tls_chain. midge skips what it can't \
             use and names it in the log. SIGHUP reads the directory again. Empty: none.";
        tls_client_certificate: ClientCertificates = ClientCertificates::None, Allowed::Choice(ClientCertificates::WORDS), "", NewConnections,
            "Whether midge asks clients for a certificate from a CA of tls_client_ca. \"none\": it does not. \
             \"optional\": a client may connect without a certificate, but not with a bad one. \"required\": a client \
             must have a good certificate.";
        tls_client_certificate_dates: bool = true, Allowed::Boolean, "", NewConnections,
            "Whether midge checks the validity dates of a client's certificate, of the certificates that lead from it \
             to its CA, and of the CA's own in tls_client_ca. With false the dates do not matter, for devices whose \
             certificates nobody renews; tls_crl is still checked.";
        tls_client_certificate_rules: ClientCertificateRules = ClientCertificateRules::Standard, Allowed::Choice(ClientCertificateRules::WORDS), "", NewConnections,
            "Rules for client certificates. \"standard\": RFC 5280. A client's certificate must have X.509 version 3 \
             and must not be a CA's; each certificate in tls_client_ca must be a CA's. \"openssl\": the rules of \
             OpenSSL and mosquitto, for devices whose certificates can't be changed. A client's certificate may have \
             version 1, or be a CA's (CA:TRUE). A self-signed one is accepted if it is itself in tls_client_ca. All \
             others must lead to a self-signed CA there. Signatures, dates and tls_crl are checked with both.";
        tls_crl: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", NewConnections,
            "PEM file with the lists of revoked client certificates, version 1 or 2. A certificate that is looked up \
             is refused if its CA has no list in this file, or only one that has expired. Empty: no certificate is \
             revoked.";
        tls_crl_scope: CrlScope = CrlScope::Chain, Allowed::Choice(CrlScope::WORDS), "", NewConnections,
            "Which certificates are looked up in tls_crl. \"chain\": the client's certificate and those between it \
             and tls_client_ca; this needs a list of each CA. \"client\": only the client's own, as mosquitto does.";
        tls_record_bytes: usize = 16_384, integer(512..=16_384), "bytes", NewConnections,
            "Largest content of a TLS record that midge sends here; TLS adds at most 29 bytes to it. Lower it for \
             devices with a small receive buffer. A client that asks for 512, 1024, 2048 or 4096 bytes \
             (max_fragment_length of RFC 6066, or record_size_limit of RFC 8449) gets no longer records in any case, \
             but no confirmation. Certificates are sent in records of this size too. But many devices put a whole \
             handshake message together in one buffer. The whole chain must then fit this buffer; one ECDSA \
             certificate fits 1024 bytes. MQTT packets are split among records; a 5.0 client limits their size with \
             Maximum Packet Size.";
        tls_minimum: TlsMinimum = TlsMinimum::V12, Allowed::Choice(TlsMinimum::WORDS), "", NewConnections,
            "Oldest version of TLS that midge accepts.";
        tls_user_name: UserNames = UserNames::None, Allowed::Choice(UserNames::WORDS), "", NewConnections,
            "The part of a client's certificate that is its user name: \"common_name\" of the subject, or the whole \
             \"subject\" in the form of RFC 2253. A client without this name is refused with 0x86 (3.x: 0x04); \
             passwords are not checked. \"none\": the user name is the one in CONNECT.";
        user_name_as_client_id: bool = false, Allowed::Boolean, "", NewConnections,
            "Whether the user name, from CONNECT or the certificate, replaces the client identifier. Then no user can \
             take over another user's session. A client without a user name is refused with 0x87 (3.x: 0x05).";
        proxy_trusted: Vec<String> = Vec::new(), Allowed::Texts { bytes_max: 64, count_max: 256 }, "", NewConnections,
            "Addresses and networks (\"10.0.0.0/8\") of load balancers that name the address of their client: see \
             proxy_header. Such a header of other addresses counts for nothing: a PROXY header is refused, \
             X-Forwarded-For ignored. Empty: there are no load balancers.";
        proxy_header: ProxyHeaderKind = ProxyHeaderKind::Proxy, Allowed::Choice(ProxyHeaderKind::WORDS), "", NewConnections,
            "How the load balancers of proxy_trusted name the address of their client. \"proxy\": they begin each \
             connection with a PROXY header, version 1 or 2. \"x-forwarded-for\": by this header of the request that \
             opens a WebSocket, so protocol must be \"websocket\". Its last address that is not in proxy_trusted is the \
             client. A request without it is the balancer's own.";
        versions: Versions = Versions::ALL, Allowed::Choices(Version::WORDS), "", NewConnections,
            "Versions of MQTT that clients may speak. A client with another version is refused: CONNACK 0x84 (3.x: \
             0x01).";
        mount_point: String = String::new(), Allowed::Text { bytes_max: 1024 }, "", NewConnections,
            "Prefix that midge puts before each topic to which this listener's clients publish, wills included, and \
             before each filter to which they subscribe. midge removes it from the topics that they receive. \
             \"site1/\" gives them a part of the topic tree of their own. It must not contain + or #. Response Topics \
             are not changed. After a change, sessions keep the filters that they have. Empty: no prefix.";
        allow_anonymous: Option<bool> = None, Allowed::Boolean, "", NewConnections,
            "Replaces auth.allow_anonymous for this listener. Left out: auth.allow_anonymous applies.";
        password_file: Option<String> = None, Allowed::Text { bytes_max: 4096 }, "", AtOnce,
            "Replaces auth.password_file for this listener; empty: no password file. Left out: auth.password_file \
             applies.";
        jwt: Option<bool> = None, Allowed::Boolean, "", NewConnections,
            "Whether this listener accepts tokens as passwords. Left out: it does if [jwt] has keys or secrets.";
        webhook: Option<bool> = None, Allowed::Boolean, "", NewConnections,
            "Whether this listener asks the webhook. Left out: it does if [webhook] has a url.";
        acl_file: Option<String> = None, Allowed::Text { bytes_max: 4096 }, "", AtOnce,
            "Replaces acl.file for this listener; empty: no access list. Left out: acl.file applies.";
        connections: Option<usize> = None, integer(1..=10_000_000), "connections", NewConnections,
            "Connections of this listener at a time. Further connections are closed at once and counted. Left out: \
             only limits.connections applies.";
        packet_bytes: Option<usize> = None, integer(20..=PACKET_BYTES_MAX), "bytes", NewConnections,
            "Replaces limits.packet_bytes for this listener. Left out: limits.packet_bytes applies.";
        keep_alive_seconds_max: Option<u16> = None, integer(1..=65535), "seconds", NewConnections,
            "Replaces protocol.keep_alive_seconds_max for this listener. Left out: protocol.keep_alive_seconds_max \
             applies.";
        receive_maximum: Option<u16> = None, integer(1..=65535), "messages", NewConnections,
            "Replaces protocol.receive_maximum for this listener. Left out: protocol.receive_maximum applies.";
        topic_alias_maximum: Option<u16> = None, integer(0..=65535), "aliases", NewConnections,
            "Replaces protocol.topic_alias_maximum for this listener. Left out: protocol.topic_alias_maximum applies.";
        maximum_qos: Option<u8> = None, integer(0..=2), "QoS", NewConnections,
            "Replaces protocol.maximum_qos for this listener. Left out: protocol.maximum_qos applies.";
        retain_available: Option<bool> = None, Allowed::Boolean, "", NewConnections,
            "Replaces protocol.retain_available for this listener. Left out: protocol.retain_available applies.";
        wildcard_subscriptions: Option<bool> = None, Allowed::Boolean, "", NewConnections,
            "Replaces protocol.wildcard_subscriptions for this listener. Left out: protocol.wildcard_subscriptions \
             applies.";
        shared_subscriptions: Option<bool> = None, Allowed::Boolean, "", NewConnections,
            "Replaces protocol.shared_subscriptions for this listener. Left out: protocol.shared_subscriptions \
             applies.";
        zero_length_client_id: Option<bool> = None, Allowed::Boolean, "", NewConnections,
            "Replaces protocol.zero_length_client_id for this listener. Left out: protocol.zero_length_client_id \
             applies.";
        assigned_client_id_prefix: Option<String> = None, Allowed::Text { bytes_max: 64 }, "", NewConnections,
            "Replaces protocol.assigned_client_id_prefix for this listener. Left out: \
             protocol.assigned_client_id_prefix applies.";
        session_queue_policy: Option<QueuePolicy> = None, Allowed::Choice(QueuePolicy::WORDS), "", AtOnce,
            "Replaces limits.session_queue_policy for each session whose client connected through this listener last. \
             Left out: limits.session_queue_policy applies.";
        client_messages_per_second: Option<u64> = None, integer(0..=MESSAGES_PER_SECOND_MAX), "messages per second", AtOnce,
            "Replaces limits.client_messages_per_second for this listener. Left out: \
             limits.client_messages_per_second applies.";
        client_bytes_per_second: Option<u64> = None, integer(0..=BYTES_PER_SECOND_MAX), "bytes per second", AtOnce,
            "Replaces limits.client_bytes_per_second for this listener. Left out: limits.client_bytes_per_second \
             applies.";
        messages_per_second: u64 = 0, integer(0..=MESSAGES_PER_SECOND_MAX), "messages per second", AtOnce,
            "PUBLISH packets that all clients of this listener may send together, divided among the shards. Above \
             this rate, midge reads from the sending clients in turn and more slowly; it drops nothing. 0: no limit.";
        bytes_per_second: u64 = 0, integer(0..=BYTES_PER_SECOND_MAX), "bytes per second", AtOnce,
            "Bytes of MQTT packets that all clients of this listener may send together after their CONNECT, divided \
             among the shards. Above this rate, midge reads more slowly in the same way. 0: no limit.";
    }
}

impl Listener {
    /// Whether another listener of the configuration is this one, possibly with other options: it is at the same
    /// place.
    pub fn is_same(&self, other: &Listener) -> bool {
        self.address == other.address && self.interface == other.interface
    }
}
