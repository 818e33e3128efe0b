//! What midge announces to its clients and accepts from them: `[protocol]`.

use super::integer;
use crate::settings::value::ChangeTime::{AtOnce, NewConnections};
use crate::settings::value::{Allowed, Literal, OptionRow, Refused, Section, Setting};

sections! {
    /// What the broker announces in CONNACK and accepts from clients.
    "protocol" => Protocol,
    "What midge announces to its clients and accepts from them." {
        keep_alive_seconds_max: u16 = 65535, integer(1..=65535), "seconds", NewConnections,
            "Longest keep alive. If an MQTT 5.0 client asks for more, or for none (0), and this value is below 65535, \
             midge sends it this value as Server Keep Alive and enforces it. MQTT 3.x can't tell a client: the \
             client's own value applies, unless keep_alive_refused_in_3x is true.";
        keep_alive_refused_in_3x: bool = false, Allowed::Boolean, "", NewConnections,
            "Whether a 3.x client that asks for a longer keep alive than keep_alive_seconds_max, or for none (0), is \
             refused with 0x02, as mosquitto does.";
        session_expiry_seconds_max: u32 = u32::MAX, integer(0..=4_294_967_295), "seconds", NewConnections,
            "Longest life of a session without a connection. A client that asks for more is told this value. \
             4294967295: no limit. A 3.x session with clean session 0 also lives this long.";
        receive_maximum: u16 = 100, integer(1..=65535), "messages", NewConnections,
            "The Receive Maximum that midge announces: QoS 1 and 2 messages that a client may send to midge before \
             they are acknowledged. A client that sends more is disconnected with 0x93. A 3.x client can't be told. It \
             may have eight times as many QoS 2 messages without PUBREL, and at least 8000; with more it is \
             disconnected.";
        topic_alias_maximum: u16 = 10, integer(0..=65535), "aliases", NewConnections,
            "Topic aliases that each client may use towards midge; 0: none. A client that uses a higher alias is \
             disconnected with 0x94.";
        topic_alias_maximum_out: u16 = 10, integer(0..=65535), "aliases", NewConnections,
            "Topic aliases that midge uses towards each client, if the client allows as many; 0: none.";
        maximum_qos: u8 = 2, integer(0..=2), "QoS", NewConnections,
            "Highest QoS with which clients may publish. midge announces it as Maximum QoS if it is below 2. A client \
             that publishes with a higher QoS is disconnected with 0x9B. Subscriptions may ask for any QoS.";
        retain_available: bool = true, Allowed::Boolean, "", NewConnections,
            "Whether retained messages are accepted. With false, a client that sends a message with the retain flag \
             is disconnected with 0x9A.";
        wildcard_subscriptions: bool = true, Allowed::Boolean, "", NewConnections,
            "Whether topic filters may contain + and #. With false, a client that subscribes to such a filter is \
             disconnected with 0xA2 (3.x: 0x80 in SUBACK).";
        subscription_identifiers: bool = true, Allowed::Boolean, "", NewConnections,
            "Whether subscriptions may have an identifier. With false, a client that sends one in SUBSCRIBE is \
             disconnected with 0xA1.";
        shared_subscriptions: bool = true, Allowed::Boolean, "", NewConnections,
            "Whether $share subscriptions are accepted. With false, a client that subscribes to such a filter is \
             disconnected with 0x9E (3.x: 0x80 in SUBACK).";
        strict_31: bool = false, Allowed::Boolean, "", NewConnections,
            "Whether an MQTT 3.1 client must have a client identifier of 1 to 23 characters, as that version demands. \
             Clients with another one are then refused with 0x02.";
        zero_length_client_id: bool = true, Allowed::Boolean, "", NewConnections,
            "Whether midge assigns a client identifier to a client that has none. With false, its CONNECT is refused \
             with 0x80 (3.x: 0x02).";
        assigned_client_id_prefix: String = String::new(), Allowed::Text { bytes_max: 64 }, "", NewConnections,
            "Prefix of the client identifiers that midge assigns; a random UUID follows. Empty: \"midge-\" and 16 \
             hexadecimal digits, which MQTT 3.1 also allows.";
        upgrade_outgoing_qos: bool = false, Allowed::Boolean, "", AtOnce,
            "Whether midge sends messages with the QoS of the subscription even if they were published with a lower \
             one. The standard demands the lower of the two.";
        queue_qos0: bool = false, Allowed::Boolean, "", AtOnce,
            "Whether QoS 0 messages also wait for a session without a connection, in its queue and within its limits. \
             Messages that do not fit are dropped. QoS 0 messages do not survive a restart.";
        check_retain_source: bool = false, Allowed::Boolean, "", AtOnce,
            "Whether midge sends a retained message to a new subscription only as long as its publisher may write to \
             the topic, according to the access list of the publisher's listener. Where there is an access list, each \
             retained message then carries the client identifier and user name of its publisher, in memory and on the \
             disk. Messages that were retained without them count as allowed.";
        reason_strings: bool = true, Allowed::Boolean, "", AtOnce,
            "Whether DISCONNECT tells an MQTT 5.0 client the cause in words, besides the reason code.";
        response_information: String = String::new(), Allowed::Text { bytes_max: 65535 }, "", NewConnections,
            "Response Information for clients that ask for it. They make the topics of their responses from it. \
             Empty: none.";
    }
}
